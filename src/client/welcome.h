/*
 * After the proof: to the console, or to a pool and its welcome. A client is welcomed with
 * PostgreSQL's own settings, so the first one of a pool, and one whose settings PostgreSQL must
 * check, waits for a backend here.
 */
#pragma once

#include "client/client.h"

/* The client is let in: it is told what PostgreSQL reported, and is served by this handler from now
 * on. */
void welcome_send(struct client *client, const struct vars *reported, enum client_state state,
    const struct handler *handler);

/* The client is who it says. False with the reason when it may still not come in. */
must_check bool welcome_admit(struct client *client, struct fail *fail);
