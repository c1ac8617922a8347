/*
 * How many clients each database and each user has, for max_db_client_connections and
 * max_user_client_connections. Shared by all workers, under a mutex of its own.
 */
#pragma once

#include "client/client.h"

struct headcount;

struct headcount *headcount_new(void);
void headcount_free(struct headcount **headcount);

/* Counts a client that has proved who it is. False with 53300 when its database or user has enough:
 * it is not counted then. */
must_check bool headcount_enter(struct client *client, struct fail *fail);

/* It leaves, if it was counted. */
void headcount_leave(struct client *client);
