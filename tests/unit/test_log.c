/* base/log: what a line looks like, that nobody forges one, and that repeats are counted. */
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/test_log.XXXXXX";
static char content[1 << 20];

static void
reopen_empty(bool is_json, enum log_level threshold)
{
    struct log_options options = {.path = path, .is_json = is_json, .threshold = threshold};

    assert_int_equal(truncate(path, 0), 0);
    assert_true(log_open(&options));
}

static const char *
read_file(const char *name)
{
    FILE *file = fopen(name, "r");

    assert_non_null(file);
    size_t len = fread(content, 1, sizeof(content) - 1, file);
    content[len] = '\0';
    fclose(file);
    return content;
}

static unsigned
count_lines(const char *text)
{
    unsigned count = 0;

    for (; (text = strchr(text, '\n')) != NULL; text++) {
        count++;
    }
    return count;
}

/* What follows the level in a text line, or "pid":N, in a JSON line. */
static const char *
after_prefix(const char *line, bool is_json)
{
    const char *at = is_json ? strstr(line, "\"pid\":") : strchr(line, ']');

    assert_non_null(at);
    return is_json ? at + strcspn(at, ",}") : at + 2;
}

struct sample
{
    enum log_level level;
    struct log_subject subject;
    const char *message;
    const char *text;
    const char *json;
};

static const struct sample samples[] = {
    {LEVEL_INFO, {"client", 417, 2, "app", "ann", "10.0.0.7:5012"}, "login ok",
        "INFO  client 417 app/ann@10.0.0.7:5012: login ok\n",
        ",\"worker\":2,\"client\":417,\"db\":\"app\",\"user\":\"ann\",\"from\":\"10.0.0.7:5012\","
        "\"msg\":\"login ok\"}\n"},
    {LEVEL_DEBUG, {"backend", 3, 1, "app", NULL, NULL}, "leased",
        "DEBUG backend 3 app worker 1: leased\n",
        ",\"worker\":1,\"backend\":3,\"db\":\"app\",\"msg\":\"leased\"}\n"},
    {LEVEL_WARN, {"client", 9, -1, NULL, NULL, "[::1]:1"}, "gone", "WARN  client 9 [::1]:1: gone\n",
        ",\"client\":9,\"from\":\"[::1]:1\",\"msg\":\"gone\"}\n"},
    {LEVEL_ERROR, {"pool", 0, -1, "a/b", "", NULL}, "down", "ERROR pool a/b: down\n",
        ",\"about\":\"pool\",\"db\":\"a/b\",\"user\":\"\",\"msg\":\"down\"}\n"},
    {LEVEL_INFO, {NULL, 0, -1, NULL, NULL, NULL}, "ready", "INFO  ready\n",
        ",\"msg\":\"ready\"}\n"},
    /* hostile: a second line, a terminal's escape, quotes, broken and overlong UTF-8, C1 */
    {LEVEL_INFO, {"client", 1, -1, "x\n2026 FATAL forged", "a\"\\", NULL}, "m\x1b[31m\x7f\r\t",
        "INFO  client 1 x\\n2026 FATAL forged/a\"\\: m\\x1b[31m\\x7f\\x0d\\t\n",
        ",\"client\":1,\"db\":\"x\\u000a2026 FATAL forged\",\"user\":\"a\\\"\\\\\","
        "\"msg\":\"m\\u001b[31m\\u007f\\u000d\\u0009\"}\n"},
    {LEVEL_INFO, {NULL, 0, -1, NULL, NULL, NULL},
        "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x98 \xff \xc3 \xc0\x80 \xed\xa0\x80 \xc2\x9b",
        "INFO  \xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x98 \\xff \\xc3 \\xc0\\x80 \\xed\\xa0\\x80 "
        "\\xc2\\x9b\n",
        ",\"msg\":\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x98 \\ufffd \\ufffd \\ufffd\\ufffd "
        "\\ufffd\\ufffd\\ufffd \\u009b\"}\n"},
    {LEVEL_INFO, {NULL, 0, -1, NULL, NULL, NULL}, "ends early \xf0\x9f",
        "INFO  ends early \\xf0\\x9f\n", ",\"msg\":\"ends early \\ufffd\\ufffd\"}\n"},
};

static void
test_samples(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * sizeof(samples) / sizeof(samples[0]); i++) {
        const struct sample *sample = &samples[i / 2];
        bool is_json = i % 2 == 1;
        reopen_empty(is_json, LEVEL_TRACE);
        log_write(sample->level, &sample->subject, "%s", sample->message);
        const char *line = read_file(path);
        assert_string_equal(after_prefix(line, is_json), is_json ? sample->json : sample->text);
    }
}

