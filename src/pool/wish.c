/* Wishes on their way. Called by client/listening; calls pool/herald in the thread of its home. */
#include "pool/wish.h"

#include "base/mem.h"
#include "pool/pools.h"

static void
on_wish(void *arg)
{
    struct wish *wish = arg;

    wish_grant(wish);
    pools_part(wish->pool);
    free(wish);
}

static void
ask_home(struct pool_side *side, const struct wish *what, const char *channel)
{
    struct pool *pool = side->pool;
    struct wish *wish = mem_new(sizeof(*wish) + strlen(channel) + 1);
    unsigned hash;

    HASH_VALUE(pool->database, strlen(pool->database), hash);
    *wish = *what;
    wish->pool = pool;
    wish->from = side->worker->index;
    wish->to = (int)(hash % (unsigned)pools_count(pool->pools));
    memcpy(wish->channel, channel, strlen(channel) + 1);
    pools_hold(pool);
    if (!loop_post(pool->sides[wish->to].worker->loop, on_wish, wish)) {
        pools_part(pool);
        free(wish);
    }
}

void
wish_listen(struct pool_side *side, const char *channel)
{
    ask_home(side, &(struct wish){.kind = WISH_LISTEN}, channel);
}

void
wish_unlisten(struct pool_side *side, const char *channel)
{
    ask_home(side, &(struct wish){.kind = WISH_UNLISTEN}, channel);
}

void
wish_confirm(struct pool_side *side, uint64_t ticket, uint32_t serial)
{
    ask_home(
        side, &(struct wish){.kind = WISH_CONFIRM, .ticket = ticket, .serial = serial}, "");
}
