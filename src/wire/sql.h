/*
 * SQL text, split into its top-level statements as PostgreSQL splits it (PostgreSQL documentation,
 * "Lexical Structure"; its scan.l and gram.y), and what kind each one is. It is asked when a
 * backend has died: what may be sent again, what may have committed? So it follows the server's
 * lexer byte by byte, and where it cannot be certain it says SQL_OTHER. Pure functions, linear in
 * the length; nothing is allocated, texts need no zero byte at their end, results borrow from them.
 *
 * PostgreSQL parses the whole text of a Query before it runs any of it. Therefore what is wrong in
 * a text with a syntax error does no harm: nothing of it was executed.
 */
#pragma once

#include "wire/token.h"

enum sql_kind
{
    SQL_OTHER, /* anything else: CALL, DO, COPY, VACUUM, CREATE ..., EXECUTE, or what cannot be read
                * for certain */
    SQL_READ,  /* SELECT without INTO, VALUES, TABLE, SHOW: changes nothing by itself. Never WITH */
    SQL_WRITE, /* INSERT, UPDATE, DELETE, MERGE, WITH, EXPLAIN, SET, SELECT INTO: gone when its
                * transaction is rolled back */
    SQL_BEGIN, /* BEGIN, START TRANSACTION */
    SQL_COMMIT,      /* COMMIT, END */
    SQL_ROLLBACK,    /* ROLLBACK, ABORT */
    SQL_ROLLBACK_TO, /* ROLLBACK [WORK|TRANSACTION] TO ... */
    SQL_PREPARE_TRANSACTION,
    SQL_COMMIT_PREPARED,
    SQL_ROLLBACK_PREPARED,
};

/* A keyword decides the kind; what follows is not checked, since a statement that does not fit the
 * grammar is refused by PostgreSQL whatever we call it. */
struct sql_statement
{
    enum sql_kind kind;
    const char *text;  /* from its first token to its last: no blanks and comments around it, no */
    size_t len;        /* semicolon; borrows */
    bool is_chain;     /* COMMIT, ROLLBACK ... AND CHAIN (not AND NO CHAIN) */
    const char *modes; /* SQL_BEGIN: what follows BEGIN [WORK|TRANSACTION] or START TRANSACTION; */
    size_t modes_len;  /* else, and if nothing does, "". Borrows */
};

/* Whether text of that client_encoding (as the backend reports it) can be read at all: in some, a
 * byte of a multi-byte character looks like a letter, a backslash or a semicolon (documentation,
 * "Character Set Support": those that a server cannot use). Do not scan others. */
bool sql_is_readable(const char *client_encoding);

/* The next statement that is not empty; false at the end. One that is not terminated (a string, a
 * comment, a parenthesis) or holds a zero byte is SQL_OTHER and all of the rest belongs to it. */
bool sql_next(struct sql_scanner *scanner, struct sql_statement *out);
