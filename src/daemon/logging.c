/* The log's settings. Called by daemon/daemon; calls base/log. */
#include "daemon/logging.h"

#include "base/log.h"
#include "daemon/daemon.h"

bool
logging_open(const struct settings *settings, const struct daemon_options *how)
{
    struct log_options options = {
        .path = settings->logfile,
        .to_stderr = !how->is_quiet && !how->goes_to_background,
        .is_json = settings->log_format == LOG_FORMAT_JSON,
        .syslog_ident = settings->syslog ? settings->syslog_ident : NULL,
        .syslog_facility = settings->syslog_facility,
        .threshold = settings->verbose <= 0   ? LEVEL_INFO
                     : settings->verbose == 1 ? LEVEL_DEBUG
                                              : LEVEL_TRACE,
    };
    return log_open(&options);
}
