/*
 * The HTTP listener: metrics, health and the status page (ops/routes). It has a thread and a loop
 * of its own, so that whoever asks too much, too slowly or nonsense keeps nobody waiting but
 * himself; what it tells comes from surveys that it sends to the workers twice a second.
 */
#pragma once

#include "base/fail.h"

struct daemon;
struct daemon_lodger;
struct http;
struct settings;

/* *http_out is NULL when http_listen is empty. False with the reason. Its port is opened by the
 * daemon, and handed to a new process with the daemon's own. */
must_check bool http_new(
    const struct settings *settings, struct http **http_out, struct fail *fail);

/* For daemon_new(), which starts its thread, too. NULL for NULL. */
const struct daemon_lodger *http_lodger(const struct http *http);

/* Ends the thread, if there is one, and frees everything; after daemon_run(). */
void http_free(struct http **http);
