/*
 * The console: the virtual databases "pgkeel" and "pgbouncer", where SHOW and a few commands are
 * answered to any PostgreSQL driver, in the simple and in the extended protocol. Runs in the
 * client's worker; rows are gathered by posting a request from worker to worker (ops/show), so that
 * everything is read by the thread it belongs to.
 */
#pragma once

#include "client/client.h"

struct daemon;

extern const struct handler console_handler;

/* Which daemon the console is about; before the first client. Main thread. */
void console_init(struct daemon *daemon);
