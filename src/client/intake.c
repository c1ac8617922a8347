/*
 * The way in. Called by client/relay with what one read brought; calls the reply queue and the held
 * requests for each message, and writes what is for the backend in as few pieces as possible.
 *
 * What becomes of a message depends on where the client stands: without a backend one is obtained,
 * in a failed transaction it is answered here, behind a refused request it is dropped.
 */
#include "client/intake.h"

#include "base/state.h"
#include "base/stats.h"
#include "client/aborted.h"
#include "client/limits.h"
#include "client/loss.h"
#include "client/provide.h"
#include "client/relay.h"
#include "client/rewrite.h"
#include "client/session.h"
#include "client/wait.h"

enum
{
    PREPARED_MAX = 1 << 24
};

enum gate
{
    GATE_FORWARD, /* goes with the others */
    GATE_DROP,    /* means nothing now, or was answered here */
    GATE_RUN,     /* was answered here, and something is to be done before the next */
    GATE_WAIT,    /* no backend yet: keep it */
    GATE_STOP,    /* the client is gone or closing */
};

/* The client's bytes of one read on their way to the backend. */
struct intake
{
    const uint8_t *data, *end;
    const uint8_t *span; /* from here on nothing was forwarded yet */
    size_t skip;         /* bytes of the present message that something else was written for */
    bool must_run;       /* aborted_run() before the rest */
};

/* Sends what was taken of this read, in one write. */
static void
forward_to_backend(struct client *client, const struct intake *intake)
{
    struct buf *rewritten = &client->crowd->rewritten;
    struct stream *stream = &client->lease.backend->stream;
    const uint8_t *data = intake->span;
    size_t len = (size_t)(intake->data - data);

    if (buf_len(rewritten) > 0) {
        buf_add(rewritten, data, len);
        data = buf_head(rewritten);
        len = buf_len(rewritten);
    }
    if (len > 0) {
        client->lease.side->counts.received += len;
        stats_add(METRIC_bytes_received_total, len);
        stream_write(stream, data, len);
    }
    buf_clear(rewritten);
}

/* Whatever this read brought before the present message is in the books already: it is sent, as on
 * a direct connection, or the backend would owe answers to what it never got. */
static void
reject(struct client *client, const struct intake *intake, const struct fail *fail)
{
    if (client->state == CLIENT_ACTIVE) {
        forward_to_backend(client, intake);
    }
    client_reject(client, fail);
}

static void
protocol_error(struct client *client, const struct intake *intake, const char *text)
{
    struct fail fail;

    stats_add(METRIC_protocol_errors_total, 1);
    fail_set(&fail, "08P01", "%s", text);
    reject(client, intake, &fail);
}

/* A text that is about to be run may leave something in the session. Where statements are followed
 * client/rewrite notes it, which reads the text too. */
static void
note_text(struct client *client, const struct message *message, bool is_whole)
{
    struct reader reader = reader_over(message->body, message->body_len);
    bool has_text = message->type == MSG_QUERY || message->type == MSG_PARSE;

    if (!has_text || client->follows_names || !client->watches_session ||
        client->lease.backend->replies.is_skipping) {
        return;
    }
    if (is_whole && message->type == MSG_PARSE) {
        reader_string(&reader); /* the name */
    }
    session_note(client, is_whole ? reader_string(&reader) : NULL);
}

