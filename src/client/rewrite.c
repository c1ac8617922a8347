/*
 * Names of prepared statements on their way to a backend. Called by client/intake for each message
 * about one; calls client/names (what the client calls them), pool/statements (what they are) and
 * pool/prepared (what the backend has).
 */
#include "client/rewrite.h"

#include "client/session.h"
#include "pool/pools.h"
#include "wire/session.h"

#include <string.h>

/* A name that is never in use for longer than a message. */
static const char nothing[] = "pgkeel_";

static struct statements *
registry(const struct client *client)
{
    return pools_statements(client->crowd->pool.pools);
}

/* ---- messages of our own ---- */

static void
add_close(struct client *client, struct buf *buf, const char *name)
{
    size_t begin = message_begin(buf, MSG_CLOSE);

    buf_add_u8(buf, 'S');
    buf_add_string(buf, name);
    message_end(buf, begin);
    replies_push(&client->lease.backend->replies, REPLY_CLOSE, REPLY_INSERTED);
}

static void
write_parse(struct buf *buf, const char *name, const uint8_t *body, size_t len)
{
    size_t begin = message_begin(buf, MSG_PARSE);

    buf_add_string(buf, name);
    buf_add(buf, body, len);
    message_end(buf, begin);
}

static void
add_parse(struct client *client, struct buf *buf, const char *name, const uint8_t *body, size_t len)
{
    write_parse(buf, name, body, len);
    replies_push(&client->lease.backend->replies, REPLY_PARSE, REPLY_INSERTED);
    client->lease.side->counts.server_parses++;
}

/* The client's own message with another name in it: everything up to the end of the name is
 * replaced. before: what comes in front of the name. */
static void
replace_name(struct rewrite *rewrite, const struct message *message, const struct reader *reader,
    const char *name, size_t before)
{
    struct buf *buf = rewrite->insert;
    size_t head = (size_t)(reader->at - message->body);
    size_t size = strlen(name) + 1;

    buf_add_u8(buf, message->type);
    buf_add_u32(buf, (uint32_t)(message->len - 1 - head + before + size));
    buf_add(buf, message->body, before);
    buf_add(buf, name, size);
    rewrite->skip = MESSAGE_HEADER + head;
}

/* The client's message is answered by a Close of nothing in its place. */
static void
replace_by_close(struct client *client, struct rewrite *rewrite, const struct message *message)
{
    size_t begin = message_begin(rewrite->insert, MSG_CLOSE);

    buf_add_u8(rewrite->insert, 'S');
    buf_add_string(rewrite->insert, nothing);
    message_end(rewrite->insert, begin);
    rewrite->skip = message->len;
    replies_push(&client->lease.backend->replies, REPLY_CLOSE, REPLY_FOR_CLIENT);
}

/* Nothing but perhaps the name is changed. */
static enum rewrite_result
forward_as_is(struct client *client, const struct message *message)
{
    return replies_sent(&client->lease.backend->replies, message->type) ? REWRITE_DONE
                                                                        : REWRITE_BAD;
}

/* ---- what the backend has ---- */

/* Room for one more: before a group begins nothing can be skipped. */
static void
trim(struct client *client, struct buf *buf)
{
    struct backend *backend = client->lease.backend;
    unsigned most = (unsigned)client->crowd->pool.settings->max_prepared_statements;
    char name[STATEMENT_NAME_SIZE];

    while (!backend->replies.is_open && backend->prepared.count > 0 &&
           backend->prepared.count >= most) {
        prepared_drop_oldest(&backend->prepared, registry(client), name);
        add_close(client, buf, name);
    }
}

/* Sees to it that the backend has the statement. False: wait. */
static bool
provide(struct client *client, struct statement *statement, struct buf *buf)
{
    struct backend *backend = client->lease.backend;
    const struct replies *replies = &backend->replies;
    char name[STATEMENT_NAME_SIZE];
    size_t len;

    switch (prepared_find(&backend->prepared, statement, replies->group, replies->answered)) {
    case PREPARED_HERE:
        return true;
    case PREPARED_UNSURE:
        return false;
    case PREPARED_MISSING:
        break;
    }
    const uint8_t *body = statement_body(statement, &len);
    statement_name(statement, name);
    trim(client, buf);
    add_close(client, buf, name);
    add_parse(client, buf, name, body, len);
    prepared_add(&backend->prepared, statement, backend->replies.group);
    return true;
}

/* The statement that a name stands for under the client's present settings. */
static struct statement *
refresh(struct client *client, struct name *name)
{
    size_t len;

    if (name->settings_version == client->vars.version &&
        !atomic_load_explicit(&name->statement->is_stale, memory_order_relaxed)) {
        return name->statement;
    }
    const uint8_t *body = statement_body(name->statement, &len);
    struct statement *fresh = statements_get(registry(client), &client->vars, body, len, SIZE_MAX);
    statement_release(registry(client), name->statement);
    name->statement = fresh;
    name->settings_version = client->vars.version;
    return fresh;
}

