/*
 * The failed transaction. Called by client/loss and the timeouts (begin) and by client/relay (each
 * message, while the client is FAILED); answers into the client's stream. PostgreSQL's rules are
 * those of exec_simple_query() and the like: "current transaction is aborted".
 *
 *    FAILED ── anything ──► 25P02           FAILED ── ROLLBACK, COMMIT ──► "ROLLBACK", IDLE
 *    FAILED ── ROLLBACK AND CHAIN ──► "ROLLBACK", IDLE ──► a backend, BEGIN ──► ReadyForQuery T
 */
#include "client/aborted.h"

#include "base/mem.h"
#include "base/state.h"
#include "client/follow.h"
#include "client/loss.h"
#include "client/tell.h"
#include "wire/message.h"
#include "wire/sql.h"

enum
{
    STATEMENTS_MAX = 16,
    NAME_SIZE = 64 /* PostgreSQL's own limit on names */
};

/* A statement or portal that the client made in here. */
struct aborted_name
{
    char name[NAME_SIZE];
    bool is_used, is_empty; /* an empty query */
    enum sql_kind kind;
    bool is_chain;
};

struct aborted
{
    struct fail reason;
    bool is_told;
    bool is_over;     /* the exit was answered; its request goes on up to Sync */
    bool wants_chain; /* a new transaction is to be opened */
    bool owes_ready;  /* ... and nothing but a ReadyForQuery is left to be said */
    struct aborted_name statements[STATEMENTS_MAX], portal;
    struct buf begin; /* owns: "BEGIN <modes>" */
    struct buf rest;  /* owns: what followed the exit in its Query, as a Query */
};

void
aborted_begin(struct client *client, const struct fail *reason, bool is_told, const char *modes,
    size_t modes_len)
{
    struct aborted *aborted = mem_new(sizeof(*aborted));

    aborted_end(client);
    aborted->reason = *reason;
    aborted->is_told = is_told;
    buf_print(&aborted->begin, "BEGIN %.*s", (int)modes_len, modes);
    buf_add_u8(&aborted->begin, 0);
    client->relay.aborted = aborted;
    client_become(client, CLIENT_FAILED);
}

void
aborted_end(struct client *client)
{
    if (client->relay.aborted != NULL) {
        buf_deinit(&client->relay.aborted->begin);
        buf_deinit(&client->relay.aborted->rest);
        free(client->relay.aborted);
        client->relay.aborted = NULL;
    }
}

const char *
aborted_chain(const struct client *client)
{
    const struct aborted *aborted = client->relay.aborted;

    return aborted != NULL && aborted->wants_chain ? (const char *)buf_head(&aborted->begin) : NULL;
}

bool
aborted_owes_ready(const struct client *client)
{
    return client->relay.aborted != NULL && client->relay.aborted->owes_ready;
}

/* ---- answers ---- */

static void
answer_simple(struct client *client, uint8_t type)
{
    struct buf buf = {0};

    message_add_simple(&buf, type);
    client_send(client, &buf);
}

static void
answer_ready(struct client *client, char status)
{
    struct buf buf = {0};

    message_add_ready(&buf, status);
    client_send(client, &buf);
}

void
aborted_chained(struct client *client)
{
    bool owes_ready = aborted_owes_ready(client);

    aborted_end(client);
    if (owes_ready) {
        answer_ready(client, 'T');
    }
}

/* The first error tells why, later ones that nothing will be done. */
static void
answer_error(struct client *client)
{
    struct aborted *aborted = client->relay.aborted;
    struct buf buf = {0};
    struct fail fail = aborted->reason;

    if (aborted->is_told) {
        fail_set(&fail, "25P02",
            "current transaction is aborted, commands ignored until end of transaction block");
    }
    aborted->is_told = true;
    tell_error(client, &buf, "ERROR", &fail);
    client_send(client, &buf);
}

/* Savepoints went with the transaction, so going back to one fails as the loss itself did. */
static void
answer_lost_savepoint(struct client *client)
{
    client->relay.aborted->is_told = false;
    answer_error(client);
}

static void
answer_command(struct client *client, const char *tag)
{
    struct buf buf = {0};

    message_add_command_complete(&buf, tag);
    client_send(client, &buf);
}

/* ---- what statements do ---- */

enum effect
{
    EFFECT_REFUSED, /* an error was answered; the client stays in here */
    EFFECT_ENDED,   /* an error was answered that also ended the transaction */
    EFFECT_LEFT,    /* ROLLBACK was answered */
    EFFECT_NOTHING, /* an empty query */
};

static bool
is_exit(enum sql_kind kind)
{
    return kind == SQL_ROLLBACK || kind == SQL_COMMIT || kind == SQL_PREPARE_TRANSACTION;
}

