/*
 * Idle backends of one side: in which order they are used, what ends them, when something is due
 * for them. Called by pool/pool and by backend events; calls pool/health for checks.
 */
#include "pool/idle.h"

#include "base/stats.h"
#include "pool/pools.h"

#include <stdatomic.h>

bool
idle_is_unwanted(const struct backend *backend)
{
    const struct pool *pool = backend->side->pool;

    return backend->duty.is_retired ||
           backend->generation != atomic_load_explicit(&pool->generation, memory_order_relaxed);
}

bool
idle_is_outdated(const struct backend *backend)
{
    return idle_is_unwanted(backend) ||
           (backend->expires_us > 0 &&
               loop_now_us(backend->side->worker->loop) > backend->expires_us);
}

void
idle_close(struct backend *backend, const char *why)
{
    struct pool_side *side = backend->side;
    struct fail fail;

    if (!ledger_take_idle(&side->pool->ledger, side->worker->index)) {
        return; /* promised to another worker, which will find out */
    }
    fail_set(&fail, "57P01", "%s", why);
    backend_close(backend, &fail);
}

static void on_deadline(struct deadline *deadline);

/* The earlier of two moments, of which 0 never comes. */
static int64_t
earlier(int64_t one_us, int64_t other_us)
{
    return one_us == 0 || (other_us != 0 && other_us < one_us) ? other_us : one_us;
}

/* When something is due for an idle backend. What was due and could not be done is due again in a
 * while. */
static void
arm(struct backend *backend)
{
    struct loop *loop = backend->side->worker->loop;
    int64_t now_us = loop_now_us(loop);
    int64_t idle_us = backend->side->worker->settings->server_idle_timeout;
    int64_t end_us = idle_us > 0 ? backend->health.used_us + idle_us : 0;

    if (end_us > 0 && end_us <= now_us) {
        end_us = now_us + idle_us;
    }
    int64_t due_us = earlier(earlier(end_us, health_check_due_us(backend)),
        backend->expires_us > 0 ? backend->expires_us + 1 : 0);
    int64_t delay_us = due_us > now_us ? due_us - now_us : LOOP_TICK_US;
    deadline_start(&backend->deadline, loop, due_us > 0 ? delay_us : 0, on_deadline);
}

static void
on_deadline(struct deadline *deadline)
{
    struct backend *backend =
        (struct backend *)((char *)deadline - offsetof(struct backend, deadline));
    struct pool_side *side = backend->side;
    const struct settings *settings = side->worker->settings;
    int64_t now_us = loop_now_us(side->worker->loop);
    int64_t check_us = health_check_due_us(backend);

    arm(backend);
    if (idle_is_outdated(backend)) {
        idle_close(backend, "server_lifetime is over");
        return;
    }
    int64_t idle_us = now_us - backend->health.used_us;
    bool is_warm = ledger_look(&side->pool->ledger).total <=
                   settings_min_pool_size(settings, side->pool->database);
    if (settings->server_idle_timeout > 0 && idle_us >= settings->server_idle_timeout && !is_warm) {
        idle_close(backend, "server_idle_timeout is over");
    } else if (check_us > 0 && now_us >= check_us &&
               ledger_take_idle(&side->pool->ledger, side->worker->index)) {
        health_check(backend, false);
    }
}

/* One that was not idle before has just answered somebody. */
void
idle_start(struct backend *backend)
{
    if (backend->state != BACKEND_IDLE) {
        health_proved(backend, backend->state != BACKEND_TESTING);
    }
    backend_become(backend, BACKEND_IDLE);
    arm(backend);
}

static void
rearm_side(void *arg, struct pool *pool)
{
    const struct pool_worker *worker = arg;
    struct backend *backend;

    TAILQ_FOREACH(backend, &pool->sides[worker->index].in[BACKEND_IDLE], link) {
        arm(backend);
    }
}

void
idle_reload(struct pool_worker *worker)
{
    pools_each(worker->pools, rearm_side, worker);
}

static void
log_dead(struct backend *backend)
{
    struct fail fail;

    backend_loss(backend, &fail);
    pool_log(LEVEL_WARN, backend->side, "dead connection removed from pool (%s)", fail.text);
    health_note_death(backend, &fail);
}

void
idle_died(struct backend *backend)
{
    struct pool_side *side = backend->side;

    log_dead(backend);
    /* When it was promised already, the worker that asked finds nothing and is told so. */
    (void)ledger_take_idle(&side->pool->ledger, side->worker->index);
    backend_close(backend, NULL);
}

void
idle_retired(struct backend *backend)
{
    idle_close(backend, "retired");
}

/* The next idle backend in the order of use: the first that needs no check, else the first. */
static struct backend *
next_in_order(struct pool_side *side)
{
    bool is_fifo = side->worker->settings->server_round_robin;
    struct backend_list *idle = &side->in[BACKEND_IDLE];
    struct backend *first = is_fifo ? TAILQ_LAST(idle, backend_list) : TAILQ_FIRST(idle);
    struct backend *backend = first;

    while (backend != NULL && health_needs_check(backend)) {
        backend = is_fifo ? TAILQ_PREV(backend, backend_list, link) : TAILQ_NEXT(backend, link);
    }
    return backend != NULL ? backend : first;
}

/* The next idle backend that is alive as far as a look tells; dead and old ones on the way are
 * removed. They were taken out of the ledger's count by the caller, one call for one. */
struct backend *
idle_pick(struct pool_side *side)
{
    struct backend *backend = next_in_order(side);

    if (backend != NULL && idle_is_outdated(backend)) {
        struct fail fail;
        fail_set(&fail, "57P01", "too old");
        backend_close(backend, &fail);
        return NULL;
    }
    if (backend == NULL || stream_peek(&backend->stream) == STREAM_WAIT) {
        return backend;
    }
    /* News that do no harm were read and remembered when the event came; whatever waits now ends
     * it. */
    log_dead(backend);
    backend_close(backend, NULL);
    return NULL;
}
