/*
 * Threads for blocking jobs. One mutex guards the queues and the numbers; no job runs and no
 * callback is called with it held. All threads are alike: that some are kept for a kind of jobs
 * means that the other kinds never occupy more than the rest.
 */
#include "base/helpers.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

struct queue
{
    struct job *first;
    struct job *last;
    unsigned len;
};

/* A job that runs; on its thread's stack. */
struct running
{
    LIST_ENTRY(running) link;
    const void *share;
};

LIST_HEAD(running_list, running);

struct helpers
{
    pthread_mutex_t mutex; /* guards all below it */
    pthread_cond_t work;   /* something to take, or stopped */
    pthread_cond_t ended;  /* alive became 0 */
    struct queue queues[JOB_KINDS];
    unsigned busy[JOB_KINDS]; /* jobs that run now */
    struct running_list running;
    unsigned idle;          /* threads that wait for work, or were just started to do so */
    unsigned alive;         /* threads that did not end yet */
    unsigned started;       /* members of threads */
    bool is_stopped;

    /* set by helpers_new(), never changed */
    unsigned most[JOB_KINDS]; /* jobs of a kind that may run at a time */
    unsigned share_most; /* the same, of one share */
    unsigned threads_most;
    int stop_fd;
    pthread_t *threads; /* owns */
};

static void
queue_push(struct queue *queue, struct job *job)
{
    job->next = NULL;
    if (queue->last == NULL) {
        queue->first = job;
    } else {
        queue->last->next = job;
    }
    queue->last = job;
    queue->len++;
}

static struct job *
queue_pop(struct queue *queue)
{
    struct job *job = queue->first;

    if (job != NULL) {
        queue->first = job->next;
        queue->last = job->next == NULL ? NULL : queue->last;
        queue->len--;
        job->next = NULL;
    }
    return job;
}

struct helpers *
helpers_new(const struct helpers_limits *limits)
{
    pthread_condattr_t attr;
    struct helpers *helpers = mem_new(sizeof(*helpers));

    ensure(limits->most > limits->kept && limits->heavy > 0 && limits->lookups > 0);
    helpers->most[JOB_URGENT] = limits->most;
    helpers->most[JOB_HEAVY] = limits->heavy;
    helpers->most[JOB_LOOKUP] = limits->lookups;
    helpers->most[JOB_ORDINARY] = limits->most - limits->kept;
    helpers->share_most = helpers->most[JOB_ORDINARY] - (helpers->most[JOB_ORDINARY] + 3) / 4;
    helpers->share_most += helpers->share_most == 0;
    LIST_INIT(&helpers->running);
    helpers->threads_most = limits->most + limits->heavy + limits->lookups;
    helpers->threads = mem_new(helpers->threads_most * sizeof(pthread_t));
    helpers->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ensure(helpers->stop_fd >= 0);

    /* helpers_stop() waits by the clock that nobody sets. */
    ensure(pthread_condattr_init(&attr) == 0);
    ensure(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    ensure(pthread_mutex_init(&helpers->mutex, NULL) == 0);
    ensure(pthread_cond_init(&helpers->work, NULL) == 0);
    ensure(pthread_cond_init(&helpers->ended, &attr) == 0);
    pthread_condattr_destroy(&attr);
    return helpers;
}

/* How many more jobs of a kind may run now. Urgent and ordinary ones share their threads. */
static unsigned
room_locked(const struct helpers *helpers, enum job_kind kind)
{
    unsigned busy = helpers->busy[kind];

    if (kind == JOB_URGENT) {
        busy += helpers->busy[JOB_ORDINARY];
    } else if (kind == JOB_ORDINARY) {
        unsigned left = helpers->most[JOB_URGENT] - helpers->busy[JOB_URGENT] - busy;
        unsigned room = helpers->most[kind] - busy;
        return left < room ? left : room;
    }
    return helpers->most[kind] - busy;
}

static bool
has_share_room_locked(const struct helpers *helpers, const void *share)
{
    const struct running *running;
    unsigned count = 0;

    LIST_FOREACH(running, &helpers->running, link) {
        count += running->share == share;
    }
    return share == NULL || count < helpers->share_most;
}

/* The first job of a queue whose like leave room for it, NULL when there is none. */
static struct job *
queue_take_locked(struct helpers *helpers, struct queue *queue)
{
    struct job *before = NULL, *job = queue->first;

    while (job != NULL && !has_share_room_locked(helpers, job->share)) {
        before = job;
        job = job->next;
    }
    if (job == NULL || before == NULL) {
        return job == NULL ? NULL : queue_pop(queue);
    }
    before->next = job->next;
    queue->last = job->next == NULL ? before : queue->last;
    queue->len--;
    job->next = NULL;
    return job;
}

/* The next job that may run now, NULL when there is none. */
static struct job *
take_locked(struct helpers *helpers, struct running *running)
{
    for (int kind = 0; kind < JOB_KINDS; kind++) {
        struct job *job = NULL;
        if (room_locked(helpers, kind) > 0) {
            job = queue_take_locked(helpers, &helpers->queues[kind]);
        }
        if (job != NULL) {
            helpers->busy[kind]++;
            running->share = job->share;
            LIST_INSERT_HEAD(&helpers->running, running, link);
            return job;
        }
    }
    return NULL;
}

static void *
helper_main(void *arg)
{
    struct helpers *helpers = arg;
    struct running running;

    stats_thread_init();
    pthread_mutex_lock(&helpers->mutex);
    while (!helpers->is_stopped) {
        struct job *job = take_locked(helpers, &running);
        if (job == NULL) {
            pthread_cond_wait(&helpers->work, &helpers->mutex);
            continue;
        }
        helpers->idle--;
        enum job_kind kind = job->kind;
        pthread_mutex_unlock(&helpers->mutex);

        job->run(job); /* the job is gone from here on */

        pthread_mutex_lock(&helpers->mutex);
        helpers->busy[kind]--;
        helpers->idle++;
        LIST_REMOVE(&running, link);
        if (running.share != NULL) { /* there is room for its like, and this one may go elsewhere */
            pthread_cond_signal(&helpers->work);
        }
    }
    helpers->idle--;
    helpers->alive--;
    if (helpers->alive == 0) {
        pthread_cond_signal(&helpers->ended);
    }
    pthread_mutex_unlock(&helpers->mutex);
    stats_thread_deinit();
    return NULL;
}

/* Signals are the main thread's business: a helper inherits none. */
static bool
start_locked(struct helpers *helpers)
{
    sigset_t all;
    sigset_t before;
    pthread_t *thread = &helpers->threads[helpers->started];

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, helper_main, helpers);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        return false;
    }
    pthread_setname_np(*thread, "helper");
    helpers->started++;
    helpers->alive++;
    helpers->idle++;
    return true;
}

