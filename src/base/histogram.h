/*
 * How long something took, counted in slots that grow with the time: four to each doubling, so a
 * slot is never wider than a quarter of what it counts, from 1 us to 38 hours. Counting costs a few
 * instructions: no lock, no allocation, no clock. A histogram belongs to one thread; copies are
 * added up elsewhere.
 */
#pragma once

#include <stdint.h>

enum
{
    HISTOGRAM_SLOTS = 144,
    HISTOGRAM_TOP_BIT = 36 /* what is longer than 2^37 us counts as that */
};

struct histogram
{
    uint64_t counts[HISTOGRAM_SLOTS];
};

/* The slot of a time: those above the bound of the slot before and up to its own. */
static inline unsigned
histogram_slot(int64_t us)
{
    uint64_t above = us > 0 ? (uint64_t)us - 1 : 0;

    if (above < 4) {
        return (unsigned)above;
    }
    if (above >> (HISTOGRAM_TOP_BIT + 1) != 0) {
        return HISTOGRAM_SLOTS - 1;
    }
    unsigned bit = 63u - (unsigned)__builtin_clzll(above);
    return (bit - 1) * 4 + (unsigned)(above >> (bit - 2) & 3);
}

static inline void
histogram_add(struct histogram *histogram, int64_t us)
{
    histogram->counts[histogram_slot(us)]++;
}

/* The longest time that a slot counts. */
int64_t histogram_bound_us(unsigned slot);

/* How many are counted, all or those up to 2^bit us (2 to HISTOGRAM_TOP_BIT + 1). */
uint64_t histogram_total(const struct histogram *histogram);
uint64_t histogram_up_to(const struct histogram *histogram, unsigned bit);

/* Adds the counts of another one, or takes an earlier state of the same one off. */
void histogram_merge(struct histogram *histogram, const struct histogram *other);
void histogram_subtract(struct histogram *histogram, const struct histogram *earlier);

/* The time that this share of all (0 to 1) stayed below or at; within the slot it is interpolated.
 * 0 when nothing was counted. */
int64_t histogram_quantile_us(const struct histogram *histogram, double share);
