/*
 * The old process of an online restart, and cancels. Called by daemon/daemon; calls daemon/control,
 * daemon/process, and its host.
 *
 *    STRANGER ─ takeover ─► HEIR ─ ready ─► SUCCESSOR        PREDECESSOR: we took over from it
 *        └── restart ─► ASKER: is told how it ended
 *
 * Until an heir is ready nothing changes here, so one that fails harms nobody.
 */
#include "daemon/takeover.h"

#include "base/log.h"
#include "base/mem.h"
#include "client/keys.h"
#include "daemon/control.h"
#include "daemon/process.h"
#include "net/listen.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <unistd.h>

enum role
{
    ROLE_STRANGER,
    ROLE_HEIR,
    ROLE_SUCCESSOR,
    ROLE_PREDECESSOR,
    ROLE_ASKER
};

struct channel
{
    TAILQ_ENTRY(channel) link;
    struct takeover *takeover;
    struct watch watch;
    enum role role;
    bool is_spawned; /* we started the process behind it */
};

TAILQ_HEAD(channel_list, channel);

struct takeover
{
    struct takeover_host host;
    struct listener *control; /* owns; NULL: there is none, or it was handed over */
    struct channel_list channels;
    bool is_closed; /* no new process is wanted */
};

/* ---- channels ---- */

static void on_message(void *arg, unsigned what);

static struct channel *
add_channel(struct takeover *takeover, int fd, enum role role)
{
    struct channel *channel = mem_new(sizeof(*channel));

    channel->takeover = takeover;
    channel->role = role;
    watch_init(&channel->watch, fd, on_message, channel);
    watch_attach(&channel->watch, takeover->host.loop);
    watch_want(&channel->watch, WATCH_READ);
    TAILQ_INSERT_TAIL(&takeover->channels, channel, link);
    return channel;
}

static void
free_channel(void *arg)
{
    free(arg);
}

static void
drop_channel(struct channel *channel)
{
    TAILQ_REMOVE(&channel->takeover->channels, channel, link);
    watch_detach(&channel->watch);
    close(channel->watch.fd);
    loop_bury(channel->takeover->host.loop, free_channel, channel);
}

static struct channel *
find_channel(struct takeover *takeover, enum role role)
{
    struct channel *channel;

    TAILQ_FOREACH (channel, &takeover->channels, link) {
        if (channel->role == role) {
            return channel;
        }
    }
    return NULL;
}

static void
say(struct channel *channel, const char *text)
{
    if (!control_send(channel->watch.fd, text, NULL, 0)) {
        log_warn("could not write to the control socket: %s", strerror(errno));
    }
}

static void
answer_asker(struct takeover *takeover, const char *text)
{
    struct channel *asker = find_channel(takeover, ROLE_ASKER);

    if (asker != NULL) {
        say(asker, text);
        drop_channel(asker);
    }
}

static bool
is_busy(struct takeover *takeover)
{
    struct channel *channel;

    TAILQ_FOREACH (channel, &takeover->channels, link) {
        if (channel->role == ROLE_HEIR || channel->is_spawned) {
            return true;
        }
    }
    return find_channel(takeover, ROLE_ASKER) != NULL;
}

/* Why nobody can take over now, or NULL. */
static const char *
objection(struct takeover *takeover, const struct channel *from)
{
    if (takeover->is_closed) {
        return "failed it is about to end";
    }
    return !from->is_spawned && is_busy(takeover) ? "failed another restart is in progress" : NULL;
}

/* ---- messages ---- */

/* Everything that a new process needs. */
struct estate
{
    char text[CONTROL_TEXT_MAX];
    int fds[CONTROL_FDS_MAX], count;
};

static void
bequeath(struct estate *estate, char kind, int fd)
{
    if (fd >= 0 && estate->count < CONTROL_FDS_MAX) {
        size_t len = strlen(estate->text);
        estate->text[len] = kind;
        estate->text[len + 1] = '\0';
        estate->fds[estate->count++] = fd;
    }
}

static void
on_takeover(struct channel *channel, const char *text)
{
    struct takeover *takeover = channel->takeover;
    const char *why_not = objection(takeover, channel);
    struct estate estate = {.text = "sockets "};
    const struct channel *relative;

    (void)text;
    if (why_not != NULL) {
        say(channel, why_not);
        return;
    }
    struct listener *listener = *takeover->host.listeners;
    for (; listener != NULL; listener = listen_next(listener)) {
        bequeath(&estate, listen_is_managed(listener) ? 'm' : 'l', listen_fd(listener));
    }
    bequeath(&estate, 'c', takeover->control != NULL ? listen_fd(takeover->control) : -1);
    bequeath(&estate, 'p', process_pid_fd());
    TAILQ_FOREACH (relative, &takeover->channels, link) {
        bequeath(&estate, 'r', relative->role == ROLE_PREDECESSOR ? relative->watch.fd : -1);
    }
    for (listener = takeover->host.others; listener != NULL; listener = listen_next(listener)) {
        bequeath(&estate, 'l', listen_fd(listener));
    }
    if (!control_send(channel->watch.fd, estate.text, estate.fds, estate.count)) {
        log_warn("could not hand the sockets over: %s", strerror(errno));
        return;
    }
    channel->role = ROLE_HEIR;
    log_info("a new process asks for the sockets");
}

