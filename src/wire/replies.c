/*
 * The reply queue. Called by pool/ (our own requests) and client/relay; calls nothing.
 *
 *    sent:  P  B  E  S  Q          came:  1 2 D D C Z    D C Z
 *    queue: ─────────────► head    each pops what it completes; an error drops all up to its Sync
 */
#include "wire/replies.h"

#include "base/mem.h"
#include "base/state.h"

enum
{
    OWNER_BITS = REPLY_FOR_US | REPLY_INSERTED,
    MARK_BIT = 0x20,
    KIND_MASK = 0x0f
};

void
replies_deinit(struct replies *replies)
{
    free(replies->ring);
    memset(replies, 0, sizeof(*replies));
}

static uint8_t *
entry(const struct replies *replies, uint32_t i)
{
    return &replies->ring[(replies->head + i) & (replies->size - 1)];
}

static enum reply_kind
kind_at(const struct replies *replies, uint32_t i)
{
    return (enum reply_kind)(*entry(replies, i) & KIND_MASK);
}

static void
grow(struct replies *replies)
{
    uint32_t size = replies->size == 0 ? 16 : replies->size * 2;
    uint8_t *ring = mem_new(size);

    for (uint32_t i = 0; i < replies->count; i++) {
        ring[i] = *entry(replies, i);
    }
    free(replies->ring);
    replies->ring = ring;
    replies->size = size;
    replies->head = 0;
}

static void
append(struct replies *replies, enum reply_kind kind, enum reply_owner owner)
{
    if (replies->count == replies->size) {
        grow(replies);
    }
    replies->count++;
    *entry(replies, replies->count - 1) = (uint8_t)kind | (uint8_t)owner;
}

static void
drop_head(struct replies *replies)
{
    enum reply_kind kind = kind_at(replies, 0);

    replies->marks += (*entry(replies, 0) & MARK_BIT) != 0;
    replies->columns += kind == REPLY_COLUMNS;
    replies->answered += kind == REPLY_SYNC || kind == REPLY_STRAY_SYNC;
    replies->head = (replies->head + 1) & (replies->size - 1);
    replies->count--;
}

/* What has no reply never waits at the head. */
static void
pop(struct replies *replies)
{
    drop_head(replies);
    replies->has_answered = false;
    while (replies->count > 0 && kind_at(replies, 0) >= REPLY_COPY_DATA) {
        drop_head(replies);
    }
}

void
replies_push(struct replies *replies, enum reply_kind kind, enum reply_owner owner)
{
    if (kind == REPLY_SYNC && replies->copy == COPY_IN) {
        if (!replies->has_data) {
            return; /* read and ignored: what PostgreSQL waits for is still to come */
        }
        kind = REPLY_STRAY_SYNC;
    }
    replies->group += kind == REPLY_SYNC || kind == REPLY_STRAY_SYNC;
    replies->is_open = kind <= REPLY_EXECUTE;
    replies->opened = replies->is_open ? replies->opened + 1 : 0;
    /* After an error PostgreSQL discards everything up to the next Sync, Query included. */
    if (replies->is_skipping && kind != REPLY_SYNC) {
        return;
    }
    replies->is_skipping = false;
    if (replies->count == 1 && kind_at(replies, 0) == REPLY_STRAY_SYNC) {
        replies->credits++; /* of a COPY that failed: perhaps it was read before that */
        pop(replies);
    }
    append(replies, kind, owner);
}

void
replies_mark(struct replies *replies)
{
    *entry(replies, replies->count - 1) |= MARK_BIT;
}

bool
replies_is_marked(const struct replies *replies)
{
    return replies->count > 0 && (*entry(replies, 0) & MARK_BIT) != 0;
}

/* ---- what a client may send, and what it is answered with ---- */

enum
{
    ANSWER_NONE = 0x20,
    ANSWER_COPY_DATA = 0x21,
    ANSWER_COPY_END = 0x22,
    ANSWER_FORBIDDEN = 0
};

static const uint8_t answers[256] = {
    [MSG_PARSE] = REPLY_PARSE + 1,
    [MSG_BIND] = REPLY_BIND + 1,
    [MSG_CLOSE] = REPLY_CLOSE + 1,
    [MSG_DESCRIBE] = REPLY_DESCRIBE + 1,
    [MSG_EXECUTE] = REPLY_EXECUTE + 1,
    [MSG_SYNC] = REPLY_SYNC + 1,
    [MSG_QUERY] = REPLY_QUERY + 1,
    [MSG_FUNCTION_CALL] = REPLY_FUNCTION + 1,
    [MSG_FLUSH] = ANSWER_NONE,
    [MSG_COPY_DATA] = ANSWER_COPY_DATA,
    [MSG_COPY_DONE] = ANSWER_COPY_END,
    [MSG_COPY_FAIL] = ANSWER_COPY_END,
};

