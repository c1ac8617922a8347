/*
 * Listening sockets. Called by daemon/; calls the kernel. A unix socket that a crash left behind
 * still has its file: whether anybody lives behind it is asked by connecting to it.
 */
#include "net/listen.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum
{
    ACCEPTS_PER_TURN = 64
};

struct listener
{
    struct listener *next; /* owns */
    struct watch watch;
    struct deadline resume; /* after descriptors ran out */
    char *name;             /* owns */
    char *unix_path;        /* owns; NULL: TCP */
    ino_t unix_inode;       /* of our socket file */
    listen_fn fn;
    void *arg;
};

static struct listener *
append(struct listener **list, int fd, const char *name)
{
    struct listener *listener = mem_new(sizeof(*listener));

    listener->watch.fd = fd;
    listener->name = mem_string(name);
    while (*list != NULL) {
        list = &(*list)->next;
    }
    *list = listener;
    return listener;
}

static void
address_text(const struct sockaddr *address, socklen_t len, char *text, size_t size)
{
    char host[48], port[8];

    if (getnameinfo(address, len, host, sizeof(host), port, sizeof(port),
            NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        snprintf(text, size, "unknown");
        return;
    }
    snprintf(text, size, address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static bool
open_address(const struct addrinfo *address, const struct listen_options *options, int *fd_out)
{
    int on = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return false;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    if (options->reuse_port) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    }
    if (options->defer_accept_s > 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &options->defer_accept_s, sizeof(int));
    }
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, options->backlog) != 0) {
        int reason = errno;
        close(fd);
        errno = reason;
        return false;
    }
    *fd_out = fd;
    return true;
}

bool
listen_tcp(struct listener **list, const char *host, int port, const struct listen_options *options,
    struct fail *fail)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *addresses;
    char service[8], name[PEER_TEXT_MAX];
    bool is_any = strcmp(host, "*") == 0;
    unsigned opened = 0;

    snprintf(service, sizeof(service), "%d", port);
    int error = getaddrinfo(is_any ? NULL : host, service, &hints, &addresses);
    if (error != 0) {
        return fail_set(fail, "58000", "could not listen on \"%s\": %s", host, gai_strerror(error));
    }
    for (struct addrinfo *address = addresses; address != NULL; address = address->ai_next) {
        int fd;
        address_text(address->ai_addr, address->ai_addrlen, name, sizeof(name));
        if (open_address(address, options, &fd)) {
            append(list, fd, name);
            opened++;
            continue;
        }
        /* "*" and names stand for both families; a machine without one of them is no failure. */
        bool is_family_missing = errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL;
        if (!is_family_missing || (address->ai_next == NULL && opened == 0)) {
            fail_set(fail, "58000", "could not listen on %s: %s", name, strerror(errno));
            freeaddrinfo(addresses);
            return false;
        }
    }
    freeaddrinfo(addresses);
    return true;
}

/* Whether somebody accepts connections behind the path. */
static bool
is_alive(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int result = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    /* EAGAIN: a full backlog, so somebody listens. */
    bool alive = result == 0 || errno == EAGAIN || errno == EINPROGRESS;

    close(fd);
    return alive;
}

static bool
bind_unix(int fd, const struct sockaddr_un *address, struct fail *fail)
{
    const char *path = address->sun_path;
    struct stat info;

    if (lstat(path, &info) == 0) {
        if (!S_ISSOCK(info.st_mode)) {
            return fail_set(fail, "58000", "could not listen on \"%s\": not a socket", path);
        }
        if (is_alive(address)) {
            return fail_set(
                fail, "58000", "could not listen on \"%s\": Address already in use", path);
        }
        log_info("unix socket \"%s\" was left by a process that is gone; replacing it", path);
        unlink(path);
    }
    if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) != 0) {
        return fail_set(fail, "58000", "could not listen on \"%s\": %s", path, strerror(errno));
    }
    return true;
}

bool
listen_unix(struct listener **list, const char *directory, int port,
    const struct listen_options *options, struct fail *fail)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat info;
    int len =
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/.s.PGSQL.%d", directory, port);

    if (len >= (int)sizeof(address.sun_path)) {
        return fail_set(fail, "58000",
            "unix socket path \"%s/.s.PGSQL.%d\" is longer than %zu bytes", directory, port,
            sizeof(address.sun_path) - 1);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return fail_set(fail, "58000", "could not make a unix socket: %s", strerror(errno));
    }
    if (!bind_unix(fd, &address, fail)) {
        close(fd);
        return false;
    }
    bool is_ready = chmod(address.sun_path, options->unix_mode) == 0 &&
                    (options->unix_group == (gid_t)-1 ||
                        chown(address.sun_path, (uid_t)-1, options->unix_group) == 0) &&
                    listen(fd, options->backlog) == 0 && lstat(address.sun_path, &info) == 0;
    if (!is_ready) {
        fail_set(
            fail, "58000", "could not listen on \"%s\": %s", address.sun_path, strerror(errno));
        close(fd);
        unlink(address.sun_path);
        return false;
    }
    struct listener *listener = append(list, fd, address.sun_path);
    listener->unix_path = mem_string(address.sun_path);
    listener->unix_inode = info.st_ino;
    return true;
}

