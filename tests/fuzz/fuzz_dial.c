/*
 * What a server says while libpq logs in to it: authentication (libpq has the client's role, our
 * wire/scram the server's), ParameterStatus, errors; and the reason that is made of libpq's words.
 * The input is what the server sends, whatever it hears; \1 and \2 in it stand for our right
 * answers to the client's first and last message of SCRAM, \3 for the client's nonce.
 */
#include "pool/dial.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/state.h"
#include "pool/backend.h"
#include "pool/endpoint.h"
#include "wire/scram.h"

#include <ctype.h>
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum
{
    TIMEOUT_US = 5000000,
    WAIT_MS = 20,
    DIGITS_MAX = 3 /* of an iteration count; libpq takes any, and counts */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);

/* libpq makes room for whatever length a message claims: 2 GB take the sanitizer seconds. */
const char *
__asan_default_options(void)
{
    return "max_allocation_size_mb=64:allocator_may_return_null=1";
}

/* Of "pencil". */
static const char verifier_text[] = "SCRAM-SHA-256$1:c2FsdHNhbHQ=$"
                                    "g6e1orFrpOGGJRo+2eEqbUj9pqsVCFqnV1wKZxpI+cE=:"
                                    "TeHnha2Kte/nhij3W5eueOy9K8b31JeH/4hXpZYkCt8=";

static struct
{
    pthread_mutex_t mutex;
    struct buf script; /* the input, for the next who connects */
    int listener;
    int never[2]; /* a pipe in which nothing happens */
    char host[64];
} it = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- the server ---- */

/* A message of the client: "p" and what follows, at most size bytes; 0: none came. */
static size_t
hear(int fd, uint8_t *to, size_t size)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    ssize_t len = poll(&poll_fd, 1, WAIT_MS) == 1 ? recv(fd, to, size, 0) : 0;

    return len > 0 ? (size_t)len : 0;
}

static void
say(int fd, const void *data, size_t len)
{
    if (len > 0) {
        (void)!send(fd, data, len, MSG_NOSIGNAL);
    }
}

static void
say_auth(int fd, enum message_auth code, const struct buf *data)
{
    struct buf message = {0};

    message_add_auth(&message, code, buf_head(data), buf_len(data));
    say(fd, buf_head(&message), buf_len(&message));
    buf_deinit(&message);
}

/* Answers what libpq says as our server would; libpq's first message never is wrong. */
static void
answer(int fd, struct scram *scram, uint8_t what)
{
    uint8_t heard[2000];
    const char *mechanism;
    const uint8_t *data;
    struct buf reply = {0};
    struct fail fail;
    size_t data_len, len = hear(fd, heard, sizeof(heard));

    if (len < MESSAGE_HEADER || heard[0] != MSG_PASSWORD) {
        return;
    }
    if (what == 2) {
        if (scram_final(scram, heard + MESSAGE_HEADER, len - MESSAGE_HEADER, &reply, &fail)) {
            say_auth(fd, AUTH_SASL_FINAL, &reply);
        }
    } else if (scram_parse_initial(
                   heard + MESSAGE_HEADER, len - MESSAGE_HEADER, &mechanism, &data, &data_len)) {
        const uint8_t *nonce = memmem(data, data_len, "r=", 2);
        ensure(nonce != NULL && scram_first(scram, data, data_len, &reply, &fail));
        if (what == 1) {
            say_auth(fd, AUTH_SASL_CONTINUE, &reply);
        } else {
            say(fd, nonce + 2, data_len - (size_t)(nonce + 2 - data));
        }
    }
    buf_deinit(&reply);
}

