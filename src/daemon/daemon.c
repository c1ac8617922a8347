/*
 * Beginning, reload and end. Called by main.c and the console; calls everything left of it. Ending
 * goes in this order, each step after the one before has finished:
 *
 *    stop accepting ─► drain clients ─► close them ─► stop helpers ─► stop loops ─► free
 */
#include "daemon/daemon.h"

#include "base/helpers.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "daemon/certificates.h"
#include "daemon/heir.h"
#include "daemon/listeners.h"
#include "daemon/load.h"
#include "daemon/logging.h"
#include "daemon/process.h"
#include "daemon/systemd.h"
#include "daemon/takeover.h"
#include "daemon/worker.h"
#include "net/tls.h"
#include "pool/pools.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <unistd.h>

enum
{
    HELPERS_KEPT = 2,
    LOOKUPS_MOST = 4,
    HELPERS_STOP_MS = 5000,
    WORKERS_MAX = 64
};

enum phase
{
    PHASE_SERVING,
    PHASE_DRAINING, /* clients are leaving */
    PHASE_CLOSING,  /* clients are being closed */
};

struct daemon
{
    struct daemon_options options;
    struct settings *settings;         /* holds */
    struct tls *tls;                   /* holds, or NULL: what clients get */
    struct changes changes;            /* owns: what SET changed since the last reload */
    struct loop *loop;                 /* owns */
    struct helpers *helpers;           /* owns */
    struct pools *pools;               /* owns */
    struct worker **workers;           /* own */
    struct pool_worker **pool_workers; /* owns the array */
    struct crowds crowds;
    int worker_count;
    int workers_closed;
    struct listener *listeners;     /* owns */
    struct inheritance inheritance; /* owns; until it serves */
    struct takeover *takeover;      /* owns */
    _Atomic(enum phase) phase;      /* main writes it */
    struct deadline drain_delay, shutdown_timeout;
    int64_t started_at_us;
    sigset_t signals; /* the mask we were started with */
};

/* Hands a connection to the worker with the fewest clients. */
static void
on_accepted(void *arg, const struct accepted *accepted)
{
    struct daemon *daemon = arg;
    struct worker *best = daemon->workers[0];

    listeners_look_after(daemon->settings, accepted);
    for (int i = 1; i < daemon->worker_count; i++) {
        if (atomic_load(&worker_crowd(daemon->workers[i])->load) <
            atomic_load(&worker_crowd(best)->load)) {
            best = daemon->workers[i];
        }
    }
    worker_accept(best, accepted);
}

/* ---- the end ---- */

static void
on_worker_closed(void *arg)
{
    struct daemon *daemon = arg;

    daemon->workers_closed++;
    if (daemon->workers_closed < daemon->worker_count) {
        return;
    }
    if (!helpers_stop(daemon->helpers, HELPERS_STOP_MS)) {
        log_warn("a connection attempt does not end; leaving without it");
        process_remove_pid();
        takeover_close(daemon->takeover);
        listen_close(&daemon->listeners);
        _exit(0);
    }
    loop_stop(daemon->loop);
}

static void
close_clients(struct daemon *daemon)
{
    if (daemon->phase == PHASE_CLOSING) {
        return;
    }
    daemon->phase = PHASE_CLOSING;
    takeover_close(daemon->takeover);
    deadline_stop(&daemon->drain_delay);
    deadline_stop(&daemon->shutdown_timeout);
    listen_close(&daemon->listeners);
    for (int i = 0; i < daemon->worker_count; i++) {
        worker_close_clients(daemon->workers[i], daemon->loop, on_worker_closed, daemon);
    }
}

static int
count_clients(const struct daemon *daemon)
{
    int clients = 0;
    for (int i = 0; i < daemon->worker_count; i++) {
        clients += atomic_load(&daemon->crowds.all[i]->load);
    }
    return clients;
}