/* What it uses is no longer ours to remove. */
static void
let_go(struct takeover *takeover, const char *used)
{
    struct listener *listener = *takeover->host.listeners;

    for (; listener != NULL && *used != '\0'; listener = listen_next(listener), used++) {
        listen_own(listener, *used != 'y');
    }
    if (takeover->control != NULL && *used != '\0') {
        listen_own(takeover->control, *used++ != 'y');
    }
    listen_close(&takeover->control);
    if (*used == 'y') {
        process_forget_pid();
    }
    /* It talks to them itself: this process may end before they do. */
    struct channel *relative;
    while ((relative = find_channel(takeover, ROLE_PREDECESSOR)) != NULL) {
        drop_channel(relative);
    }
}

static void
on_ready(struct channel *channel, const char *text)
{
    struct takeover *takeover = channel->takeover;
    char used[CONTROL_FDS_MAX + 1] = "", told[64];
    int pid;

    if (sscanf(text, "ready %d %128[yn]", &pid, used) < 1 || pid <= 0) {
        return;
    }
    /* First of all: it may have given up by now, and then this process goes on. */
    if (!control_send(channel->watch.fd, "go", NULL, 0)) {
        log_warn("the new process does not listen any more: %s", strerror(errno));
        return;
    }
    log_info("process %d serves from now on", pid);
    channel->role = ROLE_SUCCESSOR;
    channel->is_spawned = false;
    takeover->is_closed = true;
    let_go(takeover, used);
    takeover->host.hand_over(takeover->host.arg, (pid_t)pid);
    snprintf(told, sizeof(told), "restarted %d", pid);
    answer_asker(takeover, told);
}

static void
pass_cancel(struct takeover *takeover, enum role from, struct cancel_key key)
{
    struct channel *channel;
    char text[64];

    snprintf(text, sizeof(text), "cancel %" PRIu32 " %" PRIu32, key.pid, key.secret);
    TAILQ_FOREACH (channel, &takeover->channels, link) {
        bool is_relative = channel->role == ROLE_SUCCESSOR || channel->role == ROLE_PREDECESSOR;
        if (is_relative && channel->role != from) {
            say(channel, text);
        }
    }
}

/* It goes on in the direction that it came in: there may be more than two processes. */
static void
on_cancel(struct channel *channel, const char *text)
{
    struct takeover *takeover = channel->takeover;
    struct cancel_key key;

    if (sscanf(text, "cancel %" SCNu32 " %" SCNu32, &key.pid, &key.secret) == 2) {
        keys_cancel_here(takeover->host.crowds, key);
        pass_cancel(takeover, channel->role, key);
    }
}

static void
on_restart(struct channel *channel, const char *text)
{
    struct takeover *takeover = channel->takeover;
    const char *why_not = objection(takeover, channel);
    int pair[2];

    (void)text;
    if (why_not != NULL) {
        say(channel, why_not);
        return;
    }
    channel->role = ROLE_ASKER;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        answer_asker(takeover, "failed no socket for it");
        return;
    }
    log_info("starting a new process, as the control socket asks");
    bool is_started = process_spawn(pair[1]);
    close(pair[1]);
    if (!is_started) {
        close(pair[0]);
        answer_asker(takeover, "failed no process for it");
        return;
    }
    add_channel(takeover, pair[0], ROLE_STRANGER)->is_spawned = true;
}

static const struct
{
    const char *word;
    unsigned roles; /* who may say it */
    void (*fn)(struct channel *channel, const char *text);
} verbs[] = {
    {"takeover", 1u << ROLE_STRANGER, on_takeover},
    {"restart", 1u << ROLE_STRANGER, on_restart},
    {"ready", 1u << ROLE_HEIR, on_ready},
    {"cancel", 1u << ROLE_SUCCESSOR | 1u << ROLE_PREDECESSOR, on_cancel},
};

/* ---- events ---- */

