/*
 * A client's life: states, lists, deadlines, the end. Called by daemon/ (open), login and the
 * handlers; calls them back through its table. Nothing is freed inside a callback: a closed client
 * is buried.
 */
#include "client/client.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "client/aborted.h"
#include "client/failures.h"
#include "client/follow.h"
#include "client/headcount.h"
#include "client/listening.h"
#include "client/login.h"
#include "client/loss.h"
#include "client/relay.h"
#include "client/session.h"
#include "client/tell.h"
#include "client/verifiers.h"
#include "pool/lookup.h"
#include "pool/pools.h"
#include "wire/message.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long the last word may take to be sent and read. */
enum
{
    CLOSING_US = 2000000,
    LOGIN_GRACE_US = 3000000, /* for those who log in while this process leaves */
    QUIET_US = 500000
};

#define NO_LIMIT ((size_t)-1)
#define END (TO(CLIENT_CLOSING) | TO(CLIENT_CLOSED))

static void on_event(void *arg, unsigned what);

static const struct
{
    const char *name;
    uint32_t may_become;
    size_t limit; /* which DURATION setting limits it */
    const char *limit_name;
} states[CLIENT_STATES] = {
    [CLIENT_GREETING] = {"login",
        TO(CLIENT_LOGIN) | TO(CLIENT_VERIFYING) | TO(CLIENT_WELCOME) | TO(CLIENT_CONSOLE) |
            TO(CLIENT_IDLE) | END,
        offsetof(struct settings, client_login_timeout), "client_login_timeout"},
    [CLIENT_LOGIN] = {"login",
        TO(CLIENT_LOGIN) | TO(CLIENT_VERIFYING) | TO(CLIENT_WELCOME) | TO(CLIENT_CONSOLE) |
            TO(CLIENT_IDLE) | END,
        NO_LIMIT, NULL},
    [CLIENT_VERIFYING] = {"login",
        TO(CLIENT_LOGIN) | TO(CLIENT_WELCOME) | TO(CLIENT_CONSOLE) | TO(CLIENT_IDLE) | END,
        NO_LIMIT, NULL},
    [CLIENT_WELCOME] = {"login", TO(CLIENT_IDLE) | TO(CLIENT_REPLICATING) | END, NO_LIMIT, NULL},
    [CLIENT_IDLE] = {"idle", TO(CLIENT_WAITING) | TO(CLIENT_PREPARING) | TO(CLIENT_ACTIVE) | END,
        offsetof(struct settings, client_idle_timeout), "client_idle_timeout"},
    [CLIENT_WAITING] = {"waiting", TO(CLIENT_IDLE) | TO(CLIENT_PREPARING) | TO(CLIENT_ACTIVE) | END,
        NO_LIMIT, NULL},
    [CLIENT_PREPARING] = {"active", TO(CLIENT_ACTIVE) | TO(CLIENT_IDLE) | END, NO_LIMIT, NULL},
    [CLIENT_ACTIVE] = {"active",
        TO(CLIENT_IDLE) | TO(CLIENT_FAILED) | TO(CLIENT_LOOKING) | TO(CLIENT_PREPARING) | END,
        NO_LIMIT, NULL},
    [CLIENT_LOOKING] = {"active",
        TO(CLIENT_IDLE) | TO(CLIENT_ACTIVE) | TO(CLIENT_PREPARING) | END, NO_LIMIT, NULL},
    [CLIENT_FAILED] = {"failed", TO(CLIENT_IDLE) | END, NO_LIMIT, NULL},
    [CLIENT_CONSOLE] = {"active", END, NO_LIMIT, NULL},
    [CLIENT_REPLICATING] = {"active", END, NO_LIMIT, NULL},
    [CLIENT_CLOSING] = {"closing", TO(CLIENT_CLOSED), NO_LIMIT, NULL},
    [CLIENT_CLOSED] = {"closed", 0, NO_LIMIT, NULL},
};

struct baggage baggage_none;

