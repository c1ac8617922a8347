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
#include "daemon/load.h"
#include "daemon/process.h"
#include "daemon/worker.h"
#include "net/tls.h"
#include "pool/pools.h"

#include <errno.h>
#include <grp.h>
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
    struct listener *listeners; /* owns */
    _Atomic(enum phase) phase; /* main writes it */
    struct deadline drain_delay, shutdown_timeout;
    int64_t started_at_us;
    sigset_t signals; /* the mask we were started with */
};

/* ---- the log ---- */

static bool
open_log(const struct daemon *daemon, const struct settings *settings)
{
    struct log_options options = {
        .path = settings->logfile,
        .to_stderr = !daemon->options.is_quiet && !daemon->options.goes_to_background,
        .is_json = settings->log_format == LOG_FORMAT_JSON,
        .syslog_ident = settings->syslog ? settings->syslog_ident : NULL,
        .syslog_facility = settings->syslog_facility,
        .threshold = settings->verbose <= 0   ? LEVEL_INFO
                     : settings->verbose == 1 ? LEVEL_DEBUG
                                              : LEVEL_TRACE,
    };
    return log_open(&options);
}

/* ---- listeners ---- */

static bool
each_word(const char *list, bool (*fn)(struct daemon *daemon, const char *word, struct fail *fail),
    struct daemon *daemon, struct fail *fail)
{
    char word[256];

    while (*list != '\0') {
        list += strspn(list, ", \t");
        size_t len = strcspn(list, ", \t");
        if (len >= sizeof(word)) {
            return fail_set(fail, "58000", "an address in listen_addr is too long");
        }
        memcpy(word, list, len);
        word[len] = '\0';
        list += len;
        if (len > 0 && !fn(daemon, word, fail)) {
            return false;
        }
    }
    return true;
}

static struct listen_options
listen_options_of(const struct settings *settings)
{
    struct listen_options options = {.backlog = (int)settings->listen_backlog,
        .unix_mode = (mode_t)settings->unix_socket_mode,
        .unix_group = (gid_t)-1,
        .reuse_port = settings->so_reuseport,
        .defer_accept_s = (int)settings->tcp_defer_accept};
    const struct group *group =
        settings->unix_socket_group[0] != '\0' ? getgrnam(settings->unix_socket_group) : NULL;

    if (group != NULL) {
        options.unix_group = group->gr_gid;
    }
    return options;
}

static bool
open_tcp(struct daemon *daemon, const char *host, struct fail *fail)
{
    struct listen_options options = listen_options_of(daemon->settings);

    return listen_tcp(&daemon->listeners, host, (int)daemon->settings->listen_port, &options, fail);
}

static bool
open_unix(struct daemon *daemon, const char *directory, struct fail *fail)
{
    struct listen_options options = listen_options_of(daemon->settings);

    return listen_unix(
        &daemon->listeners, directory, (int)daemon->settings->listen_port, &options, fail);
}

static bool
open_listeners(struct daemon *daemon, struct fail *fail)
{
    const struct settings *settings = daemon->settings;

    if (settings->unix_socket_group[0] != '\0' && getgrnam(settings->unix_socket_group) == NULL) {
        return fail_set(fail, "58000", "unix_socket_group \"%s\" does not exist on this machine",
            settings->unix_socket_group);
    }
    /* TCP comes last: whoever finds the port open finds all the rest, too. */
    if (!each_word(settings->unix_socket_dir, open_unix, daemon, fail) ||
        !each_word(settings->listen_addr, open_tcp, daemon, fail)) {
        return false;
    }
    if (daemon->listeners == NULL) {
        return fail_set(
            fail, "58000", "nothing to listen on: listen_addr and unix_socket_dir are empty");
    }
    return true;
}

/* Hands a connection to the worker with the fewest clients. */
static void
on_accepted(void *arg, const struct accepted *accepted)
{
    struct daemon *daemon = arg;
    struct worker *best = daemon->workers[0];
    const struct settings *settings = daemon->settings;

    listen_look_after(accepted, &(struct listen_patience){.keepalive = settings->tcp_keepalive,
                                    .idle_s = (int)settings->tcp_keepidle,
                                    .interval_s = (int)settings->tcp_keepintvl,
                                    .count = (int)settings->tcp_keepcnt,
                                    .user_timeout_ms = (int)settings->tcp_user_timeout});
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
        clients += atomic_load(&worker_crowd(daemon->workers[i])->load);
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

    listen_close(&daemon->listeners);
    atomic_store(&daemon->crowds.is_draining, true);
}

void
daemon_stop(struct daemon *daemon, enum stop_how how)
{
    const struct settings *settings = daemon->settings;

    if (how == STOP_NOW || daemon->phase != PHASE_SERVING) {
        log_info("shutting down now");
        close_clients(daemon);
        return;
    }
    daemon->phase = PHASE_DRAINING;
    log_info("shutting down: %d clients", count_clients(daemon));
    deadline_start(
        &daemon->shutdown_timeout, daemon->loop, settings->shutdown_timeout, on_shutdown_timeout);
    if (how == STOP_WAIT) {
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

static void
on_tick(void *arg)
{
    struct daemon *daemon = arg;

    pools_tick(daemon->pools, daemon->settings);
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
    if (!open_log(daemon, settings)) {
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
    struct settings *settings = load_settings(&daemon->options.source, report, arg, &tls);

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
    int64_t count = daemon->settings->workers;

    if (count == 0) {
        count = sysconf(_SC_NPROCESSORS_ONLN);
    }
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
    if (settings->pidfile[0] != '\0' && !process_write_pid(settings->pidfile, fail)) {
        return false;
    }
    if (!open_listeners(daemon, fail)) {
        return false;
    }
    if (user[0] != '\0' && !process_become(user, fail)) {
        return false;
    }
    process_harden(settings->core_dump);
    if (!certificates_load(settings, &daemon->tls, fail)) {
        return false;
    }
    if (!open_log(daemon, settings)) {
        return fail_set(fail, "58000", "could not open log file \"%s\": %s", settings->logfile,
            strerror(errno));
    }
    return true;
}

/* Signals that come while we start wait until somebody handles them; threads inherit the mask, so
 * that later they come to main alone. */
static void
hold_signals(struct daemon *daemon)
{
    static const int held[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(held) / sizeof(held[0]); i++) {
        sigaddset(&set, held[i]);
    }
    sigprocmask(SIG_BLOCK, &set, &daemon->signals);
}

struct daemon *
daemon_new(struct settings *settings, const struct daemon_options *options, struct fail *fail)
{
    struct daemon *daemon = mem_new(sizeof(*daemon));

    daemon->options = *options;
    daemon->settings = settings_hold(settings);
    daemon->started_at_us = loop_clock_us();
    hold_signals(daemon);
    if (!prepare_process(daemon, fail)) {
        listen_close(&daemon->listeners);
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

void
daemon_run(struct daemon *daemon)
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
    for (struct listener *l = daemon->listeners; l != NULL; l = listen_next(l)) {
        log_info("listening on %s", listen_name(l));
    }
    log_info("pgkeel " PGKEEL_VERSION " ready: %d workers, at most %" PRId64 " clients",
        daemon->worker_count, daemon->crowds.max_client_conn);
    process_is_ready();
    loop_run(daemon->loop);
    for (int i = 0; i < daemon->worker_count; i++) {
        worker_join(daemon->workers[i]);
    }
    log_info("stopped");
}

void
daemon_free(struct daemon **pointer)
{
    struct daemon *daemon = *pointer;

    for (int i = 0; i < daemon->worker_count; i++) {
        worker_free(&daemon->workers[i]);
    }
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