static void
test_prefixes(void **state)
{
    int year, pid, used = 0;

    (void)state;
    reopen_empty(false, LEVEL_INFO);
    log_info("x");
    read_file(path);
    assert_int_equal(
        sscanf(content, "%4d-%*2d-%*2d %*2d:%*2d:%*2d.%*3d UTC [%d] INFO  x%n", &year, &pid, &used),
        2);
    assert_int_equal(used + 1, strlen(content));
    assert_int_equal(pid, getpid());

    reopen_empty(true, LEVEL_INFO);
    log_info("x");
    read_file(path);
    assert_int_equal(sscanf(content,
                         "{\"time\":\"%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%*3dZ\",\"level\":"
                         "\"info\",\"pid\":%d,%n",
                         &year, &pid, &used),
        2);
    assert_int_equal(pid, getpid());
    assert_true(used > 40);
}

static void
test_threshold(void **state)
{
    (void)state;
    reopen_empty(false, LEVEL_WARN);
    log_info("no");
    log_debug("no");
    log_warn("yes");
    assert_true(log_wants(LEVEL_ERROR));
    assert_false(log_wants(LEVEL_INFO));
    assert_int_equal(count_lines(read_file(path)), 1);
}

/* Whatever is too long, the line ends, JSON stays closed and the sentence is there. */
static void
test_long_lines_are_cut_whole(void **state)
{
    static char name[9000];
    static char message[9000];
    struct log_subject subject = {"client", 1, 0, name, name, name};

    (void)state;
    memset(name, 1, sizeof(name) - 1);
    memset(message, '"', sizeof(message) - 1);
    reopen_empty(true, LEVEL_INFO);
    log_write(LEVEL_INFO, &subject, "%s", message);
    read_file(path);
    size_t len = strlen(content);
    assert_true(len <= 4096);
    assert_int_equal(count_lines(content), 1);
    assert_string_equal(content + len - 6, "...\"}\n");
    assert_non_null(strstr(content, "\",\"msg\":\"\\\"\\\""));

    reopen_empty(false, LEVEL_INFO);
    log_write(LEVEL_INFO, &subject, "%s", message);
    read_file(path);
    assert_true(strlen(content) <= 4096);
    assert_int_equal(count_lines(content), 1);
}

static void
warn_about(const char *database, int count)
{
    struct log_subject subject = {"pool", 0, -1, database, NULL, NULL};

    for (int i = 0; i < count; i++) {
        log_write(LEVEL_WARN, &subject, "connect failed %d", i);
    }
}

static void
test_repeats_are_counted(void **state)
{
    struct timespec second = {1, 50000000};

    (void)state;
    reopen_empty(false, LEVEL_INFO);
    warn_about("one", 40);
    warn_about("two", 3); /* another database is another matter */
    for (int i = 0; i < 20; i++) {
        log_info("info is never held back");
    }
    assert_int_equal(count_lines(read_file(path)), 10 + 3 + 20);

    nanosleep(&second, NULL); /* the limit is by the kernel's clock */
    warn_about("one", 1);
    warn_about("two", 1);
    read_file(path);
    assert_int_equal(count_lines(content), 35);
    assert_non_null(strstr(content, "connect failed 0 (repeated 30 times)\n"));
    assert_string_equal(content + strlen(content) - 27, "pool two: connect failed 0\n");
}

static void
test_reopen_after_rename(void **state)
{
    char renamed[sizeof(path) + 2];

    (void)state;
    reopen_empty(false, LEVEL_INFO);
    snprintf(renamed, sizeof(renamed), "%s.1", path);
    log_info("first");
    assert_int_equal(rename(path, renamed), 0);
    log_info("second");
    assert_true(log_reopen());
    log_info("third");
    assert_int_equal(count_lines(read_file(renamed)), 2);
    assert_int_equal(count_lines(read_file(path)), 1);
    assert_int_equal(unlink(renamed), 0);
}

static void
test_bad_path_keeps_the_log(void **state)
{
    struct log_options options = {.path = "/nonexistent/log", .threshold = LEVEL_INFO};

    (void)state;
    reopen_empty(false, LEVEL_INFO);
    assert_false(log_open(&options));
    log_info("still here");
    assert_int_equal(count_lines(read_file(path)), 1);
}

static void *
write_many(void *arg)
{
    for (int i = 0; i < 500; i++) {
        log_info("thread %s line %d", (const char *)arg, i);
        log_warn("thread %s repeats", (const char *)arg);
    }
    return NULL;
}

static void
test_threads_write_whole_lines(void **state)
{
    pthread_t threads[4];
    static char names[4][2] = {"a", "b", "c", "d"};

    (void)state;
    reopen_empty(false, LEVEL_INFO);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, names[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        assert_true(log_reopen());
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    read_file(path);
    unsigned infos = 0;
    for (char *line = strtok(content, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        int number;
        infos += sscanf(after_prefix(line, false), "INFO  thread %*c line %d", &number) == 1;
    }
    assert_int_equal(infos, 2000);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_long_lines_are_cut_whole),
        cmocka_unit_test(test_repeats_are_counted),
        cmocka_unit_test(test_reopen_after_rename),
        cmocka_unit_test(test_bad_path_keeps_the_log),
        cmocka_unit_test(test_threads_write_whole_lines),
    };
    int fd = mkstemp(path);

    if (fd < 0) {
        return 1;
    }
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    struct log_options none = {.threshold = LEVEL_ERROR};
    log_open(&none);
    unlink(path);
    return failed;
}
