/* Counting ends of backends. Called by pool/backend. */
#include "pool/reason.h"

#include "base/stats.h"

#include <string.h>

/* What is counted as the reason: by the words of the log, else by whose wish it was. */
static enum metric
metric_of(const struct fail *fail)
{
    static const struct
    {
        const char *words;
        enum metric metric;
    } reasons[] = {
        {"server_idle_timeout is over", METRIC_server_closes_idle_total},
        {"server_lifetime is over", METRIC_server_closes_age_total},
        {"too old", METRIC_server_closes_age_total},
        {"another pool needs its place", METRIC_server_closes_limit_total},
        {"the pool is larger", METRIC_server_closes_limit_total},
    };

    for (size_t i = 0; fail != NULL && i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (strncmp(fail->text, reasons[i].words, strlen(reasons[i].words)) == 0) {
            return reasons[i].metric;
        }
    }
    bool is_ours = fail != NULL && strcmp(fail->sqlstate, "57P01") == 0 && !fail->is_verbatim;
    return is_ours ? METRIC_server_closes_retired_total : METRIC_server_closes_lost_total;
}

void
reason_count(const struct fail *fail)
{
    stats_add(metric_of(fail), 1);
}
