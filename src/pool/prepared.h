/*
 * The prepared statements that one backend has on behalf of clients, as far as we know: what is in
 * here exists there; what is not may exist, so it is closed before it is prepared again. Least
 * recently used ones are closed when there are more than max_prepared_statements. Owned by the
 * backend, moves between workers with it.
 *
 * PostgreSQL skips everything between an error and the next Sync. So a statement is certain only
 * within the group of messages that prepared it (if it is skipped, so is its use) or once that
 * group was answered without an error.
 */
#pragma once

#include "pool/statements.h"

#include <sys/queue.h>

/* PostgreSQL was asked what columns a statement returns. */
struct prepared_question
{
    struct statement *statement; /* holds */
    bool is_told; /* the client that made us ask learns them too, or does not know any yet */
};

struct prepared_entry;
TAILQ_HEAD(prepared_list, prepared_entry);

struct prepared
{
    struct prepared_entry *by_id; /* own */
    struct prepared_list by_use;  /* the longest unused first */
    unsigned count;
    unsigned pending_drops; /* requests on their way that may drop everything */
    uint64_t unnamed_owner; /* the client that made (or dropped) the unnamed one; 0: not known */
    uint64_t unnamed_group; /* in which it began to be its ... */
    uint64_t unnamed_last;  /* ... and was last made or dropped */
    struct prepared_question *questions; /* own; oldest first, beside REPLY_COLUMNS in the queue */
    unsigned questions_count, questions_size;
    uint64_t changed; /* id of a statement whose new columns its client is told; 0: none */
};

enum prepared_state
{
    PREPARED_MISSING,
    PREPARED_HERE,
    PREPARED_UNSURE, /* its group is not answered yet: wait for that */
};

enum
{
    PREPARED_CERTAIN = 0 /* stands for a group that was answered long ago: they count from 1 */
};

void prepared_init(struct prepared *prepared);

/* Whether it can be used in the group that is being sent; answered: groups that were. */
enum prepared_state prepared_find(struct prepared *prepared, const struct statement *statement,
    uint64_t group, uint64_t answered);

/* Its Parse is being sent in this group. */
void prepared_add(struct prepared *prepared, struct statement *statement, uint64_t group);

/* A Describe of it is being sent. */
void prepared_ask(struct prepared *prepared, struct statement *statement, bool is_told);

/* The oldest question was answered, with these columns; NULL: they are not known, or it was
 * skipped. Where others were known the statement is retired. */
void prepared_answered(
    struct prepared *prepared, struct statements *statements, const struct buf *columns);

/* Its Parse was answered. */
void prepared_confirm(struct prepared *prepared, const struct statement *statement);

/* An error made PostgreSQL skip the rest of this group: what it prepared is not certain. */
void prepared_group_failed(
    struct prepared *prepared, struct statements *statements, uint64_t group);

/* Takes out the longest unused; the caller closes it at PostgreSQL. Returns its name. */
void prepared_drop_oldest(struct prepared *prepared, struct statements *statements, char *name);

/* Nothing is there any more, the unnamed one included. */
void prepared_drop_all(struct prepared *prepared, struct statements *statements);

void prepared_deinit(struct prepared *prepared, struct statements *statements);
