/*
 * How long a client may use a backend: query_timeout, transaction_timeout, idle_transaction_timeout
 * and, in session pooling, client_idle_timeout. Each ends with PostgreSQL's own SQLSTATE (57014,
 * 25P04, 25P03, 57P05). What runs is cancelled on the server; the backend is rolled back and used
 * again; the client stays, except where its session lives on that backend.
 */
#pragma once

#include "client/client.h"

/* The client may use its backend from now on. Costs nothing when no limit is set. */
void limits_begin(struct client *client);

/* It moves to the herald (client/listening): that takes no longer than a query may, or its backend
 * is given up. */
void limits_begin_move(struct client *client);

/* Nothing is unanswered and a request comes: whether it must wait, for cancel_wait_timeout at most,
 * because a cancel request for what is answered is still on its way to this backend. */
bool limits_await_cancels(struct client *client);

/* An ErrorResponse for the client: true when it is the answer to a cancel request of a limit; then
 * *instead is what the client is told. */
bool limits_explain(struct client *client, const struct message *message, struct buf *instead);

/* Everything in flight was answered. True when the lease is over because a limit was. */
bool limits_settle(struct client *client);
