/*
 * What workers ask of the herald of their database (pool/herald), by posts to its home: done in the
 * order in which each worker asked.
 */
#pragma once

#include <stdint.h>

struct pool;
struct pool_side;

enum wish_kind
{
    WISH_LISTEN,
    WISH_UNLISTEN,
    WISH_CONFIRM,
};

struct wish
{
    struct pool *pool; /* holds */
    enum wish_kind kind;
    int from, to; /* workers */
    uint64_t ticket;
    uint32_t serial;
    char channel[];
};

/* A client of this side listens to the channel; counted. */
void wish_listen(struct pool_side *side, const char *channel);
void wish_unlisten(struct pool_side *side, const char *channel);

/* Everything is listened to that was asked for before? on_heard() follows, unless PostgreSQL never
 * lets us in. */
void wish_confirm(struct pool_side *side, uint64_t ticket, uint32_t serial);

/* Of pool/herald: does it; at home. */
void wish_grant(const struct wish *wish);
