/*
 * Dialling in helper threads. Called by pool/pool and the settings loader; calls libpq. A dial is a
 * job: made in a worker, run by a helper, posted back to the worker with its PGconn or the reason.
 */
#include "pool/dial.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>

enum
{
    PARAMS_MAX = 64
};

struct dial
{
    struct job job;
    char *keywords[PARAMS_MAX + 1]; /* own */
    char *values[PARAMS_MAX + 1];   /* own; one of them may be a password */
    char *password_file;            /* owns, or NULL */
    int64_t deadline_us; /* 0: none */
    int stop_fd;
    struct loop *loop; /* borrows */
    struct dial_result result;
    struct pg_conn *conn; /* owns until done() */
    struct fail fail;
};

static void
dial_free(struct dial *dial)
{
    for (int i = 0; dial->keywords[i] != NULL; i++) {
        free(dial->keywords[i]);
        text_wipe(&dial->values[i]);
    }
    free(dial->password_file);
    free(dial);
}

/* ---- reasons ---- */

/* Finds "FATAL:  28P01: text" in libpq's verbose message; the last one, as several hosts give
 * several. The severity may be in any language, so the form is looked for. */
static const char *
find_sqlstate(const char *message)
{
    const char *found = NULL;

    for (const char *at = strstr(message, ":  "); at != NULL; at = strstr(at + 1, ":  ")) {
        const char *code = at + 3;
        int len = 0;
        while (
            len < 5 && (isdigit((unsigned char)code[len]) || isupper((unsigned char)code[len]))) {
            len++;
        }
        if (len == 5 && code[5] == ':' && code[6] == ' ') {
            found = code;
        }
    }
    return found;
}

static void
copy_line(char *to, size_t size, const char *from)
{
    size_t len = strcspn(from, "\n");

    snprintf(to, size, "%.*s", (int)(len < size ? len : size), from);
}

/* Whether libpq speaks of one host: then whoever logs it names the host, and only the cause is
 * left. */
static bool
is_one_attempt(const char *message)
{
    static const char prefix[] = "connection to server ";
    size_t len = sizeof(prefix) - 1;

    return strncmp(message, prefix, len) == 0 && strstr(message + len, prefix) == NULL &&
           strstr(message, " failed: ") != NULL;
}

/* Several lines as one. */
static void
fold_lines(char *to, size_t size, const char *message)
{
    size_t used = 0;

    for (; *message != '\0' && used + 1 < size; message++) {
        if (*message != '\n' && *message != '\t') {
            to[used++] = *message;
        } else if (used > 0 && message[1] != '\0' && to[used - 1] != ' ') {
            to[used++] = ' ';
        }
    }
    to[used] = '\0';
}

/* What libpq says without an SQLSTATE when it is the login that went wrong, not the network. */
static const char *
local_sqlstate(const char *message)
{
    static const char *const words[] = {"no password supplied", "authentication method",
        "auth method", "SCRAM", "channel binding"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strstr(message, words[i]) != NULL) {
            return "28000";
        }
    }
    return "08001";
}

/* Turns libpq's words into a reason: PostgreSQL's own SQLSTATE and message when it gave one. */
static void
read_reason(struct dial *dial)
{
    const char *message = PQerrorMessage(dial->conn);
    const char *code = find_sqlstate(message);
    const char *detail = strstr(message, "\nDETAIL:  ");

    if (code != NULL) {
        char sqlstate[6];
        snprintf(sqlstate, sizeof(sqlstate), "%.5s", code);
        fail_set(&dial->fail, sqlstate, "%s", "");
        copy_line(dial->fail.text, sizeof(dial->fail.text), code + 7);
        dial->fail.is_verbatim = true;
        if (detail != NULL && detail > code) {
            copy_line(dial->fail.detail, sizeof(dial->fail.detail), detail + strlen("\nDETAIL:  "));
        }
        return;
    }
    fail_set(&dial->fail, local_sqlstate(message), "%s", "");
    if (is_one_attempt(message)) {
        copy_line(dial->fail.text, sizeof(dial->fail.text), strstr(message, " failed: ") + 9);
        return;
    }
    fold_lines(dial->fail.text, sizeof(dial->fail.text), message);
}

/* ---- the job ---- */

