/*
 * Names of prepared statements on their way to a backend. Called by client/intake for each message
 * about one; calls client/names (what the client calls them), pool/statements (what they are) and
 * pool/prepared (what the backend has).
 */
#include "client/rewrite.h"

#include "client/insert.h"
#include "client/loss.h"
#include "client/provide.h"
#include "client/session.h"
#include "client/unnamed.h"
#include "pool/pools.h"
#include "wire/session.h"
#include "wire/sql.h"

#include <stdio.h>
#include <string.h>

/* ---- DEALLOCATE, DISCARD ALL ---- */

/* What a text says about prepared statements. */
struct dealing
{
    unsigned marks;
    unsigned names;
    char name[SESSION_NAME_SIZE * 2];
};

static void
note_dealing(void *arg, const char *name, enum session_name kind)
{
    struct dealing *dealing = arg;

    if (kind == NAME_STATEMENT) {
        dealing->names++;
        snprintf(dealing->name, sizeof(dealing->name), "%s", name);
    }
}

/* For texts that the quick pass suspects. */
static struct dealing
read_dealing(struct client *client, const char *text)
{
    struct dealing dealing = {0};

    dealing.marks = session_read(
        text, strlen(text), loss_has_backslash_escapes(client), note_dealing, &dealing);
    return dealing;
}

/* Everything that is prepared goes, with the request that was just pushed. */
static void
drop_all(struct client *client, uint64_t group)
{
    struct backend *backend = client->lease.backend;

    replies_mark(&backend->replies);
    names_close_all(&client_baggage(client)->names, group);
    backend->prepared.pending_drops++;
}

/* The name that a text of nothing but DEALLOCATE <name> is about, if the client has it. False:
 * wait. */
static bool
find_deallocated(
    struct client *client, const char *text, const struct dealing *dealing, struct name **out)
{
    struct sql_statement statement;

    *out = NULL;
    if (!(dealing->marks & SESSION_DEALLOCATES) || dealing->names != 1) {
        return true;
    }
    struct sql_scanner scanner = sql_over(text, strlen(text), false);
    if (!sql_next(&scanner, &statement) || sql_next(&scanner, &statement)) {
        return true;
    }
    uint64_t group = client->lease.backend->replies.group;
    return names_find(&client->baggage->names, dealing->name, group, out) != NAME_UNSURE;
}

/* PostgreSQL deallocates something in its place: the tag and the errors are the same. */
static void
add_victim(struct client *client, struct buf *buf)
{
    static const uint8_t empty[] = {0, 0, 0};

    insert_close(client, buf, insert_placeholder);
    insert_parse(client, buf, insert_placeholder, empty, sizeof(empty));
}

static const char discard_sequences[] = "DISCARD SEQUENCES";
static const char deallocate[] = "DEALLOCATE \"pgkeel_\"";

/* The first currval() or lastval() of a client that is not pinned yet, outside of a transaction:
 * the value of whoever had this backend before must not be taken for its own. PostgreSQL says that
 * there is none, and from now on there will be. */
static bool
needs_no_sequences(const struct client *client, unsigned marks)
{
    const struct replies *replies = &client->lease.backend->replies;

    return marks & SESSION_SEQUENCES && session_pins(client) == 0 && replies->status == 'I' &&
           replies->count <= replies->opened;
}

/* A Query of DEALLOCATE <name>. */
static void
query_deallocate(struct client *client, const struct message *message, struct name *name,
    struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    /* A Sync, but not where it would end what an error has begun to skip. */
    bool is_alone = replies_is_empty(replies) && !replies->is_open;

    add_victim(client, rewrite->insert);
    if (is_alone) {
        message_add_simple(rewrite->insert, MSG_SYNC);
        replies_push(replies, REPLY_SYNC, REPLY_INSERTED);
    }
    message_add_query(rewrite->insert, deallocate);
    rewrite->skip = message->len;
    replies_push(replies, REPLY_QUERY, REPLY_FOR_CLIENT);
    replies_mark(replies);
    names_close(&client->baggage->names, name, NAMES_ALONE);
}

