/* Credentials. Called by pool/dial in helper threads; calls pool/command. */
#include "pool/credentials.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "net/loop.h"
#include "pool/command.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

enum
{
    PASSWORD_MAX = 65536 /* tokens of clouds have a few thousand bytes */
};

/* Of one command for one (database, user). */
struct memory
{
    UT_hash_handle hh;
    char *password;  /* owns; NULL: none that is good */
    uint64_t serial; /* of the last run; 0: none */
    int64_t until_us;
    bool is_running; /* the command does, in one of the takers' threads */
    bool has_failed; /* the last run, for this reason: */
    struct fail fail;
    unsigned takers; /* threads that look at this */
    size_t key_len;
    char key[];
};

struct credentials
{
    pthread_mutex_t mutex;   /* guards all below it */
    pthread_cond_t ended;    /* some run is over */
    struct memory *memories; /* own, by database, user, host, port and command */
    uint64_t serial;         /* of the last run of all */
};

static void
memory_free_locked(struct credentials *credentials, struct memory *memory)
{
    HASH_DEL(credentials->memories, memory);
    text_wipe(&memory->password);
    free(memory);
}

struct credentials *
credentials_new(void)
{
    struct credentials *credentials = mem_new(sizeof(*credentials));
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC); /* as deadlines are */
    pthread_mutex_init(&credentials->mutex, NULL);
    pthread_cond_init(&credentials->ended, &attributes);
    pthread_condattr_destroy(&attributes);
    return credentials;
}

void
credentials_free(struct credentials **pointer)
{
    struct credentials *credentials = *pointer;
    struct memory *memory, *next;

    HASH_ITER(hh, credentials->memories, memory, next) {
        memory_free_locked(credentials, memory);
    }
    pthread_cond_destroy(&credentials->ended);
    pthread_mutex_destroy(&credentials->mutex);
    free(credentials);
    *pointer = NULL;
}

void
credential_source_copy(struct credential_source *to, const struct credential_source *from)
{
    *to = *from;
    to->file = mem_string(from->file);
    to->command = mem_string(from->command);
    to->database = mem_string(from->database);
    to->user = mem_string(from->user);
    to->host = mem_string(from->host);
    to->port = mem_string(from->port);
}

void
credential_source_deinit(struct credential_source *source)
{
    free((char *)source->file);
    free((char *)source->command);
    free((char *)source->database);
    free((char *)source->user);
    free((char *)source->host);
    free((char *)source->port);
}

void
credential_wipe(struct credential *credential)
{
    text_wipe(&credential->password);
}

/* ---- files ---- */

/* A pipe or a device would keep the helper waiting for whoever writes, so only files are read. */
static int
open_file(const char *path, const char **problem_out)
{
    struct stat about;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd >= 0 && fstat(fd, &about) == 0 && S_ISREG(about.st_mode)) {
        return fd;
    }
    *problem_out = fd < 0 ? strerror(errno) : "it is not a regular file";
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

/* The length of the first line, or -1 with the problem. */
static ssize_t
read_line(int fd, char *line, const char **problem_out)
{
    size_t len = 0;
    ssize_t got;

    do {
        got = read(fd, line + len, PASSWORD_MAX + 1 - len);
        len += got > 0 ? (size_t)got : 0;
    } while ((got > 0 && len <= PASSWORD_MAX) || (got < 0 && errno == EINTR));
    if (got < 0) {
        *problem_out = strerror(errno);
        return -1;
    }
    line[len] = '\0';
    line[strcspn(line, "\r\n")] = '\0';
    size_t line_len = strlen(line);
    *problem_out = len == 0                  ? "it is empty"
                   : line_len > PASSWORD_MAX ? "its first line is too long"
                                             : NULL;
    return *problem_out == NULL ? (ssize_t)line_len : -1;
}

