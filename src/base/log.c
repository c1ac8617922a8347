/*
 * The log. A line is put together on the stack of the thread that writes it and leaves with one
 * write(), so lines never mix and no lock is held while the kernel works. What is written may come
 * from a client (names, addresses, PostgreSQL's words): control characters and broken UTF-8 are
 * escaped, so nobody forges a line or drives a terminal.
 *
 *     log_write ─ limit_repeats ─┬─ make_text / make_json ─ emit ─┬─ file
 *                                └─ (left out, counted)           ├─ standard error, or the journal
 *                                                                 └─ syslog
 */
#include "base/log.h"

#include "base/mem.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum
{
    LINE_MAX_LEN = 4096, /* PIPE_BUF: what a pipe takes in one piece */
    LINE_TAIL = 8,       /* kept for what ends a line that is cut */
    TEXT_MAX_LEN = 3072,
    NAME_MAX_LEN = 128, /* four of them in JSON's longest form leave room for a sentence */
    REPEATS_MAX = 10,   /* a second */
    LIMIT_SLOTS = 256,
    LIMIT_PROBES = 8,
};

struct line
{
    char data[LINE_MAX_LEN];
    size_t len;
    bool is_cut;
};

/* One kind of line that was written lately. */
struct limit
{
    const char *format; /* the literal itself is the name of the kind */
    uint32_t database;  /* hash */
    int64_t since_ms;   /* begin of the second that is counted */
    unsigned written;   /* in that second */
    unsigned left_out;  /* since the last line written */
};

struct level
{
    const char *name;  /* in JSON */
    const char *label; /* in text */
    int priority;      /* in syslog */
};

static const struct level levels[] = {
    [LEVEL_ERROR] = {"error", "ERROR", LOG_ERR},
    [LEVEL_WARN] = {"warn", "WARN ", LOG_WARNING},
    [LEVEL_INFO] = {"info", "INFO ", LOG_INFO},
    [LEVEL_DEBUG] = {"debug", "DEBUG", LOG_DEBUG},
    [LEVEL_TRACE] = {"trace", "TRACE", LOG_DEBUG},
};

/* Shared. The file keeps its descriptor's number for good: reopening puts another file under it
 * (dup3), so a thread in the middle of a line never writes into a descriptor that became something
 * else. */
static struct
{
    atomic_int fd; /* -1 until a file was opened */
    atomic_int threshold;
    atomic_bool to_file;
    atomic_bool to_stderr;
    atomic_bool to_journal; /* standard error is journald's */
    atomic_bool to_syslog;
    atomic_bool is_json;
} shared = {.fd = -1, .threshold = LEVEL_INFO, .to_stderr = true};

/* The main thread's. */
static char *log_path;
static char *log_ident;

static pthread_mutex_t limits_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct limit limits[LIMIT_SLOTS]; /* under limits_mutex */

/* --- Opening --- */

/* Puts what path names under the log's descriptor. */
static bool
open_under(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
    if (fd < 0) {
        return false;
    }
    int known = atomic_load(&shared.fd);
    if (known < 0) {
        atomic_store(&shared.fd, fd);
        return true;
    }
    bool is_done = dup3(fd, known, O_CLOEXEC) >= 0;
    int error = errno;
    close(fd);
    errno = error;
    return is_done;
}

static int
facility_of(const char *name)
{
    static const struct
    {
        const char *name;
        int facility;
    } facilities[] = {
        {"auth", LOG_AUTH},
        {"authpriv", LOG_AUTHPRIV},
        {"daemon", LOG_DAEMON},
        {"user", LOG_USER},
        {"local0", LOG_LOCAL0},
        {"local1", LOG_LOCAL1},
        {"local2", LOG_LOCAL2},
        {"local3", LOG_LOCAL3},
        {"local4", LOG_LOCAL4},
        {"local5", LOG_LOCAL5},
        {"local6", LOG_LOCAL6},
        {"local7", LOG_LOCAL7},
    };

    for (size_t i = 0; name != NULL && i < sizeof(facilities) / sizeof(facilities[0]); i++) {
        if (strcasecmp(name, facilities[i].name) == 0) {
            return facilities[i].facility;
        }
    }
    return LOG_DAEMON;
}

