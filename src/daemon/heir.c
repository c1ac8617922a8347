/* The new process. Called by daemon/daemon; calls daemon/control. */
#include "daemon/heir.h"

#include "base/log.h"
#include "net/listen.h"

#include <unistd.h>

enum
{
    PATIENCE_MS = 10000
};

void
heir_init(struct inheritance *inheritance)
{
    *inheritance = (struct inheritance){.channel = -1, .pid_fd = -1};
    for (int i = 0; i < RELATIVES_MAX; i++) {
        inheritance->relatives[i] = -1;
    }
}

static bool
add_relative(struct inheritance *inheritance, int fd)
{
    for (int i = 0; i < RELATIVES_MAX; i++) {
        if (inheritance->relatives[i] < 0) {
            inheritance->relatives[i] = fd;
            return true;
        }
    }
    close(fd);
    return true;
}

/* One descriptor that came, by its letter. */
static bool
take(struct inheritance *inheritance, char kind, int fd, struct fail *fail)
{
    switch (kind) {
    case 'l':
        return listen_adopt(&inheritance->sockets, fd, false, fail);
    case 'm':
        return listen_adopt(&inheritance->sockets, fd, true, fail);
    case 'c':
        return listen_adopt(&inheritance->control, fd, false, fail);
    case 'p':
        inheritance->pid_fd = fd;
        return true;
    case 'r':
        return add_relative(inheritance, fd);
    default: /* of a newer version */
        close(fd);
        return true;
    }
}

static bool
take_all(struct inheritance *inheritance, const struct control_message *message, struct fail *fail)
{
    const char *kinds = message->text + strlen("sockets ");
    bool are_right = true;

    for (int i = 0; i < message->fd_count; i++) {
        char kind = i < (int)strlen(kinds) ? kinds[i] : '?';
        inheritance->kinds[i] = kind;
        inheritance->fds[i] = message->fds[i];
        are_right = take(inheritance, kind, message->fds[i], fail) && are_right;
    }
    return are_right;
}

/* What the old process said instead of what was expected. */
static bool
refused(enum control_result result, const char *text, struct fail *fail)
{
    if (result == CONTROL_WAIT) {
        return fail_set(fail, "58000", "the running process does not answer");
    }
    if (result == CONTROL_OK && strncmp(text, "failed ", 7) == 0) {
        return fail_set(fail, "58000", "the running process does not hand over: %s", text + 7);
    }
    return fail_set(fail, "58000", "the running process does not hand over its sockets");
}

bool
heir_ask(struct inheritance *inheritance, const struct settings *settings, int channel,
    struct fail *fail)
{
    struct control_message message;
    enum control_result result = CONTROL_OVER;
    char path[512];

    heir_init(inheritance);
    inheritance->channel = channel;
    if (channel < 0) {
        if (!control_path(settings, path, sizeof(path))) {
            return fail_set(fail, "58000", "online restart needs pidfile or unix_socket_dir");
        }
        inheritance->channel = control_connect(path, fail);
        if (inheritance->channel < 0) {
            return false;
        }
        if (!control_is_ours(inheritance->channel, settings)) {
            return fail_set(
                fail, "58000", "the process behind \"%s\" belongs to another user", path);
        }
    }
    if (control_send(inheritance->channel, "takeover", NULL, 0)) {
        result = control_await(inheritance->channel, PATIENCE_MS, &message);
    }
    if (result != CONTROL_OK || strncmp(message.text, "sockets ", 8) != 0) {
        return refused(result, message.text, fail);
    }
    return take_all(inheritance, &message, fail);
}

static bool
is_among(const struct listener *list, int fd)
{
    for (; list != NULL; list = listen_next(list)) {
        if (listen_fd(list) == fd) {
            return true;
        }
    }
    return false;
}

/* Which of what came is used: a letter each. */
static void
list_used(const struct inheritance *inheritance, char *used)
{
    size_t i;

    for (i = 0; inheritance->kinds[i] != '\0'; i++) {
        int fd = inheritance->fds[i];
        bool is_left = is_among(inheritance->sockets, fd) || is_among(inheritance->control, fd) ||
                       inheritance->pid_fd == fd;
        used[i] = is_left ? 'n' : 'y';
    }
    used[i] = '\0';
}

bool
heir_ready(struct inheritance *inheritance, struct fail *fail)
{
    struct control_message message;
    char used[CONTROL_FDS_MAX + 1], text[CONTROL_TEXT_MAX];
    enum control_result result = CONTROL_OVER;

    list_used(inheritance, used);
    snprintf(text, sizeof(text), "ready %d %s", (int)getpid(), used);
    if (control_send(inheritance->channel, text, NULL, 0)) {
        result = control_await(inheritance->channel, PATIENCE_MS, &message);
    }
    if (result == CONTROL_OK && strcmp(message.text, "go") == 0) {
        add_relative(inheritance, inheritance->channel);
        inheritance->channel = -1;
        return true;
    }
    if (result == CONTROL_OVER) {
        log_warn("the process that hands over to this one ended before its time");
        return true;
    }
    return refused(result, message.text, fail);
}

void
heir_give_up(struct inheritance *inheritance)
{
    listen_close(&inheritance->sockets);
    listen_close(&inheritance->control);
    if (inheritance->pid_fd >= 0) {
        close(inheritance->pid_fd);
    }
    if (inheritance->channel >= 0) {
        close(inheritance->channel);
    }
    for (int i = 0; i < RELATIVES_MAX; i++) {
        if (inheritance->relatives[i] >= 0) {
            close(inheritance->relatives[i]);
        }
    }
    heir_init(inheritance);
}