static bool
read_file(const char *path, struct credential *out, struct fail *fail)
{
    const char *problem = NULL;
    int fd = open_file(path, &problem);

    if (fd >= 0) {
        char *line = mem_new(PASSWORD_MAX + 2);
        if (read_line(fd, line, &problem) >= 0) {
            out->password = mem_string(line);
        }
        explicit_bzero(line, PASSWORD_MAX + 2);
        free(line);
        close(fd);
    }
    return problem == NULL || fail_set(fail, "28000", "password_file \"%s\": %s", path, problem);
}

/* ---- commands ---- */

/* What it said, as one line, unless its secret is in it: the beginning is enough, the rest may be
 * cut off. */
static void
log_said(const struct credential_source *source, char *said, const char *secret, bool is_good)
{
    struct log_subject subject = {
        .worker = -1, .database = source->database, .user = source->user};

    char beginning[17];

    snprintf(beginning, sizeof(beginning), "%s", secret);
    bool tells = beginning[0] != '\0' && strstr(said, beginning) != NULL;
    explicit_bzero(beginning, sizeof(beginning));
    for (char *c = said; *c != '\0'; c++) {
        *c = *c == '\n' || *c == '\t' || *c == '\r' ? ' ' : *c;
    }
    if (said[0] != '\0') {
        log_write(is_good ? LEVEL_INFO : LEVEL_WARN, &subject, "password_command said: %s",
            tells ? "(its password is in it)" : said);
    }
}

static bool
run_into(const struct credential_source *source, const struct credential_patience *patience,
    char *secret, struct fail *fail)
{
    struct buf buf = {0};
    struct command_output output = {.text = secret, .size = PASSWORD_MAX + 1};

    buf_print(&buf, "PGKEEL_DATABASE=%s", source->database);
    buf_add_u8(&buf, 0);
    size_t user = buf_len(&buf);
    buf_print(&buf, "PGUSER=%s", source->user);
    buf_add_u8(&buf, 0);
    size_t host = buf_len(&buf);
    buf_print(&buf, "PGHOST=%s", source->host);
    buf_add_u8(&buf, 0);
    size_t port = buf_len(&buf);
    buf_print(&buf, "PGPORT=%s", source->port);
    buf_add_u8(&buf, 0);
    const char *texts = (const char *)buf_head(&buf);
    const char *const variables[] = {texts, texts + user, texts + host, texts + port, NULL};
    struct command command = {source->command, variables, patience->deadline_us, patience->stop_fd};

    bool is_good = command_run(&command, &output, fail);
    buf_deinit(&buf);
    if (output.len > 0 && secret[output.len - 1] == '\n') {
        secret[--output.len] = '\0';
    }
    log_said(source, output.said, secret, is_good);
    explicit_bzero(output.said, sizeof(output.said));
    if (is_good && output.len != strlen(secret)) {
        return fail_set(fail, "58000", "wrote a zero byte");
    }
    return is_good && (output.len > 0 || fail_set(fail, "58000", "wrote nothing"));
}

/* NULL with the reason. */
static char *
run(const struct credential_source *source, const struct credential_patience *patience,
    struct fail *fail)
{
    char *secret = mem_new(PASSWORD_MAX + 1);
    struct fail why;
    char *password = NULL;

    if (run_into(source, patience, secret, &why)) {
        password = mem_string(secret);
    } else {
        fail_set(fail, why.sqlstate, "password_command %s", why.text);
    }
    explicit_bzero(secret, PASSWORD_MAX + 1);
    free(secret);
    return password;
}

static struct memory *
find_locked(struct credentials *credentials, const struct credential_source *source)
{
    const char *const parts[] = {
        source->database, source->user, source->host, source->port, source->command};
    struct memory *memory;
    struct buf key = {0};

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        buf_add_string(&key, parts[i]);
    }
    HASH_FIND(hh, credentials->memories, buf_head(&key), buf_len(&key), memory);
    if (memory == NULL) {
        memory = mem_new(sizeof(*memory) + buf_len(&key));
        memory->key_len = buf_len(&key);
        memcpy(memory->key, buf_head(&key), memory->key_len);
        HASH_ADD_KEYPTR(hh, credentials->memories, memory->key, memory->key_len, memory);
    }
    buf_deinit(&key);
    return memory;
}

