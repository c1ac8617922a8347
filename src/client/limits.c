/*
 * Limits on clients that hold a backend. Called by client/relay (begin, settle) and client/deliver
 * (explain); calls cancel_send() and client/aborted.
 *
 * One deadline for a lease, set to the shortest limit when it begins. When it fires, the times that
 * the relay notes anyway say whether something is over, or when to look again: nothing is done per
 * request.
 */
#include "client/limits.h"

#include "base/state.h"
#include "base/stats.h"
#include "client/aborted.h"
#include "client/loss.h"
#include "client/session.h"
#include "client/tell.h"
#include "pool/cancel.h"
#include "wire/message.h"

static void on_limit(struct deadline *deadline);

static const struct
{
    const char *key, *sqlstate, *text;
} limits[] = {
    [LIMIT_QUERY] = {"query_timeout", "57014", "canceling statement due to query_timeout"},
    [LIMIT_TRANSACTION] = {"transaction_timeout", "25P04",
        "transaction timeout: the transaction was rolled back"},
    [LIMIT_IDLE_TRANSACTION] = {"idle_transaction_timeout", "25P03",
        "idle-in-transaction timeout: the transaction was rolled back"},
    [LIMIT_IDLE] = {"client_idle_timeout", "57P05",
        "terminating connection due to idle-session timeout"},
};

struct due
{
    enum limit limit; /* LIMIT_NONE: none is set */
    int64_t at_us;
};

static void
consider(struct due *due, enum limit limit, int64_t since_us, int64_t limit_us)
{
    if (limit_us > 0 && (due->limit == LIMIT_NONE || since_us + limit_us < due->at_us)) {
        *due = (struct due){limit, since_us + limit_us};
    }
}

/* Its session lives on its backend, and on no other. */
static bool
is_bound(const struct client *client)
{
    return session_pins(client) != 0 || pool_policy(client->lease.side)->mode == POOL_SESSION;
}

static bool
is_busy(const struct client *client)
{
    return client->lease.backend->held.count > 0;
}

/* What is over first, as things stand. */
static struct due
next_due(struct client *client)
{
    const struct pool_policy *policy = pool_policy(client->lease.side);
    const struct relay_state *relay = &client->relay;
    bool is_open = client->lease.backend->replies.status != 'I';
    struct due due = {LIMIT_NONE, 0};

    if (is_busy(client)) {
        consider(&due, LIMIT_QUERY, relay->request_us, policy->query_us);
    }
    if (is_busy(client) || is_open) {
        consider(&due, LIMIT_TRANSACTION, relay->transaction_us, policy->transaction_us);
    }
    if (!is_busy(client) && is_open) {
        consider(&due, LIMIT_IDLE_TRANSACTION, relay->request_us, policy->idle_transaction_us);
    }
    if (!is_busy(client) && !is_open && is_bound(client)) {
        consider(&due, LIMIT_IDLE, relay->request_us, policy->client_idle_us);
    }
    return due;
}

/* The shortest limit there is: no later than that something must be looked at. */
static int64_t
shortest_us(const struct client *client)
{
    const struct pool_policy *policy = pool_policy(client->lease.side);
    const int64_t all[] = {policy->query_us, policy->transaction_us, policy->idle_transaction_us,
        is_bound(client) ? policy->client_idle_us : 0};
    int64_t shortest = 0;

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        shortest = all[i] > 0 && (shortest == 0 || all[i] < shortest) ? all[i] : shortest;
    }
    return shortest;
}

void
limits_begin(struct client *client)
{
    int64_t first_us = shortest_us(client);

    if (first_us > 0) {
        deadline_start(&client->deadline, client->crowd->pool.loop, first_us, on_limit);
    }
}

/* NOTIFY waits for whoever else commits one. The client's next request must not wait as long. */
static void
on_late_move(struct deadline *deadline)
{
    struct client *client = (struct client *)((char *)deadline - offsetof(struct client, deadline));
    struct fail fail;

    fail_set(&fail, "08006", "no answer to NOTIFY (query_timeout)");
    loss_take(client, &fail);
}

void
limits_begin_move(struct client *client)
{
    deadline_start(&client->deadline, client->crowd->pool.loop,
        pool_policy(client->lease.side)->query_us, on_late_move);
}

/* ---- over ---- */

static void
set_reason(const struct client *client, enum limit limit, struct fail *fail)
{
    double open_s =
        (double)(loop_now_us(client->crowd->pool.loop) - client->relay.transaction_us) / 1e6;

    fail_set(fail, limits[limit].sqlstate, "%s", limits[limit].text);
    if (limit == LIMIT_TRANSACTION || limit == LIMIT_IDLE_TRANSACTION) {
        fail_detail(fail, "%s: the transaction was open for %.1f s", limits[limit].key, open_s);
    }
}

