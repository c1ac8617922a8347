/*
 * Sends clients away at the word of an operator (KILL, KILL_CLIENT): at once, whatever they do,
 * with the reason. What they had in progress is cancelled. The thread of the crowd's worker.
 */
#pragma once

#include "client/client.h"

/* All clients of the database ("": of any) that have got as far as a pool; never the console. */
void evict_database(struct crowd *crowd, const char *database, const struct fail *fail);

/* How many clients have not taken all that was written for them, or their backends of theirs. With
 * a reason those are sent away. */
int evict_slow(struct crowd *crowd, const struct fail *fail);

/* The client with this id. False: it is not here. */
must_check bool evict_one(struct crowd *crowd, uint64_t id, const struct fail *fail);
