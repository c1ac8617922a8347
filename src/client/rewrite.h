/*
 * Prepared statements where a client's requests run on ever other backends (pool_mode transaction
 * and statement): what a client calls "s1" is "pgkeel_17" at PostgreSQL, prepared there when it is
 * missing. A Parse of what is there already becomes a Close of nothing: PostgreSQL's answer keeps
 * the place of the ParseComplete that the client gets instead (PostgreSQL documentation, "Extended
 * Query").
 *
 *    client      P s1 …        B s1          C s1           P s1 …  (again)
 *    forwarded   C 17, P 17 …  C 17, P 17 …, B 17   C nothing    C nothing
 *                              └ if missing ┘
 */
#pragma once

#include "client/client.h"

enum rewrite_result
{
    REWRITE_DONE, /* booked: forward what is in `insert`, then the message from `skip` on */
    REWRITE_WAIT, /* what it means depends on an answer that is still to come */
    REWRITE_BAD,  /* the message cannot be read */
};

/* What is forwarded around a message. */
struct rewrite
{
    struct buf *insert; /* borrows: these bytes first */
    size_t skip;        /* so many of the message's own are replaced by them */
};

/* A message that uses a statement by its name. */
struct use
{
    const struct message *message; /* borrows */
    size_t len;                    /* bytes that are here of it and what follows */
    struct reader behind;          /* stands behind the statement's name ... */
    const char *text;              /* ... which is this; borrows */
    struct name *name;             /* borrows; NULL before it was found */
};

/* Bytes of the body in front of the statement's name. */
static inline size_t
use_before(const struct use *use)
{
    return (size_t)((const uint8_t *)use->text - use->message->body);
}

/* Whether such a message may be about a prepared statement. */
static inline bool
rewrite_concerns(const struct client *client, uint8_t type)
{
    return client->follows_names &&
           (type == MSG_PARSE || type == MSG_BIND || type == MSG_CLOSE || type == MSG_DESCRIBE ||
               type == MSG_QUERY || (type == MSG_EXECUTE && client->baggage->drops_in_group != 0));
}

/* A message about to be forwarded, of which len bytes are here. Pushes what will answer it. */
enum rewrite_result rewrite_take(
    struct client *client, const struct message *message, size_t len, struct rewrite *rewrite);

/* Whether a message larger than the read buffer must be here as a whole. */
bool rewrite_needs_all(const struct client *client, const struct message *message);
