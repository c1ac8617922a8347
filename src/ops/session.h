/*
 * What a console session remembers of the extended protocol: its prepared statements, its portals,
 * where it stands. Owned by the console's client.
 */
#pragma once

#include "base/buf.h"
#include "wire/message.h"

enum
{
    STATEMENTS_MAX = 32,
    PORTALS_MAX = 32,
    FORMATS_MAX = 64
};

/* A statement of the extended protocol. */
struct console_prepared
{
    char *name, *sql; /* own; NULL: free */
};

/* What Bind made; gone with the next Sync. */
struct portal
{
    char *name, *sql; /* own; NULL: free */
    uint64_t formats; /* bit i: column i is wanted in binary format */
};

struct session
{
    struct console_prepared prepared[STATEMENTS_MAX];
    struct portal portals[PORTALS_MAX];
    bool is_skipping; /* after an error up to Sync */
    bool is_busy;     /* rows are being gathered, or main is at work */
    bool is_simple;   /* the request in progress ends with ReadyForQuery */
    bool is_cancelled; /* what is in progress is to be given up, if it can be */
    bool is_admin;
    bool is_plain; /* columns that PgBouncer has, and no others */
};

/* Frees what it remembers. */
void session_deinit(struct session *session);

/* Sync: an error is over, and so are all portals. */
void session_sync(struct session *session);

/* Parse, Bind, Describe, Close: append the reply; false with the reason when it is an error. */
must_check bool session_parse(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail);
must_check bool session_bind(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail);
must_check bool session_describe(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail);
must_check bool session_close_named(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail);

/* Execute: the portal it names, or NULL with the reason. */
const struct portal *session_execute(
    struct session *session, struct reader *reader, struct fail *fail);