static void
describe_peer(struct accepted *accepted, const struct sockaddr_storage *address, socklen_t len)
{
    struct ucred credentials;
    socklen_t size = sizeof(credentials);

    accepted->peer_uid = (uid_t)-1;
    if (!accepted->is_unix) {
        int on = 1;
        setsockopt(accepted->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        address_text((const struct sockaddr *)address, len, accepted->peer, sizeof(accepted->peer));
        return;
    }
    if (getsockopt(accepted->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0) {
        accepted->peer_uid = credentials.uid;
        snprintf(accepted->peer, sizeof(accepted->peer), "unix:%d", (int)credentials.pid);
        return;
    }
    snprintf(accepted->peer, sizeof(accepted->peer), "unix");
}

void
listen_look_after(const struct accepted *accepted, const struct listen_patience *patience)
{
    const struct
    {
        int level, name, value;
        bool is_wanted;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1, patience->keepalive},
        {IPPROTO_TCP, TCP_KEEPIDLE, patience->idle_s, patience->keepalive},
        {IPPROTO_TCP, TCP_KEEPINTVL, patience->interval_s, patience->keepalive},
        {IPPROTO_TCP, TCP_KEEPCNT, patience->count, patience->keepalive},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, patience->user_timeout_ms, true},
    };

    for (size_t i = 0; !accepted->is_unix && i < sizeof(options) / sizeof(options[0]); i++) {
        if (options[i].is_wanted && options[i].value > 0) {
            /* Values are within the kernel's range; a kernel without one of them does without. */
            (void)setsockopt(accepted->fd, options[i].level, options[i].name, &options[i].value,
                sizeof(options[i].value));
        }
    }
}

static void
on_resume(struct deadline *deadline)
{
    struct listener *listener =
        (struct listener *)((char *)deadline - offsetof(struct listener, resume));
    watch_want(&listener->watch, WATCH_READ);
}

static void
on_connection(void *arg, unsigned what)
{
    struct listener *listener = arg;
    struct sockaddr_storage address;

    (void)what;
    for (int i = 0; i < ACCEPTS_PER_TURN && listener->watch.wants != 0; i++) {
        socklen_t len = sizeof(address);
        int fd = accept4(
            listener->watch.fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                log_error("could not accept on %s: %s", listener->name, strerror(errno));
                watch_want(&listener->watch, 0);
                deadline_start(&listener->resume, listener->watch.loop, LOOP_TICK_US, on_resume);
            }
            return;
        }
        struct accepted accepted = {.fd = fd, .is_unix = listener->unix_path != NULL};
        describe_peer(&accepted, &address, len);
        listener->fn(listener->arg, &accepted);
    }
}

void
listen_start(struct listener *list, struct loop *loop, listen_fn fn, void *arg)
{
    for (struct listener *listener = list; listener != NULL; listener = listener->next) {
        listener->fn = fn;
        listener->arg = arg;
        watch_init(&listener->watch, listener->watch.fd, on_connection, listener);
        watch_attach(&listener->watch, loop);
        watch_want(&listener->watch, WATCH_READ);
    }
}

void
listen_pause(struct listener *list, bool is_paused)
{
    for (struct listener *listener = list; listener != NULL; listener = listener->next) {
        deadline_stop(&listener->resume);
        watch_want(&listener->watch, is_paused ? 0 : WATCH_READ);
    }
}

/* Another process may have put its own socket at our path meanwhile. */
static void
remove_own_socket(const struct listener *listener)
{
    struct stat info;

    if (listener->unix_path != NULL && lstat(listener->unix_path, &info) == 0 &&
        info.st_ino == listener->unix_inode) {
        unlink(listener->unix_path);
    }
}

void
listen_close(struct listener **list)
{
    while (*list != NULL) {
        struct listener *listener = *list;
        *list = listener->next;
        deadline_stop(&listener->resume);
        if (listener->watch.loop != NULL) {
            watch_detach(&listener->watch);
        }
        remove_own_socket(listener);
        close(listener->watch.fd);
        free(listener->unix_path);
        free(listener->name);
        free(listener);
    }
}

struct listener *
listen_next(const struct listener *listener)
{
    return listener->next;
}

const char *
listen_name(const struct listener *listener)
{
    return listener->name;
}
