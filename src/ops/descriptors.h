/*
 * SHOW FDS: the descriptors of clients and of connections to PostgreSQL, in PgBouncer's columns.
 * What is secret there (keys of cancel requests, passwords) is NULL. A visit of ops/gather.
 */
#pragma once

#include "wire/message.h"

struct crowd;
struct gather;

enum
{
    DESCRIPTOR_COLUMNS = 15
};

extern const struct message_column descriptor_columns[DESCRIPTOR_COLUMNS];

void descriptors_visit(struct gather *gather, struct crowd *crowd);
