/*
 * Prepared statements onto the backend in use. Called by client/rewrite, client/relay and
 * client/loss; calls pool/statements (what they are) and pool/prepared (what the backend has).
 */
#include "client/provide.h"

#include "base/mem.h"
#include "client/follow.h"
#include "client/insert.h"
#include "pool/pools.h"

#include <string.h>

/* A Bind that was booked, but not sent yet. */
struct deferred
{
    struct name *name; /* borrows: nothing of this client is taken meanwhile */
    size_t name_at;    /* where PostgreSQL's name for it begins in the message */
    struct buf bytes;  /* owns */
};

/* ---- which one ---- */

/* At most one result format: a Bind that names one for each column is for the old ones. */
static bool
fits_any_columns(const struct message *bind)
{
    struct reader reader = reader_over(bind->body, bind->body_len);

    reader_string(&reader);
    reader_string(&reader);
    unsigned formats = reader_u16(&reader);
    reader_bytes(&reader, (size_t)formats * 2);
    unsigned values = reader_u16(&reader);
    for (unsigned i = 0; i < values && !reader.is_bad; i++) {
        uint32_t len = reader_u32(&reader);
        reader_bytes(&reader, len != UINT32_MAX ? len : 0);
    }
    return reader_u16(&reader) <= 1 && !reader.is_bad;
}

bool
provide_tells(const struct message *message, size_t len)
{
    const uint8_t *next = message->body - MESSAGE_HEADER + message->len;
    struct message behind;

    if (message->type == MSG_DESCRIBE) {
        return true;
    }
    if (!message_is_complete(message, len) || !fits_any_columns(message)) {
        return false;
    }
    for (len -= message->len; message_next(&next, &len, &behind);) {
        if (behind.type == MSG_DESCRIBE) {
            /* Both begin with the name of the portal. */
            return behind.body_len > 0 && behind.body[0] == 'P' &&
                   strcmp((const char *)behind.body + 1, (const char *)message->body) == 0;
        }
        if (behind.type != MSG_FLUSH) {
            return false;
        }
    }
    return false;
}

struct statement *
provide_choose(struct client *client, struct name *name, bool is_told)
{
    struct statements *statements = client_statements(client);
    bool is_stale = atomic_load_explicit(&name->statement->is_stale, memory_order_relaxed);
    bool has_settings = name->settings_version == client->vars.version;
    size_t len;

    /* In a failed transaction another one could not be prepared. */
    if ((has_settings && !is_stale) || client->lease.backend->replies.status == 'E') {
        return name->statement;
    }
    if (has_settings && !is_told) {
        return NULL;
    }
    const uint8_t *body = statement_body(name->statement, &len);
    struct statement_key key = {client->lease.side->pool->id, &client->vars, body, len};
    struct statement *fresh = statements_get(statements, &key, SIZE_MAX);
    if (!is_told && !statement_inherit(statements, fresh, name->statement)) {
        statement_release(statements, fresh);
        return NULL;
    }
    name->former = name->statement->id;
    statement_release(statements, name->statement);
    name->statement = fresh;
    name->settings_version = client->vars.version;
    return fresh;
}

/* ---- onto the backend ---- */

/* Before a group begins nothing can be skipped. */
void
provide_room(struct client *client, struct buf *buf)
{
    struct backend *backend = client->lease.backend;
    unsigned most = (unsigned)client->crowd->pool.settings->max_prepared_statements;
    char name[STATEMENT_NAME_SIZE];

    while (!backend->replies.is_open && backend->prepared.count > 0 &&
           backend->prepared.count >= most) {
        prepared_drop_oldest(&backend->prepared, client_statements(client), name);
        insert_close(client, buf, name);
    }
}

void
provide_ask(struct client *client, struct statement *statement, bool is_told, struct buf *buf)
{
    char name[STATEMENT_NAME_SIZE];

    statement_name(statement, name);
    insert_describe(client, buf, name);
    prepared_ask(&client->lease.backend->prepared, statement, is_told);
}

