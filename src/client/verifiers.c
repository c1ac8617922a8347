/* Derived verifiers. Called by client/login; calls pool/dial, which knows libpq's derivation. */
#include "client/verifiers.h"

#include "base/mem.h"
#include "base/text.h"
#include "pool/dial.h"

#include <pthread.h>
#include <uthash.h>

/* The secret it was made of tells when it is outdated. */
struct verifier_entry
{
    char *user, *secret, *verifier; /* own; secrets */
    UT_hash_handle hh;
};

struct verifiers
{
    pthread_mutex_t mutex;
    struct verifier_entry *all; /* own */
};

struct derivation
{
    struct crowd *crowd; /* borrows: outlives all helpers */
    uint64_t ticket;
    char *user, *secret; /* own */
    verifiers_done_fn *done;
};

static void
entry_free(struct verifier_entry *entry)
{
    free(entry->user);
    text_wipe(&entry->secret);
    text_wipe(&entry->verifier);
    free(entry);
}

struct verifiers *
verifiers_new(void)
{
    struct verifiers *verifiers = mem_new(sizeof(*verifiers));

    pthread_mutex_init(&verifiers->mutex, NULL);
    return verifiers;
}

void
verifiers_free(struct verifiers **pointer)
{
    struct verifiers *verifiers = *pointer;
    struct verifier_entry *entry, *next;

    HASH_ITER(hh, verifiers->all, entry, next) {
        HASH_DEL(verifiers->all, entry);
        entry_free(entry);
    }
    pthread_mutex_destroy(&verifiers->mutex);
    free(verifiers);
    *pointer = NULL;
}

bool
verifiers_find(
    struct verifiers *verifiers, const char *user, const char *secret, char to[VERIFIER_MAX])
{
    struct verifier_entry *entry;
    bool is_found = false;

    pthread_mutex_lock(&verifiers->mutex);
    HASH_FIND_STR(verifiers->all, user, entry);
    if (entry != NULL) {
        is_found =
            strcmp(entry->secret, secret) == 0 && text_copy(to, VERIFIER_MAX, entry->verifier);
    }
    pthread_mutex_unlock(&verifiers->mutex);
    return is_found;
}

/* Remembers it instead of what an older secret gave. */
static void
remember(struct verifiers *verifiers, const char *user, const char *secret, const char *verifier)
{
    struct verifier_entry *entry = mem_new(sizeof(*entry));
    struct verifier_entry *old;

    entry->user = mem_string(user);
    entry->secret = mem_string(secret);
    entry->verifier = mem_string(verifier);
    pthread_mutex_lock(&verifiers->mutex);
    HASH_FIND_STR(verifiers->all, user, old);
    if (old != NULL) {
        HASH_DEL(verifiers->all, old);
    }
    HASH_ADD_KEYPTR(hh, verifiers->all, entry->user, strlen(entry->user), entry);
    pthread_mutex_unlock(&verifiers->mutex);
    if (old != NULL) {
        entry_free(old);
    }
}

static void
derivation_free(void *arg)
{
    struct derivation *derivation = arg;

    free(derivation->user);
    text_wipe(&derivation->secret);
    free(derivation);
}

static void
on_made(void *arg, char *made)
{
    struct derivation *derivation = arg;
    struct verifiers *verifiers = derivation->crowd->crowds->verifiers;
    char verifier[VERIFIER_MAX];

    /* Another login may have been faster: all must be given the same salt. */
    bool is_known = verifiers_find(verifiers, derivation->user, derivation->secret, verifier);
    if (!is_known && made != NULL) {
        remember(verifiers, derivation->user, derivation->secret, made);
        is_known = text_copy(verifier, sizeof(verifier), made);
    }
    derivation->done(derivation->crowd, derivation->ticket, is_known ? verifier : NULL);
    explicit_bzero(verifier, sizeof(verifier));
    text_wipe(&made);
    derivation_free(derivation);
}

void
verifiers_derive(struct client *client, const char *secret, verifiers_done_fn *done)
{
    struct derivation *derivation = mem_new(sizeof(*derivation));

    derivation->crowd = client->crowd;
    derivation->ticket = client->ticket;
    derivation->user = mem_string(client->identity.user);
    derivation->secret = mem_string(secret);
    derivation->done = done;
    dial_make_verifier(&(struct verifier_request){.user = derivation->user,
        .password = derivation->secret,
        .loop = client->crowd->pool.loop,
        .helpers = client->crowd->crowds->helpers,
        .done = on_made,
        .gone = derivation_free,
        .arg = derivation});
}
