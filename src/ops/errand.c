/* Errands. Called by ops/console; calls daemon/ and pool/pools in main's thread. */
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

/* Its backends are closed when they come back, idle ones by the next tick (pool/pools). */
static void
renew_pool(void *arg, struct pool *pool)
{
    const char *database = arg;

    if (database[0] == '\0' || strcmp(database, pool->database) == 0) {
        atomic_fetch_add(&pool->generation, 1);
    }
}

static void
on_home(void *arg)
{
    struct errand *errand = arg;

    errand->done(errand);
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
    if (!loop_post(daemon_crowd(errand->daemon, errand->home)->pool.loop, on_home, errand)) {
        errand_free(errand);
    }
}

void
errand_start(struct errand *errand)
{
    if (!loop_post(daemon_loop(errand->daemon), on_main, errand)) {
        errand_free(errand);
    }
}
