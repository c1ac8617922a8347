/*
 * Replication connections. Called by client/welcome; calls pool_dial_apart(), then forwards bytes.
 *
 *    client ◄── bytes ──► PostgreSQL      only headers of what PostgreSQL says are looked at, for
 *                                         its errors
 */
#include "client/replication.h"

#include "base/mem.h"
#include "base/stats.h"
#include "base/text.h"
#include "client/login.h"
#include "client/secrets.h"
#include "client/welcome.h"
#include "pool/apart.h"
#include "pool/cancel.h"
#include "pool/pools.h"
#include "wire/message.h"

#include <strings.h>

/* A client that asked for replication, and its own connection. */
struct replication
{
    struct client *client; /* borrows */
    struct apart server;   /* owns */
    bool is_logical;
    uint8_t header[MESSAGE_HEADER]; /* of the present message of PostgreSQL */
    size_t header_len;              /* bytes of it that are here */
    uint32_t rest;                  /* bytes of its body still to come */
    uint8_t last;                   /* its type, or that of the one before */
};

/* Who dials: the client may be gone when the answer comes. */
struct dialling
{
    struct crowd *crowd; /* borrows */
    uint64_t ticket;
};

bool
replication_is_wanted(const char *value)
{
    bool is_true;

    return value != NULL && (!text_parse_bool(value, &is_true) || is_true);
}

static bool
is_logical(const char *value)
{
    return strcasecmp(value, "database") == 0;
}

const char *
replication_kind(const struct client *client)
{
    const struct replication *replication = client->handler_data;

    if (client->state != CLIENT_REPLICATING) {
        return "none";
    }
    return replication->is_logical ? "logical" : "physical";
}

/* ---- PostgreSQL's side ---- */

static void
free_now(void *arg)
{
    struct replication *replication = arg;

    apart_free(&replication->server);
    free(replication);
}

static void
tell_error(struct client *client, const uint8_t *body, size_t len)
{
    struct error_fields fields;

    message_parse_error(body, len, &fields);
    client_log(LEVEL_WARN, client, "replication: %s %s: %s", fields.severity, fields.sqlstate,
        fields.message);
}

/* Follows the messages of PostgreSQL, for its errors. */
static void
follow(struct replication *replication, const uint8_t *data, size_t len)
{
    while (len > 0) {
        if (replication->rest > 0) {
            size_t step = replication->rest < len ? replication->rest : len;
            replication->rest -= (uint32_t)step;
            data += step;
            len -= step;
            continue;
        }
        replication->header[replication->header_len++] = *data++;
        len--;
        if (replication->header_len < MESSAGE_HEADER) {
            continue;
        }
        uint32_t body = message_u32(replication->header + 1);
        replication->rest = body > 4 ? body - 4 : 0;
        replication->header_len = 0;
        replication->last = replication->header[0];
        if (replication->last == MSG_ERROR) {
            size_t here = replication->rest < len ? replication->rest : len;
            tell_error(replication->client, data, here);
        }
    }
}

/* PostgreSQL has closed its side. What it said last is the reason, if it said one. */
static void
end(struct replication *replication)
{
    struct client *client = replication->client;
    bool is_cut = replication->rest > 0 || replication->header_len > 0;
    struct fail fail;

    fail_set(&fail, "08006", "replication connection lost: %s",
        stream_reason(&replication->server.stream));
    if (is_cut || client->stream.is_write_broken) {
        client_close(client, &fail);
    } else if (replication->last == MSG_ERROR || replication->last == MSG_COMMAND_COMPLETE) {
        client_finish(client, &fail);
    } else {
        client_reject(client, &fail);
    }
}

static void
on_server_event(void *arg, unsigned what)
{
    struct replication *replication = arg;
    struct client *client = replication->client;
    uint8_t *data;
    size_t len;

    if (what & WATCH_WRITE && stream_flush(&replication->server.stream)) {
        stream_want_read(&client->stream, true);
    }
    if (!(what & WATCH_READ)) {
        return;
    }
    switch (stream_read(&replication->server.stream, &data, &len)) {
    case STREAM_OK:
        follow(replication, data, len);
        client->lease.side->counts.sent += len;
        stats_add(METRIC_bytes_sent_total, len);
        stream_write(&client->stream, data, len);
        stream_want_read(&replication->server.stream, !stream_is_backed_up(&client->stream));
        break;
    case STREAM_WAIT:
        break;
    case STREAM_EOF:
    case STREAM_ERROR:
        end(replication);
        break;
    }
}

/* ---- the client's side ---- */

static void
pass_on(struct client *client, const uint8_t *data, size_t len)
{
    struct replication *replication = client->handler_data;

    client->lease.side->counts.received += len;
    stats_add(METRIC_bytes_received_total, len);
    stream_write(&replication->server.stream, data, len);
    stream_want_read(&client->stream, !stream_is_backed_up(&replication->server.stream));
}

static void
on_event(struct client *client, unsigned what)
{
    struct replication *replication = client->handler_data;
    struct fail fail;
    uint8_t *data;
    size_t len;

    if (what & WATCH_WRITE && stream_flush(&client->stream)) {
        stream_want_read(&replication->server.stream, true);
    }
    if (!(what & WATCH_READ)) {
        return;
    }
    switch (stream_read(&client->stream, &data, &len)) {
    case STREAM_OK:
        pass_on(client, data, len);
        break;
    case STREAM_WAIT:
        break;
    case STREAM_EOF:
        client_close(client, NULL);
        break;
    case STREAM_ERROR:
        fail_set(&fail, "08006", "%s", stream_reason(&client->stream));
        client_close(client, &fail);
        break;
    }
}

