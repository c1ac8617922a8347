/*
 * Session state. Called by client/intake (texts), client/relay (boundaries) and client/deliver (the
 * answer to the question of ours); calls wire/session for what a text may leave.
 */
#include "client/session.h"

#include "base/mem.h"
#include "base/stats.h"
#include "base/text.h"
#include "client/listening.h"
#include "client/loss.h"
#include "pool/pools.h"
#include "wire/session.h"

#include <string.h>
#include <strings.h>

/* What was noted since the last look, and what that found. */
struct session
{
    unsigned marks;
    unsigned pins;
    int64_t pinned_us;
    struct vars names; /* owns: settings that texts named */
    struct vars found; /* owns: settings of the session, while LOOKING */
    struct buf channels; /* owns: that its backend listens to, while LOOKING */
    unsigned found_pins;
    bool is_broken; /* the answer could not be read */
};

/* How PostgreSQL is asked for each pin. */
static const struct
{
    enum pin pin;
    const char *letter, *word;
    const char *condition; /* NULL: it cannot be asked so */
} pins[] = {
    {PIN_LISTEN, "l", "listen", NULL},
    {PIN_PREPARE, "p", "prepare", "SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE from_sql"},
    {PIN_CURSOR, "c", "cursor with hold", "SELECT 1 FROM pg_catalog.pg_cursors WHERE is_holdable"},
    {PIN_TEMP, "t", "temporary table",
        "SELECT 1 FROM pg_catalog.pg_class WHERE pg_catalog.pg_my_temp_schema() <> 0 "
        "AND relnamespace = pg_catalog.pg_my_temp_schema()"},
    {PIN_LOCK, "a", "advisory lock",
        "SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' "
        "AND pid = pg_catalog.pg_backend_pid()"},
    {PIN_SEQUENCE, "", "sequence value", NULL},
    {PIN_LOAD, "", "load", NULL},
    {PIN_SETTING, "", "set_config", NULL},
    {PIN_UNKNOWN, "", "unknown", NULL},
};

enum
{
    PINS = sizeof(pins) / sizeof(pins[0])
};

void
session_start(struct client *client)
{
    client->watches_session = pool_policy(client->lease.side)->mode != POOL_SESSION;
}

void
session_note_setting(struct client *client)
{
    if (client->watches_session && client->baggage->startup.bytes == NULL) {
        vars_copy(&client_baggage(client)->startup, &client->vars);
    }
}

void
session_pin_words(unsigned bits, char *text, size_t size)
{
    size_t len = 0;

    text[0] = '\0';
    for (int i = 0; i < PINS; i++) {
        if (bits & pins[i].pin && len < size) {
            len += (size_t)snprintf(
                text + len, size - len, "%s%s", len > 0 ? ", " : "", pins[i].word);
        }
    }
}

static void
set_pins(struct client *client, unsigned bits)
{
    struct session *session = client->baggage->session;
    struct pool *pool = client->lease.side->pool;
    char words[160];

    if (session->pins == 0 && bits != 0) {
        session->pinned_us = loop_now_us(client->crowd->pool.loop);
        pool_count_pinned(pool, 1);
        stats_add(METRIC_pins_total, 1);
        session_pin_words(bits, words, sizeof(words));
        client_log(LEVEL_INFO, client, "keeps its server connection: %s", words);
    } else if (session->pins != 0 && bits == 0) {
        pool_count_pinned(pool, -1);
    }
    session->pins = bits;
}

void
session_end(struct client *client)
{
    if (client->baggage->session != NULL) {
        set_pins(client, 0);
        vars_deinit(&client->baggage->session->names);
        vars_deinit(&client->baggage->session->found);
        buf_deinit(&client->baggage->session->channels);
        free(client->baggage->session);
        client->baggage->session = NULL;
    }
}

unsigned
session_pins(const struct client *client)
{
    return client->baggage->session != NULL ? client->baggage->session->pins : 0;
}

int64_t
session_pinned_since(const struct client *client)
{
    return session_pins(client) != 0 ? client->baggage->session->pinned_us : 0;
}

bool
session_has_news(const struct client *client)
{
    return client->baggage->session != NULL && client->baggage->session->marks != 0;
}

bool
session_is_dirty(const struct client *client)
{
    return client->baggage->session != NULL;
}

/* ---- texts ---- */

/* Reading a text of a client. */
struct noting
{
    struct client *client;
    struct session *session;
};

static void
note_name(void *arg, const char *name, enum session_name kind)
{
    struct noting *noting = arg;

    if (kind == NAME_SETTING) {
        vars_put(&noting->session->names, name, "");
    } else if (kind == NAME_CHANNEL && listening_is_on(noting->client)) {
        listening_note_unlisten(noting->client, name);
    }
}

