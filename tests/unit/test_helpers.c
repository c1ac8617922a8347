/* base/helpers: jobs run, urgent ones first, and stopping loses none. */
#include "base/helpers.h"

#include "base/mem.h"
#include "base/stats.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* A gate that jobs wait at until the test opens it. */
struct gate
{
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    int waiting;
    bool is_open;
};

struct test_job
{
    struct job job; /* first */
    struct gate *gate;
    int poll_fd;
    int number;
};

static atomic_int ran;
static atomic_int dropped;
static atomic_int order[64];

static void
gate_wait(struct gate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    gate->waiting++;
    pthread_cond_broadcast(&gate->moved);
    while (!gate->is_open) {
        pthread_cond_wait(&gate->moved, &gate->mutex);
    }
    pthread_mutex_unlock(&gate->mutex);
}

static void
gate_await(struct gate *gate, int count)
{
    pthread_mutex_lock(&gate->mutex);
    while (gate->waiting < count) {
        pthread_cond_wait(&gate->moved, &gate->mutex);
    }
    pthread_mutex_unlock(&gate->mutex);
}

static int
gate_waiting(struct gate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    int waiting = gate->waiting;
    pthread_mutex_unlock(&gate->mutex);
    return waiting;
}

static void
gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    gate->is_open = true;
    pthread_cond_broadcast(&gate->moved);
    pthread_mutex_unlock(&gate->mutex);
}

static void
run_job(struct job *job)
{
    struct test_job *test = (struct test_job *)job;

    if (test->gate != NULL) {
        gate_wait(test->gate);
    }
    if (test->poll_fd >= 0) {
        struct pollfd poll_fd = {.fd = test->poll_fd, .events = POLLIN};
        poll(&poll_fd, 1, 60000);
    }
    stats_add(METRIC_leases_total, 2);
    int place = atomic_fetch_add(&ran, 1);
    if (place < 64) {
        atomic_store(&order[place], test->number);
    }
    free(test);
}

static void
drop_job(struct job *job)
{
    atomic_fetch_add(&dropped, 1);
    free(job);
}

static void
give(struct helpers *helpers, enum job_kind kind, struct gate *gate, int number)
{
    struct test_job *test = mem_new(sizeof(*test));

    test->job = (struct job){.kind = kind, .run = run_job, .drop = drop_job};
    test->gate = gate;
    test->poll_fd = -1;
    test->number = number;
    helpers_run(helpers, &test->job);
}

#define GATE                                                                                       \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false                              \
    }

static int
setup(void **state)
{
    (void)state;
    atomic_store(&ran, 0);
    atomic_store(&dropped, 0);
    return 0;
}

static void
finish(struct helpers *helpers)
{
    assert_true(helpers_stop(helpers, 10000));
    helpers_free(&helpers);
    assert_null(helpers);
}

static void
test_no_job_no_thread(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){4, 1, 1, 1});
    struct pollfd poll_fd = {.fd = helpers_stop_fd(helpers), .events = POLLIN};

    (void)state;
    assert_int_equal(poll(&poll_fd, 1, 0), 0);
    assert_true(helpers_stop(helpers, 0));
    assert_int_equal(poll(&poll_fd, 1, 0), 1);
    helpers_free(&helpers);
}

static void
test_ordinary_jobs_leave_kept_threads(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){4, 1, 1, 1});
    struct gate slow = GATE;
    struct gate urgent = GATE;

    (void)state;
    for (int i = 0; i < 10; i++) {
        give(helpers, JOB_ORDINARY, &slow, i);
    }
    gate_await(&slow, 3);
    give(helpers, JOB_URGENT, &urgent, 99);
    gate_await(&urgent, 1); /* it runs although seven jobs were there before it */
    assert_int_equal(gate_waiting(&slow), 3);
    gate_open(&urgent);
    gate_open(&slow);
    gate_await(&slow, 10);
    finish(helpers);
    assert_int_equal(atomic_load(&ran) + atomic_load(&dropped), 11);
}

static void
give_of(struct helpers *helpers, const void *share, struct gate *gate, int number)
{
    struct test_job *test = mem_new(sizeof(*test));

    test->job =
        (struct job){.kind = JOB_ORDINARY, .run = run_job, .drop = drop_job, .share = share};
    test->gate = gate;
    test->poll_fd = -1;
    test->number = number;
    helpers_run(helpers, &test->job);
}

static void
test_jobs_of_one_share_leave_threads_to_others(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){8, 0, 1, 1});
    struct gate slow = GATE;
    struct gate quick = GATE;

    (void)state;
    for (int i = 0; i < 12; i++) {
        give_of(helpers, &slow, &slow, i);
    }
    gate_await(&slow, 6); /* three quarters */
    give_of(helpers, &quick, &quick, 50);
    give_of(helpers, NULL, &quick, 51);
    gate_await(&quick, 2); /* they run although six jobs were there before them */
    assert_int_equal(gate_waiting(&slow), 6);
    give_of(helpers, &quick, NULL, 52);
    gate_open(&quick);
    gate_open(&slow);
    gate_await(&slow, 12); /* none is forgotten, the last of the queue neither */
    finish(helpers);
    assert_int_equal(atomic_load(&ran) + atomic_load(&dropped), 15);
}