/* Runs one statement and answers it, without ReadyForQuery. */
static enum effect
run_statement(struct client *client, enum sql_kind kind, bool is_chain)
{
    struct aborted *aborted = client->relay.aborted;
    bool was_told = aborted->is_told;

    if (kind == SQL_ROLLBACK_TO) {
        answer_lost_savepoint(client);
        return EFFECT_REFUSED;
    }
    if (!is_exit(kind)) {
        answer_error(client);
        return EFFECT_REFUSED;
    }
    if (kind != SQL_ROLLBACK && !was_told) {
        answer_error(client);
        return EFFECT_ENDED;
    }
    aborted->wants_chain = is_chain;
    answer_command(client, "ROLLBACK");
    return EFFECT_LEFT;
}

/* ---- the simple protocol ---- */

bool
aborted_run(struct client *client)
{
    struct aborted *aborted = client->relay.aborted;
    bool owes_ready = aborted->owes_ready;

    if (buf_len(&aborted->rest) > 0) {
        loss_put_back(client, buf_head(&aborted->rest), buf_len(&aborted->rest));
        buf_deinit(&aborted->rest);
    }
    if (!aborted->wants_chain) {
        aborted_end(client);
    }
    return owes_ready;
}

static void
keep_rest(struct aborted *aborted, const struct sql_scanner *rest)
{
    struct buf text = {0};

    buf_add(&text, rest->at, (size_t)(rest->end - rest->at));
    buf_add_u8(&text, 0);
    message_add_query(&aborted->rest, (const char *)buf_head(&text));
    buf_deinit(&text);
}

/* The transaction is over and nothing of its request is left. */
static enum aborted_step
leave(struct client *client)
{
    struct aborted *aborted = client->relay.aborted;

    client_become(client, CLIENT_IDLE);
    if (aborted->wants_chain) {
        aborted->owes_ready = true;
        return ABORTED_RUNS;
    }
    aborted_end(client);
    answer_ready(client, 'I');
    return ABORTED_ANSWERED;
}

static enum aborted_step
take_query(struct client *client, const struct message *message, bool is_whole)
{
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);
    const char *text = reader_string(&reader);
    bool has_escapes = loss_has_backslash_escapes(client);
    struct sql_scanner scanner = sql_over(text, strlen(text), has_escapes);
    struct sql_statement statement = {.kind = SQL_OTHER}, next;
    enum effect effect = EFFECT_NOTHING;

    if (!is_whole || sql_next(&scanner, &statement)) {
        effect = run_statement(client, statement.kind, statement.is_chain);
    }
    switch (effect) {
    case EFFECT_NOTHING:
        answer_simple(client, MSG_EMPTY_QUERY);
        answer_ready(client, 'E');
        return ABORTED_ANSWERED;
    case EFFECT_REFUSED:
        answer_ready(client, 'E');
        return ABORTED_ANSWERED;
    case EFFECT_ENDED:
        return leave(client);
    case EFFECT_LEFT:
        break;
    }
    struct sql_scanner rest = scanner;
    if (!sql_next(&scanner, &next)) {
        return leave(client);
    }
    client_become(client, CLIENT_IDLE);
    keep_rest(client->relay.aborted, &rest);
    return ABORTED_RUNS;
}

/* ---- the extended protocol ---- */

/* An error: everything up to Sync is dropped, as PostgreSQL would. */
static enum aborted_step
refuse(struct client *client)
{
    client->relay.skipping = SKIP_TO_SYNC;
    return ABORTED_ANSWERED;
}

static struct aborted_name *
find_statement(struct aborted *aborted, const char *name, bool makes_room)
{
    struct aborted_name *room = NULL;

    for (int i = 0; i < STATEMENTS_MAX; i++) {
        struct aborted_name *at = &aborted->statements[i];
        if (at->is_used && strcmp(at->name, name) == 0) {
            return at;
        }
        room = room == NULL && !at->is_used ? at : room;
    }
    return makes_room ? room : NULL;
}

static enum aborted_step
take_parse(struct client *client, const struct message *message, bool is_whole)
{
    struct aborted *aborted = client->relay.aborted;
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);
    const char *name = reader_string(&reader);
    const char *text = reader_string(&reader);
    struct sql_scanner scanner = sql_over(text, strlen(text), loss_has_backslash_escapes(client));
    struct sql_statement statement = {.kind = SQL_OTHER}, next;
    bool is_empty = !sql_next(&scanner, &statement);
    bool is_known = is_empty || is_exit(statement.kind) || statement.kind == SQL_ROLLBACK_TO;
    struct aborted_name *entry = find_statement(aborted, name, true);

    if (!is_whole || reader.is_bad || !is_known || sql_next(&scanner, &next) || entry == NULL ||
        strlen(name) >= NAME_SIZE) {
        answer_error(client);
        return refuse(client);
    }
    *entry = (struct aborted_name){.is_used = true,
        .is_empty = is_empty,
        .kind = statement.kind,
        .is_chain = statement.is_chain};
    memcpy(entry->name, name, strlen(name) + 1);
    answer_simple(client, MSG_PARSE_COMPLETE);
    return ABORTED_ANSWERED;
}

