/*
 * The sockets of listen_addr and unix_socket_dir. Main thread.
 */
#pragma once

#include "base/fail.h"

struct listener;
struct settings;

/* Opens all of them; *inherited (from a process before us) are used first. Sockets of a service
 * manager among them stand for all that is configured. False with the reason: what is open by
 * then stays in *list. */
must_check bool listeners_open(const struct settings *settings, struct listener **inherited,
    struct listener **list, struct fail *fail);
