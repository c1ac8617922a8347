/*
 * The console's protocol. Called by client.c through console_handler; calls ops/commands to
 * understand, ops/show to gather. One thing is in progress at a time: while rows are gathered, what
 * the client sends stays where it is.
 */
#include "ops/console.h"

#include "base/mem.h"
#include "base/state.h"
#include "client/login.h"
#include "daemon/daemon.h"
#include "ops/averages.h"
#include "ops/commands.h"
#include "ops/errand.h"
#include "ops/gather.h"
#include "ops/session.h"
#include "wire/message.h"

#include <arpa/inet.h>
#include <strings.h>

enum
{
    MESSAGE_MAX = 65536 - 1
};

static struct daemon *the_daemon; /* set once, before any client */

void
console_init(struct daemon *daemon)
{
    the_daemon = daemon;
    errands_init(daemon);
    averages_init(daemon);
}

static void
reply_fields(struct client *client, const struct error_fields *fields)
{
    struct session *session = client->handler_data;
    struct buf buf = {0};

    message_add_fields(&buf, MSG_ERROR, fields);
    if (session->is_simple) {
        message_add_ready(&buf, 'I');
    } else {
        session->is_skipping = true;
    }
    client_send(client, &buf);
}

static void
reply_error(struct client *client, const struct fail *fail)
{
    struct error_fields fields = {"ERROR", fail->sqlstate, fail->text, fail->detail, "", ""};

    reply_fields(client, &fields);
}

/* The end of a statement: its tag, and ReadyForQuery in the simple protocol. */
static void
complete(struct client *client, struct buf *buf, const char *tag)
{
    struct session *session = client->handler_data;

    message_add_command_complete(buf, tag);
    if (session->is_simple) {
        message_add_ready(buf, 'I');
    }
    client_send(client, buf);
}

/* Nothing is read while an answer is being made, or while the client does not take what it was
 * answered. */
static bool
may_go_on(const struct client *client)
{
    const struct session *session = client->handler_data;

    return !session->is_busy && !stream_is_backed_up(&client->stream);
}

/* Takes up what the client sent meanwhile; it may be gone afterwards. */
static void
go_on(struct client *client)
{
    if (may_go_on(client)) {
        stream_want_read(&client->stream, true);
        client->handler->on_kept(client);
    }
}

static void
resume(struct client *client)
{
    struct session *session = client->handler_data;

    session->is_busy = false;
    go_on(client);
}

static void
pause_reading(struct client *client)
{
    struct session *session = client->handler_data;

    session->is_busy = true;
    stream_want_read(&client->stream, false);
}

/* ---- SHOW ---- */

/* The console's client that an errand or a gathering is for, unless it is gone. */
static struct client *
find_asker(int home, uint64_t ticket)
{
    struct client *client = slots_find(&daemon_crowd(the_daemon, home)->tickets, ticket);

    return client != NULL && client->state == CLIENT_CONSOLE ? client : NULL;
}

static void
on_gathered(struct gather *gather)
{
    struct client *client = find_asker(gather->home, gather->ticket);
    struct buf buf = {0};

    if (client != NULL) {
        const struct session *session = client->handler_data;
        struct show_columns columns = show_columns(gather->show, session->is_plain);
        if (session->is_simple) {
            message_add_row_description(&buf, columns.columns, columns.count, false);
        }
        buf_add(&buf, buf_head(&gather->rows), buf_len(&gather->rows));
        complete(client, &buf, "SHOW");
        resume(client);
    }
    gather_free(gather);
}

static void
start_show(struct client *client, const struct show *show, uint64_t formats)
{
    const struct session *session = client->handler_data;
    struct gather *gather = mem_new(sizeof(*gather));

    gather->show = show;
    gather->columns = show_columns(show, session->is_plain).count;
    gather->daemon = the_daemon;
    gather->ticket = client->ticket;
    gather->home = client->crowd->pool.index;
    gather->formats = formats;
    gather->done = on_gathered;
    pause_reading(client);
    gather_start(gather);
}

