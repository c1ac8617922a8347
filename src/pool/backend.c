/*
 * A backend's life. Called by pool/pool and pool/scrub; calls net/stream and libpq (only to read
 * what it knows and to finish). The invariant that matters: nothing is ever written to a stream
 * that holds a half-sent request, so PostgreSQL never runs half of one client's words with our
 * Terminate behind them.
 */
#include "pool/backend.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "pool/idle.h"
#include "pool/pool.h"
#include "pool/pools.h"
#include "pool/reason.h"
#include "pool/scrub.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <stdatomic.h>
#include <strings.h>
#include <sys/socket.h>

/* How long PostgreSQL may take to close after our goodbye before we stop counting it. */
enum
{
    CLOSING_US = 5000000
};

/* Nobody sends an idle session longer news. */
enum
{
    IDLE_NEWS_MAX = 8192
};

static const struct
{
    const char *name;
    uint32_t may_become;
} states[BACKEND_STATES] = {
    [BACKEND_ALIGNING] = {"login",
        TO(BACKEND_IDLE) | TO(BACKEND_LEASED) | TO(BACKEND_TESTING) | TO(BACKEND_MOVING) |
            TO(BACKEND_CLOSING)},
    [BACKEND_IDLE] = {"idle", TO(BACKEND_IDLE) | TO(BACKEND_LEASED) | TO(BACKEND_TESTING) |
                                  TO(BACKEND_MOVING) | TO(BACKEND_CLOSING)},
    [BACKEND_LEASED] = {"active", TO(BACKEND_LEASED) | TO(BACKEND_IDLE) | TO(BACKEND_SCRUBBING) |
                                      TO(BACKEND_TESTING) | TO(BACKEND_MOVING) |
                                      TO(BACKEND_CLOSING)},
    [BACKEND_SCRUBBING] = {"used",
        TO(BACKEND_LEASED) | TO(BACKEND_IDLE) | TO(BACKEND_TESTING) | TO(BACKEND_MOVING) |
            TO(BACKEND_CLOSING)},
    [BACKEND_TESTING] = {"tested",
        TO(BACKEND_LEASED) | TO(BACKEND_IDLE) | TO(BACKEND_MOVING) | TO(BACKEND_CLOSING)},
    [BACKEND_MOVING] = {"moving", TO(BACKEND_SCRUBBING) | TO(BACKEND_ALIGNING)},
    [BACKEND_CLOSING] = {"closing", 0},
};

/* The parameters PostgreSQL reports (documentation, "Asynchronous Operations"), asked of libpq by
 * name. Those of track_extra_parameters are behind them. */
static struct parameter
{
    const char *name;
    bool is_managed; /* each client has its own */
    bool is_fixed;   /* nobody can set it */
} parameters[32] = {
    {"application_name", true, false},
    {"client_encoding", true, false},
    {"DateStyle", true, false},
    {"default_transaction_read_only", false, false},
    {"in_hot_standby", false, true},
    {"integer_datetimes", false, true},
    {"IntervalStyle", true, false},
    {"is_superuser", false, true},
    {"scram_iterations", false, false},
    {"search_path", true, false},
    {"server_encoding", false, true},
    {"server_version", false, true},
    {"session_authorization", false, true},
    {"standard_conforming_strings", true, false},
    {"TimeZone", true, false},
};

static int parameter_count = 15; /* changes before there are threads only */

static void on_event(void *arg, unsigned what);
static void on_closing_timeout(struct deadline *deadline);

const char *
backend_state_name(enum backend_state state)
{
    return states[state].name;
}

static struct parameter *
find_parameter(const char *name)
{
    for (int i = 0; i < parameter_count; i++) {
        if (strcasecmp(parameters[i].name, name) == 0) {
            return &parameters[i];
        }
    }
    return NULL;
}

bool
backend_track(const char *list)
{
    static char names[1024];
    char *rest = names, *name;

    if (strlen(list) >= sizeof(names)) {
        return false;
    }
    strcpy(names, list);
    while ((name = strsep(&rest, ", \t")) != NULL) {
        struct parameter *parameter = find_parameter(name);
        if (name[0] == '\0') {
            continue;
        }
        if (parameter == NULL && parameter_count == sizeof(parameters) / sizeof(parameters[0])) {
            return false;
        }
        if (parameter == NULL) {
            parameter = &parameters[parameter_count++];
            parameter->name = name;
        }
        parameter->is_managed = !parameter->is_fixed;
    }
    return true;
}

bool
backend_manages(const char *name)
{
    const struct parameter *parameter = find_parameter(name);

    return parameter != NULL && parameter->is_managed;
}