/* The text is looked at once: most say nothing. */
static enum rewrite_result
take_query(struct client *client, const struct message *message, size_t len,
    struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    struct reader reader = reader_over(message->body, message->body_len);
    const char *text = message_is_complete(message, len) ? reader_string(&reader) : NULL;
    bool is_suspect = text == NULL || session_is_suspect(text, strlen(text));
    struct dealing dealing = {0};
    struct name *name;

    if (is_suspect && text != NULL) {
        dealing = read_dealing(client, text);
    }
    bool drops_all = dealing.marks & SESSION_DEALLOCATES_ALL;
    if (!find_deallocated(client, text, &dealing, &name) ||
        (drops_all && names_have_earlier(&client->baggage->names, replies->group))) {
        return REWRITE_WAIT;
    }
    unnamed_forget(client);
    if (is_suspect) {
        session_note_suspect(client, text);
    }
    if (needs_no_sequences(client, dealing.marks) && replies_is_empty(replies)) {
        message_add_query(rewrite->insert, discard_sequences);
        replies_push(replies, REPLY_QUERY, REPLY_INSERTED);
    }
    if (name != NULL) {
        query_deallocate(client, message, name, rewrite);
        return REWRITE_DONE;
    }
    replies_push(replies, REPLY_QUERY, REPLY_FOR_CLIENT);
    if (drops_all) {
        drop_all(client, NAMES_ALONE);
    }
    return REWRITE_DONE;
}

/* An unnamed Parse of DEALLOCATE <name>. */
static enum rewrite_result
parse_deallocate(struct client *client, const struct message *message, struct name *name,
    struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    uint8_t body[sizeof(deallocate) + 2] = {0};

    memcpy(body, deallocate, sizeof(deallocate));
    add_victim(client, rewrite->insert);
    insert_write_parse(rewrite->insert, "", body, sizeof(body));
    unnamed_keep(client, body, sizeof(body), true);
    rewrite->skip = message->len;
    replies_push(replies, REPLY_PARSE_UNNAMED, REPLY_FOR_CLIENT);
    replies_mark(replies);
    names_close(&client->baggage->names, name, replies->group);
    return REWRITE_DONE;
}

/* An Execute, behind a Bind of what drops everything. */
static enum rewrite_result
take_execute(struct client *client, const struct message *message)
{
    uint64_t group = client->lease.backend->replies.group;
    bool drops = client->baggage->drops_in_group == group;

    if (drops && names_have_earlier(&client->baggage->names, group)) {
        return REWRITE_WAIT;
    }
    client->baggage->drops_in_group = 0;
    enum rewrite_result result = insert_none(client, message);
    if (drops) {
        drop_all(client, group);
    }
    return result;
}

/* A Bind of this text, which is suspect. */
static void
note_bind(struct client *client, const char *text, struct buf *buf)
{
    unsigned marks = text != NULL ? read_dealing(client, text).marks : 0;

    if (needs_no_sequences(client, marks)) {
        insert_statement(client, buf, discard_sequences);
    }
    session_note_suspect(client, text);
    if (marks & SESSION_DEALLOCATES_ALL) {
        client->baggage->drops_in_group = client->lease.backend->replies.group;
    }
}

/* ---- Parse ---- */

/* An error is provoked in the place of the client's message, and explained by us: a name that is
 * taken (PostgreSQL checks the text first), or no memory for more. */