static void
reply_fake(struct client *client, const struct console_statement *statement)
{
    const struct session *session = client->handler_data;
    struct message_column column = {statement->fake_name, OID_TEXT};
    struct buf buf = {0};

    if (session->is_simple) {
        message_add_row_description(&buf, &column, 1, false);
    }
    size_t row = message_begin_row(&buf, 1);
    message_row_text(&buf, statement->fake_value);
    message_end(&buf, row);
    complete(client, &buf, "SHOW");
}

static void
reply_help(struct client *client)
{
    struct buf text = {0}, buf = {0};
    struct fail notice;

    buf_print(&text, "\n\tSHOW HELP");
    for (size_t i = 0; show_name(i) != NULL; i++) {
        buf_print(&text, "%s%s", i % 8 == 7 ? "\n\tSHOW " : "|", show_name(i));
    }
    for (size_t i = 0; console_command_usage(i) != NULL; i++) {
        buf_print(&text, "\n\t%s", console_command_usage(i));
    }
    buf_add_u8(&text, 0);
    fail_set(&notice, "00000", "Console usage");
    fail_detail(&notice, "%s", (const char *)buf_head(&text));
    buf_deinit(&text);
    message_add_notice(&buf, "NOTICE", &notice);
    complete(client, &buf, "SHOW");
}

/* ---- what main must do ---- */

static enum errand_wish
ask_wish(const struct errand *errand)
{
    struct client *client = find_asker(errand->home, errand->ticket);

    if (client == NULL) {
        return ERRAND_FORGOTTEN;
    }
    /* An end is an event, but no event tells of a reset while nothing is read. */
    if (stream_peek(&client->stream) == STREAM_ERROR) {
        client_close(client, NULL);
        return ERRAND_FORGOTTEN;
    }
    const struct session *session = client->handler_data;
    return session->is_cancelled ? ERRAND_CANCELLED : ERRAND_WANTED;
}

static void
on_errand_done(struct errand *errand)
{
    struct client *client = find_asker(errand->home, errand->ticket);
    const struct fail *fail = &errand->fail;
    struct buf buf = {0};

    if (client == NULL) {
        errand_free(errand);
        return;
    }
    if (fail->sqlstate[0] == '\0') {
        complete(client, &buf, errand->statement.tag);
    } else {
        buf_add_u8(&errand->findings, 0);
        struct error_fields fields = {"ERROR", fail->sqlstate, fail->text,
            (const char *)buf_head(&errand->findings), "", ""};
        reply_fields(client, &fields);
    }
    errand_free(errand);
    resume(client);
}

/* Whether the database that a command names is one. */
static bool
is_database(
    const struct client *client, const struct console_statement *statement, struct fail *fail)
{
    const char *name = statement->argument;

    if (!statement->concerns_database || name[0] == '\0') {
        return true;
    }
    if (login_is_console(name)) {
        return fail_set(fail, "0A000", "cannot use %s on the admin db: %s", statement->tag, name);
    }
    return settings_find_database(client->crowd->pool.settings, name) != NULL ||
           fail_set(fail, "3D000", "no such database: %.64s", name);
}

static void
send_errand(struct client *client, const struct console_statement *statement)
{
    struct session *session = client->handler_data;
    struct fail fail;

    if (!is_database(client, statement, &fail)) {
        reply_error(client, &fail);
        return;
    }
    bool is_set = statement->action == ACTION_SET;
    client_log(LEVEL_INFO, client, "console: %s%s%s %.64s", statement->tag, is_set ? " " : "",
        statement->key, is_set ? "" : statement->argument);
    struct errand *errand = mem_new(sizeof(*errand));
    errand->statement = *statement;
    errand->daemon = the_daemon;
    errand->ticket = client->ticket;
    errand->home = client->crowd->pool.index;
    errand->ask = ask_wish;
    errand->done = on_errand_done;
    session->is_cancelled = false;
    pause_reading(client);
    stream_want_closed(&client->stream); /* it may wait for long */
    errand_start(errand);
}

static void
on_shutdown_drain(void *arg)
{
    daemon_stop(arg, STOP_DRAIN);
}

static void
on_shutdown_wait(void *arg)
{
    daemon_stop(arg, STOP_WAIT);
}

