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

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum
{
    WHEEL_SLOTS = 1024,
    TICKERS = 4,
    SIGNALS = 16,
    GAP_US = 3000000 /* ticks come ten times a second: nothing was running for this long */
};

TAILQ_HEAD(deadline_list, deadline);

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
    struct deadline_list *wheel;           /* owns */
    int64_t wheel_tick;                    /* last tick whose slot was looked at */
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
    loop->wheel = mem_new(WHEEL_SLOTS * sizeof(*loop->wheel));
    for (int i = 0; i < WHEEL_SLOTS; i++) {
        TAILQ_INIT(&loop->wheel[i]);
    }
    loop->wheel_tick = loop_clock_us() / LOOP_TICK_US;
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
    free(loop->wheel);
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
    int64_t tick = deadline->at_us / LOOP_TICK_US + 1;
    TAILQ_INSERT_TAIL(&loop->wheel[tick % WHEEL_SLOTS], deadline, link);
}

void
deadline_stop(struct deadline *deadline)
{
    if (deadline->loop != NULL) {
        int64_t tick = deadline->at_us / LOOP_TICK_US + 1;
        TAILQ_REMOVE(&deadline->loop->wheel[tick % WHEEL_SLOTS], deadline, link);
        deadline->loop = NULL;
    }
}

/* Ends the deadlines of one slot that are due. A callback may start and stop any deadline, so the
 * list is looked at from the front again after each; those of a later turn of the wheel are moved
 * aside. */
static void
expire_slot(struct deadline_list *slot, int64_t now_us)
{
    struct deadline_list later = TAILQ_HEAD_INITIALIZER(later);
    struct deadline *deadline;

    while ((deadline = TAILQ_FIRST(slot)) != NULL) {
        if (deadline->at_us > now_us) {
            TAILQ_REMOVE(slot, deadline, link);
            TAILQ_INSERT_TAIL(&later, deadline, link);
            continue;
        }
        TAILQ_CONCAT(slot, &later, link);
        deadline_stop(deadline);
        deadline->fn(deadline);
    }
    TAILQ_CONCAT(slot, &later, link);
}

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct loop *loop = arg;
    int64_t now_us = loop_now_us(loop);
    int64_t tick = now_us / LOOP_TICK_US;

    (void)fd;
    (void)what;
    atomic_store_explicit(&loop->shared.ticked_at_us, now_us, memory_order_relaxed);
    int64_t before_us = loop->gap.asleep_us;
    loop->gap.asleep_us = asleep_us();
    note_gap(loop, loop->gap.asleep_us - before_us);
    if (tick - loop->wheel_tick > WHEEL_SLOTS) {
        loop->wheel_tick = tick - WHEEL_SLOTS;
    }
    while (loop->wheel_tick < tick) {
        loop->wheel_tick++;
        expire_slot(&loop->wheel[loop->wheel_tick % WHEEL_SLOTS], now_us);
    }
    for (int i = 0; i < TICKERS && loop->tickers[i].fn != NULL; i++) {
        loop->tickers[i].fn(loop->tickers[i].arg);
    }
}
