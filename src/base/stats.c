/*
 * Counters. A block belongs to one thread at a time, which is then the only one to write there: a
 * relaxed load and store do, without a locked instruction. Blocks outlive their threads, so nothing
 * is ever moved and a reader needs no lock.
 */
#include "base/stats.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum
{
    BLOCKS = 256,
    CACHE_LINE = 64
};

struct block
{
    _Alignas(CACHE_LINE) _Atomic uint64_t counts[METRICS];
    atomic_bool is_taken;
};

struct row
{
    const char *name;
    const char *help;
    enum metric_kind kind;
};

static const struct row rows[METRICS] = {
#define METRIC(name, kind, help) [METRIC_##name] = {#name, help, METRIC_##kind},
#include "base/metrics.def"
#undef METRIC
};

static struct block blocks[BLOCKS]; /* shared; one per thread */
static struct block common;         /* shared; of threads without a block */
static _Thread_local struct block *own;

void
stats_thread_init(void)
{
    for (size_t i = 0; own == NULL && i < BLOCKS; i++) {
        /* Acquire: what the thread before us stored in the block is what we go on from. */
        if (!atomic_exchange_explicit(&blocks[i].is_taken, true, memory_order_acquire)) {
            own = &blocks[i];
        }
    }
}

void
stats_thread_deinit(void)
{
    if (own != NULL) {
        atomic_store_explicit(&own->is_taken, false, memory_order_release);
        own = NULL;
    }
}

void
stats_add(enum metric metric, uint64_t n)
{
    if (own == NULL) {
        atomic_fetch_add_explicit(&common.counts[metric], n, memory_order_relaxed);
        return;
    }
    uint64_t count = atomic_load_explicit(&own->counts[metric], memory_order_relaxed);
    atomic_store_explicit(&own->counts[metric], count + n, memory_order_relaxed);
}

uint64_t
stats_sum(enum metric metric)
{
    uint64_t sum = atomic_load_explicit(&common.counts[metric], memory_order_relaxed);

    for (size_t i = 0; i < BLOCKS; i++) {
        sum += atomic_load_explicit(&blocks[i].counts[metric], memory_order_relaxed);
    }
    return sum;
}

const char *
stats_name(enum metric metric)
{
    return rows[metric].name;
}

const char *
stats_help(enum metric metric)
{
    return rows[metric].help;
}

enum metric_kind
stats_kind(enum metric metric)
{
    return rows[metric].kind;
}