const char *
client_state_name(enum client_state state)
{
    return states[state].name;
}

struct log_subject
client_subject(const struct client *client)
{
    return (struct log_subject){.kind = "client",
        .id = client->id,
        .worker = client->crowd->pool.index,
        .database = client->identity.database,
        .user = client->identity.user,
        .peer = client->identity.peer};
}

void
client_address(const struct client *client, char *to, size_t size)
{
    const char *peer = client->identity.peer;
    const char *from = peer[0] == '[' ? peer + 1 : peer;
    const char *end = peer[0] == '[' ? strchr(peer, ']') : strrchr(peer, ':');

    snprintf(to, size, "%.*s", end != NULL ? (int)(end - from) : (int)strlen(from), from);
}

void
crowds_init(struct crowds *crowds)
{
    crowds->verifiers = verifiers_new();
    crowds->lookups = lookups_new();
    crowds->headcount = headcount_new();
    crowds->failures = failures_new();
    ensure(getrandom(crowds->mock_secret, sizeof(crowds->mock_secret), 0) ==
           sizeof(crowds->mock_secret));
    ensure(getrandom(&crowds->key_mask, sizeof(crowds->key_mask), 0) == sizeof(crowds->key_mask));
}

void
crowds_deinit(struct crowds *crowds)
{
    verifiers_free(&crowds->verifiers);
    lookups_free(&crowds->lookups);
    headcount_free(&crowds->headcount);
    failures_free(&crowds->failures);
}

void
crowd_init(struct crowd *crowd, struct crowds *crowds)
{
    crowd->crowds = crowds;
    for (int i = 0; i < CLIENT_STATES; i++) {
        TAILQ_INIT(&crowd->in[i]);
    }
    listening_init(crowd);
}

void
crowd_deinit(struct crowd *crowd)
{
    ensure(crowd_size(crowd) == 0);
    slots_deinit(&crowd->tickets);
    buf_deinit(&crowd->insert);
    buf_deinit(&crowd->rewritten);
    slots_deinit(&crowd->pool.leases);
    slots_deinit(&crowd->pool.backends);
}

unsigned
crowd_size(const struct crowd *crowd)
{
    unsigned size = 0;

    for (int i = 0; i < CLIENT_CLOSED; i++) {
        size += crowd->count[i];
    }
    return size;
}

/* ---- states ---- */

static void
on_deadline(struct deadline *deadline)
{
    struct client *client = (struct client *)((char *)deadline - offsetof(struct client, deadline));
    struct fail fail;

    if (client->state == CLIENT_CLOSING) {
        client_close(client, NULL);
        return;
    }
    const char *name = states[client->state].limit_name;
    if (client->state == CLIENT_IDLE) {
        fail_set(&fail, "57P05", "terminating connection due to idle-session timeout");
        fail_detail(&fail, "%s", name);
    } else {
        fail_set(&fail, "08P01", "%s", name != NULL ? name : "client_login_timeout");
    }
    client_reject(client, &fail);
}

static void
enlist(struct client *client, enum client_state state)
{
    TAILQ_INSERT_TAIL(&client->crowd->in[state], client, link);
    client->crowd->count[state]++;
    client->state = state;
    client->state_since_us = loop_now_us(client->crowd->pool.loop);
}

static void
delist(struct client *client)
{
    TAILQ_REMOVE(&client->crowd->in[client->state], client, link);
    client->crowd->count[client->state]--;
}

void
client_limit(struct client *client, int64_t limit_us)
{
    deadline_start(&client->deadline, client->crowd->pool.loop, limit_us, on_deadline);
}

