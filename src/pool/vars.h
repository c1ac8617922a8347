/*
 * Settings of a session (run-time parameters) as one sorted run of bytes,
 * "name\0value\0name\0value\0": comparing what a client wants with what a backend has is one
 * memcmp(), and that is all that happens on the hot path. Names are compared without regard to case
 * and kept as they were first written. Pure; one owner.
 */
#pragma once

#include "base/buf.h"

#include <string.h>

struct vars
{
    char *bytes; /* owns */
    uint32_t len;
    uint32_t version; /* another one after each change */
};

void vars_deinit(struct vars *vars);
void vars_copy(struct vars *to, const struct vars *from);

/* Adds or replaces. */
void vars_put(struct vars *vars, const char *name, const char *value);
void vars_remove(struct vars *vars, const char *name);

/* The value, valid until the next change, or NULL. */
const char *vars_find(const struct vars *vars, const char *name);

/* Walks in order; set *cursor to 0 first. */
bool vars_next(
    const struct vars *vars, uint32_t *cursor, const char **name_out, const char **value_out);

static inline bool
vars_are_equal(const struct vars *a, const struct vars *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->bytes, b->bytes, a->len) == 0);
}

/* Appends the SQL that turns a session with the settings `from` into one with the settings `to`:
 * values quoted, one statement each. Nothing when they are equal. */
void vars_sql(const struct vars *from, const struct vars *to, struct buf *sql);
