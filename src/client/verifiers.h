/*
 * SCRAM verifiers of plaintext secrets, derived once for each user by a helper (PBKDF2 takes
 * milliseconds, which no loop has). One store for all workers, so that a user is given the same
 * salt by each of them, under a mutex. Secrets; wiped when forgotten.
 */
#pragma once

#include "client/client.h"

enum
{
    VERIFIER_MAX = 512
};

struct verifiers *verifiers_new(void);
void verifiers_free(struct verifiers **verifiers);

/* Copies the verifier if it was derived before from this secret. Any thread. */
must_check bool verifiers_find(
    struct verifiers *verifiers, const char *user, const char *secret, char to[VERIFIER_MAX]);

/* Called with the client's ticket (it may have left) and the verifier, or NULL when that failed. */
typedef void verifiers_done_fn(void *crowd, uint64_t ticket, const char *verifier);

/* Derives the verifier of the client's user, remembers it, then calls done. */
void verifiers_derive(struct client *client, const char *secret, verifiers_done_fn *done);