static void
on_shutdown_timeout(struct deadline *deadline)
{
    struct daemon *daemon =
        (struct daemon *)((char *)deadline - offsetof(struct daemon, shutdown_timeout));

    log_warn("shutdown_timeout is over with %d clients left", count_clients(daemon));
    close_clients(daemon);
}

static void
start_draining(struct deadline *deadline)
{
    struct daemon *daemon =
        (struct daemon *)((char *)deadline - offsetof(struct daemon, drain_delay));

    listen_accept_all(daemon->listeners);
    listen_close(&daemon->listeners);
    atomic_store(&daemon->crowds.is_draining, true);
}

void
daemon_stop(struct daemon *daemon, enum stop_how how)
{
    const struct settings *settings = daemon->settings;

    if (how == STOP_NOW || daemon->phase != PHASE_SERVING) {
        log_info("shutting down now");
        systemd_stopping(HELPERS_STOP_MS * 2000);
        close_clients(daemon);
        return;
    }
    daemon->phase = PHASE_DRAINING;
    takeover_close(daemon->takeover);
    log_info("shutting down: %d clients", count_clients(daemon));
    systemd_stopping(
        settings->drain_delay + settings->shutdown_timeout + (int64_t)HELPERS_STOP_MS * 2000);
    deadline_start(
        &daemon->shutdown_timeout, daemon->loop, settings->shutdown_timeout, on_shutdown_timeout);
    if (how == STOP_WAIT) {
        listen_accept_all(daemon->listeners);
        listen_close(&daemon->listeners);
    } else if (settings->drain_delay > 0) {
        deadline_start(&daemon->drain_delay, daemon->loop, settings->drain_delay, start_draining);
    } else {
        start_draining(&daemon->drain_delay);
    }
}

static void
on_terminate(void *arg)
{
    struct daemon *daemon = arg;

    daemon_stop(daemon, daemon->settings->drain_mode == DRAIN_CLIENT ? STOP_WAIT : STOP_DRAIN);
}

static void
on_interrupt(void *arg)
{
    daemon_stop(arg, STOP_DRAIN);
}

static void
on_quit(void *arg)
{
    daemon_stop(arg, STOP_NOW);
}

static void
on_hangup(void *arg)
{
    log_reopen();
    daemon_reload(arg, NULL, NULL);
}

/* The service manager hears of us only while every loop is alive. */
static void
feed_watchdog(const struct daemon *daemon)
{
    int64_t now_us = loop_now_us(daemon->loop);
    int64_t oldest_us = now_us;

    for (int i = 0; i < daemon->worker_count; i++) {
        int64_t ticked_at_us = loop_ticked_at_us(worker_loop(daemon->workers[i]));
        oldest_us = ticked_at_us < oldest_us ? ticked_at_us : oldest_us;
    }
    systemd_feed(now_us, oldest_us);
}

static void
on_tick(void *arg)
{
    struct daemon *daemon = arg;

    pools_tick(daemon->pools, daemon->settings);
    feed_watchdog(daemon);
    if (daemon->phase == PHASE_DRAINING && count_clients(daemon) == 0) {
        close_clients(daemon);
    }
}

/* How many clients may come: what is configured, or what the limit of descriptors allows. */
static void
resolve_limits(struct daemon *daemon)
{
    int64_t files = process_raise_files();
    int64_t wanted = daemon->settings->max_client_conn;
    daemon->crowds.max_client_conn = wanted > 0 ? wanted : files - files / 10 - 64;
    int64_t strangers = daemon->settings->max_unauthenticated;
    int64_t usual = daemon->crowds.max_client_conn / 4;
    daemon->crowds.max_unauthenticated = strangers > 0 ? strangers : usual > 100 ? usual : 100;
    if (wanted > files) {
        log_warn("max_client_conn is %" PRId64 ", but the limit of open files is %" PRId64, wanted,
            files);
    }
}

/* ---- reload ---- */

