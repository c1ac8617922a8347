/*
 * Waiting for a backend. Called by relay and login; calls the ledger and the outage record for what
 * to say when the time is over.
 */
#include "client/wait.h"

#include "base/stats.h"
#include "client/aborted.h"
#include "client/loss.h"
#include "client/tell.h"
#include "pool/pools.h"
#include "wire/message.h"

static void on_wait_deadline(struct deadline *deadline);

/* A waiting client looks this often whether its limit is that of a busy pool or of one that is
 * down. */
enum
{
    LOOK_AGAIN_US = 1000000
};

/* Who has all the backends: how many there are, who waits, how old the oldest lease is. */
static void
describe_busy(
    struct pool *pool, const struct outage *outage, int64_t now_us, struct fail *fail)
{
    struct ledger_view view = ledger_look(&pool->ledger);
    char oldest[64] = "", pinned[32] = "";
    int pins = atomic_load(&pool->pinned);
    char reason[300] = "";

    if (outage->oldest_lease_us > 0) {
        snprintf(oldest, sizeof(oldest), ", oldest transaction %.1f s",
            (double)(now_us - outage->oldest_lease_us) / 1e6);
    }
    if (outage->is_busy) {
        snprintf(reason, sizeof(reason), "; PostgreSQL: %.250s", outage->fail.text);
    }
    if (pins > 0) {
        snprintf(pinned, sizeof(pinned), ", %d/%d pinned", pins, view.limit);
    }
    fail_detail(fail, "pool %d/%d busy%s, %d waiting%s%s", view.total - view.idle, view.limit,
        pinned, view.waiting, oldest, reason);
}

int64_t
wait_too_long(struct client *client, int64_t since_us, struct fail *fail)
{
    struct pool *pool = client->lease.side->pool;
    const struct settings *settings = client->crowd->pool.settings;
    int64_t now_us = loop_now_us(client->crowd->pool.loop);
    int64_t resumed_us = atomic_load(&pool->resumed_us);
    int64_t waited_us = now_us - (since_us > resumed_us ? since_us : resumed_us);
    struct outage outage = pool_outage(pool);
    int64_t limit_us =
        outage.is_down ? settings->server_down_timeout : pool_policy(client->lease.side)->wait_us;

    /* Whoever pauses a database knows how long: nobody pays for it with an error. */
    if (outage.is_paused) {
        return LOOK_AGAIN_US;
    }
    if (limit_us <= 0 || waited_us < limit_us) {
        int64_t left_us = limit_us <= 0 ? LOOK_AGAIN_US : limit_us - waited_us;
        return left_us < LOOK_AGAIN_US ? left_us : LOOK_AGAIN_US;
    }
    stats_add(METRIC_lease_wait_timeouts_total, 1);
    if (outage.is_down) {
        fail_set(fail, "57P03", "database \"%s\" is not reachable: %s", pool->database,
            outage.fail.text);
        fail_detail(fail, "down for %.1f s, %u attempts", (double)(now_us - outage.since_us) / 1e6,
            outage.attempts);
        return 0;
    }
    fail_set(fail, "53300", "no free server connection for \"%s\" within %g s", pool->database,
        (double)limit_us / 1e6);
    describe_busy(pool, &outage, now_us, fail);
    return 0;
}

/* The first look comes when either limit could be over; asking which one counts costs more than
 * most waits. */
void
wait_begin(struct client *client)
{
    int64_t down_us = client->crowd->pool.settings->server_down_timeout;
    int64_t first_us = LOOK_AGAIN_US;

    if (pool_policy(client->lease.side)->wait_us > 0 &&
        pool_policy(client->lease.side)->wait_us < first_us) {
        first_us = pool_policy(client->lease.side)->wait_us;
    }
    first_us = down_us > 0 && down_us < first_us ? down_us : first_us;
    client->relay.is_told_to_wait = false;
    deadline_start(&client->deadline, client->crowd->pool.loop, first_us, on_wait_deadline);
}

/* Whether the request ends with this message, after an error in it: one that began in the extended
 * protocol ends with its Sync only. */
static bool
ends_skipped(struct client *client, uint8_t type)
{
    bool is_simple = type == MSG_QUERY || type == MSG_FUNCTION_CALL;

    if (client->relay.skipping == SKIP_REQUEST && is_simple) {
        return true;
    }
    client->relay.skipping = SKIP_TO_SYNC;
    return type == MSG_SYNC;
}

void
wait_skip_message(struct client *client, uint8_t type)
{
    struct buf buf = {0};

    loss_say_owed(client);
    if (ends_skipped(client, type)) {
        client->relay.skipping = SKIP_NOTHING;
        message_add_ready(&buf, client->state == CLIENT_FAILED ? 'E' : 'I');
        client_send(client, &buf);
    }
}

/* The client does not get what it waits for: nothing, or its request, is dropped. */
static void
drop_request(struct client *client)
{
    struct buf buf = {0};

    loss_forget(client);
    client->relay.request_us = 0;
    client->relay.skipping = SKIP_REQUEST;
    if (aborted_owes_ready(client)) {
        client->relay.skipping = SKIP_NOTHING;
        message_add_ready(&buf, 'I');
        client_send(client, &buf);
    }
    aborted_end(client);
}

void
wait_refuse(struct client *client, const struct fail *fail)
{
    struct buf buf = {0};

    client_log(LEVEL_WARN, client, "request refused with ERROR %s: %s%s%s", fail->sqlstate,
        fail->text, fail->detail[0] != '\0' ? ": " : "", fail->detail);
    if (client->lease.state == LEASE_WAITING) {
        lease_leave(&client->lease);
    }
    client_become(client, CLIENT_IDLE);
    tell_error(client, &buf, "ERROR", fail);
    client_send(client, &buf);
    drop_request(client);
    stream_want_read(&client->stream, true);
    client->handler->on_kept(client);
}

/* Says once, after query_wait_notify seconds, what the client waits for. */
static void
notify(struct client *client)
{
    const struct pool *pool = client->lease.side->pool;
    int64_t after_us = client->crowd->pool.settings->query_wait_notify;
    int64_t waited_us = loop_now_us(client->crowd->pool.loop) - client->lease.waiter.since_us;
    struct buf buf = {0};
    struct fail notice;

    if (client->relay.is_told_to_wait || after_us <= 0 || waited_us < after_us) {
        return;
    }
    client->relay.is_told_to_wait = true;
    fail_set(&notice, "00000",
        ledger_is_paused(&pool->ledger) ? "database \"%s\" is paused"
                                        : "waiting for a server connection of pool \"%s\"",
        pool->database);
    message_add_notice(&buf, "NOTICE", &notice);
    client_send(client, &buf);
}

static void
on_wait_deadline(struct deadline *deadline)
{
    struct client *client = (struct client *)((char *)deadline - offsetof(struct client, deadline));
    struct fail fail;

    if (client->lease.state != LEASE_WAITING) {
        return; /* granted in this very turn */
    }
    int64_t more_us = wait_too_long(client, client->lease.waiter.since_us, &fail);
    if (more_us > 0) {
        notify(client);
        deadline_start(deadline, client->crowd->pool.loop, more_us, on_wait_deadline);
        return;
    }
    wait_refuse(client, &fail);
}