bool
backend_reports(const struct backend *backend, const char *name)
{
    const struct parameter *parameter = find_parameter(name);

    return parameter != NULL && parameter->is_managed &&
           PQparameterStatus(backend->conn, parameter->name) != NULL;
}

const char *
backend_encoding(const struct backend *backend)
{
    return PQparameterStatus(backend->conn, "server_encoding");
}

void
backend_reported(const struct pg_conn *conn, struct vars *reported)
{
    for (int i = 0; i < parameter_count; i++) {
        const char *value = PQparameterStatus(conn, parameters[i].name);
        if (value != NULL) {
            vars_put(reported, parameters[i].name, value);
        }
    }
}

struct backend *
backend_new(struct pg_conn *conn, struct fail *fail)
{
    static _Atomic uint64_t ids;
    struct backend *backend = mem_new(sizeof(*backend));
    const char *name, *value;
    uint32_t cursor = 0;
    struct vars reported = {0};

    backend->conn = conn;
    stream_init(&backend->stream, PQsocket(conn), on_event, backend);
    PQsetnonblocking(conn, 1);
    if (PQsslInUse(conn) && !stream_use_tls(&backend->stream, PQsslStruct(conn, "OpenSSL"), fail)) {
        PQfinish(conn);
        free(backend);
        return NULL;
    }
    backend->id = atomic_fetch_add(&ids, 1) + 1;
    backend->pid = PQbackendPID(conn);
    backend->state = BACKEND_MOVING;
    prepared_init(&backend->prepared);
    backend->replies.group = backend->replies.answered = 1;
    backend->opened_us = loop_clock_us();
    backend_reported(conn, &reported);
    while (vars_next(&reported, &cursor, &name, &value)) {
        if (backend_manages(name)) {
            vars_put(&backend->vars, name, value);
        }
    }
    vars_deinit(&reported);
    return backend;
}

/* LIFO: the warm ones are used, the others can grow old and go. A check does not make an idle one
 * warm, so it goes back to its place. */
static void
enlist(struct backend *backend)
{
    struct backend_list *list = &backend->side->in[backend->state];
    struct backend *next = TAILQ_FIRST(list);

    while (backend->state == BACKEND_IDLE && next != NULL &&
           next->health.used_us > backend->health.used_us) {
        next = TAILQ_NEXT(next, link);
    }
    if (next != NULL) {
        TAILQ_INSERT_BEFORE(next, backend, link);
    } else {
        TAILQ_INSERT_TAIL(list, backend, link);
    }
}

void
backend_become(struct backend *backend, enum backend_state state)
{
    struct pool_side *side = backend->side;

    ensure(states[backend->state].may_become & TO(state));
    pool_count_live(side, backend->state, state);
    if (backend->state != BACKEND_MOVING) {
        TAILQ_REMOVE(&side->in[backend->state], backend, link);
        side->count[backend->state]--;
    }
    backend->state = state;
    backend->state_since_us = loop_now_us(side->worker->loop);
    if (state == BACKEND_MOVING) {
        return;
    }
    enlist(backend);
    side->count[state]++;
}

void
backend_attach(struct backend *backend, struct pool_side *side, enum backend_state state)
{
    backend->side = side;
    backend->statements = pools_statements(side->worker->pools);
    backend->ticket = slots_add(&side->worker->backends, backend);
    watch_attach(&backend->stream.watch, side->worker->loop);
    if (state == BACKEND_ALIGNING) {
        backend->state = BACKEND_ALIGNING;
        backend->state_since_us = loop_now_us(side->worker->loop);
        TAILQ_INSERT_HEAD(&side->in[state], backend, link);
        side->count[state]++;
    } else {
        backend_become(backend, state);
    }
    stream_want_read(&backend->stream, true);
}

void
backend_detach(struct backend *backend)
{
    ensure(!stream_is_backed_up(&backend->stream) && backend->duty.cancels == 0);
    deadline_stop(&backend->deadline);
    backend_become(backend, BACKEND_MOVING);
    slots_remove(&backend->side->worker->backends, backend->ticket);
    backend->ticket = 0;
    watch_detach(&backend->stream.watch);
    backend->side = NULL;
}

static void
free_now(void *arg)
{
    struct backend *backend = arg;
    struct linger reset = {1, 0};
    int fd = PQsocket(backend->conn);

    stream_deinit(&backend->stream);
    if (fd >= 0 && !replies_is_settled(&backend->replies)) {
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        shutdown(fd, SHUT_RDWR);
    }
    PQfinish(backend->conn);
    replies_deinit(&backend->replies);
    held_deinit(&backend->held);
    prepared_deinit(&backend->prepared, backend->statements);
    vars_deinit(&backend->vars);
    free(backend->last_fail);
    free(backend->refusal);
    free(backend->health.death);
    free(backend);
}

