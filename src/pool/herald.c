/* Heralds. Called by pool/wish; calls pool_dial_apart() and posts to workers. */
#include "pool/herald.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "pool/apart.h"
#include "pool/channels.h"
#include "pool/pools.h"
#include "pool/tidings.h"
#include "pool/wish.h"
#include "wire/message.h"

#include <inttypes.h>
#include <stdatomic.h>

enum
{
    RETRY_FIRST_US = 100000,
    LINGER_US = 60000000
};

/* Somebody waits for everything that was asked for up to here. */
struct confirm
{
    STAILQ_ENTRY(confirm) link;
    uint64_t asked;
    uint64_t ticket;
    uint32_t serial;
    int worker;
};

struct herald
{
    struct herald *next;
    struct pool_worker *home; /* borrows */
    char *database;           /* owns */
    struct pool_side *side;   /* holds its pool: of the last who asked, or NULL; as it we log in */
    struct channels channels;
    STAILQ_HEAD(, confirm) confirms;
    uint64_t asked, sent, heard; /* LISTENs: the last, of the Query on its way, the last answered */
    struct apart *server;        /* owns; NULL: none */
    uint32_t generation;         /* of its pool, when it was dialled */
    bool is_dialling;
    bool is_busy;                       /* a Query is on its way */
    bool is_broken;                     /* PostgreSQL sent an error: */
    struct fail fail;
    bool was_lost;                      /* since it listened last */
    int64_t retry_us;                   /* the next wait */
    struct deadline deadline;           /* of the next attempt, or of the end when nobody listens */
};

static void go_on(struct herald *herald, const char *greeting);
static void want_connection(struct herald *herald);
static void wait_to_retry(struct herald *herald);
static void on_linger_over(struct deadline *deadline);

/* ---- what workers are told ---- */

static void
tell(const struct herald *herald, int worker, struct tiding what)
{
    what.worker = herald->side->pool->sides[worker].worker;
    tidings_tell(&what);
}

static void
tell_gap(const struct herald *herald)
{
    for (int i = 0; i < pools_count(herald->home->pools); i++) {
        if (channels_concern(&herald->channels, i)) {
            tell(herald, i, (struct tiding){.database = mem_string(herald->database)});
        }
    }
}

static void
tell_heard(struct herald *herald)
{
    struct confirm *confirm;

    while ((confirm = STAILQ_FIRST(&herald->confirms)) != NULL && confirm->asked <= herald->heard) {
        STAILQ_REMOVE_HEAD(&herald->confirms, link);
        tell(herald, confirm->worker,
            (struct tiding){.ticket = confirm->ticket, .serial = confirm->serial});
        free(confirm);
    }
}

/* ---- what PostgreSQL says ---- */

static void
free_server(void *arg)
{
    apart_free(arg);
    free(arg);
}

static void
hang_up(struct herald *herald)
{
    apart_cut(herald->server);
    loop_bury(herald->home->loop, free_server, herald->server);
    herald->server = NULL;
    herald->is_busy = false;
    herald->heard = 0;
}

static void
lose(struct herald *herald, const char *reason)
{
    pool_log(LEVEL_WARN, herald->side, "the connection that listens for clients was lost: %s",
        reason);
    if (herald->heard > 0) {
        stats_add(METRIC_listener_losses_total, 1);
        herald->was_lost = true;
    }
    hang_up(herald);
    wait_to_retry(herald);
}

/* Sends a notification to the workers whose clients listen to its channel; marks go to all. */
static void
route(struct herald *herald, const struct message *message, struct buf *news)
{
    struct reader reader = reader_over(message->body, message->body_len);

    reader_u32(&reader);
    const char *name = reader_string(&reader);
    bool is_mark = strcmp(name, channels_marker()) == 0;
    for (int i = 0; i < pools_count(herald->home->pools); i++) {
        if (is_mark || channels_count(&herald->channels, name, i) > 0) {
            buf_add(&news[i], message->body - MESSAGE_HEADER, message->len);
        }
    }
}

