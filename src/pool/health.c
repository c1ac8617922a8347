/*
 * Checks, suspicions and TCP's acknowledgements. Called by pool/pool (before a backend is used, and
 * when it is idle for long), pool/scrub (what came of a check), pool/backend (reports) and the
 * worker's tick; calls scrub_check(), pool_offer(), backend_close() and backend_abort().
 *
 * A suspicion is a number that is compared when it matters: nobody walks through lists of other
 * threads. A client never waits for a dead backend: the ledger counts on a check for PATIENCE_US
 * only, then whoever waits gets another source.
 */
#include "pool/health.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "pool/outage.h"
#include "pool/pools.h"
#include "pool/scrub.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

enum
{
    PATIENCE_US = LOOP_TICK_US, /* answers take less than a millisecond */
    LOOK_US = 1000000,          /* how often acknowledgements are looked at, at most */
    LOOKS = 8,                  /* and so often within server_dead_timeout */
    CRASH_US = LOOP_TICK_US,    /* siblings of one that crashed are dead after this long */
    RESENT_MIN = 2,             /* as often something must have been sent again, in vain */
};

/* ---- trust ---- */

static uint32_t
suspicions_now(const struct backend *backend)
{
    const struct pool_side *side = backend->side;

    return side->worker->health.gaps +
           atomic_load_explicit(&side->pool->health.suspicions, memory_order_relaxed);
}

void
health_proved(struct backend *backend, bool is_used)
{
    backend->health.trust = suspicions_now(backend);
    backend->health.proved_us = loop_now_us(backend->side->worker->loop);
    if (is_used) {
        backend->health.used_us = backend->health.proved_us;
    }
}

bool
health_is_doubtful(const struct backend *backend)
{
    const struct pool_side *side = backend->side;
    int64_t crashed_us =
        atomic_load_explicit(&side->pool->health.crashed_us, memory_order_relaxed);

    return crashed_us > backend->opened_us &&
           loop_now_us(side->worker->loop) - crashed_us < CRASH_US;
}

bool
health_needs_check(const struct backend *backend)
{
    const struct pool_worker *worker = backend->side->worker;

    return health_is_doubtful(backend) || backend->health.trust != suspicions_now(backend) ||
           loop_now_us(worker->loop) - backend->health.proved_us >=
               worker->settings->server_check_delay;
}

int64_t
health_check_due_us(const struct backend *backend)
{
    const struct backend_health *health = &backend->health;
    int64_t interval_us = backend->side->worker->settings->server_ping_interval;

    /* Between 75 and 95 %: a tick may come late, and then it is still within the interval. */
    int64_t percent =
        75 + (int64_t)((backend->id * 7919 + (uint64_t)health->proved_us / 1000) % 21);
    return interval_us > 0 ? health->proved_us + interval_us / 100 * percent : 0;
}

/* ---- checks ---- */

static void
stop_expecting(struct backend *backend)
{
    if (backend->health.is_expected) {
        backend->health.is_expected = false;
        ledger_checked(&backend->side->pool->ledger);
    }
}

/* Takes a backend whose check failed out of the pool. Who waited for it gets another first, so that
 * a dial is the last resort. */
static void
bury_checked(struct backend *backend, const struct fail *fail, bool is_silent)
{
    struct pool_side *side = backend->side;

    stats_add(METRIC_server_check_failures_total, 1);
    pool_log(LEVEL_WARN, side, "dead connection removed from pool (%s)", fail->text);
    stop_expecting(backend);
    health_note_death(backend, fail);
    pool_seek(side);
    if (is_silent) {
        backend_abort(backend);
    } else {
        backend_close(backend, NULL);
    }
}

static void
on_check_deadline(struct deadline *deadline)
{
    struct backend *backend =
        (struct backend *)((char *)deadline - offsetof(struct backend, deadline));
    struct pool_worker *worker = backend->side->worker;
    int64_t limit_us = worker->settings->server_check_timeout;
    int64_t left_us = backend->state_since_us + limit_us - loop_now_us(worker->loop);
    struct fail fail;

    if (left_us > 0) {
        deadline_start(deadline, worker->loop, left_us, on_check_deadline);
        stop_expecting(backend);
        pool_seek(backend->side);
        return;
    }
    fail_set(&fail, "08006", "no answer to a check within %gs", (double)limit_us / 1e6);
    bury_checked(backend, &fail, true);
}