void
session_note_suspect(struct client *client, const char *text)
{
    struct session *session = client->baggage->session;

    if (session == NULL) {
        session = mem_new(sizeof(*session));
    }
    struct noting noting = {client, session};
    unsigned marks = text == NULL
                         ? SESSION_LEAVES | SESSION_LOCKS
                         : session_read(text, strlen(text), loss_has_backslash_escapes(client),
                               note_name, &noting);
    if (marks & SESSION_UNLISTENS_ALL && listening_is_on(client)) {
        listening_note_unlisten(client, NULL);
    }
    if (client->lease.backend->replies.status != 'I') {
        marks &= ~(unsigned)SESSION_SEQUENCES; /* what it asks for was made in its transaction */
    }
    /* What ends something concerns nobody who has nothing. */
    bool matters = marks & ~(unsigned)(SESSION_ENDS | SESSION_LOCKS | SESSION_DEALLOCATES |
                                       SESSION_DEALLOCATES_ALL | SESSION_UNLISTENS |
                                       SESSION_UNLISTENS_ALL) ||
                   session->marks != 0 || session->pins != 0;
    if (matters) {
        session_note_setting(client);
        session->marks |= marks;
        client_baggage(client)->session = session;
    } else {
        vars_deinit(&session->names);
        free(session);
    }
}

void
session_note(struct client *client, const char *text)
{
    if (text == NULL || session_is_suspect(text, strlen(text))) {
        session_note_suspect(client, text);
    }
}

/* ---- the question ---- */

static void
add_names(struct buf *sql, const struct vars *names, bool *is_first)
{
    const char *name, *value;
    uint32_t cursor = 0;

    while (vars_next(names, &cursor, &name, &value)) {
        /* Those that pg_settings does not show. */
        if (strchr(name, '.') == NULL && strcasecmp(name, "role") != 0) {
            continue;
        }
        buf_print(sql, "%s", *is_first ? "" : ",");
        *is_first = false;
        text_quote_literal(sql, name);
    }
}

/* Everything in one answer: 's' settings that were set, 'n' those that were named, and the pins. */
static void
ask(struct client *client)
{
    struct session *session = client->baggage->session;
    struct backend *backend = client->lease.backend;
    bool asks_locks = session->marks & SESSION_LOCKS || session->pins & PIN_LOCK;
    bool is_first = true;
    struct buf sql = {0};

    buf_print(&sql, "SELECT 's', name, pg_catalog.current_setting(name) "
                    "FROM pg_catalog.pg_settings WHERE source = 'session' "
                    "AND name !~ '^transaction_' UNION ALL "
                    "SELECT 'n', n, pg_catalog.current_setting(n, true) "
                    "FROM pg_catalog.unnest(ARRAY[");
    add_names(&sql, &session->names, &is_first);
    add_names(&sql, &client->vars, &is_first);
    buf_print(&sql, "]::pg_catalog.text[]) n UNION ALL SELECT 'l', c, '' "
                    "FROM pg_catalog.pg_listening_channels() c");
    for (int i = 0; i < PINS; i++) {
        if (pins[i].condition != NULL && (pins[i].pin != PIN_LOCK || asks_locks)) {
            buf_print(&sql, " UNION ALL SELECT '%s', '', '' WHERE EXISTS (%s)", pins[i].letter,
                pins[i].condition);
        }
    }
    buf_add_u8(&sql, 0);
    backend->replies.is_broken = false;
    vars_deinit(&session->found);
    buf_deinit(&session->channels);
    session->found_pins = 0;
    session->is_broken = false;
    stats_add(METRIC_session_looks_total, 1);
    backend_send_query(backend, (const char *)buf_head(&sql));
    buf_deinit(&sql);
}

bool
session_keeps(struct client *client)
{
    struct session *session = client->baggage->session;

    if (session == NULL) {
        return false;
    }
    if (session->marks == 0) {
        return session->pins != 0;
    }
    if (client->lease.backend->duty.cancels > 0) {
        return true; /* they could hit the question; asked when they are over */
    }
    client_become(client, CLIENT_LOOKING);
    ask(client);
    return true;
}

/* ---- the answer ---- */

/* The next value of a DataRow, with a zero byte of its own; false when it is NULL or too long. */
static bool
read_value(struct reader *reader, struct buf *value)
{
    uint32_t len = reader_u32(reader);

    buf_clear(value);
    if (len == UINT32_MAX) {
        return false;
    }
    const uint8_t *bytes = reader_bytes(reader, len);
    if (bytes == NULL) {
        return false;
    }
    buf_add(value, bytes, len);
    buf_add_u8(value, 0);
    return true;
}

static void
note_found(struct client *client, const char *kind, const char *name, const char *value)
{
    struct session *session = client->baggage->session;
    bool is_role = strcasecmp(name, "role") == 0 && strcmp(value, "none") == 0;
    /* What RESET leaves of a setting that an extension, or nobody, has defined. */
    bool is_reset = kind[0] == 'n' && value[0] == '\0' &&
                    vars_find(&client->baggage->startup, name) != NULL;

    if (kind[0] == 's' || kind[0] == 'n') {
        if (!is_role && !is_reset) {
            vars_put(&session->found, name, value);
        }
        return;
    }
    if (kind[0] == 'l') {
        buf_add_string(&session->channels, name);
    }
    for (int i = 0; i < PINS; i++) {
        session->found_pins |= strcmp(kind, pins[i].letter) == 0 ? (unsigned)pins[i].pin : 0;
    }
}

