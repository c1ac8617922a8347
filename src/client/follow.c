/*
 * What became of a client's prepared statements. Called by client/deliver for each reply that may
 * tell, by client/loss and client/aborted; calls client/names.
 */
#include "client/follow.h"

#include "base/state.h"
#include "base/stats.h"
#include "client/evidence.h"
#include "client/provide.h"
#include "client/unnamed.h"

#include <stdlib.h>
#include <string.h>

/* PostgreSQL's function that finds changed columns. */
#define STALE_PLAN_ROUTINE "RevalidateCachedQuery"

/* Where our names begin in PostgreSQL's words. */
static const char ours[] = "pgkeel_";

/* ---- replies ---- */

bool
follow_is_stale_plan(const struct error_fields *fields)
{
    return strcmp(fields->sqlstate, STATE_STALE_PLAN) == 0 &&
           strcmp(fields->routine, STALE_PLAN_ROUTINE) == 0;
}

/* The error as it came, but for its primary text. */
static void
add_error_with_text(struct buf *buf, const struct message *message, const char *text)
{
    struct reader reader = reader_over(message->body, message->body_len);
    size_t begin = message_begin(buf, MSG_ERROR);
    uint8_t field;

    while ((field = reader_u8(&reader)) != 0) {
        const char *value = reader_string(&reader);
        buf_add_u8(buf, field);
        buf_add_string(buf, field == 'M' ? text : value);
    }
    buf_add_u8(buf, 0);
    message_end(buf, begin);
}

/* As PostgreSQL says it; drivers look at the name of its function. */
static void
add_stale_plan(struct buf *buf)
{
    static const struct
    {
        char field;
        const char *value;
    } words[] = {{'S', "ERROR"}, {'V', "ERROR"}, {'C', STATE_STALE_PLAN},
        {'M', "cached plan must not change result type"}, {'F', "plancache.c"},
        {'R', STALE_PLAN_ROUTINE}};
    size_t begin = message_begin(buf, MSG_ERROR);

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        buf_add_u8(buf, (uint8_t)words[i].field);
        buf_add_string(buf, words[i].value);
    }
    buf_add_u8(buf, 0);
    message_end(buf, begin);
}

/* What PostgreSQL says where an error is provoked. */
static bool
is_provoked(const struct change *change, const char *sqlstate)
{
    return change->refused != REFUSED_NOT &&
           strcmp(sqlstate, change->refused == REFUSED_STALE ? "26000" : "42P05") == 0;
}

/* The words of an error that was provoked. */
static void
explain_refusal(const struct change *change, const struct message *message, struct buf *instead)
{
    struct fail fail;

    if (change->refused == REFUSED_DUPLICATE) {
        fail_set(&fail, "42P05", "prepared statement \"%s\" already exists", change->name->text);
        add_error_with_text(instead, message, fail.text);
        return;
    }
    if (change->refused == REFUSED_STALE) {
        add_stale_plan(instead);
        return;
    }
    fail_set(&fail, "53200", "too many prepared statements");
    fail_detail(&fail, "prepared_memory is used up, or %d names of this client", NAMES_MAX);
    stats_sqlstate(fail.sqlstate);
    message_add_error(instead, "ERROR", &fail);
}

/* The name that a message uses, or NULL. */
static struct name *
name_in(const struct client *client, const struct message *message)
{
    struct reader reader = reader_over(message->body, message->body_len);
    const char *text = "";
    struct name *name;

    if (message->type == MSG_BIND) {
        reader_string(&reader); /* the portal */
        text = reader_string(&reader);
    } else if (message->type == MSG_DESCRIBE && reader_u8(&reader) == 'S') {
        text = reader_string(&reader);
    }
    HASH_FIND_STR(client->baggage->names.all, text, name);
    return name;
}

/* Whether a copy that was there stood for its Parse until this request: its client knows nothing of
 * it yet. */
static bool
is_news(const struct client *client, const struct name *name)
{
    return name != NULL && name->assumed == client->lease.backend->replies.answered;
}

bool
follow_may_renew(const struct client *client)
{
    const struct held *held = &client->lease.backend->held;
    const uint8_t *bytes = buf_head(&held->bytes);
    size_t len = held->count > 0 ? held_at(held, 0)->kept : 0;
    struct message message;
    bool may_renew = false;

    while (message_next(&bytes, &len, &message)) {
        if (message.type == MSG_BIND) {
            may_renew = provide_tells(&message, message.len + len) ||
                        is_news(client, name_in(client, &message));
            if (!may_renew) {
                return false;
            }
        }
    }
    return may_renew;
}

/* Calls fn with each name that the oldest request uses. */
static void
each_name(struct client *client, void (*fn)(struct client *, struct name *, void *), void *arg)
{
    const struct held *held = &client->lease.backend->held;
    const uint8_t *bytes = buf_head(&held->bytes);
    size_t len = held->count > 0 ? held_at(held, 0)->kept : 0;
    struct message message;

    while (message_next(&bytes, &len, &message)) {
        struct name *name = name_in(client, &message);
        if (name != NULL) {
            fn(client, name, arg);
        }
    }
}

struct search
{
    uint64_t id;
    const char *text;
};

static void
match(struct client *client, struct name *name, void *arg)
{
    struct search *search = arg;

    (void)client;
    bool is_it = name->statement->id == search->id || name->former == search->id;
    search->text = is_it ? name->text : search->text;
}

