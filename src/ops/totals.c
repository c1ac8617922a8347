/* Statistics as rows. Called by ops/show through its table; calls ops/averages. */
#include "ops/totals.h"

#include "ops/averages.h"
#include "ops/columns.h"
#include "ops/gather.h"

const struct message_column stats_columns[STATS_COLUMNS] = {TEXT("database"),
    NUMERIC("total_server_assignment_count"), NUMERIC("total_xact_count"),
    NUMERIC("total_query_count"), NUMERIC("total_received"), NUMERIC("total_sent"),
    NUMERIC("total_xact_time"), NUMERIC("total_query_time"), NUMERIC("total_wait_time"),
    NUMERIC("total_client_parse_count"), NUMERIC("total_server_parse_count"),
    NUMERIC("total_bind_count"), NUMERIC("total_client_login_count"),
    NUMERIC("avg_server_assignment_count"), NUMERIC("avg_xact_count"), NUMERIC("avg_query_count"),
    NUMERIC("avg_recv"), NUMERIC("avg_sent"), NUMERIC("avg_xact_time"), NUMERIC("avg_query_time"),
    NUMERIC("avg_wait_time"), NUMERIC("avg_client_parse_count"), NUMERIC("avg_server_parse_count"),
    NUMERIC("avg_bind_count"), NUMERIC("avg_client_login_count")};

const struct message_column totals_columns[TOTALS_COLUMNS] = {TEXT("database"),
    NUMERIC("server_assignment_count"), NUMERIC("xact_count"), NUMERIC("query_count"),
    NUMERIC("bytes_received"), NUMERIC("bytes_sent"), NUMERIC("xact_time"), NUMERIC("query_time"),
    NUMERIC("wait_time"), NUMERIC("client_parse_count"), NUMERIC("server_parse_count"),
    NUMERIC("bind_count"), NUMERIC("client_login_count")};

const struct message_column averages_columns[TOTALS_COLUMNS] = {TEXT("database"),
    NUMERIC("server_assignment_count"), NUMERIC("xact_count"), NUMERIC("query_count"),
    NUMERIC("bytes_received"), NUMERIC("bytes_sent"), NUMERIC("xact_time"), NUMERIC("query_time"),
    NUMERIC("wait_time"), NUMERIC("avg_client_parse_count"), NUMERIC("avg_server_parse_count"),
    NUMERIC("avg_bind_count"), NUMERIC("avg_client_login_count")};

const struct message_column sum_columns[SUM_COLUMNS] = {TEXT("name"), NUMERIC("value")};

/* In the order of all these columns; the names are those of SHOW TOTALS. */
static const struct
{
    enum tally_number number;
    const char *total, *average;
} statistics[] = {
    {ASSIGNMENTS, "total_server_assignment_count", "avg_server_assignment_count"},
    {TRANSACTIONS, "total_xact_count", "avg_xact_count"},
    {QUERIES, "total_query_count", "avg_query_count"},
    {RECEIVED, "total_client_bytes", "avg_client_bytes"},
    {SENT, "total_server_bytes", "avg_server_bytes"},
    {TRANSACTION_US, "total_xact_time", "avg_xact_time"},
    {QUERY_US, "total_query_time", "avg_query_time"},
    {WAIT_US, "total_wait_time", "avg_wait_time"},
    {CLIENT_PARSES, "total_ps_client_parse_count", "avg_ps_client_parse_count"},
    {SERVER_PARSES, "total_ps_server_parse_count", "avg_ps_server_parse_count"},
    {BINDS, "total_ps_bind_count", "avg_ps_bind_count"},
    {LOGINS, "total_client_login_count", "avg_client_login_count"},
};

enum
{
    STATISTICS = sizeof(statistics) / sizeof(statistics[0])
};

static void
add_totals(struct gather *gather, const struct tally *tally)
{
    for (int i = 0; i < STATISTICS; i++) {
        gather_numeric(gather, tally->n[statistics[i].number]);
    }
}

static void
add_averages(struct gather *gather, const struct tally *tally)
{
    struct tally average;

    averages_of(tally, &average);
    add_totals(gather, &average);
}

static void
add_rows(struct gather *gather, bool has_totals, bool has_averages)
{
    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        size_t row = gather_row(gather);
        gather_text(gather, tally->database);
        if (has_totals) {
            add_totals(gather, tally);
        }
        if (has_averages) {
            add_averages(gather, tally);
        }
        message_end(&gather->rows, row);
    }
}

void
stats_finish(struct gather *gather)
{
    add_rows(gather, true, true);
}

void
totals_finish(struct gather *gather)
{
    add_rows(gather, true, false);
}

void
averages_finish(struct gather *gather)
{
    add_rows(gather, false, true);
}

static void
add_sum(struct gather *gather, const char *name, int64_t value)
{
    size_t row = gather_row(gather);

    gather_text(gather, name);
    gather_numeric(gather, value);
    message_end(&gather->rows, row);
}

/* Over all databases. */
void
sums_finish(struct gather *gather)
{
    struct tally sum = {.database = NULL}, average;

    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        for (int i = 0; i < TALLY_NUMBERS; i++) {
            sum.n[i] += tally->n[i];
        }
    }
    averages_of(&sum, &average);
    for (int i = 0; i < STATISTICS; i++) {
        add_sum(gather, statistics[i].total, sum.n[statistics[i].number]);
    }
    for (int i = 0; i < STATISTICS; i++) {
        add_sum(gather, statistics[i].average, average.n[statistics[i].number]);
    }
}
