/* Averages. Called by main's tick and by ops/totals; calls ops/gather. */
#include "ops/averages.h"

#include "base/log.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "ops/gather.h"

#include <inttypes.h>
#include <pthread.h>

static struct daemon *the_daemon; /* set once, before any client */
static bool is_sampling;          /* main's: a gathering is under way */
static int64_t sampled_us;        /* main's: when the last one came back; 0: never */
static struct tally *last;        /* main's, owns: what it brought */

static struct
{
    pthread_mutex_t mutex;
    struct tally *differences; /* owns: of the last period */
    int64_t period_us;         /* its length; 0: none is over yet */
} shared = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void
free_tallies(struct tally **list)
{
    while (*list != NULL) {
        struct tally *tally = *list;
        *list = tally->next;
        free(tally->database);
        free(tally->user);
        free(tally);
    }
}

static const struct tally *
find(const struct tally *list, const char *database)
{
    while (list != NULL && strcmp(list->database, database) != 0) {
        list = list->next;
    }
    return list;
}

/* ---- what an average is ---- */

static void
divide(const struct tally *sums, int64_t period_us, struct tally *average)
{
    static const enum tally_number per_item[TALLY_NUMBERS] = {
        [TRANSACTION_US] = TRANSACTIONS, [QUERY_US] = QUERIES, [WAIT_US] = ASSIGNMENTS};
    int64_t seconds = (period_us + 500000) / 1000000;

    *average = (struct tally){.database = NULL};
    for (int i = 0; i < TALLY_NUMBERS; i++) {
        int64_t divisor = per_item[i] != 0 ? sums->n[per_item[i]] : seconds > 0 ? seconds : 1;
        average->n[i] = divisor > 0 ? sums->n[i] / divisor : 0;
    }
}

static void
add_up(const struct tally *list, struct tally *sum)
{
    for (; list != NULL; list = list->next) {
        for (int i = 0; i < TALLY_NUMBERS; i++) {
            sum->n[i] += list->n[i];
        }
    }
}

void
averages_of(const struct tally *totals, struct tally *average_out)
{
    struct tally sum = {.database = NULL};
    const struct tally *found;

    pthread_mutex_lock(&shared.mutex);
    int64_t period_us = shared.period_us;
    if (totals->database == NULL) {
        add_up(shared.differences, &sum);
    } else if ((found = find(shared.differences, totals->database)) != NULL) {
        memcpy(sum.n, found->n, sizeof(sum.n));
    }
    pthread_mutex_unlock(&shared.mutex);
    if (period_us == 0) {
        divide(totals, loop_clock_us() - daemon_started_at_us(the_daemon), average_out);
    } else {
        divide(&sum, period_us, average_out);
    }
}

/* ---- once a period ---- */

/* What was done since the last sample. A pool that was forgotten meanwhile took its numbers along.
 */
static struct tally *
subtract(const struct tally *now, const struct tally *before)
{
    struct tally *list = NULL;

    for (; now != NULL; now = now->next) {
        const struct tally *old = find(before, now->database);
        struct tally *made = mem_new(sizeof(*made));
        made->database = mem_string(now->database);
        for (int i = 0; i < TALLY_NUMBERS; i++) {
            int64_t difference = now->n[i] - (old != NULL ? old->n[i] : 0);
            made->n[i] = difference > 0 ? difference : 0;
        }
        made->next = list;
        list = made;
    }
    return list;
}

static void
log_line(void)
{
    struct tally average;

    averages_of(&(struct tally){.database = NULL}, &average);
    log_info("stats: %" PRId64 " xacts/s, %" PRId64 " queries/s, in %" PRId64 " B/s, out %" PRId64
             " B/s, xact %" PRId64 " us, query %" PRId64 " us, wait %" PRId64 " us",
        average.n[TRANSACTIONS], average.n[QUERIES], average.n[RECEIVED], average.n[SENT],
        average.n[TRANSACTION_US], average.n[QUERY_US], average.n[WAIT_US]);
}

static void
on_sampled(struct gather *gather)
{
    int64_t now_us = loop_clock_us();
    int64_t since_us = sampled_us > 0 ? sampled_us : daemon_started_at_us(the_daemon);

    pthread_mutex_lock(&shared.mutex);
    free_tallies(&shared.differences);
    shared.differences = subtract(gather->tallies, last);
    shared.period_us = now_us - since_us;
    pthread_mutex_unlock(&shared.mutex);
    free_tallies(&last);
    last = gather->tallies;
    gather->tallies = NULL;
    gather_free(gather);
    sampled_us = now_us;
    is_sampling = false;
    if (daemon_settings(the_daemon)->log_stats) {
        log_line();
    }
}

static void
on_tick(void *arg)
{
    static const struct show sample = {.name = "averages", .visit = gather_databases};
    int64_t since_us = sampled_us > 0 ? sampled_us : daemon_started_at_us(the_daemon);

    (void)arg;
    if (is_sampling ||
        loop_clock_us() - since_us < daemon_settings(the_daemon)->stats_period) {
        return;
    }
    struct gather *gather = mem_new(sizeof(*gather));
    gather->show = &sample;
    gather->daemon = the_daemon;
    gather->home = GATHER_MAIN;
    gather->done = on_sampled;
    is_sampling = true;
    gather_start(gather);
}

void
averages_init(struct daemon *daemon)
{
    the_daemon = daemon;
    loop_on_tick(daemon_loop(daemon), on_tick, NULL);
}
