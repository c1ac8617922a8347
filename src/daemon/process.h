/*
 * What a daemon must do to its process: background, pid file, user, descriptor limit. Main thread,
 * before any other thread exists.
 */
#pragma once

#include "base/fail.h"

#include <stdint.h>

/* Goes to the background: the caller returns as the child; the parent leaves with status 0 once the
 * child said process_is_ready(), or with 1 when it ended before. */
must_check bool process_daemonize(struct fail *fail);
void process_is_ready(void);

/* Writes the pid file and keeps it locked. One that a crash left behind is replaced; one of a live
 * process never. */
must_check bool process_write_pid(const char *path, struct fail *fail);

/* Removes the pid file if it is ours. */
void process_remove_pid(void);

/* Becomes this user for good. */
must_check bool process_become(const char *user, struct fail *fail);

/* Raises the limit of file descriptors to the hard limit; returns it. */
int64_t process_raise_files(void);

/* Gives up what a daemon never needs. */
void process_harden(void);
