/*
 * The reason why something did not work.
 *
 * One vocabulary for everything that can go wrong at run time: an SQLSTATE and a sentence. The same
 * reason goes to the log, to the client as an ErrorResponse and to the console, so nobody has to
 * translate. Fallible functions return bool and take `struct fail *` last. A fail owns nothing.
 *
 * Bugs are not reasons: they abort through ensure() (state.h). Lack of memory is not one either:
 * mem_new() ends the process (mem.h).
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define must_check __attribute__((warn_unused_result))

struct fail
{
    char sqlstate[6]; /* five characters, PostgreSQL documentation, appendix A */
    char text[480];   /* one sentence for people, lower case, no full stop */
    char detail[480]; /* what else is known, or empty */
    bool is_verbatim; /* text and detail are PostgreSQL's own words */
};

/* Sets sqlstate and text, clears the rest. Always false: `return fail_set(fail, "3D000", ...)`. */
__attribute__((format(printf, 3, 4))) static inline bool
fail_set(struct fail *fail, const char *sqlstate, const char *format, ...)
{
    va_list args;

    memset(fail, 0, sizeof(*fail));
    snprintf(fail->sqlstate, sizeof(fail->sqlstate), "%s", sqlstate);
    va_start(args, format);
    vsnprintf(fail->text, sizeof(fail->text), format, args);
    va_end(args);
    return false;
}

/* Adds the DETAIL to a reason that was set. Always false. */
__attribute__((format(printf, 2, 3))) static inline bool
fail_detail(struct fail *fail, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(fail->detail, sizeof(fail->detail), format, args);
    va_end(args);
    return false;
}
