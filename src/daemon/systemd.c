/*
 * The service manager. Called by daemon/daemon and daemon/takeover; calls net/listen. Written by
 * hand because libsystemd is large for three lines of protocol, and not everywhere.
 */
#include "daemon/systemd.h"

#include "base/log.h"
#include "base/text.h"
#include "net/listen.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum
{
    FIRST_SOCKET = 3
};

/* What the environment said. */
static struct
{
    char notify_path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "": nobody listens */
    int64_t watchdog_us, fed_at_us;
    int sockets;
} manager;

/* A number of the environment that is meant for this process; 0: none. */
static int64_t
number_for_us(const char *name, const char *name_of_pid)
{
    const char *text = getenv(name), *pid = getenv(name_of_pid);
    int64_t number = 0, owner = getpid();
    bool is_there = text != NULL && text_parse_integer(text, false, &number) &&
                    (pid == NULL || text_parse_integer(pid, false, &owner));

    return is_there && owner == getpid() && number > 0 ? number : 0;
}

void
systemd_init(void)
{
    static const char *const for_us[] = {
        "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"};
    const char *path = getenv("NOTIFY_SOCKET");

    if (path != NULL) {
        text_copy(manager.notify_path, sizeof(manager.notify_path), path);
    }
    manager.watchdog_us = number_for_us("WATCHDOG_USEC", "WATCHDOG_PID");
    manager.sockets =
        getenv("LISTEN_PID") != NULL ? (int)number_for_us("LISTEN_FDS", "LISTEN_PID") : 0;
    /* A process that takes over from us has the rest of the environment. */
    for (size_t i = 0; i < sizeof(for_us) / sizeof(for_us[0]); i++) {
        unsetenv(for_us[i]);
    }
}

bool
systemd_sockets(struct listener **list, struct fail *fail)
{
    bool are_right = true;

    for (int i = 0; i < manager.sockets; i++) {
        are_right = listen_adopt(list, FIRST_SOCKET + i, true, fail) && are_right;
    }
    return are_right;
}

static void
notify(const char *text)
{
    struct sockaddr_un address;

    if (manager.notify_path[0] == '\0') {
        return;
    }
    socklen_t len = listen_unix_address(manager.notify_path, &address);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
                      (struct sockaddr *)&address, len) < 0) {
        log_warn("could not tell the service manager: %s", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

void
systemd_ready(void)
{
    notify("READY=1\nSTATUS=serving");
}

void
systemd_reloading(void)
{
    struct timespec now;
    char text[96];

    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%" PRId64 "\nSTATUS=reloading",
        (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    notify(text);
}

void
systemd_stopping(int64_t at_most_us)
{
    char text[96];

    snprintf(text, sizeof(text),
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRId64 "\nSTATUS=clients are leaving", at_most_us);
    notify(text);
}

void
systemd_feed(int64_t now_us, int64_t oldest_tick_us)
{
    bool is_time = now_us - manager.fed_at_us >= manager.watchdog_us / 4;
    bool is_well = now_us - oldest_tick_us <= manager.watchdog_us / 2;

    if (manager.watchdog_us > 0 && is_time && is_well) {
        manager.fed_at_us = now_us;
        notify("WATCHDOG=1");
    }
}

void
systemd_hand_over(pid_t pid)
{
    char text[64];

    snprintf(text, sizeof(text), "MAINPID=%d\nSTATUS=handed over", (int)pid);
    notify(text);
    manager.notify_path[0] = '\0';
    manager.watchdog_us = 0;
}
