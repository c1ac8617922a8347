/*
 * From the backend to the client. Called by relay and login; calls the reply queue for each message
 * and writes what is for the client in as few pieces as possible.
 */
#include "client/deliver.h"

#include "base/state.h"
#include "base/stats.h"
#include "client/follow.h"
#include "client/limits.h"
#include "client/listening.h"
#include "client/loss.h"
#include "client/session.h"

static void
count_request(struct client *client)
{
    struct pool_counts *counts = &client->lease.side->counts;
    struct pool_times *times = client->lease.side->times;
    int64_t now_us = loop_now_us(client->crowd->pool.loop);

    client->relay.was_served = true;
    client->relay.is_cancelled = false;
    loss_note_answer(client);
    counts->queries++;
    counts->query_us += (uint64_t)(now_us - client->relay.request_us);
    histogram_add(&times->query, now_us - client->relay.request_us);
    stats_add(METRIC_queries_total, 1);
    client->relay.request_us = now_us;
    if (client->lease.backend->replies.status == 'I') {
        counts->transactions++;
        counts->transaction_us += (uint64_t)(now_us - client->relay.transaction_us);
        histogram_add(&times->transaction, now_us - client->relay.transaction_us);
        stats_add(METRIC_transactions_total, 1);
        client->relay.transaction_us = now_us;
    }
}

/* What a reply tells about the request that it answers. */
static const uint8_t seen_by[256] = {
    [MSG_DATA_ROW] = SEEN_ROWS,
    [MSG_PORTAL_SUSPENDED] = SEEN_ROWS,
    [MSG_COPY_IN] = SEEN_ROWS,
    [MSG_COPY_OUT] = SEEN_ROWS,
    [MSG_COPY_BOTH] = SEEN_ROWS,
    [MSG_COPY_DATA] = SEEN_ROWS,
    [MSG_COPY_DONE] = SEEN_ROWS,
    [MSG_COMMAND_COMPLETE] = SEEN_ROWS | SEEN_COMPLETED,
    [MSG_EMPTY_QUERY] = SEEN_ROWS | SEEN_COMPLETED,
    [MSG_FUNCTION_RESULT] = SEEN_ROWS | SEEN_COMPLETED,
    [MSG_ERROR] = SEEN_ROWS | SEEN_ERROR,
};

/* One read of a backend on its way to the client. */
struct passage
{
    uint8_t *data, *end;
    const uint8_t *span;  /* from here on nothing was forwarded yet */
    const uint8_t *reply; /* here begin, in this read, the replies to the oldest request */
    unsigned seen;        /* SEEN_ bits of the oldest, of this read */
    bool is_explained;    /* the present message was replaced by words of ours */
};

/* The books that follow the replies: what is held for sending again, what was counted. */
static enum reply_verdict
keep_books(struct passage *passage, struct client *client, const struct message *message)
{
    struct backend *backend = client->lease.backend;
    struct held *held = &backend->held;

    passage->seen |= SEEN_ANYTHING | seen_by[message->type];
    held->completions += (seen_by[message->type] & SEEN_COMPLETED) != 0;
    switch (message->type) {
    case MSG_ERROR:
        for (; backend->replies.skipped > 0; backend->replies.skipped--) {
            held_join(held);
        }
        return REPLY_FORWARD;
    case MSG_COPY_IN:
    case MSG_COPY_BOTH:
        held->is_blind = true;
        return REPLY_FORWARD;
    case MSG_READY:
        count_request(client);
        passage->seen = 0;
        passage->reply = passage->data + message->len;
        if (replies_is_empty(&backend->replies) && !backend->replies.is_open) {
            held_clear(held);
        } else {
            held_answered(held);
        }
        /* The FATAL that follows takes its place. */
        return backend->replies.status != 'I' &&
                       pool_policy(client->lease.side)->mode == POOL_STATEMENT
                   ? REPLY_SWALLOW
                   : REPLY_FORWARD;
    default:
        return REPLY_FORWARD;
    }
}

static void
forward_to_client(struct client *client, const uint8_t *data, size_t len)
{
    if (len > 0) {
        client->lease.side->counts.sent += len;
        stats_add(METRIC_bytes_sent_total, len);
        stream_write(&client->stream, data, len);
    }
}

