/* Messages between processes. Called by daemon/takeover, daemon/heir, tools; calls the kernel. */
#include "daemon/control.h"

#include "conf/settings.h"
#include "net/listen.h"
#include "net/loop.h"

#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <unistd.h>

bool
control_path(const struct settings *settings, char *path, size_t size)
{
    const char *dir = settings->unix_socket_dir + strspn(settings->unix_socket_dir, ", \t");
    int len = (int)strcspn(dir, ", \t");

    if (settings->pidfile[0] != '\0') {
        snprintf(path, size, "%s.control", settings->pidfile);
        return true;
    }
    snprintf(path, size, "%.*s/.s.PGKEEL.%d", len, dir, (int)settings->listen_port);
    return len > 0;
}

bool
control_is_ours(int fd, const struct settings *settings)
{
    const struct passwd *becomes = settings->user[0] != '\0' ? getpwnam(settings->user) : NULL;
    struct ucred peer;
    socklen_t size = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return false;
    }
    return peer.uid == 0 || peer.uid == geteuid() ||
           (becomes != NULL && peer.uid == becomes->pw_uid);
}

int
control_connect(const char *path, struct fail *fail)
{
    struct sockaddr_un address;
    socklen_t len = listen_unix_address(path, &address);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (len > 0 && fd >= 0 && connect(fd, (struct sockaddr *)&address, len) == 0) {
        return fd;
    }
    fail_set(fail, "58000", "no process answers at \"%s\": %s", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

/* Room for the descriptors of one message. */
union ancillary
{
    struct cmsghdr header;
    char space[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
};

bool
control_send(int fd, const char *text, const int *fds, int count)
{
    union ancillary ancillary = {0};
    struct iovec bytes = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};

    if (count > 0) {
        size_t size = (size_t)count * sizeof(int);
        message.msg_control = &ancillary;
        message.msg_controllen = CMSG_SPACE(size);
        ancillary.header.cmsg_level = SOL_SOCKET;
        ancillary.header.cmsg_type = SCM_RIGHTS;
        ancillary.header.cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(&ancillary.header), fds, size);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes.iov_len;
}

static void
take_fds(struct control_message *message, struct msghdr *header)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t size = c->cmsg_len - CMSG_LEN(0);
            memcpy(message->fds, CMSG_DATA(c), size);
            message->fd_count = (int)(size / sizeof(int));
        }
    }
}

enum control_result
control_receive(int fd, struct control_message *message)
{
    union ancillary ancillary;
    struct iovec bytes = {.iov_base = message->text, .iov_len = sizeof(message->text) - 1};
    struct msghdr header = {.msg_iov = &bytes,
        .msg_iovlen = 1,
        .msg_control = &ancillary,
        .msg_controllen = sizeof(ancillary)};

    message->fd_count = 0;
    ssize_t len = recvmsg(fd, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (len < 0 && (errno == EAGAIN || errno == EINTR)) {
        return CONTROL_WAIT;
    }
    if (len <= 0) {
        return CONTROL_OVER;
    }
    take_fds(message, &header);
    message->text[len] = '\0';
    if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        for (int i = 0; i < message->fd_count; i++) {
            close(message->fds[i]);
        }
        return CONTROL_OVER;
    }
    return CONTROL_OK;
}

enum control_result
control_await(int fd, int patience_ms, struct control_message *message)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    int64_t until_us = loop_clock_us() + (int64_t)patience_ms * 1000;
    int64_t left_us;

    /* A signal is no answer: one for the new process may come just now, by its pid file. */
    while ((left_us = until_us - loop_clock_us()) > 0) {
        int count = poll(&ready, 1, (int)(left_us / 1000) + 1);
        enum control_result result = count > 0 ? control_receive(fd, message) : CONTROL_WAIT;
        if (result != CONTROL_WAIT) {
            return result;
        }
        if (count < 0 && errno != EINTR) {
            return CONTROL_OVER;
        }
    }
    return CONTROL_WAIT;
}