static void
answered(struct herald *herald)
{
    herald->is_busy = false;
    if (herald->is_broken) {
        return;
    }
    herald->heard = herald->sent;
    herald->retry_us = RETRY_FIRST_US;
    if (herald->was_lost) {
        herald->was_lost = false;
        pool_log(LEVEL_INFO, herald->side, "listens for clients again");
        tell_gap(herald);
    }
    tell_heard(herald);
}

static void
note_error(struct herald *herald, const struct message *message)
{
    struct error_fields fields;

    message_parse_error(message->body, message->body_len, &fields);
    herald->is_broken = true;
    message_error_to_fail(&fields, &herald->fail);
}

/* Takes whole messages; returns how many bytes they were. */
static size_t
take_messages(struct herald *herald, const uint8_t *data, size_t len, struct buf *news)
{
    const uint8_t *at = data;
    struct message message;

    while (!herald->is_broken && message_next(&at, &len, &message)) {
        switch (message.type) {
        case MSG_NOTIFICATION:
            route(herald, &message, news);
            break;
        case MSG_ERROR:
            note_error(herald, &message);
            break;
        case MSG_READY:
            answered(herald);
            break;
        default:
            break;
        }
    }
    return (size_t)(at - data);
}

static void
read_server(struct herald *herald)
{
    int count = pools_count(herald->home->pools);
    struct buf *news = mem_new((size_t)count * sizeof(*news));
    size_t len, size;
    uint8_t *data;

    enum stream_result result = stream_read(&herald->server->stream, &data, &len);
    if (result == STREAM_OK) {
        loop_scratch(herald->home->loop, &size);
        size_t taken = take_messages(herald, data, len, news);
        if (!herald->is_broken && len - taken >= size) {
            herald->is_broken = true;
            fail_set(&herald->fail, "08P01", "a message of %zu bytes", len - taken);
        }
        stream_keep(&herald->server->stream, data + taken, len - taken);
    }
    for (int i = 0; i < count; i++) {
        if (buf_len(&news[i]) > 0) {
            tell(herald, i,
                (struct tiding){.database = mem_string(herald->database), .news = news[i]});
        }
    }
    free(news);
    if (herald->is_broken) {
        lose(herald, herald->fail.text);
    } else if (result == STREAM_EOF || result == STREAM_ERROR) {
        lose(herald, stream_reason(&herald->server->stream));
    } else {
        go_on(herald, "");
    }
}

static void
on_server_event(void *arg, unsigned what)
{
    struct herald *herald = arg;

    if (what & WATCH_WRITE) {
        stream_flush(&herald->server->stream);
    }
    if (what & WATCH_READ) {
        read_server(herald);
    }
}

/* ---- what PostgreSQL is asked ---- */

static void
send_statements(struct herald *herald, struct buf *sql)
{
    struct buf query = {0};

    buf_add_u8(sql, 0);
    message_add_query(&query, (const char *)buf_head(sql));
    stream_write(&herald->server->stream, buf_head(&query), buf_len(&query));
    buf_deinit(&query);
    herald->sent = herald->asked;
    herald->is_busy = true;
}

/* Sends what was asked for since the last Query, behind the greeting. */
static void
go_on(struct herald *herald, const char *greeting)
{
    struct buf sql = {0};

    if (herald->server == NULL) {
        want_connection(herald);
        return;
    }
    if (herald->is_busy) {
        return;
    }
    buf_print(&sql, "%s", greeting);
    channels_sql(&herald->channels, &sql);
    if (buf_len(&sql) > 0) {
        send_statements(herald, &sql);
    } else {
        herald->heard = herald->asked;
        tell_heard(herald);
    }
    buf_deinit(&sql);
}

/* RECONNECT, or the database is somewhere else: there is nothing to be heard any more. */
static void
renew(struct herald *herald)
{
    if (herald->server != NULL &&
        herald->generation != atomic_load(&herald->side->pool->generation)) {
        lose(herald, "server connections are renewed");
    }
}

