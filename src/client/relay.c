/*
 * The relay. Called by client.c (the client's stream) and by the backend's stream through the
 * lease; calls pool_lease and the reply queue.
 *
 *    client ── read ──► from_client: whole messages ──► replies_sent ──► write ──► backend
 *    client ◄─ write ── replies_take ◄── from_backend: whole messages ◄── read ── backend
 *                            └── everything answered, status 'I' ──► lease_return
 *
 * Invariant: what a read left over (an incomplete message, or whole ones that wait for a backend)
 * is kept in the stream, and is complete up to the message's first byte. Each side is read only
 * while the other takes what was read.
 */
#include "client/relay.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "client/aborted.h"
#include "client/deliver.h"
#include "client/intake.h"
#include "client/limits.h"
#include "client/listening.h"
#include "client/loss.h"
#include "client/params.h"
#include "client/provide.h"
#include "client/session.h"
#include "client/wait.h"
#include "pool/cancel.h"
#include "pool/pools.h"

#include <inttypes.h>

static const struct lease_ops relay_ops;

static void settle(struct client *client);
static void on_kept(struct client *client);

static struct client *
client_of(struct lease *lease)
{
    return (struct client *)((char *)lease - offsetof(struct client, lease));
}

/* ---- the lease begins ---- */

/* Requests may be forwarded from now on. */
static void
use_backend(struct client *client)
{
    client_become(client, CLIENT_ACTIVE);
    client->relay.transaction_us = client->relay.request_us = loop_now_us(client->crowd->pool.loop);
    limits_begin(client);
}

static void
count_wait(struct pool_side *side, int64_t wait_us)
{
    struct pool_times *times = side->times;

    side->counts.wait_us += (uint64_t)wait_us;
    histogram_add(&times->wait, wait_us);
    times->longest_wait_us = wait_us > times->longest_wait_us ? wait_us : times->longest_wait_us;
}

/* The backend is there: true when requests may be forwarded now. */
static bool
lease_begins(struct client *client)
{
    const char *chain = aborted_chain(client);

    client->lease.side->counts.assignments++;
    client->lease.backend->prepared.pending_drops = 0;
    client->relay.was_served = client->relay.awaits_cancels = false;
    listening_on_lease(client);
    bool is_prepared = params_apply(client);
    if (chain != NULL) {
        backend_send_query(client->lease.backend, chain);
    }
    if (!is_prepared || chain != NULL) {
        client_become(client, CLIENT_PREPARING);
        return false;
    }
    use_backend(client);
    return true;
}

bool
relay_obtain_backend(struct client *client)
{
    switch (client->state) {
    case CLIENT_ACTIVE:
        return true;
    case CLIENT_IDLE:
        client->relay.request_us = loop_now_us(client->crowd->pool.loop);
        if (lease_take(&client->lease)) {
            count_wait(client->lease.side, 0);
            return lease_begins(client);
        }
        client_become(client, CLIENT_WAITING);
        wait_begin(client);
        return false;
    case CLIENT_GREETING:
    case CLIENT_LOGIN:
    case CLIENT_VERIFYING:
    case CLIENT_WELCOME:
    case CLIENT_WAITING:
    case CLIENT_PREPARING:
    case CLIENT_LOOKING:
    case CLIENT_FAILED:
    case CLIENT_CONSOLE:
    case CLIENT_REPLICATING:
    case CLIENT_CLOSING:
    case CLIENT_CLOSED:
    case CLIENT_STATES:
        return false;
    }
    return false;
}

static void
on_granted(struct lease *lease)
{
    struct client *client = client_of(lease);

    ensure(client->state == CLIENT_WAITING);
    count_wait(lease->side, loop_now_us(client->crowd->pool.loop) - lease->waiter.since_us);
    if (lease_begins(client)) {
        stream_want_read(&client->stream, !client->relay.is_leaving);
        relay_handler.on_kept(client);
    }
}

static void
on_refused(struct lease *lease, const struct fail *fail)
{
    wait_refuse(client_of(lease), fail);
}

/* ---- from the client ---- */

static void
take_in(struct client *client, const uint8_t *data, size_t len)
{
    switch (intake_take(client, data, len)) {
    case INTAKE_OVER:
        break;
    case INTAKE_TAKEN:
        settle(client);
        break;
    case INTAKE_AGAIN:
        on_kept(client);
        break;
    }
}

static void
on_kept(struct client *client)
{
    uint8_t *data;
    size_t len;

    /* A chained transaction is opened whether or not the client says anything more. */
    if (client->state == CLIENT_IDLE && aborted_owes_ready(client) &&
        !relay_obtain_backend(client)) {
        return;
    }
    if (stream_kept(&client->stream, &data, &len) == STREAM_OK) {
        take_in(client, data, len);
    } else {
        settle(client);
    }
}

/* The client closed its side: what it sent completely is still done, as on a direct connection. */
static void
client_left(struct client *client, enum stream_result result)
{
    if (result == STREAM_ERROR) {
        struct fail fail;
        fail_set(&fail, "08006", "%s", stream_reason(&client->stream));
        client_close(client, &fail);
        return;
    }
    client->relay.is_leaving = true;
    stream_want_read(&client->stream, false);
    settle(client);
}

