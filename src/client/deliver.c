/*
 * From the backend to the client. Called by relay and login; calls the reply queue for each message
 * and writes what is for the client in as few pieces as possible.
 */
#include "client/deliver.h"

#include "base/state.h"

static void
count_request(struct client *client)
{
    struct pool_counts *counts = &client->lease.side->counts;
    int64_t now_us = loop_now_us(client->crowd->pool.loop);

    counts->queries++;
    counts->query_us += (uint64_t)(now_us - client->relay.request_us);
    client->relay.request_us = now_us;
    if (client->lease.backend->replies.status == 'I') {
        counts->transactions++;
        counts->transaction_us += (uint64_t)(now_us - client->relay.transaction_us);
        client->relay.transaction_us = now_us;
    }
}

/* Looks at one whole message and says what becomes of it. FATAL errors are not forwarded: what they
 * mean for the client is known when the stream has ended. */
static enum reply_verdict
judge(struct backend *backend, struct client *client, const struct message *message, bool is_whole)
{
    const char *name, *value;

    if (message->type == MSG_ERROR && is_whole && backend_note_error(backend, message)) {
        return REPLY_SWALLOW;
    }
    if (message->type == MSG_READY && !is_whole) {
        return REPLY_UNEXPECTED;
    }
    enum reply_verdict verdict = replies_take(&backend->replies, message);
    if (verdict == REPLY_UNEXPECTED) {
        return verdict;
    }
    if (message->type == MSG_PARAMETER_STATUS && is_whole &&
        backend_note_parameter(backend, message, &name, &value) && verdict == REPLY_FORWARD) {
        vars_put(&client->vars, name, value);
    }
    if (message->type == MSG_READY && verdict == REPLY_FORWARD) {
        count_request(client);
        /* The FATAL that follows takes its place. */
        bool is_refused = backend->replies.status != 'I' &&
                          pool_policy(client->lease.side)->mode == POOL_STATEMENT;
        verdict = is_refused ? REPLY_SWALLOW : verdict;
    }
    return verdict;
}

static void
forward_to_client(struct client *client, const uint8_t *data, size_t len)
{
    if (len > 0) {
        client->lease.side->counts.sent += len;
        stream_write(&client->stream, data, len);
    }
}

/* Bytes of a large message of the backend; *span_inout moves over them when nobody gets them. */
static const uint8_t *
pass_backend_rest(struct client *client, struct backend *backend, const uint8_t *data,
    const uint8_t *end, const uint8_t **span)
{
    size_t len = (size_t)(end - data);
    size_t rest = backend->skip_len < len ? backend->skip_len : len;

    backend->skip_len -= (uint32_t)rest;
    if (!client->relay.passes_backend_rest) {
        *span = data + rest;
    }
    return data + rest;
}

/* Forwards a backend's whole messages in as few writes as possible; keeps the tail. False with the
 * reason when the backend has lost its place. */
static bool
forward_messages(struct client *client, struct backend *backend, const uint8_t *data,
    const uint8_t *end, struct fail *fail)
{
    const uint8_t *span = data;
    struct message message;
    size_t most;

    loop_scratch(client->crowd->pool.loop, &most);
    data = pass_backend_rest(client, backend, data, end, &span);
    while (data < end) {
        enum message_result result = message_peek(data, (size_t)(end - data), &message);
        bool is_whole = result == MESSAGE_OK && message_is_complete(&message, (size_t)(end - data));
        if (result == MESSAGE_MORE || (result == MESSAGE_OK && !is_whole && message.len <= most)) {
            break;
        }
        enum reply_verdict verdict =
            result == MESSAGE_BAD ? REPLY_UNEXPECTED : judge(backend, client, &message, is_whole);
        if (verdict == REPLY_UNEXPECTED) {
            return fail_set(fail, "08P01", "unexpected message '%c' from the server", data[0]);
        }
        size_t step = is_whole ? message.len : (size_t)(end - data);
        if (verdict == REPLY_SWALLOW) {
            forward_to_client(client, span, (size_t)(data - span));
            span = data + step;
        }
        backend->skip_len = is_whole ? 0 : message.len - (uint32_t)step;
        client->relay.passes_backend_rest = verdict == REPLY_FORWARD;
        data += step;
    }
    forward_to_client(client, span, (size_t)(data - span));
    if (data < end) {
        stream_keep(&backend->stream, data, (size_t)(end - data));
    }
    return true;
}

bool
deliver(struct client *client, struct backend *backend, struct fail *fail)
{
    uint8_t *data;
    size_t len;

    switch (stream_read(&backend->stream, &data, &len)) {
    case STREAM_OK:
        return forward_messages(client, backend, data, data + len, fail);
    case STREAM_WAIT:
        return true;
    case STREAM_EOF:
    case STREAM_ERROR:
        break;
    }
    backend_loss(backend, fail);
    return false;
}

bool
deliver_own(struct lease *lease, unsigned what, struct fail *fail)
{
    struct client *client = (struct client *)((char *)lease - offsetof(struct client, lease));
    struct backend *backend = lease->backend;

    if (what & WATCH_WRITE) {
        stream_flush(&backend->stream);
    }
    return !(what & WATCH_READ) || deliver(client, backend, fail);
}