void
health_check(struct backend *backend, bool is_expected)
{
    struct pool_worker *worker = backend->side->worker;
    int64_t limit_us = worker->settings->server_check_timeout;
    bool is_patient = !is_expected || limit_us < PATIENCE_US;

    deadline_stop(&backend->deadline);
    backend_become(backend, BACKEND_TESTING);
    backend->health.is_expected = is_expected;
    stats_add(METRIC_server_checks_total, 1);
    deadline_start(
        &backend->deadline, worker->loop, is_patient ? limit_us : PATIENCE_US, on_check_deadline);
    scrub_check(backend);
}

static void
on_check_again(struct deadline *deadline)
{
    struct backend *backend =
        (struct backend *)((char *)deadline - offsetof(struct backend, deadline));
    struct pool_worker *worker = backend->side->worker;

    deadline_start(deadline, worker->loop, worker->settings->server_check_timeout,
        on_check_deadline);
    scrub_check(backend);
}

void
health_passed(struct backend *backend)
{
    stop_expecting(backend);
    if (health_is_doubtful(backend)) {
        deadline_start(
            &backend->deadline, backend->side->worker->loop, CRASH_US, on_check_again);
        pool_seek(backend->side);
        return;
    }
    pool_offer(backend);
}

void
health_failed(struct backend *backend, const struct fail *fail)
{
    bury_checked(backend, fail, false);
}

/* ---- suspicions ---- */

void
health_suspect(struct pool *pool, const char *why)
{
    atomic_fetch_add_explicit(&pool->health.suspicions, 1, memory_order_relaxed);
    stats_add(METRIC_server_suspicions_total, 1);
    pool_log(LEVEL_DEBUG, &pool->sides[0],
        "idle server connections are checked before their next use (%s)", why);
}

struct suspicion
{
    struct endpoint *endpoint; /* where the backend was that died */
    const char *why;
    int64_t now_us;
};

/* Called under the registry's mutex. */
static void
suspect_same_endpoint(void *arg, struct pool *pool)
{
    const struct suspicion *suspicion = arg;

    if (pool_endpoint(pool) == suspicion->endpoint) {
        atomic_store(&pool->health.suspected_us, suspicion->now_us);
        health_suspect(pool, suspicion->why);
    }
}

/* Whether this is worth doing: cooldown_us have passed since *last, or it never was. Only one of
 * several threads that come at once is told so. */
static bool
is_due_again(_Atomic int64_t *last, int64_t now_us, int64_t cooldown_us)
{
    int64_t last_us = atomic_load(last);

    return (last_us == 0 || now_us - last_us >= cooldown_us) &&
           atomic_compare_exchange_strong(last, &last_us, now_us);
}

/* Called under the registry's mutex. */
static void
doubt_same_endpoint(void *arg, struct pool *pool)
{
    const struct suspicion *suspicion = arg;

    if (pool_endpoint(pool) == suspicion->endpoint) {
        atomic_store(&pool->health.crashed_us, suspicion->now_us);
    }
}

static void
suspect_endpoint(struct pool_side *side, const char *why, bool is_crash)
{
    struct pool *pool = side->pool;
    int64_t cooldown_us = side->worker->settings->pool_recreate_cooldown;
    struct suspicion suspicion = {pool_endpoint(pool), why, loop_now_us(side->worker->loop)};

    outage_shaken(pool);
    if (is_crash) {
        pools_each(pool->pools, doubt_same_endpoint, &suspicion);
    }
    if (is_due_again(&pool->health.suspected_us, suspicion.now_us, cooldown_us)) {
        pools_each(pool->pools, suspect_same_endpoint, &suspicion);
    }
}

void
health_note_death(const struct backend *backend, const struct fail *fail)
{
    bool is_crash = backend->last_fail == NULL && strcmp(fail->sqlstate, "08006") == 0;

    if (!backend->duty.is_retired) {
        stats_add(METRIC_server_dead_total, 1);
        backend->side->counts.lost++;
    }
    suspect_endpoint(backend->side, fail->text, is_crash);
}

/* ---- read-only ---- */

/* What a backend reports (since PostgreSQL 14), and what its pool must have asked for to be
 * concerned: libpq's target_session_attrs. */
static const struct
{
    const char *name;
    bool concerns_primary; /* else only read-write */
    bool is_clients;       /* a client can change it for its own session */
} roles[] = {
    {"in_hot_standby", true, false},
    {"default_transaction_read_only", false, true},
};

void
health_demoted(struct backend *backend, const char *how)
{
    enum
    {
        ONE_EVENT_US = 5000000
    };
    struct pool_side *side = backend->side;
    int64_t now_us = loop_now_us(side->worker->loop);

    backend->duty.is_retired = true;
    /* Each backend of the pool says so; it is one event. */
    if (is_due_again(&side->pool->health.demoted_us, now_us, ONE_EVENT_US)) {
        pool_log(LEVEL_WARN, side, "primary \"%s:%s\" became read-only (%s)", backend_host(backend),
            backend_port(backend), how);
        suspect_endpoint(side, how, false);
    }
}

