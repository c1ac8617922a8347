/* Status as JSON. Called by ops/routes. Times are milliseconds since 1970 where they name a moment
 * (..._ms), else as their name says. */
#include "ops/status.h"

#include "base/stats.h"
#include "client/session.h"
#include "daemon/daemon.h"
#include "ops/escape.h"
#include "ops/history.h"

#include <inttypes.h>
#include <time.h>

/* What is being printed. */
struct page
{
    struct buf *buf;
    const struct history *history;
    int64_t since;
    int64_t now_us;     /* loop_clock_us() */
    int64_t now_ms;     /* since 1970 */
};

static int64_t
wall_ms(const struct page *page, int64_t at_us)
{
    return page->now_ms - (page->now_us - at_us) / 1000;
}

static void
add_text(const struct page *page, const char *name, const char *value)
{
    buf_print(page->buf, ",\"%s\":", name);
    escape_json(page->buf, value);
}

static void
add_number(const struct page *page, const char *name, int64_t value)
{
    buf_print(page->buf, ",\"%s\":%" PRId64, name, value);
}

/* A moment; null when it never was. */
static void
add_moment(const struct page *page, const char *name, int64_t at_us)
{
    if (at_us > 0) {
        add_number(page, name, wall_ms(page, at_us));
    } else {
        add_text(page, name, NULL);
    }
}

/* ---- the process ---- */

static void
print_process(const struct page *page, struct daemon *daemon)
{
    static const struct
    {
        const char *name;
        enum metric metric;
    } totals[] = {{"logins", METRIC_client_logins_total}, {"queries", METRIC_queries_total},
        {"lost", METRIC_server_dead_total}, {"unknown", METRIC_requests_unknown_total},
        {"refused_transactions", METRIC_requests_lost_total},
        {"gave_up", METRIC_lease_wait_timeouts_total}};
    const struct survey *survey = page->history->latest;
    uint64_t moved = 0;

    buf_print(page->buf, "\"now_ms\":%" PRId64, page->now_ms);
    add_text(page, "version", PGKEEL_VERSION);
    add_moment(page, "started_ms", daemon_started_at_us(daemon));
    add_moment(page, "surveyed_ms", survey != NULL ? survey->taken_us : 0);
    add_number(page, "is_ready", daemon_is_serving(daemon));
    add_number(page, "clients", survey != NULL ? survey->clients : 0);
    add_number(page, "clients_max",
        atomic_load(&daemon_crowd(daemon, 0)->crowds->max_client_conn));
    for (size_t i = 0; i < sizeof(totals) / sizeof(totals[0]); i++) {
        add_number(page, totals[i].name, (int64_t)stats_sum(totals[i].metric));
    }
    for (enum metric row = METRIC_retries_unread_total; row <= METRIC_retries_reads_total; row++) {
        moved += stats_sum(row);
    }
    add_number(page, "moved", (int64_t)moved);
    add_number(page, "slot_ms", HISTORY_SLOT_US / 1000);
    add_number(page, "slots", HISTORY_SLOTS);
    add_number(page, "slot", page->now_us / HISTORY_SLOT_US);
}

/* ---- endpoints ---- */

static void
print_endpoint(const struct page *page, const struct survey_endpoint *endpoint)
{
    const struct endpoint_view *view = &endpoint->view;
    bool is_failing = endpoint_is_failing(view);

    buf_print(page->buf, "{\"name\":");
    escape_json(page->buf, endpoint->name);
    add_text(page, "state", endpoint_state_name(view->state));
    add_moment(page, "since_ms", is_failing ? view->since_us : 0);
    add_moment(page, "retry_ms", is_failing ? view->retry.at_us : 0);
    add_number(page, "attempts", view->attempts);
    add_text(page, "error", view->fail.sqlstate[0] != '\0' ? view->fail.text : NULL);
    add_number(page, "logins", view->logins);
    add_number(page, "backends", endpoint->backends);
    add_number(page, "failures", (int64_t)view->failures);
    add_number(page, "downs", (int64_t)view->down_total);
    buf_add_u8(page->buf, '}');
}

/* ---- pools ---- */

static void
print_shares(const struct page *page, const char *name, const struct histogram *histogram)
{
    buf_print(page->buf, ",\"%s\":[%" PRId64 ",%" PRId64 ",%" PRId64 "]", name,
        histogram_quantile_us(histogram, 0.5), histogram_quantile_us(histogram, 0.95),
        histogram_quantile_us(histogram, 0.99));
}

/* Slots as rows of numbers: busy, idle, waiting, queries, errors, lost, longest wait, three of the
 * query time and three of the wait. */
static void
print_slots(const struct page *page, const struct history_pool *pool)
{
    int64_t serial = page->since > pool->first ? page->since : pool->first;

    add_number(page, "slots_from", serial);
    buf_print(page->buf, ",\"slots\":[");
    for (int64_t at = serial; at <= pool->last; at++) {
        const struct history_slot *slot = history_slot_at(pool, at);
        const uint32_t *query = slot->query_us, *wait = slot->wait_us;
        buf_print(page->buf, "%s[%u,%u,%u,%u,%u,%u,%u", at > serial ? "," : "", slot->busy,
            slot->idle, slot->waiting, slot->queries, slot->errors, slot->lost,
            slot->longest_wait_us);
        buf_print(page->buf, ",%u,%u,%u,%u,%u,%u]", query[SHARE_50], query[SHARE_95],
            query[SHARE_99], wait[SHARE_50], wait[SHARE_95], wait[SHARE_99]);
    }
    buf_add_u8(page->buf, ']');
}

