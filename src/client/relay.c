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
#include "client/deliver.h"
#include "client/params.h"
#include "client/wait.h"
#include "pool/cancel.h"
#include "pool/pools.h"

#include <inttypes.h>

static const struct lease_ops relay_ops;

static void consume(struct client *client, const uint8_t *data, size_t len);
static void settle(struct client *client);

static struct client *
client_of(struct lease *lease)
{
    return (struct client *)((char *)lease - offsetof(struct client, lease));
}

static void
protocol_error(struct client *client, const char *text)
{
    struct fail fail;

    stats_add(METRIC_protocol_errors_total, 1);
    fail_set(&fail, "08P01", "%s", text);
    client_reject(client, &fail);
}

/* ---- the lease begins ---- */

/* The backend is there: true when requests may be forwarded now. */
static bool
lease_begins(struct client *client)
{
    client->lease.side->counts.assignments++;
    if (!params_apply(client)) {
        client_become(client, CLIENT_PREPARING);
        return false;
    }
    client_become(client, CLIENT_ACTIVE);
    return true;
}

static bool
obtain_backend(struct client *client)
{
    switch (client->state) {
    case CLIENT_ACTIVE:
        return true;
    case CLIENT_IDLE:
        client->relay.request_us = loop_now_us(client->crowd->pool.loop);
        client->relay.transaction_us = client->relay.request_us;
        if (lease_take(&client->lease)) {
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
    case CLIENT_CONSOLE:
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
    lease->side->counts.wait_us +=
        (uint64_t)(loop_now_us(client->crowd->pool.loop) - lease->waiter.since_us);
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

enum gate
{
    GATE_FORWARD, /* goes with the others */
    GATE_DROP,    /* means nothing now */
    GATE_WAIT,    /* no backend yet: keep it */
    GATE_STOP,    /* the client is gone or closing */
};

/* What becomes of one message of the client. */
static enum gate
admit_message(struct client *client, const struct message *message)
{
    bool has_backend = client->state == CLIENT_ACTIVE;

    if (message->type == MSG_TERMINATE) {
        client->relay.is_leaving = true;
        return GATE_STOP;
    }
    if (!has_backend) {
        /* Left over from a COPY that has failed already, or nothing to flush. */
        if (message->type == MSG_COPY_DATA || message->type == MSG_COPY_DONE ||
            message->type == MSG_COPY_FAIL || message->type == MSG_FLUSH) {
            return GATE_DROP;
        }
        if (!replies_may_send(message->type)) {
            protocol_error(client, "invalid frontend message type");
            return GATE_STOP;
        }
        if (!obtain_backend(client)) {
            return client->state < CLIENT_CLOSING ? GATE_WAIT : GATE_STOP;
        }
    }
    struct replies *replies = &client->lease.backend->replies;
    if (replies->count >= REPLIES_MAX) {
        client->relay.is_backlogged = true;
        return GATE_WAIT;
    }
    if (replies_is_empty(replies)) {
        client->relay.request_us = loop_now_us(client->crowd->pool.loop);
    }
    if (!replies_sent(replies, message->type)) {
        protocol_error(client, "invalid frontend message type");
        return GATE_STOP;
    }
    client->lease.side->counts.client_parses += message->type == MSG_PARSE;
    client->lease.side->counts.server_parses += message->type == MSG_PARSE;
    client->lease.side->counts.binds += message->type == MSG_BIND;
    return GATE_FORWARD;
}

static void
forward_to_backend(struct client *client, const uint8_t *data, size_t len)
{
    if (len > 0) {
        client->lease.side->counts.received += len;
        stream_write(&client->lease.backend->stream, data, len);
    }
}

/* Bytes of a large message whose beginning was passed on already. */
static size_t
pass_rest(struct client *client, size_t len)
{
    size_t rest = client->relay.client_rest < len ? client->relay.client_rest : len;

    client->relay.client_rest -= (uint32_t)rest;
    return rest;
}

/* Takes the client's bytes: forwards whole messages in one write, keeps the tail. */
static void
consume(struct client *client, const uint8_t *data, size_t len)
{
    const uint8_t *span = data; /* from here on nothing was forwarded yet */
    const uint8_t *end = data + len;
    struct message message;
    size_t most;

    loop_scratch(client->crowd->pool.loop, &most);
    data += pass_rest(client, len);
    if (client->relay.drops_client_rest) {
        span = data;
    }
    if (client->relay.is_skipping) {
        data += wait_skip_request(client, data, (size_t)(end - data));
        span = data;
    }
    while (data < end && !client->relay.is_leaving && !client->relay.is_skipping) {
        enum message_result result = message_peek(data, (size_t)(end - data), &message);
        if (result == MESSAGE_BAD) {
            protocol_error(client, "invalid message length");
            return;
        }
        if (result == MESSAGE_OK && message.len > client->crowd->pool.settings->max_packet_size) {
            protocol_error(client, "message is larger than max_packet_size");
            return;
        }
        bool is_whole = result == MESSAGE_OK && message_is_complete(&message, (size_t)(end - data));
        if (!is_whole && (result == MESSAGE_MORE || message.len <= most)) {
            break;
        }
        enum gate gate = admit_message(client, &message);
        if (gate == GATE_WAIT || client->state >= CLIENT_CLOSING) {
            break;
        }
        size_t step = is_whole ? message.len : (size_t)(end - data);
        if (gate == GATE_DROP || gate == GATE_STOP) {
            if (client->lease.backend != NULL) {
                forward_to_backend(client, span, (size_t)(data - span));
            }
            span = data + step;
        }
        client->relay.client_rest = is_whole ? 0 : message.len - (uint32_t)step;
        client->relay.drops_client_rest = gate == GATE_DROP;
        data += step;
    }
    if (client->state >= CLIENT_CLOSING) {
        return;
    }
    if (client->state == CLIENT_ACTIVE) {
        forward_to_backend(client, span, (size_t)(data - span));
    }
    if (data < end && !client->relay.is_leaving) {
        stream_keep(&client->stream, data, (size_t)(end - data));
    }
    settle(client);
}

static void
on_kept(struct client *client)
{
    uint8_t *data;
    size_t len;

    if (stream_kept(&client->stream, &data, &len) == STREAM_OK) {
        consume(client, data, len);
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
    bool must_wait = client->state == CLIENT_WAITING || client->state == CLIENT_PREPARING;

    if (must_wait) {
        /* More bytes while its request waits stay in the socket. */
        stream_want_read(&client->stream, false);
        return;
    }
    enum stream_result result = stream_read(&client->stream, &data, &len);
    if (result == STREAM_OK) {
        consume(client, data, len);
    } else if (result != STREAM_WAIT) {
        client_left(client, result);
    }
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
        read_client(client);
    }
}

/* ---- from the backend ---- */

/* The backend ended or lost its place while this client held it. */
static void
backend_lost(struct client *client, const struct fail *fail)
{
    struct fail told = *fail;

    if (told.detail[0] == '\0' && strcmp(told.sqlstate, "08006") != 0) {
        fail_detail(&told, "The server connection was lost.");
    }
    lease_discard(&client->lease, fail);
    client_reject(client, &told);
}

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
        backend_lost(client, &fail);
        return;
    }
    if (client->relay.is_backlogged && backend->replies.count < REPLIES_MAX / 2) {
        client->relay.is_backlogged = false;
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
        lease_return(&client->lease, true);
        client_reject(client, &fail);
        return;
    }
    client_become(client, CLIENT_ACTIVE);
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

static void
settle(struct client *client)
{
    struct backend *backend = client->lease.backend;

    if (client->state == CLIENT_PREPARING && replies_is_settled(&backend->replies)) {
        finish_preparing(client);
        return;
    }
    if (client->state == CLIENT_ACTIVE) {
        if (client->stream.is_write_broken) {
            client_left(client, STREAM_ERROR);
            return;
        }
        if (breaks_statement_mode(client)) {
            return;
        }
        if (is_over(client, backend) && pool_policy(client->lease.side)->mode != POOL_SESSION) {
            stream_want_read(&backend->stream, true);
            end_lease(client);
        } else {
            balance(client);
        }
    }
    /* Whatever an idle client has left over is the beginning of a message that will not be
     * finished. */
    if (client->relay.is_leaving && client->state == CLIENT_IDLE) {
        client_close(client, NULL);
    } else if (client->relay.is_leaving && client->state == CLIENT_ACTIVE &&
               (replies_is_empty(&client->lease.backend->replies) ||
                   replies_wants_more(&client->lease.backend->replies) ||
                   client->relay.client_rest > 0)) {
        client_close(client, NULL);
    }
}

/* ---- the handler ---- */

static void
on_start(struct client *client)
{
    client->lease.ops = &relay_ops;
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
    stream_want_read(&lease->backend->stream, true);
    if (is_over(client, lease->backend)) {
        lease_return(lease, is_session);
        return;
    }
    lease->backend->duty.is_dirty = lease->backend->duty.is_dirty || is_session;
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
