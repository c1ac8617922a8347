/*
 * Runs a command of the operator's, for what it writes. It has a process group of its own, no
 * descriptor of ours but its three, none of our blocked signals, and a deadline; nothing of it is
 * left behind. In a helper thread: it blocks.
 */
#pragma once

#include "base/fail.h"

#include <stddef.h>
#include <stdint.h>

enum
{
    COMMAND_SAID_MAX = 1000 /* what is kept of its standard error */
};

struct command
{
    const char *text;             /* for /bin/sh -c */
    const char *const *variables; /* "NAME=value", NULL-terminated: in front of our environment */
    int64_t deadline_us;          /* in loop_clock_us() time; 0: none */
    int stop_fd;                  /* of the helpers */
};

/* What it wrote, with an end of string behind it. */
struct command_output
{
    char *text;  /* borrows; a secret, perhaps */
    size_t size; /* of text, end of string included */
    size_t len;
    char said[COMMAND_SAID_MAX]; /* on standard error; the rest is dropped */
};

/* The output is filled in after a failure, too. False with the reason: it did not start, ended with
 * another status than 0, wrote more than fits, or took too long. */
must_check bool command_run(
    const struct command *command, struct command_output *output, struct fail *fail);
