/*
 * The prepared statements of all clients, each text once: what a named Parse said (its text and
 * parameter types) together with the pool and the settings it was said under, because they change
 * what a text means. Identity is all of these bytes; a hash only finds them. The id makes the
 * statement's name on every backend.
 *
 * The columns of its result are part of what its clients know. They are learned once, when
 * PostgreSQL first describes it; where it has others the schema was changed since, and the
 * statement is retired: nobody gets it any more, and those who have it are told.
 *
 * Entries are immutable but for that, and counted: clients' names and backends' sets hold them, the
 * last one to let go frees it. Any thread; one mutex, not taken to run a known statement.
 */
#pragma once

#include "pool/vars.h"

#include <stdatomic.h>
#include <uthash.h>

enum
{
    STATEMENT_NAME_SIZE = 32
};

struct statement
{
    UT_hash_handle hh;    /* the registry's */
    uint64_t id;
    _Atomic uint32_t refs;
    _Atomic bool is_stale; /* its result changed: who needs it asks for it anew */
    _Atomic(uint8_t *) columns; /* owns; NULL until they are known, then they stay */
    size_t columns_len;         /* 0: it returns no rows */
    size_t key_len;
    size_t body_at; /* in key: here begins what follows the name in its Parse */
    uint8_t key[];  /* the pool's id, settings, then the body */
};

/* What makes a statement; borrows. */
struct statement_key
{
    uint64_t pool; /* its id */
    const struct vars *settings;
    const uint8_t *body; /* what follows the name in its Parse, well-formed */
    size_t len;
};

struct statements;

struct statements *statements_new(void);
void statements_free(struct statements **statements);

/* The statement that is made so: holds it for the caller. NULL when limit bytes are in use by all
 * of them together. */
struct statement *statements_get(
    struct statements *statements, const struct statement_key *key, size_t limit);

struct statement *statement_hold(struct statement *statement);
void statement_release(struct statements *statements, struct statement *statement);

/* Nobody gets this one any more: its result type changed at PostgreSQL. */
void statement_retire(struct statements *statements, struct statement *statement);

/* PostgreSQL describes it so (message_add_columns): remembered the first time. False: others are
 * known. */
bool statement_learn(
    struct statements *statements, struct statement *statement, const struct buf *columns);

/* The one stands for the other: it must return the same columns. False: it is known not to. */
bool statement_inherit(
    struct statements *statements, struct statement *to, const struct statement *from);

static inline bool
statement_has_columns(const struct statement *statement)
{
    return atomic_load_explicit(&statement->columns, memory_order_acquire) != NULL;
}

/* What follows the name in its Parse: the text with its zero byte, the types. */
static inline const uint8_t *
statement_body(const struct statement *statement, size_t *len_out)
{
    *len_out = statement->key_len - statement->body_at;
    return statement->key + statement->body_at;
}

static inline const char *
statement_text(const struct statement *statement)
{
    return (const char *)statement->key + statement->body_at;
}

/* Its name at PostgreSQL, in a buffer of STATEMENT_NAME_SIZE. */
void statement_name(const struct statement *statement, char *name);

/* Whether a client's own name could be mistaken for one of ours. */
bool statement_is_reserved(const char *name);

struct statements_view
{
    size_t count, bytes;
};

struct statements_view statements_look(struct statements *statements);

/* Calls fn for each, under the mutex: it must not call back. */
void statements_each(struct statements *statements,
    void (*fn)(void *arg, const struct statement *statement), void *arg);
