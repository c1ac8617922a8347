/* The proof tables: every combination of facts against what must hold whatever the table says, and
 * the rows of the outage contract by name. */
#include "pool/retry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Whether the facts prove that nothing of the request lasts; written from the contract, not from
 * the table. */
static bool
is_proof(unsigned facts)
{
    bool is_abortable = facts & FACT_ABORTABLE;
    bool is_whole_query = !(facts & FACT_UNFINISHED) && !(facts & FACT_EXTENDED);

    if (facts & (FACT_UNSENT | FACT_NOT_BEGUN | FACT_REFUSED) || !(facts & FACT_EXECUTES)) {
        return true;
    }
    if (!(facts & FACT_EXTENDED) && !is_whole_query) {
        return true;
    }
    if (facts & FACT_FATAL && facts & FACT_FIRST && facts & FACT_EXTENDED) {
        return true;
    }
    if (facts & FACT_UNFINISHED && is_abortable) {
        return true;
    }
    bool may_have_committed =
        facts & FACT_COMPLETED && (!(facts & FACT_EXTENDED) || facts & FACT_MIXED);
    return facts & FACT_ABORT && is_abortable && !may_have_committed;
}

static void
check_closed(unsigned facts, enum retry_deed deed)
{
    bool is_harmless = !(facts & FACT_IN_FLIGHT) || facts & FACT_UNSENT;

    assert_int_equal(deed, is_harmless ? DEED_CLOSE : DEED_CLOSE_UNKNOWN);
}

static void
check_transaction(unsigned facts, enum transparent_retry level, enum retry_deed deed)
{
    bool is_aborted_commit = facts & FACT_LONE_COMMIT && facts & FACT_ABORT &&
                             !(facts & FACT_COMPLETED) && level >= RETRY_ABORTED;

    if (facts & FACT_LONE_ROLLBACK) {
        assert_int_equal(deed, DEED_ROLLBACK);
    } else if (facts & FACT_MAY_COMMIT && !(facts & FACT_UNSENT) && !is_aborted_commit) {
        assert_int_equal(deed, DEED_UNKNOWN);
    } else {
        assert_int_equal(deed, DEED_FAIL);
    }
}

static void
check_request(unsigned facts, enum transparent_retry level, enum retry_deed deed)
{
    bool is_read = facts & FACT_LONE_READ && level == RETRY_READS;
    bool can_be_sent = facts & FACT_HELD && !(facts & (FACT_SHOWN | FACT_WORN_OUT));

    switch (deed) {
    case DEED_RESEND:
        assert_true(can_be_sent && !(facts & FACT_CANCELLED) && level != RETRY_OFF);
        assert_true(is_proof(facts) || is_read);
        break;
    case DEED_CANCEL:
        assert_true(facts & FACT_CANCELLED && is_proof(facts));
        break;
    case DEED_REFUSE:
        assert_true(is_proof(facts) && !(facts & FACT_CANCELLED));
        assert_true(!can_be_sent || level < RETRY_ABORTED);
        break;
    case DEED_UNKNOWN:
        assert_false(is_proof(facts));
        break;
    case DEED_NOTHING:
    case DEED_ROLLBACK:
    case DEED_FAIL:
    case DEED_CLOSE:
    case DEED_CLOSE_UNKNOWN:
        fail_msg("facts %x: deed %d", facts, (int)deed);
    }
}

static void
test_every_combination_of_facts(void **state)
{
    (void)state;
    for (int level = RETRY_OFF; level <= RETRY_READS; level++) {
        for (unsigned facts = 0; facts < 1u << FACTS; facts++) {
            enum retry_deed deed = retry_judge(facts, (enum transparent_retry)level).deed;
            if (facts & FACT_PINNED) {
                check_closed(facts, deed);
            } else if (facts & FACT_TRANSACTION) {
                check_transaction(facts, (enum transparent_retry)level, deed);
            } else if (!(facts & FACT_IN_FLIGHT)) {
                assert_int_equal(deed, DEED_NOTHING);
            } else {
                check_request(facts, (enum transparent_retry)level, deed);
            }
        }
    }
}