/* Puts what was read in force, everywhere. tls: held, or NULL. */
static void
adopt(struct daemon *daemon, struct settings *settings, struct tls *tls)
{
    struct settings *old = daemon->settings;

    daemon->settings = settings;
    tls_release(&daemon->tls);
    daemon->tls = tls;
    if (!logging_open(settings, &daemon->options)) {
        log_error("could not open log file \"%s\": %s", settings->logfile, strerror(errno));
    }
    for (int i = 0; i < daemon->worker_count; i++) {
        worker_reload(daemon->workers[i], settings, tls);
    }
    pools_reload(daemon->pools, settings);
    resolve_limits(daemon);
    settings_release(&old);
}

bool
daemon_reload(struct daemon *daemon, settings_report_fn *report, void *arg)
{
    struct tls *tls;

    systemd_reloading();
    struct settings *settings = load_settings(&daemon->options.source, report, arg, &tls);
    systemd_ready();
    if (settings == NULL) {
        log_error("reload failed; the settings in force stay");
        return false;
    }
    changes_clear(&daemon->changes);
    adopt(daemon, settings, tls);
    log_info("settings reloaded");
    return true;
}

bool
daemon_change(struct daemon *daemon, const char *key, const char *value,
    settings_report_fn *report, void *arg)
{
    struct changes changes = changes_with(&daemon->changes, key, value);
    struct settings_source source = daemon->options.source;
    bool concerns_tls = strncmp(key, "client_tls_", strlen("client_tls_")) == 0;
    struct tls *tls;

    source.changes = changes.list;
    struct settings *settings = load_settings(&source, report, arg, concerns_tls ? &tls : NULL);
    if (settings == NULL) {
        changes_clear(&changes);
        return false;
    }
    changes_clear(&daemon->changes);
    daemon->changes = changes;
    adopt(daemon, settings, concerns_tls ? tls : tls_hold(daemon->tls));
    return true;
}

/* ---- beginning ---- */

static void
make_workers(struct daemon *daemon)
{
    int64_t wanted = daemon->settings->workers;
    int64_t count = wanted != 0 ? wanted : sysconf(_SC_NPROCESSORS_ONLN);

    count = count < 1 ? 1 : count > WORKERS_MAX ? WORKERS_MAX : count;
    daemon->worker_count = (int)count;
    daemon->workers = mem_new((size_t)count * sizeof(struct worker *));
    daemon->pool_workers = mem_new((size_t)count * sizeof(struct pool_worker *));
    daemon->crowds.all = mem_new((size_t)count * sizeof(struct crowd *));
    for (int i = 0; i < count; i++) {
        daemon->workers[i] = worker_new(i, daemon->settings, daemon->tls);
        daemon->crowds.all[i] = worker_crowd(daemon->workers[i]);
        daemon->pool_workers[i] = &daemon->crowds.all[i]->pool;
    }
    daemon->crowds.count = (int)count;
    daemon->crowds.helpers = daemon->helpers;
    daemon->crowds.console = daemon->options.console;
    crowds_init(&daemon->crowds);
    daemon->pools = pools_new(daemon->loop, daemon->helpers, daemon->pool_workers, (int)count);
}

/* The pid file and all sockets: those of the process before us, the manager's, or new ones. */
static bool
open_sockets(struct daemon *daemon, struct fail *fail)
{
    const struct settings *settings = daemon->settings;
    const struct daemon_lodger *lodger = daemon->options.lodger;
    struct inheritance *inheritance = &daemon->inheritance;

    if (daemon->options.takes_over &&
        !heir_ask(inheritance, settings, daemon->options.takeover_fd, fail)) {
        return false;
    }
    if (process_inherit_pid(settings->pidfile, inheritance->pid_fd)) {
        inheritance->pid_fd = -1;
    } else if (settings->pidfile[0] != '\0' && !process_write_pid(settings->pidfile, fail)) {
        return false;
    }
    if (!systemd_sockets(&inheritance->sockets, fail) ||
        !listeners_open(settings, &inheritance->sockets, &daemon->listeners, fail) ||
        (lodger != NULL && !lodger->open(lodger->arg, &inheritance->sockets, fail))) {
        return false;
    }
    daemon->takeover = takeover_new(settings, &inheritance->control);
    return true;
}