void
client_become(struct client *client, enum client_state state)
{
    const struct settings *settings = client->crowd->pool.settings;
    bool is_login = client->state <= CLIENT_VERIFYING && state <= CLIENT_VERIFYING;

    ensure(states[client->state].may_become & TO(state));
    delist(client);
    enlist(client, state);
    if (is_login) {
        return; /* one deadline for the whole of it */
    }
    if (states[state].limit != NO_LIMIT) {
        int64_t limit_us;
        memcpy(&limit_us, (const char *)settings + states[state].limit, sizeof(limit_us));
        if (state == CLIENT_IDLE && client->lease.side != NULL) {
            limit_us = pool_policy(client->lease.side)->client_idle_us;
        }
        client_limit(client, limit_us);
    } else if (client->deadline.loop != NULL) {
        deadline_stop(&client->deadline);
    }
}

/* ---- beginning ---- */

/* Those who only connect must not keep out those who log in: the oldest of them goes. */
static void
limit_strangers(struct crowd *crowd)
{
    static const enum client_state unproven[] = {
        CLIENT_GREETING, CLIENT_LOGIN, CLIENT_VERIFYING};
    int64_t most = atomic_load(&crowd->crowds->max_unauthenticated) / crowd->crowds->count;
    struct client *oldest = NULL;
    int64_t count = 0;
    struct fail fail;

    for (size_t i = 0; i < sizeof(unproven) / sizeof(unproven[0]); i++) {
        count += crowd->count[unproven[i]];
    }
    if (count <= (most > 1 ? most : 1)) {
        return;
    }
    for (size_t i = 0; i < sizeof(unproven) / sizeof(unproven[0]); i++) {
        struct client *first = TAILQ_FIRST(&crowd->in[unproven[i]]);
        bool is_older = first != NULL &&
                        (oldest == NULL || first->connected_us < oldest->connected_us);
        oldest = is_older ? first : oldest;
    }
    fail_set(&fail, "53300", "too many connections are not logged in (max_unauthenticated)");
    client_reject(oldest, &fail);
}

void
client_open(struct crowd *crowd, const struct accepted *accepted)
{
    struct client *client = mem_new(sizeof(*client));

    client->crowd = crowd;
    client->baggage = &baggage_none;
    client->id = atomic_fetch_add(&crowd->crowds->next_id, 1) + 1;
    client->ticket = slots_add(&crowd->tickets, client);
    client->identity.is_unix = accepted->is_unix;
    client->identity.peer_uid = accepted->peer_uid;
    client->identity.peer = mem_string(accepted->peer);
    client->connected_us = loop_now_us(crowd->pool.loop);
    stream_init(&client->stream, accepted->fd, on_event, client);
    watch_attach(&client->stream.watch, crowd->pool.loop);
    stream_want_read(&client->stream, true);
    enlist(client, CLIENT_GREETING);
    client_limit(client, crowd->pool.settings->client_login_timeout);
    stats_add(METRIC_client_connects_total, 1);
    limit_strangers(crowd);
}

/* ---- the end ---- */

void
client_send(struct client *client, struct buf *buf)
{
    stream_write(&client->stream, buf_head(buf), buf_len(buf));
    buf_deinit(buf);
}

struct baggage *
client_baggage(struct client *client)
{
    if (client->baggage == &baggage_none) {
        client->baggage = mem_new(sizeof(*client->baggage));
    }
    return client->baggage;
}

struct statements *
client_statements(const struct client *client)
{
    return pools_statements(client->crowd->pool.pools);
}

static void
free_baggage(struct client *client)
{
    if (client->baggage != &baggage_none) {
        follow_end(client);
        vars_deinit(&client->baggage->startup);
        free(client->baggage);
        client->baggage = &baggage_none;
    }
}

static void
free_now(void *arg)
{
    struct client *client = arg;
    int fd = client->stream.is_away ? -1 : client->stream.watch.fd;

    stream_deinit(&client->stream);
    if (fd >= 0) {
        close(fd);
    }
    vars_deinit(&client->vars);
    loss_forget(client);
    aborted_end(client);
    free_baggage(client);
    free(client->identity.user);
    free(client->identity.peer);
    free(client->identity.database);
    free(client);
}

/* Gives up everything but the socket; idempotent. Its place among max_client_conn, too: who is told
 * to go could keep it by not going. */
