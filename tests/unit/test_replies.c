/* wire/replies: every conversation's replies are owed in order, and nothing else is taken. */
#include "wire/replies.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* A conversation: what follows ">" was sent, what follows "<" came, in the order of time. Z is
 * ReadyForQuery "I", z "T"; a reply before "!" must be refused. Then whether all is settled. */
static const struct conversation
{
    const char *what;
    bool is_settled;
} conversations[] = {
    {">Q <TDCZ", true},
    {">Q <TDCTDCZ", true},
    {">Q <Td!", false},
    {">Q <IZ", true},
    {">Q <EZ", true},
    {">Q <TDEZ", true},
    {">Q <TDCz", false},
    {">PBDES <12TDCZ", true},
    {">PBDES <12nCZ", true},
    {">PDH <1tT", false},
    {">PDH <1tT >S <Z", true},
    {">PBEH <12DC", false},
    {">PBES >PBES >PBES <12CZ12CZ12CZ", true},
    {">PBES <12sZ", true},
    {">BE <2s >E <DC >CS <3Z", true},
    {">PBES <1EZ", true},
    {">PBEPBES <12CEZ", true},
    {">PBE <1E >PBQS <Z", true},
    {">PBE <1E >PBE", false},
    {">PBEQ <12CTDCZ", true},
    {">PBEQS <1EZ", true},
    {">S <EZ", true},
    {">F <VZ", true},
    {">F <EZ", true},
    {">PBES <12G >ddcS <CZ", true},
    {">PBE <12G >ddcS <CZ", true},
    {">PBE <12G >ddSdcS <CZ", true},
    {">PBES <12G >dd <E >dcS <Z", true},
    {">Q <G >ddc <CZ", true},
    {">Q <G >ddf <EZ", true},
    {">Q <G >dd <EZ >ddc", true},
    {">Q <HddcCZ", true},
    {">Q <HddcCTDCZ", true},
    {">Q <HddcCd!", false},
    {">Q <Gd!", false},
    {">Q <NSATNDSCAZ", true},
    {">PBES <N1S2ACNZ", true},
    {"<NSA", false},
    {"<1!", false},
    {"<Z!", false},
    {"<E!", false},
    {">Q <Z!", false},
    {">Q <NZ!", false},
    {">F <Z!", false},
    {">Q >Q <CZZ!", false},
    {">Q <1!", false},
    {">Q <2!", false},
    /* The same, sent before it was known that PostgreSQL wants data. */
    {">Q d c S Q <G C Z Z C Z", true},
    {">Q d d f S Q <G E Z Z C Z", true},
    {">Q S d c Q <G C Z C Z", true},
    {">P B E S d d c S <1 2 G C Z", true},
    {">P B E S d d c S <1 2 E Z Z", true},
    {">Q d S c Q <G C Z C Z", true},
    {">Q d S c S Q <G E Z Z C Z", true},   /* the first Sync was ignored ... */
    {">Q d S c S Q <G E Z Z Z C Z", true}, /* ... or not */
    {">Q d c Q <E Z C Z", true},
    {">Q c c c Q <G C G C G C Z C Z", true},
    /* The last Sync was among data, and the COPY fails: before it, or behind it. */
    {">E d S <G E Z >Q <C Z", true},
    {">E <G >d S f <E", false},
    {">E <G >d S f <E >S <Z >Q <C Z", true},
    {">E <G >d S f <E >P B E S <Z >Q <C Z", true},
    {">E <G >d S f <E >S <Z Z >Q <C Z", true},
    {">E <G >d S f <E Z >P <1", false},
    {">E <G >d S f <E >P <1!", false},
    {">Q d c <G >Q d f S Q <C Z G E Z Z C Z", true},
    {">P B E d c S <1 2 G >P B E d c S Q <C Z 1 2 G C Z C Z", true},
    {">Q d c Q <C Z C Z", true},
    {">Q <G >S d c <C Z", true},
    {">Q <3!", false},
    {">Q <n!", false},
    {">Q <t!", false},
    {">Q <s!", false},
    {">Q <V!", false},
    {">P <2!", false},
    {">P <C!", false},
    {">P <T!", false},
    {">B <1!", false},
    {">E <T!", false},
    {">E <Z!", false},
    {">S <C!", false},
    {">S <D!", false},
    {">F <D!", false},
    {">Q <K!", false},
    {">Q <R!", false},
    {">Q <v!", false},
    {">Q <x!", false},
};

static enum reply_verdict
take(struct replies *replies, char type)
{
    uint8_t status = type == 'z' ? 'T' : 'I';
    struct message message = {.type = type == 'z' ? 'Z' : (uint8_t)type, .len = 6, .body = &status,
        .body_len = 1};

    return replies_take(replies, &message);
}