/* What must be right before anything runs: background, pid file, sockets, user. Whoever sees the
 * port open finds the pid file, too. */
static bool
prepare_process(struct daemon *daemon, struct fail *fail)
{
    const struct settings *settings = daemon->settings;
    const char *user = daemon->options.user != NULL ? daemon->options.user : settings->user;

    if (!backend_track(settings->track_extra_parameters)) {
        return fail_set(fail, "58000", "track_extra_parameters lists too many");
    }
    bool has_log = settings->logfile[0] != '\0' || settings->syslog;
    if (daemon->options.goes_to_background && !has_log) {
        return fail_set(fail, "58000", "-d needs logfile or syslog to be set");
    }
    if (daemon->options.goes_to_background && !process_daemonize(fail)) {
        return false;
    }
    if (!open_sockets(daemon, fail)) {
        return false;
    }
    if (user[0] != '\0' && !process_become(user, fail)) {
        return false;
    }
    process_harden(settings->core_dump);
    if (!certificates_load(settings, &daemon->tls, fail)) {
        return false;
    }
    if (!logging_open(settings, &daemon->options)) {
        return fail_set(fail, "58000", "could not open log file \"%s\": %s", settings->logfile,
            strerror(errno));
    }
    return true;
}

struct daemon *
daemon_new(struct settings *settings, const struct daemon_options *options, struct fail *fail)
{
    struct daemon *daemon = mem_new(sizeof(*daemon));

    daemon->options = *options;
    daemon->settings = settings_hold(settings);
    daemon->started_at_us = loop_clock_us();
    heir_init(&daemon->inheritance);
    process_hold_signals(&daemon->signals);
    systemd_init();
    if (!prepare_process(daemon, fail)) {
        listen_close(&daemon->listeners);
        takeover_free(&daemon->takeover);
        heir_give_up(&daemon->inheritance);
        process_remove_pid();
        sigprocmask(SIG_SETMASK, &daemon->signals, NULL);
        settings_release(&daemon->settings);
        tls_release(&daemon->tls);
        free(daemon);
        return NULL;
    }
    resolve_limits(daemon);
    daemon->loop = loop_new(-1, 1);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    daemon->helpers = helpers_new(&(struct helpers_limits){.most = (unsigned)settings->helpers,
        .kept = HELPERS_KEPT,
        .heavy = processors < 4 ? 1 : (unsigned)processors / 2, /* the rest is for the workers */
        .lookups = LOOKUPS_MOST});
    make_workers(daemon);
    return daemon;
}

static void
watch_signals(struct daemon *daemon)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* whoever started us may ignore it, and so lose how children end */
    loop_on_signal(daemon->loop, SIGTERM, on_terminate, daemon);
    loop_on_signal(daemon->loop, SIGINT, on_interrupt, daemon);
    loop_on_signal(daemon->loop, SIGQUIT, on_quit, daemon);
    loop_on_signal(daemon->loop, SIGHUP, on_hangup, daemon);
}

static void
on_hand_over(void *arg, pid_t pid)
{
    struct daemon *daemon = arg;

    systemd_hand_over(pid);
    listen_close(&daemon->listeners);
    if (daemon->options.lodger != NULL) {
        daemon->options.lodger->leave(daemon->options.lodger->arg);
    }
    if (daemon->phase == PHASE_SERVING) {
        on_terminate(daemon);
    }
}

