/*
 * The relay: serves a client by forwarding whole messages between it and the backend it is lent,
 * one read at a time, looking at five bytes of each. The lease begins with a request and ends when
 * everything was answered and no transaction is open (or with the session, or the statement:
 * pool_mode).
 */
#pragma once

#include "client/client.h"

extern const struct handler relay_handler;

/* Sees to it that the client has a backend. True when requests may be forwarded now; false when
 * they wait (the relay goes on by itself), or the client is closing. */
must_check bool relay_obtain_backend(struct client *client);

/* Of a client that is ACTIVE: everything was answered and no transaction is open. */
bool relay_is_at_boundary(const struct client *client);
