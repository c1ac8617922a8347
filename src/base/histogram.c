/* Reading histograms. Called by ops/; the counting itself is in the header, for speed. */
#include "base/histogram.h"

int64_t
histogram_bound_us(unsigned slot)
{
    if (slot < 4) {
        return slot + 1;
    }
    return (int64_t)(4 + slot % 4 + 1) << (slot / 4 - 1);
}

uint64_t
histogram_total(const struct histogram *histogram)
{
    return histogram_up_to(histogram, HISTOGRAM_TOP_BIT + 1);
}

uint64_t
histogram_up_to(const struct histogram *histogram, unsigned bit)
{
    uint64_t sum = 0;

    for (unsigned slot = 0; slot < (bit - 1) * 4; slot++) {
        sum += histogram->counts[slot];
    }
    return sum;
}

void
histogram_merge(struct histogram *histogram, const struct histogram *other)
{
    for (int slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        histogram->counts[slot] += other->counts[slot];
    }
}

void
histogram_subtract(struct histogram *histogram, const struct histogram *earlier)
{
    for (int slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        histogram->counts[slot] -= earlier->counts[slot];
    }
}

int64_t
histogram_quantile_us(const struct histogram *histogram, double share)
{
    double wanted = share * (double)histogram_total(histogram);
    double below = 0;

    for (unsigned slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        double count = (double)histogram->counts[slot];
        if (count > 0 && below + count >= wanted) {
            double low = slot > 0 ? (double)histogram_bound_us(slot - 1) : 0;
            double high = (double)histogram_bound_us(slot);
            double part = wanted > below ? (wanted - below) / count : 0;
            return (int64_t)(low + (high - low) * part);
        }
        below += count;
    }
    return 0;
}
