/*
 * The book of outages. Called by pool/pool and pool/connect when a dial ends, by main's tick, and
 * by client/wait for what to say; calls the ledger and the endpoint, posts refusals and dials to
 * workers. Takes the registry's lock to visit the pools of an endpoint, so nobody calls it with
 * that lock held, except outage_noticed() and outage_reconsider().
 */
#include "pool/outage.h"

#include "base/mem.h"
#include "base/stats.h"
#include "conf/settings.h"
#include "pool/endpoint.h"
#include "pool/pools.h"

#include <inttypes.h>
#include <stdatomic.h>

enum
{
    ASKED_AGAIN_US = 1000000, /* a permanent answer holds that long for who comes next */
    WARM_MAX_US = 60000000,   /* longest wait of dials nobody waits for after such an answer */
};

static bool
has_live(struct pool *pool)
{
    return atomic_load_explicit(&pool->live, memory_order_relaxed) > 0;
}

/* ---- as it stands ---- */

static int64_t
oldest_lease_us(struct pool *pool)
{
    int64_t oldest = 0;

    for (int i = 0; i < pools_count(pool->pools); i++) {
        int64_t at_us = atomic_load_explicit(&pool->sides[i].oldest_lease_us, memory_order_relaxed);
        oldest = at_us > 0 && (oldest == 0 || at_us < oldest) ? at_us : oldest;
    }
    return oldest;
}

struct outage
pool_outage(struct pool *pool)
{
    struct outage outage = {0};

    pthread_mutex_lock(&pool->shared.mutex);
    const struct trouble *own = &pool->shared.trouble;
    struct endpoint_view view = endpoint_look(pool->shared.endpoint);
    if (endpoint_is_failing(&view)) {
        outage.attempts = view.attempts;
        outage.since_us = view.since_us;
        outage.retry_at_us = view.retry.hurried_at_us;
        outage.fail = view.fail;
    } else if (own->attempts > 0) {
        outage.attempts = own->attempts;
        outage.since_us = own->since_us;
        outage.retry_at_us = own->retry_at_us;
        outage.fail = own->fail;
    }
    pthread_mutex_unlock(&pool->shared.mutex);
    outage.is_paused = ledger_is_paused(&pool->ledger);
    if (outage.attempts > 0) {
        const struct connect_traits *traits = connect_traits(&outage.fail);
        outage.is_busy = traits->is_busy;
        outage.is_permanent = traits->is_permanent;
        outage.is_down = !traits->is_busy && !has_live(pool) && !outage.is_paused;
    }
    outage.oldest_lease_us = oldest_lease_us(pool);
    return outage;
}

/* ---- what is said ---- */

/* The pool is down since then; aloud: the log calls the database so. */
static void
fall(struct pool *pool, int64_t since_us, const struct fail *fail, bool is_aloud)
{
    pthread_mutex_lock(&pool->shared.mutex);
    struct trouble *trouble = &pool->shared.trouble;
    trouble->down_since_us = trouble->down_since_us > 0 ? trouble->down_since_us : since_us;
    bool is_news = is_aloud && !trouble->is_said;
    trouble->is_said = trouble->is_said || is_aloud;
    pthread_mutex_unlock(&pool->shared.mutex);
    if (is_news) {
        pool_log(LEVEL_ERROR, &pool->sides[0], "database \"%s\" is down: %s", pool->database,
            fail->text);
    }
}

static void
rise(struct pool *pool)
{
    pthread_mutex_lock(&pool->shared.mutex);
    struct trouble *trouble = &pool->shared.trouble;
    int64_t since_us = trouble->down_since_us;
    trouble->down_since_us = 0;
    trouble->is_said = false;
    pthread_mutex_unlock(&pool->shared.mutex);
    if (since_us > 0) {
        pool_log(LEVEL_INFO, &pool->sides[0], "database \"%s\" is back after %.1fs", pool->database,
            (double)(loop_clock_us() - since_us) / 1e6);
    }
}

static void
log_attempt(struct pool *pool, const struct settings *settings, const struct outage *outage)
{
    bool is_repeat = outage->attempts > (unsigned)settings->server_retry_attempts;
    double left = (double)(outage->retry_at_us - loop_clock_us()) / 1e6;
    struct endpoint *endpoint = pool_endpoint(pool);
    char next[64] = "trying again when a client asks";

    if (!outage->is_permanent) {
        snprintf(next, sizeof(next), "retrying in %.1fs", left > 0 ? left : 0);
    }
    pool_log(is_repeat ? LEVEL_DEBUG : LEVEL_WARN, &pool->sides[0],
        "connect to %s failed (attempt %u/%" PRId64 "): %s; %s", endpoint->name, outage->attempts,
        settings->server_retry_attempts, outage->fail.text, next);
}