static void
read_client(struct client *client)
{
    uint8_t *data;
    size_t len;
    bool must_wait = client->state == CLIENT_WAITING || client->state == CLIENT_PREPARING ||
                     client->state == CLIENT_LOOKING;

    if (must_wait) {
        /* More bytes while its request waits stay in the socket. */
        stream_want_read(&client->stream, false);
        return;
    }
    enum stream_result result = stream_read(&client->stream, &data, &len);
    if (result == STREAM_OK) {
        take_in(client, data, len);
    } else if (result != STREAM_WAIT) {
        client_left(client, result);
    }
}

/* The process leaves and a new transaction would begin: a client that never pauses is never found
 * idle by a tick. Nothing of the request is done. */
static bool
must_leave(struct client *client)
{
    return atomic_load_explicit(&client->crowd->crowds->is_draining, memory_order_relaxed) &&
           client_is_between(client) && buf_len(&client->stream.in) == 0 &&
           stream_peek(&client->stream) == STREAM_OK;
}

static void
on_client_event(struct client *client, unsigned what)
{
    if (what & WATCH_WRITE) {
        bool is_clear = stream_flush(&client->stream);
        if (client->stream.is_write_broken) {
            client_left(client, STREAM_ERROR);
            return;
        }
        if (is_clear && client->lease.state == LEASE_HELD && !client->lease.is_untold) {
            stream_want_read(&client->lease.backend->stream, true);
        }
    }
    if (what & WATCH_READ) {
        if (must_leave(client)) {
            client_drain(client);
        } else {
            read_client(client);
        }
    }
}

/* ---- from the backend ---- */

static void
on_backend(struct lease *lease, unsigned what)
{
    struct client *client = client_of(lease);
    struct backend *backend = lease->backend;
    struct fail fail;

    if (what & WATCH_WRITE && stream_flush(&backend->stream) && client->state == CLIENT_ACTIVE) {
        stream_want_read(&client->stream, !client->relay.is_leaving);
    }
    if (what & WATCH_READ && !deliver(client, backend, &fail)) {
        loss_take(client, &fail);
        return;
    }
    if (client->relay.is_backlogged && backend->replies.count < REPLIES_MAX / 2 &&
        backend->held.count < HELD_MAX / 2 && !provide_must_wait(client)) {
        client->relay.is_backlogged = false;
        provide_resume(client);
        on_kept(client);
        return;
    }
    settle(client);
}

/* ---- after each step ---- */

/* The settings that the client wants were put on its backend, or PostgreSQL refused them. */
static void
finish_preparing(struct client *client)
{
    struct fail fail;

    if (!params_applied(client, &fail)) {
        client->lease.backend->duty.is_dirty = true;
        lease_abandon(&client->lease, false, false);
        client_reject(client, &fail);
        return;
    }
    use_backend(client);
    if (aborted_chain(client) != NULL) {
        aborted_chained(client);
    }
    stream_want_read(&client->stream, !client->relay.is_leaving);
    on_kept(client);
}

/* A transaction was opened where only single statements are allowed. */
static bool
breaks_statement_mode(struct client *client)
{
    struct fail fail;
    const struct replies *replies = &client->lease.backend->replies;

    if (!replies_is_empty(replies) || replies->status == 'I' ||
        pool_policy(client->lease.side)->mode != POOL_STATEMENT) {
        return false;
    }
    fail_set(&fail, "0A000", "transaction blocks are not allowed in statement pooling mode");
    client_reject(client, &fail);
    return true;
}

static void
end_lease(struct client *client)
{
    lease_return(&client->lease, false);
    client_become(client, CLIENT_IDLE);
    stream_want_read(&client->stream, !client->relay.is_leaving);
}

/* It hears from the herald now, or its backend goes on telling it. */
static void
finish_moving(struct client *client)
{
    switch (listening_moves_on(client)) {
    case LISTENING_GOES_ON:
        return;
    case LISTENING_MOVED:
        session_end(client);
        end_lease(client);
        break;
    case LISTENING_STAYS:
        client_become(client, CLIENT_ACTIVE);
        limits_begin(client);
        stream_want_read(&client->stream, !client->relay.is_leaving);
        break;
    }
    on_kept(client);
}

/* What its session left is known. Settings that a RESET took from a client that stays here are put
 * back at once. */
static void
finish_looking(struct client *client)
{
    if (listening_is_moving(client)) {
        finish_moving(client);
        return;
    }
    struct fail fail;

    if (!session_looked(client)) {
        end_lease(client);
    } else if (session_is_too_much(client, &fail)) {
        client_reject(client, &fail);
        return;
    } else if (params_apply(client)) {
        client_become(client, CLIENT_ACTIVE);
        limits_begin(client);
        stream_want_read(&client->stream, !client->relay.is_leaving);
    } else {
        client_become(client, CLIENT_PREPARING);
        return;
    }
    on_kept(client);
}

