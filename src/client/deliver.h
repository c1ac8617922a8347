/*
 * The way back: what a backend sends is matched with the replies it owes; what is for the client is
 * forwarded, what answers requests of our own is not. Messages stay whole: the incomplete end of a
 * read is kept, and only a message larger than the read buffer is passed on in pieces.
 */
#pragma once

#include "client/client.h"

/* Reads the backend once. False with the reason when it is lost or has lost its place. */
must_check bool deliver(struct client *client, struct backend *backend, struct fail *fail);

/* Serves the stream of a leased backend while it answers requests of our own. */
must_check bool deliver_own(struct lease *lease, unsigned what, struct fail *fail);
