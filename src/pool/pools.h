/*
 * The registry of pools and what is shared about one: its ledger, its welcome, its outage. Pools
 * are made by the first login for a (database, user), by any worker, and go when nobody has used
 * them for autodb_idle_timeout. One mutex for the registry, one for each pool's record; main's tick
 * drives retries, warm backends and limits.
 */
#pragma once

#include "base/fail.h"
#include "pool/ledger.h"
#include "pool/pool.h"

#include <uthash.h>

struct helpers;
struct pools;

/* The last trouble with connecting; under the pool's record mutex. */
struct outage
{
    bool is_down;        /* the last attempt failed */
    unsigned attempts;   /* that failed in a row */
    int64_t since_us;    /* first failure */
    int64_t retry_at_us; /* no dial before */
    struct fail fail;    /* the last reason */
};

struct pool
{
    char *database, *user; /* own; never change */
    uint64_t id;
    struct pools *pools;         /* borrows */
    struct ledger ledger;        /* shared: own mutex */
    _Atomic uint32_t generation; /* of backends that may be used; RECONNECT and reload add one */
    struct
    {
        pthread_mutex_t mutex;
        struct outage outage;
        struct vars welcome; /* ParameterStatus of the latest login */
        char *identity;      /* of the database's connection string */
    } shared;
    unsigned holders;        /* the registry's mutex */
    int64_t unused_since_us; /* the registry's mutex */
    bool was_exhausted;      /* the main thread's: said so already */
    uint32_t tidied;         /* the main thread's: idle backends older than this were closed */
    UT_hash_handle hh;
    struct pool_side sides[]; /* one a worker */
};

/* Main thread. workers[] and helpers are borrowed until pools_free(). */
struct pools *pools_new(
    struct loop *main_loop, struct helpers *helpers, struct pool_worker **workers, int count);
void pools_free(struct pools **pools);

/* The threads that dial and cancel. */
struct helpers *pools_helpers(struct pools *pools);

/* The pool of (database, user), made when it is new, and this worker's side of it. Counted:
 * pools_part(). */
struct pool_side *pools_join(struct pool_worker *worker, const char *database, const char *user);
void pools_part(struct pool *pool);

/* What main does at each tick: retries, warm backends, reserves, shared limits, pools that expired.
 */
void pools_tick(struct pools *pools, const struct settings *settings);

/* New settings are in force: limits; backends of changed databases are closed as they come back.
 * Main thread. */
void pools_reload(struct pools *pools, const struct settings *settings);

/* Calls each() for each pool, under the registry's lock: do little. Any thread. */
void pools_each(struct pools *pools, void (*each)(void *arg, struct pool *pool), void *arg);

/* Closes every backend of this worker at once; for the end. Its thread. */
void pools_leave(struct pool_worker *worker);

/* What PostgreSQL reported at login (ParameterStatus), once a first backend came. Any thread. */
bool pool_welcome(struct pool *pool, struct vars *reported_out);

/* The outage as it stands. Any thread. */
struct outage pool_outage(struct pool *pool);

/* A dial failed or a first backend came: keeps the book of the outage, logs its beginning and end.
 * Any thread. */
void outage_failed(struct pool *pool, const struct settings *settings, const struct fail *fail);
void outage_over(struct pool *pool, const struct vars *welcome);

/* Whether one attempt to connect is due now, for waiters or to keep min_size warm; the ledger has
 * counted it then and the caller dials. Only one at a time while down. Any thread. */
bool outage_wants_probe(struct pool *pool, int min_size, int64_t now_us);
