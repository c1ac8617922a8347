/* The rings. Called by ops/http with each survey, read by ops/status. */
#include "ops/history.h"

#include "base/mem.h"

enum
{
    MARK_SLOTS = 60 /* from one mark to the next */
};

static const double shares[SHARES] = {0.5, 0.95, 0.99};

struct history_pool *
history_find(const struct history *history, uint64_t id)
{
    struct history_pool *found;

    HASH_FIND(hh, history->pools, &id, sizeof(id), found);
    return found;
}

const struct history_slot *
history_slot_at(const struct history_pool *pool, int64_t serial)
{
    bool is_there = serial >= pool->first && serial <= pool->last;

    return is_there ? &pool->slots[serial % HISTORY_SLOTS] : NULL;
}

static struct history_mark
mark_of(const struct survey_pool *pool)
{
    return (struct history_mark){pool->counts, pool->times.wait, pool->times.query};
}

/* A place for a pool that has none: a new one, or that of one whose last slot is out of sight. */
static struct history_pool *
find_place(struct history *history, int64_t serial)
{
    struct history_pool *pool, *next;

    if (HASH_COUNT(history->pools) < HISTORY_POOLS) {
        return mem_new(sizeof(*pool));
    }
    HASH_ITER(hh, history->pools, pool, next) {
        if (pool->last <= serial - HISTORY_SLOTS) {
            HASH_DEL(history->pools, pool);
            memset(pool, 0, sizeof(*pool));
            return pool;
        }
    }
    return NULL;
}

static uint16_t
small(int64_t value)
{
    return (uint16_t)(value < 0 ? 0 : value > UINT16_MAX ? UINT16_MAX : value);
}

static uint32_t
medium(int64_t value)
{
    return (uint32_t)(value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : value);
}

/* The slots up to this serial begin empty. before: the survey before, or NULL. */
static void
advance(struct history_pool *pool, int64_t serial, const struct survey_pool *before)
{
    int64_t oldest = serial - HISTORY_SLOTS + 1;
    int64_t next = pool->last + 1 > oldest ? pool->last + 1 : oldest;

    for (; next <= serial; next++) {
        memset(&pool->slots[next % HISTORY_SLOTS], 0, sizeof(pool->slots[0]));
    }
    pool->last = serial;
    pool->first = pool->first > oldest ? pool->first : oldest;
    if (before != NULL) {
        pool->base = mark_of(before);
    }
    if (serial / MARK_SLOTS != pool->mark_serial) {
        pool->mark_serial = serial / MARK_SLOTS;
        pool->marks[pool->mark_serial % HISTORY_MARKS] = pool->base;
    }
}

/* The present slot, by what was counted since it began. */
static void
fill(struct history_pool *pool, const struct survey_pool *now, int64_t now_us)
{
    struct history_slot *slot = &pool->slots[pool->last % HISTORY_SLOTS];
    struct histogram query = now->times.query, wait = now->times.wait;
    int64_t waited_us = now->waits_since_us > 0 ? now_us - now->waits_since_us : 0;

    waited_us = now->times.longest_wait_us > waited_us ? now->times.longest_wait_us : waited_us;
    histogram_subtract(&query, &pool->base.query);
    histogram_subtract(&wait, &pool->base.wait);
    for (int i = 0; i < SHARES; i++) {
        slot->query_us[i] = medium(histogram_quantile_us(&query, shares[i]));
        slot->wait_us[i] = medium(histogram_quantile_us(&wait, shares[i]));
    }
    slot->queries = medium((int64_t)(now->counts.queries - pool->base.counts.queries));
    slot->errors = small((int64_t)(now->counts.errors - pool->base.counts.errors));
    slot->lost = small((int64_t)(now->counts.lost - pool->base.counts.lost));
    if (small(now->busy) >= slot->busy) { /* both at the same moment: they add up */
        slot->busy = small(now->busy);
        slot->idle = small(now->idle);
    }
    slot->waiting = medium(now->waiting) > slot->waiting ? medium(now->waiting) : slot->waiting;
    slot->longest_wait_us =
        medium(waited_us) > slot->longest_wait_us ? medium(waited_us) : slot->longest_wait_us;
}

static void
take_pool(struct history *history, const struct survey_pool *now, int64_t now_us)
{
    struct history_pool *pool = history_find(history, now->id);
    int64_t serial = now_us / HISTORY_SLOT_US;

    if (pool == NULL) {
        pool = find_place(history, serial);
        if (pool == NULL) {
            return;
        }
        pool->id = now->id;
        pool->first = serial;
        pool->last = serial;
        pool->mark_serial = serial / MARK_SLOTS;
        HASH_ADD(hh, history->pools, id, sizeof(pool->id), pool);
    } else if (serial > pool->last) {
        advance(pool, serial,
            history->latest != NULL ? survey_find(history->latest, now->id) : NULL);
    }
    fill(pool, now, now_us);
}

void
history_take(struct history *history, struct survey *survey)
{
    struct survey_pool *pool, *next;

    HASH_ITER(hh, survey->pools, pool, next) {
        take_pool(history, pool, survey->taken_us);
    }
    incidents_take(&history->incidents, history->latest, survey);
    survey_free(&history->latest);
    history->latest = survey;
}

struct history_mark
history_recent(const struct history_pool *pool, const struct survey_pool *present)
{
    /* The oldest mark that is kept; before the pool's beginning there was nothing. */
    int64_t oldest = pool->mark_serial - 2;
    struct history_mark recent = mark_of(present);

    if (oldest * MARK_SLOTS > pool->first) {
        const struct history_mark *since = &pool->marks[oldest % HISTORY_MARKS];
        histogram_subtract(&recent.wait, &since->wait);
        histogram_subtract(&recent.query, &since->query);
    }
    return recent;
}

void
history_deinit(struct history *history)
{
    struct history_pool *pool, *next;

    HASH_ITER(hh, history->pools, pool, next) {
        HASH_DEL(history->pools, pool);
        free(pool);
    }
    survey_free(&history->latest);
}
