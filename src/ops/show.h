/*
 * SHOW: a table of what can be shown, each row with its columns and two functions: one that visits
 * every worker in its own thread, one that finishes at home. The request (struct gather) travels
 * from worker to worker by post, so everything is read by the thread it belongs to.
 */
#pragma once

#include "base/buf.h"
#include "client/client.h"
#include "wire/message.h"

struct daemon;
struct gather;
struct show;
struct tally;

struct show_columns
{
    const struct message_column *columns;
    uint16_t count;
};

/* The SHOW of that name ("POOLS", any case), or NULL. */
const struct show *show_find(const char *name);

/* is_plain: only those that PgBouncer has; ours are behind them. */
struct show_columns show_columns(const struct show *show, bool is_plain);

bool show_is_for_admins(const struct show *show);

/* Names of all, for HELP. */
const char *show_name(size_t i);
