/*
 * What a console session remembers of the extended protocol: its prepared statements, the one
 * portal, where it stands. Owned by the console's client.
 */
#pragma once

#include "base/buf.h"
#include "wire/message.h"

enum
{
    STATEMENTS_MAX = 32
};

/* A statement of the extended protocol. */
struct prepared
{
    char *name, *sql; /* own; NULL: free */
};

struct session
{
    struct prepared prepared[STATEMENTS_MAX];
    char *portal;       /* owns: the SQL that Bind chose, or NULL */
    bool portal_binary; /* results in binary format */
    bool is_skipping;   /* after an error up to Sync */
    bool is_busy;       /* rows are being gathered, or main is at work */
    bool is_simple;     /* the request in progress ends with ReadyForQuery */
};

/* Frees what it remembers. */
void session_deinit(struct session *session);

/* Parse, Bind, Describe, Close: append the reply; false with the reason when it is an error. */
must_check bool session_parse(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail);
must_check bool session_bind(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail);
must_check bool session_describe(struct session *session, bool is_admin, struct reader *reader,
    struct buf *buf, struct fail *fail);
must_check bool session_close_statement(
    struct session *session, struct reader *reader, struct buf *buf);