static void
provoke_error(struct client *client, struct rewrite *rewrite, const struct message *message,
    const uint8_t *body, size_t len)
{
    insert_close(client, rewrite->insert, insert_placeholder);
    insert_parse(client, rewrite->insert, insert_placeholder, body, len);
    insert_write_parse(rewrite->insert, insert_placeholder, body, len);
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

/* Where a transaction may have failed, PostgreSQL itself must say what it makes of a Parse. It
 * cannot have while all that is unanswered is a group that began outside of one: an error would
 * skip the rest. */
static bool
can_skip_parse(const struct replies *replies)
{
    return replies->status == 'I' && replies->count <= replies->opened;
}

/* The Parse under our name for it, and a question about its columns behind it. */
static void
parse_here(struct client *client, struct rewrite *rewrite, const struct message *message,
    struct statement *statement)
{
    struct backend *backend = client->lease.backend;
    char at_postgres[STATEMENT_NAME_SIZE];
    size_t len;
    const uint8_t *body = statement_body(statement, &len);

    statement_name(statement, at_postgres);
    provide_room(client, rewrite->insert);
    insert_close(client, rewrite->insert, at_postgres);
    insert_write_parse(rewrite->insert, at_postgres, body, len);
    rewrite->skip = message->len;
    replies_push(&backend->replies, REPLY_PARSE, REPLY_FOR_CLIENT);
    replies_mark(&backend->replies);
    prepared_add(&backend->prepared, statement, backend->replies.group);
    provide_ask(client, statement, true, rewrite->insert);
    client->lease.side->counts.server_parses++;
}

/* A Parse of a name that is free. */
static enum rewrite_result
parse_new(struct client *client, struct rewrite *rewrite, const struct message *message,
    struct statement *statement)
{
    struct backend *backend = client->lease.backend;
    const struct replies *replies = &backend->replies;
    bool is_known = false;

    switch (prepared_find(&backend->prepared, statement, replies->group, replies->answered)) {
    case PREPARED_UNSURE:
        statement_release(client_statements(client), statement);
        return REWRITE_WAIT;
    case PREPARED_HERE:
        is_known = can_skip_parse(replies);
        break;
    case PREPARED_MISSING:
        break;
    }
    if (is_known) {
        insert_nothing(client, rewrite, message);
        replies_mark(&backend->replies);
    } else {
        parse_here(client, rewrite, message, statement);
    }
    struct name *name =
        names_add(&client->baggage->names, (const char *)message->body, statement);
    name->settings_version = client->vars.version;
    name->is_suspect = session_is_suspect(
        statement_text(statement), strlen(statement_text(statement)));
    name->assumed = is_known ? NAME_UNUSED : 0;
    names_parse(&client->baggage->names, name, replies->group, is_known);
    return REWRITE_DONE;
}

/* reader: behind the name; NULL when the message is not here as a whole. */
static enum rewrite_result
parse_unnamed(struct client *client, const struct message *message, const struct reader *reader,
    struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;

    if (reader == NULL || !is_well_formed(*reader)) {
        unnamed_keep(client, NULL, 0, true);
        replies_push(replies, REPLY_PARSE_UNNAMED, REPLY_FOR_CLIENT);
        return REWRITE_DONE;
    }
    const char *text = (const char *)reader->at;
    bool is_suspect = session_is_suspect(text, strlen(text));
    if (is_suspect) {
        struct dealing dealing = read_dealing(client, text);
        struct name *name;
        if (!find_deallocated(client, text, &dealing, &name)) {
            return REWRITE_WAIT;
        }
        if (name != NULL) {
            return parse_deallocate(client, message, name, rewrite);
        }
    }
    unnamed_keep(client, reader->at, reader_left(reader), is_suspect);
    replies_push(replies, REPLY_PARSE_UNNAMED, REPLY_FOR_CLIENT);
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
        client->lease.side->counts.server_parses++;
        return parse_unnamed(client, message, is_whole ? &reader : NULL, rewrite);
    }
    if (!is_whole || !is_well_formed(reader)) {
        return insert_none(client, message);
    }
    switch (names_find(&client->baggage->names, text, replies->group, &name)) {
    case NAME_UNSURE:
        return REWRITE_WAIT;
    case NAME_KNOWN:
        provoke_error(client, rewrite, message, reader.at, body_len);
        replies_mark(replies);
        names_refuse(&client->baggage->names, REFUSED_DUPLICATE, name, replies->group);
        return REWRITE_DONE;
    case NAME_FREE:
        break;
    }
    struct statement *statement = NULL;
    if (client->baggage->names.count < NAMES_MAX) {
        struct statement_key key = {
            client->lease.side->pool->id, &client->vars, reader.at, body_len};
        statement = statements_get(client_statements(client), &key,
            (size_t)client->crowd->pool.settings->prepared_memory);
    }
    if (statement == NULL) {
        provoke_error(client, rewrite, message, reader.at, body_len);
        replies_mark(replies);
        names_refuse(&client->baggage->names, REFUSED_MEMORY, NULL, replies->group);
        return REWRITE_DONE;
    }
    return parse_new(client, rewrite, message, statement);
}

/* ---- Bind, Describe, Close ---- */

/* A use of the unnamed statement. */
static enum rewrite_result
use_unnamed(struct client *client, const struct message *message, struct rewrite *rewrite)
{
    if (!unnamed_provide(client, rewrite->insert)) {
        return REWRITE_WAIT;
    }
    const struct unnamed *unnamed = &client->baggage->unnamed;
    if (message->type == MSG_BIND && unnamed->exists && unnamed->is_suspect) {
        note_bind(client, unnamed_text(client), rewrite->insert);
    }
    return insert_none(client, message);
}

/* Whether a copy stands for its Parse where it would be used for the first time in a way that
 * tells: its columns, or an error that would end a transaction. */
