/*
 * A request for rows that travels from worker to worker by post, so that everything is read by the
 * thread it belongs to. Belongs to the loop it is in.
 */
#pragma once

#include "ops/show.h"

struct pool;

/* Sums over the workers for one (database, user). */
enum tally_number
{
    CL_ACTIVE,
    CL_WAITING,
    SV_ACTIVE,
    SV_IDLE,
    SV_TESTED,
    SV_LOGIN,
    SV_TOTAL,
    MAX_WAIT_US,
    ASSIGNMENTS,
    TRANSACTIONS,
    QUERIES,
    RECEIVED,
    SENT,
    TRANSACTION_US,
    QUERY_US,
    WAIT_US,
    CLIENT_PARSES,
    SERVER_PARSES,
    BINDS,
    LOGINS,
    TALLY_NUMBERS
};

struct tally
{
    char *database, *user; /* own */
    int64_t n[TALLY_NUMBERS];
    struct tally *next;
};

/* One thing that SHOW shows: a row of the table in show.c. */
struct show
{
    const char *name;
    const struct message_column *columns;
    uint16_t count;
    uint16_t ours; /* of these, at the end: columns that PgBouncer does not have */
    bool is_for_admins;
    void (*visit)(struct gather *gather, struct crowd *crowd); /* or NULL */
    void (*finish)(struct gather *gather);                     /* or NULL */
};

enum
{
    GATHER_MAIN = -1 /* a home: the main thread */
};

struct gather
{
    const struct show *show;
    struct daemon *daemon;
    uint64_t ticket; /* of the console's client at worker `home` */
    int home, next;                      /* workers; home may be GATHER_MAIN */
    uint16_t columns;                    /* wanted; the others are left out */
    uint64_t formats;                    /* bit i: column i in binary format */
    uint16_t column;                     /* of the row being made */
    struct buf rows;                     /* owns: DataRow messages */
    int64_t clients, logins;             /* sums over workers: all clients, those who log in */
    struct tally *tallies;               /* own: sums over workers, one for each pool */
    void (*done)(struct gather *gather); /* at home; owns the gather */
};

/* Sends it on its way; done() is called in the home's thread, or never when the process
 * ends. */
void gather_start(struct gather *gather);
void gather_free(struct gather *gather);

/* The settings in force where its rows are finished; at home only. */
const struct settings *gather_settings(const struct gather *gather);

/* Begins a row; message_end() ends it. In between, one call for each column. */
size_t gather_row(struct gather *gather);
void gather_text(struct gather *gather, const char *text);
void gather_int4(struct gather *gather, int64_t value);
void gather_int8(struct gather *gather, int64_t value);
void gather_numeric(struct gather *gather, int64_t value); /* not negative */
void gather_time(struct gather *gather, int64_t at_us); /* loop_clock_us() time, as local time */
void gather_id(struct gather *gather, char kind, uint64_t id);

/* The sums of this pool, new ones when there are none yet. */
struct tally *gather_tally(struct gather *gather, const char *database, const char *user);

/* Visits: sums for each pool, or for each database. */
void gather_pools(struct gather *gather, struct crowd *crowd);
void gather_databases(struct gather *gather, struct crowd *crowd);

/* What pools_each() is given. */
struct visit
{
    struct gather *gather;
    int worker;
    bool by_database; /* sums are kept for each database, over all users */
};
