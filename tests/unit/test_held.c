/* pool/held: what is kept of unanswered requests, and what is known about each of them. */
#include "pool/held.h"

#include "pool/retry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum
{
    LIMIT = 65536
};

/* Adds a message as the relay does. A script's letters: Q P B E S H D C F as in the protocol, 'd'
 * copy data; text: of Q and P; names are "". Returns its length. */
static size_t
add(struct held *held, char type, const char *text, size_t limit)
{
    struct buf buf = {0};
    struct message message;
    size_t begin = message_begin(&buf, (uint8_t)type);

    switch (type) {
    case 'P':
        buf_add_string(&buf, "");
        buf_add_string(&buf, text);
        buf_add_u16(&buf, 0);
        break;
    case 'B':
        buf_add_string(&buf, "");
        buf_add_string(&buf, text);
        break;
    case 'E':
        buf_add_string(&buf, "");
        buf_add_u32(&buf, 0);
        break;
    default:
        buf_add_string(&buf, text);
    }
    message_end(&buf, begin);
    assert_int_equal(message_peek(buf_head(&buf), buf_len(&buf), &message), MESSAGE_OK);
    held_add(held, &message, buf_head(&buf), type == 'Q' || type == 'S' || type == 'F', limit);
    buf_deinit(&buf);
    return message.len;
}

/* "Q:text|P:text|B|E|S" */
static size_t
add_script(struct held *held, const char *script)
{
    char *copy = strdup(script), *save = NULL;
    size_t len = 0;

    for (char *part = strtok_r(copy, "|", &save); part; part = strtok_r(NULL, "|", &save)) {
        len += add(held, part[0], part[1] == ':' ? part + 2 : "", LIMIT);
    }
    free(copy);
    return len;
}

#define SENT UINT64_MAX

static const struct
{
    const char *script;
    char status;
    unsigned has, has_not;
} contents[] = {
    {"Q:SELECT 1", 'I', FACT_ABORTABLE | FACT_LONE_READ | FACT_HELD | FACT_EXECUTES,
        FACT_EXTENDED | FACT_MAY_COMMIT | FACT_UNFINISHED | FACT_UNSENT},
    {"Q:SELECT 1; SELECT 2", 'I', FACT_ABORTABLE, FACT_LONE_READ},
    {"Q:INSERT INTO t VALUES (1)", 'I', FACT_ABORTABLE, FACT_LONE_READ},
    {"Q:WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", 'I', FACT_ABORTABLE,
        FACT_LONE_READ},
    {"Q:SELECT 1; CALL x()", 'I', 0, FACT_ABORTABLE | FACT_LONE_READ},
    {"Q:DO $$ BEGIN COMMIT; END $$", 'I', 0, FACT_ABORTABLE},
    {"Q:", 'I', FACT_ABORTABLE, FACT_LONE_READ | FACT_LONE_ROLLBACK},
    {"Q:BEGIN", 'I', FACT_ABORTABLE, FACT_MAY_COMMIT},
    {"Q:COMMIT", 'T', FACT_MAY_COMMIT, FACT_ABORTABLE | FACT_LONE_ROLLBACK},
    {"Q:COMMIT", 'E', FACT_LONE_ROLLBACK, FACT_MAY_COMMIT},
    {"Q:PREPARE TRANSACTION 'x'", 'T', FACT_MAY_COMMIT, FACT_LONE_ROLLBACK},
    {"Q:ROLLBACK", 'T', FACT_LONE_ROLLBACK, FACT_MAY_COMMIT | FACT_ABORTABLE},
    {"Q:ROLLBACK AND CHAIN", 'T', 0, FACT_LONE_ROLLBACK | FACT_MAY_COMMIT},
    {"Q:ROLLBACK; SELECT 1", 'T', FACT_MAY_COMMIT, FACT_LONE_ROLLBACK},
    {"Q:ROLLBACK TO x", 'T', 0, FACT_MAY_COMMIT | FACT_LONE_ROLLBACK},
    {"Q:SELECT 1; END", 'T', FACT_MAY_COMMIT, FACT_LONE_ROLLBACK},
    {"Q:SELECT 'COMMIT'", 'T', FACT_LONE_READ, FACT_MAY_COMMIT},
    {"P:SELECT 1|B|D|E|S", 'I', FACT_ABORTABLE | FACT_LONE_READ | FACT_EXTENDED | FACT_EXECUTES,
        FACT_MAY_COMMIT | FACT_MIXED | FACT_UNFINISHED},
    {"P:SELECT 1|B|D|E", 'I', FACT_ABORTABLE | FACT_UNFINISHED, 0},
    {"P:CALL x()|D|H", 'I', FACT_EXTENDED | FACT_UNFINISHED, FACT_EXECUTES | FACT_MAY_COMMIT},
    {"P:COMMIT|B|S", 'T', 0, FACT_MAY_COMMIT | FACT_EXECUTES},
    {"P:COMMIT|B|E|S", 'T', FACT_MAY_COMMIT, 0},
    {"B|E|S", 'I', FACT_MAY_COMMIT | FACT_EXTENDED, FACT_ABORTABLE | FACT_LONE_READ},
    {"P:SELECT 1|B:other|E|S", 'I', FACT_MAY_COMMIT, FACT_ABORTABLE},
    {"P:SELECT 1|E|S", 'I', FACT_MAY_COMMIT, FACT_ABORTABLE},
    {"P:SELECT 1|B|E|E|S", 'I', FACT_ABORTABLE, FACT_LONE_READ},
    {"P:INSERT INTO t VALUES (1)|B|E|P:SELECT 1|B|E|S", 'I', FACT_ABORTABLE, FACT_LONE_READ},
    {"P:SELECT 1|B|E|Q:SELECT 2", 'I', FACT_ABORTABLE | FACT_MIXED | FACT_EXTENDED, FACT_LONE_READ},
    {"F", 'I', FACT_EXECUTES, FACT_ABORTABLE | FACT_EXTENDED | FACT_MAY_COMMIT},
    {"S", 'I', FACT_ABORTABLE | FACT_EXTENDED, FACT_EXECUTES},
};

