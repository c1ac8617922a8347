/*
 * The channels that a herald listens to, and how many clients of each worker want each. Owned by
 * the herald; its worker's thread.
 */
#pragma once

#include "base/buf.h"

#include <stdbool.h>

struct channel;

struct channels
{
    struct channel *all; /* own, by name */
    struct buf farewell; /* owns: UNLISTEN of those that nobody wants any more, to be sent */
    int workers;
};

void channels_deinit(struct channels *channels);

/* One more client of this worker; true when nobody wanted the channel before. */
bool channels_want(struct channels *channels, const char *name, int worker);

/* One less. */
void channels_leave(struct channels *channels, const char *name, int worker);

/* How many clients of this worker want the channel. */
unsigned channels_count(const struct channels *channels, const char *name, int worker);

/* How many channels anybody wants. */
unsigned channels_total(const struct channels *channels);

/* Whether clients of this worker want any. */
bool channels_concern(const struct channels *channels, int worker);

/* Adds the statements that PostgreSQL was not sent yet. */
void channels_sql(struct channels *channels, struct buf *sql);

/* A new session knows of none of them. */
void channels_forget_sent(struct channels *channels);

/* Before any thread begins. */
void channels_init(void);

/* A channel of our own that every herald listens to: what is notified there shows where a worker
 * stands in PostgreSQL's queue. */
const char *channels_marker(void);
