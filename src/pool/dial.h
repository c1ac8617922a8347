/*
 * Opening connections through libpq, in a helper thread: names, TLS, passwords, several hosts, all
 * that libpq can, with poll() and our own deadline. The result comes back to the worker that asked.
 * Also the other things only libpq knows: reading connection strings and making SCRAM verifiers.
 */
#pragma once

#include "base/fail.h"
#include "base/helpers.h"
#include "net/loop.h"
#include "pool/credentials.h"

#include <stdatomic.h>
#include <stdint.h>

struct dial;
struct pg_conn;

/* Who is told what came of it. */
struct dial_result
{
    /* In the loop's thread; owns conn when it is not NULL. */
    void (*done)(void *arg, struct pg_conn *conn, const struct fail *fail);
    void (*gone)(void *arg); /* instead, when the process ends first; any thread */
    void *arg;
};

/* Where dials go. libpq may be away for much longer than it was given: it waits for the resolver,
 * and derives a key for as long as the server asks (RFC 7677 bounds no iterations). Such a helper
 * cannot be called back, so no other one is sent there meanwhile. */
struct dial_place
{
    _Atomic int overdue; /* dials that libpq has not come back from */
};

struct dial_request
{
    const char *const *keywords; /* libpq's, NULL-terminated; copied */
    const char *const *values;
    struct credential_source source; /* of the password, if it is not among them; copied */
    struct credentials *credentials; /* borrows */
    const char *without; /* why there is no password, if PostgreSQL asks for one; or NULL; copied */
    struct dial_place *place;        /* borrows until the end */
    const void *share;               /* of the helpers, as of struct job */
    int64_t timeout_us; /* 0: none */
    struct loop *loop;
    struct helpers *helpers;
    struct dial_result result;
};

/* Dials here and now, in a helper thread; the request's result and place are not used. stop_fd: of
 * the helpers. NULL with the reason. */
struct pg_conn *dial_now(
    const struct dial_request *request, int64_t deadline_us, int stop_fd, struct fail *fail);

/* In a helper thread: waits until this connection can be read. False with errno: ETIMEDOUT or
 * ECANCELED. */
must_check bool dial_wait(struct pg_conn *conn, int64_t deadline_us, int stop_fd);

/* Starts dialling. In the loop's thread. The result comes soon after the timeout at the latest. */
void dial_start(const struct dial_request *request);

/* libpq's reading of a connection string or URL; each() once per keyword that is set. False with
 * libpq's words. */
bool dial_parse_conninfo(const char *conninfo,
    void (*each)(void *arg, const char *keyword, const char *value), void *arg, char *error,
    size_t size);

/* Whether the libpq that runs, not the one that we were built with, takes the keys of a SCRAM login
 * instead of a password. Any thread. */
bool dial_takes_keys(void);

/* Makes a SCRAM-SHA-256 verifier of a plaintext password in a helper thread (SASLprep, PBKDF2). */
struct verifier_request
{
    const char *user, *password; /* copied */
    struct loop *loop;
    struct helpers *helpers;
    /* Called in the loop with the verifier, which it owns then; NULL when that failed. */
    void (*done)(void *arg, char *verifier);
    void (*gone)(void *arg); /* instead of done when the process ends first; any thread */
    void *arg;
};

void dial_make_verifier(const struct verifier_request *request);
