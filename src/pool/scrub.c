/*
 * Conversations of our own, one step after the other:
 *
 *    dialled:     ALIGN ─► CONNECT ──────────────────────────────► DONE ─► offered to the pool
 *    after use:   DRAIN ─► CANCELS ─► ROLLBACK ─► RESET ─────────► DONE
 *    idle:        CHECK ─────────────────────────────────────────► DONE (pool/health)
 *
 * A step is entered (something may be sent), then it is over when every reply was read and dropped.
 * Called by pool/pool and by backend events; calls pool_offer() or backend_close().
 */
#include "pool/scrub.h"

#include "base/state.h"
#include "conf/settings.h"
#include "pool/pools.h"

/* What comes after a step, and what is said of the step when PostgreSQL answered with an error. */
static const struct
{
    enum scrub_step next;
    const char *name;
} steps[] = {
    [SCRUB_ALIGN] = {SCRUB_CONNECT, "a request of our own"},
    [SCRUB_CONNECT] = {SCRUB_DONE, "connect_query"},
    [SCRUB_DRAIN] = {SCRUB_CANCELS, "a request of our own"},
    [SCRUB_CANCELS] = {SCRUB_ROLLBACK, "a request of our own"},
    [SCRUB_ROLLBACK] = {SCRUB_RESET, "a request of our own"},
    [SCRUB_RESET] = {SCRUB_DONE, "server_reset_query"},
    [SCRUB_CHECK] = {SCRUB_DONE, "server_check_query"},
};

static void
on_timeout(struct deadline *deadline)
{
    struct backend *backend =
        (struct backend *)((char *)deadline - offsetof(struct backend, deadline));
    struct fail fail;

    fail_set(&fail, "08006", "no answer while %s",
        backend->state == BACKEND_ALIGNING ? "logging in" : "cleaning up after a client");
    if (backend->state == BACKEND_ALIGNING) {
        pool_dial_failed(backend->side, &fail);
    }
    backend_close(backend, &fail);
}

static void
give_up(struct backend *backend, const struct fail *fail)
{
    if (backend->state == BACKEND_ALIGNING) {
        pool_dial_failed(backend->side, fail);
    } else if (backend->state == BACKEND_TESTING) {
        health_failed(backend, fail);
        return;
    } else {
        health_note_death(backend, fail);
    }
    backend_close(backend, fail);
}

static void
start_deadline(struct backend *backend)
{
    struct pool_worker *worker = backend->side->worker;

    deadline_start(
        &backend->deadline, worker->loop, worker->settings->cancel_wait_timeout, on_timeout);
}

static void
send_sync(struct backend *backend)
{
    static const uint8_t sync[] = {MSG_SYNC, 0, 0, 0, 4};

    replies_push(&backend->replies, REPLY_SYNC, REPLY_FOR_US);
    stream_write(&backend->stream, sync, sizeof(sync));
}

/* A client left in the midst of a request: ends it in its place, without effect, as the end of a
 * direct connection would. A Sync alone would commit what was executed before it. */
static void
end_request(struct backend *backend)
{
    static const uint8_t fail_copy[] = {
        MSG_COPY_FAIL, 0, 0, 0, 16, 'c', 'l', 'i', 'e', 'n', 't', ' ', 'l', 'e', 'f', 't', 0};

    if (!replies_wants_more(&backend->replies)) {
        return;
    }
    if (backend->replies.copy == COPY_IN || backend->replies.copy == COPY_BOTH) {
        backend->replies.copy = COPY_ENDS;
        stream_write(&backend->stream, fail_copy, sizeof(fail_copy));
    } else if (backend->replies.is_open) {
        backend_send_query(backend, "ROLLBACK");
    }
    /* An error before or because of that skips to a Sync, which the client will not send any more;
     * otherwise it is one more question with one more answer. */
    send_sync(backend);
}