/* Books a message that is about to be forwarded: what will answer it, and what is kept of it. */
static enum gate
book_message(struct client *client, struct intake *intake, const struct message *message)
{
    struct backend *backend = client->lease.backend;
    struct replies *replies = &backend->replies;
    struct held *held = &backend->held;
    struct rewrite rewrite = {.insert = &client->crowd->insert};
    uint32_t owed = replies->count;
    size_t len = (size_t)(intake->end - intake->data);
    enum rewrite_result result;

    if (rewrite_concerns(client, message->type)) {
        result = rewrite_take(client, message, len, &rewrite);
    } else {
        result = replies_sent(replies, message->type) ? REWRITE_DONE : REWRITE_BAD;
    }
    if (result == REWRITE_WAIT) {
        client->relay.is_backlogged = true;
        return GATE_WAIT;
    }
    if (result == REWRITE_BAD) {
        protocol_error(client, intake, "invalid frontend message type");
        return GATE_STOP;
    }
    bool ends = replies->count > owed && replies_ends_request(message->type);
    bool is_whole = message_is_complete(message, len);
    note_text(client, message, is_whole);
    if (held->count == 0) {
        held->start = backend->stream.offered;
    }
    held_add(held, message, is_whole ? message->body - MESSAGE_HEADER : NULL, ends,
        (size_t)client->crowd->pool.settings->retry_buffer);
    held_add_bytes(held, (int64_t)buf_len(rewrite.insert) - (int64_t)rewrite.skip);
    intake->skip = rewrite.skip;
    if (client->relay.loss != NULL) {
        loss_follow(client);
    }
    return GATE_FORWARD;
}

/* Left over from a COPY that has failed already, or nothing to flush. */
static bool
means_nothing(const struct client *client, uint8_t type)
{
    bool is_about_open_request = type == MSG_COPY_DATA || type == MSG_COPY_DONE ||
                                 type == MSG_COPY_FAIL || type == MSG_FLUSH;

    return is_about_open_request &&
           (client->state != CLIENT_ACTIVE || client->lease.backend->held.count == 0);
}

static enum gate
answer_in_failed_transaction(struct client *client, const struct intake *intake,
    const struct message *message, bool is_whole)
{
    if (!replies_may_send(message->type)) {
        protocol_error(client, intake, "invalid frontend message type");
        return GATE_STOP;
    }
    switch (aborted_take(client, message, is_whole)) {
    case ABORTED_ANSWERED:
        return GATE_DROP;
    case ABORTED_RUNS:
        return GATE_RUN;
    case ABORTED_OVER:
        break;
    }
    return GATE_FORWARD;
}

/* What becomes of one message of the client. */
static enum gate
admit_message(
    struct client *client, struct intake *intake, const struct message *message, bool is_whole)
{
    if (message->type == MSG_TERMINATE) {
        client->relay.is_leaving = true;
        return GATE_STOP;
    }
    if (client->relay.skipping != SKIP_NOTHING) {
        wait_skip_message(client, message->type);
        return GATE_DROP;
    }
    if (client->state == CLIENT_FAILED) {
        enum gate gate = answer_in_failed_transaction(client, intake, message, is_whole);
        if (gate != GATE_FORWARD) {
            return gate;
        }
    }
    if (means_nothing(client, message->type)) {
        return GATE_DROP;
    }
    if (client->state != CLIENT_ACTIVE) {
        if (!replies_may_send(message->type)) {
            protocol_error(client, intake, "invalid frontend message type");
            return GATE_STOP;
        }
        if (!relay_obtain_backend(client)) {
            return client->state < CLIENT_CLOSING ? GATE_WAIT : GATE_STOP;
        }
    }
    struct backend *backend = client->lease.backend;
    if (backend->replies.count >= REPLIES_MAX || backend->held.count >= HELD_MAX ||
        provide_is_deferring(client)) {
        client->relay.is_backlogged = true;
        return GATE_WAIT;
    }
    if (replies_is_empty(&backend->replies)) {
        if (limits_await_cancels(client)) {
            client->relay.is_backlogged = true;
            return GATE_WAIT;
        }
        client->relay.request_us = loop_now_us(client->crowd->pool.loop);
        if (backend->replies.status == 'I') {
            client->relay.transaction_us = client->relay.request_us;
        }
    }
    enum gate gate = book_message(client, intake, message);
    if (gate == GATE_FORWARD) {
        struct pool_counts *counts = &client->lease.side->counts;
        counts->client_parses += message->type == MSG_PARSE;
        counts->server_parses += message->type == MSG_PARSE && !client->follows_names;
        counts->binds += message->type == MSG_BIND;
    }
    return gate;
}

/* What stands in the place of the present message, or of its beginning, goes behind what was
 * forwarded of this read so far. */