static void
test_all_threads_may_run_urgent_jobs(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){4, 1, 1, 1});
    struct gate gate = GATE;

    (void)state;
    for (int i = 0; i < 4; i++) {
        give(helpers, JOB_URGENT, &gate, i);
    }
    gate_await(&gate, 4);
    gate_open(&gate);
    finish(helpers);
    assert_int_equal(atomic_load(&ran), 4);
}

static void
test_heavy_jobs_run_few_at_a_time_beside_all_others(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){2, 0, 2, 1});
    struct gate heavy = GATE;
    struct gate slow = GATE;

    (void)state;
    for (int i = 0; i < 5; i++) {
        give(helpers, JOB_ORDINARY, &slow, i);
        give(helpers, JOB_HEAVY, &heavy, i);
    }
    gate_await(&slow, 2);
    gate_await(&heavy, 2);
    assert_int_equal(gate_waiting(&slow), 2);
    assert_int_equal(gate_waiting(&heavy), 2);
    gate_open(&slow);
    gate_await(&slow, 5); /* threads that have nothing else to do leave heavy jobs alone */
    assert_int_equal(gate_waiting(&heavy), 2);
    gate_open(&heavy);
    gate_await(&heavy, 5);
    finish(helpers);
    assert_int_equal(atomic_load(&ran), 10);
}

static void
test_urgent_first_then_in_order(void **state)
{
    static const int expected[] = {0, 100, 101, 1, 2, 3};
    struct helpers *helpers = helpers_new(&(struct helpers_limits){1, 0, 1, 1});
    struct gate gate = GATE;

    (void)state;
    give(helpers, JOB_ORDINARY, &gate, 0);
    gate_await(&gate, 1);
    give(helpers, JOB_ORDINARY, NULL, 1);
    give(helpers, JOB_ORDINARY, NULL, 2);
    give(helpers, JOB_URGENT, NULL, 100);
    give(helpers, JOB_URGENT, NULL, 101);
    give(helpers, JOB_ORDINARY, &gate, 3);
    gate_open(&gate);
    gate_await(&gate, 2);
    finish(helpers);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(atomic_load(&order[i]), expected[i]);
    }
}

static void
test_stop_drops_what_waits_and_wakes_what_polls(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){2, 0, 1, 1});
    struct gate gate = GATE;

    (void)state;
    gate.is_open = true;
    for (int i = 0; i < 5; i++) {
        struct test_job *test = mem_new(sizeof(*test));
        test->job = (struct job){.kind = JOB_ORDINARY, .run = run_job, .drop = drop_job};
        test->gate = &gate;
        test->poll_fd = helpers_stop_fd(helpers);
        helpers_run(helpers, &test->job);
    }
    gate_await(&gate, 2);
    assert_true(helpers_stop(helpers, 10000));
    assert_int_equal(atomic_load(&ran), 2);
    assert_int_equal(atomic_load(&dropped), 3);
    give(helpers, JOB_URGENT, NULL, 7); /* at once, in this thread */
    assert_int_equal(atomic_load(&dropped), 4);
    helpers_free(&helpers);
}

static void
test_stop_gives_up_on_what_hangs(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){2, 0, 1, 1});
    struct gate gate = GATE;

    (void)state;
    give(helpers, JOB_ORDINARY, &gate, 0);
    gate_await(&gate, 1);
    assert_false(helpers_stop(helpers, 20));
    gate_open(&gate);
    finish(helpers);
    assert_int_equal(atomic_load(&ran), 1);
}

static void *
give_many(void *arg)
{
    for (int i = 0; i < 2000; i++) {
        give(arg, i % 3 == 0 ? JOB_URGENT : JOB_ORDINARY, NULL, i);
    }
    return NULL;
}

static void
test_many_makers_lose_nothing(void **state)
{
    struct helpers *helpers = helpers_new(&(struct helpers_limits){8, 2, 1, 1});
    uint64_t before = stats_sum(METRIC_leases_total);
    pthread_t makers[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&makers[i], NULL, give_many, helpers), 0);
    }
    usleep(2000);
    assert_true(helpers_stop(helpers, 10000)); /* in the middle of it */
    for (int i = 0; i < 4; i++) {
        pthread_join(makers[i], NULL);
    }
    helpers_free(&helpers);
    assert_int_equal(atomic_load(&ran) + atomic_load(&dropped), 8000);
    assert_int_equal(stats_sum(METRIC_leases_total) - before, 2 * atomic_load(&ran));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_no_job_no_thread, setup),
        cmocka_unit_test_setup(test_ordinary_jobs_leave_kept_threads, setup),
        cmocka_unit_test_setup(test_jobs_of_one_share_leave_threads_to_others, setup),
        cmocka_unit_test_setup(test_all_threads_may_run_urgent_jobs, setup),
        cmocka_unit_test_setup(test_heavy_jobs_run_few_at_a_time_beside_all_others, setup),
        cmocka_unit_test_setup(test_urgent_first_then_in_order, setup),
        cmocka_unit_test_setup(test_stop_drops_what_waits_and_wakes_what_polls, setup),
        cmocka_unit_test_setup(test_stop_gives_up_on_what_hangs, setup),
        cmocka_unit_test_setup(test_many_makers_lose_nothing, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