static void
on_shutdown_now(void *arg)
{
    daemon_stop(arg, STOP_NOW);
}

static void
shut_down(struct client *client, const struct console_statement *statement)
{
    static const struct
    {
        const char *argument;
        void (*fn)(void *arg);
    } hows[] = {{"", on_shutdown_now}, {"WAIT_FOR_SERVERS", on_shutdown_drain},
        {"WAIT_FOR_CLIENTS", on_shutdown_wait}};
    struct buf buf = {0};
    struct fail fail;

    for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++) {
        if (strcasecmp(statement->argument, hows[i].argument) == 0) {
            complete(client, &buf, "SHUTDOWN");
            /* A daemon that stopped meanwhile needs no telling. */
            if (!loop_post(daemon_loop(the_daemon), hows[i].fn, the_daemon)) {
                client_log(LEVEL_DEBUG, client, "shutting down already");
            }
            return;
        }
    }
    fail_set(&fail, "42601", "SHUTDOWN takes nothing, WAIT_FOR_SERVERS or WAIT_FOR_CLIENTS");
    reply_error(client, &fail);
}

/* ---- one statement ---- */

static void
run(struct client *client, const char *sql, uint64_t formats)
{
    const struct session *session = client->handler_data;
    struct console_statement statement;
    struct buf buf = {0};
    struct fail fail;

    if (!console_statement_parse(sql, session->is_admin, &statement, &fail)) {
        reply_error(client, &fail);
        return;
    }
    switch (statement.action) {
    case ACTION_EMPTY:
        message_add_simple(&buf, MSG_EMPTY_QUERY);
        if (session->is_simple) {
            message_add_ready(&buf, 'I');
        }
        client_send(client, &buf);
        break;
    case ACTION_NOTHING:
        complete(client, &buf, statement.tag);
        break;
    case ACTION_SHOW:
        start_show(client, statement.show, formats);
        break;
    case ACTION_FAKE:
        reply_fake(client, &statement);
        break;
    case ACTION_HELP:
        reply_help(client);
        break;
    case ACTION_SHUTDOWN:
        shut_down(client, &statement);
        break;
    case ACTION_RELOAD:
    case ACTION_RECONNECT:
    case ACTION_PAUSE:
    case ACTION_RESUME:
    case ACTION_SUSPEND:
    case ACTION_DISABLE:
    case ACTION_ENABLE:
    case ACTION_KILL:
    case ACTION_KILL_CLIENT:
    case ACTION_WAIT_CLOSE:
    case ACTION_SET:
        send_errand(client, &statement);
        break;
    case ACTIONS:
        ensure(!"no action");
    }
}

/* ---- the extended protocol ---- */

/* One message of the extended protocol. */
static void
take_extended(struct client *client, const struct message *message)
{
    struct session *session = client->handler_data;
    struct reader reader = reader_over(message->body, message->body_len);
    struct buf buf = {0};
    struct fail fail;
    bool is_right = true;

    session->is_simple = false;
    switch (message->type) {
    case MSG_PARSE:
        is_right = session_parse(session, &reader, &buf, &fail);
        break;
    case MSG_BIND:
        is_right = session_bind(session, &reader, &buf, &fail);
        break;
    case MSG_DESCRIBE:
        is_right = session_describe(session, &reader, &buf, &fail);
        break;
    case MSG_CLOSE:
        is_right = session_close_named(session, &reader, &buf, &fail);
        break;
    case MSG_EXECUTE: {
        const struct portal *portal = session_execute(session, &reader, &fail);
        if (portal != NULL) {
            run(client, portal->sql, portal->formats);
            return;
        }
        is_right = false;
        break;
    }
    default:
        is_right = fail_set(&fail, "08P01", "invalid frontend message type %d", message->type);
        break;
    }
    if (!is_right) {
        buf_clear(&buf);
        reply_error(client, &fail);
    }
    client_send(client, &buf);
}

