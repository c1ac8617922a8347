/*
 * The control socket of a process that serves: hands everything over to a new process, starts one
 * when asked to, and passes cancel requests between processes while both have clients. The new
 * process's side is daemon/heir; the messages are in daemon/control.h. Main thread.
 */
#pragma once

#include "base/fail.h"

#include <sys/types.h>

struct crowds;
struct listener;
struct loop;
struct settings;
struct takeover;

struct takeover_host
{
    struct loop *loop;
    struct listener **listeners; /* borrows: what clients connect to */
    struct listener *others;     /* borrows: others that are handed over, or NULL */
    struct crowds *crowds;       /* borrows: who may be cancelled */
    /* Another process serves: close what it has, let clients leave. */
    void (*hand_over)(void *arg, pid_t pid);
    void *arg;
    bool is_ours; /* the old process let go: what is left at the end is ours to remove */
};

/* Opens the control socket, or uses the one that was inherited. Without one the process runs well,
 * but cannot be restarted online: the log says so. */
struct takeover *takeover_new(const struct settings *settings, struct listener **inherited);

/* Begins to listen, and to hear of the crowds' cancel requests. */
void takeover_start(struct takeover *takeover, const struct takeover_host *host);

/* A channel to a process before this one, which still has clients; takes it. */
void takeover_add_predecessor(struct takeover *takeover, int fd);

/* This process is told to end: nobody takes over from it any more. */
void takeover_close(struct takeover *takeover);
void takeover_free(struct takeover **takeover);