static void
on_gone(struct channel *channel)
{
    struct takeover *takeover = channel->takeover;

    if (channel->role == ROLE_HEIR || channel->is_spawned) {
        log_warn("the new process ended before it was ready; this one goes on");
        process_sign_pid(); /* it may have written its own number already */
        answer_asker(takeover, "failed the new process ended before it was ready");
    } else if (channel->role == ROLE_PREDECESSOR) {
        log_info("the process before this one has ended");
    }
    drop_channel(channel);
}

static void
on_message(void *arg, unsigned what)
{
    struct channel *channel = arg;
    struct control_message message;

    (void)what;
    enum control_result result = control_receive(channel->watch.fd, &message);
    if (result == CONTROL_WAIT) {
        return;
    }
    if (result == CONTROL_OVER) {
        on_gone(channel);
        return;
    }
    for (int i = 0; i < message.fd_count; i++) {
        close(message.fds[i]); /* nobody gives us any */
    }
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        size_t len = strlen(verbs[i].word);
        bool is_it = strncmp(message.text, verbs[i].word, len) == 0 &&
                     strchr(" ", message.text[len]) != NULL;
        if (is_it && (verbs[i].roles & 1u << channel->role)) {
            verbs[i].fn(channel, message.text);
            return;
        }
    }
    log_warn("a message on the control socket makes no sense here");
}

static void
on_connection(void *arg, const struct accepted *accepted)
{
    if (accepted->peer_uid != 0 && accepted->peer_uid != geteuid()) {
        log_warn("user %d is not let onto the control socket", (int)accepted->peer_uid);
        close(accepted->fd);
        return;
    }
    add_channel(arg, accepted->fd, ROLE_STRANGER);
}

/* ---- cancel requests of our clients ---- */

struct stray_cancel
{
    struct takeover *takeover;
    struct cancel_key key;
};

static void
on_stray_cancel(void *arg)
{
    struct stray_cancel *stray = arg;

    pass_cancel(stray->takeover, ROLE_STRANGER, stray->key);
    free(stray);
}

/* In a worker: the client that it is for may be another process's. */
static void
cancel_elsewhere(void *arg, struct cancel_key key)
{
    struct takeover *takeover = arg;
    struct stray_cancel *stray = mem_new(sizeof(*stray));

    *stray = (struct stray_cancel){takeover, key};
    if (!loop_post(takeover->host.loop, on_stray_cancel, stray)) {
        free(stray);
    }
}

/* ---- beginning and end ---- */

struct takeover *
takeover_new(const struct settings *settings, struct listener **inherited)
{
    struct takeover *takeover = mem_new(sizeof(*takeover));
    struct listen_options options = {.backlog = 8,
        .unix_mode = 0600,
        .unix_group = (gid_t)-1,
        .is_control = true,
        .inherited = inherited};
    const struct passwd *becomes = settings->user[0] != '\0' ? getpwnam(settings->user) : NULL;
    char path[512];
    struct fail fail;

    TAILQ_INIT(&takeover->channels);
    if (!control_path(settings, path, sizeof(path))) {
        return takeover;
    }
    if (!listen_unix(&takeover->control, path, &options, &fail)) {
        log_warn("no online restart of this process: %s", fail.text);
    } else if (becomes != NULL && path[0] != '@' && lchown(path, becomes->pw_uid, (gid_t)-1) != 0) {
        log_warn("only root can restart this process online: %s", strerror(errno));
    }
    return takeover;
}

void
takeover_start(struct takeover *takeover, const struct takeover_host *host)
{
    takeover->host = *host;
    if (takeover->control != NULL) {
        listen_own(takeover->control, host->is_ours);
        listen_start(takeover->control, host->loop, on_connection, takeover);
    }
    host->crowds->cancel_arg = takeover;
    atomic_store(&host->crowds->cancel_elsewhere, cancel_elsewhere);
}

void
takeover_add_predecessor(struct takeover *takeover, int fd)
{
    add_channel(takeover, fd, ROLE_PREDECESSOR);
}

void
takeover_close(struct takeover *takeover)
{
    struct channel *heir = find_channel(takeover, ROLE_HEIR);

    if (takeover->is_closed) {
        return;
    }
    takeover->is_closed = true;
    listen_close(&takeover->control);
    if (heir != NULL) {
        say(heir, "failed it is about to end");
        heir->role = ROLE_STRANGER;
    }
    answer_asker(takeover, "failed it is about to end");
}

void
takeover_free(struct takeover **pointer)
{
    struct takeover *takeover = *pointer;

    if (takeover == NULL) {
        return;
    }
    struct channel *channel;
    while ((channel = TAILQ_FIRST(&takeover->channels)) != NULL) {
        TAILQ_REMOVE(&takeover->channels, channel, link);
        watch_detach(&channel->watch);
        close(channel->watch.fd);
        free(channel);
    }
    listen_close(&takeover->control);
    free(takeover);
    *pointer = NULL;
}
