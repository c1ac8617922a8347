/*
 * What each database did in the last stats_period: main takes the sums of all workers once a
 * period, keeps the differences for SHOW STATS, and logs a line of them (log_stats). Shared, under
 * a mutex.
 */
#pragma once

struct daemon;
struct tally;

/* Main thread, before any client. */
void averages_init(struct daemon *daemon);

/* Of the database of these totals (NULL: of all together), per second, and times per transaction,
 * query and lease. Before the first period is over: since the start, of the totals. Any thread. */
void averages_of(const struct tally *totals, struct tally *average_out);