/* Waits until libpq may go on. False with errno: ETIMEDOUT or ECANCELED. */
static bool
wait_for(const struct dial *dial, PostgresPollingStatusType status)
{
    struct pollfd fds[2] = {
        {.fd = PQsocket(dial->conn), .events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT},
        {.fd = dial->stop_fd, .events = POLLIN},
    };

    for (;;) {
        int64_t left_us = dial->deadline_us > 0 ? dial->deadline_us - loop_clock_us() : INT64_MAX;
        if (left_us <= 0) {
            errno = ETIMEDOUT;
            return false;
        }
        int ready = poll(fds, 2, left_us == INT64_MAX ? -1 : (int)(left_us / 1000) + 1);
        if (fds[1].revents != 0 && ready > 0) {
            errno = ECANCELED;
            return false;
        }
        if (ready > 0) {
            return true;
        }
        if (ready < 0 && errno != EINTR) {
            return false;
        }
    }
}

/* The file's first line becomes the password, whatever its length: tokens of clouds are long, and
 * change. */
static bool
read_password(struct dial *dial)
{
    FILE *file = dial->password_file != NULL ? fopen(dial->password_file, "re") : NULL;
    char *line = NULL;
    size_t size = 0;
    int at = 0;

    if (dial->password_file == NULL) {
        return true;
    }
    ssize_t len = file != NULL ? getline(&line, &size, file) : -1;
    if (file != NULL) {
        fclose(file);
    }
    if (len <= 0) {
        free(line);
        return fail_set(&dial->fail, "28000", "password_file \"%s\": %s", dial->password_file,
            file == NULL ? strerror(errno) : "it is empty");
    }
    line[strcspn(line, "\r\n")] = '\0';
    while (dial->keywords[at] != NULL) {
        at++;
    }
    ensure(at < PARAMS_MAX);
    dial->keywords[at] = mem_string("password");
    dial->values[at] = mem_string(line);
    explicit_bzero(line, (size_t)len);
    free(line);
    return true;
}

/* Runs libpq's state machine to its end. */
static bool
connect_now(struct dial *dial)
{
    if (!read_password(dial)) {
        return false;
    }
    dial->conn = PQconnectStartParams(
        (const char *const *)dial->keywords, (const char *const *)dial->values, 1);
    if (dial->conn == NULL) {
        return fail_set(&dial->fail, "53200", "out of memory");
    }
    PQsetErrorVerbosity(dial->conn, PQERRORS_VERBOSE);
    PQsetErrorContextVisibility(dial->conn, PQSHOW_CONTEXT_NEVER);
    PostgresPollingStatusType status =
        PQstatus(dial->conn) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
    while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED) {
        if (!wait_for(dial, status)) {
            const char *host = PQhost(dial->conn);
            const char *port = PQport(dial->conn);
            return fail_set(&dial->fail, "08001", "%s (%s:%s)",
                errno == ETIMEDOUT ? "timed out" : strerror(errno), host ? host : "",
                port ? port : "");
        }
        status = PQconnectPoll(dial->conn);
    }
    if (status == PGRES_POLLING_FAILED) {
        read_reason(dial);
        return false;
    }
    return true;
}

struct pg_conn *
dial_now(const struct dial_request *request, int64_t deadline_us, int stop_fd, struct fail *fail)
{
    struct dial dial = {.password_file = (char *)request->password_file,
        .deadline_us = deadline_us,
        .stop_fd = stop_fd};
    int count = 0;

    for (; request->keywords[count] != NULL; count++) {
        ensure(count < PARAMS_MAX);
        dial.keywords[count] = (char *)request->keywords[count];
        dial.values[count] = (char *)request->values[count];
    }
    bool is_connected = connect_now(&dial);
    free(dial.keywords[count]); /* what the file gave */
    text_wipe(&dial.values[count]);
    if (!is_connected) {
        *fail = dial.fail;
        PQfinish(dial.conn);
        return NULL;
    }
    return dial.conn;
}

bool
dial_wait(struct pg_conn *conn, int64_t deadline_us, int stop_fd)
{
    struct dial dial = {.deadline_us = deadline_us, .stop_fd = stop_fd, .conn = conn};

    return wait_for(&dial, PGRES_POLLING_READING);
}

static void
report(void *arg)
{
    struct dial *dial = arg;

    dial->result.done(dial->result.arg, dial->conn, &dial->fail);
    dial_free(dial);
}