static void
take_message(struct client *client, const struct message *message)
{
    struct session *session = client->handler_data;
    struct reader reader = reader_over(message->body, message->body_len);
    struct buf buf = {0};

    if (message->type == MSG_SYNC) {
        session_sync(session);
        message_add_ready(&buf, 'I');
        client_send(client, &buf);
        return;
    }
    if (session->is_skipping || message->type == MSG_FLUSH) {
        return;
    }
    if (message->type == MSG_QUERY) {
        const char *sql = reader_string(&reader);
        session->is_simple = true;
        run(client, sql, 0);
        return;
    }
    take_extended(client, message);
}

/* ---- bytes ---- */

static void
process(struct client *client, const uint8_t *data, size_t len)
{
    struct message message;
    struct fail fail;
    size_t most;

    loop_scratch(client->crowd->pool.loop, &most);
    most = most < MESSAGE_MAX ? most : MESSAGE_MAX;
    while (len > 0 && may_go_on(client)) {
        enum message_result result = message_peek(data, len, &message);
        if (result == MESSAGE_BAD || (result == MESSAGE_OK && message.len > most)) {
            fail_set(&fail, "08P01", "invalid message length");
            client_reject(client, &fail);
            return;
        }
        if (result == MESSAGE_MORE || !message_is_complete(&message, len)) {
            break;
        }
        if (message.type == MSG_TERMINATE) {
            client_close(client, NULL);
            return;
        }
        take_message(client, &message);
        data += message.len;
        len -= message.len;
    }
    if (len > 0) {
        stream_keep(&client->stream, data, len);
    }
    stream_want_read(&client->stream, may_go_on(client));
}

static void
on_kept(struct client *client)
{
    uint8_t *data;
    size_t len;

    if (stream_kept(&client->stream, &data, &len) == STREAM_OK) {
        process(client, data, len);
    }
}

static void
on_event(struct client *client, unsigned what)
{
    uint8_t *data;
    size_t len;

    if (what & WATCH_WRITE) {
        if (stream_flush(&client->stream)) {
            go_on(client);
        }
        return; /* what can be read comes up again, if the client is still there */
    }
    if (what & WATCH_CLOSED) {
        client_close(client, NULL);
        return;
    }
    if (!may_go_on(client)) {
        return;
    }
    switch (stream_read(&client->stream, &data, &len)) {
    case STREAM_OK:
        process(client, data, len);
        break;
    case STREAM_WAIT:
        break;
    case STREAM_EOF:
    case STREAM_ERROR:
        client_close(client, NULL);
        break;
    }
}

static void
on_start(struct client *client)
{
    static const char *const parameters[][2] = {
        {"server_version", "15.0 (pgkeel " PGKEEL_VERSION ")"}, {"client_encoding", "UTF8"},
        {"server_encoding", "UTF8"}, {"DateStyle", "ISO, MDY"}, {"TimeZone", "UTC"},
        {"standard_conforming_strings", "on"}, {"integer_datetimes", "on"}, {"is_superuser", "off"},
        {"application_name", ""}};
    uint32_t secret = htonl(client->key.secret);
    struct buf buf = {0};

    struct session *session = mem_new(sizeof(*session));
    session->is_admin = client->identity.is_admin;
    session->is_plain = strcmp(client->identity.database, "pgbouncer") == 0;
    client->handler_data = session;
    client->stream.watch.is_exempt = true; /* RESUME must be heard */
    message_add_auth(&buf, AUTH_OK, NULL, 0);
    for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) {
        message_add_parameter(&buf, parameters[i][0], parameters[i][1]);
    }
    message_add_key(&buf, client->key.pid, &secret, sizeof(secret));
    message_add_ready(&buf, 'I');
    client_send(client, &buf);
}

static void
on_close(struct client *client)
{
    struct session *session = client->handler_data;

    session_deinit(session);
    free(session);
    client->handler_data = NULL;
}

static void
on_cancel(struct client *client)
{
    struct session *session = client->handler_data;

    session->is_cancelled = session->is_busy;
}

const struct handler console_handler = {
    .name = "console",
    .on_start = on_start,
    .on_kept = on_kept,
    .on_event = on_event,
    .on_close = on_close,
    .on_cancel = on_cancel,
};
