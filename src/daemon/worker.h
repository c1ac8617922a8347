/*
 * A worker: a thread with its own loop, its clients, its sides of the pools. Main makes and ends
 * it; in between it is reached by loop_post() only.
 */
#pragma once

#include "client/client.h"

struct worker;
struct pools;

/* Makes the worker; its thread does not run yet. Holds the settings and what clients get as TLS
 * (NULL: none). */
struct worker *worker_new(int index, struct settings *settings, struct tls *tls);

/* Runs it; pools and crowds outlive it. False with errno. */
must_check bool worker_start(struct worker *worker, struct pools *pools, struct crowds *crowds);

struct crowd *worker_crowd(struct worker *worker);
struct loop *worker_loop(struct worker *worker);

/* Hands over a connection. Main thread. The descriptor is closed when the worker has stopped. */
void worker_accept(struct worker *worker, const struct accepted *accepted);

/* New settings are in force. Any thread. */
void worker_reload(struct worker *worker, struct settings *settings, struct tls *tls);

/* Closes all clients, then calls done(arg) in the main loop. */
void worker_close_clients(
    struct worker *worker, struct loop *main_loop, void (*done)(void *arg), void *arg);

/* Ends the thread, closes its backends, waits for it. Main thread; helpers have stopped. */
void worker_join(struct worker *worker);
void worker_free(struct worker **worker);