static void
forget_confirms(struct herald *herald)
{
    struct confirm *confirm;

    while ((confirm = STAILQ_FIRST(&herald->confirms)) != NULL) {
        STAILQ_REMOVE_HEAD(&herald->confirms, link);
        free(confirm);
    }
}

static void
linger(struct herald *herald)
{
    if (herald->channels.all == NULL && herald->server != NULL) {
        deadline_start(&herald->deadline, herald->home->loop, LINGER_US, on_linger_over);
    }
}

static void
greet(struct herald *herald)
{
    char greeting[64];

    snprintf(greeting, sizeof(greeting), "LISTEN %s;", channels_marker());
    channels_forget_sent(&herald->channels);
    herald->is_broken = herald->is_busy = false;
    pool_log(LEVEL_INFO, herald->side, "server process %d listens for clients",
        apart_pid(herald->server));
    go_on(herald, greeting);
    linger(herald);
    renew(herald);
}

static void
on_retry(struct deadline *deadline)
{
    struct herald *herald =
        (struct herald *)((char *)deadline - offsetof(struct herald, deadline));

    want_connection(herald);
}

static void
wait_to_retry(struct herald *herald)
{
    int64_t most_us = herald->home->settings->server_retry_max_delay;

    deadline_start(&herald->deadline, herald->home->loop, herald->retry_us, on_retry);
    herald->retry_us = herald->retry_us * 2 < most_us ? herald->retry_us * 2 : most_us;
}

static void
on_dialled(void *arg, struct pg_conn *conn, const struct fail *reason)
{
    struct herald *herald = arg;

    struct apart *server = mem_new(sizeof(*server));

    herald->is_dialling = false;
    stats_add(conn != NULL ? METRIC_server_connects_total : METRIC_server_connect_failures_total,
        1);
    if (conn != NULL && apart_open(server, conn, herald->home->loop, on_server_event, herald)) {
        herald->server = server;
        greet(herald);
        return;
    }
    free(server);
    pool_log(herald->retry_us == RETRY_FIRST_US ? LEVEL_WARN : LEVEL_DEBUG, herald->side,
        "cannot listen for clients: %s", conn != NULL ? "TLS" : reason->text);
    wait_to_retry(herald);
}

static void
on_never_dialled(void *arg)
{
    (void)arg; /* it goes with its home */
}

static void
dial(struct herald *herald)
{
    struct vars extra = {0};
    struct fail fail;

    if (ledger_is_paused(&herald->side->pool->ledger)) {
        wait_to_retry(herald);
        return;
    }
    herald->generation = atomic_load(&herald->side->pool->generation);
    vars_put(&extra, "client_encoding", "SQL_ASCII"); /* what is stored, as it is */
    vars_put(&extra, "application_name", "pgkeel: listens for clients");
    herald->is_dialling = pool_dial_apart(
        herald->side, &extra, &(struct dial_result){on_dialled, on_never_dialled, herald}, &fail);
    vars_deinit(&extra);
    if (!herald->is_dialling) {
        wait_to_retry(herald);
    }
}

/* Nobody has listened for a while. */
static void
on_linger_over(struct deadline *deadline)
{
    struct herald *herald =
        (struct herald *)((char *)deadline - offsetof(struct herald, deadline));

    if (herald->channels.all == NULL && herald->server != NULL) {
        hang_up(herald);
        want_connection(herald);
    }
}

static void
let_pool_go(struct herald *herald)
{
    if (herald->side != NULL) {
        pools_part(herald->side->pool);
        herald->side = NULL;
    }
}

static void
want_connection(struct herald *herald)
{
    bool is_wanted = herald->channels.all != NULL;

    if (!is_wanted && herald->server == NULL && !herald->is_dialling) {
        let_pool_go(herald);
    }
    if (is_wanted && herald->server == NULL && !herald->is_dialling &&
        herald->deadline.loop == NULL) {
        dial(herald);
    }
}

