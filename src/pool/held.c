/*
 * Unanswered requests of a backend. Called by client/intake (what is forwarded), client/deliver
 * (what comes back) and client/loss (facts, when the backend died); calls wire/sql for the latter
 * only.
 *
 *    forwarded:  [P B D E S][Q][P B ...      held_add     ring of requests, one run of their bytes
 *    answered:    1 2 T D C Z                held_answered drops the oldest and its bytes
 */
#include "pool/held.h"

#include "base/mem.h"
#include "base/state.h"
#include "pool/retry.h"
#include "wire/sql.h"

#include <string.h>

/* More of a buffer than this is not worth keeping for the next large request. */
enum
{
    BYTES_KEPT_MAX = 1 << 17,
    TOLD_MAX = 1 << 16
};

void
held_deinit(struct held *held)
{
    buf_deinit(&held->bytes);
    buf_deinit(&held->told);
    buf_deinit(&held->opening);
    free(held->ring);
    memset(held, 0, sizeof(*held));
}

static void
forget_replies(struct held *held)
{
    held->seen = 0;
    held->completions = 0;
    if (held->told.size > 0) {
        buf_deinit(&held->told);
    }
    held->repeated = 0;
}

void
held_clear(struct held *held)
{
    held->head = held->count = 0;
    held->is_blind = false;
    forget_replies(held);
    if (held->bytes.size > BYTES_KEPT_MAX) {
        buf_deinit(&held->bytes);
    } else {
        buf_clear(&held->bytes);
    }
}

static void
grow(struct held *held)
{
    uint32_t size = held->size == 0 ? 4 : held->size * 2;
    struct held_request *ring = mem_new(size * sizeof(*ring));

    for (uint32_t i = 0; i < held->count; i++) {
        ring[i] = *held_at(held, i);
    }
    free(held->ring);
    held->ring = ring;
    held->size = size;
    held->head = 0;
}

/* The request that this message belongs to. Copy data belongs to the newest, whole or not. */
static struct held_request *
request_of(struct held *held, uint8_t type)
{
    bool is_copy = type == MSG_COPY_DATA || type == MSG_COPY_DONE || type == MSG_COPY_FAIL;

    if (held->count > 0 && (is_copy || !held_at(held, held->count - 1)->is_whole)) {
        return held_at(held, held->count - 1);
    }
    if (held->count == held->size) {
        grow(held);
    }
    held->count++;
    struct held_request *request = held_at(held, held->count - 1);
    *request = (struct held_request){.first = type};
    return request;
}

/* What was kept of the newest request is of no use. */
static void
lose(struct held *held, struct held_request *request)
{
    held->bytes.end -= request->kept;
    request->kept = 0;
    request->is_lost = request->is_cut = true;
}

void
held_add(
    struct held *held, const struct message *message, const uint8_t *bytes, bool ends, size_t limit)
{
    struct held_request *request = request_of(held, message->type);
    bool is_simple = message->type == MSG_QUERY || message->type == MSG_FUNCTION_CALL;
    bool is_copy = message->type == MSG_COPY_DATA || message->type == MSG_COPY_DONE ||
                   message->type == MSG_COPY_FAIL;

    request->is_mixed = request->is_mixed || (is_simple && request->len > 0);
    request->executes = request->executes || is_simple || message->type == MSG_EXECUTE;
    request->len += message->len;
    request->is_whole = request->is_whole || ends;
    if (is_copy) {
        request->is_lost = true;
        return;
    }
    if (bytes == NULL || buf_len(&held->bytes) + message->len > limit) {
        lose(held, request);
    }
    if (!request->is_cut) {
        buf_add(&held->bytes, bytes, message->len);
        request->kept += message->len;
    }
}

void
held_add_bytes(struct held *held, int64_t bytes)
{
    held_at(held, held->count - 1)->len += (uint64_t)bytes;
}

void
held_answered(struct held *held)
{
    if (held->is_blind) {
        return;
    }
    if (held->count <= 1) {
        held_clear(held);
        return;
    }
    const struct held_request *oldest = held_at(held, 0);
    held->start += oldest->len;
    held->bytes.start += oldest->kept;
    held->head = (held->head + 1) & (held->size - 1);
    held->count--;
    forget_replies(held);
}

void
held_join(struct held *held)
{
    struct held_request *oldest = held->count > 0 ? held_at(held, 0) : NULL;

    if (held->count < 2) {
        if (oldest != NULL) {
            oldest->is_whole = false;
        }
        return;
    }
    struct held_request *next = held_at(held, 1);

    next->len += oldest->len;
    next->kept += oldest->kept;
    next->first = oldest->first;
    next->times = oldest->times;
    next->is_lost = next->is_lost || oldest->is_lost;
    next->is_cut = next->is_cut || oldest->is_cut;
    next->executes = next->executes || oldest->executes;
    next->is_mixed = true;
    held->head = (held->head + 1) & (held->size - 1);
    held->count--;
}