/* What the client calls the statement that is named at the beginning of this text, or NULL. */
static const char *
client_name(struct client *client, const char *text)
{
    char *end;
    struct search search = {.id = strtoull(text + sizeof(ours) - 1, &end, 10)};

    struct name *name, *next;
    HASH_ITER(hh, client->baggage->names.all, name, next) {
        match(client, name, &search);
    }
    for (unsigned i = 0; i < client->baggage->names.changes_count; i++) {
        const struct change *change = &client->baggage->names.changes[i];
        if (change->kind == CHANGE_CLOSE) {
            match(client, change->name, &search);
        }
        HASH_ITER(hh, change->names, name, next) {
            match(client, name, &search);
        }
    }
    each_name(client, match, &search); /* of several, the one that was just used */
    return *end == '"' ? search.text : NULL;
}

/* PostgreSQL speaks of a statement by our name for it. */
static bool
explain_name(struct client *client, const struct message *message, const char *text,
    struct buf *instead)
{
    const char *at = strstr(text, ours);
    const char *name = at != NULL ? client_name(client, at) : NULL;
    struct buf words = {0};

    if (name == NULL) {
        return false;
    }
    buf_add(&words, text, (size_t)(at - text));
    buf_add(&words, name, strlen(name));
    buf_add_string(&words, strchr(at, '"'));
    add_error_with_text(instead, message, (const char *)buf_head(&words));
    buf_deinit(&words);
    return true;
}

/* The plan of a statement in the oldest request gives other columns than before: nobody uses it any
 * more. */
static void
retire(struct client *client, struct name *name, void *arg)
{
    (void)arg;
    if (is_news(client, name)) {
        name->assumed = NAME_UNUSED;
    }
    statement_retire(client_statements(client), name->statement);
}

/* Drops that are still on their way. */
static void
count_drops(struct client *client)
{
    const struct names *names = &client->baggage->names;
    struct prepared *prepared = &client->lease.backend->prepared;

    if (prepared->pending_drops == 0) {
        return;
    }
    prepared->pending_drops = 0;
    for (unsigned i = names->done; i < names->changes_count; i++) {
        prepared->pending_drops += names->changes[i].kind == CHANGE_CLOSE_ALL;
    }
}

void
follow_retire(struct client *client)
{
    each_name(client, retire, NULL);
}

static enum follow
follow_error(struct client *client, const struct message *message,
    const struct follow_facts *reply, struct buf *instead)
{
    struct replies *replies = &client->lease.backend->replies;
    struct change *change = names_next(&client->baggage->names);
    struct error_fields fields;
    bool is_explained = false;

    message_parse_error(message->body, reply->is_whole ? message->body_len : 0, &fields);
    if (reply->was_marked && change != NULL && is_provoked(change, fields.sqlstate)) {
        explain_refusal(change, message, instead);
        is_explained = true;
    }
    if (reply->was_marked && replies->marks == 0 && change != NULL) {
        change->has_failed = true; /* a Query: nothing is skipped, its end is still to come */
    }
    names_skipped(&client->baggage->names, client_statements(client), replies->marks);
    count_drops(client);
    unnamed_follow_error(client);
    is_explained = is_explained || explain_name(client, message, fields.message, instead);
    if (follow_is_stale_plan(&fields)) {
        follow_retire(client);
    }
    return is_explained ? FOLLOW_EXPLAINED : FOLLOW_NOTHING;
}

enum follow
follow_reply(struct client *client, const struct message *message,
    const struct follow_facts *reply, struct buf *instead)
{
    struct replies *replies = &client->lease.backend->replies;
    struct names *names = &client->baggage->names;
    enum follow follow = FOLLOW_NOTHING;

    if (message->type == MSG_ERROR) {
        return follow_error(client, message, reply, instead);
    }
    if (replies->marks > 0) {
        const struct change *change = names_next(names);
        ensure(change != NULL && replies->marks == 1);
        follow = change->is_token ? FOLLOW_PARSED : FOLLOW_NOTHING;
        if (change->kind == CHANGE_PARSE && !change->is_token) {
            prepared_confirm(
                &client->lease.backend->prepared, change->name->statement);
        }
        names_done(names, client_statements(client));
        count_drops(client);
    }
    if (message->type == MSG_READY && names->done > 0 &&
        (names->changes[0].group < replies->answered ||
            (replies_is_empty(replies) && !replies->is_open))) {
        names_commit(names, client_statements(client));
    }
    return follow;
}

void
follow_columns(struct client *client)
{
    struct prepared *prepared = &client->lease.backend->prepared;
    struct name *name, *next;

    HASH_ITER(hh, client->baggage->names.all, name, next) {
        if (name->statement->id == prepared->changed) {
            provide_choose(client, name, true);
        }
    }
    prepared->changed = 0;
}

/* ---- the rest ---- */

const char *
follow_text(void *arg, const char *text)
{
    struct client *client = arg;
    const struct names *names = &client->baggage->names;
    struct name *name;

    for (unsigned i = 0; i < names->changes_count; i++) {
        const struct change *change = &names->changes[i];
        if (change->kind == CHANGE_CLOSE_ALL ||
            (change->name != NULL && strcmp(change->name->text, text) == 0)) {
            return NULL;
        }
    }
    HASH_FIND_STR(names->all, text, name);
    return name != NULL ? statement_text(name->statement) : NULL;
}

void
follow_lost(struct client *client, bool resends)
{
    if (client->baggage->names.changes_count > 0) {
        names_lost(&client->baggage->names, client_statements(client), !resends);
    }
}

void
follow_close(struct client *client, const char *text)
{
    struct name *name;

    HASH_FIND_STR(client->baggage->names.all, text, name);
    if (name != NULL) {
        names_remove(&client->baggage->names, client_statements(client), name);
    }
}

void
follow_end(struct client *client)
{
    provide_forget(client);
    names_deinit(&client->baggage->names, client_statements(client));
    buf_deinit(&client->baggage->unnamed.body);
}
