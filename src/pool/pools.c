/*
 * The registry. Called by workers at login (pools_join, pools_part) and by main at each tick; calls
 * the ledger and posts to workers what they must do themselves. The order of locks: registry,
 * record of a pool, ledger, quotas.
 */
#include "pool/pools.h"

#include "base/helpers.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "conf/settings.h"
#include "pool/dial.h"

#include <inttypes.h>
#include <stdatomic.h>

/* A limit of one database ("d:name") or user ("u:name") over all its pools. */
struct quota_entry
{
    struct quota quota;
    UT_hash_handle hh;
    char name[];
};

struct pools
{
    struct loop *main_loop;       /* borrows */
    struct helpers *helpers;      /* borrows */
    struct pool_worker **workers; /* borrows */
    int count;
    uint64_t next_id;
    struct
    {
        pthread_mutex_t mutex;
        struct pool *all;           /* own, by "database\0user" */
        struct quota_entry *quotas; /* own */
    } shared;
};

struct pools *
pools_new(struct loop *main_loop, struct helpers *helpers, struct pool_worker **workers, int count)
{
    struct pools *pools = mem_new(sizeof(*pools));

    pools->main_loop = main_loop;
    pools->helpers = helpers;
    pools->workers = workers;
    pools->count = count;
    pthread_mutex_init(&pools->shared.mutex, NULL);
    for (int i = 0; i < count; i++) {
        TAILQ_INIT(&workers[i]->granted);
    }
    return pools;
}

struct helpers *
pools_helpers(struct pools *pools)
{
    return pools->helpers;
}

/* ---- one pool ---- */

static void
pool_free(struct pool *pool)
{
    ledger_deinit(&pool->ledger);
    pthread_mutex_destroy(&pool->shared.mutex);
    vars_deinit(&pool->shared.welcome);
    free(pool->shared.identity);
    free(pool->database);
    free(pool);
}

static struct quota *
find_quota_locked(struct pools *pools, char kind, const char *name)
{
    struct quota_entry *entry;
    struct buf key = {0};

    buf_print(&key, "%c:%s", kind, name);
    HASH_FIND(hh, pools->shared.quotas, buf_head(&key), buf_len(&key), entry);
    if (entry == NULL) {
        entry = mem_new(sizeof(*entry) + buf_len(&key) + 1);
        memcpy(entry->name, buf_head(&key), buf_len(&key));
        HASH_ADD_KEYPTR(hh, pools->shared.quotas, entry->name, buf_len(&key), entry);
    }
    buf_deinit(&key);
    return &entry->quota;
}

/* Applies limits of the settings; true when the database's connection string is another one now. */
static bool
configure_locked(struct pools *pools, struct pool *pool, const struct settings *settings)
{
    const struct database *database = settings_find_database(settings, pool->database);
    const char *identity = database != NULL ? database->identity : "";
    bool is_changed = pool->shared.identity != NULL && strcmp(pool->shared.identity, identity) != 0;

    free(pool->shared.identity);
    pool->shared.identity = mem_string(identity);
    pool->ledger.quotas[0] = find_quota_locked(pools, 'd', pool->database);
    pool->ledger.quotas[1] = find_quota_locked(pools, 'u', pool->user);
    ledger_set_quota(
        pool->ledger.quotas[0], (int)settings_max_db_connections(settings, pool->database));
    ledger_set_quota(
        pool->ledger.quotas[1], (int)settings_max_user_connections(settings, pool->user));
    ledger_set_limits(&pool->ledger, (int)settings_pool_size(settings, pool->database, pool->user),
        (int)settings_reserve_pool_size(settings, pool->database, pool->user));
    return is_changed;
}

static struct pool *
add_pool_locked(
    struct pools *pools, const char *key, size_t key_len, const struct settings *settings)
{
    struct pool *pool = mem_new(sizeof(*pool) + (size_t)pools->count * sizeof(struct pool_side));

