/*
 * What an operator has halted: PAUSE (also KILL) of one database or of all, SUSPEND, DISABLE of
 * one. By name, because it also holds for pools that do not exist yet. Belongs to the registry of
 * pools; shared, under a mutex of its own. Any thread.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>

struct halts;
struct pools;

struct halts *halts_new(void);
void halts_free(struct halts **halts);

/* Pauses the database ("": all of them). False when that was done already. */
must_check bool halts_pause(struct halts *halts, const char *database);

/* Undoes just that: what holds for all is not undone for one, nor the other way round. False when
 * there is nothing to undo. */
must_check bool halts_resume(struct halts *halts, const char *database);

/* Whether the database is paused, by itself or with all; "": whether all are. */
bool halts_pause_concerns(struct halts *halts, const char *database);

/* Brings every pool into line with what is paused: closes its backends as they come back, or dials
 * for those who wait. Main thread. */
void halts_enforce(struct pools *pools);

/* SUSPEND and its end. False when that changes nothing. */
must_check bool halts_suspend(struct halts *halts, bool is_suspended);
bool halts_is_suspended(struct halts *halts);

/* Whether new clients are turned away. */
void halts_disable(struct halts *halts, const char *database, bool is_disabled);
bool halts_is_disabled(struct halts *halts, const char *database);
