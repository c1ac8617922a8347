/*
 * What must hold. ensure() is compiled in always: a pooler that goes on after a broken invariant
 * may hand one user's rows to another, so it is better gone.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#define ensure(condition)                                                                          \
    ((condition) ? (void)0 : ensure_failed(#condition, __FILE__, __LINE__, __func__))

/* One bit per state, to write the legal successors of a state in its table row. */
#define TO(state) (1u << (state))

/* Says on standard error what did not hold and aborts, so that a core file tells the rest. */
__attribute__((noreturn, cold)) static inline void
ensure_failed(const char *condition, const char *file, int line, const char *function)
{
    fprintf(stderr, "pgkeel: broken invariant: %s (%s:%d, %s)\n", condition, file, line, function);
    abort();
}
