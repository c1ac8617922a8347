/*
 * The event loop over libevent. One turn:
 *
 *    wait for events ─► callbacks (posts of other threads among them) ─► deferred calls ─► burials
 * ─► forget the clock
 *
 * Called by everything that waits; calls libevent. Event bases are made without locks, on purpose:
 * the only thing other threads touch is the post queue (mutex and eventfd) and the time of the last
 * tick.
 */
#include "net/loop.h"

#include "base/mem.h"
#include "base/state.h"
#include "net/wheel.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum
{
    TICKERS = 4,
    SIGNALS = 16,
    GAP_US = 3000000 /* ticks come ten times a second: nothing was running for this long */
};

struct post
{
    void (*fn)(void *arg);
    void *arg;
    struct post *next;
};

struct ticker
{
    void (*fn)(void *arg);
    void *arg;
};

struct loop
{
    struct event_base *base; /* owns */
    struct event *tick;      /* owns */
    struct event *wake;      /* owns */
    int index;
    int wake_fd; /* owns */
    bool is_stopping;
    int64_t now_us; /* 0: not read in this turn */
    struct
    {
        void (*fn)(void *arg, int64_t gap_us);
        void *arg;
        int64_t read_us;   /* when the clock was last read */
        int64_t asleep_us; /* how long the machine was suspended since its boot */
    } gap;
    uint8_t *scratch; /* owns */
    size_t scratch_size, scratch_wanted;
    struct ticker tickers[TICKERS];
    struct ticker signals[SIGNALS];
    struct event *signal_events[SIGNALS];  /* own */
    struct post *graves;                   /* own: what is freed at the end of the turn */
    struct post *deferred, *last_deferred; /* own */
    struct wheel wheel;
    struct
    {
        bool is_on;
        int64_t since_us;
        struct watch **held; /* owns the array: those that were ready meanwhile */
        size_t count;
    } suspension;
    struct
    {
        pthread_mutex_t mutex;
        struct post *first, *last;
        bool is_closed;
        _Atomic int64_t ticked_at_us;
    } shared;
};

static void on_tick(evutil_socket_t fd, short what, void *arg);
static void on_wake(evutil_socket_t fd, short what, void *arg);

int64_t
loop_clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* CLOCK_MONOTONIC stands still while the machine is suspended, CLOCK_BOOTTIME does not. */
static int64_t
asleep_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000 - loop_clock_us();
}

struct loop *
loop_new(int index, size_t scratch_size)
{
    struct loop *loop = mem_new(sizeof(*loop));
    struct event_config *config = event_config_new();
    struct timeval period = {0, LOOP_TICK_US};

    ensure(config != NULL);
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    event_config_set_flag(config, EVENT_BASE_FLAG_IGNORE_ENV);
    loop->base = event_base_new_with_config(config);
    event_config_free(config);
    ensure(loop->base != NULL);

    loop->index = index;
    loop->scratch_size = scratch_size;
    loop->scratch = mem_new(scratch_size);
    wheel_init(&loop->wheel, loop_clock_us());
    pthread_mutex_init(&loop->shared.mutex, NULL);
    atomic_store(&loop->shared.ticked_at_us, loop_clock_us());

    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ensure(loop->wake_fd >= 0);
    loop->wake = event_new(loop->base, loop->wake_fd, EV_READ | EV_PERSIST, on_wake, loop);
    loop->tick = event_new(loop->base, -1, EV_PERSIST, on_tick, loop);
    ensure(loop->wake != NULL && loop->tick != NULL);
    event_add(loop->wake, NULL);
    event_add(loop->tick, &period);
    return loop;
}

static void
run_deferred(struct loop *loop)
{
    while (loop->deferred != NULL) {
        struct post *post = loop->deferred;
        loop->deferred = post->next;
        post->fn(post->arg);
        free(post);
    }
}

static void
end_turn(struct loop *loop)
{
    run_deferred(loop);
    while (loop->graves != NULL) {
        struct post *grave = loop->graves;
        loop->graves = grave->next;
        grave->fn(grave->arg);
        free(grave);
    }
}