/* Out of its lists; freed at the end of the turn. */
static void
bury(struct backend *backend)
{
    struct pool_side *side = backend->side;

    deadline_stop(&backend->deadline);
    TAILQ_REMOVE(&side->in[backend->state], backend, link);
    side->count[backend->state]--;
    slots_remove(&side->worker->backends, backend->ticket);
    watch_want(&backend->stream.watch, 0);
    loop_bury(side->worker->loop, free_now, backend);
}

void
backend_destroy(struct backend *backend)
{
    if (backend->state == BACKEND_MOVING) {
        free_now(backend);
        return;
    }
    bury(backend);
}

/* PostgreSQL closed its side, or takes too long: it counts no longer. */
static void
closed(struct backend *backend)
{
    struct pool_side *side = backend->side;

    bury(backend);
    pool_backend_gone(side);
}

static void
on_closing_timeout(struct deadline *deadline)
{
    closed((struct backend *)((char *)deadline - offsetof(struct backend, deadline)));
}

void
backend_close(struct backend *backend, const struct fail *fail)
{
    static const uint8_t terminate[] = {MSG_TERMINATE, 0, 0, 0, 4};
    struct stream *stream = &backend->stream;

    ensure(backend->state != BACKEND_CLOSING && backend->state != BACKEND_MOVING);
    if (fail != NULL) {
        pool_log(LEVEL_INFO, backend->side, "closing server connection %" PRIu64 " (pid %d): %s",
            backend->id, backend->pid, fail->text);
    }
    reason_count(fail);
    deadline_stop(&backend->deadline);
    backend->holder = NULL;
    buf_deinit(&stream->in);
    backend_become(backend, BACKEND_CLOSING);
    if (replies_is_settled(&backend->replies) && !stream_is_backed_up(stream)) {
        stream_write(stream, terminate, sizeof(terminate));
    } else {
        buf_deinit(&stream->out);
        shutdown(stream->watch.fd, SHUT_WR);
    }
    watch_want(&stream->watch, WATCH_READ);
    watch_trigger(&stream->watch, WATCH_READ);
    deadline_start(&backend->deadline, backend->side->worker->loop, CLOSING_US, on_closing_timeout);
}

void
backend_abort(struct backend *backend)
{
    reason_count(NULL);
    backend->holder = NULL;
    buf_deinit(&backend->stream.out);
    backend_become(backend, BACKEND_CLOSING);
    closed(backend);
}

bool
backend_note_parameter(struct backend *backend, const struct message *message,
    const char **name_out, const char **value_out)
{
    struct reader reader = reader_over(message->body, message->body_len);

    *name_out = reader_string(&reader);
    *value_out = reader_string(&reader);
    if (!reader_is_done(&reader)) {
        return false;
    }
    health_note_parameter(backend, *name_out, *value_out);
    if (!backend_manages(*name_out)) {
        return false;
    }
    vars_put(&backend->vars, *name_out, *value_out);
    return true;
}

bool
backend_note_error(struct backend *backend, const struct message *message)
{
    struct error_fields fields;

    message_parse_error(message->body, message->body_len, &fields);
    bool is_fatal = strcmp(fields.severity, "FATAL") == 0 || strcmp(fields.severity, "PANIC") == 0;
    struct fail **kept = is_fatal ? &backend->last_fail : &backend->refusal;
    if (is_fatal || replies_is_ours(&backend->replies)) {
        *kept = *kept != NULL ? *kept : mem_new(sizeof(**kept));
        message_error_to_fail(&fields, *kept);
    }
    return is_fatal;
}

/* Whether everything that was prepared went with this statement. */
static bool
drops_statements(const struct message *message)
{
    static const char *const tags[] = {"DEALLOCATE ALL", "DISCARD ALL"};

    for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
        size_t size = strlen(tags[i]) + 1;
        if (message->body_len == size && memcmp(message->body, tags[i], size) == 0) {
            return true;
        }
    }
    return false;
}

/* What came for our questions, or was skipped. */
static void
take_columns(struct backend *backend, const struct message *message, bool is_whole)
{
    bool is_answer = message->type == MSG_ROW_DESCRIPTION || message->type == MSG_NO_DATA;
    struct buf columns = {0};

    if (is_answer) {
        bool is_known = message_add_columns(&columns, message, is_whole);
        prepared_answered(&backend->prepared, backend->statements, is_known ? &columns : NULL);
        buf_deinit(&columns);
        return;
    }
    for (uint32_t i = 0; i < backend->replies.columns; i++) {
        prepared_answered(&backend->prepared, backend->statements, NULL);
    }
}

