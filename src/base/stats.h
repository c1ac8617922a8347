/*
 * Counters of the whole process, one per line of metrics.def. Every thread counts in a block of its
 * own, so that counting costs no contention; readers add the blocks up. Shared between all threads,
 * relaxed atomics: a sum is right for each metric by itself, not for several at one instant.
 */
#pragma once

#include <stdint.h>

enum metric_kind
{
    METRIC_COUNTER, /* only grows */
    METRIC_GAUGE,   /* also shrinks: stats_add(metric, (uint64_t)-1) */
};

enum metric
{
#define METRIC(name, kind, help) METRIC_##name,
#include "base/metrics.def"
#undef METRIC
    METRICS /* how many there are */
};

/* Gives the calling thread a block of its own until stats_thread_deinit(). Without, or when there
 * are more threads than blocks, it counts in one that is shared: right, but slower. */
void stats_thread_init(void);

/* Leaves the block to the next thread; what was counted stays. */
void stats_thread_deinit(void);

/* Any thread. */
void stats_add(enum metric metric, uint64_t n);

/* What all threads counted so far. Any thread. */
uint64_t stats_sum(enum metric metric);

const char *stats_name(enum metric metric);
const char *stats_help(enum metric metric);
enum metric_kind stats_kind(enum metric metric);
