/*
 * The names a client gave to prepared statements, and what is on its way to change them. A change
 * is in force at once for the messages behind it, and taken back when an error makes PostgreSQL
 * skip it, so that a name exists exactly when it would on a direct connection.
 *
 *    P a  C b  S │ P c  S        changes, in the order of the marked requests in the reply queue
 *    done  ▲       in flight     done: answered, but its group is not: it would be sent again
 *
 * Owned by the client.
 */
#pragma once

#include "pool/statements.h"

struct name
{
    UT_hash_handle hh;
    struct statement *statement; /* holds */
    uint64_t former;             /* id of the one before: errors on their way speak of it */
    uint32_t settings_version;   /* of the client's settings that the statement was chosen for */
    uint32_t in_flight;          /* changes that are not answered yet */
    uint64_t group;              /* of the newest */
    bool is_suspect;             /* its text may leave something in the session */
    uint64_t assumed; /* a copy that was there stands for its Parse, in this group: what the client
                         knows of it was not learned from PostgreSQL; 0: it was parsed */
    size_t size;                 /* of `text` with its zero byte */
    char text[];
};

enum change_kind
{
    CHANGE_PARSE,      /* a name was added */
    CHANGE_CLOSE,      /* one was taken out */
    CHANGE_CLOSE_ALL,  /* all were */
    CHANGE_REFUSED,    /* nothing: the error tells why */
};

/* Why an error is provoked. */
enum refused
{
    REFUSED_NOT,
    REFUSED_DUPLICATE, /* the name is taken */
    REFUSED_MEMORY,
    REFUSED_STALE, /* of a Bind: it returns other columns than its client knows */
};

struct change
{
    enum change_kind kind;
    bool is_token;   /* a Close was sent instead of a Parse: its answer is translated */
    bool has_failed; /* a Query that contains it answered with an error */
    enum refused refused;
    uint64_t group;
    struct name *name;  /* CHANGE_CLOSE: owns; else borrows, or NULL */
    struct name *names; /* CHANGE_CLOSE_ALL: owns */
};

struct names
{
    struct name *all; /* own */
    unsigned count;
    struct change *changes; /* own; oldest first */
    unsigned changes_count, changes_size, done;
};

enum
{
    NAMES_MAX = 65536 /* of one client */
};

/* `assumed` before it was used. */
#define NAME_UNUSED UINT64_MAX

enum name_state
{
    NAME_FREE,
    NAME_KNOWN,
    NAME_UNSURE, /* a change of an earlier group is not answered yet: wait for that */
};

/* Finds a name as it will be when what was sent is done. */
enum name_state names_find(
    const struct names *names, const char *text, uint64_t group, struct name **out);

/* Makes a name outside of any pipeline: holds nothing for the caller, takes over the statement. */
struct name *names_add(struct names *names, const char *text, struct statement *statement);
void names_remove(
    struct names *names, struct statements *statements, struct name *name);

enum
{
    NAMES_ALONE = 0 /* the group of a Query: what follows it is not skipped with it */
};

/* Changes, each for the request that was just marked. */
void names_parse(struct names *names, struct name *name, uint64_t group, bool is_token);
void names_refuse(
    struct names *names, enum refused refused, struct name *name, uint64_t group);
void names_close(struct names *names, struct name *name, uint64_t group);
void names_close_all(struct names *names, uint64_t group);

/* Whether changes of earlier groups, or of Queries, are in flight. */
bool names_have_earlier(const struct names *names, uint64_t group);

/* The oldest change in flight, or NULL. */
struct change *names_next(const struct names *names);

/* The oldest in flight was answered. */
void names_done(struct names *names, struct statements *statements);

/* The next so many in flight were skipped: takes them back. */
void names_skipped(struct names *names, struct statements *statements, unsigned count);

/* A group was answered: what is done is certain. */
void names_commit(struct names *names, struct statements *statements);

/* The backend is gone. keeps_done: what was answered stays; else all of it is going to be sent
 * again. */
void names_lost(struct names *names, struct statements *statements, bool keeps_done);

void names_deinit(struct names *names, struct statements *statements);
