/* pool/vars: settings of a session, and the SQL from one set to another. */
#include "pool/vars.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void
fill(struct vars *vars, const char *const *pairs)
{
    for (; pairs[0] != NULL; pairs += 2) {
        vars_put(vars, pairs[0], pairs[1]);
    }
}

static void
test_names_are_found_in_any_case_and_values_replaced(void **state)
{
    struct vars vars = {0};
    static const char *const values[] = {
        "", "x", "a much longer value", "'; drop table x; --", "x"};

    (void)state;
    vars_put(&vars, "TimeZone", "UTC");
    vars_put(&vars, "alpha", "1");
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        vars_put(&vars, "Search_Path", values[i]);
        assert_string_equal(vars_find(&vars, "search_path"), values[i]);
        assert_string_equal(vars_find(&vars, "timezone"), "UTC");
        assert_string_equal(vars_find(&vars, "ALPHA"), "1");
    }
    assert_null(vars_find(&vars, "search"));
    assert_null(vars_find(&vars, ""));
    vars_remove(&vars, "ALPHA");
    vars_remove(&vars, "nothing");
    assert_null(vars_find(&vars, "alpha"));
    assert_string_equal(vars_find(&vars, "timezone"), "UTC");
    vars_deinit(&vars);
}

static void
test_order_of_arrival_does_not_matter(void **state)
{
    static const char *const one[] = {"a", "1", "c", "3", "b", "2", NULL};
    static const char *const two[] = {"c", "9", "b", "2", "a", "1", "c", "3", NULL};
    struct vars a = {0}, b = {0}, c = {0};

    (void)state;
    fill(&a, one);
    fill(&b, two);
    assert_true(vars_are_equal(&a, &b));
    vars_copy(&c, &a);
    assert_true(vars_are_equal(&a, &c));
    vars_put(&c, "b", "3");
    assert_false(vars_are_equal(&a, &c));
    vars_remove(&b, "c");
    assert_false(vars_are_equal(&a, &b));
    vars_deinit(&a);
    vars_deinit(&b);
    vars_deinit(&c);
}

static const struct
{
    const char *from[5], *to[5], *sql;
} changes[] = {
    {{NULL}, {NULL}, ""},
    {{"a", "1", NULL}, {"a", "1", NULL}, ""},
    {{NULL}, {"a", "1", NULL}, "SELECT pg_catalog.set_config('a','1',false);"},
    {{"a", "1", NULL}, {NULL}, "RESET \"a\";"},
    {{"a", "1", NULL}, {"a", "", NULL}, "SELECT pg_catalog.set_config('a','',false);"},
    {{"x\"y", "1", NULL}, {NULL}, "RESET \"x\"\"y\";"},
    {{NULL}, {"a", "'; drop", NULL}, "SELECT pg_catalog.set_config('a','''; drop',false);"},
    {{NULL}, {"a", "\\' or", NULL}, "SELECT pg_catalog.set_config('a', E'\\\\'' or',false);"},
    {{NULL}, {"a", "1\n2", NULL}, "SELECT pg_catalog.set_config('a','1\n2',false);"},
    {{"a", "1", "b", "2", NULL}, {"b", "3", NULL},
        "RESET \"a\";SELECT pg_catalog.set_config('b','3',false);"},
};

static void
test_sql_makes_one_session_like_the_other(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct vars from = {0}, to = {0};
        struct buf sql = {0};

        fill(&from, changes[i].from);
        fill(&to, changes[i].to);
        vars_sql(&from, &to, &sql);
        buf_add_u8(&sql, 0);
        assert_string_equal((const char *)buf_head(&sql), changes[i].sql);
        buf_deinit(&sql);
        vars_deinit(&from);
        vars_deinit(&to);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_are_found_in_any_case_and_values_replaced),
        cmocka_unit_test(test_order_of_arrival_does_not_matter),
        cmocka_unit_test(test_sql_makes_one_session_like_the_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
