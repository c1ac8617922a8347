/* links: fake_pq.c */
/* The state machines of client and backend, driven from both ends: the test is the application and
 * PostgreSQL. */
#include "client/client.h"

#include "base/helpers.h"
#include "base/mem.h"
#include "client/verifiers.h"
#include "fake_pq.h"
#include "pool/pools.h"
#include "wire/message.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#define Z_IDLE "Z\0\0\0\5I"
#define Z_TRANSACTION "Z\0\0\0\5T"
#define ROW_AND_DONE                                                                               \
    "D\0\0\0\13\0\1\0\0\0\1"                                                                       \
    "1"                                                                                            \
    "C\0\0\0\15SELECT 1\0"
#define BYTES(text) text, sizeof(text) - 1

static struct
{
    struct loop *loop;
    struct crowd crowd;
    struct crowds crowds;
    struct crowd *all[1];
    struct pool_worker *workers[1];
    pthread_t thread;
} it;

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

/* The retry clock, which the main loop has. */
static void
tick(void *arg)
{
    (void)arg;
    pools_tick(it.crowd.pool.pools, it.crowd.pool.settings);
}

static int
set_up(void **state)
{
    static const char ini[] = "[databases]\napp = host=fake\n[pgkeel]\nauth_type = any\n"
                              "default_pool_size = 1\nserver_reset_query = DISCARD ALL\n";
    struct settings_source source = {.text = ini};

    memset(&it, 0, sizeof(it));
    it.loop = loop_new(0, 65536);
    it.crowd.pool.loop = it.loop;
    it.crowd.pool.settings = settings_load(&source, ignore, NULL);
    assert_non_null(it.crowd.pool.settings);
    it.all[0] = &it.crowd;
    it.workers[0] = &it.crowd.pool;
    it.crowds.all = it.all;
    it.crowds.count = 1;
    it.crowds.helpers = helpers_new(&(struct helpers_limits){4, 1, 1, 1});
    crowds_init(&it.crowds);
    it.crowds.max_client_conn = it.crowds.max_unauthenticated = 100;
    it.crowd.pool.pools = pools_new(it.loop, it.crowds.helpers, it.workers, 1);
    crowd_init(&it.crowd, &it.crowds);
    loop_on_tick(it.loop, tick, NULL);
    pthread_create(&it.thread, NULL, run, NULL);
    fake_pq_fail(NULL);
    (void)state;
    return 0;
}

static void
stop_loop(void *arg)
{
    crowd_close_all(&it.crowd);
    loop_stop(it.loop);
    (void)arg;
}

static int
tear_down(void **state)
{
    (void)state;
    assert_true(helpers_stop(it.crowds.helpers, 5000));
    assert_true(loop_post(it.loop, stop_loop, NULL));
    pthread_join(it.thread, NULL);
    struct pools *pools = it.crowd.pool.pools;
    loop_free(&it.loop);
    pools_free(&pools);
    crowd_deinit(&it.crowd);
    helpers_free(&it.crowds.helpers);
    crowds_deinit(&it.crowds);
    settings_release(&it.crowd.pool.settings);
    return 0;
}

/* ---- the two ends ---- */

static void
limit_reads(int fd)
{
    struct timeval limit = {5, 0};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

static void
send_bytes(int fd, const void *bytes, size_t len)
{
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
}

/* Reads exactly these bytes. */
static void
expect(int fd, const void *bytes, size_t len)
{
    uint8_t got[4096];

    assert_true(len <= sizeof(got));
    assert_int_equal(recv(fd, got, len, MSG_WAITALL), len);
    assert_memory_equal(got, bytes, len);
}

/* Reads one message; its type, the body in to. */
static char
read_message(int fd, char *to, size_t size)
{
    uint8_t head[5];

    if (recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head)) {
        return 0;
    }
    size_t len = message_u32(head + 1) - 4;
    assert_true(len < size);
    assert_int_equal(recv(fd, to, len, MSG_WAITALL), len);
    to[len] = '\0';
    return (char)head[0];
}

static char
read_until(int fd, const char *types, char *body, size_t size)
{
    char type;

    do {
        type = read_message(fd, body, size);
    } while (type != 0 && strchr(types, type) == NULL);
    return type;
}

static void
open_client(void *arg)
{
    client_open(&it.crowd, arg);
}

/* An application that sent its first packet. */
static int
connect_client(void)
{
    static struct accepted accepted;
    static const char startup[] = "\0\0\0\37\0\3\0\0user\0ann\0database\0app\0";
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    limit_reads(fds[1]);
    accepted = (struct accepted){.fd = fds[0], .is_unix = true, .peer = "unix"};
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    atomic_fetch_add(&it.crowd.load, 1);
    assert_true(loop_post(it.loop, open_client, &accepted));
    send_bytes(fds[1], startup, 31);
    return fds[1];
}