/* Reading one side goes on only while the other one takes it. */
static void
balance(struct client *client)
{
    struct backend *backend = client->lease.backend;

    if (stream_is_backed_up(&client->stream)) {
        stream_want_read(&backend->stream, false);
    }
    if (stream_is_backed_up(&backend->stream) || client->relay.is_backlogged) {
        stream_want_read(&client->stream, false);
    } else if (!client->relay.is_leaving) {
        stream_want_read(&client->stream, true);
    }
}

/* Nothing of this client is left on its backend, in either direction. */
static bool
is_over(const struct client *client, const struct backend *backend)
{
    return replies_is_settled(&backend->replies) && client->relay.client_rest == 0 &&
           backend->skip_len == 0 && buf_len(&backend->stream.in) == 0 &&
           !stream_is_backed_up(&backend->stream);
}

bool
relay_is_at_boundary(const struct client *client)
{
    return is_over(client, client->lease.backend);
}

/* Nothing more comes from PostgreSQL unless the client says something. */
static bool
waits_for_client(const struct client *client)
{
    const struct replies *replies = &client->lease.backend->replies;
    bool is_copying = replies->copy == COPY_IN || replies->copy == COPY_BOTH;

    return is_copying || client->relay.client_rest > 0 ||
           (replies_owed(replies) == 0 && !provide_is_deferring(client));
}

static void
settle(struct client *client)
{
    struct backend *backend = client->lease.backend;

    if (client->state == CLIENT_PREPARING && replies_is_empty(&backend->replies)) {
        finish_preparing(client);
        return;
    }
    if (client->state == CLIENT_LOOKING && replies_is_empty(&backend->replies)) {
        finish_looking(client);
        return;
    }
    if (client->state == CLIENT_ACTIVE) {
        if (client->stream.is_write_broken) {
            client_left(client, STREAM_ERROR);
            return;
        }
        if (breaks_statement_mode(client) || limits_settle(client)) {
            return;
        }
        if (!is_over(client, backend) || pool_policy(client->lease.side)->mode == POOL_SESSION) {
            balance(client);
        } else if (backend->replies.credits > 0) {
            /* Whether one Sync more is answered shows by what comes before this. */
            backend_send_query(backend, "");
        } else if (session_keeps(client)) {
            listening_moves(client);
            stream_want_read(&backend->stream, true);
            stream_want_read(&client->stream,
                client->state == CLIENT_ACTIVE && !client->relay.is_leaving);
        } else {
            stream_want_read(&backend->stream, true);
            end_lease(client);
        }
    }
    listening_tell(client);
    /* Whatever an idle client has left over is the beginning of a message that will not be
     * finished. */
    if (client->relay.is_leaving &&
        (client->state == CLIENT_IDLE || client->state == CLIENT_FAILED)) {
        client_close(client, NULL);
    } else if (client->relay.is_leaving && client->state == CLIENT_ACTIVE &&
               waits_for_client(client)) {
        client_close(client, NULL);
    }
}

/* ---- the handler ---- */

static void
on_start(struct client *client)
{
    client->lease.ops = &relay_ops;
    session_start(client);
    client->follows_names = pool_policy(client->lease.side)->mode != POOL_SESSION &&
                            client->crowd->pool.settings->max_prepared_statements > 0;
}

/* The session ends: what it holds goes back, cleaned. */
static void
on_close(struct client *client)
{
    struct lease *lease = &client->lease;

    if (lease->state != LEASE_HELD) {
        return;
    }
    bool is_session = pool_policy(client->lease.side)->mode == POOL_SESSION;
    bool is_impatient = !client->relay.is_leaving || client->stream.is_write_broken;
    bool is_dirty = is_session || session_is_dirty(client);
    lease->backend->duty.is_retired =
        lease->backend->duty.is_retired || session_pins(client) & PIN_LOAD ||
        lease->backend->replies.credits > 0;
    stream_want_read(&lease->backend->stream, true);
    if (is_over(client, lease->backend)) {
        lease_return(lease, is_dirty);
        return;
    }
    lease->backend->duty.is_dirty = lease->backend->duty.is_dirty || is_dirty;
    provide_flush(client);
    lease_abandon(lease, client->relay.client_rest > 0, is_impatient);
}

static void
on_cancel(struct client *client)
{
    struct fail fail;

    if (client->state == CLIENT_WAITING && client->lease.state == LEASE_WAITING) {
        fail_set(&fail, "57014", "canceling statement due to user request");
        wait_refuse(client, &fail);
        return;
    }
    if (client->state == CLIENT_ACTIVE && !replies_is_empty(&client->lease.backend->replies)) {
        client->relay.is_cancelled = true;
        cancel_send(client->lease.backend);
    }
}

static const struct lease_ops relay_ops = {on_granted, on_refused, on_backend};

const struct handler relay_handler = {
    .name = "relay",
    .on_start = on_start,
    .on_kept = on_kept,
    .on_event = on_client_event,
    .on_close = on_close,
    .on_cancel = on_cancel,
};
