/* Commands. Called by pool/credentials; calls the kernel. */
#include "pool/command.h"

#include "base/mem.h"
#include "net/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum
{
    READS_AT_ONCE = 100,
    /* No descriptor tells of a child's end on all kernels that we run on (pidfd is Linux 5.3), so
     * it is looked for as often as this. */
    SLICE_MS = 20,
};

/* What it writes to one of its descriptors. */
struct drain
{
    int fd; /* owns; -1 once it is at its end */
    char *to;
    size_t len, size; /* size includes the end of string */
    bool is_too_long; /* the rest is dropped */
};

/* ---- the beginning ---- */

/* A name that is set twice counts as it is set first, everywhere. */
static char **
environment_of(const struct command *command)
{
    size_t own = 0, all = 0;

    while (command->variables[own] != NULL) {
        own++;
    }
    while (environ[all] != NULL) {
        all++;
    }
    char **environment = mem_new((own + all + 1) * sizeof(*environment));
    memcpy(environment, command->variables, own * sizeof(*environment));
    memcpy(environment + own, environ, all * sizeof(*environment));
    return environment;
}

/* All signals as they are at the start of a program: helpers block them all, and main ignores one.
 */
static void
set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(attributes);
    posix_spawnattr_setsigmask(attributes, &none);
    posix_spawnattr_setsigdefault(attributes, &all);
    posix_spawnattr_setpgroup(attributes, 0);
    posix_spawnattr_setflags(attributes,
        POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

static int
spawn(const struct command *command, int out_fd, int err_fd, pid_t *pid_out)
{
    char *const argv[] = {"sh", "-c", (char *)command->text, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;

    set_attributes(&attributes);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err_fd, STDERR_FILENO);
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
    /* libpq marks a socket a moment after it made it, and another helper may be there just now. */
    posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
#endif
    char **environment = environment_of(command);
    int error = posix_spawn(pid_out, "/bin/sh", &actions, &attributes, argv, environment);
    free(environment);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return error;
}

/* A pipe whose ends are none of a program's usual three, which dup2() would take away. */
static bool
open_pipe(int fds[2])
{
    if (pipe2(fds, O_CLOEXEC) != 0) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        if (fds[i] <= STDERR_FILENO) {
            int moved = fcntl(fds[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
            close(fds[i]);
            fds[i] = moved;
        }
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    return fds[0] >= 0 && fds[1] >= 0;
}

static bool
start(const struct command *command, struct drain drains[2], pid_t *pid_out, struct fail *fail)
{
    int out[2] = {-1, -1}, err[2] = {-1, -1};
    int error = 0;

    if (!open_pipe(out) || !open_pipe(err)) {
        error = errno;
    } else {
        error = spawn(command, out[1], err[1], pid_out);
    }
    close(out[1]);
    close(err[1]);
    drains[0].fd = out[0];
    drains[1].fd = err[0];
    return error == 0 || fail_set(fail, "58000", "could not start /bin/sh: %s", strerror(error));
}

/* ---- what it writes ---- */

static void
drain_close(struct drain *drain)
{
    if (drain->fd >= 0) {
        close(drain->fd);
        drain->fd = -1;
    }
}

/* Takes what is there now; of one that never stops, not for ever. */
static void
drain_read(struct drain *drain)
{
    char rest[512];

    for (int i = 0; i < READS_AT_ONCE && drain->fd >= 0; i++) {
        size_t room = drain->size - 1 - drain->len;
        ssize_t len = room > 0 ? read(drain->fd, drain->to + drain->len, room)
                               : read(drain->fd, rest, sizeof(rest));
        if (len > 0 && room > 0) {
            drain->len += (size_t)len;
        } else if (len > 0) {
            drain->is_too_long = true;
        } else if (len == 0 || (errno != EAGAIN && errno != EINTR)) {
            drain_close(drain);
        } else if (errno == EAGAIN) {
            break;
        }
    }
    explicit_bzero(rest, sizeof(rest));
}

/* ---- the end ---- */

static bool
has_ended(pid_t pid)
{
    siginfo_t info = {0};

    /* It stays where it is: as long as nobody took it, nobody else has its number. */
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid;
}

/* Reads until it has ended, whoever it left behind holds its descriptors. False with errno:
 * ETIMEDOUT, ECANCELED or EFBIG. */
static bool
await(const struct command *command, pid_t pid, struct drain drains[2])
{
    for (;;) {
        int64_t now_us = loop_clock_us();
        struct pollfd fds[] = {{.fd = drains[0].fd, .events = POLLIN},
            {.fd = drains[1].fd, .events = POLLIN},
            {.fd = command->stop_fd, .events = POLLIN}};
        bool is_over = has_ended(pid);

        drain_read(&drains[0]);
        drain_read(&drains[1]);
        if (is_over) {
            return true;
        }
        if (drains[0].is_too_long) {
            errno = EFBIG;
            return false;
        }
        if (command->deadline_us > 0 && now_us >= command->deadline_us) {
            errno = ETIMEDOUT;
            return false;
        }
        if (poll(fds, 3, SLICE_MS) > 0 && fds[2].revents != 0) {
            errno = ECANCELED;
            return false;
        }
    }
}

static bool
judge(int status, const struct drain *out, struct fail *fail)
{
    if (WIFSIGNALED(status)) {
        return fail_set(fail, "58000", "was killed by signal %d", WTERMSIG(status));
    }
    if (WEXITSTATUS(status) != 0) {
        return fail_set(fail, "58000", "ended with status %d", WEXITSTATUS(status));
    }
    return !out->is_too_long || fail_set(fail, "58000", "wrote more than %zu bytes", out->size - 1);
}

bool
command_run(const struct command *command, struct command_output *output, struct fail *fail)
{
    struct drain drains[2] = {{.to = output->text, .size = output->size},
        {.to = output->said, .size = sizeof(output->said)}};
    pid_t pid;
    int status = 0;

    bool is_good = start(command, drains, &pid, fail);
    if (is_good) {
        bool is_over = await(command, pid, drains);
        int error = errno;
        kill(-pid, SIGKILL);
        pid_t reaped;
        do {
            reaped = waitpid(pid, &status, 0);
        } while (reaped < 0 && errno == EINTR);
        is_good = is_over && reaped == pid
                      ? judge(status, &drains[0], fail)
                      : fail_set(fail, "58000", "%s",
                            is_over                 ? "ended, nobody knows how"
                            : error == ETIMEDOUT ? "took too long and was killed"
                            : error == EFBIG     ? "wrote too much and was killed"
                                                 : strerror(error));
    }
    drain_close(&drains[0]);
    drain_close(&drains[1]);
    output->len = drains[0].len;
    output->text[drains[0].len] = '\0';
    output->said[drains[1].len] = '\0';
    return is_good;
}
