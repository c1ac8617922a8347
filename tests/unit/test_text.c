/* base/text: the values people write, and what we send in quotes. */
#include "base/text.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct row
{
    const char *text;
    bool is_good;
    int64_t value;
};

typedef bool parse_fn(const char *text, int64_t *out);

static void
check_rows(const struct row *rows, size_t count, parse_fn *parse)
{
    for (size_t i = 0; i < count; i++) {
        int64_t value = -77;
        bool is_good = parse(rows[i].text, &value);
        if (is_good != rows[i].is_good || (is_good && value != rows[i].value)) {
            fail_msg(
                "\"%s\" gave %s %lld", rows[i].text, is_good ? "good" : "bad", (long long)value);
        }
    }
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void
test_durations(void **state)
{
    static const struct row rows[] = {
        {"30", true, 30000000},
        {"0", true, 0},
        {"0.5", true, 500000},
        {".5", true, 500000},
        {"100ms", true, 100000},
        {"100 ms", true, 100000},
        {"2S", true, 2000000},
        {"5min", true, 300000000},
        {"1h", true, 3600000000},
        {"1d", true, 86400000000},
        {"7us", true, 7},
        {"", false, 0},
        {"-1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", true, 1000000},
        {"ms", false, 0},
        {".", false, 0},
        {"1.2.3", false, 0},
        {"1e3", false, 0},
        {"0x10", false, 0},
        {"1 week", false, 0},
        {"inf", false, 0},
        {"nan", false, 0},
        {"99999999999999999999d", false, 0},
        {"9223372036855", false, 0},
    };

    (void)state;
    check_rows(rows, COUNT(rows), text_parse_duration);
}

static void
test_sizes(void **state)
{
    static const struct row rows[] = {
        {"4096", true, 4096},
        {"64kB", true, 65536},
        {"64KiB", true, 65536},
        {"1MB", true, 1048576},
        {"2GB", true, 2147483648},
        {"-1", false, 0},
        {"1XB", false, 0},
        {"99999999999GB", false, 0},
        {"", false, 0},
    };

    (void)state;
    check_rows(rows, COUNT(rows), text_parse_size);
}

static bool
parse_decimal(const char *text, int64_t *out)
{
    return text_parse_integer(text, false, out);
}

static bool
parse_octal(const char *text, int64_t *out)
{
    return text_parse_integer(text, true, out);
}

static void
test_integers(void **state)
{
    static const struct row decimal[] = {
        {"0", true, 0},
        {"-5", true, -5},
        {"0700", true, 700},
        {"99999999999999999", true, 99999999999999999},
        {"9999999999999999999999", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"+5", false, 0},
        {" 5", false, 0},
        {"5 ", false, 0},
        {"5x", false, 0},
    };
    static const struct row octal[] = {
        {"0700", true, 0700},
        {"0777", true, 0777},
        {"10", true, 10},
        {"0", true, 0},
        {"08", false, 0},
    };

    (void)state;
    check_rows(decimal, COUNT(decimal), parse_decimal);
    check_rows(octal, COUNT(octal), parse_octal);
}

static bool
parse_bool(const char *text, int64_t *out)
{
    bool value = false;
    bool is_good = text_parse_bool(text, &value);

    *out = value;
    return is_good;
}

static void
test_bools(void **state)
{
    static const struct row rows[] = {
        {"1", true, 1},
        {"ON", true, 1},
        {"True", true, 1},
        {"yes", true, 1},
        {"0", true, 0},
        {"off", true, 0},
        {"FALSE", true, 0},
        {"no", true, 0},
        {"", false, 0},
        {"2", false, 0},
        {"y", false, 0},
        {"on ", false, 0},
    };

    (void)state;
    check_rows(rows, COUNT(rows), parse_bool);
}

static void
test_printed_durations_parse_back(void **state)
{
    static const int64_t values[] = {0, 1, 999, 1000, 250000, 1000000, 30000000, 600000000,
        3600000000, 86400000000, 86400000001, 90000000000};

    (void)state;
    for (size_t i = 0; i < COUNT(values); i++) {
        char text[32];
        int64_t again;
        text_print_duration(text, sizeof(text), values[i]);
        assert_true(text_parse_duration(text, &again));
        assert_int_equal(again, values[i]);
    }
}

static void
test_copy_tells_what_was_cut(void **state)
{
    char to[4];

    (void)state;
    assert_true(text_copy(to, sizeof(to), "abc"));
    assert_string_equal(to, "abc");
    assert_false(text_copy(to, sizeof(to), "abcd"));
    assert_string_equal(to, "abc");
    assert_true(text_copy(to, sizeof(to), ""));
    assert_string_equal(to, "");
}

static void
test_distance(void **state)
{
    char longest[200];

    (void)state;
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(text_distance("pool_size", "pool_size", 3), 0);
    assert_int_equal(text_distance("pool_size", "pool_sise", 3), 1);
    assert_int_equal(text_distance("", "abc", 3), 3);
    assert_int_equal(text_distance("kitten", "sitting", 5), 3);
    assert_int_equal(text_distance("abc", "xyzuvw", 2), 3);
    assert_int_equal(text_distance(longest, "a", 2), 3);
}

static void
test_quoting(void **state)
{
    static const struct
    {
        const char *value;
        const char *literal;
        const char *identifier;
    } rows[] = {
        {"", "''", "\"\""},
        {"abc", "'abc'", "\"abc\""},
        {"it's", "'it''s'", "\"it's\""},
        {"a\\b", " E'a\\\\b'", "\"a\\b\""},
        {"\\'; DROP TABLE t; --", " E'\\\\''; DROP TABLE t; --'", "\"\\'; DROP TABLE t; --\""},
        {"say \"hi\"", "'say \"hi\"'", "\"say \"\"hi\"\"\""},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf buf = {0};
        text_quote_literal(&buf, rows[i].value);
        buf_add_u8(&buf, 0);
        assert_string_equal((char *)buf_head(&buf), rows[i].literal);
        buf_clear(&buf);
        text_quote_identifier(&buf, rows[i].value);
        buf_add_u8(&buf, 0);
        assert_string_equal((char *)buf_head(&buf), rows[i].identifier);
        buf_deinit(&buf);
    }
}

static void
test_secrets(void **state)
{
    char *secret = mem_string("hunter2");

    (void)state;
    text_wipe(&secret);
    assert_null(secret);
    text_wipe(&secret);
    assert_true(text_equal_constant_time("abc", "abd", 2));
    assert_false(text_equal_constant_time("abc", "abd", 3));
    assert_true(text_equal_constant_time("a", "b", 0));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_bools),
        cmocka_unit_test(test_printed_durations_parse_back),
        cmocka_unit_test(test_copy_tells_what_was_cut),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_quoting),
        cmocka_unit_test(test_secrets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
