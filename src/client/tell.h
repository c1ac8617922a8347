/*
 * What clients are told and why they go, counted: by SQLSTATE, by reason, and for their pool what
 * they would not have seen had there been a server connection. Belongs to the client's worker.
 */
#pragma once

#include "base/fail.h"

struct buf;
struct client;

/* Appends the reason as an ErrorResponse of this severity. */
void tell_error(
    struct client *client, struct buf *buf, const char *severity, const struct fail *fail);

/* Its connection is over, unless that was said before. NULL: it left by itself. */
void tell_end(const struct client *client, const struct fail *fail);