    pool->database = mem_new(key_len + 1);
    memcpy(pool->database, key, key_len);
    pool->user = pool->database + strlen(pool->database) + 1;
    pool->id = ++pools->next_id;
    pool->pools = pools;
    ledger_init(&pool->ledger, pools->count);
    pthread_mutex_init(&pool->shared.mutex, NULL);
    for (int i = 0; i < pools->count; i++) {
        pool->sides[i].pool = pool;
        pool->sides[i].worker = pools->workers[i];
        for (int state = 0; state < BACKEND_STATES; state++) {
            TAILQ_INIT(&pool->sides[i].in[state]);
        }
    }
    configure_locked(pools, pool, settings);
    HASH_ADD_KEYPTR(hh, pools->shared.all, pool->database, key_len, pool);
    return pool;
}

struct pool_side *
pools_join(struct pool_worker *worker, const char *database, const char *user)
{
    struct pools *pools = worker->pools;
    struct buf key = {0};
    struct pool *pool;

    buf_add_string(&key, database);
    buf_add(&key, user, strlen(user));
    pthread_mutex_lock(&pools->shared.mutex);
    HASH_FIND(hh, pools->shared.all, buf_head(&key), buf_len(&key), pool);
    if (pool == NULL) {
        pool = add_pool_locked(pools, (char *)buf_head(&key), buf_len(&key), worker->settings);
    }
    pool->holders++;
    pthread_mutex_unlock(&pools->shared.mutex);
    buf_deinit(&key);
    return &pool->sides[worker->index];
}

static void
hold_pool(struct pool *pool)
{
    pthread_mutex_lock(&pool->pools->shared.mutex);
    pool->holders++;
    pthread_mutex_unlock(&pool->pools->shared.mutex);
}

void
pools_part(struct pool *pool)
{
    struct pools *pools = pool->pools;

    pthread_mutex_lock(&pools->shared.mutex);
    ensure(pool->holders > 0);
    pool->holders--;
    pool->unused_since_us = loop_clock_us();
    pthread_mutex_unlock(&pools->shared.mutex);
}

void
pools_each(struct pools *pools, void (*each)(void *arg, struct pool *pool), void *arg)
{
    struct pool *pool, *next;

    pthread_mutex_lock(&pools->shared.mutex);
    HASH_ITER(hh, pools->shared.all, pool, next) {
        each(arg, pool);
    }
    pthread_mutex_unlock(&pools->shared.mutex);
}

bool
pool_welcome(struct pool *pool, struct vars *reported_out)
{
    pthread_mutex_lock(&pool->shared.mutex);
    bool is_known = pool->shared.welcome.len > 0;
    if (is_known) {
        vars_copy(reported_out, &pool->shared.welcome);
    }
    pthread_mutex_unlock(&pool->shared.mutex);
    return is_known;
}

struct outage
pool_outage(struct pool *pool)
{
    pthread_mutex_lock(&pool->shared.mutex);
    struct outage outage = pool->shared.outage;
    pthread_mutex_unlock(&pool->shared.mutex);
    return outage;
}

/* ---- outages ---- */

/* Delay before the next attempt: grows by the multiplier up to its limit, never long while a client
 * waits. */
static int64_t
retry_delay_us(
    struct pool *pool, const struct settings *settings, unsigned attempts, const char *sqlstate)
{
    enum
    {
        WHILE_WAITED_FOR_US = 300000
    };
    double delay = (double)settings->server_retry_delay;
    double most = (double)settings->server_retry_max_delay;
    bool is_full = strcmp(sqlstate, "53300") == 0;

    for (unsigned i = 1; i < attempts && delay < most; i++) {
        delay *= settings->server_retry_multiplier;
    }
    if (is_full) {
        delay *= 4;
    }
    delay = delay < most ? delay : most;
    if (!is_full && delay > WHILE_WAITED_FOR_US && ledger_look(&pool->ledger).waiting > 0) {
        delay = WHILE_WAITED_FOR_US;
    }
    double jitter = (double)(loop_clock_us() * 7919 % 2001 - 1000) / 1000.0;
    return (int64_t)(delay * (1.0 + jitter * (double)settings->server_retry_jitter / 100.0));
}