static void
give_up(struct job *job)
{
    struct dial *dial = (struct dial *)((char *)job - offsetof(struct dial, job));

    PQfinish(dial->conn);
    dial->result.gone(dial->result.arg);
    dial_free(dial);
}

static void
dial_run(struct job *job)
{
    struct dial *dial = (struct dial *)((char *)job - offsetof(struct dial, job));

    if (!connect_now(dial)) {
        PQfinish(dial->conn);
        dial->conn = NULL;
    }
    if (!loop_post(dial->loop, report, dial)) {
        give_up(job);
    }
}

void
dial_start(const struct dial_request *request)
{
    struct dial *dial = mem_new(sizeof(*dial));

    for (int i = 0; request->keywords[i] != NULL; i++) {
        ensure(i < PARAMS_MAX);
        dial->keywords[i] = mem_string(request->keywords[i]);
        dial->values[i] = mem_string(request->values[i]);
    }
    dial->password_file =
        request->password_file != NULL ? mem_string(request->password_file) : NULL;
    dial->deadline_us = request->timeout_us > 0 ? loop_clock_us() + request->timeout_us : 0;
    dial->stop_fd = helpers_stop_fd(request->helpers);
    dial->loop = request->loop;
    dial->result = request->result;
    dial->job = (struct job){.kind = JOB_ORDINARY, .run = dial_run, .drop = give_up};
    helpers_run(request->helpers, &dial->job);
}

/* ---- what else only libpq knows ---- */

bool
dial_parse_conninfo(const char *conninfo,
    void (*each)(void *arg, const char *keyword, const char *value), void *arg, char *error,
    size_t size)
{
    char *words = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo, &words);

    if (options == NULL) {
        copy_line(error, size, words != NULL ? words : "out of memory");
        PQfreemem(words);
        return false;
    }
    for (PQconninfoOption *option = options; option->keyword != NULL; option++) {
        if (option->val != NULL) {
            each(arg, option->keyword, option->val);
            explicit_bzero(option->val, strlen(option->val)); /* one of them is the password */
        }
    }
    PQconninfoFree(options);
    return true;
}

struct verifier
{
    struct job job;
    char *user, *password; /* own */
    char *made;            /* owns until done() */
    struct loop *loop;
    void (*done)(void *arg, char *made);
    void (*gone)(void *arg);
    void *arg;
};

static void
verifier_free(struct verifier *verifier)
{
    free(verifier->user);
    text_wipe(&verifier->password);
    text_wipe(&verifier->made);
    free(verifier);
}

static void
verifier_report(void *arg)
{
    struct verifier *verifier = arg;
    char *made = verifier->made;

    verifier->made = NULL;
    verifier->done(verifier->arg, made);
    verifier_free(verifier);
}

static void
verifier_drop(struct job *job)
{
    struct verifier *verifier = (struct verifier *)((char *)job - offsetof(struct verifier, job));

    verifier->gone(verifier->arg);
    verifier_free(verifier);
}

static void
verifier_run(struct job *job)
{
    /* The function wants a connection for its error message only; a setting that libpq refuses
     * makes one that leads nowhere. */
    static const char *const keywords[] = {"sslmode", NULL};
    static const char *const values[] = {"nowhere", NULL};
    struct verifier *verifier = (struct verifier *)((char *)job - offsetof(struct verifier, job));
    PGconn *conn = PQconnectStartParams(keywords, values, 0);
    char *made = NULL;

    if (conn != NULL) {
        made = PQencryptPasswordConn(conn, verifier->password, verifier->user, "scram-sha-256");
        PQfinish(conn);
    }
    verifier->made = mem_string(made);
    if (made != NULL) {
        explicit_bzero(made, strlen(made));
    }
    PQfreemem(made);
    if (!loop_post(verifier->loop, verifier_report, verifier)) {
        verifier_drop(job);
    }
}

void
dial_make_verifier(const struct verifier_request *request)
{
    struct verifier *verifier = mem_new(sizeof(*verifier));

    verifier->user = mem_string(request->user);
    verifier->password = mem_string(request->password);
    verifier->loop = request->loop;
    verifier->done = request->done;
    verifier->gone = request->gone;
    verifier->arg = request->arg;
    verifier->job = (struct job){.kind = JOB_HEAVY, .run = verifier_run, .drop = verifier_drop};
    helpers_run(request->helpers, &verifier->job);
}
