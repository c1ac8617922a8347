/*
 * Our own conversations with a backend that nobody holds: proving that the stream is aligned after
 * the dial, connect_query, draining what a client left, ROLLBACK, server_reset_query, the check
 * whether it lives. When the last is answered the backend is offered to the pool; when one goes
 * wrong it is closed. The backend's worker.
 */
#pragma once

struct backend;

/* After the dial. */
void scrub_align(struct backend *backend);

/* After a client. */
void scrub_start(struct backend *backend);

/* Asks an idle backend whether it lives. The caller has a deadline. */
void scrub_check(struct backend *backend);

/* Something happened on its stream or to its cancels. */
void scrub_run(struct backend *backend);
