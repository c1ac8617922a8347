/* Looking up secrets. Called by client/login through pool/connect; calls libpq in a helper. */
#include "pool/lookup.h"

#include "base/mem.h"
#include "base/text.h"
#include "pool/dial.h"
#include "wire/message.h"

#include <errno.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <string.h>
#include <uthash.h>

enum
{
    PARAMS_MAX = 64,
    REMEMBERED_MAX = 10000
};

/* How long an answer may be believed. */
#define FRESH_US 10000000

/* An answer, by "database\0user". */
struct memory
{
    UT_hash_handle hh;
    struct lookup_answer answer; /* wiped */
    int64_t until_us;
    char key[];
};

/* A connection that waits for the next question, by everything it was dialled with. */
struct kept
{
    UT_hash_handle hh;
    struct pg_conn *conn; /* owns */
    char *identity;       /* owns, wiped: it contains a password */
};

struct lookups
{
    pthread_mutex_t mutex;
    struct memory *answers; /* own; oldest first */
    struct kept *kept;      /* own */
};

struct lookup
{
    struct job job;
    struct lookups *lookups; /* borrows */
    struct loop *loop;       /* borrows */
    char *database, *user, *query; /* own */
    char *keywords[PARAMS_MAX + 1], *values[PARAMS_MAX + 1]; /* own; a password among them */
    struct credential_source source; /* a copy */
    struct credentials *credentials; /* borrows */
    char *without;                   /* owns, or NULL */
    int64_t deadline_us;
    int stop_fd;
    struct lookup_answer answer;
    struct fail fail;
    bool has_failed;
    void (*done)(void *arg, const struct lookup_answer *answer, const struct fail *fail);
    void (*gone)(void *arg);
    void *arg;
};

/* ---- answers ---- */

struct lookups *
lookups_new(void)
{
    struct lookups *lookups = mem_new(sizeof(*lookups));

    pthread_mutex_init(&lookups->mutex, NULL);
    return lookups;
}

static void
forget_locked(struct lookups *lookups, struct memory *memory)
{
    HASH_DEL(lookups->answers, memory);
    explicit_bzero(&memory->answer, sizeof(memory->answer));
    free(memory);
}

static void
free_kept(struct kept *kept)
{
    PQfinish(kept->conn);
    text_wipe(&kept->identity);
    free(kept);
}

static void
free_all_kept(struct kept **all)
{
    struct kept *kept, *next;

    HASH_ITER(hh, *all, kept, next) {
        HASH_DEL(*all, kept);
        free_kept(kept);
    }
}

/* Connections on their way to be closed: libpq does that in a helper. */
struct farewell
{
    struct job job;
    struct kept *kept; /* own */
};

static void
farewell_run(struct job *job)
{
    struct farewell *farewell = (struct farewell *)((char *)job - offsetof(struct farewell, job));

    free_all_kept(&farewell->kept);
    free(farewell);
}

void
lookups_hang_up(struct lookups *lookups, struct helpers *helpers)
{
    struct farewell *farewell = mem_new(sizeof(*farewell));

    pthread_mutex_lock(&lookups->mutex);
    farewell->kept = lookups->kept;
    lookups->kept = NULL;
    pthread_mutex_unlock(&lookups->mutex);
    farewell->job = (struct job){.kind = JOB_URGENT, .run = farewell_run, .drop = farewell_run};
    helpers_run(helpers, &farewell->job);
}

void
lookups_free(struct lookups **pointer)
{
    struct lookups *lookups = *pointer;

    while (lookups->answers != NULL) {
        forget_locked(lookups, lookups->answers);
    }
    free_all_kept(&lookups->kept);
    pthread_mutex_destroy(&lookups->mutex);
    free(lookups);
    *pointer = NULL;
}

static struct memory *
find_locked(struct lookups *lookups, const char *database, const char *user)
{
    struct memory *memory;
    struct buf key = {0};

    buf_add_string(&key, database);
    buf_add_string(&key, user);
    HASH_FIND(hh, lookups->answers, buf_head(&key), buf_len(&key), memory);
    buf_deinit(&key);
    return memory;
}

bool
lookups_find(struct lookups *lookups, const char *database, const char *user,
    struct lookup_answer *answer)
{
    pthread_mutex_lock(&lookups->mutex);
    struct memory *memory = find_locked(lookups, database, user);
    bool is_fresh = memory != NULL && loop_clock_us() < memory->until_us;
    if (is_fresh) {
        *answer = memory->answer;
    }
    pthread_mutex_unlock(&lookups->mutex);
    return is_fresh;
}

