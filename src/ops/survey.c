/* Surveys. Called by ops/http once a second; reads pools and clients in their own threads, as
 * ops/gather does for the console. */
#include "ops/survey.h"

#include "base/mem.h"
#include "base/text.h"
#include "client/client.h"
#include "daemon/daemon.h"
#include "pool/endpoint.h"
#include "pool/pools.h"

/* One worker being visited. */
struct stop
{
    struct survey *survey;
    struct crowd *crowd;
};

struct survey_pool *
survey_find(const struct survey *survey, uint64_t id)
{
    struct survey_pool *found;

    HASH_FIND(hh, survey->pools, &id, sizeof(id), found);
    return found;
}

static struct survey_pool *
pool_record(struct survey *survey, const struct pool *pool)
{
    struct survey_pool *record = survey_find(survey, pool->id);

    if (record == NULL && HASH_COUNT(survey->pools) < SURVEY_POOLS_MAX) {
        record = mem_new(sizeof(*record));
        record->id = pool->id;
        record->database = mem_string(pool->database);
        record->user = mem_string(pool->user);
        HASH_ADD(hh, survey->pools, id, sizeof(record->id), record);
    }
    return record;
}

/* ---- leases ---- */

static int64_t
earlier_us(int64_t one_us, int64_t other_us)
{
    return one_us == 0 || (other_us > 0 && other_us < one_us) ? other_us : one_us;
}

/* Puts it where it belongs among the longest, if it does. */
static void
note_lease(struct survey_leases *leases, const struct client *client, int64_t since_us)
{
    const struct backend *backend = client->lease.backend;
    int at = leases->count;

    while (at > 0 && leases->all[at - 1].since_us > since_us) {
        at--;
    }
    if (at == SURVEY_LEASES) {
        return;
    }
    leases->count += leases->count < SURVEY_LEASES;
    memmove(&leases->all[at + 1], &leases->all[at],
        (size_t)(leases->count - 1 - at) * sizeof(leases->all[0]));
    struct survey_lease *lease = &leases->all[at];
    *lease = (struct survey_lease){.since_us = since_us,
        .client = client->id,
        .pid = backend->pid,
        .is_running = !replies_is_empty(&backend->replies),
        .pins = session_pins(client)};
    text_copy(lease->database, sizeof(lease->database), client->lease.side->pool->database);
    text_copy(lease->user, sizeof(lease->user), client->lease.side->pool->user);
    text_copy(lease->peer, sizeof(lease->peer), client->identity.peer);
}

static void
look_at_lease(struct survey *survey, struct survey_pool *record, const struct client *client)
{
    const struct replies *replies = &client->lease.backend->replies;
    unsigned pins = session_pins(client);
    bool is_open = client->state == CLIENT_ACTIVE &&
                   (replies->status != 'I' || !replies_is_empty(replies));

    if (is_open) {
        int64_t since_us = client->relay.transaction_us;
        record->transaction_since_us = earlier_us(record->transaction_since_us, since_us);
        note_lease(&survey->transactions, client, since_us);
    }
    for (int i = 0; i < SURVEY_PINS; i++) {
        record->pins[i] += pins >> i & 1;
    }
    if (pins != 0) {
        note_lease(&survey->pinned, client, session_pinned_since(client));
    }
}

/* ---- pools ---- */

static void
add_counts(struct pool_counts *sum, const struct pool_counts *counts)
{
    /* All members are of this type. */
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)counts;

    for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++) {
        to[i] += from[i];
    }
}

static void
add_times(struct pool_times *sum, struct pool_times *times)
{
    histogram_merge(&sum->wait, &times->wait);
    histogram_merge(&sum->query, &times->query);
    histogram_merge(&sum->transaction, &times->transaction);
    if (times->longest_wait_us > sum->longest_wait_us) {
        sum->longest_wait_us = times->longest_wait_us;
    }
    times->longest_wait_us = 0;
}