enum reply_verdict
backend_take(struct backend *backend, const struct message *message, bool is_whole)
{
    uint32_t failures = backend->replies.failures;
    uint64_t group = backend->replies.answered;
    enum reply_verdict verdict = replies_take(&backend->replies, message);

    if (backend->replies.failures != failures) {
        prepared_group_failed(&backend->prepared, backend->statements, group);
    }
    if (message->type == MSG_COMMAND_COMPLETE && message->body_len > 0 &&
        message->body[0] == 'D' && drops_statements(message)) {
        prepared_drop_all(&backend->prepared, backend->statements);
    }
    if (backend->replies.columns > 0) {
        take_columns(backend, message, is_whole);
    }
    return verdict;
}

void
backend_loss(const struct backend *backend, struct fail *fail)
{
    if (backend->last_fail != NULL) {
        *fail = *backend->last_fail;
        return;
    }
    if (backend->health.death != NULL) {
        *fail = *backend->health.death;
        return;
    }
    fail_set(fail, "08006", "server connection lost: %s", stream_reason(&backend->stream));
}

const char *
backend_host(const struct backend *backend)
{
    const char *address = PQhostaddr(backend->conn);
    const char *host = PQhost(backend->conn);

    return address != NULL && address[0] != '\0' ? address : host != NULL ? host : "";
}

const char *
backend_port(const struct backend *backend)
{
    const char *port = PQport(backend->conn);

    return port != NULL ? port : "";
}

void
backend_send_query(struct backend *backend, const char *sql)
{
    struct buf buf = {0};

    message_add_query(&buf, sql);
    backend->prepared.unnamed_owner = 0;
    replies_push(&backend->replies, REPLY_QUERY, REPLY_FOR_US);
    stream_write(&backend->stream, buf_head(&buf), buf_len(&buf));
    buf_deinit(&buf);
}

/* An idle backend spoke: harmless news are remembered, anything else is its end. */
static bool
is_idle_news(struct backend *backend, const uint8_t *data, size_t len)
{
    const char *name, *value;
    struct message message;

    while (len > 0) {
        enum message_result result = message_peek(data, len, &message);
        if (result == MESSAGE_BAD) {
            return false;
        }
        if (result == MESSAGE_MORE || !message_is_complete(&message, len)) {
            stream_keep(&backend->stream, data, len);
            return len < MESSAGE_HEADER || message.len <= IDLE_NEWS_MAX;
        }
        if (message.type == MSG_PARAMETER_STATUS) {
            backend_note_parameter(backend, &message, &name, &value);
        } else if (message.type == MSG_ERROR) {
            backend_note_error(backend, &message);
            return false;
        } else if (message.type != MSG_NOTICE && message.type != MSG_NOTIFICATION) {
            return false;
        }
        data += message.len;
        len -= message.len;
    }
    return true;
}

static void
on_idle(struct backend *backend)
{
    uint8_t *data;
    size_t len;
    enum stream_result result = stream_read(&backend->stream, &data, &len);

    if (result != STREAM_WAIT && (result != STREAM_OK || !is_idle_news(backend, data, len))) {
        idle_died(backend);
    } else if (backend->duty.is_retired) {
        idle_retired(backend);
    }
}

static void
on_closing(struct backend *backend)
{
    uint8_t *data;
    size_t len;
    enum stream_result result = stream_read(&backend->stream, &data, &len);

    if (result == STREAM_EOF || result == STREAM_ERROR) {
        closed(backend);
    }
}

static void
on_event(void *arg, unsigned what)
{
    struct backend *backend = arg;

    switch (backend->state) {
    case BACKEND_LEASED:
        pool_tell_holder(backend, what);
        break;
    case BACKEND_IDLE:
        on_idle(backend);
        break;
    case BACKEND_ALIGNING:
    case BACKEND_SCRUBBING:
    case BACKEND_TESTING:
        if (what & WATCH_WRITE) {
            stream_flush(&backend->stream);
        }
        scrub_run(backend);
        break;
    case BACKEND_CLOSING:
        if (what & WATCH_WRITE) {
            stream_flush(&backend->stream);
        }
        on_closing(backend);
        break;
    case BACKEND_MOVING:
    case BACKEND_STATES:
        ensure(!"an event for a backend without a worker");
    }
}