static bool
wants_anew(struct client *client, const struct use *use)
{
    const struct replies *replies = &client->lease.backend->replies;
    struct name *name = use->name;

    if (name->assumed != NAME_UNUSED) {
        name->assumed = name->assumed == replies->group ? name->assumed : 0;
        return false;
    }
    if (replies->status == 'E') {
        return false;
    }
    bool tells = use->message->type == MSG_DESCRIBE || replies->status == 'T';
    name->assumed = tells ? 0 : replies->group;
    return tells;
}

static enum rewrite_result
use_named(struct client *client, const struct use *use, struct rewrite *rewrite)
{
    struct name *name = use->name;
    uint64_t assumed = name->assumed;
    bool is_told = assumed == NAME_UNUSED || provide_tells(use->message, use->len);
    char at_postgres[STATEMENT_NAME_SIZE];

    struct statement *statement = provide_choose(client, name, is_told);
    if (statement == NULL) {
        return provide_refuse(client, use, rewrite);
    }
    bool anew = wants_anew(client, use);
    enum provided provided = provide(client, statement, is_told, anew, rewrite->insert);
    if (provided == PROVIDED_NOT) {
        name->assumed = assumed;
        return REWRITE_WAIT;
    }
    if (use->message->type == MSG_BIND && name->is_suspect) {
        note_bind(client, statement_text(statement), rewrite->insert);
    }
    if (provided == PROVIDED_ASKED && message_is_complete(use->message, use->len)) {
        return provide_defer(client, use, rewrite);
    }
    statement_name(statement, at_postgres);
    insert_name(rewrite, use->message, &use->behind, at_postgres, use_before(use));
    return insert_none(client, use->message);
}

static enum rewrite_result
take_use(struct client *client, struct use *use, struct rewrite *rewrite)
{
    uint64_t group = client->lease.backend->replies.group;

    if (use->message->type == MSG_BIND) {
        client->baggage->drops_in_group = 0;
    }
    if (use->text[0] == '\0') {
        return use_unnamed(client, use->message, rewrite);
    }
    switch (names_find(&client->baggage->names, use->text, group, &use->name)) {
    case NAME_UNSURE:
        return REWRITE_WAIT;
    case NAME_FREE:
        /* PostgreSQL says that there is none; another client's must not answer for it. */
        if (statement_is_reserved(use->text)) {
            insert_name(rewrite, use->message, &use->behind, insert_placeholder, use_before(use));
        }
        return insert_none(client, use->message);
    case NAME_KNOWN:
        break;
    }
    return use_named(client, use, rewrite);
}

static enum rewrite_result
take_close(struct client *client, const struct message *message, const char *text,
    struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;
    struct name *name;

    if (text[0] == '\0') {
        unnamed_forget(client);
        return insert_none(client, message);
    }
    switch (names_find(&client->baggage->names, text, replies->group, &name)) {
    case NAME_UNSURE:
        return REWRITE_WAIT;
    case NAME_FREE:
        if (!statement_is_reserved(text)) {
            return insert_none(client, message);
        }
        insert_nothing(client, rewrite, message);
        return REWRITE_DONE;
    case NAME_KNOWN:
        break;
    }
    insert_nothing(client, rewrite, message);
    replies_mark(replies);
    names_close(&client->baggage->names, name, replies->group);
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
        return insert_none(client, message);
    }
    if (message->type == MSG_CLOSE) {
        return take_close(client, message, text, rewrite);
    }
    struct use use = {.message = message, .len = len, .behind = reader, .text = text};
    return take_use(client, &use, rewrite);
}

enum rewrite_result
rewrite_take(
    struct client *client, const struct message *message, size_t len, struct rewrite *rewrite)
{
    struct replies *replies = &client->lease.backend->replies;

    /* PostgreSQL will not look at it. */
    if (replies->is_skipping) {
        return insert_none(client, message);
    }
    if (message->type != MSG_QUERY) {
        client_baggage(client);
    }
    switch (message->type) {
    case MSG_PARSE:
        return take_parse(client, message, len, rewrite);
    case MSG_QUERY:
        return take_query(client, message, len, rewrite);
    case MSG_EXECUTE:
        return take_execute(client, message);
    default:
        return take_described(client, message, len, rewrite);
    }
}

bool
rewrite_needs_all(const struct client *client, const struct message *message)
{
    return client->follows_names && message->type == MSG_PARSE && message->body[0] != '\0';
}
