/*
 * The unnamed statement of a client whose requests run on ever other backends: it is parsed again
 * where it is used but was not made. Where the client was the last to touch it, PostgreSQL knows
 * best whether there is one; on another backend it is taken for what was parsed last.
 */
#pragma once

#include "client/client.h"

/* A Parse of it is being sent; body: what follows the name, empty when it is not known. */
void unnamed_keep(struct client *client, const uint8_t *body, size_t len);

/* What is being sent drops it: a Query, a Close. */
void unnamed_forget(struct client *client);

/* It is about to be used: what must come first goes into buf. */
void unnamed_provide(struct client *client, struct buf *buf);

/* Its text, or NULL. */
const char *unnamed_text(const struct client *client);
