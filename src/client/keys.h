/*
 * Cancel keys: a client's names the worker and the place that it has there, masked, and a secret.
 */
#pragma once

#include "client/client.h"

/* Gives the client a cancel key that names its worker. */
void keys_make(struct client *client);

/* A cancel request came; it is passed on to the worker that the key names, and to other processes.
 */
void keys_cancel(struct crowd *crowd, struct cancel_key key);

/* The same for one that came from another process. Any thread. */
void keys_cancel_here(struct crowds *crowds, struct cancel_key key);
