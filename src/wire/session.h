/*
 * What SQL text may leave behind in the session that runs it: settings, and things that live longer
 * than a transaction. It only says where to look; whether something is there, PostgreSQL is asked
 * (client/session), because only it knows what succeeded and was not rolled back. So it may name
 * too much, but not too little. What a function does inside no text shows.
 *
 * Pure functions, linear in the length, nothing is allocated.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum session_mark
{
    SESSION_LEAVES = 1,      /* look for settings and things that were left */
    SESSION_ENDS = 2,        /* something may be gone: look if there was anything */
    SESSION_LOCKS = 4,       /* look for advisory locks too */
    SESSION_SEQUENCES = 8,   /* asks for a value of this session's: currval, lastval */
    SESSION_LOADS = 16,      /* LOAD: nobody can tell afterwards */
    SESSION_UNNAMED = 32,    /* set_config() of a name that is not in the text */
    SESSION_DEALLOCATES = 64, /* DEALLOCATE of one name */
    SESSION_DEALLOCATES_ALL = 128, /* DEALLOCATE ALL, DISCARD ALL */
    SESSION_DISCARDS = 256,        /* DISCARD ALL, DISCARD SEQUENCES */
    SESSION_UNLISTENS = 512,       /* UNLISTEN of one channel */
    SESSION_UNLISTENS_ALL = 1024,  /* UNLISTEN *, DISCARD ALL */
};

enum
{
    SESSION_NAME_SIZE = 64 /* PostgreSQL's own limit on names */
};

enum session_name
{
    NAME_SETTING,
    NAME_STATEMENT, /* after DEALLOCATE */
    NAME_CHANNEL,   /* after UNLISTEN */
};

/* A name in the text, as PostgreSQL folds it. */
typedef void session_name_fn(void *arg, const char *name, enum session_name kind);

/* Whether it could be worth reading at all: for every text on its way, in one quick pass. */
bool session_is_suspect(const char *text, size_t len);

/* SESSION_ marks of the text; tells the names it finds. has_backslash_escapes: as sql_over(). */
unsigned session_read(const char *text, size_t len, bool has_backslash_escapes,
    session_name_fn *tell, void *arg);
