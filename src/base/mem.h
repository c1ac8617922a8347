/*
 * Memory that is there or the process is not. What a peer can make us allocate has a limit of its
 * own elsewhere; so running out here means the machine is out, and no half-handled case is worth
 * having.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noreturn, cold)) static inline void
mem_exhausted(size_t size)
{
    fprintf(stderr, "pgkeel: out of memory (%zu bytes)\n", size);
    abort();
}

/* Zeroed memory; the caller owns it and frees it with free(). */
static inline void *
mem_new(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL) {
        mem_exhausted(size);
    }
    return memory;
}

/* As realloc(), never NULL for a size above 0. What was added is not zeroed. */
static inline void *
mem_resize(void *memory, size_t size)
{
    void *resized = realloc(memory, size);
    if (resized == NULL && size > 0) {
        mem_exhausted(size);
    }
    return resized;
}

/* A copy of a string; NULL stays NULL. The caller owns it. */
static inline char *
mem_string(const char *string)
{
    char *copy = string == NULL ? NULL : strdup(string);
    if (copy == NULL && string != NULL) {
        mem_exhausted(strlen(string));
    }
    return copy;
}