/* ---- the unnamed statement ---- */

static void
keep_unnamed(struct client *client, const uint8_t *body, size_t len)
{
    struct unnamed *unnamed = &client->unnamed;

    unnamed->is_suspect =
        len == 0 || session_is_suspect((const char *)body, strlen((const char *)body));
    unnamed->serial = ++client->crowd->parses * 1024 + (uint64_t)client->crowd->pool.index;
    buf_clear(&unnamed->body);
    buf_add(&unnamed->body, body, len);
    client->lease.backend->prepared.unnamed = unnamed->serial;
}

static void
forget_unnamed(struct client *client)
{
    client->unnamed.serial = 0;
    buf_clear(&client->unnamed.body);
    client->lease.backend->prepared.unnamed = 0;
}

static const char *
unnamed_text(const struct client *client)
{
    const struct buf *body = &client->unnamed.body;

    return buf_len(body) > 0 ? (const char *)buf_head(body) : NULL;
}

static void
provide_unnamed(struct client *client, struct buf *buf)
{
    struct prepared *prepared = &client->lease.backend->prepared;
    const struct unnamed *unnamed = &client->unnamed;

    if (unnamed->serial != 0 && prepared->unnamed == unnamed->serial) {
        return;
    }
    prepared->unnamed = unnamed->serial;
    if (unnamed->serial != 0 && buf_len(&unnamed->body) > 0) {
        add_parse(client, buf, "", buf_head(&unnamed->body), buf_len(&unnamed->body));
    } else {
        add_close(client, buf, ""); /* another client's must not answer for it */
    }
}

/* ---- Parse ---- */

/* An error is provoked in the place of the client's message, and explained by us: a name that is
 * taken (PostgreSQL checks the text first), or no memory for more. */
static void
provoke_error(struct client *client, struct rewrite *rewrite, const struct message *message,
    const uint8_t *body, size_t len)
{
    add_close(client, rewrite->insert, nothing);
    add_parse(client, rewrite->insert, nothing, body, len);
    write_parse(rewrite->insert, nothing, body, len);
    rewrite->skip = message->len;
    replies_push(&client->lease.backend->replies, REPLY_PARSE, REPLY_FOR_CLIENT);
}

static bool
is_well_formed(struct reader reader)
{
    reader_string(&reader);
    uint16_t types = reader_u16(&reader);
    reader_bytes(&reader, (size_t)types * 4);
    return reader_is_done(&reader);
}

/* A Parse of a name that is free. */
static enum rewrite_result
parse_new(struct client *client, struct rewrite *rewrite, const struct message *message,
    struct statement *statement)
{
    struct backend *backend = client->lease.backend;
    struct reader reader = reader_over(message->body, message->body_len);
    const char *text = reader_string(&reader);
    char at_postgres[STATEMENT_NAME_SIZE];
    bool is_known = false;

    switch (prepared_find(
        &backend->prepared, statement, backend->replies.group, backend->replies.answered)) {
    case PREPARED_UNSURE:
        statement_release(registry(client), statement);
        return REWRITE_WAIT;
    case PREPARED_HERE:
        is_known = true;
        replace_by_close(client, rewrite, message);
        break;
    case PREPARED_MISSING:
        statement_name(statement, at_postgres);
        trim(client, rewrite->insert);
        add_close(client, rewrite->insert, at_postgres);
        replace_name(rewrite, message, &reader, at_postgres, 0);
        replies_push(&backend->replies, REPLY_PARSE, REPLY_FOR_CLIENT);
        prepared_add(&backend->prepared, statement, backend->replies.group);
        client->lease.side->counts.server_parses++;
        break;
    }
    replies_mark(&backend->replies);
    struct name *name = names_add(&client->names, text, statement);
    name->settings_version = client->vars.version;
    name->is_suspect = session_is_suspect(
        statement_text(statement), strlen(statement_text(statement)));
    names_parse(&client->names, name, backend->replies.group, is_known);
    return REWRITE_DONE;
}

