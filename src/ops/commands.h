/*
 * What the console understands: one line of SQL becomes an action. A table of commands; SHOW has
 * its own (ops/show).
 */
#pragma once

#include "base/fail.h"

struct client;
struct daemon;
struct show;

enum action
{
    ACTION_NOTHING, /* BEGIN, SET and the like that drivers send: answered with their tag */
    ACTION_EMPTY,   /* no statement at all */
    ACTION_SHOW,
    ACTION_FAKE, /* SHOW of a PostgreSQL setting that drivers ask for: one column, one row */
    ACTION_HELP,
    ACTION_SHUTDOWN,
    /* What main must do, most of them with every worker (ops/duty): */
    ACTION_RELOAD,
    ACTION_RECONNECT,
    ACTION_PAUSE,
    ACTION_RESUME,
    ACTION_SUSPEND,
    ACTION_DISABLE,
    ACTION_ENABLE,
    ACTION_KILL,
    ACTION_KILL_CLIENT,
    ACTION_WAIT_CLOSE,
    ACTION_SET,
    ACTIONS
};

enum
{
    CONSOLE_ARGUMENT_MAX = 2048
};

struct console_statement
{
    enum action action;
    const char *tag;                    /* of CommandComplete */
    const struct show *show;            /* ACTION_SHOW */
    const char *fake_name, *fake_value; /* ACTION_FAKE */
    char key[64];                       /* ACTION_SET */
    char argument[CONSOLE_ARGUMENT_MAX]; /* without quotes */
    bool is_default;                    /* ACTION_SET: to what the other sources say */
    bool concerns_database;             /* argument names one, "" stands for all */
};

/* The lines of HELP that name commands; NULL after the last. */
const char *console_command_usage(size_t i);

/* Reads one statement. False: 42601 when nobody knows it (with what was probably meant), 42501 when
 * this user may not, 0A000 when pgkeel cannot. */
must_check bool console_statement_parse(
    const char *sql, bool is_admin, struct console_statement *statement_out, struct fail *fail);
