/* The log's settings. Called by daemon/daemon; calls base/log. */
#include "daemon/logging.h"

#include "base/log.h"

bool
logging_open(const struct settings *settings, bool has_stderr)
{
    struct log_options options = {
        .path = settings->logfile,
        .to_stderr = has_stderr,
        .is_json = settings->log_format == LOG_FORMAT_JSON,
        .syslog_ident = settings->syslog ? settings->syslog_ident : NULL,
        .syslog_facility = settings->syslog_facility,
        .threshold = settings->verbose <= 0   ? LEVEL_INFO
                     : settings->verbose == 1 ? LEVEL_DEBUG
                                              : LEVEL_TRACE,
    };
    return log_open(&options);
}