bool
replies_may_send(uint8_t type)
{
    return answers[type] != ANSWER_FORBIDDEN;
}

/* Data of a COPY, or their end: perhaps before it is known whether PostgreSQL wants them. */
static void
note_copy(struct replies *replies, enum reply_kind kind)
{
    if (replies->copy == COPY_IN) {
        replies->has_data = true;
        replies->copy = kind == REPLY_COPY_END ? COPY_ENDS : COPY_IN;
    } else if (replies->copy != COPY_BOTH && !replies->is_skipping && replies->count > 0 &&
               (kind == REPLY_COPY_END || kind_at(replies, replies->count - 1) != kind)) {
        /* Of a later COPY, also while one runs that has all its data. Each has an end. */
        append(replies, kind, REPLY_FOR_CLIENT);
    }
}

bool
replies_sent(struct replies *replies, uint8_t type)
{
    uint8_t answer = answers[type];

    if (answer == ANSWER_FORBIDDEN) {
        return false;
    }
    if (answer == ANSWER_COPY_DATA || answer == ANSWER_COPY_END) {
        note_copy(replies, answer == ANSWER_COPY_END ? REPLY_COPY_END : REPLY_COPY_DATA);
    }
    if (answer < ANSWER_NONE) {
        replies_push(replies, (enum reply_kind)(answer - 1), REPLY_FOR_CLIENT);
    }
    return true;
}

/* ---- what comes back ---- */

#define ON(kind) (1u << (kind))

enum
{
    PARSES = ON(REPLY_PARSE) | ON(REPLY_PARSE_UNNAMED),
    DESCRIBES = ON(REPLY_DESCRIBE) | ON(REPLY_COLUMNS),
    EXTENDED = PARSES | DESCRIBES | ON(REPLY_BIND) | ON(REPLY_CLOSE) | ON(REPLY_EXECUTE) |
               ON(REPLY_SYNC) | ON(REPLY_STRAY_SYNC),
    RUNS = ON(REPLY_EXECUTE) | ON(REPLY_QUERY),
};

/* Which heads of the queue a reply may answer, and which of them it completes. */
static const struct expectation
{
    uint16_t answers;
    uint16_t completes;
} expectations[256] = {
    [MSG_PARSE_COMPLETE] = {PARSES, PARSES},
    [MSG_BIND_COMPLETE] = {ON(REPLY_BIND), ON(REPLY_BIND)},
    [MSG_CLOSE_COMPLETE] = {ON(REPLY_CLOSE), ON(REPLY_CLOSE)},
    [MSG_PARAMETER_DESCRIPTION] = {DESCRIBES, 0},
    [MSG_ROW_DESCRIPTION] = {DESCRIBES | ON(REPLY_QUERY), DESCRIBES},
    [MSG_NO_DATA] = {DESCRIBES, DESCRIBES},
    [MSG_DATA_ROW] = {RUNS, 0},
    [MSG_COMMAND_COMPLETE] = {RUNS, ON(REPLY_EXECUTE)},
    [MSG_EMPTY_QUERY] = {RUNS, ON(REPLY_EXECUTE)},
    [MSG_PORTAL_SUSPENDED] = {ON(REPLY_EXECUTE), ON(REPLY_EXECUTE)},
    [MSG_COPY_IN] = {RUNS, 0},
    [MSG_COPY_OUT] = {RUNS, 0},
    [MSG_COPY_BOTH] = {RUNS, 0},
    [MSG_COPY_DATA] = {RUNS, 0},
    [MSG_COPY_DONE] = {RUNS, 0},
    [MSG_FUNCTION_RESULT] = {ON(REPLY_FUNCTION), 0},
    [MSG_READY] = {ON(REPLY_SYNC) | ON(REPLY_QUERY) | ON(REPLY_FUNCTION) | ON(REPLY_STRAY_SYNC),
        ON(REPLY_SYNC) | ON(REPLY_QUERY) | ON(REPLY_FUNCTION) | ON(REPLY_STRAY_SYNC)},
    [MSG_ERROR] = {EXTENDED | ON(REPLY_QUERY) | ON(REPLY_FUNCTION), 0},
    [MSG_NOTICE] = {EXTENDED | ON(REPLY_QUERY) | ON(REPLY_FUNCTION), 0},
    [MSG_NOTIFICATION] = {EXTENDED | ON(REPLY_QUERY) | ON(REPLY_FUNCTION), 0},
    [MSG_PARAMETER_STATUS] = {EXTENDED | ON(REPLY_QUERY) | ON(REPLY_FUNCTION), 0},
};

