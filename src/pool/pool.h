/*
 * Leases: how clients hold the backends of a pool. A pool is the backends of one (database, user),
 * spanning all workers. What is shared between threads is in its ledger and its outage record
 * (pool/pools.h); everything else lies in the sides, one for each worker and touched by that worker
 * alone.
 *
 *     pool_lease ──► own idle backend, at once
 *               └──► queued; another worker surrenders one, or a dial starts, or somebody returns
 * one ──► ops->on_granted          (or ops->on_refused: it will never come)
 */
#pragma once

#include "base/histogram.h"
#include "base/log.h"
#include "base/slots.h"
#include "conf/settings.h"
#include "pool/backend.h"
#include "pool/dial.h"
#include "pool/ledger.h"

struct herald;
struct herald_ops;
struct pool;
struct pools;

/* One worker as the pools see it; embedded in the daemon's worker. */
struct pool_worker
{
    struct loop *loop;         /* borrows */
    struct pools *pools;       /* borrows */
    struct settings *settings; /* holds: the snapshot in force for this worker */
    struct slots leases;       /* owns; tickets of clients that may wait */
    struct slots backends;     /* owns; tickets of backends that cancels may concern */
    struct worker_health health;
    struct herald *heralds;              /* own: those whose home it is */
    const struct herald_ops *herald_ops; /* borrows */
    struct waiter_list
        granted; /* leases that were given a backend and are told at the end of the callback */
    int index;
};

/* What SHOW STATS counts; of one side, by its worker only. Times in microseconds. */
struct pool_counts
{
    uint64_t assignments, transactions, queries, received, sent;
    uint64_t transaction_us, query_us, wait_us, logins;
    uint64_t client_parses, server_parses, binds;
    uint64_t errors; /* of ours that clients were sent because there was no server connection */
    uint64_t moved;  /* requests sent to another backend after the loss of theirs */
    uint64_t lost;   /* backends that died */
};

/* How long things took; of one side, by its worker only. */
struct pool_times
{
    struct histogram wait; /* of every lease; most did not wait at all */
    struct histogram query, transaction;
    int64_t longest_wait_us; /* since ops/survey looked last */
};

/* What a snapshot of the settings says for a pool. */
struct pool_policy
{
    uint64_t serial; /* of the snapshot */
    enum pool_mode mode;
    int64_t wait_us;    /* query_wait_timeout */
    int64_t query_us, transaction_us, idle_transaction_us, client_idle_us; /* 0: no limit */
    bool is_read_write; /* its backends must be able to write */
};

/* One worker's part of a pool. */
struct pool_side
{
    struct pool *pool;          /* borrows */
    struct pool_worker *worker; /* borrows */
    struct backend_list in[BACKEND_STATES];
    unsigned count[BACKEND_STATES];
    unsigned clients; /* logged in and not gone */
    struct pool_counts counts;
    struct pool_times *times; /* owns; NULL until this worker's first client of the pool */
    struct pool_policy policy;
    _Atomic int64_t oldest_lease_us; /* shared: when it began; said while others wait */
};

struct lease;

/* What the holder of a lease is told, in its worker's thread; never from within a call it made, and
 * nothing of its backend before on_granted(). */
struct lease_ops
{
    void (*on_granted)(struct lease *lease);                          /* lease->backend is yours */
    void (*on_refused)(struct lease *lease, const struct fail *fail); /* not queued any more */
    void (*on_backend)(struct lease *lease, unsigned what);           /* its stream: WATCH_ bits */
};

enum lease_state
{
    LEASE_NONE,
    LEASE_WAITING,
    LEASE_HELD,
};

/* A client's claim to a backend; embedded in the client. Owns nothing. */
struct lease
{
    struct waiter waiter;
    const struct lease_ops *ops; /* borrows */
    struct pool_side *side;      /* borrows */
    struct backend *backend;     /* borrows while LEASE_HELD */
    enum lease_state state;
    bool is_untold; /* on_granted() is still to be called */
};

/* What the settings of its worker say for this side; looked up once for each snapshot. */
const struct pool_policy *pool_policy(struct pool_side *side);

/* ---- leases ---- */

/* Prepares a lease at this side; gives it a ticket. */
void lease_init(struct lease *lease, struct pool_side *side, const struct lease_ops *ops);
void lease_deinit(struct lease *lease);

/* True: lease->backend is there now. False: on_granted() or on_refused() follows, until
 * lease_leave(). */
must_check bool lease_take(struct lease *lease);

/* Stops waiting. */
void lease_leave(struct lease *lease);

/* Gives a settled backend back. needs_reset: run server_reset_query first. */
void lease_return(struct lease *lease, bool needs_reset);

/* The client is gone in the midst of it. What was forwarded completely is drained (after a cancel
 * when cancel is set), an open transaction rolled back. When something was forwarded by half, or
 * cannot be drained, the backend is closed. */
void lease_abandon(struct lease *lease, bool is_forwarding, bool cancel);

/* Closes the backend: it is dead or has lost its place. */
void lease_discard(struct lease *lease, const struct fail *fail);

/* ---- what backend.c and scrub.c tell the pool ---- */

/* A backend has nothing to do: a waiter gets it, or it is listed as idle, or closed. */
void pool_offer(struct backend *backend);

/* A leased backend's stream is ready for `what` (WATCH_ bits), or the last of its cancels is over
 * (0). */
void pool_tell_holder(struct backend *backend, unsigned what);

/* A backend that is not idle is gone from the world. */
void pool_backend_gone(struct pool_side *side);

/* A dial ended without a backend (no connection, stream not aligned, connect_query failed). */
void pool_dial_failed(struct pool_side *side, const struct fail *fail);

/* Dials for this side; the ledger has counted it. */
void pool_dial(struct pool_side *side);

/* Dials a connection for one client alone, outside of the pool and its limits. extra: up to four
 * keywords of libpq more. False with the reason when the database is not configured (3D000). */
must_check bool pool_dial_apart(struct pool_side *side, const struct vars *extra,
    const struct dial_result *result, struct fail *fail);

/* Closes idle backends of an older generation, or too old. */
void pool_close_outdated(struct pool_side *side);

/* Refuses all who wait at this side. */
void pool_refuse(struct pool_side *side, const struct fail *fail);

/* Closes one idle backend of this side, if there is one that nobody was promised. */
void pool_close_idle(struct pool_side *side, const struct fail *fail);

/* Closes at once what is being cleaned up after clients that were sent away; the rest of a paused
 * pool goes by itself. */
void pool_kill(struct pool_side *side, const struct fail *fail);

/* A dialled backend is aligned and may serve: offers it. */
void pool_dial_succeeded(struct backend *backend);

/* Finds backends for those who wait and whom nothing that is on its way answers for: idle ones of
 * this worker, of others, new ones. */
void pool_seek(struct pool_side *side);

/* A backend changes from one state to another: keeps the count of those that can serve. */
void pool_count_live(struct pool_side *side, enum backend_state from, enum backend_state to);

struct log_subject pool_subject(const struct pool_side *side);

#define pool_log(level, side, ...)                                                                 \
    do {                                                                                           \
        struct log_subject pool_log_subject = pool_subject(side);                                  \
        log_write(level, &pool_log_subject, __VA_ARGS__);                                          \
    } while (0)
