/* Channels: who wants them, and what PostgreSQL is sent. */
#include "pool/channels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void
assert_sql(struct channels *channels, const char *expected)
{
    struct buf sql = {0};

    channels_sql(channels, &sql);
    buf_add_u8(&sql, 0);
    assert_string_equal((char *)buf_head(&sql), expected);
    buf_deinit(&sql);
}

static void
test_each_channel_is_listened_to_once(void **state)
{
    struct channels channels = {.workers = 2};

    (void)state;
    assert_true(channels_want(&channels, "a \"b\"", 0));
    assert_false(channels_want(&channels, "a \"b\"", 1));
    assert_false(channels_want(&channels, "a \"b\"", 1));
    assert_sql(&channels, "LISTEN \"a \"\"b\"\"\";");
    assert_sql(&channels, "");
    assert_int_equal(channels_count(&channels, "a \"b\"", 1), 2);
    assert_int_equal(channels_count(&channels, "A \"b\"", 1), 0);
    channels_leave(&channels, "a \"b\"", 0);
    assert_false(channels_concern(&channels, 0));
    assert_true(channels_concern(&channels, 1));
    channels_leave(&channels, "a \"b\"", 1);
    assert_sql(&channels, "");
    channels_leave(&channels, "a \"b\"", 1);
    assert_sql(&channels, "UNLISTEN \"a \"\"b\"\"\";");
    assert_null(channels.all);
    channels_deinit(&channels);
}

static void
test_channel_that_comes_back_is_listened_to_last(void **state)
{
    struct channels channels = {.workers = 1};

    (void)state;
    channels_want(&channels, "a", 0);
    assert_sql(&channels, "LISTEN \"a\";");
    channels_leave(&channels, "a", 0);
    assert_true(channels_want(&channels, "a", 0));
    assert_sql(&channels, "UNLISTEN \"a\";LISTEN \"a\";");
    channels_leave(&channels, "a", 0);
    channels_want(&channels, "a", 0);
    channels_forget_sent(&channels); /* a new session */
    assert_sql(&channels, "LISTEN \"a\";");
    channels_deinit(&channels);
}

static void
test_channel_that_was_never_sent_is_not_left(void **state)
{
    struct channels channels = {.workers = 1};

    (void)state;
    channels_want(&channels, "a", 0);
    channels_leave(&channels, "a", 0);
    assert_sql(&channels, "");
    channels_deinit(&channels);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_channel_is_listened_to_once),
        cmocka_unit_test(test_channel_that_comes_back_is_listened_to_last),
        cmocka_unit_test(test_channel_that_was_never_sent_is_not_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