void
held_note_opening(struct held *held)
{
    buf_clear(&held->opening);
    if (held->count > 0 && !held_at(held, 0)->is_cut) {
        buf_add(&held->opening, buf_head(&held->bytes), held_at(held, 0)->kept);
    }
}

/* ---- replies ---- */

/* Replies that say nothing about what was done, and come again when the request does. */
static bool
is_preliminary(uint8_t type)
{
    return type == MSG_PARSE_COMPLETE || type == MSG_BIND_COMPLETE || type == MSG_CLOSE_COMPLETE ||
           type == MSG_PARAMETER_DESCRIPTION || type == MSG_ROW_DESCRIPTION || type == MSG_NO_DATA;
}

void
held_tell(struct held *held, const uint8_t *from, const uint8_t *to)
{
    size_t len = from < to ? (size_t)(to - from) : 0;
    struct message message;

    while (message_next(&from, &len, &message)) {
        if (is_preliminary(message.type)) {
            buf_add(&held->told, message.body - MESSAGE_HEADER, message.len);
            held->repeated += message.len;
        }
    }
    if (buf_len(&held->told) > TOLD_MAX) {
        held->seen |= SEEN_ROWS;
        buf_deinit(&held->told);
        held->repeated = 0;
    }
}

int
held_was_told(struct held *held, const struct message *message)
{
    size_t left = buf_len(&held->told) - held->repeated;

    if (left == 0 || !is_preliminary(message->type)) {
        return 0;
    }
    if (message->len > left || memcmp(buf_head(&held->told) + held->repeated,
                                   message->body - MESSAGE_HEADER, message->len) != 0) {
        return -1;
    }
    held->repeated += message->len;
    return 1;
}

/* ---- what the request says ---- */

/* What the statements of one request are, taken together. */
struct content
{
    unsigned statements, executes;
    bool is_unsure;                          /* there is a statement whose text is not here */
    bool is_abortable, is_read, is_rollback; /* each of them is */
    bool has_commit, has_rollback;           /* one of them is */
    const char *parsed, *portal; /* names of the last Parse and Bind of this request; NULL: none */
};

static void
add_text(struct content *content, const char *text, char status, bool has_backslash_escapes)
{
    struct sql_scanner scanner = sql_over(text, strlen(text), has_backslash_escapes);
    struct sql_statement statement;

    while (sql_next(&scanner, &statement)) {
        enum sql_kind kind = statement.kind;
        bool is_commit = kind == SQL_COMMIT || kind == SQL_PREPARE_TRANSACTION;
        content->statements++;
        content->is_read = content->is_read && kind == SQL_READ;
        content->is_abortable =
            content->is_abortable && (kind == SQL_READ || kind == SQL_WRITE || kind == SQL_BEGIN);
        /* In a failed transaction COMMIT rolls back too. */
        content->is_rollback = content->is_rollback && !statement.is_chain &&
                               (kind == SQL_ROLLBACK || (is_commit && status == 'E'));
        content->has_commit = content->has_commit || is_commit;
        content->has_rollback = content->has_rollback || kind == SQL_ROLLBACK;
    }
}

static void
add_message(
    struct content *content, const struct message *message, const struct held_walk *walk)
{
    char status = walk->status;
    bool escapes = walk->has_backslash_escapes;
    struct reader reader = reader_over(message->body, message->body_len);
    const char *name, *text;

    switch (message->type) {
    case MSG_QUERY:
        content->executes++;
        text = reader_string(&reader);
        content->is_unsure = content->is_unsure || !reader_is_done(&reader);
        add_text(content, text, status, escapes);
        break;
    case MSG_PARSE:
        content->parsed = reader_string(&reader);
        text = reader_string(&reader);
        content->is_unsure = content->is_unsure || reader.is_bad;
        add_text(content, text, status, escapes);
        break;
    case MSG_BIND:
        content->portal = reader_string(&reader);
        name = reader_string(&reader);
        content->is_unsure = content->is_unsure || reader.is_bad;
        if (content->parsed == NULL || strcmp(content->parsed, name) != 0) {
            text = walk->text_of != NULL ? walk->text_of(walk->arg, name) : NULL;
            content->is_unsure = content->is_unsure || text == NULL;
            add_text(content, text != NULL ? text : "", status, escapes);
        }
        break;
    case MSG_EXECUTE:
        content->executes++;
        name = reader_string(&reader);
        content->is_unsure = content->is_unsure || reader.is_bad || content->portal == NULL ||
                             strcmp(content->portal, name) != 0;
        break;
    case MSG_FUNCTION_CALL:
        /* Cannot end a transaction; but what it does outside of one is not known. */
        content->executes++;
        content->statements++;
        content->is_abortable = content->is_read = content->is_rollback = false;
        break;
    default:
        break;
    }
}

