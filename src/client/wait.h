/*
 * Waiting for a backend, and what a client is told when none comes: busy and down are different
 * things with different limits and messages. A request that is refused gets one ERROR, everything
 * up to its end is dropped, and the client stays.
 */
#pragma once

#include "client/client.h"

/* How much longer a client that waits since then may wait for a backend, in microseconds; 0 and the
 * reason (57P03: the database is down, 53300: the pool is busy) when its time is over. At most a
 * second: look again then. */
int64_t wait_too_long(struct client *client, int64_t since_us, struct fail *fail);

/* The client's request waits from now on: limits that. */
void wait_begin(struct client *client);

/* The request that waits will not be served. The client must not hold a backend. */
void wait_refuse(struct client *client, const struct fail *fail);

/* Another message of a refused request is dropped; ReadyForQuery is answered at its end. */
void wait_skip_message(struct client *client, uint8_t type);
