/* wire/message: framing, reading what peers sent (well-formed or not), making messages. */
#include "wire/message.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A copy of exactly len bytes on the heap, so that a sanitizer sees any byte read beyond. */
static uint8_t *
exact(const void *data, size_t len)
{
    uint8_t *copy = malloc(len == 0 ? 1 : len);

    assert_non_null(copy);
    if (len > 0) {
        memcpy(copy, data, len);
    }
    return copy;
}

static void
test_peek(void **state)
{
    static const struct
    {
        const char *data;
        size_t len;
        enum message_result result;
        uint32_t message_len;
        bool is_complete;
    } rows[] = {
        {"", 0, MESSAGE_MORE, 0, false},
        {"Q\0\0\0", 4, MESSAGE_MORE, 0, false},
        {"S\0\0\0\4", 5, MESSAGE_OK, 5, true},
        {"Q\0\0\0\6a", 6, MESSAGE_OK, 7, false},
        {"Q\0\0\0\6a\0", 7, MESSAGE_OK, 7, true},
        {"Q\0\0\0\6a\0X", 8, MESSAGE_OK, 7, true},
        {"Q\0\0\0\0", 5, MESSAGE_BAD, 0, false},
        {"Q\0\0\0\3", 5, MESSAGE_BAD, 0, false},
        {"Q\x7f\xff\xff\xff", 5, MESSAGE_OK, 0x80000000U, false},
        {"Q\x80\0\0\0", 5, MESSAGE_BAD, 0, false},
        {"Q\xff\xff\xff\xff", 5, MESSAGE_BAD, 0, false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct message message = {0};
        uint8_t *data = exact(rows[i].data, rows[i].len);
        assert_int_equal(message_peek(data, rows[i].len, &message), rows[i].result);
        if (rows[i].result == MESSAGE_OK) {
            assert_int_equal(message.type, rows[i].data[0]);
            assert_int_equal(message.len, rows[i].message_len);
            assert_int_equal(message.body_len, rows[i].message_len - 5);
            assert_ptr_equal(message.body, data + 5);
            assert_int_equal(message_is_complete(&message, rows[i].len), rows[i].is_complete);
        }
        free(data);
    }
}

static void
test_names(void **state)
{
    (void)state;
    assert_string_equal(message_name('D', true), "Describe");
    assert_string_equal(message_name('D', false), "DataRow");
    assert_string_equal(message_name('Z', false), "ReadyForQuery");
    for (int type = 0; type < 256; type++) {
        assert_non_null(message_name((uint8_t)type, true));
        assert_non_null(message_name((uint8_t)type, false));
    }
    assert_string_equal(message_name(0, true), "unknown");
}

static void
test_reader_takes_apart(void **state)
{
    uint8_t *data = exact("\1\2\3\4\5\6\7abc\0xy", 13);
    struct reader reader = reader_over(data, 13);

    (void)state;
    assert_int_equal(reader_u8(&reader), 1);
    assert_int_equal(reader_u16(&reader), 0x0203);
    assert_int_equal(reader_u32(&reader), 0x04050607);
    assert_string_equal(reader_string(&reader), "abc");
    assert_false(reader_is_done(&reader));
    assert_memory_equal(reader_bytes(&reader, 2), "xy", 2);
    assert_true(reader_is_done(&reader));
    assert_non_null(reader_bytes(&reader, 0));
    free(data);
}

static void
test_reader_never_reads_past_the_end(void **state)
{
    (void)state;
    for (int what = 0; what < 6; what++) {
        uint8_t *data = exact("abc", 3);
        struct reader reader = reader_over(data, what == 0 ? 0 : 3);
        reader_bytes(&reader, what == 0 || what == 3 ? 0 : 2);
        switch (what) {
        case 0:
            assert_int_equal(reader_u8(&reader), 0);
            break;
        case 1:
            assert_int_equal(reader_u16(&reader), 0);
            break;
        case 2:
            assert_int_equal(reader_u32(&reader), 0);
            break;
        case 3:
            assert_string_equal(reader_string(&reader), "");
            break;
        case 4:
            assert_null(reader_bytes(&reader, SIZE_MAX));
            break;
        default:
            assert_null(reader_bytes(&reader, 2));
            break;
        }
        assert_true(reader.is_bad);
        /* for good: what would have fitted does not come any more */
        assert_int_equal(reader_u8(&reader), 0);
        assert_string_equal(reader_string(&reader), "");
        assert_null(reader_bytes(&reader, 0));
        assert_false(reader_is_done(&reader));
        free(data);
    }
    struct reader nothing = reader_over(NULL, 0);
    assert_true(reader_is_done(&nothing));
}

static void
test_parse_error(void **state)
{
    static const struct
    {
        const char *body;
        size_t len;
        bool is_good;
        struct error_fields fields;
    } rows[] = {
#define BODY(text) text, sizeof(text) - 1
        {BODY("SFEHLER\0VERROR\0C40001\0Mm\0Dd\0Hh\0Fa.c\0L12\0Rr\0\0"), true,
            {"ERROR", "40001", "m", "d", "h", "r"}},
        {BODY("VFATAL\0SFATAL\0C57P01\0Mgone\0\0"), true, {"FATAL", "57P01", "gone", "", "", ""}},
        {BODY("SFATAL\0Mold server\0\0"), true, {"FATAL", "", "old server", "", "", ""}},
        {BODY("\0"), true, {"", "", "", "", "", ""}},
        /* hostile: nothing at all, no terminator, no zero byte, twice, behind the terminator */
        {BODY(""), false, {"", "", "", "", "", ""}},
        {BODY("VERROR\0"), false, {"ERROR", "", "", "", "", ""}},
        {BODY("VERROR\0C400"), false, {"ERROR", "", "", "", "", ""}},
        {BODY("V"), false, {"", "", "", "", "", ""}},
        {BODY("VERROR\0VFATAL\0Ma\0Mb\0\0"), true, {"ERROR", "", "a", "", "", ""}},
        {BODY("VERROR\0\0C40001\0"), false, {"ERROR", "", "", "", "", ""}},
        {BODY("V\0C\0M\0D\0H\0S\0\0"), true, {"", "", "", "", "", ""}},
#undef BODY
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct error_fields fields;
        uint8_t *body = exact(rows[i].body, rows[i].len);
        assert_int_equal(message_parse_error(body, rows[i].len, &fields), rows[i].is_good);
        assert_string_equal(fields.severity, rows[i].fields.severity);
        assert_string_equal(fields.sqlstate, rows[i].fields.sqlstate);
        assert_string_equal(fields.message, rows[i].fields.message);
        assert_string_equal(fields.detail, rows[i].fields.detail);
        assert_string_equal(fields.hint, rows[i].fields.hint);
        assert_string_equal(fields.routine, rows[i].fields.routine);
        free(body);
    }
}

static void
test_error_to_fail(void **state)
{
    static const struct
    {
        const char *given;
        const char *sqlstate;
    } states[] = {{"40001", "40001"}, {"57P01", "57P01"}, {"", "XX000"}, {"4000", "XX000"},
        {"400011", "XX000"}, {"40 01", "XX000"}, {"abcde", "XX000"}};
    char long_text[2000] = "x";
    struct fail fail;

    (void)state;
    for (size_t i = 0; i < COUNT(states); i++) {
        struct error_fields fields = {"ERROR", states[i].given, "why", "more", "do", ""};
        assert_false(message_error_to_fail(&fields, &fail));
        assert_string_equal(fail.sqlstate, states[i].sqlstate);
        assert_string_equal(fail.text, "why");
        assert_string_equal(fail.detail, "more");
        assert_true(fail.is_verbatim);
    }
    /* A message of two-byte characters is cut between two of them. */
    for (size_t i = 1; i + 2 < sizeof(long_text); i += 2) {
        memcpy(long_text + i, "\xc3\xa4", 3);
    }
    struct error_fields fields = {"ERROR", "22000", long_text, long_text + 1, "", ""};
    message_error_to_fail(&fields, &fail);
    assert_int_equal(strlen(fail.text) % 2, 1);
    assert_int_equal(strlen(fail.detail) % 2, 0);
    assert_true(strlen(fail.text) >= sizeof(fail.text) - 2);
    struct error_fields empty = {"", "", "", "", "", ""};
    message_error_to_fail(&empty, &fail);
    assert_true(fail.text[0] != '\0');
}

#define CHECK(buf, bytes)                                                                          \
    do {                                                                                           \
        assert_int_equal(buf_len(&(buf)), sizeof(bytes) - 1);                                      \
        assert_memory_equal(buf_head(&(buf)), bytes, sizeof(bytes) - 1);                           \
        buf_clear(&(buf));                                                                         \
    } while (0)

static void
test_made_messages(void **state)
{
    static const char *const mechanisms[] = {"SCRAM-SHA-256", NULL};
    static const char *const names[] = {"_pq_.a", "_pq_.b"};
    struct buf buf = {0};

    (void)state;
    message_add_simple(&buf, MSG_SYNC);
    message_add_simple(&buf, MSG_PARSE_COMPLETE);
    CHECK(buf, "S\0\0\0\4"
               "1\0\0\0\4");
    message_add_ready(&buf, 'T');
    CHECK(buf, "Z\0\0\0\5T");
    message_add_parameter(&buf, "a", "bc");
    CHECK(buf, "S\0\0\0\11a\0bc\0");
    message_add_key(&buf, 0x01020304, "key!x", 5);
    CHECK(buf, "K\0\0\0\15\1\2\3\4key!x");
    message_add_auth(&buf, AUTH_OK, NULL, 0);
    CHECK(buf, "R\0\0\0\10\0\0\0\0");
    message_add_auth(&buf, AUTH_MD5, "salt", 4);
    CHECK(buf, "R\0\0\0\14\0\0\0\5salt");
    message_add_auth_sasl(&buf, mechanisms);
    CHECK(buf, "R\0\0\0\27\0\0\0\12SCRAM-SHA-256\0\0");
    message_add_command_complete(&buf, "ROLLBACK");
    CHECK(buf, "C\0\0\0\15ROLLBACK\0");
    message_add_query(&buf, "");
    CHECK(buf, "Q\0\0\0\5\0");
    message_add_negotiate_version(&buf, 2, names, 2);
    CHECK(buf, "v\0\0\0\32\0\3\0\2\0\0\0\2_pq_.a\0_pq_.b\0");
    message_add_no_parameters(&buf);
    CHECK(buf, "t\0\0\0\6\0\0");
    buf_deinit(&buf);
}

static void
test_made_rows(void **state)
{
    static const struct message_column columns[] = {
        {"n", OID_INT8}, {"t", OID_TEXT}, {"i", OID_INT4}};
    struct buf buf = {0};

    (void)state;
    message_add_row_description(&buf, columns, 3, false);
    CHECK(buf, "T\0\0\0\102\0\3"
               "n\0\0\0\0\0\0\0\0\0\0\24\0\10\377\377\377\377\0\0"
               "t\0\0\0\0\0\0\0\0\0\0\31\377\377\377\377\377\377\0\0"
               "i\0\0\0\0\0\0\0\0\0\0\27\0\4\377\377\377\377\0\0");
    size_t begin = message_begin_row(&buf, 4);
    message_row_integer(&buf, INT64_MIN);
    message_row_text(&buf, "x");
    message_row_text(&buf, NULL);
    message_row_text(&buf, "");
    message_end(&buf, begin);
    CHECK(buf, "D\0\0\0\53\0\4"
               "\0\0\0\24-9223372036854775808"
               "\0\0\0\1x"
               "\377\377\377\377"
               "\0\0\0\0");
    buf_deinit(&buf);
}

/* What we make is what we read; and a message behind another one has a length of its own. */
static void
test_error_there_and_back(void **state)
{
    struct buf buf = {0};
    struct fail fail;
    struct error_fields fields;
    struct message message = {0};

    (void)state;
    fail_set(&fail, "08007", "unknown");
    fail_detail(&fail, "why");
    message_add_ready(&buf, 'I');
    message_add_error(&buf, "FATAL", &fail);
    message_add_notice(&buf, "NOTICE", &fail);
    buf_consume(&buf, 6);
    assert_int_equal(message_peek(buf_head(&buf), buf_len(&buf), &message), MESSAGE_OK);
    assert_int_equal(message.type, MSG_ERROR);
    assert_true(message_parse_error(message.body, message.body_len, &fields));
    assert_string_equal(fields.severity, "FATAL");
    assert_string_equal(fields.sqlstate, "08007");
    assert_string_equal(fields.message, "unknown");
    assert_string_equal(fields.detail, "why");
    assert_string_equal(fields.hint, "");
    buf_consume(&buf, message.len);
    assert_int_equal(message_peek(buf_head(&buf), buf_len(&buf), &message), MESSAGE_OK);
    assert_int_equal(message.type, MSG_NOTICE);
    assert_int_equal(message.len, buf_len(&buf));
    buf_clear(&buf);

    struct error_fields full = {"ERROR", "42601", "m", NULL, "h", ""};
    message_add_fields(&buf, MSG_ERROR, &full);
    CHECK(buf, "E\0\0\0\40SERROR\0VERROR\0C42601\0Mm\0Hh\0\0");
    buf_deinit(&buf);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peek),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_reader_takes_apart),
        cmocka_unit_test(test_reader_never_reads_past_the_end),
        cmocka_unit_test(test_parse_error),
        cmocka_unit_test(test_error_to_fail),
        cmocka_unit_test(test_made_messages),
        cmocka_unit_test(test_made_rows),
        cmocka_unit_test(test_error_there_and_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
