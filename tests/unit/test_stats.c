/* base/stats: every metric has its words, and what many threads count adds up. */
#include "base/stats.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void
test_rows(void **state)
{
    (void)state;
    assert_string_equal(stats_row(METRIC_client_logins_total)->name, "client_logins_total");
    assert_string_equal(stats_row(METRIC_retries_reads_total)->label, "row=\"reads\"");
    assert_string_equal(
        stats_timing_row(TIMING_client_login_seconds)->name, "client_login_seconds");
    for (enum metric metric = 0; metric < METRICS; metric++) {
        const struct metric_row *row = stats_row(metric);
        const struct metric_row *before = metric > 0 ? stats_row(metric - 1) : NULL;
        bool is_first = before == NULL || strcmp(before->name, row->name) != 0;
        assert_true(strlen(row->name) > 0);
        assert_int_equal(strlen(row->help) > 0, is_first);
        assert_true(!is_first || row->help[strlen(row->help) - 1] == '.');
        assert_true(is_first || row->label != NULL);
        assert_true(row->kind == METRIC_COUNTER || row->kind == METRIC_GAUGE);
    }
}

static void
test_times_of_threads_add_up(void **state)
{
    struct histogram histogram;
    uint64_t sum_us;

    (void)state;
    stats_time(TIMING_client_login_seconds, 1000);
    stats_thread_init();
    stats_time(TIMING_client_login_seconds, 3000);
    stats_time(TIMING_client_login_seconds, -5);
    stats_thread_deinit();
    stats_timed(TIMING_client_login_seconds, &histogram, &sum_us);
    assert_int_equal(sum_us, 4000);
    assert_int_equal(histogram_total(&histogram), 3);
    assert_int_equal(histogram_up_to(&histogram, 10), 2);
    stats_timed(TIMING_server_connect_seconds, &histogram, &sum_us);
    assert_int_equal(histogram_total(&histogram), 0);
}

/* However many kinds of errors there are, the number of counters stays bounded. */
static void
test_sqlstates(void **state)
{
    char name[8], found[6];
    uint64_t count;
    unsigned n = 0;

    (void)state;
    assert_false(stats_next_sqlstate(0, found, &count));
    stats_sqlstate("53300");
    stats_sqlstate("53300");
    assert_true(stats_next_sqlstate(0, found, &count));
    assert_string_equal(found, "53300");
    assert_int_equal(count, 2);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "X%04d", i % 10000);
        stats_sqlstate(name);
    }
    while (stats_next_sqlstate(n, found, &count)) {
        n++;
    }
    assert_int_equal(n, SQLSTATES_MAX + 1);
    assert_string_equal(found, "other");
    assert_int_equal(count, 1000 - (SQLSTATES_MAX - 1));
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
        cmocka_unit_test(test_times_of_threads_add_up),
        cmocka_unit_test(test_sqlstates),
        cmocka_unit_test(test_shared_and_own_block),
        cmocka_unit_test(test_threads_add_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
