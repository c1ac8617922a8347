/*
 * The command line tools: `pgkeel ctl`, `top`, `wait`, `healthcheck`, `restart`. Programs of their
 * own inside this one: a single thread, blocking calls, and an exit status (0: done, 1: not, 2: the
 * command line is wrong).
 */
#pragma once

#include <stdbool.h>

/* Whether the word is the name of a tool. */
bool tools_has(const char *word);

/* Runs the tool argv[1]; returns the exit status. */
int tools_run(int argc, char **argv);