/* PostgreSQL's end of the next dial, after it proved that the stream is aligned. */
static int
accept_backend(void)
{
    int server = fake_pq_accept();

    assert_true(server >= 0);
    limit_reads(server);
    expect(server, BYTES("S\0\0\0\4"));
    send_bytes(server, BYTES(Z_IDLE));
    return server;
}

static int
log_in(int *server_out)
{
    char body[512];
    int client = connect_client();

    if (server_out != NULL) {
        *server_out = accept_backend();
    }
    assert_int_equal(read_until(client, "ZE", body, sizeof(body)), 'Z');
    assert_string_equal(body, "I");
    return client;
}

static void
ask(int client, int server)
{
    send_bytes(client, BYTES("Q\0\0\0\15SELECT 1\0"));
    expect(server, BYTES("Q\0\0\0\15SELECT 1\0"));
}

/* ---- tests ---- */

static void
test_query_and_answer_pass_unchanged(void **state)
{
    int server, client = log_in(&server);

    (void)state;
    for (int i = 0; i < 3; i++) {
        ask(client, server);
        for (size_t at = 0; at < sizeof(ROW_AND_DONE Z_IDLE) - 1; at++) {
            send_bytes(server, &(ROW_AND_DONE Z_IDLE)[at], 1);
        }
        expect(client, BYTES(ROW_AND_DONE Z_IDLE));
    }
    close(client);
    close(server);
}

static void
test_reply_that_nobody_asked_for_closes_the_backend(void **state)
{
    static const struct
    {
        const char *bytes;
        size_t len;
    } wrong[] = {{BYTES("1\0\0\0\4")}, {BYTES("Z\0\0\0\6II")}, {BYTES("Z\0\0\0\5X")},
        {BYTES("K\0\0\0\14abcdefgh")}, {BYTES("D\0\0\0\3")}, {BYTES("!\0\0\0\4")},
        {BYTES("d\377\377\377\377")}};
    char body[512];

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        int server = -1, client = i == 0 ? log_in(&server) : log_in(NULL);
        send_bytes(client, BYTES("Q\0\0\0\15SELECT 1\0"));
        server = i == 0 ? server : accept_backend();
        expect(server, BYTES("Q\0\0\0\15SELECT 1\0"));
        send_bytes(server, wrong[i].bytes, wrong[i].len);
        assert_int_equal(read_until(client, "E", body, sizeof(body)), 'E');
        assert_non_null(memmem(body, sizeof(body), "08007", 5));
        assert_int_equal(read_message(server, body, sizeof(body)), 0);
        close(client);
        close(server);
    }
}

static void
test_client_that_left_in_a_transaction_is_rolled_back_and_the_backend_reused(void **state)
{
    int server, client = log_in(&server);

    (void)state;
    ask(client, server);
    send_bytes(server, BYTES(ROW_AND_DONE Z_TRANSACTION));
    expect(client, BYTES(ROW_AND_DONE Z_TRANSACTION));
    close(client);
    expect(server, BYTES("Q\0\0\0\15ROLLBACK\0"));
    send_bytes(server, BYTES("C\0\0\0\15ROLLBACK\0" Z_IDLE));
    expect(server, BYTES("Q\0\0\0\20DISCARD ALL\0"));
    client = log_in(NULL);
    send_bytes(client, BYTES("Q\0\0\0\15SELECT 1\0"));
    send_bytes(server, BYTES("C\0\0\0\20DISCARD ALL\0" Z_IDLE));
    expect(server, BYTES("Q\0\0\0\15SELECT 1\0"));
    send_bytes(server, BYTES(ROW_AND_DONE Z_IDLE));
    expect(client, BYTES(ROW_AND_DONE Z_IDLE));
    close(client);
    close(server);
}

static void
test_client_that_left_between_execute_and_sync_is_not_committed(void **state)
{
    static const char execute[] = "P\0\0\0\10\0\0\0\0"
                                  "B\0\0\0\14\0\0\0\0\0\0\0\0"
                                  "E\0\0\0\11\0\0\0\0\0";
    int server, client = log_in(&server);

    (void)state;
    send_bytes(client, execute, 9 + 13 + 10);
    expect(server, execute, 9 + 13 + 10);
    close(client);
    expect(server, BYTES("Q\0\0\0\15ROLLBACK\0"
                         "S\0\0\0\4"));
    send_bytes(server, BYTES("1\0\0\0\4"
                             "2\0\0\0\4"
                             "I\0\0\0\4"
                             "C\0\0\0\15ROLLBACK\0" Z_IDLE Z_IDLE));
    client = log_in(NULL);
    ask(client, server);
    close(client);
    close(server);
}

