/*
 * What becomes of the console's commands. Called by ops/errand; calls the daemon, the pools and
 * client/evict. Words of errors are PgBouncer's where it has the same.
 */
#include "ops/duty.h"

#include "client/evict.h"
#include "daemon/daemon.h"
#include "ops/errand.h"
#include "pool/halt.h"
#include "pool/herald.h"
#include "pool/idle.h"
#include "pool/lookup.h"
#include "pool/pools.h"

#include <stdlib.h>

static struct halts *
halts_of(const struct errand *errand)
{
    return pools_halts(daemon_pools(errand->daemon));
}

/* Whether the errand is about this database. */
static bool
concerns(const struct errand *errand, const char *database)
{
    const char *wanted = errand->statement.argument;

    return wanted[0] == '\0' || strcmp(wanted, database) == 0;
}

static bool
once(struct errand *errand)
{
    (void)errand;
    return true;
}

static bool
none_left(struct errand *errand)
{
    return errand->count == 0;
}

/* ---- RELOAD, SET ---- */

static void
collect_finding(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    struct errand *errand = arg;

    if (severity == SETTINGS_ERROR) {
        buf_print(&errand->findings, "%s%s%s%s: %s", buf_len(&errand->findings) > 0 ? "\n" : "",
            place, key[0] != '\0' ? ": " : "", key, text);
    }
}

static bool
reload(struct errand *errand)
{
    return daemon_reload(errand->daemon, collect_finding, errand) ||
           fail_set(&errand->fail, "22023", "the settings are wrong; those in force stay");
}

static bool
set(struct errand *errand)
{
    const struct console_statement *statement = &errand->statement;

    if (!settings_is_live(statement->key)) {
        return fail_set(
            &errand->fail, "55P02", "\"%s\" takes effect at a restart only", statement->key);
    }
    return daemon_change(errand->daemon, statement->key,
               statement->is_default ? NULL : statement->argument, collect_finding, errand) ||
           fail_set(&errand->fail, "22023", "\"%s\" was not changed", statement->key);
}

/* ---- RECONNECT, WAIT_CLOSE ---- */

/* Its backends are closed when they come back, idle ones by the next tick (pool/tick). */
static void
renew_pool(void *arg, struct pool *pool)
{
    if (concerns(arg, pool->database)) {
        atomic_fetch_add(&pool->generation, 1);
    }
}

static bool
reconnect(struct errand *errand)
{
    pools_each(daemon_pools(errand->daemon), renew_pool, errand);
    return true;
}

/* What pools_each() is given in a worker. */
struct visit
{
    struct errand *errand;
    int worker;
};

static void
count_outdated(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    const struct pool_side *side = &pool->sides[visit->worker];
    const struct backend *backend;

    for (int state = 0; concerns(visit->errand, pool->database) && state < BACKEND_STATES;
         state++) {
        TAILQ_FOREACH(backend, &side->in[state], link) {
            visit->errand->count += idle_is_unwanted(backend);
        }
    }
}

static void
visit_outdated(struct errand *errand, struct crowd *crowd)
{
    struct visit visit = {errand, crowd->pool.index};

    pools_each(daemon_pools(errand->daemon), count_outdated, &visit);
}

/* ---- PAUSE, RESUME ---- */

static void
pause_now(struct errand *errand, bool *is_news_out)
{
    const struct crowds *crowds = daemon_crowd(errand->daemon, 0)->crowds;

    *is_news_out = halts_pause(halts_of(errand), errand->statement.argument);
    lookups_hang_up(crowds->lookups, crowds->helpers);
    halts_enforce(daemon_pools(errand->daemon));
}

static bool
undo_pause(struct errand *errand)
{
    if (halts_resume(halts_of(errand), errand->statement.argument)) {
        halts_enforce(daemon_pools(errand->daemon));
    }
    return false;
}

/* As in PgBouncer, pausing one database again is no error: it is waited for again. */
static bool
begin_pause(struct errand *errand)
{
    bool is_news;

    if (halts_is_suspended(halts_of(errand))) {
        return fail_set(&errand->fail, "55000", "already suspended/paused");
    }
    pause_now(errand, &is_news);
    return is_news || errand->statement.argument[0] != '\0' ||
           fail_set(&errand->fail, "55000", "already suspended/paused");
}

static void
count_herald(void *arg, const struct herald_view *view)
{
    struct errand *errand = arg;

    errand->count += view->is_open && concerns(errand, view->database);
}

static void
visit_heralds(struct errand *errand, struct crowd *crowd)
{
    heralds_each(&crowd->pool, count_herald, errand);
}

static void
count_backends(void *arg, struct pool *pool)
{
    struct errand *errand = arg;

    if (concerns(errand, pool->database)) {
        errand->count += ledger_look(&pool->ledger).total;
    }
}

static bool
is_paused(struct errand *errand)
{
    if (!halts_pause_concerns(halts_of(errand), errand->statement.argument)) {
        fail_set(&errand->fail, "55000", "RESUME came before everything was paused");
        return true;
    }
    pools_each(daemon_pools(errand->daemon), count_backends, errand);
    return errand->count == 0;
}

