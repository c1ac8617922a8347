/*
 * The new process of an online restart, up to the moment when it serves: what the old one gave it,
 * and what it says back. The old one's side is daemon/takeover. Main thread.
 */
#pragma once

#include "daemon/control.h"

struct listener;
struct settings;

enum
{
    RELATIVES_MAX = 8
};

struct inheritance
{
    int channel;               /* owns: to the old process; -1: there is none */
    struct listener *sockets;  /* own: those that nobody took yet */
    struct listener *control;  /* owns, or NULL */
    int pid_fd;                /* owns: its pid file, locked; or -1 */
    int relatives[RELATIVES_MAX]; /* own: channels to processes that still leave; -1: none */
    char kinds[CONTROL_FDS_MAX + 1]; /* everything that it gave, in its order, */
    int fds[CONTROL_FDS_MAX];        /* borrowed */
};

void heir_init(struct inheritance *inheritance);

/* Asks the old process for its sockets; channel: already connected to it, or -1. False with the
 * reason. */
must_check bool heir_ask(struct inheritance *inheritance, const struct settings *settings,
    int channel, struct fail *fail);

/* Says that everything is ready: what is still in `inheritance` is not used and closed, except the
 * relatives, among which the channel to the old process is then. False when that one does not let
 * go. */
must_check bool heir_ready(struct inheritance *inheritance, struct fail *fail);

/* Closes what nobody took; the old process goes on as if nothing had been. */
void heir_give_up(struct inheritance *inheritance);