static void
rewrite_message(struct client *client, struct intake *intake)
{
    struct buf *insert = &client->crowd->insert;
    struct buf *rewritten = &client->crowd->rewritten;

    if (buf_len(insert) == 0) {
        return;
    }
    buf_add(rewritten, intake->span, (size_t)(intake->data - intake->span));
    buf_add(rewritten, buf_head(insert), buf_len(insert));
    buf_clear(insert);
    intake->span = intake->data + intake->skip;
}

/* Bytes of a large message whose beginning was passed on already. */
static size_t
pass_rest(struct client *client, size_t len)
{
    size_t rest = client->relay.client_rest < len ? client->relay.client_rest : len;

    client->relay.client_rest -= (uint32_t)rest;
    return rest;
}

/* A statement that is to be prepared on other backends too must be here as a whole. */
static void
await_all(struct client *client, const struct intake *intake, const struct message *message,
    size_t most)
{
    if (message->len > PREPARED_MAX) {
        struct fail fail;
        fail_set(&fail, "54000", "prepared statement is larger than %d bytes", PREPARED_MAX);
        reject(client, intake, &fail);
    } else {
        loop_want_scratch(client->crowd->pool.loop, message->len + most);
    }
}

/* One message. False when it must wait, or nothing more is to be taken. */
static bool
take_message(struct client *client, struct intake *intake, size_t most)
{
    size_t len = (size_t)(intake->end - intake->data);
    struct message message;
    enum message_result result = message_peek(intake->data, len, &message);

    if (result == MESSAGE_BAD) {
        protocol_error(client, intake, "invalid message length");
        return false;
    }
    if (result == MESSAGE_OK && message.len > client->crowd->pool.settings->max_packet_size) {
        protocol_error(client, intake, "message is larger than max_packet_size");
        return false;
    }
    bool is_whole = result == MESSAGE_OK && message_is_complete(&message, len);
    if (!is_whole && (result == MESSAGE_MORE || message.len <= most)) {
        return false;
    }
    if (!is_whole && len > MESSAGE_HEADER && rewrite_needs_all(client, &message)) {
        await_all(client, intake, &message, most);
        return false;
    }
    intake->skip = 0;
    enum gate gate = admit_message(client, intake, &message, is_whole);
    if (gate == GATE_WAIT || client->state >= CLIENT_CLOSING) {
        return false;
    }
    size_t step = is_whole ? message.len : len;
    if (gate != GATE_FORWARD) {
        if (client->lease.backend != NULL) {
            forward_to_backend(client, intake);
        }
        intake->span = intake->data + step;
    } else {
        rewrite_message(client, intake);
    }
    client->relay.client_rest = is_whole ? 0 : message.len - (uint32_t)step;
    client->relay.drops_client_rest = gate == GATE_DROP || gate == GATE_RUN;
    intake->must_run = gate == GATE_RUN;
    intake->data += step;
    return gate != GATE_RUN;
}

enum intake_result
intake_take(struct client *client, const uint8_t *data, size_t len)
{
    struct intake intake = {.data = data, .end = data + len, .span = data};
    size_t most;

    /* Those of a client that was refused in the midst of a read are nobody's. */
    buf_clear(&client->crowd->insert);
    buf_clear(&client->crowd->rewritten);
    loop_scratch(client->crowd->pool.loop, &most);
    intake.data += pass_rest(client, len);
    if (client->relay.drops_client_rest) {
        intake.span = intake.data;
    }
    while (intake.data < intake.end && !client->relay.is_leaving &&
           take_message(client, &intake, most)) {
    }
    if (client->state >= CLIENT_CLOSING) {
        return INTAKE_OVER;
    }
    if (client->state == CLIENT_ACTIVE) {
        forward_to_backend(client, &intake);
    }
    if (intake.data < intake.end && !client->relay.is_leaving) {
        stream_keep(&client->stream, intake.data, (size_t)(intake.end - intake.data));
    }
    if (intake.must_run) {
        aborted_run(client);
        return INTAKE_AGAIN;
    }
    return INTAKE_TAKEN;
}