void
lookups_forget(struct lookups *lookups, const char *database, const char *user)
{
    pthread_mutex_lock(&lookups->mutex);
    struct memory *memory = find_locked(lookups, database, user);
    if (memory != NULL) {
        forget_locked(lookups, memory);
    }
    pthread_mutex_unlock(&lookups->mutex);
}

static void
remember(struct lookups *lookups, const struct lookup *lookup)
{
    struct buf key = {0};

    buf_add_string(&key, lookup->database);
    buf_add_string(&key, lookup->user);
    struct memory *memory = mem_new(sizeof(*memory) + buf_len(&key));
    memcpy(memory->key, buf_head(&key), buf_len(&key));
    memory->answer = lookup->answer;
    memory->until_us = loop_clock_us() + FRESH_US;
    pthread_mutex_lock(&lookups->mutex);
    struct memory *old = find_locked(lookups, lookup->database, lookup->user);
    if (old != NULL) {
        forget_locked(lookups, old);
    }
    while (HASH_COUNT(lookups->answers) >= REMEMBERED_MAX) {
        forget_locked(lookups, lookups->answers);
    }
    HASH_ADD_KEYPTR(hh, lookups->answers, memory->key, buf_len(&key), memory);
    pthread_mutex_unlock(&lookups->mutex);
    buf_deinit(&key);
}

/* ---- connections ---- */

static char *
identity_of(const struct lookup *lookup)
{
    struct buf buf = {0};

    for (int i = 0; lookup->keywords[i] != NULL; i++) {
        buf_print(&buf, "%s=%s\n", lookup->keywords[i], lookup->values[i]);
    }
    buf_add_u8(&buf, 0);
    char *identity = mem_string((const char *)buf_head(&buf));
    explicit_bzero(buf_head(&buf), buf_len(&buf));
    buf_deinit(&buf);
    return identity;
}

static struct pg_conn *
take_kept(struct lookup *lookup)
{
    char *identity = identity_of(lookup);
    struct pg_conn *conn = NULL;
    struct kept *kept;

    pthread_mutex_lock(&lookup->lookups->mutex);
    HASH_FIND_STR(lookup->lookups->kept, identity, kept);
    if (kept != NULL) {
        HASH_DEL(lookup->lookups->kept, kept);
    }
    pthread_mutex_unlock(&lookup->lookups->mutex);
    if (kept != NULL) {
        conn = kept->conn;
        kept->conn = NULL;
        free_kept(kept);
    }
    text_wipe(&identity);
    return conn;
}

/* For the next one; a second connection to the same place is closed. */
static void
keep(struct lookup *lookup, struct pg_conn *conn)
{
    struct kept *kept = mem_new(sizeof(*kept));
    struct kept *other;

    kept->conn = conn;
    kept->identity = identity_of(lookup);
    pthread_mutex_lock(&lookup->lookups->mutex);
    HASH_FIND_STR(lookup->lookups->kept, kept->identity, other);
    if (other == NULL) {
        HASH_ADD_KEYPTR(
            hh, lookup->lookups->kept, kept->identity, strlen(kept->identity), kept);
    }
    pthread_mutex_unlock(&lookup->lookups->mutex);
    if (other != NULL) {
        free_kept(kept);
    }
}

/* ---- the question ---- */

static PGresult *
await_result(struct lookup *lookup, struct pg_conn *conn)
{
    PGresult *last = NULL, *result;

    for (;;) {
        while (PQisBusy(conn)) {
            if (!dial_wait(conn, lookup->deadline_us, lookup->stop_fd) ||
                PQconsumeInput(conn) != 1) {
                PQclear(last);
                return NULL;
            }
        }
        result = PQgetResult(conn);
        if (result == NULL) {
            return last;
        }
        PQclear(last);
        last = result;
    }
}

static void
fail_lookup(struct lookup *lookup, const char *sqlstate, const char *reason)
{
    lookup->has_failed = true;
    fail_set(&lookup->fail, sqlstate, "the user could not be looked up");
    fail_detail(&lookup->fail, "auth_query: %.*s", (int)strcspn(reason, "\n"), reason);
}

