/*
 * What a dial proves itself with towards PostgreSQL, when that is not in the connection string: a
 * password in a file, or one that a command gives and that is good for a while. What commands gave
 * is kept in one store for all pools, under a mutex; wiped when it is dropped.
 */
#pragma once

#include "base/fail.h"

#include <stdint.h>

struct credentials;

/* Where it comes from; borrows its texts but for copies. */
struct credential_source
{
    const char *file;    /* its first line; or NULL */
    const char *command; /* all that it writes, but a last end of line; or NULL */
    int64_t ttl_us;      /* how long that is good; 0: for one dial */
    const char *database, *user, *host, *port; /* what the command is told */
};

/* How long whoever asks can wait. */
struct credential_patience
{
    int64_t deadline_us; /* in loop_clock_us() time; 0: for ever */
    int stop_fd;         /* of the helpers */
};

struct credential
{
    char *password;     /* owns; NULL: there is no source */
    uint64_t serial;    /* of the run that gave it */
    bool is_remembered; /* it was given for an earlier dial */
};

struct credentials *credentials_new(void);
void credentials_free(struct credentials **credentials); /* helpers have stopped */

void credential_source_copy(
    struct credential_source *to, const struct credential_source *from);
void credential_source_deinit(struct credential_source *source); /* a copy */

/* In a helper thread: reads the file, runs the command, or waits for somebody else's run of it.
 * The caller owns what it gets. False with the reason, which names no secret. */
must_check bool credentials_take(struct credentials *credentials,
    const struct credential_source *source, const struct credential_patience *patience,
    struct credential *out, struct fail *fail);

/* PostgreSQL refused it: whoever asks next gets another one. Any thread. */
void credentials_refused(struct credentials *credentials, const struct credential_source *source,
    const struct credential *credential);

void credential_wipe(struct credential *credential);
