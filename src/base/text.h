/*
 * Small text: parsing the values people write, quoting what we send, guessing what was meant.
 * Pure functions; nothing is owned unless a function says so.
 */
#pragma once

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copies at most size - 1 bytes and ends with zero; tells whether all of it fitted. */
bool text_copy(char *to, size_t size, const char *from);

/* "30", "0.5", "100ms", "2s", "5min", "1h", "1d": a number without unit counts in seconds. Result
 * in microseconds. False when it is not a duration or does not fit 63 bits. */
bool text_parse_duration(const char *text, int64_t *us_out);

/* "4096", "64kB", "1MB", "2GB" (also KiB, MiB, GiB; 1024 each): bytes. */
bool text_parse_size(const char *text, int64_t *bytes_out);

/* A whole number in base 10, or base 8 with a leading 0 when octal is true. */
bool text_parse_integer(const char *text, bool octal, int64_t *value_out);

/* 1/0, on/off, true/false, yes/no in any case. */
bool text_parse_bool(const char *text, bool *value_out);

/* A duration as people write it: "0", "250ms", "30s", "10min". to must hold 32 bytes. */
void text_print_duration(char *to, size_t size, int64_t us);

/* Number of edits between two words, at most limit + 1; for "did you mean". */
unsigned text_distance(const char *a, const char *b, unsigned limit);

/* Appends 'value' as an SQL literal: quotes doubled, backslashes in the E'' form (PostgreSQL
 * documentation, 4.1.2). Right for every standard_conforming_strings. No zero byte is added. */
void text_quote_literal(struct buf *buf, const char *value);

/* Appends "name" as an SQL identifier. No zero byte is added. */
void text_quote_identifier(struct buf *buf, const char *name);

/* Length of the UTF-8 character at text, which ends with a zero byte; 0 when there is none
 * (RFC 3629: no overlong forms, no surrogates). */
size_t text_utf8_len(const unsigned char *text);

/* Overwrites a secret so that the compiler cannot leave it out, then frees it and clears the
 * pointer. */
void text_wipe(char **secret);

/* Compares in a time that depends on the length only. */
bool text_equal_constant_time(const void *a, const void *b, size_t len);

/* Whether the word is among these. */
bool text_is_in(const char *const *list, size_t len, const char *word);
