/*
 * Leases and the way of a backend from one client to the next. Called by client/ (leases) and by
 * backend.c and scrub.c (what becomes of a backend); calls the ledger for every decision, dial for
 * new backends, and other workers through loop_post().
 *
 *    client ─ lease_take ─► ledger ─┬ own idle ──────────────► LEASED
 *                                   ├ ask another worker ─► surrender ─► move ─┐
 *                                   └ dial ─► helper ─► align ─────────────────┴► pool_offer ─►
 * grant
 */
#include "pool/pool.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "conf/settings.h"
#include "conf/users.h"
#include "pool/cancel.h"
#include "pool/dial.h"
#include "pool/idle.h"
#include "pool/pools.h"
#include "pool/scrub.h"

#include <inttypes.h>
#include <stdatomic.h>

/* A backend on its way to another worker, or the wish for one. */
struct errand
{
    struct pool *pool;       /* borrows: its ledger counts what is on the way */
    struct backend *backend; /* owns; NULL: a surrender is asked for, or refused */
    uint64_t ticket;         /* whom it is granted to; 0: whoever is next at that worker */
    int from, to;
    bool is_answer; /* to a surrender that was asked for */
};

static void on_ask(void *arg);
static void on_arrival(void *arg);

struct log_subject
pool_subject(const struct pool_side *side)
{
    return (struct log_subject){.kind = "pool",
        .id = side->pool->id,
        .worker = side->worker->index,
        .database = side->pool->database,
        .user = side->pool->user};
}

const struct pool_policy *
pool_policy(struct pool_side *side)
{
    struct pool_policy *policy = &side->policy;
    const struct settings *settings = side->worker->settings;
    const struct pool *pool = side->pool;

    if (policy->serial != settings->serial) {
        policy->serial = settings->serial;
        policy->mode = settings_pool_mode(settings, pool->database, pool->user);
        policy->wait_us = settings_query_wait_timeout(settings, pool->database, pool->user);
        policy->query_us = settings_query_timeout(settings, pool->user);
        policy->transaction_us = settings_transaction_timeout(settings, pool->user);
        policy->idle_transaction_us = settings_idle_transaction_timeout(settings, pool->user);
        policy->client_idle_us = settings_client_idle_timeout(settings, pool->user);
        const char *wanted = settings_session_attributes(settings, pool->database);
        policy->is_read_write = strcmp(wanted, "read-write") == 0 || strcmp(wanted, "primary") == 0;
    }
    return policy;
}

/* ---- dialling ---- */

/* Dials for as many who wait as limits allow. */
static void
dial_more(struct pool_side *side)
{
    while (ledger_want_dial(&side->pool->ledger) == LEDGER_DIAL) {
        pool_dial(side);
    }
}

void
pool_dial_failed(struct pool_side *side, const struct fail *fail)
{
    const struct settings *settings = side->worker->settings;

    ledger_arrived(&side->pool->ledger);
    outage_failed(side->pool, settings, fail);
}

void
pool_dial_succeeded(struct backend *backend)
{
    struct pool_side *side = backend->side;
    struct pool *pool = side->pool;
    int64_t lifetime_us = settings_server_lifetime(side->worker->settings, pool->database);
    struct vars reported = {0};

    if (lifetime_us > 0) {
        /* Spread by 10 % either way, so that a pool never expires together. */
        int64_t jitter_us = lifetime_us / 1000 * ((int64_t)(backend->id * 7919 % 201) - 100);
        backend->expires_us = backend->opened_us + lifetime_us + jitter_us;
    }
    backend_reported(backend->conn, &reported);
    outage_over(pool, &reported);
    vars_deinit(&reported);
    ledger_arrived(&pool->ledger);
    pool_offer(backend);
    dial_more(side);
}

void
pool_backend_gone(struct pool_side *side)
{
    enum ledger_step step = ledger_closed(&side->pool->ledger);

    if (step == LEDGER_DIAL) {
        pool_dial(side);
    } else if (step == LEDGER_WAKE) {
        pools_wake(side->pool->pools, NULL);
    }
}