struct refusal
{
    struct pool_side *side; /* holds its pool */
    struct fail fail;
};

static void
on_refusal(void *arg)
{
    struct refusal *refusal = arg;

    pool_refuse(refusal->side, &refusal->fail);
    pools_part(refusal->side->pool);
    free(refusal);
}

/* Tells everybody who waits, at every worker. */
static void
refuse_all(struct pool *pool, const struct fail *fail)
{
    for (int i = 0; i < pool->pools->count; i++) {
        struct refusal *refusal = mem_new(sizeof(*refusal));
        refusal->side = &pool->sides[i];
        refusal->fail = *fail;
        hold_pool(pool);
        if (!loop_post(pool->pools->workers[i]->loop, on_refusal, refusal)) {
            pools_part(pool);
            free(refusal);
        }
    }
}

static void
log_attempt(struct pool *pool, const struct settings *settings, const struct outage *outage,
    int64_t delay_us)
{
    const struct database *database = settings_find_database(settings, pool->database);
    const char *host = database != NULL ? database->host : "";
    const char *port = database != NULL ? database->port : "";
    bool is_down = outage->attempts == (unsigned)settings->server_retry_attempts;

    pool_log(
        outage->attempts > (unsigned)settings->server_retry_attempts ? LEVEL_DEBUG : LEVEL_WARN,
        &pool->sides[0], "connect to %s:%s failed (attempt %u/%" PRId64 "): %s; retrying in %.1fs",
        host, port, outage->attempts, settings->server_retry_attempts, outage->fail.text,
        (double)delay_us / 1e6);
    if (is_down) {
        pool_log(LEVEL_ERROR, &pool->sides[0], "database \"%s\" is down: %s", pool->database,
            outage->fail.text);
    }
}

void
outage_failed(struct pool *pool, const struct settings *settings, const struct fail *fail)
{
    pthread_mutex_lock(&pool->shared.mutex);
    struct outage *outage = &pool->shared.outage;
    if (!outage->is_down) {
        outage->is_down = true;
        outage->since_us = loop_clock_us();
        outage->attempts = 0;
    }
    outage->attempts++;
    outage->fail = *fail;
    int64_t delay_us = retry_delay_us(pool, settings, outage->attempts, fail->sqlstate);
    outage->retry_at_us = loop_clock_us() + delay_us;
    struct outage seen = *outage;
    ledger_bar_dials(&pool->ledger, true);
    pthread_mutex_unlock(&pool->shared.mutex);

    log_attempt(pool, settings, &seen, delay_us);
    if (dial_is_permanent(fail)) {
        refuse_all(pool, fail);
    } else if (settings->server_down_timeout == 0 && strcmp(fail->sqlstate, "53300") != 0) {
        struct fail down;
        fail_set(&down, "57P03", "database \"%s\" is not reachable", pool->database);
        fail_detail(&down, "%s", fail->text);
        refuse_all(pool, &down);
    }
}

void
outage_over(struct pool *pool, const struct vars *welcome)
{
    pthread_mutex_lock(&pool->shared.mutex);
    struct outage seen = pool->shared.outage;
    bool is_first = pool->shared.welcome.len == 0;
    pool->shared.outage = (struct outage){0};
    vars_copy(&pool->shared.welcome, welcome);
    ledger_bar_dials(&pool->ledger, false);
    pthread_mutex_unlock(&pool->shared.mutex);

    if (is_first) {
        pool_log(LEVEL_INFO, &pool->sides[0], "connection pool \"%s\" ready on attempt %u",
            pool->database, seen.attempts + 1);
    }
    if (seen.is_down) {
        pool_log(LEVEL_INFO, &pool->sides[0], "database \"%s\" is back after %.1fs", pool->database,
            (double)(loop_clock_us() - seen.since_us) / 1e6);
    }
}

