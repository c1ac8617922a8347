/*
 * What becomes of a client whose backend died: gathers the evidence, asks pool/retry, and does what
 * it says. Requests that were not done are put back in front of the client's bytes and take the
 * ordinary way to another backend; those that may have been done get one ERROR; a lost transaction
 * goes on as a failed one (client/aborted). The client stays.
 */
#pragma once

#include "client/client.h"

/* The backend of the client's lease is lost; the lease is over when this returns. */
void loss_take(struct client *client, const struct fail *fail);

/* Whether this ERROR says that a backend of a read-write pool may not write any more, or that a
 * plan it keeps is out of date, and the request can be sent again; then *fail is the reason for
 * loss_take(). */
bool loss_is_refusal(struct client *client, const struct message *message, struct fail *fail);

/* The first message of a request is about to be forwarded to a new backend: what the client was
 * told of it by the old one comes along. */
void loss_follow(struct client *client);

/* A setting is about to change while a request or transaction is open, which may be undone. */
void loss_note_setting(struct client *client);

/* What was open is undone: the client's settings are those from before it, and it is told. */
void loss_undo_settings(struct client *client);

/* A request was answered: what it would have undone stays. */
void loss_note_answer(struct client *client);

/* The next message of an open request came: says the error that it is answered with, if one is
 * owed. */
void loss_say_owed(struct client *client);

void loss_forget(struct client *client);

/* Puts bytes in front of those the client sent and nobody took yet. */
void loss_put_back(struct client *client, const uint8_t *bytes, size_t len);

/* Whether the client's session reads '\' in a literal as an escape. */
bool loss_has_backslash_escapes(const struct client *client);