static void
read_result(struct lookup *lookup, const PGresult *result)
{
    if (PQresultStatus(result) != PGRES_TUPLES_OK || PQnfields(result) < 2) {
        const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
        fail_lookup(lookup, "58000", text != NULL ? text : "it must give a name and a secret");
        return;
    }
    lookup->answer.is_found = PQntuples(result) > 0;
    if (!lookup->answer.is_found || PQgetisnull(result, 0, 1)) {
        return;
    }
    char *secret = PQgetvalue(result, 0, 1);
    if (!text_copy(lookup->answer.secret, sizeof(lookup->answer.secret), secret)) {
        fail_lookup(lookup, "58000", "the secret is too long");
    }
    explicit_bzero(secret, strlen(secret));
}

/* True: PostgreSQL answered. */
static bool
ask(struct lookup *lookup, struct pg_conn *conn)
{
    const char *values[] = {lookup->user};

    if (PQsendQueryParams(conn, lookup->query, 1, NULL, values, NULL, NULL, 0) != 1) {
        return false;
    }
    PGresult *result = await_result(lookup, conn);
    if (result == NULL || PQstatus(conn) == CONNECTION_BAD) {
        PQclear(result);
        return false;
    }
    read_result(lookup, result);
    PQclear(result);
    return true;
}

/* ---- the job ---- */

static void
free_lookup(struct lookup *lookup)
{
    for (int i = 0; lookup->keywords[i] != NULL; i++) {
        free(lookup->keywords[i]);
        text_wipe(&lookup->values[i]);
    }
    free(lookup->database);
    free(lookup->user);
    free(lookup->query);
    credential_source_deinit(&lookup->source);
    free(lookup->without);
    explicit_bzero(&lookup->answer, sizeof(lookup->answer));
    free(lookup);
}

static void
report(void *arg)
{
    struct lookup *lookup = arg;

    lookup->done(lookup->arg, &lookup->answer, lookup->has_failed ? &lookup->fail : NULL);
    free_lookup(lookup);
}

static void
give_up(struct job *job)
{
    struct lookup *lookup = (struct lookup *)((char *)job - offsetof(struct lookup, job));

    lookup->gone(lookup->arg);
    free_lookup(lookup);
}

/* On the kept connection, which may be dead, or on a new one. */
static void
look_up(struct lookup *lookup)
{
    struct pg_conn *conn = take_kept(lookup);
    struct dial_request request = {.keywords = (const char *const *)lookup->keywords,
        .values = (const char *const *)lookup->values,
        .source = lookup->source,
        .credentials = lookup->credentials,
        .without = lookup->without};

    if (conn != NULL && !ask(lookup, conn)) {
        PQfinish(conn);
        conn = NULL;
    } else if (conn != NULL) {
        keep(lookup, conn);
        return;
    }
    conn = dial_now(&request, lookup->deadline_us, lookup->stop_fd, &lookup->fail);
    if (conn == NULL) {
        struct fail why = lookup->fail;
        fail_lookup(lookup, "08006", why.text);
    } else if (ask(lookup, conn)) {
        keep(lookup, conn);
    } else {
        fail_lookup(lookup, "08006", errno == ETIMEDOUT ? "timed out" : PQerrorMessage(conn));
        PQfinish(conn);
    }
}

static void
lookup_run(struct job *job)
{
    struct lookup *lookup = (struct lookup *)((char *)job - offsetof(struct lookup, job));

    look_up(lookup);
    if (!lookup->has_failed) {
        remember(lookup->lookups, lookup);
    }
    if (!loop_post(lookup->loop, report, lookup)) {
        give_up(job);
    }
}

void
lookup_start(const struct lookup_request *request)
{
    struct lookup *lookup = mem_new(sizeof(*lookup));

    for (int i = 0; request->keywords[i] != NULL && i < PARAMS_MAX; i++) {
        lookup->keywords[i] = mem_string(request->keywords[i]);
        lookup->values[i] = mem_string(request->values[i]);
    }
    lookup->lookups = request->lookups;
    lookup->loop = request->loop;
    lookup->database = mem_string(request->database);
    lookup->user = mem_string(request->user);
    lookup->query = mem_string(request->query);
    credential_source_copy(&lookup->source, &request->source);
    lookup->credentials = request->credentials;
    lookup->without = mem_string(request->without);
    lookup->deadline_us = loop_clock_us() + request->timeout_us;
    lookup->stop_fd = helpers_stop_fd(request->helpers);
    lookup->done = request->done;
    lookup->gone = request->gone;
    lookup->arg = request->arg;
    lookup->job = (struct job){.kind = JOB_LOOKUP, .run = lookup_run, .drop = give_up};
    helpers_run(request->helpers, &lookup->job);
}
