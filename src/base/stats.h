/*
 * Counters of the whole process, one per line of metrics.def. Every thread counts in a block of its
 * own, so that counting costs no contention; readers add the blocks up. Shared between all threads,
 * relaxed atomics: a sum is right for each metric by itself, not for several at one instant.
 */
#pragma once

#include "base/histogram.h"

#include <stdbool.h>
#include <stdint.h>

enum metric_kind
{
    METRIC_COUNTER, /* only grows */
    METRIC_GAUGE,   /* also shrinks: stats_add(metric, (uint64_t)-1) */
};

enum metric
{
#define METRIC(name, kind, help) METRIC_##name,
#define MEMBER(name, family, label, help) METRIC_##name,
#define TIMING(name, help)
#include "base/metrics.def"
    METRICS /* how many there are */
};

/* What is timed for the whole process; what is timed for each pool is in pool/pool.h. */
enum timing
{
#define METRIC(name, kind, help)
#define MEMBER(name, family, label, help)
#define TIMING(name, help) TIMING_##name,
#include "base/metrics.def"
    TIMINGS
};

enum
{
    SQLSTATES_MAX = 64 /* different ones that are counted; any others count as one */
};

/* A line of metrics.def. Lines with the same name follow each other and differ in their labels. */
struct metric_row
{
    const char *name;
    const char *label; /* as Prometheus writes it: row="R1"; NULL: none */
    const char *help;
    enum metric_kind kind;
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

const struct metric_row *stats_row(enum metric metric);

/* Something took so long. Any thread. */
void stats_time(enum timing timing, int64_t us);

/* What all threads timed so far, and the sum of it. Any thread. */
void stats_timed(enum timing timing, struct histogram *histogram_out, uint64_t *sum_us_out);

/* Its name and help; its kind does not count. */
const struct metric_row *stats_timing_row(enum timing timing);

/* An error with this SQLSTATE went to a client. Any thread; seldom. */
void stats_sqlstate(const char *sqlstate);

/* The i-th SQLSTATE that was counted ("other" for those that found no room) and how often; false
 * when there are no more. Any thread. */
bool stats_next_sqlstate(unsigned i, char sqlstate_out[6], uint64_t *count_out);
