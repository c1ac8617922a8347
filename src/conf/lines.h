/*
 * Files of lines of fields of words, as pg_hba.conf and pg_ident.conf are: words between commas,
 * "quoted" ones, /regular expressions, # comments, lines that go on behind a backslash, includes.
 */
#pragma once

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

/* a, "a", /a */
struct word
{
    char *text; /* owns; without quotes */
    bool is_quoted;
    regex_t *regex; /* owns, or NULL */
};

/* Words that were separated by commas; at least one. */
struct field
{
    struct word *words; /* own */
    size_t count;
};

struct lines
{
    /* Takes the fields of a line; what it wants to keep it replaces by zeroes. */
    void (*take)(struct lines *lines, struct field *fields, size_t count);
    void (*report)(void *arg, const char *path, int line, const char *text);
    void *arg; /* of both */
    const char *path;
    int line;
    int depth; /* of files that include files */
    bool has_failed;
};

/* Reads the file; false when there was a mistake, each of them reported. */
bool lines_read(struct lines *lines, const char *path);

/* Reports a mistake in the present line. */
void lines_complain(struct lines *lines, const char *text);

void word_free(struct word *word);
void field_free(struct field *field);

/* Whether this word was written so, without quotes. */
bool word_is(const struct word *word, const char *text);

/* Whether it is equal, or its regular expression fits. */
bool word_fits(const struct word *word, const char *text);
