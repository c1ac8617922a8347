/*
 * Proving who a client is: the server's role of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802,
 * RFC 7677; PostgreSQL documentation, "SASL Authentication"). Bytes in, bytes or a reason out. No
 * PBKDF2 here: a verifier holds its result, so each call takes microseconds. Secrets are wiped when
 * their owner is freed.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

#define SCRAM_MECHANISM "SCRAM-SHA-256"
#define SCRAM_MECHANISM_PLUS "SCRAM-SHA-256-PLUS"

enum
{
    SCRAM_KEY_LEN = 32,
    SCRAM_SALT_MAX = 256,
    SCRAM_MESSAGE_MAX = 4096, /* longest message accepted from a client */
    SCRAM_ITERATIONS_MAX = 10000000,
    SCRAM_BINDING_MAX = 64, /* of tls-server-end-point: a hash */
};

/* What is known about a user: pg_authid.rolpassword, a line of userlist.txt, or made up. */
struct scram_verifier
{
    uint32_t iterations;
    uint32_t salt_len;
    uint8_t salt[SCRAM_SALT_MAX];
    uint8_t stored_key[SCRAM_KEY_LEN];
    uint8_t server_key[SCRAM_KEY_LEN];
    bool is_mock; /* no proof fits */
};

/* Whether a secret claims to be a verifier, well-formed or not. */
bool scram_is_verifier(const char *secret);

/* "SCRAM-SHA-256$4096:salt$StoredKey:ServerKey", in base64. False when it is anything else. */
bool scram_verifier_parse(const char *text, struct scram_verifier *out) must_check;

/* For a user that does not exist: the same salt each time it is asked for, so that nobody can tell;
 * the exchange runs as always and fails at the end. secret is random, made once per process (or
 * shared by several). */
void scram_verifier_mock(
    const char *user, const void *secret, size_t secret_len, struct scram_verifier *out);

void scram_verifier_wipe(struct scram_verifier *verifier);

/* Body of a SASLInitialResponse: the mechanism's name and the client-first-message (borrowed;
 * length 0 when the client sent none). */
bool scram_parse_initial(const uint8_t *body, size_t len, const char **mechanism_out,
    const uint8_t **data_out, size_t *data_len_out) must_check;

/* One exchange. */
struct scram;

/* Copies the verifier. offers_plus: SCRAM-SHA-256-PLUS was offered to this client too, so a client
 * that says it could bind the channel but saw no offer ('y') has met a man in the middle. */
struct scram *scram_new(const struct scram_verifier *verifier, bool offers_plus);

/* The client chose SCRAM-SHA-256-PLUS: it must bind the exchange to this channel, by
 * "tls-server-end-point" (RFC 5929). Before scram_first(). */
void scram_bind(struct scram *scram, const uint8_t *binding, size_t len);

/* Wipes and frees. */
void scram_free(struct scram **scram);

/* Takes the client-first-message, adds the server-first-message (data of
 * AuthenticationSASLContinue). A failure is a broken message: 08P01, 0A000 or 28000 in PostgreSQL's
 * words. Once. */
bool scram_first(struct scram *scram, const uint8_t *data, size_t len, struct buf *reply,
    struct fail *fail) must_check;

/* As scram_first() with the server's half of the nonce given: for test vectors. */
bool scram_first_with_nonce(struct scram *scram, const char *nonce, const char *first,
    struct buf *reply, struct fail *fail) must_check;

/* Takes the client-final-message. True: the client knows the password, and the server-final-message
 * (data of AuthenticationSASLFinal) was added. False with 28P01: wrong password or mock; any other
 * SQLSTATE: a broken message. Once. */
bool scram_final(struct scram *scram, const uint8_t *data, size_t len, struct buf *reply,
    struct fail *fail) must_check;

/* ClientKey of a client that proved itself, SCRAM_KEY_LEN bytes, else NULL: logs in to a PostgreSQL
 * that has the same verifier (libpq's scram_client_key). Borrowed until scram_free(). */
const uint8_t *scram_client_key(const struct scram *scram);

/* ServerKey, the same way (libpq's scram_server_key). */
const uint8_t *scram_server_key(const struct scram *scram);