static struct content
read_content(const uint8_t *bytes, size_t len, const struct held_walk *walk)
{
    struct content content = {.is_abortable = true, .is_read = true, .is_rollback = true};
    struct message message;

    while (message_next(&bytes, &len, &message)) {
        add_message(&content, &message, walk);
    }
    return content;
}

static unsigned
content_facts(const struct content *content)
{
    bool is_lone = content->statements == 1 && content->executes == 1 && !content->is_unsure;
    bool is_rollback = is_lone && content->is_rollback;
    /* What follows a ROLLBACK runs, and commits, outside of the transaction. */
    bool has_exit = content->has_commit || (content->has_rollback && content->statements > 1);
    unsigned facts = 0;

    facts |= content->is_abortable && !content->is_unsure ? FACT_ABORTABLE : 0;
    facts |= is_lone && content->is_read ? FACT_LONE_READ : 0;
    facts |= is_rollback ? FACT_LONE_ROLLBACK : 0;
    facts |= is_lone && content->has_commit ? FACT_LONE_COMMIT : 0;
    if (content->executes > 0 && !is_rollback && (has_exit || content->is_unsure)) {
        facts |= FACT_MAY_COMMIT;
    }
    return facts;
}

struct held_walk
held_walk(const struct held *held, uint64_t sent, char status, bool escapes)
{
    return (struct held_walk){.held = held,
        .sent = sent,
        .status = status,
        .has_backslash_escapes = escapes,
        .start = held->start};
}

/* What is known without its text. */
static unsigned
outer_facts(const struct held_walk *walk, const struct held_request *request)
{
    const struct held *held = walk->held;
    bool is_simple = request->first == MSG_QUERY || request->first == MSG_FUNCTION_CALL;
    unsigned facts = FACT_IN_FLIGHT;

    facts |= is_simple ? 0 : FACT_EXTENDED;
    facts |= request->is_mixed ? FACT_MIXED : 0;
    facts |= request->times >= RETRY_TIMES_MAX ? FACT_WORN_OUT : 0;
    facts |= request->executes ? FACT_EXECUTES : 0;
    facts |= walk->sent <= walk->start ? FACT_UNSENT : 0;
    facts |= !request->is_whole || walk->sent < walk->start + request->len ? FACT_UNFINISHED : 0;
    if (walk->i == 0) {
        facts |= held->seen & SEEN_ROWS ? FACT_SHOWN : 0;
        facts |= held->seen & SEEN_COMPLETED ? FACT_COMPLETED : 0;
        facts |= held->seen == 0 ? FACT_FIRST : 0;
    }
    return facts;
}

unsigned
held_next_facts(struct held_walk *walk)
{
    const struct held *held = walk->held;

    if (walk->i >= held->count) {
        return 0;
    }
    const struct held_request *request = held_at(held, walk->i);
    unsigned facts = outer_facts(walk, request);
    bool is_known =
        !request->is_cut && !walk->is_unreadable && (!held->is_blind || held->count == 1);
    if (is_known) {
        struct content content =
            read_content(buf_head(&held->bytes) + walk->offset, request->kept, walk);
        facts |= content_facts(&content);
        /* A Query of several statements is one transaction: it ends before the last completion. */
        if (facts & FACT_LONE_ROLLBACK && walk->status == 'I') {
            facts &= ~(unsigned)FACT_EXECUTES; /* without a transaction it does nothing */
        }
        if (walk->i == 0 && held->completions < content.statements) {
            facts &= ~(unsigned)FACT_COMPLETED;
        }
    } else {
        facts |= FACT_MAY_COMMIT;
    }
    if (held->is_blind) {
        facts |= FACT_EXECUTES | FACT_SHOWN;
        facts &= ~(unsigned)(FACT_UNSENT | FACT_UNFINISHED | FACT_FIRST);
    } else if (!request->is_lost) {
        facts |= FACT_HELD;
    }
    walk->i++;
    walk->start += request->len;
    walk->offset += request->kept;
    return facts;
}

/* ---- the beginning of the transaction ---- */

const char *
held_modes(const struct held *held, size_t *len_out)
{
    const uint8_t *bytes = buf_head(&held->opening);
    size_t len = buf_len(&held->opening);
    struct message message;
    const char *modes = "";

    *len_out = 0;
    while (message_next(&bytes, &len, &message)) {
        struct reader reader = reader_over(message.body, message.body_len);
        if (message.type == MSG_PARSE) {
            reader_string(&reader);
        }
        const char *text =
            message.type == MSG_PARSE || message.type == MSG_QUERY ? reader_string(&reader) : "";
        struct sql_scanner scanner = sql_over(text, strlen(text), false);
        struct sql_statement statement;
        while (sql_next(&scanner, &statement)) {
            if (statement.kind == SQL_BEGIN) {
                modes = statement.modes;
                *len_out = statement.modes_len;
            }
        }
    }
    return modes;
}
