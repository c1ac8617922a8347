/*
 * From the first packet to the welcome: who is it, may it come in, which pool, which settings
 * (PostgreSQL documentation, "Frontend/Backend Protocol", "Start-up"). Nothing about databases or
 * users is told before the client has proven who it is. The client's worker; key derivation goes to
 * a helper.
 */
#pragma once

#include "client/client.h"

void login_on_event(struct client *client, unsigned what);

/* Frees what only the login needed, secrets wiped. */
void login_end(struct client *client);