static void
let_go_of_everything(struct client *client, const struct fail *fail)
{
    if (client->state <= CLIENT_VERIFYING) {
        failures_count(client, fail);
    }
    tell_end(client, fail);
    if (client->state < CLIENT_CLOSING && client->identity.user != NULL) {
        atomic_fetch_sub(&client->crowd->crowds->clients, 1);
    }
    if (client->handler != NULL) {
        client->handler->on_close(client);
        client->handler = NULL;
    }
    if (client->login != NULL) {
        login_end(client);
    }
    session_end(client);
    listening_end(client);
    headcount_leave(client);
    if (client->lease.side != NULL) {
        struct pool *pool = client->lease.side->pool;
        if (client->lease.state == LEASE_WAITING) {
            lease_leave(&client->lease);
        } else if (client->lease.state == LEASE_HELD) {
            lease_abandon(&client->lease, false, false);
        }
        lease_deinit(&client->lease);
        client->lease.side = NULL;
        pools_part(pool);
    }
    client->key = (struct cancel_key){0, 0};
}

void
client_close(struct client *client, const struct fail *fail)
{
    struct crowd *crowd = client->crowd;

    ensure(client->state != CLIENT_CLOSED);
    bool is_worth_a_line =
        client->identity.user != NULL && crowd->pool.settings->log_disconnections;
    if (client->state != CLIENT_CLOSING && is_worth_a_line) {
        client_log(client->identity.is_own ? LEVEL_DEBUG : LEVEL_INFO, client, "closing: %s",
            fail != NULL ? fail->text : "client left");
    }
    let_go_of_everything(client, fail);
    deadline_stop(&client->deadline);
    client_become(client, CLIENT_CLOSED);
    delist(client);
    atomic_fetch_sub(&crowd->load, 1);
    slots_remove(&crowd->tickets, client->ticket);
    if (client->stream.is_away) {
        shutdown(client->stream.watch.fd, SHUT_RDWR); /* tells the helper, too */
    } else {
        watch_want(&client->stream.watch, 0);
    }
    loop_bury(crowd->pool.loop, free_now, client);
}

/* Our side is closed once everything is out; the client reads it and closes too. Closing earlier
 * could reset the connection and take the last word away. */
static void
finish_closing(struct client *client)
{
    uint8_t *data;
    size_t len;

    if (client->stream.is_write_broken) {
        client_close(client, NULL);
        return;
    }
    if (!stream_flush(&client->stream)) {
        return;
    }
    stream_end(&client->stream);
    enum stream_result result = stream_read(&client->stream, &data, &len);
    if (result == STREAM_EOF || result == STREAM_ERROR) {
        client_close(client, NULL);
    }
}

static void
begin_closing(struct client *client)
{
    buf_deinit(&client->stream.in);
    client_become(client, CLIENT_CLOSING);
    client_limit(client, CLOSING_US);
    stream_want_read(&client->stream, true);
    finish_closing(client);
}

/* is_answer: a client that reads the reason as the answer to its next request finds the end of that
 * answer, too. */
static void
reject(struct client *client, const struct fail *fail, bool is_answer)
{
    struct buf buf = {0};

    if (client->state == CLIENT_CLOSING) {
        return;
    }
    if (client->crowd->pool.settings->log_pooler_errors) {
        client_log(LEVEL_WARN, client, "closing with FATAL %s: %s%s%s", fail->sqlstate, fail->text,
            fail->detail[0] != '\0' ? ": " : "", fail->detail);
    }
    if (stream_is_shaking_hands(&client->stream)) {
        client_close(client, fail); /* no words reach the peer before the handshake is over */
        return;
    }
    tell_error(client, &buf, "FATAL", fail);
    let_go_of_everything(client, fail);
    if (is_answer) {
        message_add_ready(&buf, 'I');
    }
    client_send(client, &buf);
    begin_closing(client);
}

void
client_reject(struct client *client, const struct fail *fail)
{
    reject(client, fail, false);
}

