/* The process. Called by main.c and daemon/daemon; calls the kernel. */
#include "daemon/process.h"

#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1UL
#endif
#ifndef PR_MDWE_NO_INHERIT
#define PR_MDWE_NO_INHERIT 2UL
#endif

/* Our pid file, from writing to removing. */
static struct
{
    char *path; /* owns */
    int fd;     /* owns; holds the lock */
    bool is_signed; /* our number is in it */
} pid_file = {NULL, -1, false};

/* How we were started. */
static struct
{
    char **argv;
    char program[512];
} start;

/* The parent of a process that went to the background waits at the other end. */
static int ready_fd = -1;

bool
process_daemonize(struct fail *fail)
{
    int fds[2];
    char byte;

    if (pipe2(fds, O_CLOEXEC) != 0) {
        return fail_set(fail, "58000", "could not go to the background: %s", strerror(errno));
    }
    pid_t child = fork();
    if (child < 0) {
        return fail_set(fail, "58000", "could not go to the background: %s", strerror(errno));
    }
    if (child > 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        close(fds[1]);
        _exit(read(fds[0], &byte, 1) == 1 ? 0 : 1);
    }
    close(fds[0]);
    ready_fd = fds[1];
    setsid();
    return true;
}

void
process_is_ready(void)
{
    if (ready_fd < 0) {
        return;
    }
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; null_fd >= 0 && fd <= 2; fd++) {
        dup2(null_fd, fd);
    }
    close(null_fd);
    if (write(ready_fd, "", 1) != 1) {
        log_warn("nobody waits for this process to be ready");
    }
    close(ready_fd);
    ready_fd = -1;
}

/* PgBouncer does not lock its pid file: whether it lives is asked by number and name. */
static bool
is_live_pooler(long pid)
{
    char path[64], name[32] = "";

    if (pid <= 0 || pid == getpid()) {
        return false;
    }
    snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false;
    }
    bool is_read = fgets(name, sizeof(name), file) != NULL;
    fclose(file);
    return is_read && strcmp(name, "pgbouncer\n") == 0;
}

static bool
write_number(void)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());

    pid_file.is_signed =
        ftruncate(pid_file.fd, 0) == 0 && pwrite(pid_file.fd, text, (size_t)len, 0) == len;
    return pid_file.is_signed;
}

bool
process_write_pid(const char *path, struct fail *fail)
{
    char text[32] = "";
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0) {
        return fail_set(
            fail, "58000", "could not write pid file \"%s\": %s", path, strerror(errno));
    }
    ssize_t len = read(fd, text, sizeof(text) - 1);
    long old = len > 0 ? strtol(text, NULL, 10) : 0;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || is_live_pooler(old)) {
        close(fd);
        return fail_set(
            fail, "58000", "pid file \"%s\" belongs to a running process (%ld)", path, old);
    }
    if (old > 0) {
        log_info(
            "pid file \"%s\" was left by a process that is gone (%ld); replacing it", path, old);
    }
    /* The way there must still be known after a change of directory. */
    pid_file.path = realpath(path, NULL);
    pid_file.fd = fd;
    if (!write_number()) {
        fail_set(fail, "58000", "could not write pid file \"%s\": %s", path, strerror(errno));
        process_forget_pid();
        return false;
    }
    return true;
}

bool
process_inherit_pid(const char *path, int fd)
{
    struct stat at_path, of_fd;

    if (fd < 0 || stat(path, &at_path) != 0 || fstat(fd, &of_fd) != 0 ||
        at_path.st_ino != of_fd.st_ino || at_path.st_dev != of_fd.st_dev) {
        return false;
    }
    pid_file.path = realpath(path, NULL);
    pid_file.fd = fd;
    pid_file.is_signed = false;
    return true;
}

void
process_sign_pid(void)
{
    if (pid_file.path != NULL && !write_number()) {
        log_warn("could not write pid file \"%s\": %s", pid_file.path, strerror(errno));
    }
}

int
process_pid_fd(void)
{
    return pid_file.fd;
}

void
process_forget_pid(void)
{
    if (pid_file.fd >= 0) {
        close(pid_file.fd);
    }
    free(pid_file.path);
    pid_file.path = NULL;
    pid_file.fd = -1;
    pid_file.is_signed = false;
}

void
process_remove_pid(void)
{
    if (pid_file.is_signed) {
        unlink(pid_file.path);
    }
    process_forget_pid();
}

bool
process_become(const char *user, struct fail *fail)
{
    const struct passwd *entry = getpwnam(user);

    if (entry == NULL) {
        return fail_set(fail, "58000", "user \"%s\" does not exist on this machine", user);
    }
    if (geteuid() == entry->pw_uid) {
        return true;
    }
    if (initgroups(user, entry->pw_gid) != 0 || setgid(entry->pw_gid) != 0 ||
        setuid(entry->pw_uid) != 0) {
        return fail_set(fail, "58000", "could not become user \"%s\": %s", user, strerror(errno));
    }
    if (setuid(0) == 0) {
        return fail_set(fail, "58000", "could not give up the rights of root");
    }
    return true;
}

int64_t
process_raise_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return 1024;
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur > INT32_MAX ? INT32_MAX : (int64_t)limit.rlim_cur;
}

void
process_hide(void)
{
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

void
process_harden(bool may_dump)
{
    /* Once more: the change of the user has reset it. */
    prctl(PR_SET_DUMPABLE, may_dump ? 1 : 0, 0, 0, 0);
    /* Whatever runs here never gains rights by a program that it might be made to start. */
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* What was once written is never run. Not for programs that we start: they may compile at run
     * time. Older kernels (before 6.6) do not know it. */
    prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN | PR_MDWE_NO_INHERIT, 0, 0, 0);
}

void
process_hold_signals(sigset_t *before_out)
{
    static const int held[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(held) / sizeof(held[0]); i++) {
        sigaddset(&set, held[i]);
    }
    sigprocmask(SIG_BLOCK, &set, before_out);
}

/* ---- one more of us ---- */

void
process_remember(char **argv)
{
    /* Later the file may have been replaced: by then the link names what was deleted. */
    ssize_t len = readlink("/proc/self/exe", start.program, sizeof(start.program) - 1);

    start.program[len > 0 ? len : 0] = '\0';
    start.argv = argv;
}

/* In the child, which has one thread and somebody else's locks: system calls only. Its own child
 * has nobody to wait for it but init, as a daemon should. */
static void
become_successor(char **argv, int fd)
{
    sigset_t none;

    if (fork() != 0) {
        _exit(0);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    fcntl(fd, F_SETFD, 0);
    execv(start.program, argv);
    _exit(1);
}

bool
process_spawn(int fd)
{
    char reboot[32];
    int count = 0, given = 0, status;

    while (start.argv != NULL && start.argv[count] != NULL) {
        count++;
    }
    if (count == 0 || start.program[0] == '\0') {
        log_warn("how this process was started is not known");
        return false;
    }
    char **argv = mem_new(((size_t)count + 2) * sizeof(char *));
    snprintf(reboot, sizeof(reboot), "--reboot=%d", fd);
    argv[given++] = start.argv[0];
    argv[given++] = reboot;
    for (int i = 1; i < count; i++) {
        /* What this process took over by is nothing to the next one. */
        if (strcmp(start.argv[i], "-R") != 0 && strncmp(start.argv[i], "--reboot", 8) != 0) {
            argv[given++] = start.argv[i];
        }
    }
    pid_t child = fork();
    if (child == 0) {
        become_successor(argv, fd);
    }
    free(argv);
    if (child < 0) {
        log_warn("could not start a new process: %s", strerror(errno));
        return false;
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
