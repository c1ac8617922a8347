/* wire/startup: first packets, whole, in pieces, and broken. */
#include "wire/startup.h"

#include "base/buf.h"
#include "wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BYTES(text) text, sizeof(text) - 1

/* A packet with the right length word; version is major << 16 | minor. */
static struct buf
packet(uint32_t version, const void *rest, size_t len)
{
    struct buf buf = {0};

    buf_add_u32(&buf, (uint32_t)len + 8);
    buf_add_u32(&buf, version);
    buf_add(&buf, rest, len);
    return buf;
}

enum
{
    V30 = 3 << 16,
    CANCEL = 1234 << 16 | 5678,
    SSL_WISH = 1234 << 16 | 5679
};

static const struct sample
{
    uint32_t version;
    const char *rest;
    size_t len;
    enum startup_result result;
    const char *sqlstate;
    const char *text;
} samples[] = {
    {V30, BYTES("user\0ann\0database\0app\0\0"), STARTUP_LOGIN, "", ""},
    {V30 | 2, BYTES("user\0ann\0\0"), STARTUP_LOGIN, "", ""},
    {V30 | 9999, BYTES("user\0ann\0_pq_.x\0y\0\0"), STARTUP_LOGIN, "", ""},
    {SSL_WISH, BYTES(""), STARTUP_SSL, "", ""},
    {SSL_WISH + 1, BYTES(""), STARTUP_GSS, "", ""},
    {CANCEL, BYTES("\0\0\0\7abcd"), STARTUP_CANCEL, "", ""},
    {CANCEL, BYTES("\0\0\0\7abcdefghijklmnopqrstuvwxyz012345"), STARTUP_CANCEL, "", ""},
    {V30, BYTES("database\0app\0\0"), STARTUP_BAD, "28000",
        "no PostgreSQL user name specified in startup packet"},
    {V30, BYTES("user\0\0\0"), STARTUP_BAD, "28000",
        "no PostgreSQL user name specified in startup packet"},
    {2 << 16, BYTES("\0"), STARTUP_BAD, "0A000",
        "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"},
    {4 << 16 | 1, BYTES("user\0a\0\0"), STARTUP_BAD, "0A000",
        "unsupported frontend protocol 4.1: server supports 3.0 to 3.2"},
    {1234 << 16 | 1, BYTES(""), STARTUP_BAD, "0A000",
        "unsupported frontend protocol 1234.1: server supports 3.0 to 3.2"},
    {SSL_WISH, BYTES("x"), STARTUP_BAD, "08P01", "invalid length of startup packet"},
    {CANCEL, BYTES("\0\0\0\7abc"), STARTUP_BAD, "08P01", "invalid length of cancel request packet"},
    {CANCEL, BYTES(""), STARTUP_BAD, "08P01", "invalid length of cancel request packet"},
#define LAYOUT "invalid startup packet layout: expected terminator as last byte"
    {V30, BYTES(""), STARTUP_BAD, "08P01", LAYOUT},
    {V30, BYTES("user\0ann\0"), STARTUP_BAD, "08P01", LAYOUT},
    {V30, BYTES("user\0ann"), STARTUP_BAD, "08P01", LAYOUT},
    {V30, BYTES("user\0"), STARTUP_BAD, "08P01", LAYOUT},
    {V30, BYTES("user"), STARTUP_BAD, "08P01", LAYOUT},
    {V30, BYTES("user\0ann\0\0x"), STARTUP_BAD, "08P01", LAYOUT},
    {V30, BYTES("user\0ann\0\0\0"), STARTUP_BAD, "08P01", LAYOUT},
};

static void
test_samples_at_every_length(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(samples); i++) {
        const struct sample *sample = &samples[i];
        struct buf buf = packet(sample->version, sample->rest, sample->len);
        for (size_t len = 0; len <= buf_len(&buf); len++) {
            struct startup startup;
            struct fail fail = {.text = ""};
            uint8_t *data = malloc(len + 1); /* sanitizers see what is read behind a piece */
            memcpy(data + 1, buf_head(&buf), len);
            enum startup_result result = startup_parse(data + 1, len, &startup, &fail);
            if (len < buf_len(&buf) && result != STARTUP_BAD) {
                assert_int_equal(result, STARTUP_MORE);
            } else {
                assert_int_equal(result, sample->result);
                assert_string_equal(fail.sqlstate, sample->sqlstate);
                assert_string_equal(fail.text, sample->text);
            }
            free(data);
        }
        buf_deinit(&buf);
    }
}