/* Everything runs: the process before this one may go. */
static bool
take_over(struct daemon *daemon, struct fail *fail)
{
    const struct daemon_lodger *lodger = daemon->options.lodger;
    struct listener *others = lodger != NULL ? lodger->listeners(lodger->arg) : NULL;
    struct takeover_host host = {
        daemon->loop, &daemon->listeners, others, &daemon->crowds, on_hand_over, daemon, true};

    if (daemon->options.takes_over) {
        process_sign_pid();
        host.is_ours = heir_ready(&daemon->inheritance, fail);
    }
    if (!host.is_ours) {
        process_forget_pid(); /* it is the old one's, who goes on */
    }
    takeover_start(daemon->takeover, &host);
    for (struct listener *l = daemon->listeners; host.is_ours && l != NULL; l = listen_next(l)) {
        listen_own(l, true);
    }
    for (int i = 0; host.is_ours && i < RELATIVES_MAX; i++) {
        int *relative = &daemon->inheritance.relatives[i];
        if (*relative >= 0) {
            takeover_add_predecessor(daemon->takeover, *relative);
            *relative = -1;
        }
    }
    heir_give_up(&daemon->inheritance);
    return host.is_ours;
}

static void
say_ready(const struct daemon *daemon)
{
    for (struct listener *l = daemon->listeners; l != NULL; l = listen_next(l)) {
        log_info("listening on %s", listen_name(l));
    }
    log_info("pgkeel " PGKEEL_VERSION " ready: %d workers, at most %" PRId64 " clients",
        daemon->worker_count, daemon->crowds.max_client_conn);
    systemd_ready();
    process_is_ready();
}

bool
daemon_run(struct daemon *daemon, struct fail *fail)
{
    stats_thread_init();
    for (int i = 0; i < daemon->worker_count; i++) {
        ensure(worker_start(daemon->workers[i], daemon->pools, &daemon->crowds));
    }
    watch_signals(daemon);
    sigprocmask(SIG_SETMASK, &daemon->signals, NULL);
    loop_on_tick(daemon->loop, on_tick, daemon);
    pools_reload(daemon->pools, daemon->settings);
    listen_start(daemon->listeners, daemon->loop, on_accepted, daemon);
    if (daemon->options.lodger != NULL) {
        daemon->options.lodger->start(daemon->options.lodger->arg, daemon);
    }
    bool is_ours = take_over(daemon, fail);
    if (is_ours) {
        say_ready(daemon);
    } else {
        close_clients(daemon);
    }
    loop_run(daemon->loop);
    for (int i = 0; i < daemon->worker_count; i++) {
        worker_join(daemon->workers[i]);
    }
    log_info("stopped");
    return is_ours;
}

void
daemon_free(struct daemon **pointer)
{
    struct daemon *daemon = *pointer;

    for (int i = 0; i < daemon->worker_count; i++) {
        worker_free(&daemon->workers[i]);
    }
    takeover_free(&daemon->takeover);
    pools_free(&daemon->pools);
    helpers_free(&daemon->helpers);
    loop_free(&daemon->loop);
    free(daemon->workers);
    free(daemon->pool_workers);
    free(daemon->crowds.all);
    crowds_deinit(&daemon->crowds);
    settings_release(&daemon->settings);
    changes_clear(&daemon->changes);
    tls_release(&daemon->tls);
    process_remove_pid();
    stats_thread_deinit();
    free(daemon);
    *pointer = NULL;
}

struct loop *
daemon_loop(struct daemon *daemon)
{
    return daemon->loop;
}

const struct settings *
daemon_settings(const struct daemon *daemon)
{
    return daemon->settings;
}

struct pools *
daemon_pools(struct daemon *daemon)
{
    return daemon->pools;
}

void
daemon_stop_listening(struct daemon *daemon, bool is_paused)
{
    listen_pause(daemon->listeners, is_paused);
}

int
daemon_worker_count(const struct daemon *daemon)
{
    return daemon->worker_count;
}

struct crowd *
daemon_crowd(struct daemon *daemon, int worker)
{
    return worker_crowd(daemon->workers[worker]);
}

int64_t
daemon_started_at_us(const struct daemon *daemon)
{
    return daemon->started_at_us;
}

bool
daemon_is_serving(const struct daemon *daemon)
{
    return atomic_load(&daemon->phase) == PHASE_SERVING;
}
