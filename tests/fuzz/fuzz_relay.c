/* links: fake_pq.c */
/*
 * What a client and a server say to each other after both logins, with a pool between them, its
 * threads, a lost server and another one included. The input is a row of pieces: who speaks, how
 * many bytes, the bytes. Both may say anything; the invariants are those of the program itself.
 */
#include "client/client.h"

#include "../unit/fake_pq.h"
#include "base/helpers.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "client/verifiers.h"
#include "pool/pools.h"
#include "wire/message.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <unistd.h>

enum
{
    SCRATCH = 4096, /* messages are large above this */
    ACCEPT_US = 3000,
    PIECES_MAX = 64,
    WAIT_MS = 5000,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char ini[] = "[databases]\napp = host=fake\n[pgkeel]\nauth_type = any\n"
                          "default_pool_size = 2\nserver_reset_query = DISCARD ALL\n"
                          "retry_buffer = 4kB\n";

static struct
{
    struct loop *loop;
    struct crowd crowd;
    struct crowds crowds;
    struct crowd *all[1];
    struct pool_worker *workers[1];
    pthread_t thread;
    sem_t turn;
    struct accepted accepted;
    int client, server; /* our ends */
} it;

/* ---- the program ---- */

static void
ignore(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    (void)arg, (void)severity, (void)place, (void)key, (void)text;
}

static void *
run(void *arg)
{
    loop_run(it.loop);
    pools_leave(&it.crowd.pool);
    return arg;
}

static void
tick(void *arg)
{
    (void)arg;
    pools_tick(it.crowd.pool.pools, it.crowd.pool.settings);
}

static void
start(void)
{
    struct settings_source source = {.text = ini};

    memset(&it, 0, sizeof(it));
    sem_init(&it.turn, 0, 0);
    it.loop = loop_new(0, SCRATCH);
    it.crowd.pool.loop = it.loop;
    it.crowd.pool.settings = settings_load(&source, ignore, NULL);
    ensure(it.crowd.pool.settings != NULL);
    it.all[0] = &it.crowd;
    it.workers[0] = &it.crowd.pool;
    it.crowds.all = it.all;
    it.crowds.count = 1;
    it.crowds.helpers = helpers_new(&(struct helpers_limits){3, 1, 1, 1});
    crowds_init(&it.crowds);
    it.crowds.max_client_conn = it.crowds.max_unauthenticated = 100;
    it.crowd.pool.pools = pools_new(it.loop, it.crowds.helpers, it.workers, 1);
    crowd_init(&it.crowd, &it.crowds);
    loop_on_tick(it.loop, tick, NULL);
    ensure(pthread_create(&it.thread, NULL, run, NULL) == 0);
}

static void
close_all(void *arg)
{
    crowd_close_all(&it.crowd);
    loop_stop(it.loop);
    (void)arg;
}

static void
stop(void)
{
    struct pools *pools = it.crowd.pool.pools;
    int server;

    ensure(helpers_stop(it.crowds.helpers, WAIT_MS));
    ensure(loop_post(it.loop, close_all, NULL));
    pthread_join(it.thread, NULL);
    loop_free(&it.loop);
    pools_free(&pools);
    crowd_deinit(&it.crowd);
    helpers_free(&it.crowds.helpers);
    crowds_deinit(&it.crowds);
    settings_release(&it.crowd.pool.settings);
    sem_destroy(&it.turn);
    while ((server = fake_pq_accept_within(0)) >= 0) {
        close(server);
    }
}

static void
on_turn(void *arg)
{
    sem_post(arg);
}

/* Until what was sent before was read: at the end of the second turn at the latest. */
static void
await_turns(void)
{
    for (int i = 0; i < 2; i++) {
        ensure(loop_post(it.loop, on_turn, &it.turn));
        while (sem_wait(&it.turn) != 0) {
            /* interrupted by the fuzzer's clock */
        }
    }
}

/* ---- the two ends ---- */

static void
say(int fd, const void *data, size_t len)
{
    if (fd >= 0 && len > 0) {
        (void)!send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

/* Whoever speaks to us goes on only if it is heard. */
static void
drain(int fd)
{
    uint8_t ignored[65536];

    while (fd >= 0 && recv(fd, ignored, sizeof(ignored), MSG_DONTWAIT) > 0) {
    }
}

/* The next server, if one was dialled; it answers the question whether it is aligned. */
static void
accept_server(int64_t within_us)
{
    static const uint8_t ready[] = {MSG_READY, 0, 0, 0, 5, 'I'};

    if (it.server < 0) {
        it.server = fake_pq_accept_within(within_us);
        say(it.server, ready, sizeof(ready));
        await_turns();
    }
}

static void
hang_up(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
        await_turns();
    }
}

static void
open_client(void *arg)
{
    client_open(&it.crowd, arg);
}

static void
log_in(void)
{
    static const char startup[] = "\0\0\0\37\0\3\0\0user\0ann\0database\0app\0";
    struct pollfd poll_fd;
    int fds[2];

    ensure(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    it.accepted = (struct accepted){.fd = fds[0], .is_unix = true, .peer = "unix"};
    it.client = fds[1];
    it.server = -1;
    atomic_fetch_add(&it.crowd.load, 1);
    ensure(loop_post(it.loop, open_client, &it.accepted));
    say(it.client, startup, sizeof(startup));
    accept_server(WAIT_MS * 1000);
    ensure(it.server >= 0);
    poll_fd = (struct pollfd){.fd = it.client, .events = POLLIN};
    while (poll(&poll_fd, 1, WAIT_MS) != 1) {
        ensure(errno == EINTR);
    } /* the welcome */
    await_turns();
}

/* One piece; returns its length. */
static size_t
play(const uint8_t *data, size_t size)
{
    uint8_t what = data[0];
    size_t len = data[1] < size - 2 ? data[1] : size - 2;

    switch (what) {
    case 'c':
        say(it.client, data + 2, len);
        break;
    case 's':
        say(it.server, data + 2, len);
        break;
    case 'C':
        hang_up(&it.client);
        return 2;
    case 'S':
        hang_up(&it.server);
        accept_server(ACCEPT_US);
        return 2;
    default:
        return 1;
    }
    await_turns();
    drain(it.client);
    drain(it.server);
    accept_server(0);
    return 2 + len;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool has_log;

    if (!has_log) {
        ensure(log_open(&(struct log_options){.path = "/dev/null", .threshold = LEVEL_TRACE}));
        has_log = true;
    }
    start();
    log_in();
    for (int pieces = 0; size > 2 && pieces < PIECES_MAX; pieces++) {
        size_t len = play(data, size);
        data += len;
        size -= len;
    }
    hang_up(&it.client);
    hang_up(&it.server);
    stop();
    return 0;
}
