/*
 * Replication connections (PostgreSQL documentation, "Streaming Replication Protocol"): logical
 * (replication=database) and physical ones. Such a client gets a connection of its own, outside of
 * the pool and its limits, in every pool mode; bytes pass both ways as they are. PostgreSQL's
 * errors reach the client verbatim and the log. The connection ends with either side.
 */
#pragma once

#include "client/client.h"

/* A client that has proven who it is asks for replication: dials for it. False with the reason
 * (3D000 when the database is not configured). */
must_check bool replication_admit(struct client *client, struct fail *fail);

/* "logical", "physical", or "none". */
const char *replication_kind(const struct client *client);

/* Whether the first packet's value means replication: anything but a "no". */
bool replication_is_wanted(const char *value);