/* What a reply tells about names of statements. */
static void
follow_names(struct passage *passage, struct client *client, struct message *message,
    const struct follow_facts *reply)
{
    struct buf instead = {0};

    switch (follow_reply(client, message, reply, &instead)) {
    case FOLLOW_NOTHING:
        break;
    case FOLLOW_PARSED:
        message->type = passage->data[0] = MSG_PARSE_COMPLETE;
        break;
    case FOLLOW_EXPLAINED:
        forward_to_client(client, passage->span, (size_t)(passage->data - passage->span));
        passage->span = passage->data + message->len;
        passage->is_explained = true;
        client_send(client, &instead);
        break;
    }
}

/* Looks at one message and says what becomes of it. */
static enum reply_verdict
judge(struct passage *passage, struct client *client, struct message *message, bool is_whole)
{
    struct backend *backend = client->lease.backend;
    const char *name, *value;
    char before = backend->replies.status;

    if (message->type == MSG_READY && !is_whole) {
        return REPLY_UNEXPECTED;
    }
    struct follow_facts reply = {is_whole, replies_is_marked(&backend->replies)};
    enum reply_verdict verdict = backend_take(backend, message, is_whole);
    if (client->baggage->names.changes_count > 0 || message->type == MSG_ERROR) {
        follow_names(passage, client, message, &reply);
    }
    if (backend->prepared.changed != 0) {
        follow_columns(client);
    }
    if (client->baggage->listening != NULL && is_whole && listening_takes(client, message)) {
        return REPLY_SWALLOW;
    }
    if (verdict != REPLY_FORWARD) {
        if (message->type == MSG_PARAMETER_STATUS && verdict == REPLY_SWALLOW && is_whole) {
            backend_note_parameter(backend, message, &name, &value);
        }
        if (client->state == CLIENT_LOOKING && !listening_is_moving(client)) {
            session_reply(client, message, is_whole);
        }
        return verdict;
    }
    if (message->type == MSG_PARAMETER_STATUS && is_whole &&
        backend_note_parameter(backend, message, &name, &value)) {
        loss_note_setting(client);
        session_note_setting(client);
        vars_put(&client->vars, name, value);
    }
    if (message->type == MSG_READY && before == 'I' && backend->replies.status == 'T') {
        held_note_opening(&backend->held);
    }
    if (buf_len(&backend->held.told) > 0 && is_whole) {
        int was_told = held_was_told(&backend->held, message);
        if (was_told < 0) {
            return REPLY_UNEXPECTED;
        }
        if (was_told > 0) {
            passage->reply = passage->data + message->len;
            return REPLY_SWALLOW;
        }
    }
    return keep_books(passage, client, message);
}

/* Bytes of a large message of the backend; the span moves over them when nobody gets them. */
static void
pass_backend_rest(struct passage *passage, struct client *client, struct backend *backend)
{
    size_t len = (size_t)(passage->end - passage->data);
    size_t rest = backend->skip_len < len ? backend->skip_len : len;

    backend->skip_len -= (uint32_t)rest;
    passage->data += rest;
    passage->reply = passage->data;
    if (!client->relay.passes_backend_rest) {
        passage->span = passage->data;
    }
}

/* PostgreSQL says goodbye, or that it may not write any more. What it said before of the request
 * that it answers now stays here: that request may be sent again. */
static bool
is_last_word(struct client *client, const struct message *message, bool is_whole, struct fail *fail)
{
    struct backend *backend = client->lease.backend;

    if (message->type != MSG_ERROR || !is_whole) {
        return false;
    }
    if (backend_note_error(backend, message)) {
        *fail = *backend->last_fail;
        return true;
    }
    return loss_is_refusal(client, message, fail);
}

/* The answer to a cancel request of ours: the client is told which limit was over instead. */
static void
explain_limit(struct passage *passage, struct client *client, const struct message *message)
{
    struct buf instead = {0};

    if (limits_explain(client, message, &instead)) {
        forward_to_client(client, passage->span, (size_t)(passage->data - passage->span));
        passage->span = passage->data + message->len;
        client_send(client, &instead);
    }
}

