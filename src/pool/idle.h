/*
 * Idle backends of one side: in which order they are used, what ends them, when something is due
 * for them. The thread of the side's worker.
 */
#pragma once

#include <stdbool.h>

struct backend;
struct pool_side;
struct pool_worker;

/* Whether nobody may get it any more: retired, of an older generation, or too old. */
bool idle_is_outdated(const struct backend *backend);

/* The same but for its age: RECONNECT, PAUSE or a reload closes it, or something it reported. */
bool idle_is_unwanted(const struct backend *backend);

/* Nobody needs it now: lists it. The ledger counts it as idle. */
void idle_start(struct backend *backend);

/* The next one that is alive as far as a look tells, one that needs no check (pool/health) if there
 * is one. NULL when that look found a dead or an old one, which is removed. The caller has taken
 * one out of the ledger's count, one call for one. */
struct backend *idle_pick(struct pool_side *side);

/* Closes it, unless another worker was promised it and will find out. */
void idle_close(struct backend *backend, const char *why);

/* It died by itself, or reported what makes it useless. */
void idle_died(struct backend *backend);
void idle_retired(struct backend *backend);

/* New settings are in force for the worker: when its idle backends are due. */
void idle_reload(struct pool_worker *worker);
