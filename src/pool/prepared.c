/* What a backend has prepared. Called by client/rewrite and the backend's owner; calls uthash. */
#include "pool/prepared.h"

#include "base/mem.h"
#include "base/state.h"

#include <string.h>

struct prepared_entry
{
    UT_hash_handle hh;
    TAILQ_ENTRY(prepared_entry) link;
    uint64_t id;
    uint64_t group;  /* of its newest Parse, or PREPARED_CERTAIN */
    unsigned parses; /* that are not confirmed */
    struct statement *statement; /* holds */
};

void
prepared_init(struct prepared *prepared)
{
    TAILQ_INIT(&prepared->by_use);
}

static struct prepared_entry *
entry_of(const struct prepared *prepared, const struct statement *statement)
{
    struct prepared_entry *entry;

    HASH_FIND(hh, prepared->by_id, &statement->id, sizeof(statement->id), entry);
    return entry;
}

static void
drop(struct prepared *prepared, struct statements *statements, struct prepared_entry *entry)
{
    HASH_DELETE(hh, prepared->by_id, entry);
    TAILQ_REMOVE(&prepared->by_use, entry, link);
    prepared->count--;
    statement_release(statements, entry->statement);
    free(entry);
}

enum prepared_state
prepared_find(struct prepared *prepared, const struct statement *statement, uint64_t group,
    uint64_t answered)
{
    struct prepared_entry *entry = entry_of(prepared, statement);

    if (entry == NULL || prepared->pending_drops > 0) {
        return PREPARED_MISSING;
    }
    if (entry->group != PREPARED_CERTAIN && entry->group != group && entry->group >= answered) {
        return PREPARED_UNSURE;
    }
    TAILQ_REMOVE(&prepared->by_use, entry, link);
    TAILQ_INSERT_TAIL(&prepared->by_use, entry, link);
    return PREPARED_HERE;
}

void
prepared_add(struct prepared *prepared, struct statement *statement, uint64_t group)
{
    struct prepared_entry *entry = entry_of(prepared, statement);

    if (entry != NULL) {
        entry->group = group;
        entry->parses++;
        return;
    }
    entry = mem_new(sizeof(*entry));
    entry->id = statement->id;
    entry->group = group;
    entry->parses = 1;
    entry->statement = statement_hold(statement);
    HASH_ADD(hh, prepared->by_id, id, sizeof(entry->id), entry);
    TAILQ_INSERT_TAIL(&prepared->by_use, entry, link);
    prepared->count++;
}

void
prepared_ask(struct prepared *prepared, struct statement *statement, bool is_told)
{
    if (prepared->questions_count == prepared->questions_size) {
        prepared->questions_size = prepared->questions_size == 0 ? 4 : prepared->questions_size * 2;
        prepared->questions = mem_resize(
            prepared->questions, prepared->questions_size * sizeof(*prepared->questions));
    }
    prepared->questions[prepared->questions_count++] =
        (struct prepared_question){statement_hold(statement), is_told};
}

void
prepared_answered(
    struct prepared *prepared, struct statements *statements, const struct buf *columns)
{
    struct prepared_question question = prepared->questions[0];

    ensure(prepared->questions_count > 0);
    prepared->questions_count--;
    memmove(prepared->questions, prepared->questions + 1,
        prepared->questions_count * sizeof(*prepared->questions));
    if (columns != NULL && !statement_learn(statements, question.statement, columns)) {
        statement_retire(statements, question.statement);
        prepared->changed = question.is_told ? question.statement->id : 0;
    }
    statement_release(statements, question.statement);
}

void
prepared_confirm(struct prepared *prepared, const struct statement *statement)
{
    struct prepared_entry *entry = entry_of(prepared, statement);

    /* A later one on its way closes it first. */
    if (entry != NULL && entry->parses > 0 && --entry->parses == 0) {
        entry->group = PREPARED_CERTAIN;
    }
}

void
prepared_group_failed(struct prepared *prepared, struct statements *statements, uint64_t group)
{
    struct prepared_entry *entry, *next;

    if (prepared->unnamed_group == group) {
        /* Perhaps it was skipped; then it is as it was, unless a later group makes it. */
        prepared->unnamed_group = prepared->unnamed_last;
        if (prepared->unnamed_last == group) {
            prepared->unnamed_owner = 0;
        }
    }
    HASH_ITER(hh, prepared->by_id, entry, next) {
        if (entry->group == group) {
            drop(prepared, statements, entry);
        }
    }
}

void
prepared_drop_oldest(struct prepared *prepared, struct statements *statements, char *name)
{
    struct prepared_entry *oldest = TAILQ_FIRST(&prepared->by_use);

    statement_name(oldest->statement, name);
    drop(prepared, statements, oldest);
}

void
prepared_drop_all(struct prepared *prepared, struct statements *statements)
{
    struct prepared_entry *entry, *next;

    prepared->unnamed_owner = 0;
    HASH_ITER(hh, prepared->by_id, entry, next) {
        drop(prepared, statements, entry);
    }
}

void
prepared_deinit(struct prepared *prepared, struct statements *statements)
{
    prepared_drop_all(prepared, statements);
    while (prepared->questions_count > 0) {
        prepared_answered(prepared, statements, NULL);
    }
    free(prepared->questions);
    prepared->questions = NULL;
    prepared->questions_size = 0;
}