static bool
resume(struct errand *errand)
{
    const char *database = errand->statement.argument;

    if (database[0] == '\0' && halts_suspend(halts_of(errand), false)) {
        daemon_stop_listening(errand->daemon, false);
        return true;
    }
    if (!halts_resume(halts_of(errand), database)) {
        return database[0] == '\0'
                   ? fail_set(&errand->fail, "55000", "pooler is not paused/suspended")
                   : fail_set(&errand->fail, "55000", "database %s is not paused", database);
    }
    halts_enforce(daemon_pools(errand->daemon));
    return true;
}

static void
visit_resume(struct errand *errand, struct crowd *crowd)
{
    if (!halts_is_suspended(halts_of(errand))) {
        loop_suspend(crowd->pool.loop, false);
    }
}

/* ---- SUSPEND ---- */

static bool
begin_suspend(struct errand *errand)
{
    if (halts_pause_concerns(halts_of(errand), "") || !halts_suspend(halts_of(errand), true)) {
        return fail_set(&errand->fail, "55000", "already suspended/paused");
    }
    errand->since_us = loop_clock_us();
    daemon_stop_listening(errand->daemon, true);
    return true;
}

static bool
undo_suspend(struct errand *errand)
{
    errand->duty = duty_of(ACTION_RESUME);
    daemon_stop_listening(errand->daemon, false);
    return halts_suspend(halts_of(errand), false);
}

/* What was written and not taken by the other side is waited for; after suspend_timeout its client
 * goes. */
static void
visit_suspend(struct errand *errand, struct crowd *crowd)
{
    int64_t most_us = crowd->pool.settings->suspend_timeout;
    bool is_over = most_us > 0 && loop_clock_us() - errand->since_us > most_us;
    struct fail fail;

    fail_set(&fail, "57P01", "suspend_timeout is over");
    loop_suspend(crowd->pool.loop, halts_is_suspended(halts_of(errand)));
    errand->count += evict_slow(crowd, is_over ? &fail : NULL);
}

static bool
is_suspended(struct errand *errand)
{
    if (!halts_is_suspended(halts_of(errand))) {
        fail_set(&errand->fail, "55000", "RESUME came before everything was sent");
        return true;
    }
    return errand->count == 0;
}

/* ---- DISABLE, ENABLE ---- */

static bool
disable(struct errand *errand)
{
    halts_disable(halts_of(errand), errand->statement.argument, true);
    return true;
}

static bool
enable(struct errand *errand)
{
    halts_disable(halts_of(errand), errand->statement.argument, false);
    return true;
}

/* ---- KILL, KILL_CLIENT ---- */

static void
give_reason(const struct errand *errand, struct fail *fail)
{
    fail_set(fail, "57P01", "terminating connection due to administrator command");
    fail_detail(fail, "%s on the console", errand->statement.tag);
}

/* What is paused already is paused, but not always empty. */
static bool
begin_kill(struct errand *errand)
{
    bool is_news;

    pause_now(errand, &is_news);
    return true;
}

static void
kill_side(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    struct fail fail;

    if (concerns(visit->errand, pool->database)) {
        give_reason(visit->errand, &fail);
        pool_kill(&pool->sides[visit->worker], &fail);
    }
}

static void
visit_kill(struct errand *errand, struct crowd *crowd)
{
    struct visit visit = {errand, crowd->pool.index};
    struct fail fail;

    give_reason(errand, &fail);
    evict_database(crowd, errand->statement.argument, &fail);
    pools_each(daemon_pools(errand->daemon), kill_side, &visit);
}

static void
visit_kill_client(struct errand *errand, struct crowd *crowd)
{
    struct fail fail;

    give_reason(errand, &fail);
    errand->count += evict_one(crowd, strtoull(errand->statement.argument, NULL, 10), &fail);
}

static bool
was_found(struct errand *errand)
{
    if (errand->count == 0) {
        fail_set(&errand->fail, "42704", "client not found: %s", errand->statement.argument);
    }
    return true;
}

/* ---- the table ---- */

static const struct duty duties[ACTIONS] = {
    [ACTION_RELOAD] = {.begin = reload},
    [ACTION_SET] = {.begin = set},
    [ACTION_RECONNECT] = {.begin = reconnect},
    [ACTION_WAIT_CLOSE] = {.visit = visit_outdated, .is_over = none_left},
    [ACTION_PAUSE] = {begin_pause, visit_heralds, is_paused, undo_pause},
    [ACTION_RESUME] = {.begin = resume, .visit = visit_resume, .is_over = once},
    [ACTION_SUSPEND] = {begin_suspend, visit_suspend, is_suspended, undo_suspend},
    [ACTION_DISABLE] = {.begin = disable},
    [ACTION_ENABLE] = {.begin = enable},
    [ACTION_KILL] = {.begin = begin_kill, .visit = visit_kill, .is_over = once},
    [ACTION_KILL_CLIENT] = {.visit = visit_kill_client, .is_over = was_found},
};

const struct duty *
duty_of(enum action action)
{
    return &duties[action];
}
