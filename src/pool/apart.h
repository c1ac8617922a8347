/*
 * A connection to PostgreSQL that one client has alone: it is in no pool, counts for no limit and
 * is used by nobody else. Dialled by pool_dial_apart(); libpq stays the owner of socket and TLS
 * session. Embedded in whoever uses it; the worker's thread.
 */
#pragma once

#include "net/stream.h"

struct pg_conn;

struct apart
{
    struct pg_conn *conn; /* owns */
    struct stream stream;
};

/* Takes over a connection; fn is called with WATCH_ bits. False when its TLS session cannot be
 * taken over: it is closed then. */
must_check bool apart_open(struct apart *apart, struct pg_conn *conn, struct loop *loop,
    void (*fn)(void *arg, unsigned what), void *arg);

/* Ends it for the peer, at once; no event comes any more. Half a message is not completed. */
void apart_cut(struct apart *apart);

/* Frees everything; not from within an event. */
void apart_free(struct apart *apart);

/* Closes a connection that nobody took over; NULL is none. */
void apart_drop(struct pg_conn *conn);

/* The process that serves it. */
int apart_pid(const struct apart *apart);
