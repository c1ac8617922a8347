/*
 * The private talk of pgkeel processes of one machine: short texts, with descriptors, over a unix
 * socket of messages (SOCK_SEQPACKET) beside the pid file, between processes of the same user or
 * root. Main thread, or a command line tool.
 *
 *    new ─► old   takeover            give me your sockets
 *    old ─► new   sockets lmcpr       one letter each: listening, a service manager's, control,
 *                                     the pid file, a channel to a process before the old one
 *    new ─► old   ready 4711 yyyn     serving as that process; which of them it uses
 *    old ─► new   go                  they are yours: I leave
 *    any ─► any   cancel 1 2          a cancel request for pid and secret: it may be yours
 *   tool ─► any   restart             start your successor
 *    any ─► tool  restarted 4711      it serves; or: failed why
 */
#pragma once

#include "base/fail.h"

#include <sys/types.h>

struct settings;

enum
{
    CONTROL_TEXT_MAX = 512,
    CONTROL_FDS_MAX = 128
};

/* A message; fds belong to who receives them, each marked close-on-exec. */
struct control_message
{
    char text[CONTROL_TEXT_MAX];
    int fds[CONTROL_FDS_MAX];
    int fd_count;
};

/* Where it is: beside the pid file, else in the first directory of unix_socket_dir. False: there
 * is no place for it. */
bool control_path(const struct settings *settings, char *path, size_t size);

/* Connects to the process behind the path; blocking. -1 with the reason. */
int control_connect(const char *path, struct fail *fail);

/* Whether it is one whose sockets may be used: root's, our own, or of the user that we become. */
bool control_is_ours(int fd, const struct settings *settings);

/* Sends text and descriptors (which stay the caller's). False with errno. */
must_check bool control_send(int fd, const char *text, const int *fds, int count);

enum control_result
{
    CONTROL_OK,
    CONTROL_WAIT,
    CONTROL_OVER, /* the peer is gone, or talks nonsense */
};

enum control_result control_receive(int fd, struct control_message *message);

/* The same, waiting for at most so long. */
enum control_result control_await(int fd, int patience_ms, struct control_message *message);
