/* Worker threads. Called by daemon/daemon; calls client/ and pool/. */
#include "daemon/worker.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "client/secrets.h"
#include "net/tls.h"
#include "pool/idle.h"
#include "pool/pools.h"

#include <pthread.h>
#include <unistd.h>

struct worker
{
    struct crowd crowd;
    struct loop *loop; /* owns */
    pthread_t thread;
    bool is_running;
};

struct worker *
worker_new(int index, struct settings *settings, struct tls *tls)
{
    struct worker *worker = mem_new(sizeof(*worker));

    worker->loop = loop_new(index, (size_t)settings->read_buffer);
    worker->crowd.pool.loop = worker->loop;
    worker->crowd.pool.index = index;
    worker->crowd.pool.settings = settings_hold(settings);
    worker->crowd.tls = tls_hold(tls);
    return worker;
}

struct crowd *
worker_crowd(struct worker *worker)
{
    return &worker->crowd;
}

struct loop *
worker_loop(struct worker *worker)
{
    return worker->loop;
}

static void
on_tick(void *arg)
{
    struct worker *worker = arg;

    if (atomic_load_explicit(&worker->crowd.crowds->is_draining, memory_order_relaxed)) {
        loop_suspend(worker->loop, false);
        crowd_drain(&worker->crowd);
    }
    secrets_tick(&worker->crowd);
    health_tick(&worker->crowd.pool);
}

static void
on_gap(void *arg, int64_t gap_us)
{
    struct worker *worker = arg;

    health_note_gap(&worker->crowd.pool, gap_us);
}

static void *
worker_main(void *arg)
{
    struct worker *worker = arg;
    char name[16];

    snprintf(name, sizeof(name), "worker %d", worker->crowd.pool.index);
    pthread_setname_np(pthread_self(), name);
    stats_thread_init();
    loop_run(worker->loop);
    pools_leave(&worker->crowd.pool);
    stats_thread_deinit();
    return NULL;
}

bool
worker_start(struct worker *worker, struct pools *pools, struct crowds *crowds)
{
    worker->crowd.pool.pools = pools;
    crowd_init(&worker->crowd, crowds);
    loop_on_tick(worker->loop, on_tick, worker);
    loop_on_gap(worker->loop, on_gap, worker);
    worker->is_running = pthread_create(&worker->thread, NULL, worker_main, worker) == 0;
    if (worker->is_running) {
        pthread_setname_np(worker->thread, "worker");
    }
    return worker->is_running;
}

/* ---- clients ---- */

struct handed_client
{
    struct worker *worker;
    struct accepted accepted;
};

static void
on_client(void *arg)
{
    struct handed_client *handed = arg;

    client_open(&handed->worker->crowd, &handed->accepted);
    free(handed);
}

void
worker_accept(struct worker *worker, const struct accepted *accepted)
{
    struct handed_client *handed = mem_new(sizeof(*handed));

    handed->worker = worker;
    handed->accepted = *accepted;
    atomic_fetch_add(&worker->crowd.load, 1);
    if (!loop_post(worker->loop, on_client, handed)) {
        atomic_fetch_sub(&worker->crowd.load, 1);
        close(accepted->fd);
        free(handed);
    }
}

/* ---- settings ---- */

struct handed_settings
{
    struct worker *worker;
    struct settings *settings; /* holds */
    struct tls *tls;           /* holds, or NULL */
};

static void
on_settings(void *arg)
{
    struct handed_settings *handed = arg;
    struct pool_worker *pool_worker = &handed->worker->crowd.pool;
    struct settings *old = pool_worker->settings;

    pool_worker->settings = handed->settings;
    settings_release(&old);
    tls_release(&handed->worker->crowd.tls);
    handed->worker->crowd.tls = handed->tls;
    idle_reload(pool_worker);
    free(handed);
}

void
worker_reload(struct worker *worker, struct settings *settings, struct tls *tls)
{
    struct handed_settings *handed = mem_new(sizeof(*handed));

    handed->worker = worker;
    handed->settings = settings_hold(settings);
    handed->tls = tls_hold(tls);
    if (!loop_post(worker->loop, on_settings, handed)) {
        settings_release(&handed->settings);
        tls_release(&handed->tls);
        free(handed);
    }
}

/* ---- the end ---- */

struct closing
{
    struct worker *worker;
    struct loop *main_loop;
    void (*done)(void *arg);
    void *arg;
};

static void
on_close(void *arg)
{
    struct closing closing = *(struct closing *)arg;

    free(arg);
    crowd_close_all(&closing.worker->crowd);
    ensure(loop_post(closing.main_loop, closing.done, closing.arg));
}

void
worker_close_clients(
    struct worker *worker, struct loop *main_loop, void (*done)(void *arg), void *arg)
{
    struct closing *closing = mem_new(sizeof(*closing));

    *closing = (struct closing){worker, main_loop, done, arg};
    ensure(loop_post(worker->loop, on_close, closing));
}

static void
on_stop(void *arg)
{
    loop_stop(arg);
}

void
worker_join(struct worker *worker)
{
    if (worker->is_running) {
        ensure(loop_post(worker->loop, on_stop, worker->loop));
        pthread_join(worker->thread, NULL);
        worker->is_running = false;
    }
}

void
worker_free(struct worker **pointer)
{
    struct worker *worker = *pointer;

    loop_free(&worker->loop);
    crowd_deinit(&worker->crowd);
    settings_release(&worker->crowd.pool.settings);
    tls_release(&worker->crowd.tls);
    free(worker);
    *pointer = NULL;
}
