/* base/buf: what goes in comes out, whatever was consumed in between. */
#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void
test_empty_owns_nothing(void **state)
{
    struct buf buf = {0};

    (void)state;
    assert_int_equal(buf_len(&buf), 0);
    buf_add(&buf, "", 0);
    assert_null(buf.data);
    buf_deinit(&buf);
}

static void
test_numbers_are_in_network_order(void **state)
{
    static const uint8_t expected[] = {0xAB, 0x12, 0x34, 0xDE, 0xAD, 0xBE, 0xEF, 'x', 0};
    struct buf buf = {0};

    (void)state;
    buf_add_u8(&buf, 0xAB);
    buf_add_u16(&buf, 0x1234);
    buf_add_u32(&buf, 0xDEADBEEF);
    buf_add_string(&buf, "x");
    assert_int_equal(buf_len(&buf), sizeof(expected));
    assert_memory_equal(buf_head(&buf), expected, sizeof(expected));
    buf_deinit(&buf);
}

static void
test_patch_is_relative_to_the_head(void **state)
{
    struct buf buf = {0};

    (void)state;
    buf_add(&buf, "abc", 3);
    buf_consume(&buf, 1);
    buf_add_u32(&buf, 0);
    buf_patch_u32(&buf, 2, 0x01020304);
    assert_memory_equal(buf_head(&buf), "bc\1\2\3\4", 6);
    buf_deinit(&buf);
}

static void
test_print_grows(void **state)
{
    struct buf buf = {0};
    char long_text[300];

    (void)state;
    memset(long_text, 'y', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    buf_print(&buf, "%d-%s", 42, long_text);
    assert_int_equal(buf_len(&buf), 302);
    assert_memory_equal(buf_head(&buf), "42-yyy", 6);
    buf_print(&buf, "%s", "");
    assert_int_equal(buf_len(&buf), 302);
    buf_deinit(&buf);
}

/* The same bytes through a buffer in pieces of every size, consumed at another pace. */
static void
test_stream_survives_any_pace(void **state)
{
    (void)state;
    for (size_t in = 1; in < 40; in++) {
        struct buf buf = {0};
        uint8_t next_in = 0;
        uint8_t next_out = 0;
        for (int turn = 0; turn < 200; turn++) {
            uint8_t *room = buf_room(&buf, in);
            for (size_t i = 0; i < in; i++) {
                room[i] = next_in++;
            }
            buf_added(&buf, in);
            size_t out = (size_t)turn % (in + 3);
            out = out < buf_len(&buf) ? out : buf_len(&buf);
            for (size_t i = 0; i < out; i++) {
                assert_int_equal(buf_head(&buf)[i], next_out++);
            }
            buf_consume(&buf, out);
        }
        buf_deinit(&buf);
    }
}

static void
test_memory_goes_with_the_last_byte(void **state)
{
    struct buf buf = {0};

    (void)state;
    buf_add(&buf, "abc", 3);
    buf_clear(&buf);
    assert_int_equal(buf_len(&buf), 0);
    assert_non_null(buf.data);
    buf_add(&buf, "abc", 3);
    buf_consume(&buf, 3);
    assert_null(buf.data);
    assert_int_equal(buf.size, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_owns_nothing),
        cmocka_unit_test(test_numbers_are_in_network_order),
        cmocka_unit_test(test_patch_is_relative_to_the_head),
        cmocka_unit_test(test_print_grows),
        cmocka_unit_test(test_stream_survives_any_pace),
        cmocka_unit_test(test_memory_goes_with_the_last_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
