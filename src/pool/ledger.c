/*
 * The pool's book. Called by pool/pool; asks pool/endpoint before it counts a dial. Invariant,
 * under the mutex:
 *
 *    total = idle + being checked + leased + in transit + dialling + closing
 *    sum of idle <= total <= limit + reserve
 */
#include "pool/ledger.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "net/loop.h"
#include "pool/endpoint.h"

/* How much longer another worker's oldest waiter must have waited before a backend changes threads
 * for it. */
enum
{
    HAND_OVER_AFTER_US = 1000
};

void
ledger_init(struct ledger *ledger, int workers)
{
    memset(ledger, 0, sizeof(*ledger));
    pthread_mutex_init(&ledger->mutex, NULL);
    ledger->workers = workers;
    ledger->sides = mem_new((size_t)workers * sizeof(*ledger->sides));
    for (int i = 0; i < workers; i++) {
        TAILQ_INIT(&ledger->sides[i].waiting);
    }
}

void
ledger_deinit(struct ledger *ledger)
{
    ensure(ledger->waiting == 0);
    pthread_mutex_destroy(&ledger->mutex);
    free(ledger->sides);
}

static void
lock(struct ledger *ledger)
{
    if (pthread_mutex_trylock(&ledger->mutex) != 0) {
        stats_add(METRIC_ledger_contended_total, 1);
        pthread_mutex_lock(&ledger->mutex);
        ledger->contended++;
    }
}

static void
unlock(struct ledger *ledger)
{
    pthread_mutex_unlock(&ledger->mutex);
}

/* ---- what is said below the lock ---- */

static void
enqueue_locked(struct ledger *ledger, int worker, struct waiter *waiter)
{
    TAILQ_INSERT_TAIL(&ledger->sides[worker].waiting, waiter, link);
    waiter->is_queued = true;
    ledger->waiting++;
}

static void
dequeue_locked(struct ledger *ledger, int worker, struct waiter *waiter)
{
    ensure(waiter->is_queued);
    TAILQ_REMOVE(&ledger->sides[worker].waiting, waiter, link);
    waiter->is_queued = false;
    ledger->waiting--;
    if (ledger->waiting == 0) {
        quota_forget(&ledger->share);
    }
}

/* Counts one more backend when the limit, the bar, the quotas and the endpoint allow it. */
static bool
count_dial_locked(struct ledger *ledger, int limit, bool is_awaited)
{
    int64_t bar_us = is_awaited ? ledger->bar.until_us : ledger->bar.spare_until_us;
    int64_t now_us = loop_clock_us();

    if (ledger_is_paused(ledger) || (limit > 0 && ledger->total >= limit) || now_us < bar_us) {
        quota_forget(&ledger->share);
        return false;
    }
    if (!quota_take(&ledger->share, ledger->waiting > 0, now_us)) {
        return false;
    }
    if (ledger->endpoint != NULL && !endpoint_admit(ledger->endpoint, is_awaited, now_us)) {
        quota_give_back(&ledger->share);
        return false;
    }
    if (bar_us > 0) {
        ledger->bar.until_us = ledger->bar.spare_until_us = INT64_MAX;
    }
    ledger->total++;
    ledger->arriving++;
    ledger->logins += ledger->endpoint != NULL ? 1 : 0;
    return true;
}

/* Whether somebody waits whom no backend on its way answers for. */
static bool
is_short_locked(const struct ledger *ledger)
{
    return ledger->waiting > ledger->arriving + ledger->checking;
}

static enum ledger_step
want_dial_locked(struct ledger *ledger)
{
    if (!is_short_locked(ledger)) {
        quota_forget(&ledger->share);
        return LEDGER_WAIT;
    }
    return count_dial_locked(ledger, ledger->limit, true) ? LEDGER_DIAL : LEDGER_WAIT;
}

/* Where a backend for those who wait can come from: the nearest first. */
static struct ledger_answer
seek_locked(struct ledger *ledger, int worker)
{
    if (ledger_is_paused(ledger)) {
        quota_forget(&ledger->share);
        return (struct ledger_answer){LEDGER_WAIT, worker};
    }
    if (is_short_locked(ledger) && ledger->sides[worker].idle > 0) {
        ledger->sides[worker].idle--;
        ledger->checking++;
        return (struct ledger_answer){LEDGER_OFFER, worker};
    }
    for (int i = 1; i < ledger->workers && is_short_locked(ledger); i++) {
        int other = (worker + i) % ledger->workers;
        if (ledger->sides[other].idle > 0) {
            ledger->sides[other].idle--;
            ledger->arriving++;
            return (struct ledger_answer){LEDGER_ASK, other};
        }
    }
    return (struct ledger_answer){want_dial_locked(ledger), worker};
}