/* Runs what other threads posted until now. */
static void
run_posts(struct loop *loop)
{
    pthread_mutex_lock(&loop->shared.mutex);
    struct post *post = loop->shared.first;
    loop->shared.first = loop->shared.last = NULL;
    pthread_mutex_unlock(&loop->shared.mutex);

    while (post != NULL) {
        struct post *next = post->next;
        post->fn(post->arg);
        free(post);
        post = next;
    }
}

void
loop_run(struct loop *loop)
{
    loop->gap.read_us = loop_clock_us();
    loop->gap.asleep_us = asleep_us();
    while (!loop->is_stopping) {
        event_base_loop(loop->base, EVLOOP_ONCE);
        end_turn(loop);
        loop->now_us = 0;
    }
    /* What was posted before the door closes still runs; it may post to itself, hence the loop. */
    for (;;) {
        pthread_mutex_lock(&loop->shared.mutex);
        bool is_empty = loop->shared.first == NULL;
        loop->shared.is_closed = is_empty;
        pthread_mutex_unlock(&loop->shared.mutex);
        if (is_empty) {
            break;
        }
        run_posts(loop);
        end_turn(loop);
    }
    end_turn(loop);
}

void
loop_stop(struct loop *loop)
{
    loop->is_stopping = true;
}

void
loop_free(struct loop **pointer)
{
    struct loop *loop = *pointer;

    if (loop == NULL) {
        return;
    }
    end_turn(loop);
    for (int i = 0; i < SIGNALS; i++) {
        if (loop->signal_events[i] != NULL) {
            event_free(loop->signal_events[i]);
        }
    }
    event_free(loop->wake);
    event_free(loop->tick);
    event_base_free(loop->base);
    close(loop->wake_fd);
    pthread_mutex_destroy(&loop->shared.mutex);
    wheel_deinit(&loop->wheel);
    free(loop->suspension.held);
    free(loop->scratch);
    free(loop);
    *pointer = NULL;
}

bool
loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct post *post = mem_new(sizeof(*post));
    uint64_t one = 1;

    post->fn = fn;
    post->arg = arg;
    pthread_mutex_lock(&loop->shared.mutex);
    if (loop->shared.is_closed) {
        pthread_mutex_unlock(&loop->shared.mutex);
        free(post);
        return false;
    }
    bool was_empty = loop->shared.first == NULL;
    if (was_empty) {
        loop->shared.first = post;
    } else {
        loop->shared.last->next = post;
    }
    loop->shared.last = post;
    /* The write stays inside the lock: once the loop closed its door it may free the descriptor. */
    ssize_t written = was_empty ? write(loop->wake_fd, &one, sizeof(one)) : 0;
    pthread_mutex_unlock(&loop->shared.mutex);
    ensure(written >= 0 || errno == EAGAIN);
    return true;
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof(count)) > 0) {
        run_posts(arg);
    }
}

void
loop_bury(struct loop *loop, void (*free_fn)(void *arg), void *arg)
{
    struct post *grave = mem_new(sizeof(*grave));

    grave->fn = free_fn;
    grave->arg = arg;
    grave->next = loop->graves;
    loop->graves = grave;
}

void
loop_defer(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct post *post = mem_new(sizeof(*post));

    post->fn = fn;
    post->arg = arg;
    if (loop->deferred == NULL) {
        loop->deferred = post;
    } else {
        loop->last_deferred->next = post;
    }
    loop->last_deferred = post;
}

static void
note_gap(struct loop *loop, int64_t gap_us)
{
    if (gap_us > GAP_US && loop->gap.fn != NULL) {
        loop->gap.fn(loop->gap.arg, gap_us);
    }
}

int64_t
loop_now_us(struct loop *loop)
{
    if (loop->now_us == 0) {
        loop->now_us = loop_clock_us();
        int64_t before_us = loop->gap.read_us;
        loop->gap.read_us = loop->now_us;
        note_gap(loop, loop->now_us - before_us);
    }
    return loop->now_us;
}

