/*
 * The whole of it: main loop, listeners, workers, helpers, pools, settings, and the order in which
 * they begin and end. Main thread, except where a function says so.
 *
 *    daemon ─┬─ workers ─┬─ loop
 *            │           └─ crowd ── clients
 *            ├─ pools ── pool ── sides ── backends ── PGconn
 *            ├─ helpers
 *            └─ listeners, settings
 */
#pragma once

#include "client/client.h"
#include "conf/settings.h"

struct daemon;
struct pools;
struct worker;

/* Somebody else's sockets, which are opened and handed to a new process with the daemon's own. */
struct daemon_lodger
{
    bool (*open)(void *arg, struct listener **inherited, struct fail *fail);
    struct listener *(*listeners)(void *arg);
    void (*start)(void *arg, struct daemon *daemon); /* everything that it may look at runs */
    void (*leave)(void *arg); /* the new process has them: accept nobody any more */
    void *arg;
};

struct daemon_options
{
    const struct daemon_lodger *lodger; /* borrows, or NULL */
    struct settings_source source; /* where settings come from, also on reload */
    const struct handler *console;
    bool goes_to_background;
    bool is_quiet;    /* nothing on standard error */
    const char *user; /* overrides the setting; or NULL */
    bool takes_over;  /* from the process that serves now (-R), */
    int takeover_fd;  /* through this socket, or -1: the one beside its pid file */
};

enum stop_how
{
    STOP_DRAIN, /* clients are closed at their next boundary */
    STOP_WAIT,  /* clients leave by themselves */
    STOP_NOW,
};

/* Opens listeners and all the rest with these settings (held). NULL with the reason: nothing is
 * left open then. */
struct daemon *daemon_new(
    struct settings *settings, const struct daemon_options *options, struct fail *fail);

/* Serves until told to stop. False with the reason: the process before it does not hand over. */
must_check bool daemon_run(struct daemon *daemon, struct fail *fail);
void daemon_free(struct daemon **daemon);

/* Begins to stop; a second call is more urgent. */
void daemon_stop(struct daemon *daemon, enum stop_how how);

/* Reads all settings again; reports findings to the log and, when report is given, there. False:
 * nothing changed. */
bool daemon_reload(struct daemon *daemon, settings_report_fn *report, void *arg);

/* The console's SET: changes one key (NULL: not any more) until the next reload, and nothing else;
 * files are not read anew. Findings and result as above. */
bool daemon_change(struct daemon *daemon, const char *key, const char *value,
    settings_report_fn *report, void *arg);

/* For the console. */
struct loop *daemon_loop(struct daemon *daemon);
const struct settings *daemon_settings(const struct daemon *daemon); /* main thread only */
struct pools *daemon_pools(struct daemon *daemon);
void daemon_stop_listening(struct daemon *daemon, bool is_paused); /* or go on; main thread */
int daemon_worker_count(const struct daemon *daemon);
struct crowd *daemon_crowd(struct daemon *daemon, int worker);
int64_t daemon_started_at_us(const struct daemon *daemon);

/* Whether new clients are taken: false from the beginning of the end. Any thread. */
bool daemon_is_serving(const struct daemon *daemon);

#define PGKEEL_VERSION "0.1.0"
