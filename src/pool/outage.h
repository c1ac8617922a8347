/*
 * Outages as a pool sees them: the trouble of its endpoint (pool/endpoint.h), shared with all pools
 * that dial it, and its own, which no other pool has (wrong password, missing database, limit of
 * its role). Every dial ends in one of three calls here; they keep both books, log, wake those who
 * may dial now and refuse those for whom waiting is useless.
 */
#pragma once

#include "base/fail.h"

#include <stdint.h>

struct pool;
struct pool_side;
struct settings;
struct vars;

/* How it stands for a pool, for what a client that waits is told. */
struct outage
{
    bool is_down;        /* no live backend and the last connect failed */
    bool is_busy;        /* PostgreSQL answers, but with 53300: it has no room (never is_down) */
    bool is_paused;      /* by PAUSE; never is_down then */
    bool is_permanent;   /* the same answer would come again */
    unsigned attempts;   /* that failed in a row; 0: all is well */
    int64_t since_us;    /* the first failure */
    int64_t retry_at_us; /* no dial before */
    struct fail fail;    /* the last reason; meaningful when attempts > 0 */
    int64_t oldest_lease_us; /* when the oldest lease began, up to a second ago; 0: not known */
};

/* A pool's own book of it; under its record mutex. */
struct trouble
{
    unsigned attempts;
    int64_t since_us, retry_at_us;
    struct fail fail;
    int64_t down_since_us; /* the pool is or was down and its clients noticed; 0: no */
    bool is_said;          /* the log calls its database down */
};

/* As it stands. Any thread. */
struct outage pool_outage(struct pool *pool);

/* A dial failed: the ledger's ledger_arrived() came before, ledger_closed() comes after. */
void outage_failed(struct pool *pool, const struct settings *settings, const struct fail *fail);

/* A dial made a backend that is ready; what PostgreSQL reported. Before ledger_arrived(). */
void outage_over(struct pool *pool, const struct vars *welcome);

/* A dial ended and tells nothing: it began before a reload or RECONNECT, or was never begun. */
void outage_void(struct pool *pool);

/* The settings are new: what PostgreSQL, or we, said of the pool alone may not hold any more. Not
 * waited for: whoever asks next dials. Under the registry's lock. */
void outage_reconsider(struct pool *pool);

/* A client of this side begins to wait. Refuses it soon when the answer is known already. */
void outage_meet(struct pool_side *side);

/* A backend died by itself: a server that comes back is spared a crowd of logins. */
void outage_shaken(struct pool *pool);

/* Main's tick, for a pool that clients wait for: notes that it is down. Main thread. */
void outage_noticed(struct pool *pool);
