/* Gathering rows and sums. Called by ops/console and ops/show; reads pools and clients. */
#include "ops/gather.h"

#include "base/mem.h"
#include "daemon/daemon.h"
#include "pool/pools.h"

#include <inttypes.h>
#include <time.h>

const struct settings *
gather_settings(const struct gather *gather)
{
    return daemon_crowd(gather->daemon, gather->home)->pool.settings;
}

/* ---- rows ---- */

size_t
gather_row(struct gather *gather)
{
    gather->column = 0;
    return message_begin_row(&gather->rows, gather->columns);
}

/* Goes on to the next column: whether it is wanted, and whether in binary format. */
static bool
next_column(struct gather *gather, bool *is_binary_out)
{
    uint16_t column = gather->column++;

    *is_binary_out = gather->formats >> column & 1;
    return column < gather->columns;
}

void
gather_text(struct gather *gather, const char *text)
{
    bool is_binary; /* text is the same in both formats */

    if (next_column(gather, &is_binary)) {
        message_row_text(&gather->rows, text);
    }
}

void
gather_int4(struct gather *gather, int64_t value)
{
    bool is_binary;

    if (!next_column(gather, &is_binary)) {
        return;
    }
    if (!is_binary) {
        message_row_integer(&gather->rows, value);
        return;
    }
    buf_add_u32(&gather->rows, 4);
    buf_add_u32(&gather->rows, (uint32_t)value);
}

void
gather_int8(struct gather *gather, int64_t value)
{
    bool is_binary;

    if (!next_column(gather, &is_binary)) {
        return;
    }
    if (!is_binary) {
        message_row_integer(&gather->rows, value);
        return;
    }
    buf_add_u32(&gather->rows, 8);
    buf_add_u32(&gather->rows, (uint32_t)((uint64_t)value >> 32));
    buf_add_u32(&gather->rows, (uint32_t)value);
}

/* numeric_send() of PostgreSQL: number of digits to the base of 10000, weight of the first, sign,
 * decimals, then the digits. */
void
gather_numeric(struct gather *gather, int64_t value)
{
    uint16_t digits[5], count = 0;
    bool is_binary;

    if (!next_column(gather, &is_binary)) {
        return;
    }
    if (!is_binary) {
        message_row_integer(&gather->rows, value);
        return;
    }
    for (; value > 0 && count < 5; value /= 10000) {
        digits[count++] = (uint16_t)(value % 10000);
    }
    buf_add_u32(&gather->rows, 8 + 2 * (uint32_t)count);
    buf_add_u16(&gather->rows, count);
    buf_add_u16(&gather->rows, count > 0 ? (uint16_t)(count - 1) : 0);
    buf_add_u32(&gather->rows, 0);
    while (count > 0) {
        buf_add_u16(&gather->rows, digits[--count]);
    }
}

void
gather_time(struct gather *gather, int64_t at_us)
{
    char text[64] = "";
    time_t seconds = time(NULL) - (time_t)((loop_clock_us() - at_us) / 1000000);
    struct tm parts;

    if (at_us > 0 && localtime_r(&seconds, &parts) != NULL) {
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %Z", &parts);
    }
    gather_text(gather, text);
}

void
gather_id(struct gather *gather, char kind, uint64_t id)
{
    char text[32] = "";

    if (id != 0) {
        snprintf(text, sizeof(text), "%c%06" PRIu64, kind, id);
    }
    gather_text(gather, text);
}

/* ---- tallies ---- */

struct tally *
gather_tally(struct gather *gather, const char *database, const char *user)
{
    struct tally **at = &gather->tallies;

    while (
        *at != NULL && (strcmp((*at)->database, database) != 0 || strcmp((*at)->user, user) != 0)) {
        at = &(*at)->next;
    }
    if (*at == NULL) {
        *at = mem_new(sizeof(struct tally));
        (*at)->database = mem_string(database);
        (*at)->user = mem_string(user);
    }
    return *at;
}

