/*
 * Printing metrics. Called by ops/routes. All lines of a name stand together, as the format asks;
 * so the tables below are walked name by name, and for each name pool by pool.
 */
#include "ops/metrics.h"

#include "base/mem.h"
#include "base/stats.h"
#include "daemon/daemon.h"
#include "ops/escape.h"
#include "ops/survey.h"

#include <inttypes.h>

enum
{
    /* Bounds of histograms are powers of two of a microsecond: 64 us to 134 s. */
    FIRST_BIT = 6,
    LAST_BIT = 27
};

static void
print_head(struct buf *buf, const char *name, const char *type, const char *help)
{
    buf_print(buf, "# HELP pgkeel_%s %s\n# TYPE pgkeel_%s %s\n", name, help, name, type);
}

/* labels: with their braces but for the last one, or "". */
static void
print_histogram(struct buf *buf, const char *name, const char *labels,
    const struct histogram *histogram, uint64_t sum_us)
{
    const char *opening = labels[0] != '\0' ? labels : "{";
    const char *comma = labels[0] != '\0' ? "," : "";
    const char *closing = labels[0] != '\0' ? "}" : "";
    uint64_t total = histogram_total(histogram);

    for (unsigned bit = FIRST_BIT; bit <= LAST_BIT; bit++) {
        buf_print(buf, "pgkeel_%s_bucket%s%sle=\"%.9g\"} %" PRIu64 "\n", name, opening, comma,
            (double)(1u << bit) / 1e6, histogram_up_to(histogram, bit));
    }
    buf_print(buf, "pgkeel_%s_bucket%s%sle=\"+Inf\"} %" PRIu64 "\n", name, opening, comma, total);
    buf_print(buf, "pgkeel_%s_sum%s%s %.6f\n", name, labels, closing, (double)sum_us / 1e6);
    buf_print(buf, "pgkeel_%s_count%s%s %" PRIu64 "\n", name, labels, closing, total);
}

/* ---- the process ---- */

