/* Shared limits. Called by pool/ledger; calls nothing. */
#include "pool/quota.h"

#include "base/state.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

enum
{
    QUOTAS = 2
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void
quota_set_limit(struct quota *quota, int limit)
{
    pthread_mutex_lock(&mutex);
    quota->limit = limit;
    pthread_mutex_unlock(&mutex);
}

bool
quota_is_hungry(const struct share *share)
{
    return share->is_listed[0] || share->is_listed[1];
}

static void
forget_locked(struct share *share)
{
    for (int i = 0; i < QUOTAS; i++) {
        if (share->is_listed[i]) {
            LIST_REMOVE(share, links[i]);
            atomic_fetch_sub(&share->quotas[i]->hungry_count, 1);
            share->is_listed[i] = false;
        }
    }
}

static void
list_locked(struct share *share, int i, int64_t now_us)
{
    if (!share->is_listed[i]) {
        share->hungry_since_us = quota_is_hungry(share) ? share->hungry_since_us : now_us;
        LIST_INSERT_HEAD(&share->quotas[i]->hungry, share, links[i]);
        atomic_fetch_add(&share->quotas[i]->hungry_count, 1);
        share->is_listed[i] = true;
    }
}

/* Whether the other one may have room before this one. */
static bool
comes_first(const struct share *other, const struct share *share)
{
    if (other->used != share->used) {
        return other->used < share->used;
    }
    return !quota_is_hungry(share) || other->hungry_since_us < share->hungry_since_us;
}

static struct share *
next_hungry(struct share *share, int i)
{
    return LIST_NEXT(share, links[i]);
}

static bool
has_room_locked(const struct share *share, int i)
{
    const struct quota *quota = share->quotas[i];

    if (quota == NULL || quota->limit == 0) {
        return true;
    }
    bool has_room = quota->used < quota->limit;
    for (struct share *other = LIST_FIRST(&quota->hungry); other != NULL && has_room;
         other = next_hungry(other, i)) {
        has_room = other == share || !comes_first(other, share);
    }
    return has_room;
}

bool
quota_take(struct share *share, bool is_awaited, int64_t now_us)
{
    bool has_room = true;

    pthread_mutex_lock(&mutex);
    for (int i = 0; i < QUOTAS; i++) {
        if (!has_room_locked(share, i)) {
            has_room = false;
            if (is_awaited) {
                list_locked(share, i, now_us);
            }
        }
    }
    if (has_room) {
        forget_locked(share);
        share->used++;
    }
    for (int i = 0; i < QUOTAS && has_room; i++) {
        if (share->quotas[i] != NULL) {
            share->quotas[i]->used++;
        }
    }
    pthread_mutex_unlock(&mutex);
    return has_room;
}

void
quota_give_back(struct share *share)
{
    pthread_mutex_lock(&mutex);
    share->used--;
    share->leaving -= share->leaving > 0;
    for (int i = 0; i < QUOTAS; i++) {
        if (share->quotas[i] != NULL) {
            share->quotas[i]->used--;
            ensure(share->quotas[i]->used >= 0);
        }
    }
    pthread_mutex_unlock(&mutex);
}

void
quota_forget(struct share *share)
{
    if (quota_is_hungry(share)) {
        pthread_mutex_lock(&mutex);
        forget_locked(share);
        pthread_mutex_unlock(&mutex);
    }
}

bool
quota_starves_others(const struct share *share)
{
    bool starves = false;

    for (int i = 0; i < QUOTAS; i++) {
        const struct quota *quota = share->quotas[i];
        starves = starves || (quota != NULL && atomic_load_explicit(&quota->hungry_count,
                                                   memory_order_relaxed) > share->is_listed[i]);
    }
    return starves;
}

/* Whether this share has too much beside a hungry one. */
static bool
yields_to(const struct share *share, const struct share *other, struct quota *quota, int64_t now_us)
{
    int more = share->used - share->leaving - other->used;
    int64_t since_us = other->hungry_since_us > quota->turned_us ? other->hungry_since_us
                                                                 : quota->turned_us;

    if (other == share || quota->used < quota->limit || more < 1) {
        return false;
    }
    if (more == 1 && now_us - since_us < QUOTA_TURN_US) {
        return false;
    }
    quota->turned_us = more == 1 ? now_us : quota->turned_us;
    return true;
}

bool
quota_yields(struct share *share, int64_t now_us)
{
    bool yields = false;

    pthread_mutex_lock(&mutex);
    for (int i = 0; i < QUOTAS; i++) {
        struct quota *quota = share->quotas[i];
        struct share *other = quota != NULL ? LIST_FIRST(&quota->hungry) : NULL;
        for (; other != NULL && !yields; other = next_hungry(other, i)) {
            yields = yields_to(share, other, quota, now_us);
        }
    }
    share->leaving += yields;
    pthread_mutex_unlock(&mutex);
    return yields;
}
