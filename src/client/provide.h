/*
 * A prepared statement where its client's requests run: prepared there when it is missing, and
 * described, because the schema may have changed since the client learned its columns. A client
 * that is told the new ones anyway (it asks for them in the same request) gets them; any other gets
 * PostgreSQL's "cached plan must not change result type" (0A000), as on a direct connection, and
 * not rows of a shape that it does not know.
 *
 *    client      B s1                       E   S
 *    forwarded   C 17  P 17 …  D 17  H  ──► waits for the answer ──►  B 17  E  S
 *                                           other columns than before: B of nothing, its error is
 *                                           told as 0A000
 */
#pragma once

#include "client/rewrite.h"

/* Whether the client is told the columns with this message or by one behind it that is here too. */
bool provide_tells(const struct message *message, size_t len);

/* The statement that a name stands for now. NULL: it returns other columns than the client knows.
 */
struct statement *provide_choose(struct client *client, struct name *name, bool is_told);

enum provided
{
    PROVIDED,       /* it can be used */
    PROVIDED_ASKED, /* once its columns are known to be the same */
    PROVIDED_NOT,   /* an earlier answer must come first */
};

/* Sees to it that the backend has the statement; anew: also when it has it. */
enum provided provide(struct client *client, struct statement *statement, bool is_told, bool anew,
    struct buf *buf);

/* Room for one more among what the backend has. */
void provide_room(struct client *client, struct buf *buf);

/* A question what it returns, behind its Parse. */
void provide_ask(
    struct client *client, struct statement *statement, bool is_told, struct buf *buf);

/* The Bind of a name that returns other columns than the client knows. */
enum rewrite_result provide_refuse(
    struct client *client, const struct use *use, struct rewrite *rewrite);

/* Keeps back a Bind, here as a whole, until PostgreSQL has said what its statement returns. */
enum rewrite_result provide_defer(
    struct client *client, const struct use *use, struct rewrite *rewrite);

/* Whether a Bind is kept back; then nothing may overtake it. */
static inline bool
provide_is_deferring(const struct client *client)
{
    return client->baggage->deferred != NULL;
}

/* Whether the answer is still to come. */
bool provide_must_wait(const struct client *client);

/* Sends what was kept back, if anything: the answer is there. */
void provide_resume(struct client *client);

/* The client leaves: what was booked is sent, whatever the answer. */
void provide_flush(struct client *client);

/* Its backend is gone. */
void provide_forget(struct client *client);
