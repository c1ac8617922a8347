/*
 * SHOW STATS and its kin: what each database has done since the start, and on the average of the
 * last stats_period. The sums are ops/gather's, the averages ops/averages'.
 */
#pragma once

#include "wire/message.h"

struct gather;

enum
{
    STATS_COLUMNS = 25,
    TOTALS_COLUMNS = 13,
    SUM_COLUMNS = 2
};

extern const struct message_column stats_columns[STATS_COLUMNS];
extern const struct message_column totals_columns[TOTALS_COLUMNS];
extern const struct message_column averages_columns[TOTALS_COLUMNS];
extern const struct message_column sum_columns[SUM_COLUMNS];

void stats_finish(struct gather *gather);
void totals_finish(struct gather *gather);
void averages_finish(struct gather *gather);
void sums_finish(struct gather *gather);