/* What was read and not forwarded yet goes to the client, and is remembered as told. */
static void
forward_so_far(struct passage *passage, struct client *client)
{
    struct held *held = &client->lease.backend->held;

    forward_to_client(client, passage->span, (size_t)(passage->data - passage->span));
    if (held->count > 0) {
        held->seen |= passage->seen;
        if (!(held->seen & SEEN_ROWS)) {
            held_tell(held, passage->reply, passage->data);
        }
    }
}

/* Forwards whole messages in as few writes as possible. False with the reason when the backend has
 * said its last word or lost its place. */
static bool
forward_messages(struct passage *passage, struct client *client, struct fail *fail)
{
    struct backend *backend = client->lease.backend;
    struct message message;
    size_t most;

    loop_scratch(client->crowd->pool.loop, &most);
    while (passage->data < passage->end) {
        size_t len = (size_t)(passage->end - passage->data);
        enum message_result result = message_peek(passage->data, len, &message);
        bool is_whole = result == MESSAGE_OK && message_is_complete(&message, len);
        if (result == MESSAGE_MORE || (result == MESSAGE_OK && !is_whole && message.len <= most)) {
            break;
        }
        if (result == MESSAGE_OK && is_last_word(client, &message, is_whole, fail)) {
            return false;
        }
        if (result == MESSAGE_OK && message.type == MSG_ERROR && is_whole &&
            client->relay.expired != LIMIT_NONE) {
            explain_limit(passage, client, &message);
        }
        enum reply_verdict verdict =
            result == MESSAGE_BAD ? REPLY_UNEXPECTED : judge(passage, client, &message, is_whole);
        if (verdict == REPLY_UNEXPECTED) {
            return fail_set(
                fail, "08P01", "unexpected message '%c' from the server", passage->data[0]);
        }
        size_t step = is_whole ? message.len : len;
        if (verdict == REPLY_SWALLOW) {
            forward_so_far(passage, client);
            passage->span = passage->reply = passage->data + step;
        }
        if (passage->is_explained) {
            backend->held.seen |= passage->seen;
            passage->reply = passage->data + step;
            passage->is_explained = false;
        }
        backend->skip_len = is_whole ? 0 : message.len - (uint32_t)step;
        client->relay.passes_backend_rest = verdict == REPLY_FORWARD;
        passage->seen |= is_whole ? 0 : SEEN_ROWS;
        passage->data += step;
    }
    return true;
}

/* The end of a read: what was forwarded of an unfinished answer is remembered. */
static void
finish_passage(struct passage *passage, struct client *client)
{
    struct backend *backend = client->lease.backend;

    forward_so_far(passage, client);
    if (passage->data < passage->end) {
        stream_keep(&backend->stream, passage->data, (size_t)(passage->end - passage->data));
    }
}

static bool
pass_on(struct client *client, uint8_t *data, size_t len, struct fail *fail)
{
    struct backend *backend = client->lease.backend;
    struct passage passage = {
        .data = data, .end = data + len, .span = data, .reply = data, .seen = 0};

    pass_backend_rest(&passage, client, backend);
    if (!forward_messages(&passage, client, fail)) {
        /* Answers of earlier requests of this read are complete; this one's are not. */
        bool has_answers = passage.reply > passage.span;
        forward_to_client(
            client, passage.span, has_answers ? (size_t)(passage.reply - passage.span) : 0);
        backend->held.is_withheld = passage.data > passage.reply;
        backend->held.seen |= passage.seen & (SEEN_ANYTHING | SEEN_COMPLETED);
        /* For who drains a backend that lives. */
        stream_keep(&backend->stream, passage.data, (size_t)(passage.end - passage.data));
        return false;
    }
    finish_passage(&passage, client);
    return true;
}

bool
deliver(struct client *client, struct backend *backend, struct fail *fail)
{
    uint8_t *data;
    size_t len;

    switch (stream_read(&backend->stream, &data, &len)) {
    case STREAM_OK:
        return pass_on(client, data, len, fail);
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
