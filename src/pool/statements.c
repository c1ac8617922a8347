/*
 * The registry of prepared statements. Called by client/names (what clients prepare) and
 * pool/prepared (what backends have); calls uthash.
 */
#include "pool/statements.h"

#include "base/mem.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <strings.h>

/* A test makes all statements collide. */
#ifdef STATEMENTS_HASH
#undef HASH_FUNCTION
#define HASH_FUNCTION(key, len, hash) ((hash) = STATEMENTS_HASH)
#endif

static const char prefix[] = "pgkeel_";

struct statements
{
    pthread_mutex_t mutex;
    struct statement *all; /* own: those that can still be got */
    uint64_t next_id;
    size_t count, bytes; /* retired ones included */
};

struct statements *
statements_new(void)
{
    struct statements *statements = mem_new(sizeof(*statements));

    pthread_mutex_init(&statements->mutex, NULL);
    return statements;
}

void
statements_free(struct statements **pointer)
{
    struct statements *statements = *pointer;
    struct statement *statement, *next;

    HASH_ITER(hh, statements->all, statement, next) {
        HASH_DELETE(hh, statements->all, statement);
        free(statement->columns);
        free(statement);
    }
    pthread_mutex_destroy(&statements->mutex);
    free(statements);
    *pointer = NULL;
}

/* Settings that never change what a text means; nor do those with a dot, which extensions and
 * applications make. */
static bool
is_irrelevant(const char *name)
{
    static const char *const names[] = {"application_name", "bytea_output", "client_min_messages",
        "extra_float_digits", "idle_in_transaction_session_timeout", "idle_session_timeout",
        "lock_timeout", "maintenance_work_mem", "statement_timeout", "transaction_timeout",
        "work_mem"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcasecmp(name, names[i]) == 0) {
            return true;
        }
    }
    return strchr(name, '.') != NULL;
}

static size_t
add_settings(const struct vars *settings, uint8_t *to)
{
    const char *name, *value;
    uint32_t cursor = 0;
    size_t len = 0;

    while (vars_next(settings, &cursor, &name, &value)) {
        if (is_irrelevant(name)) {
            continue;
        }
        size_t pair = strlen(name) + 1 + strlen(value) + 1;
        memcpy(to + len, name, pair);
        len += pair;
    }
    /* No name is empty: what follows is the body. */
    to[len] = 0;
    return len + 1;
}

static struct statement *
make(const struct statement_key *key)
{
    size_t pool = sizeof(key->pool);
    struct statement *statement =
        mem_new(sizeof(*statement) + pool + key->settings->len + 1 + key->len);

    memcpy(statement->key, &key->pool, pool);
    statement->body_at = pool + add_settings(key->settings, statement->key + pool);
    memcpy(statement->key + statement->body_at, key->body, key->len);
    statement->key_len = statement->body_at + key->len;
    statement->refs = 1;
    return statement;
}

static size_t
size_of(const struct statement *statement)
{
    return sizeof(*statement) + statement->key_len + statement->columns_len;
}

struct statement *
statements_get(
    struct statements *statements, const struct statement_key *key, size_t limit)
{
    struct statement *made = make(key), *found;

    pthread_mutex_lock(&statements->mutex);
    HASH_FIND(hh, statements->all, made->key, made->key_len, found);
    if (found != NULL) {
        atomic_fetch_add(&found->refs, 1);
    } else if (statements->bytes + size_of(made) <= limit) {
        found = made;
        made = NULL;
        found->id = ++statements->next_id;
        statements->bytes += size_of(found);
        statements->count++;
        HASH_ADD_KEYPTR(hh, statements->all, found->key, found->key_len, found);
    }
    pthread_mutex_unlock(&statements->mutex);
    free(made);
    return found;
}

struct statement *
statement_hold(struct statement *statement)
{
    atomic_fetch_add(&statement->refs, 1);
    return statement;
}

void
statement_release(struct statements *statements, struct statement *statement)
{
    uint32_t refs = atomic_load(&statement->refs);

    while (refs > 1) {
        if (atomic_compare_exchange_weak(&statement->refs, &refs, refs - 1)) {
            return;
        }
    }
    /* Perhaps the last: from here on only under the mutex, where nobody can find it meanwhile. */
    pthread_mutex_lock(&statements->mutex);
    bool is_last = atomic_fetch_sub(&statement->refs, 1) == 1;
    if (is_last) {
        if (!atomic_load(&statement->is_stale)) {
            HASH_DELETE(hh, statements->all, statement);
        }
        statements->bytes -= size_of(statement);
        statements->count--;
    }
    pthread_mutex_unlock(&statements->mutex);
    if (is_last) {
        free(statement->columns);
        free(statement);
    }
}

static bool
learn(struct statements *statements, struct statement *statement, const uint8_t *columns,
    size_t len)
{
    pthread_mutex_lock(&statements->mutex);
    const uint8_t *known = atomic_load(&statement->columns);
    bool is_same = known == NULL || (statement->columns_len == len &&
                                        (len == 0 || memcmp(known, columns, len) == 0));
    if (known == NULL) {
        uint8_t *kept = mem_new(len + 1);
        if (len > 0) {
            memcpy(kept, columns, len);
        }
        statement->columns_len = len;
        statements->bytes += len;
        atomic_store_explicit(&statement->columns, kept, memory_order_release);
    }
    pthread_mutex_unlock(&statements->mutex);
    return is_same;
}

bool
statement_learn(
    struct statements *statements, struct statement *statement, const struct buf *columns)
{
    return learn(statements, statement, buf_head(columns), buf_len(columns));
}

bool
statement_inherit(
    struct statements *statements, struct statement *to, const struct statement *from)
{
    return !statement_has_columns(from) ||
           learn(statements, to, atomic_load(&from->columns), from->columns_len);
}

void
statement_retire(struct statements *statements, struct statement *statement)
{
    pthread_mutex_lock(&statements->mutex);
    if (!atomic_exchange(&statement->is_stale, true)) {
        HASH_DELETE(hh, statements->all, statement);
    }
    pthread_mutex_unlock(&statements->mutex);
}

void
statement_name(const struct statement *statement, char *name)
{
    snprintf(name, STATEMENT_NAME_SIZE, "%s%" PRIu64, prefix, statement->id);
}

bool
statement_is_reserved(const char *name)
{
    return strncmp(name, prefix, sizeof(prefix) - 1) == 0;
}

struct statements_view
statements_look(struct statements *statements)
{
    pthread_mutex_lock(&statements->mutex);
    struct statements_view view = {statements->count, statements->bytes};
    pthread_mutex_unlock(&statements->mutex);
    return view;
}

void
statements_each(struct statements *statements,
    void (*fn)(void *arg, const struct statement *statement), void *arg)
{
    struct statement *statement, *next;

    pthread_mutex_lock(&statements->mutex);
    HASH_ITER(hh, statements->all, statement, next) {
        fn(arg, statement);
    }
    pthread_mutex_unlock(&statements->mutex);
}
