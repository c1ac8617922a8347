/*
 * The unnamed statement of a client whose requests run on ever other backends: it is parsed again
 * where it is used but was not made. Where the client was the last to touch it, PostgreSQL knows
 * best whether there is one; on another backend it is taken for what was parsed last.
 */
#pragma once

#include "client/client.h"

/* A Parse of it is being sent; body: what follows the name, empty when it is not known. is_suspect:
 * its text may leave something in the session. */
void unnamed_keep(struct client *client, const uint8_t *body, size_t len, bool is_suspect);

/* What is being sent drops it: a Query, a Close. */
void unnamed_forget(struct client *client);

/* It is about to be used: what must come first goes into buf. False: wait, what this backend has is
 * not certain yet. */
must_check bool unnamed_provide(struct client *client, struct buf *buf);

/* An error came: it was not made, or the one before it is gone. */
void unnamed_follow_error(struct client *client);

/* Its text, or NULL. */
const char *unnamed_text(const struct client *client);