static void
test_content_of_a_request(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(contents) / sizeof(contents[0]); i++) {
        struct held held = {0};
        add_script(&held, contents[i].script);
        assert_int_equal(held.count, 1);
        struct held_walk walk = held_walk(&held, SENT, contents[i].status, false);
        unsigned facts = held_next_facts(&walk);
        if ((facts & contents[i].has) != contents[i].has || facts & contents[i].has_not) {
            fail_msg("%s: facts %x, missing %x, too many %x", contents[i].script, facts,
                contents[i].has & ~facts, facts & contents[i].has_not);
        }
        assert_int_equal(held_next_facts(&walk), 0);
        held_deinit(&held);
    }
}

static void
test_what_left_the_socket_is_told_for_each_request(void **state)
{
    struct held held = {.start = 1000};
    size_t first = add_script(&held, "Q:SELECT 1");
    size_t second = add_script(&held, "P:SELECT 2|B|E|S");

    (void)state;
    for (uint64_t sent = 999; sent <= 1001 + first + second; sent++) {
        struct held_walk walk = held_walk(&held, sent, 'I', false);
        unsigned one = held_next_facts(&walk), two = held_next_facts(&walk);
        assert_int_equal(!!(one & FACT_UNSENT), sent <= 1000);
        assert_int_equal(!!(one & FACT_UNFINISHED), sent < 1000 + first);
        assert_int_equal(!!(two & FACT_UNSENT), sent <= 1000 + first);
        assert_int_equal(!!(two & FACT_UNFINISHED), sent < 1000 + first + second);
    }
    held_deinit(&held);
}

static void
test_answers_drop_the_oldest_with_its_bytes(void **state)
{
    struct held held = {.start = 10};
    size_t first = add_script(&held, "Q:SELECT 1");

    (void)state;
    add_script(&held, "Q:UPDATE t SET n = 1");
    add_script(&held, "Q:COMMIT");
    held.seen = SEEN_ROWS | SEEN_COMPLETED;
    held_answered(&held);
    assert_int_equal(held.count, 2);
    assert_int_equal(held.start, 10 + first);
    struct held_walk walk = held_walk(&held, SENT, 'T', false);
    unsigned facts = held_next_facts(&walk);
    assert_true(facts & FACT_ABORTABLE && facts & FACT_FIRST);
    assert_false(facts & (FACT_LONE_READ | FACT_SHOWN | FACT_COMPLETED));
    assert_true(held_next_facts(&walk) & FACT_MAY_COMMIT);
    held_answered(&held);
    held_answered(&held);
    assert_int_equal(held.count, 0);
    assert_int_equal(buf_len(&held.bytes), 0);
    held_deinit(&held);
}

static void
test_a_thousand_requests_pass_in_order(void **state)
{
    struct held held = {0};
    char text[32];

    (void)state;
    for (int i = 0; i < 1000; i++) {
        snprintf(text, sizeof(text), "Q:%s", i % 2 ? "COMMIT" : "SELECT 1");
        add_script(&held, text);
        if (i >= 7) {
            struct held_walk walk = held_walk(&held, SENT, 'T', false);
            assert_int_equal(!!(held_next_facts(&walk) & FACT_MAY_COMMIT), (i - 7) % 2);
            held_answered(&held);
        }
    }
    assert_int_equal(held.count, 7);
    held_deinit(&held);
}

