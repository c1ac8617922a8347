/*
 * SHOW CLIENTS, SHOW SERVERS, and SHOW SOCKETS, which has both and their buffers: one row for each
 * connection, the same columns for all. Visits of ops/gather, each in the thread of its worker.
 */
#pragma once

#include "wire/message.h"

struct backend;
struct client;
struct crowd;
struct gather;

enum
{
    SOCKET_COLUMNS = 24,
    BUFFER_COLUMNS = SOCKET_COLUMNS + 7
};

extern const struct message_column socket_columns[SOCKET_COLUMNS];
extern const struct message_column buffer_columns[BUFFER_COLUMNS];

void sockets_visit_clients(struct gather *gather, struct crowd *crowd);
void sockets_visit_servers(struct gather *gather, struct crowd *crowd);
void sockets_visit_all(struct gather *gather, struct crowd *crowd);
void sockets_visit_active(struct gather *gather, struct crowd *crowd);

/* Address and port of a client in two columns. */
void sockets_add_peer(struct gather *gather, const struct client *client);

/* The client that holds the backend, or NULL. */
const struct client *sockets_holder(const struct backend *backend);