/* Until some run is over. */
static bool
wait_locked(struct credentials *credentials, const struct credential_patience *patience)
{
    int64_t until_us = patience->deadline_us;
    struct timespec until = {until_us / 1000000, until_us % 1000000 * 1000};

    if (until_us == 0) {
        return pthread_cond_wait(&credentials->ended, &credentials->mutex) == 0;
    }
    return pthread_cond_timedwait(&credentials->ended, &credentials->mutex, &until) != ETIMEDOUT;
}

/* Runs the command, without the lock, and tells all who wait for it. */
static void
run_locked(struct credentials *credentials, struct memory *memory,
    const struct credential_source *source, const struct credential_patience *patience)
{
    int64_t began_us = loop_clock_us();
    struct fail fail;

    memory->is_running = true;
    pthread_mutex_unlock(&credentials->mutex);
    char *password = run(source, patience, &fail);
    pthread_mutex_lock(&credentials->mutex);
    memory->is_running = false;
    memory->serial = ++credentials->serial;
    memory->until_us = began_us + source->ttl_us;
    text_wipe(&memory->password);
    memory->password = password;
    memory->has_failed = password == NULL;
    if (memory->has_failed) {
        memory->fail = fail;
    }
    pthread_cond_broadcast(&credentials->ended);
}

/* What is remembered, what a run gives that somebody else began, or what an own one gives. */
static bool
take_locked(struct credentials *credentials, struct memory *memory,
    const struct credential_source *source, const struct credential_patience *patience,
    struct fail *fail)
{
    uint64_t before = memory->serial;

    while (memory->is_running) {
        if (!wait_locked(credentials, patience)) {
            return fail_set(fail, "58000", "password_command took too long");
        }
    }
    bool is_new = memory->serial != before;
    bool is_good = memory->password != NULL && (is_new || loop_clock_us() < memory->until_us);
    if (!is_good && !(is_new && memory->has_failed)) {
        run_locked(credentials, memory, source, patience);
    }
    if (memory->password == NULL) {
        *fail = memory->fail;
        return false;
    }
    return true;
}

/* Forgets what is good for nobody any more. */
static void
tidy_locked(struct credentials *credentials)
{
    int64_t now_us = loop_clock_us();
    struct memory *memory, *next;

    HASH_ITER(hh, credentials->memories, memory, next) {
        if (memory->takers == 0 && now_us >= memory->until_us) {
            memory_free_locked(credentials, memory);
        }
    }
}

static bool
ask(struct credentials *credentials, const struct credential_source *source,
    const struct credential_patience *patience, struct credential *out, struct fail *fail)
{
    pthread_mutex_lock(&credentials->mutex);
    tidy_locked(credentials);
    struct memory *memory = find_locked(credentials, source);
    uint64_t before = memory->serial;
    memory->takers++;
    bool is_good = take_locked(credentials, memory, source, patience, fail);
    if (is_good) {
        out->password = mem_string(memory->password);
        out->serial = memory->serial;
        out->is_remembered = memory->serial == before;
    }
    memory->takers--;
    pthread_mutex_unlock(&credentials->mutex);
    return is_good;
}

bool
credentials_take(struct credentials *credentials, const struct credential_source *source,
    const struct credential_patience *patience, struct credential *out, struct fail *fail)
{
    *out = (struct credential){0};
    if (source->file != NULL) {
        return read_file(source->file, out, fail);
    }
    return source->command == NULL || ask(credentials, source, patience, out, fail);
}

void
credentials_refused(struct credentials *credentials, const struct credential_source *source,
    const struct credential *credential)
{
    if (credential->serial == 0) {
        return;
    }
    pthread_mutex_lock(&credentials->mutex);
    struct memory *memory = find_locked(credentials, source);
    if (memory->serial == credential->serial) {
        text_wipe(&memory->password);
    }
    pthread_mutex_unlock(&credentials->mutex);
}
