/*
 * The log: one event, one line, from any thread. Lines go to standard error, a file or syslog with
 * one write() each. The object a line is about supplies its own fields (struct log_subject), so
 * callers write the sentence only. Secrets and SQL text never go above LEVEL_TRACE.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level
{
    LEVEL_ERROR, /* an operator must act */
    LEVEL_WARN,  /* we serve worse */
    LEVEL_INFO,  /* once per connection */
    LEVEL_DEBUG, /* once per lease */
    LEVEL_TRACE, /* per message */
};

/* What a line is about; members that do not apply are NULL or 0. Borrowed for the call. */
struct log_subject
{
    const char *kind; /* "client", "backend", "pool", or NULL for the process */
    uint64_t id;
    int worker; /* -1: none */
    const char *database;
    const char *user;
    const char *peer; /* address:port */
};

struct log_options
{
    const char *path;         /* file to append to; NULL or "" = standard error only */
    bool to_stderr;           /* also (or only) to standard error */
    bool is_json;             /* one JSON object a line instead of text */
    const char *syslog_ident; /* NULL: no syslog */
    const char *syslog_facility;
    enum log_level threshold; /* what is less important is dropped */
};

/* Opens or reopens what the options ask for. False with errno set when the file cannot be opened;
 * the log goes on as before then. Main thread. */
bool log_open(const struct log_options *options);

/* Opens the same file again after somebody renamed it. Main thread. */
bool log_reopen(void);

/* Whether a line of this level would be written; for lines that are costly to make. */
bool log_wants(enum log_level level);

/* Writes one line. Errors and warnings with the same format are limited to ten in a second per
 * format; what was left out is counted in the next line. Any thread. */
__attribute__((format(printf, 3, 4))) void log_write(
    enum log_level level, const struct log_subject *subject, const char *format, ...);

#define log_error(...) log_write(LEVEL_ERROR, NULL, __VA_ARGS__)
#define log_warn(...) log_write(LEVEL_WARN, NULL, __VA_ARGS__)
#define log_info(...) log_write(LEVEL_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_write(LEVEL_DEBUG, NULL, __VA_ARGS__)