/* A statement that was prepared before the transaction was lost. */
static bool
find_earlier(struct client *client, const char *name, struct aborted_name *out)
{
    const char *text = follow_text(client, name);
    struct sql_statement statement, next;

    if (text == NULL) {
        return false;
    }
    struct sql_scanner scanner = sql_over(text, strlen(text), loss_has_backslash_escapes(client));
    bool is_known = sql_next(&scanner, &statement) && !sql_next(&scanner, &next) &&
                    (is_exit(statement.kind) || statement.kind == SQL_ROLLBACK_TO);
    *out = (struct aborted_name){
        .is_used = true, .kind = statement.kind, .is_chain = statement.is_chain};
    return is_known;
}

static enum aborted_step
take_bind(struct client *client, const struct message *message, bool is_whole)
{
    struct aborted *aborted = client->relay.aborted;
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);
    const char *portal = reader_string(&reader);
    const char *name = reader_string(&reader);
    const struct aborted_name *entry = find_statement(aborted, name, false);
    struct aborted_name earlier;

    if (entry == NULL && is_whole && find_earlier(client, name, &earlier)) {
        entry = &earlier;
    }
    /* PostgreSQL binds nothing but exits here, not even an empty query. */
    if (!is_whole || reader.is_bad || entry == NULL || entry->is_empty ||
        strlen(portal) >= NAME_SIZE) {
        answer_error(client);
        return refuse(client);
    }
    aborted->portal = *entry;
    memcpy(aborted->portal.name, portal, strlen(portal) + 1);
    answer_simple(client, MSG_BIND_COMPLETE);
    return ABORTED_ANSWERED;
}

static enum aborted_step
take_describe(struct client *client, const struct message *message, bool is_whole)
{
    struct aborted *aborted = client->relay.aborted;
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);
    bool is_statement = reader_u8(&reader) == 'S';
    const char *name = reader_string(&reader);
    bool is_known = is_statement
                        ? find_statement(aborted, name, false) != NULL
                        : aborted->portal.is_used && strcmp(aborted->portal.name, name) == 0;
    struct buf buf = {0};

    if (!is_known) {
        answer_error(client);
        return refuse(client);
    }
    if (is_statement) {
        message_add_no_parameters(&buf);
    }
    message_add_simple(&buf, MSG_NO_DATA);
    client_send(client, &buf);
    return ABORTED_ANSWERED;
}

static enum aborted_step
take_execute(struct client *client, const struct message *message, bool is_whole)
{
    struct aborted *aborted = client->relay.aborted;
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);
    const char *name = reader_string(&reader);

    if (!aborted->portal.is_used || strcmp(aborted->portal.name, name) != 0) {
        answer_error(client);
        return refuse(client);
    }
    enum effect effect = run_statement(client, aborted->portal.kind, aborted->portal.is_chain);
    if (effect == EFFECT_LEFT) {
        aborted->is_over = true;
        return ABORTED_ANSWERED;
    }
    if (effect == EFFECT_ENDED) {
        client_become(client, CLIENT_IDLE);
        aborted_end(client);
    }
    return refuse(client);
}

static enum aborted_step
take_close(struct client *client, const struct message *message, bool is_whole)
{
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);

    if (reader_u8(&reader) == 'S') {
        follow_close(client, reader_string(&reader));
    }
    answer_simple(client, MSG_CLOSE_COMPLETE);
    return ABORTED_ANSWERED;
}

/* Between the exit and the Sync of its request: what else comes is an ordinary request. */
static enum aborted_step
take_after_exit(struct client *client, const struct message *message)
{
    if (message->type == MSG_SYNC) {
        return leave(client);
    }
    if (message->type == MSG_FLUSH) {
        return ABORTED_ANSWERED;
    }
    client_become(client, CLIENT_IDLE);
    if (!client->relay.aborted->wants_chain) {
        aborted_end(client);
    }
    return ABORTED_OVER;
}

enum aborted_step
aborted_take(struct client *client, const struct message *message, bool is_whole)
{
    ensure(client->state == CLIENT_FAILED);
    if (client->relay.aborted->is_over) {
        return take_after_exit(client, message);
    }
    switch (message->type) {
    case MSG_QUERY:
        return take_query(client, message, is_whole);
    case MSG_PARSE:
        return take_parse(client, message, is_whole);
    case MSG_BIND:
        return take_bind(client, message, is_whole);
    case MSG_DESCRIBE:
        return take_describe(client, message, is_whole);
    case MSG_EXECUTE:
        return take_execute(client, message, is_whole);
    case MSG_CLOSE:
        return take_close(client, message, is_whole);
    case MSG_SYNC:
        answer_ready(client, 'E');
        return ABORTED_ANSWERED;
    case MSG_FUNCTION_CALL:
        answer_error(client);
        answer_ready(client, 'E');
        return ABORTED_ANSWERED;
    default: /* Flush, and copy data of a COPY that is gone */
        return ABORTED_ANSWERED;
    }
}