static void
test_absurd_lengths_are_refused_at_once(void **state)
{
    static const struct
    {
        const char *data;
        size_t len;
        enum startup_result result;
    } rows[] = {
        {BYTES(""), STARTUP_MORE},
        {BYTES("\0\0\0"), STARTUP_MORE},
        {BYTES("\0\0\0\0"), STARTUP_BAD},
        {BYTES("\0\0\0\4"), STARTUP_BAD},
        {BYTES("\0\0\0\7"), STARTUP_BAD},
        {BYTES("\0\0\0\10"), STARTUP_MORE},
        {BYTES("\0\0\x27\x14"), STARTUP_MORE}, /* PostgreSQL's limit, 10000 and the length word */
        {BYTES("\0\0\x27\x15"), STARTUP_BAD},
        {BYTES("\x7f\xff\xff\xff"), STARTUP_BAD},
        {BYTES("\x80\0\0\0"), STARTUP_BAD},
        {BYTES("\xff\xff\xff\xff"), STARTUP_BAD},
        {BYTES("GET / HTTP/1.1\r\n"), STARTUP_BAD},
        {BYTES("\x16\x03\x01\x02"), STARTUP_BAD},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct startup startup;
        struct fail fail;
        enum startup_result result =
            startup_parse((const uint8_t *)rows[i].data, rows[i].len, &startup, &fail);
        assert_int_equal(result, rows[i].result);
    }
}

static enum startup_result
parse(struct buf *buf, struct startup *startup)
{
    struct fail fail;

    return startup_parse(buf_head(buf), buf_len(buf), startup, &fail);
}

static void
test_login_members(void **state)
{
    struct startup startup;
    struct buf buf = packet(
        V30, BYTES("user\0bob\0user\0ann\0DateStyle\0ISO\0replication\0database\0options\0-c a=b\0"
                   "search_path\0x, y\0empty\0\0DateStyle\0German\0\0"));
    static const char *const expected[][2] = {
        {"DateStyle", "ISO"}, {"search_path", "x, y"}, {"empty", ""}, {"DateStyle", "German"}};
    size_t cursor = 0;
    const char *name;
    const char *value;

    (void)state;
    uint32_t len = (uint32_t)buf_len(&buf);
    buf_add(&buf, "Qbehind", 7);
    assert_int_equal(parse(&buf, &startup), STARTUP_LOGIN);
    assert_int_equal(startup.packet_len, len);
    assert_string_equal(startup.user, "ann"); /* the last one counts */
    assert_string_equal(startup.database, "ann");
    assert_string_equal(startup.replication, "database");
    assert_string_equal(startup.options, "-c a=b");
    assert_int_equal(startup.unknown_count, 0);
    for (size_t i = 0; i < COUNT(expected); i++) {
        assert_true(startup_next_param(&startup, &cursor, &name, &value));
        assert_string_equal(name, expected[i][0]);
        assert_string_equal(value, expected[i][1]);
    }
    assert_false(startup_next_param(&startup, &cursor, &name, &value));
    assert_false(startup_next_param(&startup, &cursor, &name, &value));
    buf_deinit(&buf);
}

static void
test_cancel_members(void **state)
{
    struct startup startup;
    uint8_t rest[4 + STARTUP_CANCEL_KEY_MAX + 1] = {0, 0, 1, 2};

    (void)state;
    memset(rest + 4, 0xAB, sizeof(rest) - 4);
    for (size_t key_len = 0; key_len <= STARTUP_CANCEL_KEY_MAX + 1; key_len++) {
        struct buf buf = packet(CANCEL, rest, 4 + key_len);
        enum startup_result result = parse(&buf, &startup);
        if (key_len < STARTUP_CANCEL_KEY_MIN || key_len > STARTUP_CANCEL_KEY_MAX) {
            assert_int_equal(result, STARTUP_BAD);
        } else {
            assert_int_equal(result, STARTUP_CANCEL);
            assert_int_equal(startup.cancel_pid, 0x0102);
            assert_int_equal(startup.cancel_key_len, key_len);
            assert_memory_equal(startup.cancel_key, rest + 4, key_len);
        }
        buf_deinit(&buf);
    }
}