#define QUERY (FACT_IN_FLIGHT | FACT_EXECUTES | FACT_HELD)
#define EXTENDED (QUERY | FACT_EXTENDED)
#define KILLED (FACT_FATAL | FACT_ABORT)

static const struct
{
    const char *what;
    unsigned facts;
    enum transparent_retry level;
    enum retry_row row;
    enum retry_deed deed;
} cases[] = {
    {"ROLLBACK alone", QUERY | FACT_TRANSACTION | FACT_LONE_ROLLBACK, RETRY_ABORTED, RETRY_ROW_T1,
        DEED_ROLLBACK},
    {"COMMIT", QUERY | FACT_TRANSACTION | FACT_MAY_COMMIT | KILLED, RETRY_ABORTED, RETRY_ROW_T2,
        DEED_UNKNOWN},
    {"COMMIT, aborted", QUERY | FACT_TRANSACTION | FACT_MAY_COMMIT | FACT_LONE_COMMIT | KILLED,
        RETRY_ABORTED, RETRY_ROW_T3, DEED_FAIL},
    {"the same, only unread allowed",
        QUERY | FACT_TRANSACTION | FACT_MAY_COMMIT | FACT_LONE_COMMIT | KILLED, RETRY_UNREAD,
        RETRY_ROW_T2, DEED_UNKNOWN},
    {"COMMIT, reset", QUERY | FACT_TRANSACTION | FACT_MAY_COMMIT | FACT_LONE_COMMIT, RETRY_ABORTED,
        RETRY_ROW_T2, DEED_UNKNOWN},
    {"COMMIT that never left", QUERY | FACT_TRANSACTION | FACT_MAY_COMMIT | FACT_UNSENT,
        RETRY_ABORTED, RETRY_ROW_T3, DEED_FAIL},
    {"SELECT in a transaction", QUERY | FACT_TRANSACTION | FACT_ABORTABLE | FACT_LONE_READ,
        RETRY_READS, RETRY_ROW_T3, DEED_FAIL},
    {"nothing in a transaction", FACT_TRANSACTION | KILLED, RETRY_ABORTED, RETRY_ROW_T3, DEED_FAIL},
    {"session, idle", FACT_PINNED | KILLED, RETRY_ABORTED, RETRY_ROW_T4, DEED_CLOSE},
    {"session, busy", QUERY | FACT_PINNED, RETRY_ABORTED, RETRY_ROW_T4, DEED_CLOSE_UNKNOWN},
    {"session, in a transaction", QUERY | FACT_PINNED | FACT_TRANSACTION, RETRY_ABORTED,
        RETRY_ROW_T4, DEED_CLOSE_UNKNOWN},
    {"between requests", KILLED, RETRY_ABORTED, RETRY_ROW_NOTHING, DEED_NOTHING},
    {"write refused", QUERY | FACT_UNSENT, RETRY_UNREAD, RETRY_ROW_R1, DEED_RESEND},
    {"the same, switched off", QUERY | FACT_UNSENT, RETRY_OFF, RETRY_ROW_R1, DEED_REFUSE},
    {"the same, too large to keep", (QUERY | FACT_UNSENT) & ~(unsigned)FACT_HELD, RETRY_UNREAD,
        RETRY_ROW_R1, DEED_REFUSE},
    {"half a Query", QUERY | FACT_UNFINISHED, RETRY_UNREAD, RETRY_ROW_R1, DEED_RESEND},
    {"Parse, Describe, Flush answered",
        FACT_IN_FLIGHT | FACT_HELD | FACT_EXTENDED | FACT_UNFINISHED, RETRY_UNREAD, RETRY_ROW_R1,
        DEED_RESEND},
    {"Execute of CALL without its Sync", EXTENDED | FACT_UNFINISHED, RETRY_READS, RETRY_ROW_R6,
        DEED_UNKNOWN},
    {"Execute of UPDATE without its Sync", EXTENDED | FACT_UNFINISHED | FACT_ABORTABLE,
        RETRY_ABORTED, RETRY_ROW_R4, DEED_RESEND},
    {"FATAL before ParseComplete", EXTENDED | FACT_FATAL | FACT_FIRST, RETRY_UNREAD, RETRY_ROW_R3,
        DEED_RESEND},
    {"FATAL before any answer to a Query of DO", QUERY | KILLED | FACT_FIRST, RETRY_READS,
        RETRY_ROW_R6, DEED_UNKNOWN},
    {"FATAL 57P01 to an UPDATE", QUERY | KILLED | FACT_ABORTABLE | FACT_FIRST, RETRY_ABORTED,
        RETRY_ROW_R4, DEED_RESEND},
    {"the same, only unread allowed", QUERY | KILLED | FACT_ABORTABLE, RETRY_UNREAD, RETRY_ROW_R4,
        DEED_REFUSE},
    {"the same after CommandComplete", QUERY | KILLED | FACT_ABORTABLE | FACT_COMPLETED,
        RETRY_ABORTED, RETRY_ROW_R6, DEED_UNKNOWN},
    {"the same, extended, before the commit", EXTENDED | KILLED | FACT_ABORTABLE | FACT_COMPLETED,
        RETRY_ABORTED, RETRY_ROW_R4, DEED_RESEND},
    {"the same, with a Query behind it",
        EXTENDED | KILLED | FACT_ABORTABLE | FACT_COMPLETED | FACT_MIXED, RETRY_ABORTED,
        RETRY_ROW_R6, DEED_UNKNOWN},
    {"FATAL 57P02", QUERY | FACT_FATAL | FACT_ABORTABLE | FACT_FIRST, RETRY_ABORTED, RETRY_ROW_R6,
        DEED_UNKNOWN},
    {"rows were shown", QUERY | KILLED | FACT_ABORTABLE | FACT_SHOWN, RETRY_ABORTED, RETRY_ROW_R4,
        DEED_REFUSE},
    {"25006", QUERY | FACT_REFUSED | FACT_ABORTABLE, RETRY_ABORTED, RETRY_ROW_R5, DEED_RESEND},
    {"reset while a SELECT runs", QUERY | FACT_ABORTABLE | FACT_LONE_READ, RETRY_ABORTED,
        RETRY_ROW_R6, DEED_UNKNOWN},
    {"the same, reads allowed", QUERY | FACT_ABORTABLE | FACT_LONE_READ, RETRY_READS,
        RETRY_ROW_READS, DEED_RESEND},
    {"reads allowed, an UPDATE", QUERY | FACT_ABORTABLE, RETRY_READS, RETRY_ROW_R6, DEED_UNKNOWN},
    {"cancelled and aborted", QUERY | KILLED | FACT_ABORTABLE | FACT_CANCELLED, RETRY_ABORTED,
        RETRY_ROW_R4, DEED_CANCEL},
    {"aborted ten times already", QUERY | KILLED | FACT_ABORTABLE | FACT_WORN_OUT, RETRY_ABORTED,
        RETRY_ROW_R4, DEED_REFUSE},
    {"behind one that was aborted", QUERY | KILLED | FACT_NOT_BEGUN, RETRY_UNREAD, RETRY_ROW_R1,
        DEED_RESEND},
};

static void
test_rows_of_the_contract(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct retry_verdict verdict = retry_judge(cases[i].facts, cases[i].level);
        if (verdict.row != cases[i].row || verdict.deed != cases[i].deed) {
            fail_msg("%s: row %s, deed %d", cases[i].what, retry_row_name(verdict.row),
                (int)verdict.deed);
        }
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_combination_of_facts),
        cmocka_unit_test(test_rows_of_the_contract),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
