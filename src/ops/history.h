/*
 * The last fifteen minutes: for each pool a ring of slots of five seconds, and a list of incidents,
 * made from surveys as they come home. Memory is fixed for each pool, and only so many pools have
 * one. Belongs to the thread of ops/http.
 */
#pragma once

#include "ops/incident.h"
#include "ops/survey.h"

enum
{
    HISTORY_SLOT_US = 5000000,
    HISTORY_SLOTS = 180,
    HISTORY_POOLS = 64,
    HISTORY_MARKS = 4 /* states of the counts, five minutes apart */
};

enum history_share
{
    SHARE_50,
    SHARE_95,
    SHARE_99,
    SHARES
};

/* Five seconds of a pool. */
struct history_slot
{
    uint32_t query_us[SHARES], wait_us[SHARES]; /* that share of them took at most so long */
    uint32_t queries, waiting;                  /* waiting, busy: the most that a survey saw */
    uint32_t longest_wait_us;
    uint16_t busy, idle, errors, lost;
};

/* What was counted until some moment. */
struct history_mark
{
    struct pool_counts counts;
    struct histogram wait, query;
};

struct history_pool
{
    uint64_t id;
    int64_t first, last; /* serials of the slots that there are */
    struct history_slot slots[HISTORY_SLOTS];
    struct history_mark base; /* when the present slot began */
    struct history_mark marks[HISTORY_MARKS]; /* at each fifth minute, by its number */
    int64_t mark_serial;
    UT_hash_handle hh;
};

struct history
{
    struct survey *latest; /* owns; NULL before the first one */
    struct history_pool *pools; /* own */
    struct incidents incidents;
};

/* Takes the survey over: it is the latest from now on. */
void history_take(struct history *history, struct survey *survey);
void history_deinit(struct history *history);

/* The history of that pool, or NULL. */
struct history_pool *history_find(const struct history *history, uint64_t id);

/* The slot of that serial; NULL when there is none (any more). */
const struct history_slot *history_slot_at(const struct history_pool *pool, int64_t serial);

/* Waits and queries of the last ten to fifteen minutes, or of the pool's life. */
struct history_mark history_recent(
    const struct history_pool *pool, const struct survey_pool *present);
