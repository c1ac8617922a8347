/*
 * What replies tell about a client's prepared statements: a name is certain when its Parse was
 * answered, gone when its Close was, and taken back when an error made PostgreSQL skip it. Errors
 * that speak of our names are put into the client's words.
 */
#pragma once

#include "client/client.h"

struct follow_facts
{
    bool is_whole;
    bool was_marked; /* replies_is_marked() before it was taken */
};

enum follow
{
    FOLLOW_NOTHING,
    FOLLOW_PARSED,    /* it stands for a ParseComplete */
    FOLLOW_EXPLAINED, /* the client gets `instead` in its place */
};

/* Books what a reply, already taken from the queue, tells about names. */
enum follow follow_reply(struct client *client, const struct message *message,
    const struct follow_facts *reply, struct buf *instead);

/* Whether an error says that a prepared statement would give other columns than before. */
bool follow_is_stale_plan(const struct error_fields *fields);

/* Whether the oldest request may run with other columns: its client learns them with it, or knows
 * none yet. */
bool follow_may_renew(const struct client *client);

/* PostgreSQL described a statement anew and its client is told: the client's names stand for what
 * it is now. */
void follow_columns(struct client *client);

/* The statements that the oldest request uses are prepared anew by whoever uses them next. */
void follow_retire(struct client *client);

/* The text of the statement that the client calls so, or NULL when that is not certain. */
const char *follow_text(void *client, const char *name);

/* The client's backend is gone; resends: its oldest request will be sent again. */
void follow_lost(struct client *client, bool resends);

/* A Close of a statement that no backend hears of. */
void follow_close(struct client *client, const char *name);

void follow_end(struct client *client);
