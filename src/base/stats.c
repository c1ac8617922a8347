/*
 * Counters. A block belongs to one thread at a time, which is then the only one to write there: a
 * relaxed load and store do, without a locked instruction. Blocks outlive their threads, so nothing
 * is ever moved and a reader needs no lock.
 */
#include "base/stats.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum
{
    BLOCKS = 256,
    CACHE_LINE = 64
};

struct times
{
    _Atomic uint64_t slots[HISTOGRAM_SLOTS];
    _Atomic uint64_t sum_us;
};

struct block
{
    _Alignas(CACHE_LINE) _Atomic uint64_t counts[METRICS];
    struct times times[TIMINGS];
    atomic_bool is_taken;
};

static const struct metric_row rows[METRICS] = {
#define METRIC(name, kind, help) [METRIC_##name] = {#name, NULL, help, METRIC_##kind},
#define MEMBER(name, family, label, help) [METRIC_##name] = {#family, label, help, METRIC_COUNTER},
#define TIMING(name, help)
#include "base/metrics.def"
};

static const struct metric_row timing_rows[TIMINGS] = {
#define METRIC(name, kind, help)
#define MEMBER(name, family, label, help)
#define TIMING(name, help) [TIMING_##name] = {#name, NULL, help, METRIC_COUNTER},
#include "base/metrics.def"
};

static struct block blocks[BLOCKS]; /* shared; one per thread */
static struct block common;         /* shared; of threads without a block */

/* SQLSTATEs in the order in which they came, and one for all without room; shared, atomics. */
static struct
{
    _Atomic uint64_t name; /* five characters; 0: free */
    _Atomic uint64_t count;
} sqlstates[SQLSTATES_MAX + 1];

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

/* One thread writes what is its own; several write what is common. */
static void
add(_Atomic uint64_t *count, uint64_t n)
{
    if (own == NULL) {
        atomic_fetch_add_explicit(count, n, memory_order_relaxed);
        return;
    }
    uint64_t before = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, before + n, memory_order_relaxed);
}

static struct block *
own_or_common(void)
{
    return own != NULL ? own : &common;
}

void
stats_add(enum metric metric, uint64_t n)
{
    add(&own_or_common()->counts[metric], n);
}

/* The i-th block; the common one is the last. */
static struct block *
block_at(size_t i)
{
    return i < BLOCKS ? &blocks[i] : &common;
}

uint64_t
stats_sum(enum metric metric)
{
    uint64_t sum = 0;

    for (size_t i = 0; i <= BLOCKS; i++) {
        sum += atomic_load_explicit(&block_at(i)->counts[metric], memory_order_relaxed);
    }
    return sum;
}

const struct metric_row *
stats_row(enum metric metric)
{
    return &rows[metric];
}

/* ---- times ---- */

void
stats_time(enum timing timing, int64_t us)
{
    struct times *times = &own_or_common()->times[timing];

    add(&times->slots[histogram_slot(us)], 1);
    add(&times->sum_us, us > 0 ? (uint64_t)us : 0);
}

void
stats_timed(enum timing timing, struct histogram *histogram_out, uint64_t *sum_us_out)
{
    *histogram_out = (struct histogram){{0}};
    *sum_us_out = 0;
    for (size_t i = 0; i <= BLOCKS; i++) {
        const struct times *times = &block_at(i)->times[timing];
        *sum_us_out += atomic_load_explicit(&times->sum_us, memory_order_relaxed);
        for (int slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
            histogram_out->counts[slot] +=
                atomic_load_explicit(&times->slots[slot], memory_order_relaxed);
        }
    }
}

const struct metric_row *
stats_timing_row(enum timing timing)
{
    return &timing_rows[timing];
}

/* ---- SQLSTATEs ---- */

void
stats_sqlstate(const char *sqlstate)
{
    uint64_t name = 0;
    int i = 0;

    memcpy(&name, sqlstate, strnlen(sqlstate, 5));
    for (; i < SQLSTATES_MAX; i++) {
        uint64_t found = 0;
        if (atomic_compare_exchange_strong(&sqlstates[i].name, &found, name) || found == name) {
            break;
        }
    }
    atomic_fetch_add_explicit(&sqlstates[i].count, 1, memory_order_relaxed);
}

bool
stats_next_sqlstate(unsigned i, char sqlstate_out[6], uint64_t *count_out)
{
    if (i > SQLSTATES_MAX || (i < SQLSTATES_MAX && atomic_load(&sqlstates[i].name) == 0)) {
        return false;
    }
    uint64_t name = atomic_load(&sqlstates[i].name);
    memcpy(sqlstate_out, i == SQLSTATES_MAX ? "other" : (const char *)&name, 6);
    *count_out = atomic_load_explicit(&sqlstates[i].count, memory_order_relaxed);
    return true;
}
