/* base/stats: every metric has its words, and what many threads count adds up. */
#include "base/stats.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void
test_rows(void **state)
{
    (void)state;
    assert_string_equal(stats_name(METRIC_client_logins_total), "client_logins_total");
    for (enum metric metric = 0; metric < METRICS; metric++) {
        assert_true(strlen(stats_name(metric)) > 0);
        assert_int_equal(stats_help(metric)[strlen(stats_help(metric)) - 1], '.');
        assert_true(stats_kind(metric) == METRIC_COUNTER || stats_kind(metric) == METRIC_GAUGE);
    }
}

static void
test_shared_and_own_block(void **state)
{
    uint64_t before = stats_sum(METRIC_queries_total);

    (void)state;
    stats_add(METRIC_queries_total, 5);
    stats_thread_init();
    stats_thread_init();
    stats_add(METRIC_queries_total, 7);
    stats_add(METRIC_queries_total, (uint64_t)-1);
    stats_thread_deinit();
    stats_thread_deinit();
    assert_int_equal(stats_sum(METRIC_queries_total) - before, 11);
}

/* Without a block of its own when there is an argument. */
static void *
count(void *arg)
{
    if (arg == NULL) {
        stats_thread_init();
    }
    for (int i = 0; i < 1000; i++) {
        stats_add(METRIC_bytes_sent_total, 3);
    }
    stats_thread_deinit();
    return NULL;
}

/* More threads in a row than there are blocks, some of them at the same time. */
static void
test_threads_add_up(void **state)
{
    enum
    {
        ROUNDS = 100,
        AT_ONCE = 4
    };
    pthread_t threads[AT_ONCE];

    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++) {
            void *arg = i == 0 ? (void *)state : NULL;
            assert_int_equal(pthread_create(&threads[i], NULL, count, arg), 0);
        }
        assert_true(stats_sum(METRIC_bytes_sent_total) % 3 == 0);
        for (int i = 0; i < AT_ONCE; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    assert_int_equal(stats_sum(METRIC_bytes_sent_total), ROUNDS * AT_ONCE * 3000);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_shared_and_own_block),
        cmocka_unit_test(test_threads_add_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
