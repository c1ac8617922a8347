/*
 * What a service manager wants to know and what it gives: the protocols of sd_notify(3) and
 * sd_listen_fds(3), which are an environment variable, a datagram and a descriptor. Without such a
 * manager everything here does nothing. Main thread.
 */
#pragma once

#include "base/fail.h"

#include <stdint.h>
#include <sys/types.h>

struct listener;

/* Reads what the manager put into the environment and takes away what is meant for this process
 * alone. Before any other thread exists. */
void systemd_init(void);

/* Appends the sockets that it opened for us. False with the reason when one of them is none. */
must_check bool systemd_sockets(struct listener **list, struct fail *fail);

void systemd_ready(void);
void systemd_reloading(void); /* until systemd_ready() */

/* The end has begun and takes at most so long. */
void systemd_stopping(int64_t at_most_us);

/* Tells the watchdog that we are well, unless a loop has not ticked for long; at each tick. */
void systemd_feed(int64_t now_us, int64_t oldest_tick_us);

/* Another process of this service is the main one from now on; this one says nothing more. */
void systemd_hand_over(pid_t pid);
