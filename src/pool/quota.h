/*
 * Limits over several pools: of one database, of one user. Each pool has its share in two of them.
 * Where a limit is reached, pools whose clients wait take turns: a pool that has more than another
 * one that was denied gives backends up as they come back, until their numbers are even; an uneven
 * rest goes round.
 *
 * One mutex for all, taken after a ledger's. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* How long a pool is denied before one with a single backend more gives that up, and how long it
 * has it then at least. */
#define QUOTA_TURN_US 100000

LIST_HEAD(share_list, share);

struct quota
{
    int limit; /* 0: none */
    int used;
    int64_t turned_us;        /* when an uneven rest went on last */
    struct share_list hungry; /* those it denied, whose clients wait */
    _Atomic int hungry_count;
};

/* A pool's share; embedded in its ledger. */
struct share
{
    struct quota *quotas[2];       /* borrow: of the database, of the user; or NULL; never change */
    LIST_ENTRY(share) links[2];    /* in the lists of those quotas */
    bool is_listed[2];
    int used;
    int leaving; /* of these: on their way out for another pool */
    int64_t hungry_since_us; /* while it is listed anywhere */
};

/* Sets a limit; 0: none. */
void quota_set_limit(struct quota *quota, int limit);

/* Counts one backend more. False: there is no room, or another pool comes first; then, if somebody
 * waits for it, the share is hungry from now on. */
bool quota_take(struct share *share, bool is_awaited, int64_t now_us);
void quota_give_back(struct share *share);

/* Nobody waits for room any more. */
void quota_forget(struct share *share);

/* Whether a backend that comes back makes room for another pool: then it must be closed. */
bool quota_yields(struct share *share, int64_t now_us);

/* Whether other pools that share a limit with this one are hungry. */
bool quota_starves_others(const struct share *share);

bool quota_is_hungry(const struct share *share);