static void
open_syslog(const char *ident, const char *facility)
{
    char *before = log_ident;

    closelog();
    log_ident = mem_string(ident);
    if (log_ident != NULL) {
        openlog(log_ident, LOG_PID | LOG_NDELAY, facility_of(facility));
    }
    atomic_store(&shared.to_syslog, log_ident != NULL);
    free(before); /* openlog() holds the new one by now */
}

/* systemd names the stream that it connected (systemd.exec(5), JOURNAL_STREAM). */
static bool
is_journal(int fd)
{
    const char *named = getenv("JOURNAL_STREAM");
    uint64_t device, inode;
    struct stat info;

    return named != NULL && sscanf(named, "%" SCNu64 ":%" SCNu64, &device, &inode) == 2 &&
           fstat(fd, &info) == 0 && info.st_dev == device && info.st_ino == inode;
}

bool
log_open(const struct log_options *options)
{
    bool has_path = options->path != NULL && options->path[0] != '\0';

    if (has_path && !open_under(options->path)) {
        return false;
    }
    if (!has_path && log_path != NULL) {
        (void)open_under("/dev/null"); /* lets go of the file; the number stays ours */
    }
    free(log_path);
    log_path = has_path ? mem_string(options->path) : NULL;
    atomic_store(&shared.to_file, has_path);
    atomic_store(&shared.is_json, options->is_json);
    atomic_store(&shared.threshold, (int)options->threshold);
    open_syslog(options->syslog_ident, options->syslog_facility);
    atomic_store(&shared.to_journal, is_journal(STDERR_FILENO));
    atomic_store(
        &shared.to_stderr, options->to_stderr || (!has_path && options->syslog_ident == NULL));
    return true;
}

bool
log_reopen(void)
{
    return log_path == NULL || open_under(log_path);
}

bool
log_wants(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&shared.threshold, memory_order_relaxed);
}

/* --- Repeats --- */

static uint32_t
hash_of(const char *string)
{
    uint32_t hash = 2166136261U; /* FNV-1a */

    for (; string != NULL && *string != '\0'; string++) {
        hash = (hash ^ (uint8_t)*string) * 16777619U;
    }
    return hash;
}

static int64_t
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The slot of this kind of line, or the least recent of those it may take. */
static struct limit *
find_limit_locked(const char *format, uint32_t database)
{
    size_t hash = ((size_t)(uintptr_t)format >> 3) ^ database;
    struct limit *oldest = &limits[hash % LIMIT_SLOTS];

    for (size_t i = 0; i < LIMIT_PROBES; i++) {
        struct limit *limit = &limits[(hash + i) % LIMIT_SLOTS];
        if (limit->format == format && limit->database == database) {
            return limit;
        }
        if (limit->since_ms < oldest->since_ms) {
            oldest = limit;
        }
    }
    *oldest = (struct limit){.format = format, .database = database};
    return oldest;
}

/* False when the line is one too many; else how many were left out before it. */
static bool
limit_repeats(const char *format, const char *database, unsigned *left_out)
{
    int64_t now = now_ms();

    pthread_mutex_lock(&limits_mutex);
    struct limit *limit = find_limit_locked(format, hash_of(database));
    if (limit->written == 0 || now - limit->since_ms >= 1000) {
        limit->since_ms = now;
        limit->written = 0;
    }
    bool is_allowed = limit->written < REPEATS_MAX;
    if (is_allowed) {
        limit->written++;
        *left_out = limit->left_out;
        limit->left_out = 0;
    } else {
        limit->left_out++;
    }
    pthread_mutex_unlock(&limits_mutex);
    return is_allowed;
}

/* --- Lines --- */

