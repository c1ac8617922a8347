/*
 * The log as the settings want it. Main thread.
 */
#pragma once

#include "conf/settings.h"

struct daemon_options;

/* Opens it, or opens it again. False with errno: it goes on as before. */
must_check bool logging_open(
    const struct settings *settings, const struct daemon_options *how);