static void
play(const struct conversation *conversation)
{
    struct replies replies = {0};
    bool is_sent = true;

    for (const char *at = conversation->what; *at != '\0'; at++) {
        if (*at == '>' || *at == '<') {
            is_sent = *at == '>';
        } else if (is_sent && *at != ' ') {
            assert_true(replies_sent(&replies, (uint8_t)*at));
        } else if (*at != ' ') {
            enum reply_verdict verdict = take(&replies, *at);
            bool is_refused = at[1] == '!';
            if ((verdict == REPLY_UNEXPECTED) != is_refused) {
                fail_msg("%s: at %s", conversation->what, at);
            }
            at += is_refused;
        }
    }
    if (replies_is_settled(&replies) != conversation->is_settled) {
        fail_msg("%s: settled is %d", conversation->what, !conversation->is_settled);
    }
    replies_deinit(&replies);
}

static void
test_conversations(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(conversations) / sizeof(conversations[0]); i++) {
        play(&conversations[i]);
    }
}

static void
test_clients_may_not_send_what_is_no_request(void **state)
{
    static const char allowed[] = "PBDECSQFHdcf";

    (void)state;
    for (int type = 0; type < 256; type++) {
        bool is_allowed = type != 0 && strchr(allowed, type) != NULL;
        assert_int_equal(replies_may_send((uint8_t)type), is_allowed);
    }
}

static void
test_ready_must_have_a_status(void **state)
{
    static const struct
    {
        const char *body;
        uint32_t len;
    } wrong[] = {{"", 0}, {"X", 1}, {"i", 1}, {"II", 2}, {"\0", 1}};

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct replies replies = {0};
        struct message message = {.type = 'Z', .len = wrong[i].len + 5,
            .body = (const uint8_t *)wrong[i].body, .body_len = wrong[i].len};
        assert_true(replies_sent(&replies, 'S'));
        assert_int_equal(replies_take(&replies, &message), REPLY_UNEXPECTED);
        replies_deinit(&replies);
    }
}

static void
test_replies_to_our_own_requests_are_for_nobody_else(void **state)
{
    struct replies replies = {0};

    (void)state;
    replies_push(&replies, REPLY_QUERY, REPLY_FOR_US);
    assert_true(replies_is_ours(&replies));
    assert_true(replies_sent(&replies, 'Q'));
    assert_int_equal(take(&replies, 'S'), REPLY_SWALLOW);
    assert_int_equal(take(&replies, 'A'), REPLY_FORWARD);
    assert_int_equal(take(&replies, 'E'), REPLY_SWALLOW);
    assert_true(replies.is_broken);
    assert_int_equal(take(&replies, 'Z'), REPLY_SWALLOW);
    assert_false(replies_is_ours(&replies));
    assert_int_equal(take(&replies, 'C'), REPLY_FORWARD);
    replies_orphan(&replies);
    assert_int_equal(take(&replies, 'Z'), REPLY_SWALLOW);
    assert_true(replies_is_settled(&replies));
    replies_deinit(&replies);
}

static void
test_long_pipelines_keep_their_order(void **state)
{
    struct replies replies = {0};

    (void)state;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100000; i++) {
            assert_true(replies_sent(&replies, "PBES"[i % 4]));
        }
        for (int i = 0; i < 100000; i++) {
            assert_int_equal(take(&replies, "12CZ"[i % 4]), REPLY_FORWARD);
        }
        assert_true(replies_is_settled(&replies));
    }
    replies_deinit(&replies);
}

/* A quadratic pass over them would take minutes. */
static void
test_very_many_syncs_around_copy_data_take_no_time(void **state)
{
    struct replies replies = {0};

    (void)state;
    assert_true(replies_sent(&replies, MSG_QUERY));
    for (int i = 0; i < 1 << 19; i++) {
        assert_true(replies_sent(&replies, MSG_SYNC));
    }
    assert_true(replies_sent(&replies, MSG_COPY_DATA));
    for (int i = 0; i < 1 << 19; i++) {
        assert_true(replies_sent(&replies, MSG_SYNC));
    }
    assert_int_equal(take(&replies, 'G'), REPLY_FORWARD);
    assert_int_equal(replies.count, 1 + (1 << 19)); /* those in front of the data are ignored */
    assert_true(replies_sent(&replies, MSG_COPY_DONE));
    assert_int_equal(take(&replies, 'C'), REPLY_FORWARD);
    assert_int_equal(take(&replies, 'Z'), REPLY_FORWARD);
    assert_true(replies_is_settled(&replies));
    assert_int_equal(replies.answered, replies.group);
    replies_deinit(&replies);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversations),
        cmocka_unit_test(test_clients_may_not_send_what_is_no_request),
        cmocka_unit_test(test_ready_must_have_a_status),
        cmocka_unit_test(test_replies_to_our_own_requests_are_for_nobody_else),
        cmocka_unit_test(test_long_pipelines_keep_their_order),
        cmocka_unit_test(test_very_many_syncs_around_copy_data_take_no_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
