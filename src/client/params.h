/*
 * A session's settings on a backend that serves many: what the client asked for at startup, what it
 * was told, what it changed since, put on each backend it is lent where that has something else.
 */
#pragma once

#include "client/client.h"

struct startup;

/* Collects the settings of a first packet into `wanted`. False with the reason for a bad `options`.
 */
must_check bool params_collect(const struct startup *startup, const struct settings *settings,
    struct vars *wanted, struct fail *fail);

/* application_name becomes "name - peer", "app - peer" where there is none. */
void params_add_host(struct vars *wanted, const char *peer);

/* Makes client->vars from what PostgreSQL reported and what the client wants. True when a backend
 * must be asked: it may refuse a value, or know it under another name. */
bool params_start(struct client *client, const struct vars *reported, const struct vars *wanted);

/* Puts the client's settings on its backend. True: they are there already; false: wait until its
 * replies are empty, then call params_applied(). */
bool params_apply(struct client *client);

/* The answer is there: false with PostgreSQL's reason when it refused. Canonical values are taken
 * over. */
must_check bool params_applied(struct client *client, struct fail *fail);