/* ---- refusing ---- */

struct refusal
{
    struct pool_side *side; /* holds its pool */
    struct fail fail;
};

static void
on_refusal(void *arg)
{
    struct refusal *refusal = arg;
    struct pool *pool = refusal->side->pool;

    if (!has_live(pool)) { /* else they get backends that come back */
        pool_refuse(refusal->side, &refusal->fail);
    }
    pools_part(pool);
    free(refusal);
}

static void
refuse_side(struct pool_side *side, const struct fail *fail)
{
    struct refusal *refusal = mem_new(sizeof(*refusal));

    refusal->side = side;
    refusal->fail = *fail;
    pools_hold(side->pool);
    if (!loop_post(side->worker->loop, on_refusal, refusal)) {
        pools_part(side->pool);
        free(refusal);
    }
}

/* What those who wait are told when there is no point in waiting; false: they wait on. */
static bool
verdict(struct pool *pool, const struct settings *settings, struct fail *fail_out)
{
    struct outage outage = pool_outage(pool);

    if (!outage.is_down) {
        return false;
    }
    if (outage.is_permanent) {
        *fail_out = outage.fail;
        return loop_clock_us() < outage.retry_at_us;
    }
    fail_set(fail_out, "57P03", "database \"%s\" is not reachable", pool->database);
    fail_detail(fail_out, "%s", outage.fail.text);
    return settings->server_down_timeout == 0;
}

static void
refuse_all(struct pool *pool, const struct settings *settings)
{
    struct fail fail;

    if (!verdict(pool, settings, &fail)) {
        return;
    }
    for (int i = 0; i < pools_count(pool->pools); i++) {
        refuse_side(&pool->sides[i], &fail);
    }
}

void
outage_meet(struct pool_side *side)
{
    struct pool *pool = side->pool;
    struct fail fail;

    /* Whoever waits for a dial hears its answer. */
    if (!has_live(pool) && ledger_look(&pool->ledger).arriving == 0 &&
        verdict(pool, side->worker->settings, &fail)) {
        refuse_side(side, &fail);
    }
}

/* ---- the pools of an endpoint ---- */

struct visit
{
    struct endpoint *endpoint;
    struct endpoint_view view; /* of it: after a failure, before a success */
};

/* The pool's own book, as far as it concerns this endpoint. */
static struct trouble
trouble_at(struct pool *pool, const struct endpoint *endpoint, bool *is_there_out)
{
    pthread_mutex_lock(&pool->shared.mutex);
    *is_there_out = pool->shared.endpoint == endpoint;
    struct trouble trouble = pool->shared.trouble;
    pthread_mutex_unlock(&pool->shared.mutex);
    return trouble;
}

static void
visit_fallen(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    bool is_there;
    struct trouble own = trouble_at(pool, visit->endpoint, &is_there);

    if (is_there && !has_live(pool) &&
        (own.down_since_us > 0 || ledger_look(&pool->ledger).waiting > 0)) {
        fall(pool, visit->view.since_us, &visit->view.fail, true);
    }
}

static void
visit_risen(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    bool is_there;
    struct trouble own = trouble_at(pool, visit->endpoint, &is_there);

    if (is_there && own.attempts == 0) {
        rise(pool);
    }
}

/* What other pools learn from a login's end. */
static void
spread(struct pool *pool, struct endpoint *endpoint, unsigned news, struct visit *visit)
{
    visit->endpoint = endpoint;
    if (news & ENDPOINT_FELL) {
        stats_add(METRIC_endpoint_down_total, 1);
        pools_each(pool->pools, visit_fallen, visit);
    }
    if (news & ENDPOINT_CAME_BACK) {
        stats_add(METRIC_endpoint_back_total, 1);
        pools_each(pool->pools, visit_risen, visit);
    }
    if (news & ENDPOINT_HAS_ROOM) {
        pools_wake(pool->pools, endpoint);
    }
}

/* ---- how a dial ended ---- */

