/*
 * Dialling in helper threads. Called by pool/connect and the settings loader; calls libpq and
 * pool/credentials. A dial is a job: made in a worker, run by a helper, posted back to the worker
 * with its PGconn or the reason; without an answer of libpq, the worker's own deadline is the
 * reason.
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
    PARAMS_MAX = 64,
    GRACE_US = 500000 /* beyond the timeout: libpq has not come back */
};

#define NO_PASSWORD "no password supplied" /* libpq's words */

/* What an attempt needs. */
struct attempt
{
    const char *const *keywords, *const *values; /* borrows */
    const struct credential_source *source;      /* borrows */
    struct credentials *credentials;             /* borrows */
    struct credential_patience patience;
    const char *without;  /* borrows */
    struct pg_conn *conn; /* owns until it is handed on */
    struct fail fail;
};

struct dial
{
    struct job job;
    char *keywords[PARAMS_MAX + 1];  /* own */
    char *values[PARAMS_MAX + 1];    /* own; one of them may be a password */
    struct credential_source source; /* a copy */
    char *without;                   /* owns, or NULL */
    struct attempt attempt;
    struct loop *loop;               /* borrows */
    struct dial_place *place;        /* borrows */
    struct dial_result result;
    struct deadline deadline; /* the loop's: libpq does not come back */
    bool is_told;             /* the loop's: so the result was told without it */
    bool is_overdue;          /* the loop's: counted at the place */
    _Atomic bool is_begun;    /* by a helper */
    _Atomic bool is_vain;     /* nobody waits for a connection any more */
};

