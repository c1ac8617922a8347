/*
 * The sockets of listen_addr and unix_socket_dir. Main thread.
 */
#pragma once

#include "base/fail.h"

struct accepted;
struct listener;
struct settings;

/* Opens all of them; *inherited (from a process before us) are used first. Sockets of a service
 * manager among them stand for all that is configured. False with the reason: what is open by
 * then stays in *list. */
must_check bool listeners_open(const struct settings *settings, struct listener **inherited,
    struct listener **list, struct fail *fail);

/* Asks the kernel to look after an accepted connection, as the settings have it. */
void listeners_look_after(const struct settings *settings, const struct accepted *accepted);
