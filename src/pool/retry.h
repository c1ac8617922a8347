/*
 * What becomes of a request whose backend died: the proof tables of the outage contract (T1-T4 when
 * a transaction was open, R1-R6 otherwise) as one pure function. Evidence in, verdict out; who
 * gathers the one and does the other is client/loss.
 *
 * The words of PostgreSQL that count: FATAL 57P01 (terminated), 57P04 (database dropped) and 57P05
 * (idle session) are raised at an interrupt check, inside the transaction, which is then aborted;
 * a WARNING of the same number means the opposite, and 57P02 is written at any instant.
 */
#pragma once

#include "conf/settings.h"

#include <stdbool.h>

/* Facts about a lease and its end, and about one of its unanswered requests. */
enum retry_fact
{
    /* the lease */
    FACT_TRANSACTION = 1 << 0, /* the last ReadyForQuery said T or E */
    FACT_PINNED = 1 << 1,      /* session state lives on that backend alone */

    /* its end */
    FACT_FATAL = 1 << 2,     /* PostgreSQL said FATAL before it closed */
    FACT_ABORT = 1 << 3,     /* ... raised at an interrupt check: 57P01, 57P04, 57P05 */
    FACT_REFUSED = 1 << 4, /* it lives, but refused: ERROR 25006, or a plan out of date */

    /* the request */
    FACT_IN_FLIGHT = 1 << 5,      /* there is one */
    FACT_UNSENT = 1 << 6,         /* not one byte of it reached the peer */
    FACT_UNFINISHED = 1 << 7,     /* its last byte did not, or was never there */
    FACT_NOT_BEGUN = 1 << 8,      /* an earlier request was running when the FATAL came */
    FACT_FIRST = 1 << 9,          /* no message came since it began */
    FACT_EXTENDED = 1 << 10,      /* begins with Parse, Bind, Describe, Close, Execute or Sync */
    FACT_MIXED = 1 << 11,         /* ... and ends with a Query or a FunctionCall all the same */
    FACT_EXECUTES = 1 << 12,      /* Execute, Query or FunctionCall is among it */
    FACT_COMPLETED = 1 << 13,     /* CommandComplete of its last statement came */
    FACT_SHOWN = 1 << 14,         /* the client saw rows or a completion */
    FACT_ABORTABLE = 1 << 15,     /* every statement is on the allow-list */
    FACT_LONE_READ = 1 << 16,     /* it is one SELECT, VALUES, TABLE or SHOW */
    FACT_LONE_ROLLBACK = 1 << 17, /* it is one ROLLBACK (in a failed transaction: or COMMIT) */
    FACT_MAY_COMMIT = 1 << 18,    /* it may have ended the transaction otherwise */
    FACT_HELD = 1 << 19,          /* all that was forwarded of it is kept */
    FACT_CANCELLED = 1 << 20,     /* the client asked to cancel it */
    FACT_LONE_COMMIT = 1 << 21,   /* it is one COMMIT or PREPARE TRANSACTION */
    FACT_WORN_OUT = 1 << 22,      /* it was sent again RETRY_TIMES_MAX times */
    FACTS = 23                    /* how many */
};

enum
{
    RETRY_TIMES_MAX = 10
}; /* each time with a proof of its own */

enum retry_row
{
    RETRY_ROW_T1,
    RETRY_ROW_T2,
    RETRY_ROW_T3,
    RETRY_ROW_T4,
    RETRY_ROW_R1, /* and what follows from it: not begun, nothing to execute, Query incomplete */
    RETRY_ROW_R3,
    RETRY_ROW_R4,
    RETRY_ROW_R5,
    RETRY_ROW_READS,
    RETRY_ROW_R6,
    RETRY_ROW_NOTHING,
    RETRY_ROWS
};

enum retry_deed
{
    DEED_NOTHING,       /* nothing was in flight: only the backend is gone */
    DEED_RESEND,        /* send it to another backend */
    DEED_CANCEL,        /* ERROR 57014: it was not done, and nobody wants it any more */
    DEED_REFUSE,        /* ERROR 40001: it was not done, but cannot be sent again */
    DEED_UNKNOWN,       /* ERROR 08007: it may have been done */
    DEED_ROLLBACK,      /* answer ROLLBACK: that is what happened */
    DEED_FAIL,          /* ERROR 40001, and the transaction goes on as a failed one */
    DEED_CLOSE,         /* FATAL 57P01 to the client: nothing was in flight */
    DEED_CLOSE_UNKNOWN, /* FATAL 08007 to the client */
};

struct retry_verdict
{
    enum retry_row row;
    enum retry_deed deed;
};

/* The verdict about one request (or about none) by the facts. */
struct retry_verdict retry_judge(unsigned facts, enum transparent_retry level);

/* "T1", "R6", ...; "reads" for R6 under transparent_retry = reads. */
const char *retry_row_name(enum retry_row row);