static void
tally_side(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    const struct pool_side *side = &pool->sides[visit->worker];
    const struct pool_counts *counts = &side->counts;
    struct tally *tally =
        gather_tally(visit->gather, pool->database, visit->by_database ? "" : pool->user);

    tally->n[SV_ACTIVE] += side->count[BACKEND_LEASED];
    tally->n[SV_IDLE] += side->count[BACKEND_IDLE];
    tally->n[SV_TESTED] += side->count[BACKEND_SCRUBBING] + side->count[BACKEND_TESTING];
    tally->n[ASSIGNMENTS] += (int64_t)counts->assignments;
    tally->n[TRANSACTIONS] += (int64_t)counts->transactions;
    tally->n[QUERIES] += (int64_t)counts->queries;
    tally->n[RECEIVED] += (int64_t)counts->received;
    tally->n[SENT] += (int64_t)counts->sent;
    tally->n[TRANSACTION_US] += (int64_t)counts->transaction_us;
    tally->n[QUERY_US] += (int64_t)counts->query_us;
    tally->n[WAIT_US] += (int64_t)counts->wait_us;
    tally->n[CLIENT_PARSES] += (int64_t)counts->client_parses;
    tally->n[SERVER_PARSES] += (int64_t)counts->server_parses;
    tally->n[BINDS] += (int64_t)counts->binds;
    tally->n[LOGINS] += (int64_t)counts->logins;
    if (visit->worker == 0) {
        struct ledger_view view = ledger_look(&pool->ledger);
        int64_t wait_us = view.waiting > 0 ? loop_clock_us() - view.oldest_since_us : 0;
        tally->n[SV_TOTAL] += view.total;
        /* Dials up to the answer to the first Sync; also the few that move to who waits. */
        tally->n[SV_LOGIN] += view.arriving;
        tally->n[MAX_WAIT_US] = wait_us > tally->n[MAX_WAIT_US] ? wait_us : tally->n[MAX_WAIT_US];
    }
}

static void
tally_clients(struct visit *visit, struct crowd *crowd)
{
    visit->gather->clients += crowd_size(crowd);
    visit->gather->logins += crowd->count[CLIENT_GREETING] + crowd->count[CLIENT_LOGIN] +
                             crowd->count[CLIENT_VERIFYING] + crowd->count[CLIENT_WELCOME];
    for (int state = 0; state < CLIENT_CLOSING; state++) {
        struct client *client;
        TAILQ_FOREACH(client, &crowd->in[state], link) {
            if (client->lease.side == NULL) {
                continue;
            }
            const struct pool *pool = client->lease.side->pool;
            bool waits = state == CLIENT_WAITING || state == CLIENT_WELCOME;
            gather_tally(visit->gather, pool->database, visit->by_database ? "" : pool->user)
                ->n[waits ? CL_WAITING : CL_ACTIVE]++;
        }
    }
}

void
gather_pools(struct gather *gather, struct crowd *crowd)
{
    struct visit visit = {gather, crowd->pool.index, false};

    pools_each(daemon_pools(gather->daemon), tally_side, &visit);
    tally_clients(&visit, crowd);
}

void
gather_databases(struct gather *gather, struct crowd *crowd)
{
    struct visit visit = {gather, crowd->pool.index, true};

    pools_each(daemon_pools(gather->daemon), tally_side, &visit);
    tally_clients(&visit, crowd);
}

/* ---- the journey ---- */

void
gather_free(struct gather *gather)
{
    while (gather->tallies != NULL) {
        struct tally *tally = gather->tallies;
        gather->tallies = tally->next;
        free(tally->database);
        free(tally->user);
        free(tally);
    }
    buf_deinit(&gather->rows);
    free(gather);
}

static void travel(struct gather *gather);

static void
on_visit(void *arg)
{
    struct gather *gather = arg;

    gather->show->visit(gather, daemon_crowd(gather->daemon, gather->next));
    gather->next++;
    travel(gather);
}

static void
on_home(void *arg)
{
    struct gather *gather = arg;

    if (gather->show->finish != NULL) {
        gather->show->finish(gather);
    }
    gather->done(gather);
}

/* To the next worker, or home after the last. */
static void
travel(struct gather *gather)
{
    bool is_over =
        gather->show->visit == NULL || gather->next >= daemon_worker_count(gather->daemon);
    int to = is_over ? gather->home : gather->next;
    struct loop *loop = to == GATHER_MAIN ? daemon_loop(gather->daemon)
                                          : daemon_crowd(gather->daemon, to)->pool.loop;

    if (!loop_post(loop, is_over ? on_home : on_visit, gather)) {
        gather_free(gather);
    }
}

void
gather_start(struct gather *gather)
{
    travel(gather);
}
