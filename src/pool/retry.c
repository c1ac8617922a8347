/*
 * The proof tables. Called by client/loss; calls nothing. The first row whose facts hold decides.
 *
 * Why each proof holds:
 *
 *  unsent       what PostgreSQL never received it cannot have done
 *  not begun    a process that says FATAL while it runs a request reads no further one
 *  no execution Parse, Bind, Describe, Close and Sync change nothing that lasts
 *  incomplete   PostgreSQL runs a Query or a FunctionCall when it has all of it; what Executes did
 *               commits with the Sync (allow-listed statements do not commit by themselves)
 *  FATAL first  the completion messages of Parse, Bind, Describe, Close would have come before
 *  aborted      57P01, 57P04 and 57P05 are raised inside the transaction. CommandComplete of a
 *               Query comes after the commit of its last statement, so it must not have come;
 *               that of an Execute comes before the commit, so it may. A COMMIT is the same: from
 *               before its record is written until CommandComplete interrupts are held off
 */
#include "pool/retry.h"

#include <stddef.h>

enum outcome
{
    NOT_DONE, /* proven: may be sent again, as far as the level and the rest of the facts allow */
    DECIDED,  /* the deed stands in the row */
};

static const struct proof
{
    unsigned needs;   /* all of these */
    unsigned forbids; /* none of these */
    enum retry_row row;
    enum outcome outcome;
    enum retry_deed deed;         /* DECIDED */
    enum transparent_retry level; /* NOT_DONE: from which transparent_retry on it is sent again;
                                     DECIDED: from which on the row holds */
} proofs[] = {
    /* the client's session lived on that backend */
    {FACT_PINNED | FACT_IN_FLIGHT | FACT_UNSENT, 0, RETRY_ROW_T4, DECIDED, DEED_CLOSE, 0},
    {FACT_PINNED | FACT_IN_FLIGHT, 0, RETRY_ROW_T4, DECIDED, DEED_CLOSE_UNKNOWN, 0},
    {FACT_PINNED, 0, RETRY_ROW_T4, DECIDED, DEED_CLOSE, 0},

    /* a transaction was open */
    {FACT_TRANSACTION | FACT_LONE_ROLLBACK, 0, RETRY_ROW_T1, DECIDED, DEED_ROLLBACK, 0},
    {FACT_TRANSACTION | FACT_LONE_COMMIT | FACT_ABORT, FACT_COMPLETED, RETRY_ROW_T3, DECIDED,
        DEED_FAIL, RETRY_ABORTED},
    {FACT_TRANSACTION | FACT_MAY_COMMIT, FACT_UNSENT, RETRY_ROW_T2, DECIDED, DEED_UNKNOWN, 0},
    {FACT_TRANSACTION, 0, RETRY_ROW_T3, DECIDED, DEED_FAIL, 0},

    /* none was */
    {0, FACT_IN_FLIGHT, RETRY_ROW_NOTHING, DECIDED, DEED_NOTHING, 0},
    {FACT_UNSENT, 0, RETRY_ROW_R1, NOT_DONE, 0, RETRY_UNREAD},
    {FACT_NOT_BEGUN, 0, RETRY_ROW_R1, NOT_DONE, 0, RETRY_UNREAD},
    {0, FACT_EXECUTES, RETRY_ROW_R1, NOT_DONE, 0, RETRY_UNREAD},
    {FACT_UNFINISHED, FACT_EXTENDED, RETRY_ROW_R1, NOT_DONE, 0, RETRY_UNREAD},
    {FACT_FATAL | FACT_FIRST | FACT_EXTENDED, 0, RETRY_ROW_R3, NOT_DONE, 0, RETRY_UNREAD},
    {FACT_UNFINISHED | FACT_ABORTABLE, 0, RETRY_ROW_R4, NOT_DONE, 0, RETRY_ABORTED},
    {FACT_ABORT | FACT_ABORTABLE, FACT_COMPLETED, RETRY_ROW_R4, NOT_DONE, 0, RETRY_ABORTED},
    {FACT_ABORT | FACT_ABORTABLE | FACT_EXTENDED, FACT_MIXED, RETRY_ROW_R4, NOT_DONE, 0,
        RETRY_ABORTED},
    {FACT_REFUSED, 0, RETRY_ROW_R5, NOT_DONE, 0, RETRY_ABORTED},
    {FACT_LONE_READ | FACT_HELD, FACT_SHOWN | FACT_WORN_OUT | FACT_CANCELLED, RETRY_ROW_READS,
        NOT_DONE, 0, RETRY_READS},
    {0, 0, RETRY_ROW_R6, DECIDED, DEED_UNKNOWN, 0},
};

static const char *const names[RETRY_ROWS] = {[RETRY_ROW_T1] = "T1",
    [RETRY_ROW_T2] = "T2",
    [RETRY_ROW_T3] = "T3",
    [RETRY_ROW_T4] = "T4",
    [RETRY_ROW_R1] = "R1",
    [RETRY_ROW_R3] = "R3",
    [RETRY_ROW_R4] = "R4",
    [RETRY_ROW_R5] = "R5",
    [RETRY_ROW_READS] = "reads",
    [RETRY_ROW_R6] = "R6",
    [RETRY_ROW_NOTHING] = "nothing"};

const char *
retry_row_name(enum retry_row row)
{
    return names[row];
}

/* What is done about a request that was provably not done. */
static enum retry_deed
not_done(unsigned facts, enum transparent_retry needed, enum transparent_retry level)
{
    if (facts & FACT_CANCELLED) {
        return DEED_CANCEL;
    }
    bool can_be_sent = (facts & FACT_HELD) && !(facts & (FACT_SHOWN | FACT_WORN_OUT));
    return can_be_sent && level >= needed ? DEED_RESEND : DEED_REFUSE;
}

static bool
holds(const struct proof *proof, unsigned facts, enum transparent_retry level)
{
    bool depends = proof->outcome == DECIDED || proof->row == RETRY_ROW_READS;

    return (facts & proof->needs) == proof->needs && (facts & proof->forbids) == 0 &&
           (!depends || level >= proof->level);
}

struct retry_verdict
retry_judge(unsigned facts, enum transparent_retry level)
{
    const struct proof *proof = proofs;

    while (!holds(proof, facts, level)) {
        proof++;
    }
    enum retry_deed deed =
        proof->outcome == NOT_DONE ? not_done(facts, proof->level, level) : proof->deed;
    return (struct retry_verdict){proof->row, deed};
}