/* Whether PostgreSQL read the Sync before the COPY failed, and waits for another, nobody knows. */
static void
test_client_that_left_a_sync_among_data_of_a_failed_copy_leaves_no_backend(void **state)
{
    static const char copy[] = "P\0\0\0\10\0\0\0\0"
                               "B\0\0\0\14\0\0\0\0\0\0\0\0"
                               "E\0\0\0\11\0\0\0\0\0"
                               "H\0\0\0\4";
    static const char data[] = "d\0\0\0\5x"
                               "S\0\0\0\4"
                               "f\0\0\0\5\0";
    int server, client = log_in(&server);

    (void)state;
    send_bytes(client, BYTES(copy));
    expect(server, BYTES(copy));
    send_bytes(server, BYTES("1\0\0\0\4"
                             "2\0\0\0\4"
                             "G\0\0\0\7\0\0\0"));
    expect(client, BYTES("1\0\0\0\4"
                         "2\0\0\0\4"
                         "G\0\0\0\7\0\0\0"));
    send_bytes(client, BYTES(data));
    expect(server, BYTES(data));
    send_bytes(server, BYTES("E\0\0\0\5\0"));
    expect(client, BYTES("E\0\0\0\5\0"));
    close(client);
    expect(server, BYTES("S\0\0\0\4"));
    send_bytes(server, BYTES(Z_IDLE));
    expect(server, BYTES("X\0\0\0\4"));
    close(server);
}

static void
test_reset_that_fails_closes_the_backend(void **state)
{
    char body[512];
    int server, client = log_in(&server);

    (void)state;
    ask(client, server);
    send_bytes(server, BYTES(ROW_AND_DONE Z_TRANSACTION));
    expect(client, BYTES(ROW_AND_DONE Z_TRANSACTION));
    close(client);
    expect(server, BYTES("Q\0\0\0\15ROLLBACK\0"));
    send_bytes(server, BYTES("E\0\0\0\27SERROR\0C57014\0Mno\0\0" Z_TRANSACTION));
    assert_int_equal(read_message(server, body, sizeof(body)), 0);
    close(server);
}

static void
test_idle_backend_that_closes_is_replaced_unseen(void **state)
{
    int server, client = log_in(&server);

    (void)state;
    send_bytes(server, BYTES("E\0\0\0\37SFATAL\0VFATAL\0C57P01\0Mbye\0\0"));
    close(server);
    send_bytes(client, BYTES("Q\0\0\0\15SELECT 1\0"));
    server = accept_backend();
    expect(server, BYTES("Q\0\0\0\15SELECT 1\0"));
    send_bytes(server, BYTES(ROW_AND_DONE Z_IDLE));
    expect(client, BYTES(ROW_AND_DONE Z_IDLE));
    close(client);
    close(server);
}

static void
test_permanent_refusal_is_told_in_the_servers_words(void **state)
{
    char body[512];

    (void)state;
    fake_pq_fail("connection to server failed: FATAL:  3D000: database \"app\" does not exist\n"
                 "LOCATION:  InitPostgres, postinit.c:1000\n");
    int client = connect_client();
    assert_int_equal(read_until(client, "E", body, sizeof(body)), 'E');
    assert_non_null(memmem(body, sizeof(body), "3D000", 5));
    assert_non_null(memmem(body, sizeof(body), "database \"app\" does not exist", 29));
    close(client);
}

static void
test_client_waits_while_connecting_fails_and_is_served_when_it_works(void **state)
{
    char body[512];

    (void)state;
    fake_pq_fail("connection to server failed: Connection refused\n");
    int client = connect_client();
    usleep(300000); /* some attempts fail meanwhile */
    fake_pq_fail(NULL);
    int server = accept_backend();
    assert_int_equal(read_until(client, "ZE", body, sizeof(body)), 'Z');
    ask(client, server);
    close(client);
    close(server);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_query_and_answer_pass_unchanged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_reply_that_nobody_asked_for_closes_the_backend, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_client_that_left_in_a_transaction_is_rolled_back_and_the_backend_reused, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(
            test_client_that_left_between_execute_and_sync_is_not_committed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_client_that_left_a_sync_among_data_of_a_failed_copy_leaves_no_backend, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(
            test_reset_that_fails_closes_the_backend, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_idle_backend_that_closes_is_replaced_unseen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_permanent_refusal_is_told_in_the_servers_words, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_client_waits_while_connecting_fails_and_is_served_when_it_works, set_up,
            tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