void
health_note_parameter(struct backend *backend, const char *name, const char *value)
{
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(name, roles[i].name) != 0 || strcmp(value, "on") != 0) {
            continue;
        }
        const struct pool_side *side = backend->side;
        const char *wanted =
            settings_session_attributes(side->worker->settings, side->pool->database);
        bool is_primary = strcmp(wanted, "primary") == 0 && roles[i].concerns_primary;
        if (!is_primary && strcmp(wanted, "read-write") != 0) {
            continue;
        }
        if (roles[i].is_clients && backend->state == BACKEND_LEASED) {
            /* Perhaps only this client's own wish; an idle one will tell. */
            backend->duty.is_retired = true;
            continue;
        }
        char how[64];
        snprintf(how, sizeof(how), "%s=on", name);
        health_demoted(backend, how);
    }
}

/* ---- busy backends ---- */

/* The backend will not answer any more: its stream ends now, and whoever holds it reads that. What
 * had come before stays readable. */
static void
give_up(struct backend *backend, int64_t after_us)
{
    struct backend_health *health = &backend->health;

    health->death = mem_new(sizeof(*health->death));
    fail_set(health->death, "08006", "no acknowledgement for %gs", (double)after_us / 1e6);
    backend->stream.error = ETIMEDOUT;
    shutdown(backend->stream.watch.fd, SHUT_RDWR);
    stream_want_read(&backend->stream, true);
    watch_trigger(&backend->stream.watch, WATCH_READ);
}

/* A live peer acknowledges whatever is sent, also while it does not read: then its window is zero
 * and it answers probes. So it is dead when something is under way, was sent again in vain and
 * nothing at all was heard for the time allowed. That something is under way counts from when it
 * was first seen: the silence of a connection that had nothing to say tells nothing. */
static void
look_at(struct backend *backend, int64_t now_us, int64_t since_us)
{
    struct backend_health *health = &backend->health;
    int64_t limit_us = backend->side->worker->settings->server_dead_timeout;
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);

    if (health->death != NULL ||
        getsockopt(backend->stream.watch.fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
        return; /* known already, or a unix socket */
    }
    uint32_t heard_ms = info.tcpi_last_ack_recv < info.tcpi_last_data_recv
                            ? info.tcpi_last_ack_recv
                            : info.tcpi_last_data_recv;
    bool is_under_way = info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0;
    if (!is_under_way || health->unheard_us < since_us ||
        now_us - (int64_t)heard_ms * 1000 > health->unheard_us) {
        health->unheard_us = is_under_way ? now_us : 0;
        health->unheard_at = info.tcpi_total_retrans;
        return;
    }
    bool was_in_vain = info.tcpi_total_retrans - health->unheard_at >= RESENT_MIN ||
                       info.tcpi_probes >= RESENT_MIN;
    if (was_in_vain && now_us - health->unheard_us >= limit_us) {
        give_up(backend, limit_us);
    }
}

/* Called under the registry's mutex: nothing here calls back before the loop's next turn. */
static void
look_at_side(void *arg, struct pool *pool)
{
    static const enum backend_state busy[] = {BACKEND_LEASED, BACKEND_SCRUBBING};
    const struct pool_worker *worker = arg;
    struct pool_side *side = &pool->sides[worker->index];
    int64_t now_us = loop_now_us(worker->loop);
    struct backend *backend;

    for (size_t i = 0; i < sizeof(busy) / sizeof(busy[0]); i++) {
        TAILQ_FOREACH(backend, &side->in[busy[i]], link) {
            int64_t since_us = backend->state_since_us;
            look_at(backend, now_us,
                since_us > worker->health.gap_us ? since_us : worker->health.gap_us);
        }
    }
}

void
health_tick(struct pool_worker *worker)
{
    int64_t now_us = loop_now_us(worker->loop);
    int64_t every_us = worker->settings->server_dead_timeout / LOOKS;

    every_us = every_us < LOOK_US ? every_us : LOOK_US;
    if (every_us > 0 && now_us - worker->health.looked_us >= every_us) {
        worker->health.looked_us = now_us;
        pools_each(worker->pools, look_at_side, worker);
    }
}

void
health_note_gap(struct pool_worker *worker, int64_t gap_us)
{
    worker->health.gaps++;
    worker->health.gap_us = loop_now_us(worker->loop);
    log_warn("worker %d stood still for %.1fs (frozen or suspended): its idle server connections "
             "are checked before their next use",
        worker->index, (double)gap_us / 1e6);
}