static void
on_kept(struct client *client)
{
    uint8_t *data;
    size_t len;

    if (stream_kept(&client->stream, &data, &len) == STREAM_OK) {
        pass_on(client, data, len);
    }
}

/* Half a message must not be completed by what PQfinish() says. */
static void
on_close(struct client *client)
{
    struct replication *replication = client->handler_data;

    apart_cut(&replication->server);
    client->handler_data = NULL;
    loop_bury(client->crowd->pool.loop, free_now, replication);
}

static void
on_cancel(struct client *client)
{
    struct replication *replication = client->handler_data;

    cancel_send_apart(&client->crowd->pool, replication->server.conn);
}

static void
on_start(struct client *client)
{
    struct replication *replication = client->handler_data;

    client_log(LEVEL_INFO, client, "%s replication by server process %d", replication_kind(client),
        apart_pid(&replication->server));
    on_kept(client);
}

static const struct handler replication_handler = {
    .name = "replication",
    .on_start = on_start,
    .on_kept = on_kept,
    .on_event = on_event,
    .on_close = on_close,
    .on_cancel = on_cancel,
};

/* ---- the beginning ---- */

/* Takes over a connection that was dialled. */
static struct replication *
adopt(struct client *client, struct pg_conn *conn, struct fail *fail)
{
    struct replication *replication = mem_new(sizeof(*replication));

    replication->client = client;
    replication->is_logical = is_logical(client->login->replication);
    if (!apart_open(&replication->server, conn, client->crowd->pool.loop, on_server_event,
            replication)) {
        free(replication);
        fail_set(fail, "08006", "the TLS session with PostgreSQL cannot be taken over");
        return NULL;
    }
    return replication;
}

static void
on_dialled(void *arg, struct pg_conn *conn, const struct fail *reason)
{
    struct dialling dialling = *(struct dialling *)arg;
    struct client *client = slots_find(&dialling.crowd->tickets, dialling.ticket);
    struct vars reported = {0};
    struct fail fail = *reason;

    free(arg);
    stats_add(conn != NULL ? METRIC_server_connects_total : METRIC_server_connect_failures_total,
        1);
    if (client == NULL || client->state != CLIENT_WELCOME) {
        apart_drop(conn);
        return;
    }
    struct replication *replication = conn != NULL ? adopt(client, conn, &fail) : NULL;
    if (replication == NULL) {
        client_reject(client, &fail);
        return;
    }
    client->handler_data = replication;
    backend_reported(conn, &reported);
    welcome_send(client, &reported, CLIENT_REPLICATING, &replication_handler);
    vars_deinit(&reported);
}

/* A client's settings as libpq is told them. */
static void
add_settings(const struct vars *wanted, struct vars *extra, const char *options)
{
    const char *name, *value;
    uint32_t cursor = 0;
    struct buf buf = {0};

    buf_print(&buf, "%s", options != NULL ? options : "");
    while (vars_next(wanted, &cursor, &name, &value)) {
        if (strcasecmp(name, "application_name") == 0 || strcasecmp(name, "client_encoding") == 0) {
            vars_put(extra, name, value);
            continue;
        }
        buf_print(&buf, " -c %s=", name);
        for (; *value != '\0'; value++) {
            if (*value == ' ' || *value == '\\') {
                buf_add_u8(&buf, '\\');
            }
            buf_add_u8(&buf, (uint8_t)*value);
        }
    }
    buf_add_u8(&buf, 0);
    vars_put(extra, "options", (const char *)buf_head(&buf));
    buf_deinit(&buf);
}

/* Physical replication is of no database: the tools name one that does not exist. */
static const struct database *
find_database(const struct client *client, const char **name_out)
{
    const struct login *login = client->login;
    const struct database *database, *only;
    size_t cursor = 0;

    *name_out = client->identity.database;
    database = settings_find_database(login->settings, *name_out);
    if (database != NULL || is_logical(login->replication)) {
        return database;
    }
    only = settings_next_database(login->settings, &cursor);
    if (only == NULL || settings_next_database(login->settings, &cursor) != NULL) {
        return NULL;
    }
    *name_out = only->name;
    return only;
}

bool
replication_admit(struct client *client, struct fail *fail)
{
    static const struct lease_ops no_lease; /* none is ever taken */
    struct crowd *crowd = client->crowd;
    const char *name;
    const struct database *database = find_database(client, &name);
    struct vars extra = {0};

    if (database == NULL) {
        return fail_set(fail, "3D000", "database \"%s\" does not exist", client->identity.database);
    }
    const char *user = database->user != NULL ? database->user : client->identity.user;
    lease_init(&client->lease, pools_join(&crowd->pool, name, user), &no_lease);
    secrets_leave_keys(client, client->lease.side->pool);
    client_become(client, CLIENT_WELCOME);
    vars_put(&extra, "replication", client->login->replication);
    add_settings(&client->login->wanted, &extra, database_keyword(database, "options"));
    struct dialling *dialling = mem_new(sizeof(*dialling));
    dialling->crowd = crowd;
    dialling->ticket = client->ticket;
    bool is_dialling = pool_dial_apart(
        client->lease.side, &extra, &(struct dial_result){on_dialled, free, dialling}, fail);
    if (!is_dialling) {
        free(dialling);
    }
    vars_deinit(&extra);
    return is_dialling;
}