static void
log_over(const struct client *client, enum limit limit)
{
    int64_t now_us = loop_now_us(client->crowd->pool.loop);
    const char *name = vars_find(&client->vars, "application_name");

    stats_add(METRIC_client_limits_total, 1);
    client_log(LEVEL_WARN, client,
        "%s is over: %s for %.1fs, transaction open for %.1fs, server process %d, "
        "application_name \"%s\"",
        limits[limit].key, is_busy(client) ? "running" : "silent",
        (double)(now_us - client->relay.request_us) / 1e6,
        (double)(now_us - client->relay.transaction_us) / 1e6, client->lease.backend->pid,
        name != NULL ? name : "");
}

/* The transaction ends here: its backend is rolled back for others, the client learns of it with
 * its next request. */
static void
end_transaction(struct client *client, enum limit limit, bool is_told)
{
    struct backend *backend = client->lease.backend;
    size_t modes_len;
    const char *modes = held_modes(&backend->held, &modes_len);
    struct fail fail;

    set_reason(client, limit, &fail);
    client->relay.expired = LIMIT_NONE;
    if (is_bound(client)) {
        client_reject(client, &fail);
        return;
    }
    session_end(client);
    loss_undo_settings(client);
    aborted_begin(client, &fail, is_told, modes, modes_len);
    stream_want_read(&backend->stream, true);
    lease_abandon(&client->lease, false, false);
    stream_want_read(&client->stream, true);
    client->handler->on_kept(client);
}

/* The server does not answer the cancel request either. */
static void
on_no_answer(struct deadline *deadline)
{
    struct client *client = (struct client *)((char *)deadline - offsetof(struct client, deadline));
    struct fail fail;

    fail_set(
        &fail, "08006", "no answer to a cancel request (%s)", limits[client->relay.expired].key);
    loss_take(client, &fail);
}

static void
cancel(struct client *client, enum limit limit)
{
    struct pool_worker *worker = &client->crowd->pool;

    client->relay.expired = limit;
    cancel_send(client->lease.backend);
    deadline_start(
        &client->deadline, worker->loop, worker->settings->cancel_wait_timeout, on_no_answer);
}

/* Nobody knows what such a cancel request would still hit. */
static void
on_late_cancel(struct deadline *deadline)
{
    struct client *client = (struct client *)((char *)deadline - offsetof(struct client, deadline));
    struct fail fail;

    fail_set(&fail, "08006", "a cancel request did not come to its end");
    loss_take(client, &fail);
}

bool
limits_await_cancels(struct client *client)
{
    struct pool_worker *worker = &client->crowd->pool;
    bool must_wait = client->lease.backend->duty.cancels > 0;

    if (must_wait && !client->relay.awaits_cancels) {
        deadline_start(
            &client->deadline, worker->loop, worker->settings->cancel_wait_timeout, on_late_cancel);
    } else if (!must_wait && client->relay.awaits_cancels) {
        deadline_stop(&client->deadline);
        limits_begin(client);
    }
    client->relay.awaits_cancels = must_wait;
    return must_wait;
}

static void
on_limit(struct deadline *deadline)
{
    struct client *client = (struct client *)((char *)deadline - offsetof(struct client, deadline));
    int64_t now_us = loop_now_us(client->crowd->pool.loop);
    struct due due = next_due(client);
    struct fail fail;

    if (due.limit == LIMIT_NONE || now_us < due.at_us) {
        int64_t again_us = shortest_us(client);
        again_us = due.limit != LIMIT_NONE ? due.at_us - now_us : again_us;
        deadline_start(deadline, client->crowd->pool.loop, again_us, on_limit);
        return;
    }
    log_over(client, due.limit);
    if (due.limit == LIMIT_IDLE) {
        set_reason(client, LIMIT_IDLE, &fail);
        client_reject(client, &fail);
    } else if (is_busy(client)) {
        cancel(client, due.limit);
    } else {
        end_transaction(client, due.limit, false);
    }
}

/* ---- the answers ---- */

bool
limits_explain(struct client *client, const struct message *message, struct buf *instead)
{
    struct error_fields fields;
    struct fail fail;

    message_parse_error(message->body, message->body_len, &fields);
    if (strcmp(fields.sqlstate, "57014") != 0) {
        return false;
    }
    set_reason(client, client->relay.expired, &fail);
    tell_error(client, instead, "ERROR", &fail);
    client->relay.is_limit_told = true;
    return true;
}

bool
limits_settle(struct client *client)
{
    enum limit limit = client->relay.expired;
    bool was_told = client->relay.is_limit_told;

    if (limit == LIMIT_NONE || is_busy(client)) {
        return false;
    }
    client->relay.is_limit_told = false;
    if (limit == LIMIT_TRANSACTION && client->lease.backend->replies.status != 'I') {
        end_transaction(client, limit, was_told);
        return true;
    }
    client->relay.expired = LIMIT_NONE;
    limits_begin(client);
    return false;
}