/* All of it or nothing, and nothing more once something did not fit. */
static void
put(struct line *line, const char *data, size_t len)
{
    if (line->is_cut || len > sizeof(line->data) - LINE_TAIL - line->len) {
        line->is_cut = true;
        return;
    }
    memcpy(line->data + line->len, data, len);
    line->len += len;
}

static void
put_string(struct line *line, const char *string)
{
    put(line, string, strlen(string));
}

__attribute__((format(printf, 2, 3))) static void
put_format(struct line *line, const char *format, ...)
{
    char piece[64];
    va_list args;

    va_start(args, format);
    vsnprintf(piece, sizeof(piece), format, args);
    va_end(args);
    put_string(line, piece);
}

/* Ends a line with room that put() never uses. */
static void
put_tail(struct line *line, const char *tail)
{
    if (line->is_cut) {
        memcpy(line->data + line->len, "...", 3);
        line->len += 3;
    }
    memcpy(line->data + line->len, tail, strlen(tail));
    line->len += strlen(tail);
}

/* C0, DEL, and C1, which in UTF-8 is C2 80 to C2 9F: what terminals obey. */
static bool
is_control(const unsigned char *text)
{
    return text[0] < 0x20 || text[0] == 0x7F || (text[0] == 0xC2 && text[1] < 0xA0);
}

static void
put_escaped(struct line *line, const char *string, bool is_json)
{
    const unsigned char *at = (const unsigned char *)string;

    while (*at != '\0' && !line->is_cut) {
        size_t len = text_utf8_len(at);
        if (len == 0 && is_json) {
            put_string(line, "\\ufffd");
        } else if (len == 0 || (is_control(at) && !is_json)) {
            put_format(line, at[0] == '\n' ? "\\n" : at[0] == '\t' ? "\\t" : "\\x%02x", at[0]);
            len = 0; /* byte by byte; the second one of a C1 is then alone and invalid */
        } else if (is_control(at)) {
            put_format(line, "\\u%04x", len == 1 ? at[0] : at[1]);
        } else if (is_json && (at[0] == '"' || at[0] == '\\')) {
            put_format(line, "\\%c", at[0]);
        } else {
            put(line, (const char *)at, len);
        }
        at += len == 0 ? 1 : len;
    }
}

/* A name, which a client may have made long: bounded, so that the sentence behind it is never lost.
 */
static void
put_name(struct line *line, const char *name, bool is_json)
{
    char bounded[NAME_MAX_LEN + 1];

    text_copy(bounded, sizeof(bounded), name);
    put_escaped(line, bounded, is_json);
}

static void
put_field(struct line *line, const char *name, const char *value)
{
    if (value == NULL) {
        return;
    }
    put_format(line, ",\"%s\":\"", name);
    put_name(line, value, true);
    put(line, "\"", 1);
}

static bool
has_text(const char *value)
{
    return value != NULL && value[0] != '\0';
}

/* "client 417 app/ann@10.0.0.7:5012: ", as much of it as there is. */
static void
put_subject(struct line *line, const struct log_subject *subject, enum log_level level)
{
    size_t before = line->len;

    if (has_text(subject->kind)) {
        put_name(line, subject->kind, false);
    }
    if (subject->id != 0) {
        put_format(line, "%s%" PRIu64, line->len > before ? " " : "", subject->id);
    }
    bool has_who = has_text(subject->database) || has_text(subject->user);
    if (line->len > before && (has_who || has_text(subject->peer))) {
        put(line, " ", 1);
    }
    if (has_text(subject->database)) {
        put_name(line, subject->database, false);
    }
    if (has_text(subject->user)) {
        put_string(line, has_text(subject->database) ? "/" : "");
        put_name(line, subject->user, false);
    }
    if (has_text(subject->peer)) {
        put_string(line, has_who ? "@" : "");
        put_name(line, subject->peer, false);
    }
    if (subject->worker >= 0 && level >= LEVEL_DEBUG) {
        put_format(line, "%sworker %d", line->len > before ? " " : "", subject->worker);
    }
    put_string(line, line->len > before ? ": " : "");
}