void
pool_refuse(struct pool_side *side, const struct fail *fail)
{
    struct waiter_list refused = TAILQ_HEAD_INITIALIZER(refused);
    struct waiter *waiter;

    while ((waiter = ledger_pop(&side->pool->ledger, side->worker->index)) != NULL) {
        TAILQ_INSERT_TAIL(&refused, waiter, link);
    }
    while ((waiter = TAILQ_FIRST(&refused)) != NULL) {
        struct lease *lease = (struct lease *)((char *)waiter - offsetof(struct lease, waiter));
        TAILQ_REMOVE(&refused, waiter, link);
        lease->state = LEASE_NONE;
        lease->ops->on_refused(lease, fail);
    }
}

/* ---- granting ---- */

static void
tell(struct lease *lease)
{
    TAILQ_REMOVE(&lease->side->worker->granted, &lease->waiter, link);
    lease->is_untold = false;
    lease->ops->on_granted(lease);
}

/* Tells those who were granted a backend. Not at once: whoever returned it may be in the midst of
 * reading, and what they do may return it again, a thousand times in a row. */
static void
run_grants(void *arg)
{
    struct pool_worker *worker = arg;
    struct waiter *waiter;

    while ((waiter = TAILQ_FIRST(&worker->granted)) != NULL) {
        tell((struct lease *)((char *)waiter - offsetof(struct lease, waiter)));
    }
}

void
pool_tell_holder(struct backend *backend, unsigned what)
{
    struct lease *lease = backend->holder;

    if (lease->is_untold) {
        tell(lease);
    }
    if (backend->holder == lease) {
        lease->ops->on_backend(lease, what);
    }
}

static void
hold(struct lease *lease, struct backend *backend)
{
    ensure(lease->backend == NULL && backend->holder == NULL);
    deadline_stop(&backend->deadline);
    backend_become(backend, BACKEND_LEASED);
    backend->holder = lease;
    lease->backend = backend;
    lease->state = LEASE_HELD;
    stats_add(METRIC_leases_total, 1);
}

static void
grant(struct lease *lease, struct backend *backend)
{
    struct pool_worker *worker = lease->side->worker;

    hold(lease, backend);
    if (TAILQ_EMPTY(&worker->granted)) {
        loop_defer(worker->loop, run_grants, worker);
    }
    TAILQ_INSERT_TAIL(&worker->granted, &lease->waiter, link);
    lease->is_untold = true;
}

/* Posts an errand; when that worker has stopped, the process is about to end. */
static void
run_errand(struct pool *pool, struct errand *errand, void (*fn)(void *arg))
{
    if (!loop_post(pool->sides[errand->to].worker->loop, fn, errand)) {
        if (errand->backend != NULL) {
            backend_destroy(errand->backend);
        }
        free(errand);
    }
}

static void
hand_over(struct backend *backend, int to, uint64_t ticket, bool is_answer)
{
    struct pool_side *side = backend->side;
    struct errand *errand = mem_new(sizeof(*errand));

    *errand = (struct errand){.pool = side->pool,
        .backend = backend,
        .ticket = ticket,
        .from = side->worker->index,
        .to = to,
        .is_answer = is_answer};
    stats_add(METRIC_lease_handovers_total, 1);
    backend_detach(backend);
    run_errand(errand->pool, errand, on_arrival);
}

void
pool_offer(struct backend *backend)
{
    struct pool_side *side = backend->side;
    struct fail fail;

    if (idle_is_outdated(backend)) {
        fail_set(&fail, "57P01", "%s", backend->duty.is_retired ? "retired" : "too old");
        backend_close(backend, &fail);
        return;
    }
    if (backend->state != BACKEND_TESTING && health_is_doubtful(backend)) {
        health_check(backend, false);
        pool_seek(side);
        return;
    }
    struct ledger_grant answer = ledger_return(&side->pool->ledger, side->worker->index);
    switch (answer.kind) {
    case GRANT_IDLE:
        idle_start(backend);
        break;
    case GRANT_OWN:
        grant((struct lease *)((char *)answer.waiter - offsetof(struct lease, waiter)), backend);
        break;
    case GRANT_OTHER:
        hand_over(backend, answer.worker, answer.ticket, false);
        break;
    case GRANT_CLOSE:
        fail_set(&fail, "57P01", "the pool is larger than its limit, or than its share of one");
        backend_close(backend, &fail);
        break;
    }
}

/* ---- idle backends ---- */