static void
serve(int fd, const struct buf *script)
{
    struct scram_verifier verifier;
    uint8_t ignored[4096];
    unsigned answers = 0;

    ensure(scram_verifier_parse(verifier_text, &verifier));
    struct scram *scram = scram_new(&verifier, false);
    const uint8_t *script_at = buf_head(script);
    size_t from = 0, len = buf_len(script);
    hear(fd, ignored, sizeof(ignored));
    for (size_t i = 0; i < len; i++) {
        uint8_t what = script_at[i];
        /* Each of both once, in order. */
        if (answers == 0 ? what == 1 || what == 3 : answers == 1 && what == 2) {
            say(fd, script_at + from, i - from);
            answer(fd, scram, what);
            from = i + 1;
            answers++;
        }
    }
    if (from < len) {
        say(fd, script_at + from, len - from);
    }
    shutdown(fd, SHUT_WR);
    while (hear(fd, ignored, sizeof(ignored)) > 0) {
    }
    close(fd);
    scram_free(&scram);
}

static void *
run_server(void *arg)
{
    for (;;) {
        int fd = accept(it.listener, NULL, NULL);
        struct buf script = {0};
        if (fd < 0) {
            ensure(errno == EINTR); /* the fuzzer's clock */
            continue;
        }
        pthread_mutex_lock(&it.mutex);
        buf_add(&script, buf_head(&it.script), buf_len(&it.script));
        pthread_mutex_unlock(&it.mutex);
        serve(fd, &script);
        buf_deinit(&script);
    }
    return arg;
}

/* Listens in the abstract name space, which leaves no file behind. */
static void
start_server(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    pthread_t thread;

    snprintf(it.host, sizeof(it.host), "@pgkeel-fuzz-%d", (int)getpid());
    int len = snprintf(address.sun_path, sizeof(address.sun_path), "%s/.s.PGSQL.5432", it.host);
    address.sun_path[0] = '\0';
    it.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ensure(pipe(it.never) == 0);
    ensure(bind(it.listener, (struct sockaddr *)&address,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)len)) == 0);
    ensure(listen(it.listener, 16) == 0);
    ensure(pthread_create(&thread, NULL, run_server, NULL) == 0);
}

/* ---- the client ---- */

static void
check_reported(const struct pg_conn *conn)
{
    struct vars reported = {0};
    const char *name, *value, *last = "";
    uint32_t cursor = 0;

    backend_reported(conn, &reported);
    while (vars_next(&reported, &cursor, &name, &value)) {
        ensure(strcasecmp(last, name) < 0);
        ensure(strcmp(vars_find(&reported, name), value) == 0);
        last = name;
    }
    vars_deinit(&reported);
}

static void
check_reason(const struct fail *fail)
{
    ensure(strlen(fail->sqlstate) == 5 && fail->text[0] != '\0');
    ensure(strchr(fail->text, '\n') == NULL && strchr(fail->detail, '\n') == NULL);
    (void)connect_class(fail);
}

static void
dial(void)
{
    static const char *const keywords[] = {
        "host", "port", "user", "dbname", "password", "sslmode", "gssencmode", "passfile", NULL};
    const char *values[] = {
        it.host, "5432", "ann", "app", "pencil", "disable", "disable", "/dev/null", NULL};
    struct dial_request request = {.keywords = keywords, .values = values};
    struct fail fail = {.text = ""};

    struct pg_conn *conn =
        dial_now(&request, loop_clock_us() + TIMEOUT_US, it.never[0], &fail);
    if (conn != NULL) {
        ensure(PQstatus(conn) == CONNECTION_OK);
        check_reported(conn);
        PQfinish(conn);
    } else {
        check_reason(&fail);
    }
}

/* "i=" and more digits than are counted in a moment: the rest of them are letters. */
static void
limit_iterations(uint8_t *data, size_t size)
{
    for (size_t i = 2; i < size; i++) {
        size_t digits = 0;
        while (data[i - 2] == 'i' && data[i - 1] == '=' && i + digits < size &&
               (isdigit(data[i + digits]) || digits == 0)) {
            if (++digits > DIGITS_MAX) {
                data[i + digits - 1] = 'x';
            }
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (it.listener == 0) {
        start_server();
    }
    pthread_mutex_lock(&it.mutex);
    buf_clear(&it.script);
    if (size > 0) {
        buf_add(&it.script, data, size);
        limit_iterations(buf_head(&it.script), size);
    }
    pthread_mutex_unlock(&it.mutex);
    dial();
    return 0;
}