/* Moves the entries from `from` on to `to`, over those in between. */
static void
close_gap(struct replies *replies, uint32_t to, uint32_t from)
{
    if (to == from) {
        return;
    }
    while (from < replies->count) {
        *entry(replies, to++) = *entry(replies, from++);
    }
    replies->count = to;
}

/* A COPY from the client began. PostgreSQL reads what was sent behind it up to the end of the data:
 * Syncs in front of them are ignored, those among them are unless the COPY fails before. An ignored
 * one ended nothing: if it was the last, another must come. */
static void
begin_copy(struct replies *replies)
{
    bool was_ignored = false;
    uint32_t i = 1, kept = 1;

    replies->copy = COPY_IN;
    replies->has_data = false;
    for (; i < replies->count && replies->copy == COPY_IN; i++) {
        enum reply_kind kind = kind_at(replies, i);
        if (kind == REPLY_SYNC && replies->has_data) {
            *entry(replies, kept++) =
                (uint8_t)((*entry(replies, i) & ~KIND_MASK) | REPLY_STRAY_SYNC);
        } else if (kind == REPLY_SYNC || kind == REPLY_COPY_DATA || kind == REPLY_COPY_END) {
            replies->has_data = replies->has_data || kind != REPLY_SYNC;
            replies->answered += kind == REPLY_SYNC;
            was_ignored = was_ignored || kind == REPLY_SYNC;
            replies->copy = kind == REPLY_COPY_END ? COPY_ENDS : COPY_IN;
        } else {
            break;
        }
    }
    close_gap(replies, kept, i);
    if (was_ignored && kept == replies->count && kind_at(replies, 0) == REPLY_EXECUTE) {
        replies->is_open = true;
        replies->opened = replies->count;
    }
}

/* The Syncs among the data, directly behind the head; returns how many. */
static uint32_t
drop_strays(struct replies *replies)
{
    uint32_t strays = 0;

    while (strays + 1 < replies->count && kind_at(replies, strays + 1) == REPLY_STRAY_SYNC) {
        strays++;
    }
    replies->answered += strays;
    close_gap(replies, 1, 1 + strays);
    return strays;
}

static bool
is_clients_unnamed(const struct replies *replies)
{
    return kind_at(replies, 0) == REPLY_PARSE_UNNAMED && !(*entry(replies, 0) & OWNER_BITS);
}

/* An error skips to the Sync of its request; the Query and FunctionCall protocols end by
 * themselves. */
static void
skip_to_sync(struct replies *replies)
{
    while (replies->count > 0 && kind_at(replies, 0) != REPLY_SYNC) {
        /* The last Sync among the data of the COPY that fails now: answered, or read before. Then
         * another must come. */
        if (kind_at(replies, 0) == REPLY_STRAY_SYNC && replies->count == 1) {
            replies->is_skipping = true;
            return;
        }
        replies->skipped +=
            kind_at(replies, 0) == REPLY_QUERY || kind_at(replies, 0) == REPLY_FUNCTION;
        replies->credits += kind_at(replies, 0) == REPLY_STRAY_SYNC;
        replies->skipped_unnamed = replies->skipped_unnamed || is_clients_unnamed(replies);
        pop(replies);
    }
    replies->is_skipping = replies->count == 0;
}

static void
follow_copy(struct replies *replies, uint8_t type)
{
    switch (type) {
    case MSG_COPY_IN:
        begin_copy(replies);
        break;
    case MSG_COPY_OUT:
        replies->copy = COPY_OUT;
        break;
    case MSG_COPY_BOTH:
        replies->copy = COPY_BOTH;
        break;
    case MSG_COMMAND_COMPLETE:
        if (replies->copy == COPY_ENDS || replies->copy == COPY_IN) {
            drop_strays(replies);
        }
        replies->copy = COPY_NONE;
        break;
    default:
        replies->copy = COPY_NONE;
        break;
    }
}

static void
take_error(struct replies *replies)
{
    enum reply_kind head = kind_at(replies, 0);
    bool was_copy = replies->copy == COPY_IN || replies->copy == COPY_ENDS;

    replies->copy = COPY_NONE;
    replies->skipped = 0;
    replies->failed_unnamed = is_clients_unnamed(replies);
    replies->skipped_unnamed = false;
    if (*entry(replies, 0) & REPLY_FOR_US) {
        replies->is_broken = true;
    }
    if (head != REPLY_QUERY && head != REPLY_FUNCTION) {
        replies->failures++;
        skip_to_sync(replies);
    } else if (was_copy) {
        replies->credits += drop_strays(replies);
    }
}