static void
enter_step(struct backend *backend)
{
    const struct settings *settings = backend->side->worker->settings;

    switch (backend->duty.step) {
    case SCRUB_ALIGN:
        send_sync(backend);
        break;
    case SCRUB_CONNECT: {
        const char *query = settings_connect_query(settings, backend->side->pool->database);
        if (query != NULL && query[0] != '\0') {
            backend_send_query(backend, query);
        }
        break;
    }
    case SCRUB_DRAIN:
        end_request(backend);
        break;
    case SCRUB_ROLLBACK:
        if (backend->replies.status != 'I') {
            backend->duty.is_dirty = true;
            backend_send_query(backend, "ROLLBACK");
        }
        break;
    case SCRUB_RESET:
        if (backend->duty.is_dirty && settings->server_reset_query[0] != '\0') {
            backend_send_query(backend, settings->server_reset_query);
        }
        break;
    case SCRUB_CANCELS:
        start_deadline(backend);
        break;
    case SCRUB_CHECK:
        if (settings->server_check_query[0] != '\0') {
            backend_send_query(backend, settings->server_check_query);
        } else {
            send_sync(backend);
        }
        break;
    case SCRUB_DONE:
        break;
    }
}

/* Settings that PostgreSQL does not report went with the reset. */
static void
forget_extras(struct backend *backend)
{
    const char *name, *value;
    uint32_t cursor = 0;

    while (vars_next(&backend->vars, &cursor, &name, &value)) {
        if (!backend_reports(backend, name)) {
            vars_remove(&backend->vars, name);
            cursor = 0;
        }
    }
}

/* Whether the step's work is done; false with the reason when it went wrong, true in *waits_out
 * when something is still to come. */
static bool
finish_step(struct backend *backend, bool *waits_out, struct fail *fail)
{
    struct replies *replies = &backend->replies;

    if (backend->duty.step == SCRUB_DRAIN && replies_is_unsure(replies)) {
        return fail_set(fail, "08P01", "its client left behind a Sync among the data of a COPY");
    }
    *waits_out = !replies_is_empty(replies) || stream_is_backed_up(&backend->stream);
    if (backend->duty.step == SCRUB_CANCELS) {
        *waits_out = *waits_out || backend->duty.cancels > 0;
    }
    if (*waits_out) {
        return true;
    }
    if (replies->is_broken && backend->duty.step != SCRUB_DRAIN) {
        return fail_set(fail, backend->refusal != NULL ? backend->refusal->sqlstate : "08P01",
            "%s failed: %s", steps[backend->duty.step].name,
            backend->refusal != NULL ? backend->refusal->text : "no reason given");
    }
    bool must_be_idle = backend->duty.step != SCRUB_DRAIN && backend->duty.step != SCRUB_CANCELS;
    if (must_be_idle && !replies_is_settled(replies)) {
        return fail_set(fail, "08P01", "the session is still in a transaction after its end");
    }
    if (backend->duty.step == SCRUB_RESET && backend->duty.is_dirty) {
        forget_extras(backend);
        prepared_drop_all(&backend->prepared, backend->statements);
        backend->duty.is_dirty = false;
    }
    return true;
}

static void
done(struct backend *backend)
{
    deadline_stop(&backend->deadline);
    if (backend->state == BACKEND_ALIGNING) {
        pool_dial_succeeded(backend);
    } else if (backend->state == BACKEND_TESTING) {
        health_passed(backend);
    } else {
        pool_offer(backend);
    }
}

static void
advance(struct backend *backend)
{
    struct fail fail;
    bool waits;

    while (backend->duty.step != SCRUB_DONE) {
        if (!finish_step(backend, &waits, &fail)) {
            give_up(backend, &fail);
            return;
        }
        if (waits) {
            return;
        }
        backend->replies.is_broken = false;
        backend->duty.step = steps[backend->duty.step].next;
        if (backend->duty.step == SCRUB_DONE) {
            done(backend);
            return;
        }
        enter_step(backend);
    }
}

