/*
 * Failed logins of each address, for max_login_failures: so many a minute are forgiven, beyond them
 * its connections are refused until enough of the minute is over. A fixed table, whatever addresses
 * come: of IPv6 the network counts (/64). Shared by all workers, under a mutex of its own.
 */
#pragma once

#include "client/client.h"

struct failures *failures_new(void);
void failures_free(struct failures **failures);

/* False with 53300 when the client's address failed too often. Unix sockets never do. */
must_check bool failures_allow(const struct client *client, struct fail *fail);

/* The client ends before it was let in; fail: why, or NULL: it left. Counts what is its own fault:
 * secrets and handshakes, but neither probes that say nothing nor limits of ours. */
void failures_count(const struct client *client, const struct fail *fail);