bool
outage_wants_probe(struct pool *pool, int min_size, int64_t now_us)
{
    bool wants = false;

    pthread_mutex_lock(&pool->shared.mutex);
    struct outage *outage = &pool->shared.outage;
    if (outage->is_down && now_us >= outage->retry_at_us) {
        ledger_bar_dials(&pool->ledger, false);
        wants = ledger_want_dial(&pool->ledger) == LEDGER_DIAL ||
                ledger_want_spare(&pool->ledger, min_size, INT64_MAX, now_us) == LEDGER_DIAL;
        ledger_bar_dials(&pool->ledger, true);
        if (wants) {
            outage->retry_at_us = INT64_MAX; /* until this one has failed */
        }
    }
    pthread_mutex_unlock(&pool->shared.mutex);
    return wants;
}

/* ---- main's tick ---- */

static void
on_dial(void *arg)
{
    pool_dial(arg);
}

/* Lets a worker dial; the ledger has counted it. */
static void
post_dial(struct pool *pool)
{
    struct pool_side *side = &pool->sides[pool->id % (uint64_t)pool->pools->count];

    if (!loop_post(side->worker->loop, on_dial, side)) {
        ledger_arrived(&pool->ledger);
        ledger_closed(&pool->ledger);
    }
}

static void
on_close_idle(void *arg)
{
    struct pool_side *side = arg;
    struct fail fail;

    fail_set(&fail, "57P01", "another pool needs its place");
    pool_close_idle(side, &fail);
    pools_part(side->pool);
}

static void
on_close_outdated(void *arg)
{
    struct pool_side *side = arg;

    pool_close_outdated(side);
    pools_part(side->pool);
}

/* RECONNECT or a reload made a new generation: idle backends of the old one go now, the others when
 * they come back. */
static void
tidy_locked(struct pools *pools, struct pool *pool)
{
    uint32_t generation = atomic_load(&pool->generation);

    if (generation == pool->tidied) {
        return;
    }
    pool->tidied = generation;
    for (int i = 0; i < pools->count; i++) {
        pool->holders++;
        if (!loop_post(pools->workers[i]->loop, on_close_outdated, &pool->sides[i])) {
            pool->holders--;
        }
    }
}

/* A shared limit keeps this pool's waiters from a dial: another pool of the same database or user
 * gives up an idle backend. */
