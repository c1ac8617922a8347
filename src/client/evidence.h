/*
 * The evidence about a lease whose backend died: taken from the backend before it is let go, walked
 * request by request. What it proves is pool/retry's business, what is done client/loss's.
 */
#pragma once

#include "client/client.h"
#include "pool/retry.h"

/* SQLSTATEs of refusals that another try, or backend, does not meet. */
#define STATE_READ_ONLY "25006"
#define STATE_STALE_PLAN "0A000"

struct evidence
{
    struct client *client;
    struct fail cause;
    struct held held; /* taken from the backend */
    uint64_t sent;
    char status;
    unsigned common;     /* facts about the lease and its end */
    uint32_t owed;       /* ReadyForQuery that the client waits for */
    bool is_awaited;     /* replies were owed: an error may be said now */
    uint32_t moved_from; /* from this request on all can be sent again */
    bool resends_oldest; /* the client's bytes of the oldest were put back */
    enum transparent_retry level;
    enum retry_row row; /* of the request that moves first */
};

/* Takes everything that must be known from the client's backend, the requests it holds included.
 * cause: why it is lost. */
void evidence_gather(struct evidence *evidence, struct client *client, const struct fail *cause);

/* A walk over the unanswered requests, oldest first, and all facts about the next of them. After a
 * FATAL those behind the oldest were never begun. */
struct held_walk evidence_walk(const struct evidence *evidence);
unsigned evidence_next(const struct evidence *evidence, struct held_walk *walk);

/* The facts about the oldest, with those about everything in flight inside a transaction taken
 * together: whether one of those that may have run may have committed, and whether all there is is
 * one ROLLBACK. */
unsigned evidence_transaction(const struct evidence *evidence);