/* The trouble is this pool's alone. Dials that began before the last answer tell nothing new. */
static void
own_failed(struct pool *pool, const struct settings *settings, const struct fail *fail)
{
    const struct connect_traits *traits = connect_traits(fail);
    int64_t now_us = loop_clock_us();

    pthread_mutex_lock(&pool->shared.mutex);
    struct trouble *own = &pool->shared.trouble;
    bool is_news = own->attempts == 0 || now_us >= own->retry_at_us;
    own->since_us = own->attempts == 0 ? now_us : own->since_us;
    own->fail = *fail;
    if (is_news) {
        own->attempts++;
        struct retry retry = connect_retry(settings, traits, own->attempts, now_us);
        int64_t warm_us = (int64_t)ASKED_AGAIN_US << (own->attempts < 6 ? own->attempts : 6);
        own->retry_at_us = traits->is_permanent ? now_us + ASKED_AGAIN_US : retry.hurried_at_us;
        ledger_bar_dials(&pool->ledger, own->retry_at_us,
            traits->is_permanent ? now_us + (warm_us < WARM_MAX_US ? warm_us : WARM_MAX_US)
                                 : retry.at_us);
    }
    struct outage outage = {.is_permanent = traits->is_permanent,
        .attempts = own->attempts,
        .since_us = own->since_us,
        .retry_at_us = own->retry_at_us,
        .fail = *fail};
    pthread_mutex_unlock(&pool->shared.mutex);

    if (is_news) {
        log_attempt(pool, settings, &outage);
    }
    if (!traits->is_busy && !has_live(pool)) {
        fall(pool, outage.since_us, fail,
            outage.attempts >= (unsigned)settings->server_retry_attempts);
    }
}

/* The trouble, if there was any, is not this pool's own (any more). Returns how many attempts it
 * was. */
static unsigned
forget_own(struct pool *pool)
{
    pthread_mutex_lock(&pool->shared.mutex);
    unsigned attempts = pool->shared.trouble.attempts;
    pool->shared.trouble.attempts = 0;
    ledger_bar_dials(&pool->ledger, 0, 0);
    pthread_mutex_unlock(&pool->shared.mutex);
    return attempts;
}

/* Our own words: nobody was asked, so the endpoint has not answered. */
static bool
is_own(const struct fail *fail)
{
    bool is_command = strcmp(fail->sqlstate, "58000") == 0; /* no password, no helper */

    return !fail->is_verbatim && (connect_traits(fail)->is_permanent || is_command);
}

void
outage_failed(struct pool *pool, const struct settings *settings, const struct fail *fail)
{
    const struct connect_traits *traits = connect_traits(fail);
    struct endpoint *endpoint = ledger_end_login(&pool->ledger);
    struct visit visit;
    unsigned news;

    stats_add((enum metric)traits->metric, 1);
    if (!traits->concerns_pool) {
        forget_own(pool);
        news = endpoint_failed(endpoint, settings, fail, loop_clock_us(), &visit.view);
        struct outage outage = pool_outage(pool);
        if (news & ENDPOINT_COUNTED) {
            log_attempt(pool, settings, &outage);
        }
        if (outage.is_down) {
            fall(pool, outage.since_us, fail, false);
        }
    } else if (is_own(fail)) {
        own_failed(pool, settings, fail);
        news = endpoint_withdrawn(endpoint);
    } else {
        own_failed(pool, settings, fail);
        news = endpoint_answered(endpoint, loop_clock_us(), &visit.view);
    }
    spread(pool, endpoint, news, &visit);
    refuse_all(pool, settings);
}

void
outage_over(struct pool *pool, const struct vars *welcome)
{
    struct visit visit;
    unsigned own_attempts = forget_own(pool);

    pthread_mutex_lock(&pool->shared.mutex);
    bool is_first = pool->shared.welcome.len == 0;
    vars_copy(&pool->shared.welcome, welcome);
    pthread_mutex_unlock(&pool->shared.mutex);

    struct endpoint *endpoint = ledger_end_login(&pool->ledger);
    unsigned news = endpoint_answered(endpoint, loop_clock_us(), &visit.view);
    unsigned attempts = endpoint_is_failing(&visit.view) ? visit.view.attempts : 0;
    if (is_first) {
        pool_log(LEVEL_INFO, &pool->sides[0], "connection pool \"%s\" ready on attempt %u",
            pool->database, attempts + own_attempts + 1);
    }
    rise(pool);
    spread(pool, endpoint, news, &visit);
}

void
outage_void(struct pool *pool)
{
    struct visit visit;

    pthread_mutex_lock(&pool->shared.mutex);
    if (pool->shared.trouble.attempts > 0) {
        int64_t at_us = pool->shared.trouble.retry_at_us;
        ledger_bar_dials(&pool->ledger, at_us, at_us);
    }
    pthread_mutex_unlock(&pool->shared.mutex);
    struct endpoint *endpoint = ledger_end_login(&pool->ledger);
    spread(pool, endpoint, endpoint_withdrawn(endpoint), &visit);
}

void
outage_reconsider(struct pool *pool)
{
    (void)forget_own(pool);
}

void
outage_shaken(struct pool *pool)
{
    endpoint_shaken(pool_endpoint(pool), loop_clock_us());
}

void
outage_noticed(struct pool *pool)
{
    struct outage outage = pool_outage(pool);

    if (outage.is_down) {
        struct endpoint_view view = endpoint_look(pool_endpoint(pool));
        fall(pool, outage.since_us, &outage.fail, view.state == ENDPOINT_DOWN);
    }
}