static void
test_request_above_the_limit_is_not_kept_but_counted(void **state)
{
    struct held held = {0};
    size_t small = add(&held, 'Q', "SELECT 1", 40), large;

    (void)state;
    large = add(&held, 'Q', "SELECT 1 -- and a long comment that does not fit", 40);
    add(&held, 'Q', "SELECT 2", 40);
    struct held_walk walk = held_walk(&held, SENT, 'I', false);
    assert_true(held_next_facts(&walk) & FACT_HELD);
    unsigned facts = held_next_facts(&walk);
    assert_true(facts & FACT_MAY_COMMIT && !(facts & FACT_HELD) && !(facts & FACT_ABORTABLE));
    assert_int_equal(walk.start, small + large);
    assert_true(held_next_facts(&walk) & FACT_HELD);
    held_deinit(&held);
}

static void
test_copy_data_make_everything_unsure(void **state)
{
    struct held held = {0};

    (void)state;
    add_script(&held, "Q:COPY t FROM STDIN");
    held.is_blind = true;
    add(&held, 'd', "1\n", LIMIT);
    struct held_walk walk = held_walk(&held, SENT, 'T', false);
    unsigned facts = held_next_facts(&walk);
    assert_false(facts & (FACT_HELD | FACT_MAY_COMMIT | FACT_UNSENT));
    add_script(&held, "Q:SELECT 1");
    walk = held_walk(&held, SENT, 'T', false);
    assert_true(held_next_facts(&walk) & FACT_MAY_COMMIT);
    held_answered(&held);
    assert_int_equal(held.count, 2);
    held_clear(&held);
    assert_false(held.is_blind);
    held_deinit(&held);
}

static void
test_skipped_query_belongs_to_the_failed_request(void **state)
{
    struct held held = {0};

    (void)state;
    add_script(&held, "P:SELECT 1|Q:SELECT 2");
    held_join(&held); /* nothing behind it yet: it goes on */
    assert_int_equal(held.count, 1);
    add_script(&held, "S");
    assert_int_equal(held.count, 1);
    add_script(&held, "P:SELECT 3|Q:SELECT 4");
    add_script(&held, "S");
    add_script(&held, "Q:SELECT 5");
    assert_int_equal(held.count, 4);
    held_answered(&held);
    held_join(&held);
    assert_int_equal(held.count, 2);
    held_answered(&held);
    struct held_walk walk = held_walk(&held, SENT, 'I', false);
    assert_true(held_next_facts(&walk) & FACT_LONE_READ);
    held_deinit(&held);
}

static struct message
reply(const char *bytes, size_t len)
{
    struct message message;

    assert_int_equal(message_peek((const uint8_t *)bytes, len, &message), MESSAGE_OK);
    return message;
}

static void
test_replies_that_were_told_are_recognised_once(void **state)
{
    static const char told[] = "1\0\0\0\4N\0\0\0\4T\0\0\0\6ab";
    static const char other[] = "T\0\0\0\6ax";
    struct held held = {0};
    struct message parse = reply(told, 5), row = reply(told + 10, 7), changed = reply(other, 7);
    struct message data = reply("D\0\0\0\6\0\0", 7);

    (void)state;
    add_script(&held, "P:SELECT 1|D|H");
    held_tell(&held, (const uint8_t *)told, (const uint8_t *)told + 17);
    assert_int_equal(held_was_told(&held, &parse), 0); /* told by this very backend */
    held.repeated = 0;                                 /* another one begins */
    assert_int_equal(held_was_told(&held, &data), 0);
    assert_int_equal(held_was_told(&held, &parse), 1);
    assert_int_equal(held_was_told(&held, &changed), -1);
    assert_int_equal(held_was_told(&held, &row), 1);
    assert_int_equal(held_was_told(&held, &row), 0);
    held_deinit(&held);
}

static void
test_modes_of_the_transaction_are_remembered(void **state)
{
    static const struct
    {
        const char *script, *modes;
    } cases[] = {
        {"Q:BEGIN", ""},
        {"Q:SELECT 1; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 2",
            "ISOLATION LEVEL SERIALIZABLE"},
        {"P:START TRANSACTION READ ONLY|B|E|S", "READ ONLY"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct held held = {0};
        size_t len;
        add_script(&held, cases[i].script);
        held_note_opening(&held);
        held_answered(&held);
        const char *modes = held_modes(&held, &len);
        assert_int_equal(len, strlen(cases[i].modes));
        assert_memory_equal(modes, cases[i].modes, len);
        held_deinit(&held);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_content_of_a_request),
        cmocka_unit_test(test_what_left_the_socket_is_told_for_each_request),
        cmocka_unit_test(test_answers_drop_the_oldest_with_its_bytes),
        cmocka_unit_test(test_a_thousand_requests_pass_in_order),
        cmocka_unit_test(test_request_above_the_limit_is_not_kept_but_counted),
        cmocka_unit_test(test_copy_data_make_everything_unsure),
        cmocka_unit_test(test_skipped_query_belongs_to_the_failed_request),
        cmocka_unit_test(test_replies_that_were_told_are_recognised_once),
        cmocka_unit_test(test_modes_of_the_transaction_are_remembered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
