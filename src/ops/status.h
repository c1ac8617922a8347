/*
 * What the status page asks for again and again: everything about the present and the last fifteen
 * minutes, as JSON. Belongs to the thread of ops/http.
 */
#pragma once

#include "base/buf.h"

struct daemon;
struct history;

enum
{
    STATUS_POOLS = 200 /* most pools that are listed */
};

/* since: serial of the first slot that the reader does not have; 0: all there are. */
void status_print(
    struct buf *buf, struct daemon *daemon, const struct history *history, int64_t since);
