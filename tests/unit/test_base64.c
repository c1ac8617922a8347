/* wire/base64: one spelling for each run of bytes (RFC 4648, chapter 10), everything else refused.
 */
#include "wire/base64.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void
test_vectors(void **state)
{
    static const char *const rows[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"},
        {"\xfb\xff\xfe", "+//+"}};

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint8_t decoded[8];
        size_t len;
        struct buf buf = {0};
        base64_add(&buf, rows[i][0], strlen(rows[i][0]));
        assert_int_equal(buf_len(&buf), strlen(rows[i][1]));
        if (buf_len(&buf) > 0) {
            assert_memory_equal(buf_head(&buf), rows[i][1], buf_len(&buf));
        }
        assert_true(base64_decode(rows[i][1], strlen(rows[i][1]), decoded, 8, &len));
        assert_int_equal(len, strlen(rows[i][0]));
        assert_memory_equal(decoded, rows[i][0], len);
        buf_deinit(&buf);
    }
}

static void
test_hostile(void **state)
{
    static const char *const rows[] = {"Z", "Zg", "Zg=", "Zg===", "====", "=g==", "Z===", "Zg=v",
        "Zh==", "Zm9=", "Zm9v\n", "Zm9 ", " Zm9", "Zm9v=", "Zg==Zg==", "Zm-_", "Zm\xff\xff",
        "\n\n\n\n"};

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint8_t decoded[64];
        size_t len;
        char *copy = malloc(strlen(rows[i])); /* without its zero byte */
        memcpy(copy, rows[i], strlen(rows[i]));
        assert_false(base64_decode(copy, strlen(rows[i]), decoded, sizeof(decoded), &len));
        free(copy);
    }
}

static void
test_bounds(void **state)
{
    uint8_t *decoded = malloc(4);
    size_t len;

    (void)state;
    assert_true(base64_decode("Zm9vYg==", 8, decoded, 4, &len));
    assert_int_equal(len, 4);
    assert_false(base64_decode("Zm9vYmE=", 8, decoded, 4, &len));
    assert_false(base64_decode("Zm9vYmFy", 8, decoded, 4, &len));
    assert_false(base64_decode("Zg==", 4, decoded, 0, &len));
    free(decoded);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