void
loop_on_gap(struct loop *loop, void (*fn)(void *arg, int64_t gap_us), void *arg)
{
    ensure(loop->gap.fn == NULL);
    loop->gap.fn = fn;
    loop->gap.arg = arg;
    loop->gap.read_us = loop_clock_us();
}

int
loop_index(const struct loop *loop)
{
    return loop->index;
}

void
loop_want_scratch(struct loop *loop, size_t size)
{
    loop->scratch_wanted = size > loop->scratch_wanted ? size : loop->scratch_wanted;
}

uint8_t *
loop_fresh_scratch(struct loop *loop, size_t *size_out)
{
    if (loop->scratch_wanted > loop->scratch_size) {
        free(loop->scratch);
        loop->scratch = mem_new(loop->scratch_wanted);
        loop->scratch_size = loop->scratch_wanted;
    }
    return loop_scratch(loop, size_out);
}

uint8_t *
loop_scratch(struct loop *loop, size_t *size_out)
{
    *size_out = loop->scratch_size;
    return loop->scratch;
}

void
loop_on_tick(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    for (int i = 0; i < TICKERS; i++) {
        if (loop->tickers[i].fn == NULL) {
            loop->tickers[i] = (struct ticker){fn, arg};
            return;
        }
    }
    ensure(!"room for another ticker");
}

static void
on_signal(evutil_socket_t signal, short what, void *arg)
{
    struct ticker *handler = arg;

    (void)signal;
    (void)what;
    handler->fn(handler->arg);
}

void
loop_on_signal(struct loop *loop, int signal, void (*fn)(void *arg), void *arg)
{
    int i = 0;

    while (i < SIGNALS && loop->signal_events[i] != NULL) {
        i++;
    }
    ensure(i < SIGNALS);
    loop->signals[i] = (struct ticker){fn, arg};
    loop->signal_events[i] = evsignal_new(loop->base, signal, on_signal, &loop->signals[i]);
    ensure(loop->signal_events[i] != NULL);
    event_add(loop->signal_events[i], NULL);
}

int64_t
loop_ticked_at_us(struct loop *loop)
{
    return atomic_load_explicit(&loop->shared.ticked_at_us, memory_order_relaxed);
}

/* ---- watches ---- */

static const short watch_events[3] = {EV_READ, EV_WRITE, EV_CLOSED};

/* What the watch is ready for has to wait: nothing is asked for any more until the loop goes on. */
static unsigned
hold_back(struct watch *watch, unsigned happened)
{
    struct loop *loop = watch->loop;

    for (int i = 0; i < 3; i++) {
        if (happened & ~(unsigned)WATCH_WRITE & 1u << i) {
            event_del(watch->events[i]);
        }
    }
    if (!watch->is_held && (happened & ~(unsigned)WATCH_WRITE) != 0) {
        size_t size = (loop->suspension.count + 1) * sizeof(*loop->suspension.held);
        loop->suspension.held = mem_resize(loop->suspension.held, size);
        loop->suspension.held[loop->suspension.count++] = watch;
        watch->is_held = true;
    }
    return happened & WATCH_WRITE;
}

static void
let_go(struct watch *watch)
{
    for (unsigned i = 0; i < 3; i++) {
        if (watch->wants & 1u << i) {
            event_add(watch->events[i], NULL);
        }
    }
    watch->is_held = false;
    watch_trigger(watch, WATCH_READ); /* bytes inside a TLS session are announced by nobody else */
}

/* It leaves the loop: it waits for nothing. */
static void
forget_held(struct watch *watch)
{
    struct loop *loop = watch->loop;
    size_t i = 0;

    while (loop->suspension.held[i] != watch) {
        i++;
    }
    loop->suspension.held[i] = loop->suspension.held[--loop->suspension.count];
    watch->is_held = false;
}

