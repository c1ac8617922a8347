/* Errands. Called by ops/console; calls ops/duty in the thread of main and of each worker. */
#include "ops/errand.h"

#include "base/log.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "ops/duty.h"

#include <signal.h>

/* Those that wait for the next tick. Main thread. */
static TAILQ_HEAD(errands, errand) waiting = TAILQ_HEAD_INITIALIZER(waiting);

void
errand_free(struct errand *errand)
{
    buf_deinit(&errand->findings);
    free(errand);
}

static void
post(struct errand *errand, struct loop *loop, void (*fn)(void *arg))
{
    if (!loop_post(loop, fn, errand)) {
        errand_free(errand);
    }
}

static struct loop *
worker_loop_of(const struct errand *errand, int worker)
{
    return daemon_crowd(errand->daemon, worker)->pool.loop;
}

static void
on_home(void *arg)
{
    struct errand *errand = arg;

    errand->done(errand);
}

static void
go_home(struct errand *errand)
{
    post(errand, worker_loop_of(errand, errand->home), on_home);
}

static void begin_round(struct errand *errand);

static void
on_round(void *arg)
{
    struct errand *errand = arg;

    if (errand->wish == ERRAND_CANCELLED && errand->fail.sqlstate[0] == '\0') {
        fail_set(&errand->fail, "57014", "canceling statement due to user request");
        if (errand->duty->undo != NULL && errand->duty->undo(errand)) {
            begin_round(errand);
            return;
        }
    }
    if (errand->wish != ERRAND_WANTED || errand->duty->is_over(errand)) {
        go_home(errand);
        return;
    }
    TAILQ_INSERT_TAIL(&waiting, errand, link);
}

/* To the next worker, or back to main after the last. */
static void
on_worker(void *arg)
{
    struct errand *errand = arg;

    if (errand->next == errand->home) {
        errand->wish = errand->ask(errand);
    }
    errand->duty->visit(errand, daemon_crowd(errand->daemon, errand->next));
    errand->next++;
    if (errand->next < daemon_worker_count(errand->daemon)) {
        post(errand, worker_loop_of(errand, errand->next), on_worker);
    } else {
        post(errand, daemon_loop(errand->daemon), on_round);
    }
}

static void
begin_round(struct errand *errand)
{
    errand->next = 0;
    errand->count = 0;
    post(errand, worker_loop_of(errand, 0), on_worker);
}

static void
on_tick(void *arg)
{
    struct errands now = TAILQ_HEAD_INITIALIZER(now);
    struct errand *errand;

    (void)arg;
    TAILQ_CONCAT(&now, &waiting, link);
    while ((errand = TAILQ_FIRST(&now)) != NULL) {
        TAILQ_REMOVE(&now, errand, link);
        begin_round(errand);
    }
}

static void
on_main(void *arg)
{
    struct errand *errand = arg;
    const struct duty *duty = errand->duty;

    if ((duty->begin != NULL && !duty->begin(errand)) || duty->visit == NULL) {
        go_home(errand);
        return;
    }
    begin_round(errand);
}

/* ---- signals ---- */

static enum errand_wish
ask_nobody(const struct errand *errand)
{
    (void)errand;
    return ERRAND_WANTED;
}

static void
on_signal_done(struct errand *errand)
{
    bool is_done = errand->fail.sqlstate[0] == '\0';

    log_info("%s by a signal: %s", errand->statement.tag, is_done ? "done" : errand->fail.text);
    errand_free(errand);
}

static void
obey_signal(struct daemon *daemon, enum action action, const char *tag)
{
    struct errand *errand = mem_new(sizeof(*errand));

    log_info("%s by a signal", tag);
    errand->statement.action = action;
    errand->statement.tag = tag;
    errand->daemon = daemon;
    errand->ask = ask_nobody;
    errand->done = on_signal_done;
    errand_start(errand);
}

static void
on_usr1(void *arg)
{
    obey_signal(arg, ACTION_PAUSE, "PAUSE");
}

static void
on_usr2(void *arg)
{
    obey_signal(arg, ACTION_RESUME, "RESUME");
}

void
errands_init(struct daemon *daemon)
{
    loop_on_tick(daemon_loop(daemon), on_tick, NULL);
    loop_on_signal(daemon_loop(daemon), SIGUSR1, on_usr1, daemon);
    loop_on_signal(daemon_loop(daemon), SIGUSR2, on_usr2, daemon);
}

void
errand_start(struct errand *errand)
{
    errand->duty = duty_of(errand->statement.action);
    post(errand, daemon_loop(errand->daemon), on_main);
}