enum provided
provide(struct client *client, struct statement *statement, bool is_told, bool anew,
    struct buf *buf)
{
    struct backend *backend = client->lease.backend;
    const struct replies *replies = &backend->replies;
    char name[STATEMENT_NAME_SIZE];
    size_t len;

    switch (prepared_find(&backend->prepared, statement, replies->group, replies->answered)) {
    case PREPARED_HERE:
        if (!anew) {
            return PROVIDED;
        }
        break;
    case PREPARED_UNSURE:
        return PROVIDED_NOT;
    case PREPARED_MISSING:
        break;
    }
    const uint8_t *body = statement_body(statement, &len);
    bool must_match = !is_told && statement_has_columns(statement);
    statement_name(statement, name);
    provide_room(client, buf);
    insert_close(client, buf, name);
    insert_parse(client, buf, name, body, len);
    prepared_add(&backend->prepared, statement, replies->group);
    provide_ask(client, statement, is_told, buf);
    return must_match ? PROVIDED_ASKED : PROVIDED;
}

/* ---- other columns ---- */

/* Nobody has a statement of this name, which is as long as ours for it. */
static void
make_unknown(uint8_t *name)
{
    name[0] = 'P';
}

enum rewrite_result
provide_refuse(struct client *client, const struct use *use, struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    char unknown[STATEMENT_NAME_SIZE];

    statement_name(use->name->statement, unknown);
    make_unknown((uint8_t *)unknown);
    insert_name(rewrite, use->message, &use->behind, unknown, use_before(use));
    enum rewrite_result result = insert_none(client, use->message);
    replies_mark(replies);
    names_refuse(&client->baggage->names, REFUSED_STALE, use->name, replies->group);
    return result;
}

enum rewrite_result
provide_defer(struct client *client, const struct use *use, struct rewrite *rewrite)
{
    const struct message *message = use->message;
    struct replies *replies = &client->lease.backend->replies;
    struct deferred *deferred = mem_new(sizeof(*deferred));
    struct rewrite kept = {.insert = &deferred->bytes};
    char at_postgres[STATEMENT_NAME_SIZE];

    deferred->name = use->name;
    deferred->name_at = MESSAGE_HEADER + use_before(use);
    statement_name(use->name->statement, at_postgres);
    insert_name(&kept, message, &use->behind, at_postgres, use_before(use));
    buf_add(&deferred->bytes, message->body - MESSAGE_HEADER + kept.skip, message->len - kept.skip);
    message_add_simple(rewrite->insert, MSG_FLUSH);
    rewrite->skip = message->len;
    enum rewrite_result result = insert_none(client, message);
    replies_mark(replies);
    names_refuse(&client->baggage->names, REFUSED_NOT, use->name, replies->group);
    client->baggage->deferred = deferred;
    client->relay.is_backlogged = true;
    return result;
}

static void
forget(struct client *client)
{
    buf_deinit(&client->baggage->deferred->bytes);
    free(client->baggage->deferred);
    client->baggage->deferred = NULL;
}

void
provide_flush(struct client *client)
{
    struct deferred *deferred = client->baggage->deferred;
    struct backend *backend = client->lease.backend;

    if (deferred != NULL) {
        held_add_bytes(&backend->held, (int64_t)buf_len(&deferred->bytes));
        stream_write(&backend->stream, buf_head(&deferred->bytes), buf_len(&deferred->bytes));
        forget(client);
    }
}

bool
provide_must_wait(const struct client *client)
{
    return provide_is_deferring(client) &&
           client->lease.backend->prepared.questions_count > 0;
}

void
provide_resume(struct client *client)
{
    struct deferred *deferred = client->baggage->deferred;
    const struct names *names = &client->baggage->names;

    if (deferred == NULL) {
        return;
    }
    /* Where an error skips it, its change is gone already. */
    if (names->changes_count > names->done && atomic_load(&deferred->name->statement->is_stale)) {
        names->changes[names->changes_count - 1].refused = REFUSED_STALE;
        make_unknown(buf_head(&deferred->bytes) + deferred->name_at);
    }
    provide_flush(client);
}

void
provide_forget(struct client *client)
{
    if (client->baggage->deferred != NULL) {
        forget(client);
    }
}
