/* A scripted libpq. Linked into tests instead of the library's functions. */
#include "fake_pq.h"

#include <fcntl.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct pg_conn
{
    int fd;
    const char *error;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static int waiting[64];
static int waiting_count;
static const char *failure;

int
fake_pq_accept_within(int64_t us)
{
    struct timespec until;
    int fd = -1, error = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    us += until.tv_nsec / 1000;
    until.tv_sec += us / 1000000;
    until.tv_nsec = us % 1000000 * 1000;
    pthread_mutex_lock(&mutex);
    while (waiting_count == 0 && error == 0) {
        error = pthread_cond_timedwait(&arrived, &mutex, &until);
    }
    if (waiting_count > 0) {
        fd = waiting[0];
        memmove(waiting, waiting + 1, sizeof(int) * (size_t)--waiting_count);
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

int
fake_pq_accept(void)
{
    return fake_pq_accept_within(5000000);
}

void
fake_pq_fail(const char *message)
{
    pthread_mutex_lock(&mutex);
    failure = message;
    pthread_mutex_unlock(&mutex);
}

PGconn *
PQconnectStartParams(const char *const *keywords, const char *const *values, int expand_dbname)
{
    PGconn *conn = calloc(1, sizeof(*conn));
    int fds[2];

    (void)keywords, (void)values, (void)expand_dbname;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        abort();
    }
    conn->fd = fds[0];
    fcntl(conn->fd, F_SETFL, O_NONBLOCK);
    pthread_mutex_lock(&mutex);
    conn->error = failure;
    if (failure != NULL) {
        close(fds[1]);
    } else {
        waiting[waiting_count++] = fds[1];
        pthread_cond_signal(&arrived);
    }
    pthread_mutex_unlock(&mutex);
    return conn;
}

PostgresPollingStatusType
PQconnectPoll(PGconn *conn)
{
    return conn->error != NULL ? PGRES_POLLING_FAILED : PGRES_POLLING_OK;
}

ConnStatusType
PQstatus(const PGconn *conn)
{
    return conn->error != NULL ? CONNECTION_BAD : CONNECTION_STARTED;
}

char *
PQerrorMessage(const PGconn *conn)
{
    return (char *)(conn->error != NULL ? conn->error : "");
}

void
PQfinish(PGconn *conn)
{
    if (conn != NULL) {
        close(conn->fd);
        free(conn);
    }
}

const char *
PQparameterStatus(const PGconn *conn, const char *name)
{
    static const char *const all[][2] = {{"server_version", "15.0"}, {"client_encoding", "UTF8"},
        {"DateStyle", "ISO, MDY"}, {"TimeZone", "UTC"}, {"application_name", ""},
        {"standard_conforming_strings", "on"}, {"IntervalStyle", "postgres"}};

    (void)conn;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcmp(all[i][0], name) == 0) {
            return all[i][1];
        }
    }
    return NULL;
}

int
PQsocket(const PGconn *conn)
{
    return conn->fd;
}

int
PQsetnonblocking(PGconn *conn, int arg)
{
    (void)conn, (void)arg;
    return 0;
}

int
PQsslInUse(PGconn *conn)
{
    (void)conn;
    return 0;
}

void *
PQsslStruct(PGconn *conn, const char *name)
{
    (void)conn, (void)name;
    return NULL;
}

char *
PQhost(const PGconn *conn)
{
    (void)conn;
    return (char *)"fake";
}

char *
PQhostaddr(const PGconn *conn)
{
    return PQhost(conn);
}

char *
PQport(const PGconn *conn)
{
    (void)conn;
    return (char *)"5432";
}

int
PQbackendPID(const PGconn *conn)
{
    return conn->fd;
}

PQnoticeReceiver
PQsetNoticeReceiver(PGconn *conn, PQnoticeReceiver receiver, void *arg)
{
    (void)conn, (void)arg;
    return receiver;
}

PGVerbosity
PQsetErrorVerbosity(PGconn *conn, PGVerbosity verbosity)
{
    (void)conn;
    return verbosity;
}

PGContextVisibility
PQsetErrorContextVisibility(PGconn *conn, PGContextVisibility visibility)
{
    (void)conn;
    return visibility;
}

/* A server without cancel keys. */
PGcancel *
PQgetCancel(PGconn *conn)
{
    (void)conn;
    return NULL;
}

void
PQfreeCancel(PGcancel *cancel)
{
    (void)cancel;
}

int
PQcancel(PGcancel *cancel, char *errbuf, int errbufsize)
{
    (void)cancel, (void)errbuf, (void)errbufsize;
    return 0;
}

PQconninfoOption *
PQconninfoParse(const char *conninfo, char **errmsg)
{
    (void)conninfo;
    *errmsg = NULL;
    return NULL;
}

void
PQconninfoFree(PQconninfoOption *options)
{
    (void)options;
}

void
PQfreemem(void *memory)
{
    free(memory);
}

char *
PQencryptPasswordConn(PGconn *conn, const char *password, const char *user, const char *algorithm)
{
    (void)conn, (void)password, (void)user, (void)algorithm;
    return NULL;
}