/* This worker's side of a pool, under the registry's lock. */
static void
visit_side(void *arg, struct pool *pool)
{
    const struct stop *stop = arg;
    struct pool_side *side = &pool->sides[stop->crowd->pool.index];
    struct survey_pool *record = pool_record(stop->survey, pool);
    const struct backend *backend;

    if (record == NULL) {
        return;
    }
    record->busy += (int)(side->count[BACKEND_LEASED] + side->count[BACKEND_SCRUBBING] +
                          side->count[BACKEND_TESTING]);
    record->clients += (int)side->clients;
    add_counts(&record->counts, &side->counts);
    if (side->times != NULL) {
        add_times(&record->times, side->times);
    }
    TAILQ_FOREACH(backend, &side->in[BACKEND_LEASED], link) {
        const struct lease *lease = backend->holder;
        look_at_lease(stop->survey, record,
            (const struct client *)((const char *)lease - offsetof(struct client, lease)));
    }
}

/* What is shared about a pool. */
static void
finish_pool(void *arg, struct pool *pool)
{
    struct survey_pool *record = pool_record(arg, pool);
    struct ledger_view view = ledger_look(&pool->ledger);

    if (record == NULL) {
        return;
    }
    record->endpoint = pool_endpoint(pool)->name;
    record->limit = view.limit;
    record->total = view.total;
    record->idle = view.idle;
    /* Counted a moment earlier, while it moved on. */
    record->busy = record->busy < view.total - view.idle ? record->busy : view.total - view.idle;
    record->arriving = view.arriving;
    record->waiting = view.waiting;
    record->waits_since_us = view.waiting > 0 ? view.oldest_since_us : 0;
    record->pinned = atomic_load(&pool->pinned);
    record->outage = pool_outage(pool);
}

static void
add_endpoint(void *arg, struct endpoint *endpoint, int backends)
{
    struct survey *survey = arg;

    if (survey->endpoint_count < SURVEY_ENDPOINTS_MAX) {
        survey->endpoints[survey->endpoint_count++] =
            (struct survey_endpoint){endpoint->name, endpoint_look(endpoint), backends};
    }
}

/* ---- the journey ---- */

static void travel(struct survey *survey);

static void
on_visit(void *arg)
{
    struct survey *survey = arg;
    struct crowd *crowd = daemon_crowd(survey->daemon, survey->next);
    struct stop stop = {survey, crowd};

    if (survey->settings == NULL) {
        survey->settings = settings_hold(crowd->pool.settings);
    }
    survey->clients += crowd_size(crowd);
    survey->logins += crowd->count[CLIENT_GREETING] + crowd->count[CLIENT_LOGIN] +
                      crowd->count[CLIENT_VERIFYING] + crowd->count[CLIENT_WELCOME];
    pools_each(daemon_pools(survey->daemon), visit_side, &stop);
    survey->next++;
    travel(survey);
}

static void
on_home(void *arg)
{
    struct survey *survey = arg;

    pools_each(daemon_pools(survey->daemon), finish_pool, survey);
    survey->endpoints = mem_new(SURVEY_ENDPOINTS_MAX * sizeof(*survey->endpoints));
    pools_each_endpoint(daemon_pools(survey->daemon), add_endpoint, survey);
    survey->taken_us = loop_clock_us();
    survey->done(survey->arg, survey);
}

/* To the next worker, or home after the last. */
static void
travel(struct survey *survey)
{
    bool is_over = survey->next >= daemon_worker_count(survey->daemon);
    struct loop *to =
        is_over ? survey->home : daemon_crowd(survey->daemon, survey->next)->pool.loop;

    if (!loop_post(to, is_over ? on_home : on_visit, survey)) {
        survey_free(&survey);
    }
}

void
survey_start(struct daemon *daemon, struct loop *home,
    void (*done)(void *arg, struct survey *survey), void *arg)
{
    struct survey *survey = mem_new(sizeof(*survey));

    survey->daemon = daemon;
    survey->home = home;
    survey->done = done;
    survey->arg = arg;
    travel(survey);
}

void
survey_free(struct survey **pointer)
{
    struct survey *survey = *pointer;
    struct survey_pool *pool, *next;

    *pointer = NULL;
    if (survey == NULL) {
        return;
    }
    HASH_ITER(hh, survey->pools, pool, next) {
        HASH_DEL(survey->pools, pool);
        free(pool->database);
        free(pool->user);
        free(pool);
    }
    settings_release(&survey->settings);
    free(survey->endpoints);
    free(survey);
}
