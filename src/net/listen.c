/*
 * Listening sockets. Called by daemon/; calls the kernel. A unix socket that a crash left behind
 * still has its file: whether anybody lives behind it is asked by connecting to it.
 */
#include "net/listen.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
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
    bool is_unix;
    bool is_managed;  /* the service manager has it, too */
    bool owns_file;   /* removes it in the end */
    ino_t unix_inode; /* of our socket file; the name is its path */
    listen_fn fn;
    void *arg;
};

void
listen_move(struct listener **from, struct listener **to)
{
    struct listener *listener = *from;

    *from = listener->next;
    listener->next = NULL;
    while (*to != NULL) {
        to = &(*to)->next;
    }
    *to = listener;
}

static struct listener *
append(struct listener **list, int fd, const char *name)
{
    struct listener *listener = mem_new(sizeof(*listener));
    struct listener *last = listener;

    listener->watch.fd = fd;
    listener->name = mem_string(name);
    listen_move(&last, list);
    return listener;
}

static void
address_text(const struct sockaddr *address, socklen_t len, char *text, size_t size)
{
    char host[48], port[8];
    struct sockaddr_in mapped = {.sin_family = AF_INET};

    /* A socket for both families shows IPv4 as a part of IPv6, which no rule is written for. */
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
        if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
            mapped.sin_port = six->sin6_port;
            memcpy(&mapped.sin_addr, six->sin6_addr.s6_addr + 12, sizeof(mapped.sin_addr));
            address = (const struct sockaddr *)&mapped;
            len = sizeof(mapped);
        }
    }
    if (getnameinfo(address, len, host, sizeof(host), port, sizeof(port),
            NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        snprintf(text, size, "unknown");
        return;
    }
    snprintf(text, size, address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

/* Moves the one that has this address, if there is one, from what was inherited to the list. */
static bool
take_inherited(struct listener **list, const struct sockaddr *address, socklen_t len,
    const struct listen_options *options)
{
    struct listener **at = options->inherited;

    for (; at != NULL && *at != NULL; at = &(*at)->next) {
        struct sockaddr_storage own;
        socklen_t own_len = sizeof(own);
        struct listener *listener = *at;
        bool is_it = getsockname(listener->watch.fd, (struct sockaddr *)&own, &own_len) == 0 &&
                     own_len == len && memcmp(&own, address, len) == 0;
        bool is_reachable =
            !listener->is_unix || listener->name[0] == '@' || listener->unix_inode != 0;
        if (is_it && is_reachable) {
            listen_move(at, list);
            return listen(listener->watch.fd, options->backlog) == 0;
        }
    }
    return false;
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
        if (take_inherited(list, address->ai_addr, address->ai_addrlen, options)) {
            opened++;
            continue;
        }
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
is_alive(const struct sockaddr_un *address, socklen_t len, int type)
{
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int result = connect(fd, (const struct sockaddr *)address, len);
    /* EAGAIN: a full backlog, so somebody listens. */
    bool alive = result == 0 || errno == EAGAIN || errno == EINPROGRESS;

    close(fd);
    return alive;
}

socklen_t
listen_unix_address(const char *path, struct sockaddr_un *address_out)
{
    size_t len = strlen(path);

    memset(address_out, 0, sizeof(*address_out));
    address_out->sun_family = AF_UNIX;
    if (len >= sizeof(address_out->sun_path)) {
        return 0;
    }
    memcpy(address_out->sun_path, path, len);
    if (path[0] == '@') {
        address_out->sun_path[0] = '\0';
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    }
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
}

static bool
remove_dead(const struct sockaddr_un *address, socklen_t len, int type, struct fail *fail)
{
    const char *path = address->sun_path;
    struct stat info;

    if (path[0] == '\0' || lstat(path, &info) != 0) {
        return true;
    }
    if (!S_ISSOCK(info.st_mode)) {
        return fail_set(fail, "58000", "could not listen on \"%s\": not a socket", path);
    }
    if (is_alive(address, len, type)) {
        return fail_set(fail, "58000", "could not listen on \"%s\": Address already in use", path);
    }
    log_info("unix socket \"%s\" was left by a process that is gone; replacing it", path);
    unlink(path);
    return true;
}

/* The file's rights, which an abstract socket has none of. */
static bool
give_rights(const char *path, const struct listen_options *options)
{
    return path[0] == '@' || (chmod(path, options->unix_mode) == 0 &&
                                 (options->unix_group == (gid_t)-1 ||
                                     chown(path, (uid_t)-1, options->unix_group) == 0));
}

/* The socket's file, if it has one that is still there. */
static ino_t
inode_of(const char *path)
{
    struct stat info;

    return path[0] != '@' && lstat(path, &info) == 0 ? info.st_ino : 0;
}

bool
listen_unix(struct listener **list, const char *path, const struct listen_options *options,
    struct fail *fail)
{
    struct sockaddr_un address;
    socklen_t len = listen_unix_address(path, &address);
    int type = options->is_control ? SOCK_SEQPACKET : SOCK_STREAM;

    if (len == 0) {
        return fail_set(fail, "58000", "unix socket path \"%s\" is longer than %zu bytes", path,
            sizeof(address.sun_path) - 1);
    }
    if (take_inherited(list, (struct sockaddr *)&address, len, options)) {
        if (!give_rights(path, options)) {
            log_warn("could not change the rights of \"%s\": %s", path, strerror(errno));
        }
        return true;
    }
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return fail_set(fail, "58000", "could not make a unix socket: %s", strerror(errno));
    }
    if (!remove_dead(&address, len, type, fail)) {
        close(fd);
        return false;
    }
    if (bind(fd, (struct sockaddr *)&address, len) != 0) {
        fail_set(fail, "58000", "could not listen on \"%s\": %s", path, strerror(errno));
        close(fd);
        return false;
    }
    if (!give_rights(path, options) || listen(fd, options->backlog) != 0) {
        fail_set(fail, "58000", "could not listen on \"%s\": %s", path, strerror(errno));
        close(fd);
        unlink(path);
        return false;
    }
    struct listener *listener = append(list, fd, path);
    listener->is_unix = listener->owns_file = true;
    listener->unix_inode = inode_of(path);
    return true;
}

bool
listen_adopt(struct listener **list, int fd, bool is_managed, struct fail *fail)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address), size = sizeof(int);
    int listens = 0, flags = fcntl(fd, F_GETFL);
    char name[sizeof(struct sockaddr_un)];

    bool is_right = getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens &&
                    getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
                    fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 &&
                    fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
    if (!is_right) {
        close(fd);
        return fail_set(fail, "58000", "descriptor %d is no socket that listens", fd);
    }
    if (address.ss_family == AF_UNIX) {
        const char *path = ((struct sockaddr_un *)&address)->sun_path;
        size_t path_len = len - offsetof(struct sockaddr_un, sun_path);
        bool is_abstract = path[0] == '\0';
        snprintf(name, sizeof(name), "%s%.*s", is_abstract ? "@" : "",
            (int)path_len - is_abstract, path + is_abstract);
    } else {
        address_text((struct sockaddr *)&address, len, name, sizeof(name));
    }
    struct listener *listener = append(list, fd, name);
    listener->is_managed = is_managed;
    listener->is_unix = address.ss_family == AF_UNIX;
    listener->unix_inode = listener->is_unix ? inode_of(name) : 0;
    return true;
}

void
listen_own(struct listener *listener, bool is_own)
{
    listener->owns_file = is_own && listener->is_unix && !listener->is_managed;
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
        struct accepted accepted = {.fd = fd, .is_unix = listener->is_unix};
        describe_peer(&accepted, &address, len);
        listener->fn(listener->arg, &accepted);
    }
}

void
listen_accept_all(struct listener *list)
{
    for (struct listener *listener = list; listener != NULL; listener = listener->next) {
        if (!listener->is_managed) {
            on_connection(listener, 0);
        }
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

    if (listener->owns_file && listener->name[0] != '@' && lstat(listener->name, &info) == 0 &&
        info.st_ino == listener->unix_inode) {
        unlink(listener->name);
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

struct listener **
listen_after(struct listener *listener)
{
    return &listener->next;
}

int
listen_fd(const struct listener *listener)
{
    return listener->watch.fd;
}

bool
listen_is_managed(const struct listener *listener)
{
    return listener->is_managed;
}
