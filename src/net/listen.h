/*
 * Listening sockets, TCP and unix. Belongs to the main thread, which accepts and hands each
 * connection on.
 */
#pragma once

#include "base/fail.h"
#include "net/loop.h"

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

struct listener;

enum
{
    PEER_TEXT_MAX = 64
};

/* A connection that came in; fd is owned by the callee. */
struct accepted
{
    int fd;
    bool is_unix;
    char peer[PEER_TEXT_MAX]; /* "10.0.0.7:5012", "[::1]:5012" or "unix:<pid>" */
    uid_t peer_uid;           /* of a unix socket's peer; -1 otherwise */
};

struct listen_options
{
    int backlog;
    mode_t unix_mode;
    gid_t unix_group; /* -1: unchanged */
    bool reuse_port;
    int defer_accept_s; /* 0: off */
    bool is_control;    /* unix: messages (SOCK_SEQPACKET), not bytes */
    struct listener **inherited; /* or NULL: what is there for an address is used, moved to *list */
};

/* How the kernel finds out that a peer is gone; 0: as it likes. */
struct listen_patience
{
    bool keepalive;
    int idle_s, interval_s, count;
    int user_timeout_ms; /* bytes unacknowledged for this long end the connection */
};

typedef void (*listen_fn)(void *arg, const struct accepted *accepted);

/* Opens one socket for each address the name stands for ("*" = all); appends to *list. Fails with
 * 58000 and the kernel's reason: "could not listen on 127.0.0.1:6432: Address already in use". */
must_check bool listen_tcp(struct listener **list, const char *host, int port,
    const struct listen_options *options, struct fail *fail);

/* Opens the unix socket of this path. One that a crash left behind is replaced, one that somebody
 * answers on never. A path that begins with @ is a name of the abstract namespace, without a file.
 */
must_check bool listen_unix(struct listener **list, const char *path,
    const struct listen_options *options, struct fail *fail);

/* Takes over a socket that listens already; is_managed: the service manager's, who keeps it. fd
 * belongs to the list then, or is closed with the reason. */
must_check bool listen_adopt(
    struct listener **list, int fd, bool is_managed, struct fail *fail);

/* Whether the files of unix sockets are removed with them. Those that were opened are, those that
 * were adopted not before this is said; the service manager's never. */
void listen_own(struct listener *listener, bool is_own);

/* Starts accepting in the loop; fn is called for each connection. */
void listen_start(struct listener *list, struct loop *loop, listen_fn fn, void *arg);

/* Asks the kernel to look after an accepted TCP connection; nothing for one of a unix socket. */
void listen_look_after(const struct accepted *accepted, const struct listen_patience *patience);

/* Stops accepting for at least a tick, when descriptors ran out. */
void listen_pause(struct listener *list, bool is_paused);

/* Accepts at once what waits to be accepted: closing would reset it. Not where a service manager
 * keeps the socket for the next process. */
void listen_accept_all(struct listener *list);

/* Closes all, removes unix sockets that are still ours, frees the list and clears the pointer. */
void listen_close(struct listener **list);

/* Moves the first of one list to the end of another; where a listener's next one is. */
void listen_move(struct listener **from, struct listener **to);
struct listener **listen_after(struct listener *listener);

/* The next listener of the list and its name for people: "127.0.0.1:6432". */
struct listener *listen_next(const struct listener *listener);
const char *listen_name(const struct listener *listener);
int listen_fd(const struct listener *listener);
bool listen_is_managed(const struct listener *listener);

/* Fills in the address of a unix socket's path, which may begin with @. 0: it is too long. */
socklen_t listen_unix_address(const char *path, struct sockaddr_un *address_out);
