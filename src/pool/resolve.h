/*
 * Asking DNS again. libpq resolves names at each dial; backends that exist stay with the address
 * they were dialled at, also when the name has long moved to another machine. After a failure at an
 * endpoint its names are resolved in a helper, and backends at addresses that are no longer among
 * the answers are retired: idle ones at once, the others when their transaction ends. Main thread.
 */
#pragma once

#include "pool/endpoint.h"

struct loop;
struct pools;
struct settings;

/* Asks when the endpoint has failed since it was asked last, backends live there, it has names, and
 * pool_recreate_cooldown is over. */
void resolve_tick(struct pools *pools, struct endpoint *endpoint, int backends,
    const struct settings *settings, int64_t now_us);