void
pool_close_idle(struct pool_side *side, const struct fail *fail)
{
    struct backend *backend = TAILQ_LAST(&side->in[BACKEND_IDLE], backend_list);

    if (backend != NULL && ledger_take_idle(&side->pool->ledger, side->worker->index)) {
        backend_close(backend, fail);
    }
}

void
pool_close_outdated(struct pool_side *side)
{
    struct backend *backend, *next;

    for (backend = TAILQ_FIRST(&side->in[BACKEND_IDLE]); backend != NULL; backend = next) {
        next = TAILQ_NEXT(backend, link);
        if (idle_is_outdated(backend)) {
            idle_close(backend, "replaced");
        }
    }
}

void
pool_kill(struct pool_side *side, const struct fail *fail)
{
    struct backend *backend;

    while ((backend = TAILQ_FIRST(&side->in[BACKEND_SCRUBBING])) != NULL) {
        backend_close(backend, fail);
    }
}

/* An idle backend for whoever is next: LEDGER_OFFER. */
static void
offer_idle(struct pool_side *side)
{
    struct backend *backend = idle_pick(side);

    if (backend != NULL && health_needs_check(backend)) {
        health_check(backend, true);
        return;
    }
    ledger_checked(&side->pool->ledger);
    if (backend != NULL) {
        pool_offer(backend);
    }
}

static void
ask(struct pool_side *side, int worker)
{
    struct errand *errand = mem_new(sizeof(*errand));

    *errand = (struct errand){.pool = side->pool, .from = side->worker->index, .to = worker};
    run_errand(side->pool, errand, on_ask);
}

/* Does what the ledger says for one who was queued. */
static void
follow(struct pool_side *side, const struct ledger_answer *answer)
{
    switch (answer->step) {
    case LEDGER_OFFER:
        offer_idle(side);
        break;
    case LEDGER_ASK:
        ask(side, answer->worker);
        break;
    case LEDGER_DIAL:
        pool_dial(side);
        break;
    case LEDGER_TAKE:
    case LEDGER_WAIT:
    case LEDGER_WAKE:
        break;
    }
}

void
pool_seek(struct pool_side *side)
{
    struct ledger_answer answer;

    while ((answer = ledger_seek(&side->pool->ledger, side->worker->index)).step != LEDGER_WAIT) {
        follow(side, &answer);
    }
}

/* ---- other workers ---- */

static void
on_ask(void *arg)
{
    struct errand *errand = arg;
    struct pool_side *side = &errand->pool->sides[errand->to];
    struct backend *backend = idle_pick(side);

    if (backend != NULL && health_needs_check(backend)) {
        /* Afterwards it goes to whoever waits longest, so most likely to who asked. */
        ledger_check_asked(&side->pool->ledger);
        health_check(backend, true);
        free(errand);
        return;
    }
    if (backend != NULL) {
        hand_over(backend, errand->from, 0, true);
        free(errand);
        return;
    }
    int asked = errand->to;
    errand->to = errand->from;
    errand->from = asked;
    errand->is_answer = true;
    run_errand(errand->pool, errand, on_arrival);
}

/* Who was promised a backend by its ticket, if it still waits. */
static struct lease *
find_promised(struct pool_side *side, uint64_t ticket)
{
    struct lease *lease = slots_find(&side->worker->leases, ticket);

    return lease != NULL && lease->state == LEASE_WAITING && lease->side == side ? lease : NULL;
}

/* Whether a backend that came is of no use, and why: it died or grew old on its way. */
static bool
is_spoilt(struct backend *backend, struct fail *fail)
{
    if (idle_is_outdated(backend)) {
        fail_set(fail, "57P01", "too old");
        return true;
    }
    if (stream_peek(&backend->stream) != STREAM_WAIT) {
        backend_loss(backend, fail);
        health_note_death(backend, fail);
        return true;
    }
    return false;
}

