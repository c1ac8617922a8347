/*
 * LISTEN in transaction pooling. The client's own backend executes it, and keeps notifying the
 * client (it is pinned) until the herald (pool/herald) listens to the same channels; then the
 * client moves over and its backend is free:
 *
 *    pinned: the backend's count ─ herald listens ─► a mark is notified, on the backend, to both
 *            the backend's count up to the mark, the herald's from the mark on ─► UNLISTEN: not
 *                                                                                 pinned
 *
 * All sessions of a database read notifications from one queue, so that nothing is missed or told
 * twice. The client is told as on a direct connection: when no request and no transaction is open.
 */
#pragma once

#include "client/client.h"

struct message;

/* Hears for the clients of this worker from now on. */
void listening_init(struct crowd *crowd);

/* PostgreSQL was asked what the session left: its backend listens to these channels (names, each
 * with its zero byte). may_move: nothing else keeps the client there. */
void listening_looked(struct client *client, const struct buf *channels, bool may_move);

/* A text that is about to be run stops listening to this channel, or to all (NULL). It counts once
 * PostgreSQL says that it was done and not rolled back. */
void listening_note_unlisten(struct client *client, const char *channel);

/* A lease begins: what was noted of another one's texts was taken back with it, or will be noted
 * again. */
void listening_on_lease(struct client *client);

/* Whether the client listens to anything without its backend, or is about to. */
bool listening_is_on(const struct client *client);

/* The client is at a boundary, pinned by nothing but LISTEN. True: it moves now (CLIENT_LOOKING);
 * when every reply is there, listening_moves_on(). */
bool listening_moves(struct client *client);
bool listening_is_moving(const struct client *client);

enum listening_step
{
    LISTENING_GOES_ON, /* more was asked of the backend */
    LISTENING_MOVED,   /* it is free */
    LISTENING_STAYS,   /* PostgreSQL did not agree */
};

enum listening_step listening_moves_on(struct client *client);

/* Follows what the backend says; true: this message is not for the client. */
bool listening_takes(struct client *client, const struct message *message);

/* The backend is lost and nothing but LISTEN was on it: the herald takes over, and the client is
 * told that something may be missing. */
void listening_survive(struct client *client);

/* Tells what has come meanwhile, if now is the time. */
void listening_tell(struct client *client);

/* The session ends. */
void listening_end(struct client *client);
