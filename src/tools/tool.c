/* Connecting to our own daemon. Called by the tools; calls libpq. */
#include "tools/tool.h"

#include "conf/settings.h"
#include "conf/users.h"

#include <libpq-fe.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

/* ---- time ---- */

static char last_reason[512] = "pgkeel: no answer in time\n";

static void
on_alarm(int number)
{
    (void)number;
    if (write(STDERR_FILENO, last_reason, strlen(last_reason)) < 0) {
        _exit(2);
    }
    _exit(1);
}

void
tool_limit(int64_t us)
{
    struct itimerval timer = {.it_value = {us / 1000000, us % 1000000}};

    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &timer, NULL);
}

void
tool_note(const char *reason)
{
    char text[sizeof(last_reason)];
    sigset_t alarm_only;

    snprintf(text, sizeof(text), "pgkeel: no success in time: %s\n", reason);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarm_only, NULL);
    memcpy(last_reason, text, sizeof(text));
    sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
}

/* ---- where ---- */

/* The first word of a list like unix_socket_dir. False: it is empty. */
static bool
first_of(const char *list, char *word, size_t size)
{
    list += strspn(list, ", \t");
    snprintf(word, size, "%.*s", (int)strcspn(list, ", \t"), list);
    return word[0] != '\0';
}

/* Where the own machine reaches what listens there. */
static bool
tcp_host(const struct settings *settings, char *host, size_t size)
{
    if (!first_of(settings->listen_addr, host, size)) {
        return false;
    }
    if (strcmp(host, "*") == 0 || strcmp(host, "0.0.0.0") == 0) {
        snprintf(host, size, "127.0.0.1");
    } else if (strcmp(host, "::") == 0) {
        snprintf(host, size, "::1");
    }
    return true;
}

static const char *
password_of(const struct settings *settings, const char *user)
{
    const struct user *found = users_find(settings->userlist, user);

    return found != NULL && found->kind == SECRET_PLAIN && found->secret[0] != '\0'
               ? found->secret
               : NULL;
}

bool
tool_fail(struct fail *fail, const struct pg_conn *conn)
{
    fail_set(fail, "08001", "%s", PQerrorMessage(conn));
    for (char *at = fail->text; *at != '\0'; at++) {
        *at = *at != '\n' ? *at : at[1] != '\0' ? ' ' : '\0';
    }
    return false;
}

struct login_as
{
    const char *host, *user, *database, *password;
};

static struct pg_conn *
connect_as(const struct settings *settings, const struct login_as *as, struct fail *fail)
{
    char port[16];
    /* It is this machine's own daemon: nothing to verify, but it may insist on TLS. */
    const char *const keywords[] = {"host", "port", "user", "dbname", "sslmode",
        "application_name", "connect_timeout", as->password != NULL ? "password" : NULL, NULL};
    const char *const values[] = {
        as->host, port, as->user, as->database, "prefer", "pgkeel", "10", as->password, NULL};

    snprintf(port, sizeof(port), "%d", (int)settings->listen_port);
    PGconn *conn = PQconnectdbParams(keywords, values, 0);
    if (PQstatus(conn) == CONNECTION_OK) {
        return conn;
    }
    tool_fail(fail, conn);
    PQfinish(conn);
    return NULL;
}

/* The first user of the list whose password is known. */
static bool
known_user(const struct settings *settings, const char *list, char *user, size_t size)
{
    for (list += strspn(list, ", \t"); *list != '\0'; list += strspn(list, ", \t")) {
        first_of(list, user, size);
        if (password_of(settings, user) != NULL) {
            return true;
        }
        list += strcspn(list, ", \t");
    }
    return false;
}

struct pg_conn *
tool_console(const struct tool *tool, struct fail *fail)
{
    const struct settings *settings = tool->settings;
    char host[300], user[128];
    struct login_as as = {.host = host, .database = "pgkeel"};

    fail_set(fail, "08001", "listen_addr and unix_socket_dir are empty");
    if (tool->user == NULL && first_of(settings->unix_socket_dir, host, sizeof(host))) {
        as.user = "pgkeel";
        struct pg_conn *conn = connect_as(settings, &as, fail);
        if (conn != NULL) {
            return conn;
        }
    }
    bool has_user = tool->user != NULL ||
                    known_user(settings, settings->admin_users, user, sizeof(user)) ||
                    known_user(settings, settings->stats_users, user, sizeof(user));
    if (has_user && tcp_host(settings, host, sizeof(host))) {
        as.user = tool->user != NULL ? tool->user : user;
        as.password = password_of(settings, as.user);
        return connect_as(settings, &as, fail);
    }
    return NULL;
}

bool
tool_greets(const struct tool *tool)
{
    static const unsigned char ssl_request[8] = {0, 0, 0, 8, 4, 210, 22, 47};
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *address;
    char host[300], port[16], answer = 0;

    snprintf(port, sizeof(port), "%d", (int)tool->settings->listen_port);
    if (!tcp_host(tool->settings, host, sizeof(host)) ||
        getaddrinfo(host, port, &hints, &address) != 0) {
        return false;
    }
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_answered = fd >= 0 && connect(fd, address->ai_addr, address->ai_addrlen) == 0 &&
                       send(fd, ssl_request, sizeof(ssl_request), MSG_NOSIGNAL) == 8 &&
                       recv(fd, &answer, 1, 0) == 1;
    if (fd >= 0) {
        close(fd);
    }
    freeaddrinfo(address);
    return is_answered && (answer == 'S' || answer == 'N');
}

struct pg_conn *
tool_database(const struct tool *tool, struct fail *fail)
{
    const struct settings *settings = tool->settings;
    const struct database *database = NULL;
    char host[300];
    size_t cursor = 0;

    if (tool->database != NULL) {
        database = settings_find_database(settings, tool->database);
    }
    while (tool->database == NULL && (database == NULL || strcmp(database->name, "*") == 0) &&
           (database = settings_next_database(settings, &cursor)) != NULL) {
    }
    if (database == NULL) {
        fail_set(fail, "3D000", "no database is configured: name one with -D");
        return NULL;
    }
    struct login_as as = {.host = host,
        .database = tool->database != NULL ? tool->database : database->name,
        .user = tool->user != NULL ? tool->user : database->user};
    if (as.user == NULL) {
        as.user = getenv("PGUSER");
    }
    if (as.user == NULL) {
        fail_set(fail, "28000", "the database names no user: name one with -U");
        return NULL;
    }
    as.password = password_of(settings, as.user);
    if (!tcp_host(settings, host, sizeof(host)) &&
        !first_of(settings->unix_socket_dir, host, sizeof(host))) {
        fail_set(fail, "58000", "listen_addr and unix_socket_dir are empty");
        return NULL;
    }
    return connect_as(settings, &as, fail);
}
