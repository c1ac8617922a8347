/*
 * The registry of pools and what is shared about one: its ledger, its welcome, its trouble. Pools
 * are made by the first login for a (database, user), by any worker, and go when nobody has used
 * them for autodb_idle_timeout. One mutex for the registry, one for each pool's record; main's tick
 * drives retries, warm backends and limits.
 */
#pragma once

#include "base/fail.h"
#include "pool/ledger.h"
#include "pool/outage.h"
#include "pool/pool.h"
#include "wire/scram.h"

#include <uthash.h>

struct endpoint;
struct halts;
struct helpers;
struct pools;

/* What a client that logged in by SCRAM against a verifier left us: with both PostgreSQL lets us in
 * as that user, if its verifier is the same one. Secret. */
struct pool_keys
{
    uint8_t client[SCRAM_KEY_LEN], server[SCRAM_KEY_LEN];
    uint32_t serial; /* 0: there are none */
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
        struct trouble trouble;
        struct endpoint *endpoint; /* borrows: where it dials now; also the ledger knows */
        struct vars welcome;       /* ParameterStatus of the latest login */
        char *identity;            /* of the database's connection string */
        struct pool_keys keys;     /* wiped */
        uint32_t keys_learned;     /* how often */
    } shared;
    _Atomic int64_t resumed_us; /* the last end of a PAUSE: what was waited before does not count */
    _Atomic int live; /* backends that can serve: logged in and not closing */
    _Atomic int pinned; /* backends that clients keep beyond a transaction */
    struct pool_health health;   /* shared: atomics */
    _Atomic int64_t inquired_us; /* when ops/http was last asked about it in vain */
    unsigned holders;        /* the registry's mutex */
    int64_t unused_since_us; /* the registry's mutex */
    uint64_t woken_serial;   /* the registry's mutex: of the last pools_wake() that asked it */
    int64_t aged_at_us;      /* the main thread's: when it asked for the age of leases */
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

/* So many clients more (or less) keep a backend. Any thread. */
void pool_count_pinned(struct pool *pool, int change);

/* Where dials get what commands gave. */
struct credentials *pools_credentials(struct pools *pools);

/* The prepared statements of all clients. */
struct statements *pools_statements(struct pools *pools);

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

/* Which databases are paused or disabled. */
struct halts *pools_halts(struct pools *pools);

/* Calls each() for each pool, under the registry's lock: do little. Any thread. */
void pools_each(struct pools *pools, void (*each)(void *arg, struct pool *pool), void *arg);

/* Closes every backend of this worker at once; for the end. Its thread. */
void pools_leave(struct pool_worker *worker);

/* What PostgreSQL reported at login (ParameterStatus), once a first backend came. Any thread. */
bool pool_welcome(struct pool *pool, struct vars *reported_out);

/* The keys of the latest client that left any. The copy is to be wiped; false: there are none. They
 * are forgotten when PostgreSQL refuses them, unless others came meanwhile. Any thread. */
void pool_learn_keys(struct pool *pool, const uint8_t *client, const uint8_t *server);
bool pool_keys(struct pool *pool, struct pool_keys *keys_out);
void pool_forget_keys(struct pool *pool, uint32_t serial);

/* Where it dials now. Any thread. */
struct endpoint *pool_endpoint(struct pool *pool);

/* One more holder, as pools_join() makes them. Any thread. */
void pools_hold(struct pool *pool);

struct loop *pools_main_loop(struct pools *pools);

/* How many workers there are. */
int pools_count(const struct pools *pools);

/* Dials at this endpoint (NULL: at all) for those who wait, longest first, as far as it admits. Any
 * thread. */
void pools_wake(struct pools *pools, struct endpoint *endpoint);

/* Calls each() for each endpoint, under the registry's lock, with the live backends of all its
 * pools. Any thread. */
void pools_each_endpoint(struct pools *pools,
    void (*each)(void *arg, struct endpoint *endpoint, int backends), void *arg);
