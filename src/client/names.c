/* A client's names for statements. Called by client/rewrite, client/deliver and client/loss. */
#include "client/names.h"

#include "base/mem.h"
#include "base/state.h"

#include <string.h>

enum name_state
names_find(const struct names *names, const char *text, uint64_t group, struct name **out)
{
    HASH_FIND_STR(names->all, text, *out);
    if (*out != NULL) {
        return (*out)->in_flight > 0 && (*out)->group != group ? NAME_UNSURE : NAME_KNOWN;
    }
    for (unsigned i = names->done; i < names->changes_count; i++) {
        const struct change *change = &names->changes[i];
        bool concerns = change->kind == CHANGE_CLOSE_ALL ||
                        (change->kind == CHANGE_CLOSE && strcmp(change->name->text, text) == 0);
        if (concerns && change->group != group) {
            return NAME_UNSURE;
        }
    }
    return NAME_FREE;
}

static void
enter(struct names *names, struct name *name)
{
    HASH_ADD_KEYPTR(hh, names->all, name->text, name->size - 1, name);
    names->count++;
}

static void
leave(struct names *names, struct name *name)
{
    HASH_DELETE(hh, names->all, name);
    names->count--;
}

static void
free_name(struct statements *statements, struct name *name)
{
    statement_release(statements, name->statement);
    free(name);
}

struct name *
names_add(struct names *names, const char *text, struct statement *statement)
{
    size_t size = strlen(text) + 1;
    struct name *name = mem_new(sizeof(*name) + size);

    name->statement = statement;
    name->size = size;
    memcpy(name->text, text, size);
    enter(names, name);
    return name;
}

void
names_remove(struct names *names, struct statements *statements, struct name *name)
{
    leave(names, name);
    free_name(statements, name);
}

/* ---- changes ---- */

static struct change *
add_change(struct names *names, enum change_kind kind, uint64_t group)
{
    if (names->changes_count == names->changes_size) {
        names->changes_size = names->changes_size == 0 ? 4 : names->changes_size * 2;
        names->changes =
            mem_resize(names->changes, names->changes_size * sizeof(*names->changes));
    }
    struct change *change = &names->changes[names->changes_count++];
    *change = (struct change){.kind = kind, .group = group};
    return change;
}

void
names_parse(struct names *names, struct name *name, uint64_t group, bool is_token)
{
    struct change *change = add_change(names, CHANGE_PARSE, group);

    change->is_token = is_token;
    change->name = name;
    name->in_flight++;
    name->group = group;
}

void
names_refuse(struct names *names, enum refused refused, struct name *name, uint64_t group)
{
    struct change *change = add_change(names, CHANGE_REFUSED, group);

    change->refused = refused;
    change->name = name;
    if (name != NULL) {
        name->in_flight++;
        name->group = group;
    }
}

void
names_close(struct names *names, struct name *name, uint64_t group)
{
    leave(names, name);
    add_change(names, CHANGE_CLOSE, group)->name = name;
}

void
names_close_all(struct names *names, uint64_t group)
{
    add_change(names, CHANGE_CLOSE_ALL, group)->names = names->all;
    names->all = NULL;
    names->count = 0;
}

bool
names_have_earlier(const struct names *names, uint64_t group)
{
    for (unsigned i = names->done; i < names->changes_count; i++) {
        if (names->changes[i].group != group) {
            return true;
        }
    }
    return false;
}

struct change *
names_next(const struct names *names)
{
    return names->done < names->changes_count ? &names->changes[names->done] : NULL;
}

static void
settle_name(struct change *change)
{
    bool counts = change->kind == CHANGE_PARSE || change->kind == CHANGE_REFUSED;

    if (counts && change->name != NULL) {
        change->name->in_flight--;
    }
}

static void
free_all(struct statements *statements, struct name *all)
{
    struct name *name, *next;

    HASH_ITER(hh, all, name, next) {
        HASH_DELETE(hh, all, name);
        free_name(statements, name);
    }
}

/* Puts a name back, unless its place was taken meanwhile. */
static void
restore_one(struct names *names, struct statements *statements, struct name *name)
{
    struct name *other;

    HASH_FIND_STR(names->all, name->text, other);
    if (other == NULL) {
        enter(names, name);
    } else {
        free_name(statements, name);
    }
}

static void
restore(struct names *names, struct statements *statements, struct name *all)
{
    struct name *name, *next;

    HASH_ITER(hh, all, name, next) {
        HASH_DELETE(hh, all, name);
        restore_one(names, statements, name);
    }
}

static void
undo(struct names *names, struct statements *statements, struct change *change)
{
    switch (change->kind) {
    case CHANGE_PARSE:
        names_remove(names, statements, change->name);
        break;
    case CHANGE_CLOSE:
        restore_one(names, statements, change->name);
        break;
    case CHANGE_CLOSE_ALL:
        restore(names, statements, change->names);
        break;
    case CHANGE_REFUSED:
        break;
    }
}

static void
commit(struct statements *statements, struct change *change)
{
    if (change->kind == CHANGE_CLOSE) {
        free_name(statements, change->name);
    } else if (change->kind == CHANGE_CLOSE_ALL) {
        free_all(statements, change->names);
    }
}

void
names_done(struct names *names, struct statements *statements)
{
    struct change *change = names_next(names);

    ensure(change != NULL);
    if (change->has_failed) {
        names_skipped(names, statements, 1);
        return;
    }
    settle_name(change);
    names->done++;
}

void
names_skipped(struct names *names, struct statements *statements, unsigned count)
{
    unsigned first = names->done, rest = names->changes_count - first - count;

    ensure(first + count <= names->changes_count);
    if (count == 0) {
        return;
    }
    for (unsigned i = first + count; i-- > first;) {
        settle_name(&names->changes[i]);
        undo(names, statements, &names->changes[i]);
    }
    memmove(&names->changes[first], &names->changes[first + count],
        rest * sizeof(*names->changes));
    names->changes_count -= count;
}

void
names_commit(struct names *names, struct statements *statements)
{
    unsigned rest = names->changes_count - names->done;

    if (names->changes == NULL) {
        return;
    }
    for (unsigned i = 0; i < names->done; i++) {
        commit(statements, &names->changes[i]);
    }
    memmove(names->changes, names->changes + names->done, rest * sizeof(*names->changes));
    names->changes_count = rest;
    names->done = 0;
    if (rest == 0) {
        free(names->changes);
        names->changes = NULL;
        names->changes_size = 0;
    }
}

void
names_lost(struct names *names, struct statements *statements, bool keeps_done)
{
    names_skipped(names, statements, names->changes_count - names->done);
    if (!keeps_done) {
        for (unsigned i = names->changes_count; i-- > 0;) {
            undo(names, statements, &names->changes[i]);
        }
        names->changes_count = 0;
    }
    names->done = names->changes_count;
    names_commit(names, statements);
}

void
names_deinit(struct names *names, struct statements *statements)
{
    names_lost(names, statements, true);
    free_all(statements, names->all);
    memset(names, 0, sizeof(*names));
}
