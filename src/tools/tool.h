/*
 * What the tools share: the settings that the daemon has, and how to connect to it.
 */
#pragma once

#include "base/fail.h"
#include "tools/table.h"

#include <stdint.h>

struct pg_conn;
struct settings;

struct tool
{
    struct settings *settings; /* owns */
    const char *user, *database; /* of the command line, or NULL */
    int64_t timeout_us;          /* 0: the tool's own */
    enum table_form form;
    char **words; /* what else is on the command line; NULL-terminated */
};

/* A connection to the console: over the unix socket without a password, else over TCP as the first
 * of admin_users and stats_users whose password is known. NULL with the reason. */
struct pg_conn *tool_console(const struct tool *tool, struct fail *fail);

/* A connection to a database through the pooler. NULL with the reason. */
struct pg_conn *tool_database(const struct tool *tool, struct fail *fail);

/* What libpq says, in one line. Always false. */
bool tool_fail(struct fail *fail, const struct pg_conn *conn);

/* Whether the daemon answers the first words of a client over TCP. */
bool tool_greets(const struct tool *tool);

/* Ends the process with status 1 and the last reason after this time, whatever it does. */
void tool_limit(int64_t us);

/* What tool_limit() says. */
void tool_note(const char *reason);

int ctl_run(const struct tool *tool);
int top_run(const struct tool *tool);
int wait_run(const struct tool *tool);
int healthcheck_run(const struct tool *tool);
int restart_run(const struct tool *tool);