void
client_finish(struct client *client, const struct fail *fail)
{
    if (client->crowd->pool.settings->log_disconnections) {
        client_log(LEVEL_INFO, client, "closing: %s", fail->text);
    }
    let_go_of_everything(client, fail);
    begin_closing(client);
}

static void
on_event(void *arg, unsigned what)
{
    struct client *client = arg;

    switch (client->state) {
    case CLIENT_GREETING:
    case CLIENT_LOGIN:
    case CLIENT_VERIFYING:
    case CLIENT_WELCOME:
        login_on_event(client, what);
        break;
    case CLIENT_IDLE:
    case CLIENT_WAITING:
    case CLIENT_PREPARING:
    case CLIENT_LOOKING:
    case CLIENT_ACTIVE:
    case CLIENT_FAILED:
    case CLIENT_CONSOLE:
    case CLIENT_REPLICATING:
        client->handler->on_event(client, what);
        break;
    case CLIENT_CLOSING:
        finish_closing(client);
        break;
    case CLIENT_CLOSED:
    case CLIENT_STATES:
        ensure(!"an event for a closed client");
    }
}

/* ---- all of them ---- */

bool
client_is_between(const struct client *client)
{
    return client->state == CLIENT_IDLE ||
           (client->state == CLIENT_ACTIVE && relay_is_at_boundary(client));
}

/* Nothing is in flight and no transaction open: whoever reconnects loses nothing. Who is about to
 * log in is let in first, for a while: an attempt to connect should not fail. Who was answered a
 * moment ago may not have read it yet: libpq takes a FATAL that it reads together with the end of
 * an answer for a notice, and then says that the server closed the connection unexpectedly. */
static bool
is_at_boundary(struct client *client)
{
    int64_t now_us = loop_now_us(client->crowd->pool.loop);
    int64_t since_us = client->state_since_us > client->relay.request_us
                           ? client->state_since_us
                           : client->relay.request_us;

    if (client->state <= CLIENT_WELCOME) {
        return now_us - client->connected_us > LOGIN_GRACE_US;
    }
    if (client->state == CLIENT_IDLE || client->state == CLIENT_ACTIVE) {
        return client_is_between(client) && now_us - since_us >= QUIET_US &&
               stream_peek(&client->stream) != STREAM_OK;
    }
    /* Who waits through a PAUSE would wait for ever. */
    if (client->state == CLIENT_WAITING && client->lease.state == LEASE_WAITING) {
        return ledger_is_paused(&client->lease.side->pool->ledger);
    }
    return client->state != CLIENT_WAITING && client->state != CLIENT_PREPARING &&
           client->state != CLIENT_LOOKING &&
           client->state != CLIENT_FAILED;
}

void
client_drain(struct client *client)
{
    struct fail fail;

    fail_set(&fail, "57P01", "terminating connection due to administrator command");
    fail_detail(&fail, "pgkeel is shutting down");
    /* libpq waits for ReadyForQuery. When it finds the end of the connection instead, all that its
     * user gets to read is that the server closed the connection unexpectedly. */
    reject(client, &fail, client_is_between(client));
}

void
crowd_drain(struct crowd *crowd)
{
    struct client *client, *next;

    for (int state = 0; state < CLIENT_CLOSING; state++) {
        for (client = TAILQ_FIRST(&crowd->in[state]); client != NULL; client = next) {
            next = TAILQ_NEXT(client, link);
            if (is_at_boundary(client)) {
                client_drain(client);
            }
        }
    }
}

void
crowd_close_all(struct crowd *crowd)
{
    struct client *client;
    struct fail fail;

    fail_set(&fail, "57P01", "terminating connection due to administrator command");
    for (int state = 0; state < CLIENT_CLOSING; state++) {
        while ((client = TAILQ_FIRST(&crowd->in[state])) != NULL) {
            client_reject(client, &fail);
        }
    }
    while ((client = TAILQ_FIRST(&crowd->in[CLIENT_CLOSING])) != NULL) {
        client_close(client, NULL);
    }
}
