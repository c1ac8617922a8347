/*
 * What a daemon must do to its process: background, pid file, user, descriptor limit. Main thread,
 * before any other thread exists.
 */
#pragma once

#include "base/fail.h"

#include <signal.h>
#include <stdint.h>

/* Goes to the background: the caller returns as the child; the parent leaves with status 0 once the
 * child said process_is_ready(), or with 1 when it ended before. */
must_check bool process_daemonize(struct fail *fail);
void process_is_ready(void);

/* Writes the pid file and keeps it locked. One that a crash left behind is replaced; one of a live
 * process never. */
must_check bool process_write_pid(const char *path, struct fail *fail);

/* Keeps the pid file of the process that we take over from, fd, if it is the one of that path;
 * false: it is not, and fd is left alone. It names that process until process_sign_pid(). */
must_check bool process_inherit_pid(const char *path, int fd);
void process_sign_pid(void);

/* The pid file's descriptor, which holds the lock, or -1; it is somebody else's from now on. */
int process_pid_fd(void);
void process_forget_pid(void);

/* Removes the pid file if it names us. */
void process_remove_pid(void);

/* Becomes this user for good. */
must_check bool process_become(const char *user, struct fail *fail);

/* Raises the limit of file descriptors to the hard limit; returns it. */
int64_t process_raise_files(void);

/* From now on no crash writes a core file, and no process of the same user reads our memory or
 * environment: passwords, keys and rows are in both, many of them in copies of libpq and OpenSSL
 * that nobody else can wipe. First of all, before a secret is read. */
void process_hide(void);

/* Gives up what a daemon never needs, after process_become(). may_dump takes back
 * process_hide(). */
void process_harden(bool may_dump);

/* Remembers how this process was started; before anything else. */
void process_remember(char **argv);

/* Starts the same program (what is at its place now) with the same arguments, to take over from
 * this process through the socket fd. False with the reason in the log. */
must_check bool process_spawn(int fd);

/* Signals that come while we start wait until somebody handles them; threads inherit the mask, so
 * that later they come to main alone. *before_out: the mask until now. */
void process_hold_signals(sigset_t *before_out);
