/*
 * Looking up a user's secret in PostgreSQL (auth_user, auth_query), by a helper, on a connection
 * that is used for nothing else: no word of a client but the name reaches it, and that as a
 * parameter. Answers are remembered for a moment; a connection for each database is kept for the
 * next one.
 */
#pragma once

#include "base/fail.h"
#include "base/helpers.h"
#include "net/loop.h"
#include "pool/credentials.h"

#include <stdint.h>

struct lookups;
struct settings;

enum
{
    LOOKUP_SECRET_MAX = 2048
};

struct lookup_answer
{
    bool is_found; /* the user exists; with an empty secret it has none that could be checked */
    char secret[LOOKUP_SECRET_MAX];
};

struct lookup_request
{
    struct lookups *lookups;
    const char *database, *user;         /* copied, as all texts */
    const char *const *keywords, *const *values; /* libpq's */
    struct credential_source source;             /* of the password, if it is not among them */
    struct credentials *credentials;             /* borrows */
    const char *without;                         /* as of struct dial_request */
    const char *query;
    int64_t timeout_us;
    struct loop *loop;
    struct helpers *helpers;
    /* In the loop's thread; fail: NULL, or why nobody could be asked. The answer is wiped after. */
    void (*done)(void *arg, const struct lookup_answer *answer, const struct fail *fail);
    void (*gone)(void *arg); /* instead, when the process ends first; any thread */
    void *arg;
};

struct lookups *lookups_new(void);
void lookups_free(struct lookups **lookups); /* helpers have stopped */

/* What was answered a moment ago. Any thread. */
must_check bool lookups_find(struct lookups *lookups, const char *database, const char *user,
    struct lookup_answer *answer);

/* It may be outdated: the next one asks again. Any thread. */
void lookups_forget(struct lookups *lookups, const char *database, const char *user);

/* Closes the connections that are kept for the next question. Any thread. */
void lookups_hang_up(struct lookups *lookups, struct helpers *helpers);

void lookup_start(const struct lookup_request *request);

/* Fills in how users of this database are looked up, and starts. False: 3D000, auth_dbname is not
 * configured. */
must_check bool connect_lookup(const struct settings *settings, const char *database,
    struct lookup_request *request, struct fail *fail);
