/*
 * One event loop, one thread: the main thread has one, each worker has one. Wraps libevent so that
 * only loop.c knows it. The clock is read once a turn; deadlines are kept on a wheel and checked by
 * a coarse tick; nothing is freed inside a callback but at the end of the turn; and loop_post() is
 * the only door to another thread.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct loop;
struct event;

#define LOOP_TICK_US 100000 /* how coarse deadlines are */

/* Makes a loop with a read buffer of scratch_size bytes that whoever runs in it may use during a
 * callback. */
struct loop *loop_new(int index, size_t scratch_size);
void loop_free(struct loop **loop);

/* Runs until loop_stop(); then runs what was posted before and refuses later posts. Own thread. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* Calls fn(arg) in the loop's thread soon. Any thread. arg changes owner with the call; false when
 * the loop has stopped, and the caller keeps arg. */
must_check bool loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Calls free_fn(arg) at the end of this turn, when no callback can hold arg any more. Own thread.
 */
void loop_bury(struct loop *loop, void (*free_fn)(void *arg), void *arg);

/* Calls fn(arg) in this turn, once the callback that runs now is over: for what would disturb it.
 * Own thread. */
void loop_defer(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Suspends the loop, or lets it go on: nothing is read and no deadline ends meanwhile, but for
 * watches that are exempt; what was written is still sent, posts and ticks come. Own thread. */
void loop_suspend(struct loop *loop, bool is_suspended);

/* Monotonic microseconds, read once a turn. Own thread. */
int64_t loop_now_us(struct loop *loop);

/* Monotonic microseconds, read now. Any thread. */
int64_t loop_clock_us(void);

int loop_index(const struct loop *loop);
uint8_t *loop_scratch(struct loop *loop, size_t *size_out);

/* The buffer must hold so much from its next use on. */
void loop_want_scratch(struct loop *loop, size_t size);

/* The same buffer for a new use: what was in it is gone. */
uint8_t *loop_fresh_scratch(struct loop *loop, size_t *size_out);

/* Calls fn at each tick. Own thread; at most four callers. */
void loop_on_tick(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Calls fn when the loop stood still for so long that the world may have changed (a frozen
 * container, a suspended machine, SIGSTOP), before anything else in this turn; from wherever the
 * clock is read, so it only takes notes. One caller. Own thread. */
void loop_on_gap(struct loop *loop, void (*fn)(void *arg, int64_t gap_us), void *arg);

/* Calls fn when the signal arrives. Main loop only. */
void loop_on_signal(struct loop *loop, int signal, void (*fn)(void *arg), void *arg);

/* When the last tick ran, in loop_clock_us() time; any thread (a loop that hangs is found this
 * way). */
int64_t loop_ticked_at_us(struct loop *loop);

/* ---- watches: what a file descriptor is waited for ---- */

enum watch_for
{
    WATCH_READ = 1,
    WATCH_WRITE = 2,
    WATCH_CLOSED = 4, /* the peer closed or reset; for those whose bytes stay in the socket */
};

struct watch
{
    struct loop *loop; /* borrows; NULL: not watching */
    int fd;            /* borrows */
    uint16_t wants;    /* WATCH_ bits */
    bool is_exempt;    /* goes on in a suspended loop */
    bool is_held;      /* the loop's: it was ready while that was suspended */
    void (*fn)(void *arg, unsigned what);
    void *arg;
    struct event *events[3]; /* own, made when first wanted: read, write, closed */
};

void watch_init(struct watch *watch, int fd, void (*fn)(void *arg, unsigned what), void *arg);

/* Attaches to a loop, waiting for nothing yet. Own thread of that loop. */
void watch_attach(struct watch *watch, struct loop *loop);

/* Stops waiting and leaves the loop; the watch can be attached to another one by another thread. */
void watch_detach(struct watch *watch);

/* Says what is waited for from now on: WATCH_ bits. No system call when nothing changes. */
void watch_want(struct watch *watch, unsigned wants);

/* Calls fn this or next turn as if the descriptor were ready. */
void watch_trigger(struct watch *watch, unsigned what);

/* ---- deadlines: something must have happened by then ---- */

struct deadline
{
    TAILQ_ENTRY(deadline) link; /* the wheel's */
    struct loop *loop;          /* borrows while running; NULL otherwise */
    int64_t at_us;
    void (*fn)(struct deadline *deadline);
};

/* Calls fn once, delay_us from now or up to a tick later. Starts again when running. A delay of 0
 * or less stops it: 0 means "no limit" in every setting. */
void deadline_start(
    struct deadline *deadline, struct loop *loop, int64_t delay_us, void (*fn)(struct deadline *));
void deadline_stop(struct deadline *deadline);
