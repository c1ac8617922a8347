/* Errands. Called by ops/console; calls daemon/ in main's thread, pool/ in each worker's. */
#include "ops/errand.h"

#include "base/mem.h"
#include "daemon/daemon.h"
#include "pool/pools.h"

void
errand_free(struct errand *errand)
{
    buf_deinit(&errand->findings);
    free(errand);
}

/* ---- each worker's part ---- */

/* Idle backends of one worker that were dialled before their pool was renewed. */
struct sweep
{
    int worker;
    struct backend **outdated; /* owns the array */
    size_t count, size;
};

static void
collect_outdated(void *arg, struct pool *pool)
{
    struct sweep *sweep = arg;
    struct backend *backend;

    TAILQ_FOREACH(backend, &pool->sides[sweep->worker].in[BACKEND_IDLE], link) {
        if (backend->generation == atomic_load(&pool->generation)) {
            continue;
        }
        if (sweep->count == sweep->size) {
            sweep->size = sweep->size * 2 + 16;
            sweep->outdated = mem_resize(sweep->outdated, sweep->size * sizeof(struct backend *));
        }
        sweep->outdated[sweep->count++] = backend;
    }
}

/* Closing may lead to a dial, which must not happen under the registry's lock: first collected,
 * then closed. One that another worker was promised is closed when it comes back. */
static void
close_outdated(int worker, struct pools *pools)
{
    struct sweep sweep = {.worker = worker};
    struct fail fail;

    pools_each(pools, collect_outdated, &sweep);
    for (size_t i = 0; i < sweep.count; i++) {
        struct backend *backend = sweep.outdated[i];
        if (backend->state == BACKEND_IDLE &&
            ledger_take_idle(&backend->side->pool->ledger, worker)) {
            fail_set(&fail, "57P01", "its pool was renewed");
            backend_close(backend, &fail);
        }
    }
    free(sweep.outdated);
}

/* ---- the journey ---- */

static void travel(struct errand *errand);

static void
on_worker(void *arg)
{
    struct errand *errand = arg;

    close_outdated(errand->next, daemon_pools(errand->daemon));
    errand->next++;
    travel(errand);
}

static void
on_home(void *arg)
{
    struct errand *errand = arg;

    errand->done(errand);
}

/* To the next worker, or home after the last and when there is nothing to do. */
static void
travel(struct errand *errand)
{
    bool is_over = !errand->is_done || errand->next >= daemon_worker_count(errand->daemon);
    int to = is_over ? errand->home : errand->next;

    if (!loop_post(
            daemon_crowd(errand->daemon, to)->pool.loop, is_over ? on_home : on_worker, errand)) {
        errand_free(errand);
    }
}

/* ---- main's part ---- */

static void
collect_finding(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    struct errand *errand = arg;

    if (severity == SETTINGS_ERROR) {
        buf_print(&errand->findings, "%s%s: %s%s%s", buf_len(&errand->findings) > 0 ? "\n" : "",
            place, key, key[0] != '\0' ? ": " : "", text);
    }
}

static void
renew_pool(void *arg, struct pool *pool)
{
    const char *database = arg;

    if (database[0] == '\0' || strcmp(database, pool->database) == 0) {
        atomic_fetch_add(&pool->generation, 1);
    }
}

static void
on_main(void *arg)
{
    struct errand *errand = arg;

    errand->is_done = true;
    if (errand->statement.action == ACTION_RELOAD) {
        errand->is_done = daemon_reload(errand->daemon, collect_finding, errand);
    } else {
        pools_each(daemon_pools(errand->daemon), renew_pool, errand->statement.argument);
    }
    travel(errand);
}

void
errand_start(struct errand *errand)
{
    if (!loop_post(daemon_loop(errand->daemon), on_main, errand)) {
        errand_free(errand);
    }
}