/* Starts a thread when more jobs could run than threads wait for them. False when jobs have nobody.
 */
static bool
grow_locked(struct helpers *helpers)
{
    unsigned could_run = 0;

    for (int kind = 0; kind < JOB_KINDS; kind++) {
        unsigned room = room_locked(helpers, kind);
        unsigned len = helpers->queues[kind].len;
        could_run += len < room ? len : room;
    }
    if (could_run <= helpers->idle || helpers->started == helpers->threads_most) {
        return true;
    }
    if (start_locked(helpers)) {
        return true;
    }
    /* With other threads alive this is a delay, not a failure. */
    return helpers->alive > 0;
}

void
helpers_run(struct helpers *helpers, struct job *job)
{
    struct job *dropped = NULL;

    pthread_mutex_lock(&helpers->mutex);
    if (helpers->is_stopped) {
        dropped = job;
    } else {
        queue_push(&helpers->queues[job->kind], job);
        if (grow_locked(helpers)) {
            pthread_cond_signal(&helpers->work);
        } else {
            /* Without threads nothing else can be queued. */
            dropped = queue_pop(&helpers->queues[job->kind]);
        }
    }
    bool is_stopped = helpers->is_stopped;
    pthread_mutex_unlock(&helpers->mutex);

    if (dropped != NULL) {
        if (!is_stopped) {
            log_error("cannot start a helper thread: %s", strerror(EAGAIN));
        }
        dropped->drop(dropped);
    }
}

int
helpers_stop_fd(struct helpers *helpers)
{
    return helpers->stop_fd;
}

static void
drop_all(struct queue *queue)
{
    struct job *job;

    while ((job = queue_pop(queue)) != NULL) {
        job->drop(job);
    }
}

static struct timespec
deadline_after(int timeout_ms)
{
    struct timespec deadline;

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    return deadline;
}

/* What nobody began is dropped; what runs sees the stop_fd. */
static void
tell_stop(struct helpers *helpers)
{
    pthread_mutex_lock(&helpers->mutex);
    struct queue queues[JOB_KINDS];
    memcpy(queues, helpers->queues, sizeof(queues));
    memset(helpers->queues, 0, sizeof(helpers->queues));
    helpers->is_stopped = true;
    ensure(eventfd_write(helpers->stop_fd, 1) == 0);
    pthread_cond_broadcast(&helpers->work);
    pthread_mutex_unlock(&helpers->mutex);

    for (int kind = 0; kind < JOB_KINDS; kind++) {
        drop_all(&queues[kind]);
    }
}

bool
helpers_stop(struct helpers *helpers, int timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms);
    int error = 0;

    tell_stop(helpers);
    pthread_mutex_lock(&helpers->mutex);
    while (helpers->alive > 0 && error == 0) {
        error = pthread_cond_timedwait(&helpers->ended, &helpers->mutex, &deadline);
    }
    bool has_ended = helpers->alive == 0;
    pthread_mutex_unlock(&helpers->mutex);

    /* None is started any more, so the number stands; each of them is past its last job. */
    while (has_ended && helpers->started > 0) {
        helpers->started--;
        ensure(pthread_join(helpers->threads[helpers->started], NULL) == 0);
    }
    return has_ended;
}

void
helpers_free(struct helpers **helpers)
{
    struct helpers *h = *helpers;

    if (h == NULL) {
        return;
    }
    ensure(h->alive == 0);
    pthread_cond_destroy(&h->ended);
    pthread_cond_destroy(&h->work);
    pthread_mutex_destroy(&h->mutex);
    close(h->stop_fd);
    free(h->threads);
    free(h);
    *helpers = NULL;
}