static enum rewrite_result
take_parse(struct client *client, const struct message *message, size_t len,
    struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    bool is_whole = message_is_complete(message, len);
    size_t here = is_whole ? message->body_len : len - MESSAGE_HEADER;
    struct reader reader = reader_over(message->body, here);
    const char *text = reader_string(&reader);
    size_t body_len = reader_left(&reader);
    struct name *name;

    if (reader.is_bad) {
        return REWRITE_BAD;
    }
    if (text[0] == '\0') {
        keep_unnamed(client, reader.at, is_whole && is_well_formed(reader) ? body_len : 0);
        client->lease.side->counts.server_parses++;
    }
    if (text[0] == '\0' || !is_whole || !is_well_formed(reader)) {
        return forward_as_is(client, message);
    }
    switch (names_find(&client->names, text, replies->group, &name)) {
    case NAME_UNSURE:
        return REWRITE_WAIT;
    case NAME_KNOWN:
        provoke_error(client, rewrite, message, reader.at, body_len);
        replies_mark(replies);
        names_refuse(&client->names, REFUSED_DUPLICATE, name, replies->group);
        return REWRITE_DONE;
    case NAME_FREE:
        break;
    }
    struct statement *statement = NULL;
    if (client->names.count < NAMES_MAX) {
        statement = statements_get(registry(client), &client->vars, reader.at, body_len,
            (size_t)client->crowd->pool.settings->prepared_memory);
    }
    if (statement == NULL) {
        provoke_error(client, rewrite, message, reader.at, body_len);
        replies_mark(replies);
        names_refuse(&client->names, REFUSED_MEMORY, NULL, replies->group);
        return REWRITE_DONE;
    }
    return parse_new(client, rewrite, message, statement);
}

/* ---- Bind, Describe, Close ---- */

/* A use of a statement: `reader` stands behind its name, before which there are so many bytes. */
static enum rewrite_result
take_use(struct client *client, const struct message *message, const struct reader *reader,
    const char *text, struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    size_t before = (size_t)((const uint8_t *)text - message->body);
    char at_postgres[STATEMENT_NAME_SIZE];
    struct name *name;

    if (text[0] == '\0') {
        provide_unnamed(client, rewrite->insert);
        if (message->type == MSG_BIND && client->unnamed.serial != 0 &&
            client->unnamed.is_suspect) {
            session_note_suspect(client, unnamed_text(client));
        }
        return forward_as_is(client, message);
    }
    switch (names_find(&client->names, text, replies->group, &name)) {
    case NAME_UNSURE:
        return REWRITE_WAIT;
    case NAME_FREE:
        /* PostgreSQL says that there is none; another client's must not answer for it. */
        if (statement_is_reserved(text)) {
            replace_name(rewrite, message, reader, nothing, before);
        }
        return forward_as_is(client, message);
    case NAME_KNOWN:
        break;
    }
    struct statement *statement = refresh(client, name);
    if (!provide(client, statement, rewrite->insert)) {
        return REWRITE_WAIT;
    }
    if (message->type == MSG_BIND && name->is_suspect) {
        session_note_suspect(client, statement_text(statement));
    }
    statement_name(statement, at_postgres);
    replace_name(rewrite, message, reader, at_postgres, before);
    return forward_as_is(client, message);
}

static enum rewrite_result
take_close(struct client *client, const struct message *message, const char *text,
    struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    struct name *name;

    if (text[0] == '\0') {
        forget_unnamed(client);
        return forward_as_is(client, message);
    }
    switch (names_find(&client->names, text, replies->group, &name)) {
    case NAME_UNSURE:
        return REWRITE_WAIT;
    case NAME_FREE:
        if (!statement_is_reserved(text)) {
            return forward_as_is(client, message);
        }
        replace_by_close(client, rewrite, message);
        return REWRITE_DONE;
    case NAME_KNOWN:
        break;
    }
    replace_by_close(client, rewrite, message);
    replies_mark(replies);
    names_close(&client->names, name, replies->group);
    return REWRITE_DONE;
}

static enum rewrite_result
take_described(struct client *client, const struct message *message, size_t len,
    struct rewrite *rewrite)
{
    size_t here = message_is_complete(message, len) ? message->body_len : len - MESSAGE_HEADER;
    struct reader reader = reader_over(message->body, here);
    uint8_t kind = message->type == MSG_BIND ? 'S' : reader_u8(&reader);

    if (message->type == MSG_BIND) {
        reader_string(&reader); /* the portal */
    }
    const char *text = reader_string(&reader);
    if (reader.is_bad && here < message->body_len) {
        return REWRITE_BAD;
    }
    if (kind != 'S' || reader.is_bad) {
        return forward_as_is(client, message);
    }
    if (message->type == MSG_CLOSE) {
        return take_close(client, message, text, rewrite);
    }
    return take_use(client, message, &reader, text, rewrite);
}

enum rewrite_result
rewrite_take(
    struct client *client, const struct message *message, size_t len, struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;

    /* PostgreSQL will not look at it. */
    if (replies->is_skipping) {
        return forward_as_is(client, message);
    }
    switch (message->type) {
    case MSG_PARSE:
        return take_parse(client, message, len, rewrite);
    case MSG_QUERY:
        forget_unnamed(client);
        return forward_as_is(client, message);
    default:
        return take_described(client, message, len, rewrite);
    }
}

bool
rewrite_needs_all(const struct client *client, const struct message *message)
{
    return client->follows_names && message->type == MSG_PARSE && message->body[0] != '\0';
}