static void
feed_starved_locked(struct pools *pools, struct pool *hungry)
{
    struct pool *pool, *next;

    HASH_ITER(hh, pools->shared.all, pool, next) {
        bool shares =
            strcmp(pool->database, hungry->database) == 0 || strcmp(pool->user, hungry->user) == 0;
        for (int i = 0; shares && pool != hungry && i < pools->count; i++) {
            if (!ledger_has_idle(&pool->ledger, i)) {
                continue;
            }
            pool->holders++;
            if (!loop_post(pools->workers[i]->loop, on_close_idle, &pool->sides[i])) {
                pool->holders--;
            }
            return;
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
    bool is_exhausted = view->waiting > 0 && view->limit > 0 && view->total >= view->limit &&
                        view->arriving == 0 && now_us - view->oldest_since_us > WORTH_A_LINE_US;

    if (is_exhausted && !pool->was_exhausted) {
        pool_log(LEVEL_WARN, &pool->sides[0],
            "connection pool \"%s\" exhausted: %d/%d busy, %d waiting", pool->database,
            view->total - view->idle, view->limit, view->waiting);
    }
    pool->was_exhausted = is_exhausted || (pool->was_exhausted && view->waiting > 0);
}

static void
tick_pool_locked(struct pools *pools, struct pool *pool, const struct settings *settings)
{
    int64_t now_us = loop_now_us(pools->main_loop);
    struct ledger_view view = ledger_look(&pool->ledger);
    int min_size = (int)settings_min_pool_size(settings, pool->database);

    note_exhaustion(pool, &view, now_us);
    tidy_locked(pools, pool);
    if (view.is_starved) {
        feed_starved_locked(pools, pool);
    }
    if (outage_wants_probe(pool, min_size, now_us)) {
        post_dial(pool);
        return;
    }
    bool wants = (view.waiting > view.arriving && ledger_want_dial(&pool->ledger) == LEDGER_DIAL) ||
                 ledger_want_spare(&pool->ledger, min_size, settings->reserve_pool_timeout,
                     now_us) == LEDGER_DIAL;
    if (wants) {
        post_dial(pool);
    }
}

/* Pools of databases that have a fixed user are warm before the first client. */
static void
open_warm_pools(struct pools *pools, const struct settings *settings)
{
    const struct database *database;
    size_t cursor = 0;

    while ((database = settings_next_database(settings, &cursor)) != NULL) {
        if (database->user != NULL && strcmp(database->name, "*") != 0 &&
            settings_min_pool_size(settings, database->name) > 0) {
            pools_part(pools_join(pools->workers[0], database->name, database->user)->pool);
        }
    }
}

void
pools_tick(struct pools *pools, const struct settings *settings)
{
    struct pool *pool, *next;
    int64_t now_us = loop_now_us(pools->main_loop);

    pthread_mutex_lock(&pools->shared.mutex);
    HASH_ITER(hh, pools->shared.all, pool, next) {
        bool is_unused = pool->holders == 0 && settings->autodb_idle_timeout > 0 &&
                         settings_min_pool_size(settings, pool->database) == 0 &&
                         now_us - pool->unused_since_us > settings->autodb_idle_timeout;
        if (is_unused && ledger_look(&pool->ledger).total == 0) {
            HASH_DELETE(hh, pools->shared.all, pool);
            pool_free(pool);
            continue;
        }
        tick_pool_locked(pools, pool, settings);
    }
    pthread_mutex_unlock(&pools->shared.mutex);
}

void
pools_reload(struct pools *pools, const struct settings *settings)
{
    struct pool *pool, *next;

    pthread_mutex_lock(&pools->shared.mutex);
    HASH_ITER(hh, pools->shared.all, pool, next) {
        if (configure_locked(pools, pool, settings)) {
            atomic_fetch_add(&pool->generation, 1);
        }
    }
    pthread_mutex_unlock(&pools->shared.mutex);
    open_warm_pools(pools, settings);
}

/* ---- the end ---- */

void
pools_leave(struct pool_worker *worker)
{
    struct pools *pools = worker->pools;
    struct pool *pool, *next;

    pthread_mutex_lock(&pools->shared.mutex);
    HASH_ITER(hh, pools->shared.all, pool, next) {
        struct pool_side *side = &pool->sides[worker->index];
        for (int state = 0; state < BACKEND_STATES; state++) {
            struct backend *backend;
            while ((backend = TAILQ_FIRST(&side->in[state])) != NULL) {
                ensure(state != BACKEND_LEASED);
                backend_destroy(backend);
            }
        }
    }
    pthread_mutex_unlock(&pools->shared.mutex);
}

void
pools_free(struct pools **pointer)
{
    struct pools *pools = *pointer;
    struct pool *pool, *next;
    struct quota_entry *quota, *next_quota;

    HASH_ITER(hh, pools->shared.all, pool, next) {
        HASH_DELETE(hh, pools->shared.all, pool);
        pool_free(pool);
    }
    HASH_ITER(hh, pools->shared.quotas, quota, next_quota) {
        HASH_DELETE(hh, pools->shared.quotas, quota);
        free(quota);
    }
    pthread_mutex_destroy(&pools->shared.mutex);
    free(pools);
    *pointer = NULL;
}