static void
dial_free(struct dial *dial)
{
    for (int i = 0; dial->keywords[i] != NULL; i++) {
        free(dial->keywords[i]);
        text_wipe(&dial->values[i]);
    }
    credential_source_deinit(&dial->source);
    free(dial->without);
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
    static const char *const words[] = {NO_PASSWORD, "authentication method",
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
read_reason(const struct pg_conn *conn, struct fail *fail)
{
    const char *message = PQerrorMessage(conn);
    const char *code = find_sqlstate(message);
    const char *detail = strstr(message, "\nDETAIL:  ");

    if (code != NULL) {
        char sqlstate[6];
        snprintf(sqlstate, sizeof(sqlstate), "%.5s", code);
        fail_set(fail, sqlstate, "%s", "");
        copy_line(fail->text, sizeof(fail->text), code + 7);
        fail->is_verbatim = true;
        if (detail != NULL && detail > code) {
            copy_line(fail->detail, sizeof(fail->detail), detail + strlen("\nDETAIL:  "));
        }
        return;
    }
    fail_set(fail, local_sqlstate(message), "%s", "");
    if (is_one_attempt(message)) {
        copy_line(fail->text, sizeof(fail->text), strstr(message, " failed: ") + 9);
        return;
    }
    fold_lines(fail->text, sizeof(fail->text), message);
}

/* ---- the job ---- */

/* Waits until libpq may go on. False with errno: ETIMEDOUT or ECANCELED. */
static bool
wait_for(struct pg_conn *conn, const struct credential_patience *patience,
    PostgresPollingStatusType status)
{
    struct pollfd fds[2] = {
        {.fd = PQsocket(conn), .events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT},
        {.fd = patience->stop_fd, .events = POLLIN},
    };

    for (;;) {
        int64_t left_us =
            patience->deadline_us > 0 ? patience->deadline_us - loop_clock_us() : INT64_MAX;
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

/* What a server remarks while it logs us in (a warning of its collations) would else be printed to
 * stderr, among the lines of the log. */
static void
ignore_notice(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

/* Runs libpq's state machine to its end. */
static bool
log_in(struct attempt *attempt, const char *password)
{
    const char *keywords[PARAMS_MAX + 2] = {0}, *values[PARAMS_MAX + 2] = {0};
    int count = 0;

    for (; attempt->keywords[count] != NULL; count++) {
        ensure(count < PARAMS_MAX);
        keywords[count] = attempt->keywords[count];
        values[count] = attempt->values[count];
    }
    if (password != NULL) {
        keywords[count] = "password";
        values[count] = password;
    }
    struct pg_conn *conn = attempt->conn = PQconnectStartParams(keywords, values, 1);
    if (conn == NULL) {
        return fail_set(&attempt->fail, "53200", "out of memory");
    }
    PQsetNoticeReceiver(conn, ignore_notice, NULL);
    PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);
    PQsetErrorContextVisibility(conn, PQSHOW_CONTEXT_NEVER);
    PostgresPollingStatusType status =
        PQstatus(conn) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
    while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED) {
        if (!wait_for(conn, &attempt->patience, status)) {
            const char *host = PQhost(conn);
            const char *port = PQport(conn);
            return fail_set(&attempt->fail, "08001", "%s (%s:%s)",
                errno == ETIMEDOUT ? "timed out" : strerror(errno), host ? host : "",
                port ? port : "");
        }
        status = PQconnectPoll(conn);
    }
    if (status == PGRES_POLLING_FAILED) {
        read_reason(conn, &attempt->fail);
        if (attempt->without != NULL && strstr(attempt->fail.text, NO_PASSWORD) != NULL) {
            fail_set(&attempt->fail, "28000", "PostgreSQL asks for a password, but %s",
                attempt->without);
        } else if (attempt->fail.text[0] == '\0') {
            text_copy(attempt->fail.text, sizeof(attempt->fail.text), "the server gave no reason");
        }
        return false;
    }
    return true;
}

/* Whether PostgreSQL did not take the password. */
static bool
is_refused(const struct fail *fail)
{
    return fail->is_verbatim &&
           (strcmp(fail->sqlstate, "28P01") == 0 || strcmp(fail->sqlstate, "28000") == 0);
}

/* A password that is good no more is no reason to fail, if there may be a newer one. */
static bool
connect_now(struct attempt *attempt)
{
    struct credential credential;
    bool is_connected, comes_again;

    do {
        if (!credentials_take(attempt->credentials, attempt->source, &attempt->patience,
                &credential, &attempt->fail)) {
            return false;
        }
        is_connected = log_in(attempt, credential.password);
        comes_again = false;
        if (!is_connected) {
            PQfinish(attempt->conn);
            attempt->conn = NULL;
            if (is_refused(&attempt->fail)) {
                credentials_refused(attempt->credentials, attempt->source, &credential);
                comes_again = credential.is_remembered;
            }
        }
        credential_wipe(&credential);
    } while (comes_again);
    return is_connected;
}

struct pg_conn *
dial_now(const struct dial_request *request, int64_t deadline_us, int stop_fd, struct fail *fail)
{
    struct attempt attempt = {.keywords = request->keywords,
        .values = request->values,
        .source = &request->source,
        .credentials = request->credentials,
        .patience = {deadline_us, stop_fd},
        .without = request->without};

    if (!connect_now(&attempt)) {
        *fail = attempt.fail;
    }
    return attempt.conn;
}

bool
dial_wait(struct pg_conn *conn, int64_t deadline_us, int stop_fd)
{
    return wait_for(
        conn, &(struct credential_patience){deadline_us, stop_fd}, PGRES_POLLING_READING);
}

/* ---- the job ---- */

/* libpq has come back, or was never asked. */
static void
settle(struct dial *dial)
{
    deadline_stop(&dial->deadline);
    if (dial->is_overdue) {
        atomic_fetch_sub(&dial->place->overdue, 1);
    }
}

static void
report(void *arg)
{
    struct dial *dial = arg;

    settle(dial);
    if (dial->is_told) {
        PQfinish(dial->attempt.conn);
    } else {
        dial->result.done(dial->result.arg, dial->attempt.conn, &dial->attempt.fail);
    }
    dial_free(dial);
}

/* The loop has stopped, or this is its thread. */
static void
report_gone(void *arg)
{
    struct dial *dial = arg;

    settle(dial);
    PQfinish(dial->attempt.conn);
    if (!dial->is_told) {
        dial->result.gone(dial->result.arg);
    }
    dial_free(dial);
}

static void
drop(struct job *job)
{
    struct dial *dial = (struct dial *)((char *)job - offsetof(struct dial, job));

    if (!loop_post(dial->loop, report_gone, dial)) {
        report_gone(dial);
    }
}

static void
dial_run(struct job *job)
{
    struct dial *dial = (struct dial *)((char *)job - offsetof(struct dial, job));

    atomic_store(&dial->is_begun, true);
    if (!atomic_load(&dial->is_vain) && connect_now(&dial->attempt) &&
        atomic_load(&dial->is_vain)) {
        PQfinish(dial->attempt.conn);
        dial->attempt.conn = NULL;
    }
    if (!loop_post(dial->loop, report, dial)) {
        drop(job);
    }
}

static void
on_overdue(struct deadline *deadline)
{
    struct dial *dial = (struct dial *)((char *)deadline - offsetof(struct dial, deadline));
    struct fail fail;

    atomic_store(&dial->is_vain, true);
    dial->is_overdue = atomic_load(&dial->is_begun);
    dial->is_told = true;
    if (dial->is_overdue) {
        atomic_fetch_add(&dial->place->overdue, 1);
        fail_set(
            &fail, "08001", "timed out, and libpq goes on: it resolves a name or derives a key");
    } else {
        fail_set(&fail, "58000", "timed out: no helper was free");
    }
    dial->result.done(dial->result.arg, NULL, &fail);
}

/* Told later, as every result. */
static bool
is_hopeless(struct dial *dial)
{
    if (atomic_load(&dial->place->overdue) == 0) {
        return false;
    }
    fail_set(&dial->attempt.fail, "08001",
        "an earlier attempt still keeps libpq busy: it resolves a name or derives a key");
    if (!loop_post(dial->loop, report, dial)) {
        report_gone(dial);
    }
    return true;
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
    credential_source_copy(&dial->source, &request->source);
    dial->without = mem_string(request->without);
    dial->attempt = (struct attempt){.keywords = (const char *const *)dial->keywords,
        .values = (const char *const *)dial->values,
        .source = &dial->source,
        .credentials = request->credentials,
        .patience = {request->timeout_us > 0 ? loop_clock_us() + request->timeout_us : 0,
            helpers_stop_fd(request->helpers)},
        .without = dial->without};
    dial->loop = request->loop;
    dial->place = request->place;
    dial->result = request->result;
    if (is_hopeless(dial)) {
        return;
    }
    deadline_start(&dial->deadline, dial->loop,
        request->timeout_us > 0 ? request->timeout_us + GRACE_US : 0, on_overdue);
    dial->job = (struct job){
        .kind = JOB_ORDINARY, .run = dial_run, .drop = drop, .share = request->share};
    helpers_run(request->helpers, &dial->job);
}

/* ---- what else only libpq knows ---- */

static void
ignore_pair(void *arg, const char *keyword, const char *value)
{
    (void)arg;
    (void)keyword;
    (void)value;
}

bool
dial_takes_keys(void)
{
    static _Atomic int answer; /* 0: not asked yet, 1: no, 2: yes */
    char error[200];

    if (atomic_load(&answer) == 0) {
        bool is_known =
            dial_parse_conninfo("scram_client_key=x", ignore_pair, NULL, error, sizeof(error));
        atomic_store(&answer, is_known ? 2 : 1);
    }
    return atomic_load(&answer) == 2;
}

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
