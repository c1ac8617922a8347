/*
 * What main does for each pool at each tick: says that it is exhausted or down, closes what became
 * outdated, asks how old leases are, and dials for who waits, for the reserve and to keep it warm.
 */
#pragma once

#include "base/fail.h"

#include <stdint.h>

struct ledger_view;
struct pool;
struct settings;

/* RECONNECT, a reload or PAUSE made a new generation: idle backends of older ones go now, the
 * others when they come back. Main thread, with the registry's lock. */
void tick_tidy(struct pool *pool);

/* True when the caller must dial; the ledger has counted it. Main thread, with the registry's lock.
 */
must_check bool tick_pool(struct pool *pool, const struct ledger_view *view,
    const struct settings *settings, int64_t now_us);
