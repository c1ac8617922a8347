/*
 * SHOW ENDPOINTS: how each PostgreSQL stands, read under its lock. SHOW WAITING: clients that wait
 * for a backend and why; a visit of ops/gather to each worker. SHOW PREPARED: the statements of all
 * clients.
 */
#pragma once

#include "wire/message.h"

struct crowd;
struct gather;

enum
{
    ENDPOINT_COLUMNS = 12,
    WAITING_COLUMNS = 8,
    PREPARED_COLUMNS = 4
};

extern const struct message_column endpoint_columns[ENDPOINT_COLUMNS];
extern const struct message_column waiting_columns[WAITING_COLUMNS];

extern const struct message_column prepared_columns[PREPARED_COLUMNS];

void prepared_finish(struct gather *gather);
void endpoints_finish(struct gather *gather);
void endpoints_visit_waiting(struct gather *gather, struct crowd *crowd);