void
session_reply(struct client *client, const struct message *message, bool is_whole)
{
    struct session *session = client->baggage->session;
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);
    struct buf kind = {0}, name = {0}, value = {0};

    if (message->type != MSG_DATA_ROW) {
        return;
    }
    bool is_read = reader_u16(&reader) == 3 && read_value(&reader, &kind) &&
                   read_value(&reader, &name);
    if (is_read && read_value(&reader, &value)) {
        note_found(client, (const char *)buf_head(&kind), (const char *)buf_head(&name),
            (const char *)buf_head(&value));
    }
    session->is_broken = session->is_broken || !is_read || reader.is_bad;
    buf_deinit(&kind);
    buf_deinit(&name);
    buf_deinit(&value);
}

/* The client's settings are now those it started with, and over them what it has set. */
static void
take_settings(struct client *client)
{
    struct session *session = client->baggage->session;
    struct backend *backend = client->lease.backend;
    const char *name, *value;
    uint32_t cursor = 0;
    struct vars wanted = {0}, actual = {0};
    struct buf news = {0};

    vars_copy(&wanted, &client->baggage->startup);
    while (vars_next(&backend->vars, &cursor, &name, &value)) {
        if (backend_reports(backend, name)) {
            vars_put(&actual, name, value);
        }
    }
    cursor = 0;
    while (vars_next(&session->found, &cursor, &name, &value)) {
        if (backend_reports(backend, name)) {
            vars_put(&wanted, name, vars_find(&backend->vars, name));
        } else {
            vars_put(&wanted, name, value);
            vars_put(&actual, name, value);
        }
    }
    vars_copy(&backend->vars, &actual);
    cursor = 0;
    while (vars_next(&wanted, &cursor, &name, &value)) {
        const char *told = vars_find(&client->vars, name);
        if (backend_reports(backend, name) && (told == NULL || strcmp(told, value) != 0)) {
            message_add_parameter(&news, name, value);
        }
    }
    vars_copy(&client->vars, &wanted);
    client_send(client, &news);
    vars_deinit(&wanted);
    vars_deinit(&actual);
}

/* Pins that cannot be asked for. */
static unsigned
assumed_pins(const struct session *session)
{
    unsigned assumed = session->pins & (PIN_SEQUENCE | PIN_LOAD | PIN_SETTING);

    assumed |= session->marks & SESSION_SEQUENCES ? PIN_SEQUENCE : 0;
    assumed |= session->marks & SESSION_LOADS ? PIN_LOAD : 0;
    assumed |= session->marks & SESSION_UNNAMED ? PIN_SETTING : 0;
    if (session->marks & SESSION_DISCARDS) {
        assumed &= ~(unsigned)(PIN_SEQUENCE | PIN_SETTING);
    }
    return assumed;
}

/* What listens for clients says what PostgreSQL stores, without conversion. */
static bool
reads_what_is_stored(const struct client *client)
{
    const char *stored = backend_encoding(client->lease.backend);
    const char *wanted = vars_find(&client->vars, "client_encoding");

    return stored == NULL || wanted == NULL || strcmp(stored, wanted) == 0 ||
           strcmp(stored, "SQL_ASCII") == 0 || strcmp(wanted, "SQL_ASCII") == 0;
}

bool
session_looked(struct client *client)
{
    struct session *session = client->baggage->session;
    struct backend *backend = client->lease.backend;
    bool is_broken = session->is_broken || backend->replies.is_broken;

    if (!is_broken) {
        take_settings(client);
    }
    set_pins(client,
        is_broken ? PIN_UNKNOWN : session->found_pins | assumed_pins(session));
    if (!is_broken) {
        bool may_move = session->pins == PIN_LISTEN && reads_what_is_stored(client);
        listening_looked(client, &session->channels, may_move);
    }
    session->marks = 0;
    vars_deinit(&session->names);
    vars_deinit(&session->found);
    if (session->pins == 0) {
        session_end(client);
        return false;
    }
    return true;
}

bool
session_is_too_much(const struct client *client, struct fail *fail)
{
    const struct settings *settings = client->crowd->pool.settings;
    unsigned kept = session_pins(client);
    int64_t pinned = atomic_load(&client->lease.side->pool->pinned);
    char words[160];

    if (settings->shared_listener) {
        kept &= ~(unsigned)PIN_LISTEN; /* it will move */
    }
    if (kept == 0 || settings->max_pinned == 0 || pinned <= settings->max_pinned) {
        return false;
    }
    session_pin_words(kept, words, sizeof(words));
    fail_set(fail, "53300", "too many clients keep a server connection");
    fail_detail(fail, "%d/%d pinned (max_pinned); this session would keep one for: %s.",
        (int)settings->max_pinned, (int)settings->max_pinned, words);
    return true;
}
