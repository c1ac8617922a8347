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

static void start_idle(struct backend *backend);
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
    }
    return policy;
}

static bool
is_outdated(const struct backend *backend)
{
    const struct pool *pool = backend->side->pool;

    return backend->duty.is_retired ||
           backend->generation != atomic_load_explicit(&pool->generation, memory_order_relaxed) ||
           (backend->expires_us > 0 &&
               loop_now_us(backend->side->worker->loop) > backend->expires_us);
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
    backend_reported(backend, &reported);
    outage_over(pool, &reported);
    vars_deinit(&reported);
    ledger_arrived(&pool->ledger);
    pool_offer(backend);
    dial_more(side);
}

void
pool_backend_gone(struct pool_side *side)
{
    if (ledger_closed(&side->pool->ledger) == LEDGER_DIAL) {
        pool_dial(side);
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

/* Tells those who were granted a backend. Not at once: whoever returned it may be in the midst of
 * reading, and what they do may return it again, a thousand times in a row. */
static void
run_grants(void *arg)
{
    struct pool_worker *worker = arg;
    struct waiter *waiter;

    while ((waiter = TAILQ_FIRST(&worker->granted)) != NULL) {
        struct lease *lease = (struct lease *)((char *)waiter - offsetof(struct lease, waiter));
        TAILQ_REMOVE(&worker->granted, waiter, link);
        lease->is_untold = false;
        lease->ops->on_granted(lease);
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

    if (is_outdated(backend)) {
        fail_set(&fail, "57P01", "%s", backend->duty.is_retired ? "retired" : "too old");
        backend_close(backend, &fail);
        return;
    }
    struct ledger_grant answer = ledger_return(&side->pool->ledger, side->worker->index);
    switch (answer.kind) {
    case GRANT_IDLE:
        start_idle(backend);
        break;
    case GRANT_OWN:
        grant((struct lease *)((char *)answer.waiter - offsetof(struct lease, waiter)), backend);
        break;
    case GRANT_OTHER:
        hand_over(backend, answer.worker, answer.ticket, false);
        break;
    case GRANT_CLOSE:
        fail_set(&fail, "57P01", "the pool is larger than its limit");
        backend_close(backend, &fail);
        break;
    }
}

/* ---- idle backends ---- */

static void
close_expired(struct backend *backend, const char *why)
{
    struct pool_side *side = backend->side;
    struct fail fail;

    if (!ledger_take_idle(&side->pool->ledger, side->worker->index)) {
        return; /* promised to another worker, which will find out */
    }
    fail_set(&fail, "57P01", "%s", why);
    backend_close(backend, &fail);
}

static void
on_idle_deadline(struct deadline *deadline)
{
    struct backend *backend =
        (struct backend *)((char *)deadline - offsetof(struct backend, deadline));
    struct pool_side *side = backend->side;
    const struct settings *settings = side->worker->settings;

    if (is_outdated(backend)) {
        close_expired(backend, "server_lifetime is over");
        return;
    }
    int64_t idle_us = loop_now_us(side->worker->loop) - backend->state_since_us;
    bool is_warm = ledger_look(&side->pool->ledger).total <=
                   settings_min_pool_size(settings, side->pool->database);
    if (settings->server_idle_timeout > 0 && idle_us >= settings->server_idle_timeout && !is_warm) {
        close_expired(backend, "server_idle_timeout is over");
        return;
    }
    deadline_start(deadline, side->worker->loop, settings->server_idle_timeout, on_idle_deadline);
}

static void
start_idle(struct backend *backend)
{
    struct pool_worker *worker = backend->side->worker;
    int64_t limit_us = worker->settings->server_idle_timeout;

    backend_become(backend, BACKEND_IDLE);
    if (backend->expires_us > 0) {
        int64_t left_us = backend->expires_us - loop_now_us(worker->loop) + 1;
        limit_us = limit_us > 0 && limit_us < left_us ? limit_us : left_us;
    }
    deadline_start(&backend->deadline, worker->loop, limit_us, on_idle_deadline);
}

static void
log_dead(struct backend *backend)
{
    struct fail fail;

    backend_loss(backend, &fail);
    stats_add(METRIC_server_dead_total, 1);
    pool_log(LEVEL_WARN, backend->side, "dead connection removed from pool (%s)", fail.text);
}

void
pool_idle_died(struct backend *backend)
{
    struct pool_side *side = backend->side;

    log_dead(backend);
    /* When it was promised already, the worker that asked finds nothing and is told so. */
    (void)ledger_take_idle(&side->pool->ledger, side->worker->index);
    backend_close(backend, NULL);
}

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
        if (is_outdated(backend)) {
            close_expired(backend, "replaced");
        }
    }
}

/* The next idle backend that is alive; dead and old ones on the way are removed. They were taken
 * out of the ledger's count by the caller, one call for one. */
static struct backend *
pick_idle(struct pool_side *side)
{
    bool is_fifo = side->worker->settings->server_round_robin;
    struct backend *backend = is_fifo ? TAILQ_LAST(&side->in[BACKEND_IDLE], backend_list)
                                      : TAILQ_FIRST(&side->in[BACKEND_IDLE]);

    if (backend != NULL && is_outdated(backend)) {
        struct fail fail;
        fail_set(&fail, "57P01", "too old");
        backend_close(backend, &fail);
        return NULL;
    }
    if (backend == NULL || stream_peek(&backend->stream) == STREAM_WAIT) {
        return backend;
    }
    /* News that do no harm were read and remembered when the event came; whatever waits now ends
     * it. */
    log_dead(backend);
    backend_close(backend, NULL);
    return NULL;
}

/* ---- other workers ---- */

static void
on_ask(void *arg)
{
    struct errand *errand = arg;
    struct pool_side *side = &errand->pool->sides[errand->to];
    struct backend *backend = pick_idle(side);

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
        dial_more(side);
        return;
    }
    backend_attach(backend, side, BACKEND_SCRUBBING);
    backend->duty.step = SCRUB_DONE;
    if (is_outdated(backend)) {
        pool_offer(backend);
        return;
    }
    if (stream_peek(&backend->stream) != STREAM_WAIT) {
        backend_loss(backend, &fail);
        backend_close(backend, &fail);
        return;
    }
    struct lease *lease = slots_find(&side->worker->leases, errand.ticket);
    if (lease != NULL && lease->state == LEASE_WAITING && lease->side == side) {
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
}

void
lease_deinit(struct lease *lease)
{
    ensure(lease->state == LEASE_NONE);
    slots_remove(&lease->side->worker->leases, lease->waiter.ticket);
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
        struct backend *backend = pick_idle(side);
        if (backend != NULL) {
            hold(lease, backend);
            return true;
        }
    }
    lease->state = LEASE_WAITING;
    stats_add(METRIC_lease_waits_total, 1);
    if (answer.step == LEDGER_ASK) {
        struct errand *errand = mem_new(sizeof(*errand));
        *errand =
            (struct errand){.pool = side->pool, .from = side->worker->index, .to = answer.worker};
        run_errand(side->pool, errand, on_ask);
    } else if (answer.step == LEDGER_DIAL) {
        pool_dial(side);
    } else if (outage_wants_probe(side->pool, 0, now_us)) {
        pool_dial(side);
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
    backend_close(let_go(lease), fail);
}