void
loop_suspend(struct loop *loop, bool is_suspended)
{
    int64_t now_us = loop_now_us(loop);

    if (loop->suspension.is_on == is_suspended) {
        return;
    }
    loop->suspension.is_on = is_suspended;
    if (is_suspended) {
        loop->suspension.since_us = now_us;
        return;
    }
    wheel_shift(&loop->wheel, now_us - loop->suspension.since_us, now_us);
    while (loop->suspension.count > 0) {
        let_go(loop->suspension.held[--loop->suspension.count]);
    }
}

static void
on_watch(evutil_socket_t fd, short what, void *arg)
{
    struct watch *watch = arg;
    unsigned happened = 0;

    (void)fd;
    for (unsigned i = 0; i < 3; i++) {
        if (what & watch_events[i]) {
            happened |= 1u << i;
        }
    }
    /* An earlier callback of this turn may have lost interest. */
    happened &= watch->wants;
    if (watch->loop->suspension.is_on && !watch->is_exempt) {
        happened = hold_back(watch, happened);
    }
    if (happened != 0) {
        watch->fn(watch->arg, happened);
    }
}

void
watch_init(struct watch *watch, int fd, void (*fn)(void *arg, unsigned what), void *arg)
{
    *watch = (struct watch){.fd = fd, .fn = fn, .arg = arg};
}

void
watch_attach(struct watch *watch, struct loop *loop)
{
    ensure(watch->loop == NULL);
    watch->loop = loop;
    watch->wants = 0;
}

void
watch_detach(struct watch *watch)
{
    if (watch->is_held) {
        forget_held(watch);
    }
    for (int i = 0; i < 3; i++) {
        if (watch->events[i] != NULL) {
            event_free(watch->events[i]);
            watch->events[i] = NULL;
        }
    }
    watch->wants = 0;
    watch->loop = NULL;
}

void
watch_want(struct watch *watch, unsigned wants)
{
    unsigned changed = watch->wants ^ wants;

    for (int i = 0; changed != 0 && i < 3; i++) {
        if (!(changed & 1u << i)) {
            continue;
        }
        if (watch->events[i] == NULL) {
            watch->events[i] = event_new(watch->loop->base, watch->fd,
                (short)(watch_events[i] | EV_PERSIST), on_watch, watch);
            ensure(watch->events[i] != NULL);
        }
        int result =
            wants & 1u << i ? event_add(watch->events[i], NULL) : event_del(watch->events[i]);
        ensure(result == 0);
    }
    watch->wants = wants;
}

void
watch_trigger(struct watch *watch, unsigned what)
{
    for (int i = 0; i < 3; i++) {
        if (what & watch->wants & 1u << i) {
            event_active(watch->events[i], watch_events[i], 1);
        }
    }
}

/* ---- deadlines ---- */

void
deadline_start(
    struct deadline *deadline, struct loop *loop, int64_t delay_us, void (*fn)(struct deadline *))
{
    deadline_stop(deadline);
    if (delay_us <= 0) {
        return;
    }
    deadline->loop = loop;
    deadline->fn = fn;
    deadline->at_us = loop_now_us(loop) + delay_us;
    wheel_add(&loop->wheel, deadline);
}

void
deadline_stop(struct deadline *deadline)
{
    if (deadline->loop != NULL) {
        wheel_remove(&deadline->loop->wheel, deadline);
        deadline->loop = NULL;
    }
}

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct loop *loop = arg;
    int64_t now_us = loop_now_us(loop);

    (void)fd;
    (void)what;
    atomic_store_explicit(&loop->shared.ticked_at_us, now_us, memory_order_relaxed);
    int64_t before_us = loop->gap.asleep_us;
    loop->gap.asleep_us = asleep_us();
    note_gap(loop, loop->gap.asleep_us - before_us);
    if (!loop->suspension.is_on) {
        wheel_turn(&loop->wheel, now_us);
    }
    for (int i = 0; i < TICKERS && loop->tickers[i].fn != NULL; i++) {
        loop->tickers[i].fn(loop->tickers[i].arg);
    }
}
