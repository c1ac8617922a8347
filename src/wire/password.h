/*
 * Whether an answer to a challenge by md5 or in plain shows that its sender knows the secret. The
 * time depends on what the peer sent only.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stdint.h>

/* Answer of a client to AuthenticationMD5Password with that salt. secret is the plaintext or
 * "md5...". */
bool password_check_md5(
    const char *user, const char *secret, const uint8_t salt[4], const char *answer) must_check;

/* Answer to AuthenticationCleartextPassword. secret is the plaintext or "md5..."; never a verifier,
 * which takes PBKDF2. */
bool password_check_plain(const char *user, const char *secret, const char *answer) must_check;