/* ---- what is asked of a home ---- */

static struct herald *
find_herald(struct pool_worker *home, const char *database)
{
    struct herald *herald = home->heralds;

    while (herald != NULL && strcmp(herald->database, database) != 0) {
        herald = herald->next;
    }
    if (herald == NULL) {
        herald = mem_new(sizeof(*herald));
        herald->database = mem_string(database);
        herald->home = home;
        herald->channels.workers = pools_count(home->pools);
        herald->retry_us = RETRY_FIRST_US;
        STAILQ_INIT(&herald->confirms);
        herald->next = home->heralds;
        home->heralds = herald;
    }
    return herald;
}

static void
listen_to(struct herald *herald, const char *name, int worker)
{
    herald->asked += channels_want(&herald->channels, name, worker);
    if (herald->server != NULL) {
        deadline_stop(&herald->deadline);
    }
}

static void
listen_no_more(struct herald *herald, const char *name, int worker)
{
    channels_leave(&herald->channels, name, worker);
    if (herald->channels.all == NULL) {
        forget_confirms(herald); /* of those who left before they were told */
        linger(herald);
    }
}

static void
add_confirm(struct herald *herald, const struct wish *wish)
{
    struct confirm *confirm = mem_new(sizeof(*confirm));

    *confirm = (struct confirm){.asked = herald->asked,
        .ticket = wish->ticket,
        .serial = wish->serial,
        .worker = wish->from};
    STAILQ_INSERT_TAIL(&herald->confirms, confirm, link);
}

/* It logs in as the last who asked: users come and go. */
static void
follow_pool(struct herald *herald, struct pool *pool)
{
    if (herald->is_dialling || (herald->side != NULL && herald->side->pool == pool)) {
        return;
    }
    renew(herald);
    pools_hold(pool);
    let_pool_go(herald);
    herald->generation = atomic_load(&pool->generation);
    herald->side = &pool->sides[herald->home->index];
}

void
wish_grant(const struct wish *wish)
{
    struct herald *herald = find_herald(wish->pool->sides[wish->to].worker, wish->pool->database);

    if (wish->kind == WISH_UNLISTEN) {
        listen_no_more(herald, wish->channel, wish->from);
    } else {
        follow_pool(herald, wish->pool);
    }
    if (wish->kind == WISH_LISTEN) {
        listen_to(herald, wish->channel, wish->from);
    } else if (wish->kind == WISH_CONFIRM) {
        add_confirm(herald, wish);
    }
    go_on(herald, "");
}

void
herald_renew(struct pool_side *side)
{
    struct herald *herald = side->worker->heralds;

    while (herald != NULL && herald->side != side) {
        herald = herald->next;
    }
    if (herald != NULL) {
        renew(herald);
    }
}

void
heralds_each(struct pool_worker *worker,
    void (*each)(void *arg, const struct herald_view *view), void *arg)
{
    for (const struct herald *herald = worker->heralds; herald != NULL; herald = herald->next) {
        struct herald_view view = {.database = herald->database,
            .user = herald->side != NULL ? herald->side->pool->user : NULL,
            .state = herald->server == NULL ? (herald->is_dialling ? "login" : "idle")
                     : herald->heard < herald->asked ? "waiting"
                                                     : "active",
            .pid = herald->server != NULL ? apart_pid(herald->server) : 0,
            .channels = channels_total(&herald->channels),
            .is_open = herald->server != NULL || herald->is_dialling};
        each(arg, &view);
    }
}

void
herald_leave(struct pool_worker *worker)
{
    struct herald *herald, *next;

    for (herald = worker->heralds; herald != NULL; herald = next) {
        next = herald->next;
        deadline_stop(&herald->deadline);
        channels_deinit(&herald->channels);
        forget_confirms(herald);
        if (herald->server != NULL) {
            free_server(herald->server);
        }
        let_pool_go(herald);
        free(herald->database);
        free(herald);
    }
    worker->heralds = NULL;
}