/* ---- the calls ---- */

struct ledger_answer
ledger_request(struct ledger *ledger, int worker, struct waiter *waiter, int64_t now_us)
{
    struct ledger_answer answer = {LEDGER_WAIT, worker};

    lock(ledger);
    ensure(!waiter->is_queued);
    waiter->since_us = now_us;
    /* Idle backends while others wait are few: they came idle while one is checked. Whoever is
     * queued comes first. */
    if (ledger->sides[worker].idle > 0 && TAILQ_EMPTY(&ledger->sides[worker].waiting) &&
        !ledger_is_paused(ledger)) {
        ledger->sides[worker].idle--;
        answer.step = LEDGER_TAKE;
        unlock(ledger);
        return answer;
    }
    enqueue_locked(ledger, worker, waiter);
    answer = seek_locked(ledger, worker);
    unlock(ledger);
    return answer;
}

void
ledger_queue(struct ledger *ledger, int worker, struct waiter *waiter)
{
    lock(ledger);
    enqueue_locked(ledger, worker, waiter);
    ledger->checking++;
    unlock(ledger);
}

void
ledger_requeue(struct ledger *ledger, int worker, struct waiter *waiter)
{
    lock(ledger);
    if (!waiter->is_queued) {
        struct waiter *next = TAILQ_FIRST(&ledger->sides[worker].waiting);
        while (next != NULL && next->since_us < waiter->since_us) {
            next = TAILQ_NEXT(next, link);
        }
        enqueue_locked(ledger, worker, waiter);
        if (next != NULL) {
            TAILQ_REMOVE(&ledger->sides[worker].waiting, waiter, link);
            TAILQ_INSERT_BEFORE(next, waiter, link);
        }
    }
    unlock(ledger);
}

struct ledger_answer
ledger_seek(struct ledger *ledger, int worker)
{
    lock(ledger);
    struct ledger_answer answer = seek_locked(ledger, worker);
    unlock(ledger);
    return answer;
}

bool
ledger_leave(struct ledger *ledger, int worker, struct waiter *waiter)
{
    lock(ledger);
    bool was_queued = waiter->is_queued;
    if (was_queued) {
        dequeue_locked(ledger, worker, waiter);
    }
    unlock(ledger);
    return was_queued;
}

/* The worker whose oldest waiter is next: the own one unless somebody waits clearly longer. */
static int
next_worker_locked(const struct ledger *ledger, int worker)
{
    const struct waiter *own = TAILQ_FIRST(&ledger->sides[worker].waiting);
    int64_t best_us = own != NULL ? own->since_us - HAND_OVER_AFTER_US : INT64_MAX;
    int best = worker;

    for (int i = 0; i < ledger->workers; i++) {
        const struct waiter *first = TAILQ_FIRST(&ledger->sides[i].waiting);
        if (i != worker && first != NULL && first->since_us < best_us) {
            best_us = first->since_us;
            best = i;
        }
    }
    return best;
}

struct ledger_grant
ledger_return(struct ledger *ledger, int worker)
{
    struct ledger_grant grant = {.kind = GRANT_IDLE, .worker = worker};

    lock(ledger);
    bool yields = quota_starves_others(&ledger->share) &&
                  quota_yields(&ledger->share, loop_clock_us());
    bool is_too_much = ledger->limit > 0 && ledger->total > ledger->limit + ledger->reserve;
    if (yields || is_too_much || ledger_is_paused(ledger)) {
        grant.kind = GRANT_CLOSE;
    } else if (ledger->waiting > 0) {
        grant.worker = next_worker_locked(ledger, worker);
        struct waiter *waiter = TAILQ_FIRST(&ledger->sides[grant.worker].waiting);
        dequeue_locked(ledger, grant.worker, waiter);
        grant.ticket = waiter->ticket;
        grant.kind = grant.worker == worker ? GRANT_OWN : GRANT_OTHER;
        grant.waiter = grant.worker == worker ? waiter : NULL;
    } else if (ledger->limit > 0 && ledger->total > ledger->limit) {
        grant.kind = GRANT_CLOSE;
    } else {
        ledger->sides[worker].idle++;
    }
    unlock(ledger);
    return grant;
}

void
ledger_arrived(struct ledger *ledger)
{
    lock(ledger);
    ensure(ledger->arriving > 0);
    ledger->arriving--;
    unlock(ledger);
}

bool
ledger_take_idle(struct ledger *ledger, int worker)
{
    lock(ledger);
    bool taken = ledger->sides[worker].idle > 0;
    if (taken) {
        ledger->sides[worker].idle--;
    }
    unlock(ledger);
    return taken;
}

void
ledger_check_asked(struct ledger *ledger)
{
    lock(ledger);
    ensure(ledger->arriving > 0);
    ledger->arriving--;
    ledger->checking++;
    unlock(ledger);
}

