/*
 * The HTTP listener: metrics, health and the status page (ops/routes). It has a thread and a loop of
 * its own, so that whoever asks too much, too slowly or nonsense keeps nobody waiting but himself;
 * what it tells comes from surveys that it sends to the workers twice a second.
 */
#pragma once

#include "base/fail.h"

struct daemon;
struct http;
struct settings;

/* Listens and starts its thread; *http_out is NULL when http_listen is empty. False with the
 * reason. Main thread; before daemon_run(). */
must_check bool http_start(
    struct daemon *daemon, const struct settings *settings, struct http **http_out,
    struct fail *fail);

/* Ends it; after daemon_run(). Nothing to do for NULL. */
void http_stop(struct http **http);
