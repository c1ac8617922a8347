/*
 * Main's tick, pool by pool. Called by pools_tick() with the registry's lock held, so nothing here
 * takes it; calls the ledger and posts to workers what only they may do.
 */
#include "pool/tick.h"

#include "conf/settings.h"
#include "pool/endpoint.h"
#include "pool/herald.h"
#include "pool/pools.h"

#include <stdatomic.h>

static void
on_close_outdated(void *arg)
{
    struct pool_side *side = arg;

    pool_close_outdated(side);
    herald_renew(side);
    pools_part(side->pool);
}

void
tick_tidy(struct pool *pool)
{
    uint32_t generation = atomic_load(&pool->generation);

    if (generation == pool->tidied) {
        return;
    }
    pool->tidied = generation;
    for (int i = 0; i < pools_count(pool->pools); i++) {
        pool->holders++;
        if (!loop_post(pool->sides[i].worker->loop, on_close_outdated, &pool->sides[i])) {
            pool->holders--;
        }
    }
}

static void
note_exhaustion(struct pool *pool, const struct ledger_view *view, int64_t now_us)
{
    enum
    {
        WORTH_A_LINE_US = 100000
    };
    bool is_full = view->limit > 0 && view->total >= view->limit && view->arriving == 0;
    bool is_exhausted = !ledger_is_paused(&pool->ledger) && is_full && view->waiting > 0 &&
                        now_us - view->oldest_since_us > WORTH_A_LINE_US;

    if (is_exhausted && !pool->was_exhausted) {
        pool_log(LEVEL_WARN, &pool->sides[0],
            "connection pool \"%s\" exhausted: %d/%d busy, %d waiting", pool->database,
            view->total - view->idle, view->limit, view->waiting);
    }
    pool->was_exhausted = is_exhausted || (pool->was_exhausted && view->waiting > 0);
}

static void
on_age(void *arg)
{
    struct pool_side *side = arg;
    const struct backend *oldest = TAILQ_LAST(&side->in[BACKEND_LEASED], backend_list);

    atomic_store(&side->oldest_lease_us, oldest != NULL ? oldest->state_since_us : 0);
    pools_part(side->pool);
}

/* While clients wait, workers say now and then how old their oldest lease is, for the message of
 * those who have waited too long. */
static void
ask_ages(struct pool *pool, const struct ledger_view *view, int64_t now_us)
{
    enum
    {
        WAITS_LONG_US = 300000,
        EVERY_US = 500000
    };
    if (view->waiting == 0 && pool->aged_at_us > 0) {
        /* What was said will be wrong when somebody waits again. */
        pool->aged_at_us = 0;
        for (int i = 0; i < pools_count(pool->pools); i++) {
            atomic_store(&pool->sides[i].oldest_lease_us, 0);
        }
    }
    if (view->waiting == 0 || now_us - view->oldest_since_us < WAITS_LONG_US ||
        now_us - pool->aged_at_us < EVERY_US) {
        return;
    }
    pool->aged_at_us = now_us;
    for (int i = 0; i < pools_count(pool->pools); i++) {
        pool->holders++;
        if (!loop_post(pool->sides[i].worker->loop, on_age, &pool->sides[i])) {
            pool->holders--;
        }
    }
}

enum
{
    INQUIRY_US = 60000000 /* one that is asked about has a backend for so long */
};

/* How many backends a pool without waiters wants: while its endpoint fails and clients are there,
 * one, so that the end of an outage is noticed; the same when health is asked for from outside. */
static int
warm_size(struct pool *pool, const struct settings *settings, int64_t now_us)
{
    int min_size = (int)settings_min_pool_size(settings, pool->database);
    struct endpoint_view view = endpoint_look(pool->shared.endpoint);

    int64_t inquired_us = atomic_load_explicit(&pool->inquired_us, memory_order_relaxed);
    bool is_inquired = inquired_us > 0 && now_us - inquired_us < INQUIRY_US;
    bool is_missed = pool->holders > 0 && endpoint_is_failing(&view);

    return min_size == 0 && (is_missed || is_inquired) ? 1 : min_size;
}

bool
tick_pool(struct pool *pool, const struct ledger_view *view, const struct settings *settings,
    int64_t now_us)
{
    note_exhaustion(pool, view, now_us);
    tick_tidy(pool);
    ask_ages(pool, view, now_us);
    if (view->waiting > 0) {
        outage_noticed(pool);
    }
    return (view->waiting > view->arriving && ledger_want_dial(&pool->ledger) == LEDGER_DIAL) ||
           ledger_want_spare(&pool->ledger, warm_size(pool, settings, now_us),
               settings->reserve_pool_timeout, now_us) == LEDGER_DIAL;
}