/* A backend came from another worker, or the answer that none comes. */
static void
on_arrival(void *arg)
{
    struct errand errand = *(struct errand *)arg;
    struct pool_side *side = &errand.pool->sides[errand.to];
    struct backend *backend = errand.backend;
    struct fail fail;

    free(arg);
    if (errand.is_answer) {
        ledger_arrived(&errand.pool->ledger);
    }
    if (backend == NULL) {
        pool_seek(side);
        return;
    }
    backend_attach(backend, side, BACKEND_SCRUBBING);
    backend->duty.step = SCRUB_DONE;
    struct lease *lease = find_promised(side, errand.ticket);
    if (is_spoilt(backend, &fail)) {
        if (lease != NULL) {
            /* The grant took it out of the queue: nobody else would ever think of it. */
            ledger_requeue(&errand.pool->ledger, errand.to, &lease->waiter);
        }
        backend_close(backend, &fail);
        pool_seek(side);
        return;
    }
    if (lease != NULL) {
        ledger_leave(&errand.pool->ledger, errand.to, &lease->waiter);
        grant(lease, backend);
        return;
    }
    pool_offer(backend);
}

/* ---- leases ---- */

void
lease_init(struct lease *lease, struct pool_side *side, const struct lease_ops *ops)
{
    memset(lease, 0, sizeof(*lease));
    lease->side = side;
    lease->ops = ops;
    lease->waiter.ticket = slots_add(&side->worker->leases, lease);
    side->clients++;
}

void
lease_deinit(struct lease *lease)
{
    ensure(lease->state == LEASE_NONE);
    slots_remove(&lease->side->worker->leases, lease->waiter.ticket);
    lease->side->clients--;
}

bool
lease_take(struct lease *lease)
{
    struct pool_side *side = lease->side;
    struct ledger *ledger = &side->pool->ledger;
    int64_t now_us = loop_now_us(side->worker->loop);
    struct ledger_answer answer;

    ensure(lease->state == LEASE_NONE);
    while ((answer = ledger_request(ledger, side->worker->index, &lease->waiter, now_us)).step ==
           LEDGER_TAKE) {
        struct backend *backend = idle_pick(side);
        if (backend != NULL && health_needs_check(backend)) {
            lease->state = LEASE_WAITING;
            stats_add(METRIC_lease_waits_total, 1);
            ledger_queue(ledger, side->worker->index, &lease->waiter);
            health_check(backend, true);
            return false;
        }
        if (backend != NULL) {
            hold(lease, backend);
            return true;
        }
    }
    lease->state = LEASE_WAITING;
    stats_add(METRIC_lease_waits_total, 1);
    if (answer.step != LEDGER_WAIT) {
        follow(side, &answer);
    } else {
        outage_meet(side);
    }
    return false;
}

void
lease_leave(struct lease *lease)
{
    ensure(lease->state == LEASE_WAITING);
    ledger_leave(&lease->side->pool->ledger, lease->side->worker->index, &lease->waiter);
    lease->state = LEASE_NONE;
}

static struct backend *
let_go(struct lease *lease)
{
    struct backend *backend = lease->backend;

    ensure(lease->state == LEASE_HELD && backend->holder == lease);
    if (lease->is_untold) {
        TAILQ_REMOVE(&lease->side->worker->granted, &lease->waiter, link);
        lease->is_untold = false;
    }
    lease->backend = NULL;
    lease->state = LEASE_NONE;
    backend->holder = NULL;
    held_clear(&backend->held);
    return backend;
}

void
lease_return(struct lease *lease, bool needs_reset)
{
    struct backend *backend = let_go(lease);

    ensure(replies_is_settled(&backend->replies) && backend->skip_len == 0);
    backend->duty.is_dirty = backend->duty.is_dirty || needs_reset ||
                             backend->side->worker->settings->server_reset_query_always;
    if (backend->duty.is_dirty || backend->duty.cancels > 0) {
        backend_become(backend, BACKEND_SCRUBBING);
        scrub_start(backend);
        return;
    }
    pool_offer(backend);
}

void
lease_abandon(struct lease *lease, bool is_forwarding, bool cancel)
{
    struct backend *backend = let_go(lease);
    struct fail fail;

    if (is_forwarding) {
        fail_set(&fail, "08006", "a client left in the middle of a message");
        backend_close(backend, &fail);
        return;
    }
    if (cancel && !replies_is_empty(&backend->replies)) {
        cancel_send(backend);
    }
    backend_become(backend, BACKEND_SCRUBBING);
    scrub_start(backend);
}

void
lease_discard(struct lease *lease, const struct fail *fail)
{
    health_note_death(lease->backend, fail);
    backend_close(let_go(lease), fail);
}