/* What changes beside the queue's head. */
static void
follow(struct replies *replies, const struct message *message)
{
    switch (message->type) {
    case MSG_COPY_IN:
    case MSG_COPY_OUT:
    case MSG_COPY_BOTH:
        follow_copy(replies, message->type);
        break;
    case MSG_COMMAND_COMPLETE:
        if (replies->copy != COPY_NONE) {
            follow_copy(replies, message->type);
        }
        break;
    case MSG_ERROR:
        take_error(replies);
        break;
    case MSG_READY:
        replies->copy = COPY_NONE;
        replies->is_skipping = replies->is_skipping && kind_at(replies, 0) != REPLY_STRAY_SYNC;
        break;
    default:
        break;
    }
}

static bool
is_status(const struct message *message)
{
    return message->body_len == 1 && memchr("ITE", message->body[0], 3) != NULL;
}

/* A ReadyForQuery that nothing waits for may be for a Sync among the data of a COPY that failed. */
static bool
use_credit(struct replies *replies, const struct message *message)
{
    unsigned ready = expectations[MSG_READY].answers & ~ON(REPLY_QUERY) & ~ON(REPLY_FUNCTION);
    bool is_awaited = replies->count > 0 &&
                      (replies->has_answered || ready & ON(kind_at(replies, 0)));

    if (replies->credits == 0 || is_awaited || !is_status(message)) {
        return false;
    }
    replies->credits--;
    replies->status = (char)message->body[0];
    return true;
}

enum reply_verdict
replies_take(struct replies *replies, const struct message *message)
{
    const struct expectation *expected = &expectations[message->type];
    bool is_async = message->type == MSG_NOTICE || message->type == MSG_NOTIFICATION ||
                    message->type == MSG_PARAMETER_STATUS;

    replies->marks = 0;
    replies->columns = 0;
    if (message->type == MSG_READY && use_credit(replies, message)) {
        return REPLY_FORWARD;
    }
    if (replies->count == 0) {
        return is_async ? REPLY_FORWARD : REPLY_UNEXPECTED;
    }
    unsigned head = ON(kind_at(replies, 0));
    unsigned owner = *entry(replies, 0) & OWNER_BITS;
    bool is_copy = message->type == MSG_COPY_DATA || message->type == MSG_COPY_DONE;
    bool is_copying = replies->copy == COPY_OUT || replies->copy == COPY_BOTH;
    if (!(expected->answers & head) || (is_copy && !is_copying)) {
        return REPLY_UNEXPECTED;
    }
    if (message->type == MSG_READY) {
        /* The end of a Query or FunctionCall that nothing was said of belongs to something else. */
        bool is_early = !replies->has_answered && head & (ON(REPLY_QUERY) | ON(REPLY_FUNCTION));
        if (!is_status(message) || is_early) {
            return REPLY_UNEXPECTED;
        }
        replies->status = (char)message->body[0];
    }
    /* What answers a later request tells that no Sync before it is still to be answered. */
    if (!replies->has_answered && !is_async && message->type != MSG_READY) {
        replies->credits = 0;
    }
    replies->has_answered = replies->has_answered || !is_async;
    follow(replies, message);
    if (expected->completes & head) {
        pop(replies);
    }
    if (owner == REPLY_INSERTED &&
        (message->type == MSG_ERROR || message->type == MSG_PARAMETER_STATUS)) {
        return REPLY_FORWARD;
    }
    return owner != 0 && message->type != MSG_NOTIFICATION ? REPLY_SWALLOW : REPLY_FORWARD;
}

uint32_t
replies_owed(const struct replies *replies)
{
    uint32_t owed = 0;

    for (uint32_t i = 0; i < replies->count; i++) {
        enum reply_kind kind = kind_at(replies, i);
        owed += kind == REPLY_SYNC || kind == REPLY_QUERY || kind == REPLY_FUNCTION;
    }
    return owed;
}

bool
replies_is_ours(const struct replies *replies)
{
    return replies->count > 0 && (*entry(replies, 0) & REPLY_FOR_US) != 0;
}

bool
replies_is_unsure(const struct replies *replies)
{
    return replies->count == 0 ? replies->credits > 0
                               : kind_at(replies, replies->count - 1) == REPLY_STRAY_SYNC;
}

void
replies_orphan(struct replies *replies)
{
    for (uint32_t i = 0; i < replies->count; i++) {
        *entry(replies, i) |= REPLY_FOR_US;
    }
}
