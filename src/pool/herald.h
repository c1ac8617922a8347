/*
 * The herald: one connection for each database that listens (SQL LISTEN) for all clients of
 * transaction pooling, whichever pool and worker they belong to. It lives in one worker, its home;
 * everybody else talks to it by posts, so whatever a worker asks is done in the order it asked.
 *
 *    worker ─ wish_listen(), _unlisten(), _confirm() (pool/wish) ─► home ─ LISTEN ─► PostgreSQL
 *    worker ◄─ on_heard, on_news, on_gap ──────────────── home ◄ NotificationResponse ┘
 *
 * It is dialled when a first client listens, again and again when it is lost, and closed when
 * nobody has listened for a while. It counts for no limit of pools.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct herald;
struct pool_side;
struct pool_worker;

/* What a worker is told, in its thread. */
struct herald_ops
{
    /* Everything is listened to that was asked for before herald_confirm(ticket, serial). */
    void (*on_heard)(struct pool_worker *worker, uint64_t ticket, uint32_t serial);
    /* Whole NotificationResponses of this database, in the order of their commits. */
    void (*on_news)(
        struct pool_worker *worker, const char *database, const uint8_t *data, size_t len);
    /* It was lost and listens again: what was notified meanwhile nobody knows. */
    void (*on_gap)(struct pool_worker *worker, const char *database);
};

/* The pool has a new generation: a herald that logged in as it does so again. Its thread. */
void herald_renew(struct pool_side *side);

/* How one stands, for SHOW. */
struct herald_view
{
    const char *database, *user; /* borrowed; user: as whom it logs in, NULL: nobody yet */
    const char *state;
    int pid; /* of PostgreSQL's process, or 0 */
    unsigned channels;
    bool is_open; /* PostgreSQL has a connection of it, or soon will */
};

/* All whose home this worker is. Its thread. */
void heralds_each(struct pool_worker *worker,
    void (*each)(void *arg, const struct herald_view *view), void *arg);

/* Ends all whose home this worker is; for the end. Its thread. */
void herald_leave(struct pool_worker *worker);
