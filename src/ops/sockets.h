/*
 * SHOW CLIENTS and SHOW SERVERS: one row for each connection, the same columns for both. Visits of
 * ops/gather, each in the thread of its worker.
 */
#pragma once

#include "wire/message.h"

struct crowd;
struct gather;

enum
{
    SOCKET_COLUMNS = 24
};

extern const struct message_column socket_columns[SOCKET_COLUMNS];

void sockets_visit_clients(struct gather *gather, struct crowd *crowd);
void sockets_visit_servers(struct gather *gather, struct crowd *crowd);
