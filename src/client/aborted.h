/*
 * A transaction whose backend is gone. The client stays, in PostgreSQL's own failed state, which we
 * answer ourselves: the first request learns what happened (ERROR 40001, or 25P03 and 25P04 after a
 * timeout), everything after it gets 25P02 until ROLLBACK, COMMIT or PREPARE TRANSACTION, all
 * answered ROLLBACK. A ROLLBACK that comes first is simply answered: that is what happened. A
 * COMMIT that comes first fails, and ends the transaction as a failed COMMIT does.
 * "... AND CHAIN" opens a new transaction with the modes of the old one, on another backend.
 */
#pragma once

#include "client/client.h"

enum aborted_step
{
    ABORTED_ANSWERED, /* the message was answered, or means nothing */
    ABORTED_OVER,     /* the client is out of it (IDLE): the message is an ordinary one */
    ABORTED_RUNS,     /* answered; before anything else comes aborted_run() */
};

/* The client's transaction is gone (its lease is over): from now on FAILED. reason: what the
 * next request is told; is_told: it knows already. modes: of the BEGIN that opened it. */
void aborted_begin(struct client *client, const struct fail *reason, bool is_told,
    const char *modes, size_t modes_len);

/* A message of a client that is FAILED. is_whole: its body is there. */
enum aborted_step aborted_take(struct client *client, const struct message *message, bool is_whole);

/* The client is out of it (IDLE), with something left to be done: puts what followed the exit in
 * its Query in front of the client's bytes. True when a backend is needed to open the chained
 * transaction, whatever the client sends next. */
bool aborted_run(struct client *client);

/* The statement that opens the chained transaction, or NULL when none is wanted. */
const char *aborted_chain(const struct client *client);

/* The chained transaction is open: answers ReadyForQuery if that is still owed. */
void aborted_chained(struct client *client);

/* Whether a ReadyForQuery is owed that no message of the client will ask for. */
bool aborted_owes_ready(const struct client *client);

/* Forgets all of it; does nothing when there is nothing. */
void aborted_end(struct client *client);
