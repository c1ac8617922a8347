/* base/histogram: bounds, counting and quantiles. */
#include "base/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void
test_each_time_is_in_the_slot_of_its_bounds(void **state)
{
    (void)state;
    for (int64_t us = 1; us < (int64_t)1 << 37; us += us / 7 + 1) {
        unsigned slot = histogram_slot(us);
        assert_true(slot < HISTOGRAM_SLOTS);
        assert_true(us <= histogram_bound_us(slot));
        assert_true(slot == 0 || us > histogram_bound_us(slot - 1));
    }
    for (unsigned slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        assert_int_equal(histogram_slot(histogram_bound_us(slot)), slot);
    }
}

static void
test_extremes(void **state)
{
    (void)state;
    assert_int_equal(histogram_slot(INT64_MIN), 0);
    assert_int_equal(histogram_slot(0), 0);
    assert_int_equal(histogram_slot(1), 0);
    assert_int_equal(histogram_slot(INT64_MAX), HISTOGRAM_SLOTS - 1);
    assert_int_equal(histogram_slot(((int64_t)1 << 37) + 1), HISTOGRAM_SLOTS - 1);
}

static void
test_counts_up_to_a_power_of_two(void **state)
{
    struct histogram histogram = {{0}};

    (void)state;
    histogram_add(&histogram, 1024);
    histogram_add(&histogram, 1025);
    assert_int_equal(histogram_up_to(&histogram, 10), 1);
    assert_int_equal(histogram_up_to(&histogram, 11), 2);
    assert_int_equal(histogram_total(&histogram), 2);
}

static void
test_quantiles(void **state)
{
    struct histogram histogram = {{0}}, earlier;

    (void)state;
    assert_int_equal(histogram_quantile_us(&histogram, 0.5), 0);
    for (int64_t us = 1; us <= 10000; us++) {
        histogram_add(&histogram, us);
    }
    assert_in_range(histogram_quantile_us(&histogram, 0.5), 4800, 5200);
    assert_in_range(histogram_quantile_us(&histogram, 0.99), 9700, 10300);
    assert_in_range(histogram_quantile_us(&histogram, 1), 9999, 10240);
    earlier = histogram;
    histogram_add(&histogram, 77);
    histogram_subtract(&histogram, &earlier);
    assert_in_range(histogram_quantile_us(&histogram, 0.95), 65, 80);
    histogram_merge(&histogram, &histogram);
    assert_int_equal(histogram_total(&histogram), 2);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_time_is_in_the_slot_of_its_bounds),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_counts_up_to_a_power_of_two),
        cmocka_unit_test(test_quantiles),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