static void
print_pins(const struct page *page, const struct survey_pool *pool)
{
    const char *comma = "";
    char word[64];

    buf_print(page->buf, ",\"pins\":{");
    for (int i = 0; i < SURVEY_PINS; i++) {
        if (pool->pins[i] > 0) {
            session_pin_words(1u << i, word, sizeof(word));
            buf_print(page->buf, "%s\"%s\":%d", comma, word, pool->pins[i]);
            comma = ",";
        }
    }
    buf_add_u8(page->buf, '}');
}

static void
print_pool(const struct page *page, const struct survey_pool *pool)
{
    const struct history_pool *past = history_find(page->history, pool->id);
    const struct outage *outage = &pool->outage;

    buf_print(page->buf, "{\"id\":%" PRIu64, pool->id);
    add_text(page, "database", pool->database);
    add_text(page, "user", pool->user);
    add_text(page, "endpoint", pool->endpoint);
    add_text(page, "state", outage->is_down ? "down" : outage->is_busy ? "full" : "up");
    add_text(page, "error", outage->attempts > 0 ? outage->fail.text : NULL);
    add_number(page, "limit", pool->limit);
    add_number(page, "total", pool->total);
    add_number(page, "busy", pool->busy);
    add_number(page, "idle", pool->idle);
    add_number(page, "connecting", pool->arriving);
    add_number(page, "waiting", pool->waiting);
    add_number(page, "clients", pool->clients);
    add_number(page, "pinned", pool->pinned);
    print_pins(page, pool);
    add_moment(page, "waits_since_ms", pool->waits_since_us);
    add_moment(page, "transaction_since_ms", pool->transaction_since_us);
    add_number(page, "queries", (int64_t)pool->counts.queries);
    add_number(page, "transactions", (int64_t)pool->counts.transactions);
    add_number(page, "errors", (int64_t)pool->counts.errors);
    add_number(page, "moved", (int64_t)pool->counts.moved);
    add_number(page, "lost", (int64_t)pool->counts.lost);
    if (past != NULL) {
        struct history_mark recent = history_recent(past, pool);
        print_shares(page, "query_us", &recent.query);
        print_shares(page, "wait_us", &recent.wait);
        print_slots(page, past);
    }
    buf_add_u8(page->buf, '}');
}

/* ---- who holds, what happened ---- */

static void
print_lease(const struct page *page, const struct survey_lease *lease)
{
    char words[160];

    session_pin_words(lease->pins, words, sizeof(words));
    buf_print(page->buf, "{\"client\":%" PRIu64, lease->client);
    add_text(page, "database", lease->database);
    add_text(page, "user", lease->user);
    add_text(page, "peer", lease->peer);
    add_number(page, "pid", lease->pid);
    add_number(page, "is_running", lease->is_running);
    add_moment(page, "since_ms", lease->since_us);
    add_text(page, "pins", words);
    buf_add_u8(page->buf, '}');
}

static void
print_leases(const struct page *page, const char *name, const struct survey_leases *leases)
{
    buf_print(page->buf, "],\"%s\":[", name);
    for (int i = 0; i < leases->count; i++) {
        buf_print(page->buf, "%s", i > 0 ? "," : "");
        print_lease(page, &leases->all[i]);
    }
}

static void
print_incident(const struct page *page, const struct incident *incident)
{
    const struct toll *toll = &incident->toll;

    buf_print(page->buf, "{\"subject\":");
    escape_json(page->buf, incident->subject);
    add_text(page, "reason", incident->reason);
    add_moment(page, "began_ms", incident->began_us);
    add_moment(page, "ended_ms", incident->ended_us);
    add_number(page, "errors", (int64_t)toll->errors);
    add_number(page, "moved", (int64_t)toll->moved);
    add_number(page, "lost", (int64_t)toll->lost);
    add_number(page, "waiting", toll->waiting);
    add_number(page, "longest_wait_us", toll->longest_wait_us);
    buf_add_u8(page->buf, '}');
}

static void
print_survey(const struct page *page, const struct survey *survey)
{
    const struct incident *incident;
    int listed = 0;

    add_number(page, "pools_total", HASH_COUNT(survey->pools));
    buf_print(page->buf, ",\"endpoints\":[");
    for (int i = 0; i < survey->endpoint_count; i++) {
        buf_print(page->buf, "%s", i > 0 ? "," : "");
        print_endpoint(page, &survey->endpoints[i]);
    }
    buf_print(page->buf, "],\"pools\":[");
    for (struct survey_pool *pool = survey->pools; pool != NULL && listed < STATUS_POOLS;
         pool = pool->hh.next) {
        buf_print(page->buf, "%s", listed++ > 0 ? "," : "");
        print_pool(page, pool);
    }
    print_leases(page, "longest", &survey->transactions);
    print_leases(page, "pinned", &survey->pinned);
    buf_print(page->buf, "],\"incidents\":[");
    for (uint64_t i = 0; (incident = incidents_at(&page->history->incidents, i)) != NULL; i++) {
        buf_print(page->buf, "%s", i > 0 ? "," : "");
        print_incident(page, incident);
    }
    buf_print(page->buf, "]");
}

void
status_print(struct buf *buf, struct daemon *daemon, const struct history *history, int64_t since)
{
    static const struct survey nothing; /* before the first one came home */
    struct timespec wall;
    struct page page = {.buf = buf, .history = history, .since = since};

    clock_gettime(CLOCK_REALTIME, &wall);
    page.now_us = loop_clock_us();
    page.now_ms = (int64_t)wall.tv_sec * 1000 + wall.tv_nsec / 1000000;
    buf_print(buf, "{");
    print_process(&page, daemon);
    print_survey(&page, history->latest != NULL ? history->latest : &nothing);
    buf_print(buf, "}\n");
}
