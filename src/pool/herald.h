/*
 * The herald: one connection for each database that listens (SQL LISTEN) for all clients of
 * transaction pooling, whichever pool and worker they belong to. It lives in one worker, its home;
 * everybody else talks to it by posts, so whatever a worker asks is done in the order it asked.
 *
 *    worker ─ herald_listen(), _unlisten(), _confirm() ─► home ─ LISTEN ─► PostgreSQL
 *    worker ◄─ on_heard, on_news, on_gap ──────────────── home ◄ NotificationResponse ┘
 *
 * It is dialled when a first client listens, again and again when it is lost, and closed when
 * nobody has listened for a while. It counts for no limit of pools.
 */
#pragma once

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

/* A client of this side listens to the channel; counted. */
void herald_listen(struct pool_side *side, const char *channel);
void herald_unlisten(struct pool_side *side, const char *channel);

/* on_heard() follows, unless PostgreSQL never lets us in. */
void herald_confirm(struct pool_side *side, uint64_t ticket, uint32_t serial);

/* The pool has a new generation: a herald that logged in as it does so again. Its thread. */
void herald_renew(struct pool_side *side);

/* Ends all whose home this worker is; for the end. Its thread. */
void herald_leave(struct pool_worker *worker);