void
ledger_checked(struct ledger *ledger)
{
    lock(ledger);
    ensure(ledger->checking > 0);
    ledger->checking--;
    unlock(ledger);
}

enum ledger_step
ledger_closed(struct ledger *ledger)
{
    lock(ledger);
    ensure(ledger->total > 0);
    ledger->total--;
    quota_give_back(&ledger->share);
    enum ledger_step step = want_dial_locked(ledger);
    if (step == LEDGER_WAIT && quota_starves_others(&ledger->share)) {
        step = LEDGER_WAKE;
    }
    unlock(ledger);
    return step;
}

enum ledger_step
ledger_want_dial(struct ledger *ledger)
{
    lock(ledger);
    enum ledger_step step = want_dial_locked(ledger);
    unlock(ledger);
    return step;
}

static int64_t
oldest_since_locked(const struct ledger *ledger)
{
    int64_t oldest = 0;

    for (int i = 0; i < ledger->workers; i++) {
        const struct waiter *first = TAILQ_FIRST(&ledger->sides[i].waiting);
        if (first != NULL && (oldest == 0 || first->since_us < oldest)) {
            oldest = first->since_us;
        }
    }
    return oldest;
}

enum ledger_step
ledger_want_spare(struct ledger *ledger, int min_size, int64_t reserve_after_us, int64_t now_us)
{
    enum ledger_step step = LEDGER_WAIT;

    lock(ledger);
    int64_t oldest = oldest_since_locked(ledger);
    bool is_reserve_due = ledger->reserve > 0 && oldest > 0 && now_us - oldest > reserve_after_us;
    if (ledger->total < min_size) {
        step = count_dial_locked(ledger, ledger->limit, false) ? LEDGER_DIAL : LEDGER_WAIT;
    } else if (is_reserve_due && is_short_locked(ledger)) {
        int limit = ledger->limit + ledger->reserve;
        step = count_dial_locked(ledger, limit, true) ? LEDGER_DIAL : LEDGER_WAIT;
    }
    unlock(ledger);
    return step;
}

void
ledger_set_limits(struct ledger *ledger, int limit, int reserve)
{
    lock(ledger);
    ledger->limit = limit;
    ledger->reserve = reserve;
    unlock(ledger);
}

bool
ledger_pause(struct ledger *ledger, bool is_paused)
{
    lock(ledger);
    bool is_changed = ledger_is_paused(ledger) != is_paused;
    atomic_store(&ledger->is_paused, is_paused);
    unlock(ledger);
    return is_changed;
}

bool
ledger_is_paused(const struct ledger *ledger)
{
    return atomic_load_explicit(&ledger->is_paused, memory_order_relaxed);
}

bool
ledger_has_idle(struct ledger *ledger, int worker)
{
    lock(ledger);
    bool has_idle = ledger->sides[worker].idle > 0;
    unlock(ledger);
    return has_idle;
}

void
ledger_bar_dials(struct ledger *ledger, int64_t until_us, int64_t spare_until_us)
{
    lock(ledger);
    ledger->bar.until_us = until_us;
    ledger->bar.spare_until_us = spare_until_us;
    unlock(ledger);
}

void
ledger_use_endpoint(struct ledger *ledger, struct endpoint *endpoint)
{
    lock(ledger);
    if (ledger->endpoint != endpoint) {
        endpoint_take_over(endpoint, ledger->endpoint, ledger->logins);
        ledger->endpoint = endpoint;
    }
    unlock(ledger);
}

struct endpoint *
ledger_end_login(struct ledger *ledger)
{
    lock(ledger);
    ensure(ledger->logins > 0);
    ledger->logins--;
    struct endpoint *endpoint = ledger->endpoint;
    unlock(ledger);
    return endpoint;
}

struct waiter *
ledger_pop(struct ledger *ledger, int worker)
{
    lock(ledger);
    struct waiter *waiter = TAILQ_FIRST(&ledger->sides[worker].waiting);
    if (waiter != NULL) {
        dequeue_locked(ledger, worker, waiter);
    }
    unlock(ledger);
    return waiter;
}

struct ledger_view
ledger_look(struct ledger *ledger)
{
    struct ledger_view view = {0};

    lock(ledger);
    view.total = ledger->total;
    view.waiting = ledger->waiting;
    view.arriving = ledger->arriving;
    view.checking = ledger->checking;
    view.limit = ledger->limit;
    view.is_starved = quota_is_hungry(&ledger->share);
    view.oldest_since_us = oldest_since_locked(ledger);
    for (int i = 0; i < ledger->workers; i++) {
        view.idle += ledger->sides[i].idle;
    }
    unlock(ledger);
    return view;
}