/* The line without its time, so that syslog can use the end of it. Returns where that begins. */
static size_t
make_text(
    struct line *line, enum log_level level, const struct log_subject *subject, const char *text)
{
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    put_format(line, "%04d-%02d-%02d %02d:%02d:%02d.%03ld UTC [%d] %s ", tm.tm_year + 1900,
        tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000,
        (int)getpid(), levels[level].label);
    size_t begin = line->len;
    if (subject != NULL) {
        put_subject(line, subject, level);
    }
    put_escaped(line, text, false);
    put_tail(line, "\n");
    return begin;
}

static void
make_json(
    struct line *line, enum log_level level, const struct log_subject *subject, const char *text)
{
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    put_format(line, "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ\"", tm.tm_year + 1900,
        tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000);
    put_format(line, ",\"level\":\"%s\",\"pid\":%d", levels[level].name, (int)getpid());
    if (subject != NULL) {
        if (subject->worker >= 0) {
            put_format(line, ",\"worker\":%d", subject->worker);
        }
        if (has_text(subject->kind) && subject->id != 0) {
            put_format(line, ",\"%s\":%" PRIu64, subject->kind, subject->id);
        } else {
            put_field(line, "about", subject->kind);
        }
        put_field(line, "db", subject->database);
        put_field(line, "user", subject->user);
        put_field(line, "from", subject->peer);
    }
    put_string(line, ",\"msg\":\"");
    put_escaped(line, text, true);
    put_tail(line, "\"}\n");
}

/* A log that cannot be written has nobody to tell. */
static void
write_line(int fd, const struct line *line)
{
    ssize_t written;

    do {
        written = write(fd, line->data, line->len);
    } while (written < 0 && errno == EINTR);
}

/* With the priority in front, as journald reads it (sd-daemon(3)), and without what it knows. */
static void
write_to_journal(enum log_level level, const struct line *line, size_t begin)
{
    char prefix[8];
    int len = snprintf(prefix, sizeof(prefix), "<%d>", levels[level].priority);
    struct iovec parts[] = {
        {prefix, (size_t)len}, {(char *)line->data + begin, line->len - begin}};

    while (writev(STDERR_FILENO, parts, 2) < 0 && errno == EINTR) {
    }
}

static void
emit(enum log_level level, const struct log_subject *subject, const char *text)
{
    struct line line = {.len = 0};
    size_t begin = 0;
    bool is_json = atomic_load(&shared.is_json);

    if (is_json) {
        make_json(&line, level, subject, text);
    } else {
        begin = make_text(&line, level, subject, text);
    }
    if (atomic_load(&shared.to_file)) {
        write_line(atomic_load(&shared.fd), &line);
    }
    if (atomic_load(&shared.to_stderr) && atomic_load(&shared.to_journal)) {
        write_to_journal(level, &line, begin);
    } else if (atomic_load(&shared.to_stderr)) {
        write_line(STDERR_FILENO, &line);
    }
    if (atomic_load(&shared.to_syslog)) {
        syslog(levels[level].priority, "%.*s", (int)(line.len - 1 - begin), line.data + begin);
    }
}

void
log_write(enum log_level level, const struct log_subject *subject, const char *format, ...)
{
    char text[TEXT_MAX_LEN] = "";
    unsigned left_out = 0;
    va_list args;
    int error = errno;

    if (!log_wants(level)) {
        return;
    }
    const char *database = subject == NULL ? NULL : subject->database;
    if (level <= LEVEL_WARN && !limit_repeats(format, database, &left_out)) {
        return;
    }
    va_start(args, format);
    int len = vsnprintf(text, sizeof(text) - 32, format, args);
    va_end(args);
    if (left_out > 0 && len >= 0) {
        sprintf(text + strlen(text), " (repeated %u times)", left_out);
    }
    emit(level, subject, text);
    errno = error;
}
