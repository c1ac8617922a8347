/*
 * The registry. Called by workers at login (pools_join, pools_part) and by main at each tick; calls
 * the ledger and posts to workers what they must do themselves. The order of locks: registry,
 * record of a pool, ledger, quotas, endpoint.
 */
#include "pool/pools.h"

#include "base/helpers.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "conf/settings.h"
#include "pool/channels.h"
#include "pool/credentials.h"
#include "pool/endpoint.h"
#include "pool/halt.h"
#include "pool/herald.h"
#include "pool/resolve.h"
#include "pool/statements.h"
#include "pool/tick.h"

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
    struct statements *statements; /* owns; shared: own mutex */
    struct credentials *credentials; /* owns; shared: own mutex */
    struct halts *halts;           /* owns; shared: own mutex */
    struct
    {
        pthread_mutex_t mutex;
        struct pool *all;           /* own, by "database\0user" */
        struct quota_entry *quotas; /* own */
        struct endpoint *endpoints; /* own, by name; kept until the end */
        uint64_t wake_serial;
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
    pools->statements = statements_new();
    pools->credentials = credentials_new();
    pools->halts = halts_new();
    channels_init();
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

struct loop *
pools_main_loop(struct pools *pools)
{
    return pools->main_loop;
}

void
pool_count_pinned(struct pool *pool, int change)
{
    atomic_fetch_add(&pool->pinned, change);
}

struct statements *
pools_statements(struct pools *pools)
{
    return pools->statements;
}

struct credentials *
pools_credentials(struct pools *pools)
{
    return pools->credentials;
}

struct halts *
pools_halts(struct pools *pools)
{
    return pools->halts;
}

int
pools_count(const struct pools *pools)
{
    return pools->count;
}

/* ---- one pool ---- */

static void
pool_free(struct pool *pool)
{
    ledger_deinit(&pool->ledger);
    pthread_mutex_destroy(&pool->shared.mutex);
    vars_deinit(&pool->shared.welcome);
    explicit_bzero(&pool->shared.keys, sizeof(pool->shared.keys));
    free(pool->shared.identity);
    for (int i = 0; i < pool->pools->count; i++) {
        free(pool->sides[i].times);
    }
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

/* The endpoint of a connection string, as people write it. */
static struct endpoint *
find_endpoint_locked(struct pools *pools, const struct database *database)
{
    const char *address = database_keyword(database, "hostaddr");
    const char *host = address != NULL ? address : database->host;
    struct endpoint *endpoint;
    struct buf name = {0};

    buf_print(&name, "%s:%s", host[0] != '\0' ? host : "local",
        database->port[0] != '\0' ? database->port : "5432");
    HASH_FIND(hh, pools->shared.endpoints, buf_head(&name), buf_len(&name), endpoint);
    if (endpoint == NULL) {
        buf_add_u8(&name, 0);
        endpoint = endpoint_new((char *)buf_head(&name), host);
        HASH_ADD_KEYPTR(
            hh, pools->shared.endpoints, endpoint->name, strlen(endpoint->name), endpoint);
    }
    buf_deinit(&name);
    return endpoint;
}

/* Where the pool dials from now on. A database that is gone keeps its last endpoint until the pool
 * is gone, too; one that never was has nowhere to dial. */
static void
place_locked(struct pools *pools, struct pool *pool, const struct database *database)
{
    static const char *no_keywords[] = {NULL};
    static const struct database nowhere = {
        .keywords = no_keywords, .host = "nowhere", .port = "0"};
    struct endpoint *endpoint = database != NULL ? find_endpoint_locked(pools, database)
                                : pool->shared.endpoint != NULL
                                    ? pool->shared.endpoint
                                    : find_endpoint_locked(pools, &nowhere);

    pthread_mutex_lock(&pool->shared.mutex);
    pool->shared.endpoint = endpoint;
    pthread_mutex_unlock(&pool->shared.mutex);
    ledger_use_endpoint(&pool->ledger, endpoint);
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
    place_locked(pools, pool, database);
    endpoint_limit(pool->shared.endpoint, (int)settings->server_max_logins);
    quota_set_limit(
        pool->ledger.share.quotas[0], (int)settings_max_db_connections(settings, pool->database));
    quota_set_limit(
        pool->ledger.share.quotas[1], (int)settings_max_user_connections(settings, pool->user));
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
    pool->ledger.share.quotas[0] = find_quota_locked(pools, 'd', pool->database);
    pool->ledger.share.quotas[1] = find_quota_locked(pools, 'u', pool->user);
    configure_locked(pools, pool, settings);
    ledger_pause(&pool->ledger, halts_pause_concerns(pools->halts, pool->database));
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
    struct pool_side *side = &pool->sides[worker->index];
    side->times = side->times != NULL ? side->times : mem_new(sizeof(*side->times));
    pthread_mutex_unlock(&pools->shared.mutex);
    buf_deinit(&key);
    return side;
}

void
pools_hold(struct pool *pool)
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

void
pool_learn_keys(struct pool *pool, const uint8_t *client, const uint8_t *server)
{
    struct pool_keys *keys = &pool->shared.keys;

    pthread_mutex_lock(&pool->shared.mutex);
    keys->serial = ++pool->shared.keys_learned;
    memcpy(keys->client, client, sizeof(keys->client));
    memcpy(keys->server, server, sizeof(keys->server));
    pthread_mutex_unlock(&pool->shared.mutex);
}

bool
pool_keys(struct pool *pool, struct pool_keys *keys_out)
{
    pthread_mutex_lock(&pool->shared.mutex);
    *keys_out = pool->shared.keys;
    pthread_mutex_unlock(&pool->shared.mutex);
    return keys_out->serial > 0;
}

void
pool_forget_keys(struct pool *pool, uint32_t serial)
{
    pthread_mutex_lock(&pool->shared.mutex);
    if (pool->shared.keys.serial == serial) {
        explicit_bzero(&pool->shared.keys, sizeof(pool->shared.keys));
    }
    pthread_mutex_unlock(&pool->shared.mutex);
}

struct endpoint *
pool_endpoint(struct pool *pool)
{
    pthread_mutex_lock(&pool->shared.mutex);
    struct endpoint *endpoint = pool->shared.endpoint;
    pthread_mutex_unlock(&pool->shared.mutex);
    return endpoint;
}

void
pool_count_live(struct pool_side *side, enum backend_state from, enum backend_state to)
{
    bool was_live = from != BACKEND_ALIGNING;
    bool is_live = to != BACKEND_CLOSING;

    if (was_live != is_live) {
        atomic_fetch_add(&side->pool->live, is_live ? 1 : -1);
    }
}

/* ---- dials ---- */

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

    /* Where it is refused the process is about to end. */
    if (!loop_post(side->worker->loop, on_dial, side)) {
        (void)endpoint_withdrawn(ledger_end_login(&pool->ledger));
        ledger_arrived(&pool->ledger);
        ledger_closed(&pool->ledger);
    }
}

/* The pool at this endpoint (NULL: any) whose client waits longest and that was not asked yet. */
static struct pool *
find_hungriest_locked(struct pools *pools, const struct endpoint *endpoint)
{
    struct pool *pool, *next, *best = NULL;
    int64_t best_us = INT64_MAX;

    HASH_ITER(hh, pools->shared.all, pool, next) {
        bool is_there = endpoint == NULL || pool->shared.endpoint == endpoint;
        if (!is_there || pool->woken_serial == pools->shared.wake_serial) {
            continue;
        }
        struct ledger_view view = ledger_look(&pool->ledger);
        if (view.waiting > view.arriving && view.oldest_since_us < best_us) {
            best = pool;
            best_us = view.oldest_since_us;
        }
    }
    return best;
}

void
pools_wake(struct pools *pools, struct endpoint *endpoint)
{
    struct pool *pool;

    pthread_mutex_lock(&pools->shared.mutex);
    pools->shared.wake_serial++;
    while ((pool = find_hungriest_locked(pools, endpoint)) != NULL) {
        if (ledger_want_dial(&pool->ledger) == LEDGER_DIAL) {
            post_dial(pool);
        } else {
            pool->woken_serial = pools->shared.wake_serial;
        }
    }
    pthread_mutex_unlock(&pools->shared.mutex);
}

/* ---- main's tick ---- */

static void
on_close_idle(void *arg)
{
    struct pool_side *side = arg;
    struct fail fail;

    fail_set(&fail, "57P01", "another pool needs its place");
    pool_close_idle(side, &fail);
    pools_part(side->pool);
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
tick_pool_locked(struct pools *pools, struct pool *pool, const struct settings *settings)
{
    struct ledger_view view = ledger_look(&pool->ledger);

    if (view.is_starved) {
        feed_starved_locked(pools, pool);
    }
    if (tick_pool(pool, &view, settings, loop_now_us(pools->main_loop))) {
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

struct tick
{
    struct pools *pools;
    const struct settings *settings;
    int64_t now_us;
};

static void
visit_endpoint(void *arg, struct endpoint *endpoint, int backends)
{
    const struct tick *tick = arg;

    endpoint_settle(endpoint, tick->now_us);
    resolve_tick(tick->pools, endpoint, backends, tick->settings, tick->now_us);
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
    struct tick tick = {.pools = pools, .settings = settings, .now_us = now_us};
    pools_each_endpoint(pools, visit_endpoint, &tick);
}

void
pools_each_endpoint(struct pools *pools,
    void (*each)(void *arg, struct endpoint *endpoint, int backends), void *arg)
{
    struct endpoint *endpoint, *next_endpoint;
    struct pool *pool, *next;

    pthread_mutex_lock(&pools->shared.mutex);
    HASH_ITER(hh, pools->shared.endpoints, endpoint, next_endpoint) {
        int backends = 0;
        HASH_ITER(hh, pools->shared.all, pool, next) {
            backends += pool->shared.endpoint == endpoint ? atomic_load(&pool->live) : 0;
        }
        each(arg, endpoint, backends);
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
        outage_reconsider(pool);
    }
    pthread_mutex_unlock(&pools->shared.mutex);
    open_warm_pools(pools, settings);
}

void
pools_leave(struct pool_worker *worker)
{
    struct pools *pools = worker->pools;
    struct pool *pool, *next;

    herald_leave(worker);
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
    struct endpoint *endpoint, *next_endpoint;
    HASH_ITER(hh, pools->shared.endpoints, endpoint, next_endpoint) {
        HASH_DELETE(hh, pools->shared.endpoints, endpoint);
        endpoint_free(&endpoint);
    }
    pthread_mutex_destroy(&pools->shared.mutex);
    statements_free(&pools->statements);
    credentials_free(&pools->credentials);
    halts_free(&pools->halts);
    free(pools);
    *pointer = NULL;
}