/* Reads and drops what came. False with the reason when the stream is lost. */
static bool
swallow(struct backend *backend, const uint8_t *data, size_t len, struct fail *fail)
{
    const char *name, *value;
    struct message message;
    size_t size;

    loop_scratch(backend->side->worker->loop, &size);
    while (len > 0) {
        if (backend->skip_len > 0) {
            uint32_t skip = backend->skip_len < len ? backend->skip_len : (uint32_t)len;
            backend->skip_len -= skip;
            data += skip;
            len -= skip;
            continue;
        }
        enum message_result result = message_peek(data, len, &message);
        bool is_whole = result == MESSAGE_OK && message_is_complete(&message, len);
        if (result == MESSAGE_MORE || (result == MESSAGE_OK && !is_whole && message.len <= size)) {
            stream_keep(&backend->stream, data, len);
            return true;
        }
        if (result == MESSAGE_BAD || (message.type == MSG_READY && !is_whole) ||
            (message.type == MSG_ERROR && is_whole && backend_note_error(backend, &message)) ||
            backend_take(backend, &message, is_whole) == REPLY_UNEXPECTED) {
            if (backend->last_fail != NULL) {
                *fail = *backend->last_fail;
                return false;
            }
            return fail_set(fail, "08P01", "unexpected message from the server");
        }
        if (message.type == MSG_PARAMETER_STATUS && is_whole) {
            backend_note_parameter(backend, &message, &name, &value);
        }
        backend->skip_len = is_whole ? 0 : message.len - (uint32_t)len;
        data += is_whole ? message.len : len;
        len -= is_whole ? message.len : len;
    }
    return true;
}

/* What came shows that PostgreSQL waits for something that its client, who has left, will not send:
 * the data of a COPY, or the Sync that a COPY has ignored. */
static void
end_late_request(struct backend *backend)
{
    if (backend->duty.step == SCRUB_DRAIN) {
        end_request(backend);
    }
}

void
scrub_run(struct backend *backend)
{
    struct fail fail;
    uint8_t *data;
    size_t len;

    switch (stream_read(&backend->stream, &data, &len)) {
    case STREAM_OK:
        if (!swallow(backend, data, len, &fail)) {
            give_up(backend, &fail);
            return;
        }
        end_late_request(backend);
        break;
    case STREAM_WAIT:
        break;
    case STREAM_EOF:
    case STREAM_ERROR:
        backend_loss(backend, &fail);
        give_up(backend, &fail);
        return;
    }
    advance(backend);
}

void
scrub_align(struct backend *backend)
{
    const struct settings *settings = backend->side->worker->settings;

    ensure(backend->state == BACKEND_ALIGNING);
    backend->duty.step = SCRUB_ALIGN;
    deadline_start(&backend->deadline, backend->side->worker->loop,
        settings->server_connect_timeout, on_timeout);
    enter_step(backend);
}

void
scrub_start(struct backend *backend)
{
    struct fail fail;
    uint8_t *data;
    size_t len;

    ensure(backend->state == BACKEND_SCRUBBING);
    replies_orphan(&backend->replies);
    backend->duty.is_dirty = backend->duty.is_dirty || backend->duty.is_preparing;
    backend->duty.is_preparing = false;
    backend->replies.is_broken = false;
    backend->duty.step = SCRUB_DRAIN;
    /* Without a cancel the client asked for this work and left properly: it may take its time, as
     * it would on a direct connection. */
    if (backend->duty.cancels > 0) {
        start_deadline(backend);
    }
    enter_step(backend);
    if (stream_kept(&backend->stream, &data, &len) == STREAM_OK &&
        !swallow(backend, data, len, &fail)) {
        give_up(backend, &fail);
        return;
    }
    end_late_request(backend);
    advance(backend);
}

void
scrub_check(struct backend *backend)
{
    ensure(backend->state == BACKEND_TESTING && replies_is_settled(&backend->replies));
    backend->replies.is_broken = false;
    backend->duty.step = SCRUB_CHECK;
    enter_step(backend);
}