static void
print_counters(struct buf *buf)
{
    static const char *const types[] = {
        [METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge"};

    for (enum metric metric = 0; metric < METRICS; metric++) {
        const struct metric_row *row = stats_row(metric);
        if (row->help[0] != '\0') {
            print_head(buf, row->name, types[row->kind], row->help);
        }
        buf_print(buf, "pgkeel_%s", row->name);
        if (row->label != NULL) {
            buf_print(buf, "{%s}", row->label);
        }
        buf_print(buf, " %" PRIu64 "\n", stats_sum(metric));
    }
}

static void
print_timings(struct buf *buf)
{
    for (enum timing timing = 0; timing < TIMINGS; timing++) {
        const struct metric_row *row = stats_timing_row(timing);
        struct histogram histogram;
        uint64_t sum_us;
        stats_timed(timing, &histogram, &sum_us);
        print_head(buf, row->name, "histogram", row->help);
        print_histogram(buf, row->name, "", &histogram, sum_us);
    }
}

static void
print_sqlstates(struct buf *buf)
{
    char sqlstate[6];
    uint64_t count;

    print_head(buf, "client_errors_total", "counter",
        "Errors that pgkeel itself sent to clients, by SQLSTATE.");
    for (unsigned i = 0; stats_next_sqlstate(i, sqlstate, &count); i++) {
        buf_print(buf, "pgkeel_client_errors_total{sqlstate=\"");
        escape_label(buf, sqlstate);
        buf_print(buf, "\"} %" PRIu64 "\n", count);
    }
}

static void
print_gauge(struct buf *buf, const char *name, const char *help, double value)
{
    print_head(buf, name, "gauge", help);
    buf_print(buf, "pgkeel_%s %.15g\n", name, value);
}

static void
print_process(struct buf *buf, struct daemon *daemon, const struct survey *survey)
{
    int64_t now_us = loop_clock_us();

    print_head(buf, "info", "gauge", "The version that runs.");
    buf_print(buf, "pgkeel_info{version=\"" PGKEEL_VERSION "\"} 1\n");
    print_gauge(buf, "uptime_seconds", "Time since the start.",
        (double)(now_us - daemon_started_at_us(daemon)) / 1e6);
    print_gauge(buf, "ready", "1 while new clients are taken; 0 from the beginning of the end.",
        daemon_is_serving(daemon));
    print_gauge(buf, "clients_max", "Most clients at a time (max_client_conn).",
        (double)atomic_load(&daemon_crowd(daemon, 0)->crowds->max_client_conn));
    print_head(buf, "loop_tick_age_seconds", "gauge", "Time since the loop of a thread last ran.");
    buf_print(buf, "pgkeel_loop_tick_age_seconds{loop=\"main\"} %.6f\n",
        (double)(now_us - loop_ticked_at_us(daemon_loop(daemon))) / 1e6);
    for (int i = 0; i < daemon_worker_count(daemon); i++) {
        buf_print(buf, "pgkeel_loop_tick_age_seconds{loop=\"%d\"} %.6f\n", i,
            (double)(now_us - loop_ticked_at_us(daemon_crowd(daemon, i)->pool.loop)) / 1e6);
    }
    if (survey != NULL) {
        print_gauge(buf, "clients", "Connections of clients.", (double)survey->clients);
        print_gauge(
            buf, "clients_logging_in", "Those that log in just now.", (double)survey->logins);
        print_gauge(buf, "survey_age_seconds", "Age of the numbers about pools and endpoints.",
            (double)(now_us - survey->taken_us) / 1e6);
    }
}

/* ---- endpoints ---- */

static double
endpoint_up(const struct survey_endpoint *endpoint)
{
    return !endpoint_is_failing(&endpoint->view);
}

static double
endpoint_backends(const struct survey_endpoint *endpoint)
{
    return endpoint->backends;
}

static double
endpoint_logins(const struct survey_endpoint *endpoint)
{
    return endpoint->view.logins;
}

static double
endpoint_attempts(const struct survey_endpoint *endpoint)
{
    return endpoint->view.attempts;
}

static double
endpoint_failures(const struct survey_endpoint *endpoint)
{
    return (double)endpoint->view.failures;
}

static const struct
{
    const char *name, *type, *help;
    double (*value)(const struct survey_endpoint *endpoint);
} endpoint_metrics[] = {
    {"endpoint_up", "gauge", "1 while PostgreSQL answers there; 0 while attempts fail.",
        endpoint_up},
    {"endpoint_backends", "gauge", "Connections to it that can serve.", endpoint_backends},
    {"endpoint_logins", "gauge", "Attempts to connect to it that are under way.", endpoint_logins},
    {"endpoint_attempts", "gauge", "Attempts that failed in a row.", endpoint_attempts},
    {"endpoint_failures_total", "counter", "Attempts that failed.", endpoint_failures},
};

static void
print_endpoints(struct buf *buf, const struct survey *survey)
{
    for (size_t i = 0; i < sizeof(endpoint_metrics) / sizeof(endpoint_metrics[0]); i++) {
        print_head(buf, endpoint_metrics[i].name, endpoint_metrics[i].type,
            endpoint_metrics[i].help);
        for (int at = 0; at < survey->endpoint_count; at++) {
            const struct survey_endpoint *endpoint = &survey->endpoints[at];
            buf_print(buf, "pgkeel_%s{endpoint=\"", endpoint_metrics[i].name);
            escape_label(buf, endpoint->name);
            buf_print(buf, "\"} %.15g\n", endpoint_metrics[i].value(endpoint));
        }
    }
}

/* ---- pools ---- */

/* Where a number of pools comes from, what it is called. */
enum source
{
    FROM_INT,
    FROM_COUNT, /* uint64_t */
    FROM_SINCE, /* int64_t, a moment or 0; printed as an age */
    FROM_BOOL,
};

static const struct pool_metric
{
    const char *name, *type, *help;
    enum source source;
    size_t offset; /* in struct survey_pool */
} pool_metrics[] = {
#define AT(member) offsetof(struct survey_pool, member)
    {"pool_limit", "gauge", "Most server connections of the pool; 0: no limit.", FROM_INT,
        AT(limit)},
    {"pool_servers", "gauge", "Server connections, those that come and go included.", FROM_INT,
        AT(total)},
    {"pool_busy", "gauge", "Server connections that serve a client or are being cleaned.",
        FROM_INT, AT(busy)},
    {"pool_idle", "gauge", "Server connections that nobody uses.", FROM_INT, AT(idle)},
    {"pool_connecting", "gauge", "Server connections that are on their way.", FROM_INT,
        AT(arriving)},
    {"pool_waiting", "gauge", "Clients that wait for a server connection.", FROM_INT, AT(waiting)},
    {"pool_clients", "gauge", "Clients that are logged in.", FROM_INT, AT(clients)},
    {"pool_pinned", "gauge", "Clients that keep a server connection beyond a transaction.",
        FROM_INT, AT(pinned)},
    {"pool_down", "gauge", "1 while there is no server connection and the last attempt failed.",
        FROM_BOOL, AT(outage.is_down)},
    {"pool_oldest_wait_seconds", "gauge", "How long the first of those who wait has waited.",
        FROM_SINCE, AT(waits_since_us)},
    {"pool_oldest_transaction_seconds", "gauge", "Age of the oldest open transaction.",
        FROM_SINCE, AT(transaction_since_us)},
    {"pool_leases_total", "counter", "Times a client was given a server connection.", FROM_COUNT,
        AT(counts.assignments)},
    {"pool_transactions_total", "counter", "Transactions that ended.", FROM_COUNT,
        AT(counts.transactions)},
    {"pool_queries_total", "counter", "Requests that PostgreSQL answered.", FROM_COUNT,
        AT(counts.queries)},
    {"pool_received_bytes_total", "counter", "Bytes received from clients.", FROM_COUNT,
        AT(counts.received)},
    {"pool_sent_bytes_total", "counter", "Bytes sent to clients.", FROM_COUNT, AT(counts.sent)},
    {"pool_logins_total", "counter", "Clients that logged in.", FROM_COUNT, AT(counts.logins)},
    {"pool_errors_total", "counter",
        "Errors of pgkeel's that clients saw because there was no server connection.", FROM_COUNT,
        AT(counts.errors)},
    {"pool_retries_total", "counter",
        "Requests sent to another server connection because theirs was lost.", FROM_COUNT,
        AT(counts.moved)},
    {"pool_lost_total", "counter", "Server connections that were found dead.", FROM_COUNT,
        AT(counts.lost)},
    {"pool_client_parses_total", "counter", "Statements that clients prepared.", FROM_COUNT,
        AT(counts.client_parses)},
    {"pool_server_parses_total", "counter", "Statements that PostgreSQL was asked to prepare.",
        FROM_COUNT, AT(counts.server_parses)},
};

static const struct
{
    const char *name, *help;
    size_t histogram, sum; /* in struct survey_pool */
} pool_timings[] = {
    {"pool_wait_seconds", "Wait of clients for a server connection; most leases need none.",
        AT(times.wait), AT(counts.wait_us)},
    {"pool_query_seconds", "Time from a request to the end of its answer.", AT(times.query),
        AT(counts.query_us)},
    {"pool_transaction_seconds", "Time from the beginning of a transaction to its end.",
        AT(times.transaction), AT(counts.transaction_us)},
#undef AT
};

enum
{
    POOL_METRICS = sizeof(pool_metrics) / sizeof(pool_metrics[0]),
    POOL_TIMINGS = sizeof(pool_timings) / sizeof(pool_timings[0])
};

static double
number_of(const struct survey_pool *pool, const struct pool_metric *metric, int64_t now_us)
{
    const char *at = (const char *)pool + metric->offset;

    switch (metric->source) {
    case FROM_INT:
        return *(const int *)at;
    case FROM_COUNT:
        return (double)*(const uint64_t *)at;
    case FROM_SINCE:
        return *(const int64_t *)at > 0 ? (double)(now_us - *(const int64_t *)at) / 1e6 : 0;
    case FROM_BOOL:
        return *(const bool *)at;
    }
    return 0;
}

/* Adds what one metric says of a pool to the pool that stands for many. */
static void
add_number(
    struct survey_pool *rest, const struct survey_pool *pool, const struct pool_metric *metric)
{
    char *to = (char *)rest + metric->offset;
    const char *from = (const char *)pool + metric->offset;

    switch (metric->source) {
    case FROM_INT:
        *(int *)to += *(const int *)from;
        break;
    case FROM_COUNT:
        *(uint64_t *)to += *(const uint64_t *)from;
        break;
    case FROM_SINCE: {
        int64_t since_us = *(const int64_t *)from, *oldest_us = (int64_t *)to;
        *oldest_us = *oldest_us == 0 || (since_us > 0 && since_us < *oldest_us) ? since_us
                                                                               : *oldest_us;
        break;
    }
    case FROM_BOOL:
        *(bool *)to = *(bool *)to || *(const bool *)from;
        break;
    }
}

static void
add_to_rest(struct survey_pool *rest, const struct survey_pool *pool)
{
    for (int i = 0; i < POOL_METRICS; i++) {
        add_number(rest, pool, &pool_metrics[i]);
    }
    for (int i = 0; i < POOL_TIMINGS; i++) {
        *(uint64_t *)((char *)rest + pool_timings[i].sum) +=
            *(const uint64_t *)((const char *)pool + pool_timings[i].sum);
        histogram_merge((struct histogram *)((char *)rest + pool_timings[i].histogram),
            (const struct histogram *)((const char *)pool + pool_timings[i].histogram));
    }
    for (int i = 0; i < SURVEY_PINS; i++) {
        rest->pins[i] += pool->pins[i];
    }
}

/* What is printed: pools with labels, and one for the rest. */
struct lines
{
    const struct survey_pool *pools[METRICS_POOLS + 1]; /* borrow */
    char *labels[METRICS_POOLS + 1]; /* own: {database="app",user="ann" */
    int count;
    struct survey_pool rest;
};

static void
add_line(struct lines *lines, const struct survey_pool *pool)
{
    struct buf buf = {0};

    buf_print(&buf, "{database=\"");
    escape_label(&buf, pool->database);
    buf_print(&buf, "\",user=\"");
    escape_label(&buf, pool->user);
    buf_add(&buf, "\"", 2);
    lines->labels[lines->count] = mem_string((const char *)buf_head(&buf));
    lines->pools[lines->count++] = pool;
    buf_deinit(&buf);
}

static void
print_pins(struct buf *buf, const struct lines *lines)
{
    char word[64];

    print_head(buf, "pool_pins", "gauge", "Clients that keep a server connection, by reason.");
    for (int at = 0; at < lines->count; at++) {
        for (int i = 0; i < SURVEY_PINS; i++) {
            session_pin_words(1u << i, word, sizeof(word));
            buf_print(buf, "pgkeel_pool_pins%s,reason=\"%s\"} %d\n", lines->labels[at], word,
                lines->pools[at]->pins[i]);
        }
    }
}

static void
print_lines(struct buf *buf, const struct lines *lines, int64_t now_us)
{
    for (int i = 0; i < POOL_METRICS; i++) {
        const struct pool_metric *metric = &pool_metrics[i];
        print_head(buf, metric->name, metric->type, metric->help);
        for (int at = 0; at < lines->count; at++) {
            buf_print(buf, "pgkeel_%s%s} %.15g\n", metric->name, lines->labels[at],
                number_of(lines->pools[at], metric, now_us));
        }
    }
    print_pins(buf, lines);
    for (int i = 0; i < POOL_TIMINGS; i++) {
        print_head(buf, pool_timings[i].name, "histogram", pool_timings[i].help);
        for (int at = 0; at < lines->count; at++) {
            const char *pool = (const char *)lines->pools[at];
            print_histogram(buf, pool_timings[i].name, lines->labels[at],
                (const struct histogram *)(pool + pool_timings[i].histogram),
                *(const uint64_t *)(pool + pool_timings[i].sum));
        }
    }
}

static void
print_pools(struct buf *buf, const struct survey *survey)
{
    struct lines *lines = mem_new(sizeof(*lines));
    static char none[] = "";

    for (struct survey_pool *pool = survey->pools; pool != NULL; pool = pool->hh.next) {
        if (lines->count < METRICS_POOLS) {
            add_line(lines, pool);
        } else {
            add_to_rest(&lines->rest, pool);
        }
    }
    if (HASH_COUNT(survey->pools) > METRICS_POOLS) {
        lines->rest.database = lines->rest.user = none;
        add_line(lines, &lines->rest);
    }
    print_lines(buf, lines, survey->taken_us);
    for (int at = 0; at < lines->count; at++) {
        free(lines->labels[at]);
    }
    free(lines);
}

void
metrics_print(struct buf *buf, struct daemon *daemon, const struct survey *survey)
{
    print_process(buf, daemon, survey);
    print_counters(buf);
    print_timings(buf);
    print_sqlstates(buf);
    if (survey != NULL) {
        print_endpoints(buf, survey);
        print_pools(buf, survey);
    }
}
