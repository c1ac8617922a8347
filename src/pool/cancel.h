/*
 * Cancel requests to PostgreSQL, sent by a helper thread through libpq, which waits until
 * PostgreSQL has closed that connection: until then the backend is not given to anybody else, so a
 * late cancel never hits another client's query (PostgreSQL documentation, "Canceling Requests in
 * Progress").
 */
#pragma once

struct backend;
struct pg_conn;
struct pool_worker;

/* Asks PostgreSQL to cancel what this backend runs. When that is over, a client that holds it gets
 * an event without reason. The backend's worker. */
void cancel_send(struct backend *backend);

/* The same for a connection that is no pool's. */
void cancel_send_apart(struct pool_worker *worker, struct pg_conn *conn);
