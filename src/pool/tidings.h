/* What a herald tells the workers whose clients it listens for: a post, in the worker's thread one
 * of its herald_ops. */
#pragma once

#include "base/buf.h"

#include <stdint.h>

struct pool_worker;

struct tiding
{
    struct pool_worker *worker; /* borrows: who is told */
    char *database;             /* owns; NULL: heard */
    struct buf news;            /* owns; empty: a gap */
    uint64_t ticket;
    uint32_t serial;
};

/* Takes over what it owns. */
void tidings_tell(const struct tiding *what);