static void
test_negotiation(void **state)
{
    static const struct
    {
        uint32_t version;
        const char *rest;
        size_t len;
        const char *reply;
        size_t reply_len;
        uint16_t minor;
    } rows[] = {
        {V30, BYTES("user\0a\0\0"), BYTES(""), 0},
        {V30 | 1, BYTES("user\0a\0\0"), BYTES(""), 1},
        {V30 | 2, BYTES("user\0a\0\0"), BYTES(""), 2},
        {V30 | 3, BYTES("user\0a\0\0"), BYTES("v\0\0\0\14\0\3\0\2\0\0\0\0"), 2},
        {V30 | 9999, BYTES("user\0a\0_pq_.test_protocol_negotiation\0\0\0"),
            BYTES("v\0\0\0\53\0\3\0\2\0\0\0\1_pq_.test_protocol_negotiation\0"), 2},
        {V30, BYTES("_pq_.a\0b\0user\0a\0x\0y\0_pq_.c\0d\0\0"),
            BYTES("v\0\0\0\32\0\3\0\0\0\0\0\2_pq_.a\0_pq_.c\0"), 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct startup startup;
        struct buf reply = {0};
        struct buf buf = packet(rows[i].version, rows[i].rest, rows[i].len);
        assert_int_equal(parse(&buf, &startup), STARTUP_LOGIN);
        assert_int_equal(startup_minor(&startup), rows[i].minor);
        startup_add_negotiation(&startup, &reply);
        assert_int_equal(buf_len(&reply), rows[i].reply_len);
        if (rows[i].reply_len > 0) {
            assert_memory_equal(buf_head(&reply), rows[i].reply, rows[i].reply_len);
        }
        buf_deinit(&reply);
        buf_deinit(&buf);
    }
}

/* As many parameters as fit: no limit of ours is reached before the packet's. */
static void
test_full_packet(void **state)
{
    struct startup startup;
    struct buf rest = {0};
    size_t cursor = 0;
    size_t count = 0;
    const char *name;
    const char *value;

    (void)state;
    buf_add(&rest, BYTES("user\0a\0"));
    while (buf_len(&rest) + 3 < STARTUP_LIMIT - 8) {
        buf_add(&rest, "p\0", 3);
    }
    buf_add_u8(&rest, 0);
    struct buf buf = packet(V30, buf_head(&rest), buf_len(&rest));
    assert_int_equal(parse(&buf, &startup), STARTUP_LOGIN);
    while (startup_next_param(&startup, &cursor, &name, &value)) {
        count++;
    }
    assert_true(count > 3300);
    buf_deinit(&buf);
    buf_deinit(&rest);
}

static void
add_pair(void *arg, const char *name, const char *value)
{
    buf_print(arg, "<%s=%s>", name, value);
}

static void
test_split_options(void **state)
{
    static const struct
    {
        const char *options;
        bool is_good;
        const char *pairs;
    } rows[] = {
        {"", true, ""},
        {"   ", true, ""},
        {"-c a=b", true, "<a=b>"},
        {"-ca=b", true, "<a=b>"},
        {"--a=b", true, "<a=b>"},
        {" -c  a=b\t--c=d\n-ce=f ", true, "<a=b><c=d><e=f>"},
        {"--statement-timeout=5s", true, "<statement_timeout=5s>"},
        {"-c search_path=a\\ b\\\\c", true, "<search_path=a b\\c>"},
        {"-c a=", true, "<a=>"},
        {"-c a=b=c-d", true, "<a=b=c-d>"},
        {"-c a=b\\", true, "<a=b>"},
        {"-c geqo=off -c", false, "<geqo=off>"},
        {"-c", false, ""},
        {"-c a", false, ""},
        {"-c =b", false, ""},
        {"--", false, ""},
        {"--=b", false, ""},
        {"--a", false, ""},
        {"-d 5", false, ""},
        {"a=b", false, ""},
        {"-", false, ""},
        {"\\", false, ""},
        {"-B 100 -c a=b", false, ""},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf pairs = {0};
        char *options = strdup(rows[i].options);
        assert_int_equal(startup_split_options(options, add_pair, &pairs), rows[i].is_good);
        buf_add_u8(&pairs, 0);
        assert_string_equal((char *)buf_head(&pairs), rows[i].pairs);
        buf_deinit(&pairs);
        free(options);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples_at_every_length),
        cmocka_unit_test(test_absurd_lengths_are_refused_at_once),
        cmocka_unit_test(test_login_members),
        cmocka_unit_test(test_cancel_members),
        cmocka_unit_test(test_negotiation),
        cmocka_unit_test(test_full_packet),
        cmocka_unit_test(test_split_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
