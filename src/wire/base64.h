/*
 * Base64 (RFC 4648, chapter 4), strict: SCRAM's messages have one valid form each, and two
 * spellings of one proof would be two proofs. Pure functions.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

/* Appends data in base64, with padding, without a zero byte. */
void base64_add(struct buf *buf, const void *data, size_t len);

/* Decodes len characters into at most size bytes. False for anything that base64_add() would not
 * have written, or when it does not fit; to may hold part of it then. */
bool base64_decode(const char *text, size_t len, uint8_t *to, size_t size, size_t *to_len_out);
