/* pool/endpoint: what a failure means, when the next attempt is due, how many logins at a time. */
#include "pool/endpoint.h"

#include "conf/settings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct settings settings = {.server_retry_delay = 100000,
    .server_retry_multiplier = 1.5,
    .server_retry_max_delay = 2000000,
    .server_retry_attempts = 5};

static struct fail
reason(const char *sqlstate, const char *text)
{
    struct fail fail;

    fail_set(&fail, sqlstate, "%s", text);
    return fail;
}

static unsigned
fail_login(struct endpoint *endpoint, int64_t now_us)
{
    struct fail fail = reason("08001", "Connection refused");
    struct endpoint_view view;

    return endpoint_failed(endpoint, &settings, &fail, now_us, &view);
}

static unsigned
answer(struct endpoint *endpoint, int64_t now_us)
{
    struct endpoint_view view;

    return endpoint_answered(endpoint, now_us, &view);
}

static void
test_reasons_have_classes(void **state)
{
    static const struct
    {
        const char *sqlstate, *text, *name;
        bool concerns_pool, is_permanent, is_busy;
    } rows[] = {
        {"08001", "Connection refused", "network", false, false, false},
        {"08006", "server closed the connection unexpectedly", "network", false, false, false},
        {"08001", "server does not support SSL, but SSL was required", "tls", true, false, false},
        {"08001", "server certificate for \"a\" does not match host name", "tls", true, false,
            false},
        {"08001", "private key file \"k\" has group or world access", "tls", true, false, false},
        {"08001", "SSL SYSCALL error: EOF detected", "network", false, false, false},
        {"57P03", "the database system is starting up", "starting", false, false, false},
        {"57P01", "terminating connection due to administrator command", "starting", false, false,
            false},
        {"57P04", "database \"app\" was dropped", "other", true, false, false},
        {"53300", "sorry, too many clients already", "full", false, false, true},
        {"53300", "remaining connection slots are reserved", "full", false, false, true},
        {"53300", "too many connections for role \"app\"", "full", true, false, true},
        {"53300", "too many connections for database \"app\"", "full", true, false, true},
        {"28P01", "password authentication failed", "authentication", true, true, false},
        {"28000", "role \"app\" does not exist", "authentication", true, true, false},
        {"3D000", "database \"app\" does not exist", "database", true, true, false},
        {"42501", "permission denied for database \"app\"", "permission", true, true, false},
        {"08001", "session is read-only", "unsuitable", true, false, false},
        {"42601", "syntax error", "other", true, false, false},
        {"", "", "other", true, false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fail fail = reason(rows[i].sqlstate, rows[i].text);
        const struct connect_traits *traits = connect_traits(&fail);
        assert_string_equal(traits->name, rows[i].name);
        assert_int_equal(traits->concerns_pool, rows[i].concerns_pool);
        assert_int_equal(traits->is_permanent, rows[i].is_permanent);
        assert_int_equal(traits->is_busy, rows[i].is_busy);
    }
}

static void
test_waits_grow_up_to_their_limit_and_are_short_while_a_client_waits(void **state)
{
    static const struct
    {
        const char *sqlstate, *text;
        unsigned attempts;
        int64_t delay_us, hurried_us;
    } rows[] = {
        {"08001", "refused", 1, 100000, 100000},
        {"08001", "refused", 2, 150000, 150000},
        {"08001", "refused", 3, 225000, 225000},
        {"08001", "refused", 4, 337500, 300000},
        {"08001", "refused", 100, 2000000, 300000},
        {"57P03", "starting up", 1000000000, 2000000, 100000},
        {"08001", "SSL error", 1, 400000, 400000},
        {"53300", "sorry", 1, 400000, 400000},
        {"53300", "sorry", 2, 600000, 600000},
        {"53300", "sorry", 50, 2000000, 2000000},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fail fail = reason(rows[i].sqlstate, rows[i].text);
        struct retry retry = connect_retry(&settings, connect_traits(&fail), rows[i].attempts, 7);
        assert_int_equal(retry.at_us - 7, rows[i].delay_us);
        assert_int_equal(retry.hurried_at_us - 7, rows[i].hurried_us);
    }
}

static void
test_waits_vary_by_the_jitter_and_not_more(void **state)
{
    struct settings shaky = settings;
    struct fail fail = reason("08001", "refused");
    int64_t least = INT64_MAX, most = 0;

    (void)state;
    shaky.server_retry_jitter = 20;
    for (int64_t now_us = 0; now_us < 5000; now_us++) {
        struct retry retry = connect_retry(&shaky, connect_traits(&fail), 1, now_us);
        int64_t delay_us = retry.at_us - now_us;
        least = delay_us < least ? delay_us : least;
        most = delay_us > most ? delay_us : most;
    }
    assert_true(least >= 80000 && least <= 81000);
    assert_true(most >= 119000 && most <= 120000);
}

static void
test_one_attempt_at_a_time_while_it_fails(void **state)
{
    struct endpoint *endpoint = endpoint_new("db1:5432", "db1");

    (void)state;
    endpoint_limit(endpoint, 4);
    for (int i = 0; i < 20; i++) {
        assert_true(endpoint_admit(endpoint, true, 0)); /* healthy: the pools' limits hold */
    }
    assert_int_equal(fail_login(endpoint, 0), ENDPOINT_COUNTED);
    assert_false(endpoint_admit(endpoint, true, 5000000)); /* 19 are on their way */
    for (int i = 0; i < 19; i++) {
        assert_int_equal(fail_login(endpoint, 1000), ENDPOINT_NO_NEWS); /* they tell nothing new */
    }
    assert_int_equal(endpoint_look(endpoint).attempts, 1);
    assert_false(endpoint_admit(endpoint, true, 99999));
    assert_true(endpoint_admit(endpoint, true, 100000));
    assert_false(endpoint_admit(endpoint, true, 100000));
    assert_false(endpoint_admit(endpoint, false, INT64_MAX));
    assert_int_equal(fail_login(endpoint, 100000), ENDPOINT_COUNTED);
    assert_false(endpoint_admit(endpoint, true, 249999));
    assert_true(endpoint_admit(endpoint, true, 250000));
    assert_int_equal(endpoint_withdrawn(endpoint), ENDPOINT_NO_NEWS);
    assert_true(endpoint_admit(endpoint, true, 250000)); /* gave its place back */
    assert_int_equal(endpoint_look(endpoint).logins, 1);
    endpoint_free(&endpoint);
}

static void
test_is_called_down_once_after_enough_attempts(void **state)
{
    struct endpoint *endpoint = endpoint_new("db1:5432", "db1");
    int64_t now_us = 0;

    (void)state;
    for (int i = 1; i < 12; i++) {
        assert_true(endpoint_admit(endpoint, true, now_us));
        unsigned news = fail_login(endpoint, now_us);
        assert_int_equal(news, i == 5 ? ENDPOINT_COUNTED | ENDPOINT_FELL : ENDPOINT_COUNTED);
        now_us += 300000;
    }
    struct endpoint_view view = endpoint_look(endpoint);
    assert_int_equal(view.state, ENDPOINT_DOWN);
    assert_int_equal(view.since_us, 0);
    assert_int_equal(view.down_total, 1);
    assert_int_equal(view.failures, 11);
    assert_false(endpoint_admit(endpoint, false, now_us)); /* nobody waits: two seconds */
    assert_true(endpoint_admit(endpoint, false, now_us + 1700000));
    endpoint_free(&endpoint);
}

static void
test_full_server_is_never_called_down(void **state)
{
    struct endpoint *endpoint = endpoint_new("db1:5432", "db1");
    struct fail fail = reason("53300", "sorry, too many clients already");
    struct endpoint_view view;
    int64_t now_us = 0;

    (void)state;
    for (int i = 0; i < 9; i++, now_us += 2000000) {
        assert_true(endpoint_admit(endpoint, true, now_us));
        assert_int_equal(
            endpoint_failed(endpoint, &settings, &fail, now_us, &view), ENDPOINT_COUNTED);
    }
    assert_int_equal(view.state, ENDPOINT_FAILING);
    endpoint_free(&endpoint);
}

static void
test_recovery_admits_one_two_four_and_then_any_number(void **state)
{
    struct endpoint *endpoint = endpoint_new("db1:5432", "db1");

    (void)state;
    endpoint_limit(endpoint, 4);
    assert_true(endpoint_admit(endpoint, true, 0));
    fail_login(endpoint, 0);
    assert_false(endpoint_admit(endpoint, true, 1));
    assert_true(endpoint_admit(endpoint, true, 100000));
    assert_int_equal(answer(endpoint, 200000), ENDPOINT_CAME_BACK | ENDPOINT_HAS_ROOM);
    for (int most = 2; most <= 4; most += 2) {
        for (int i = endpoint_look(endpoint).logins; i < most; i++) {
            assert_true(endpoint_admit(endpoint, true, 200000));
        }
        assert_false(endpoint_admit(endpoint, true, 200000));
        assert_int_equal(answer(endpoint, 200000), ENDPOINT_HAS_ROOM);
    }
    assert_int_equal(endpoint_look(endpoint).allowance, 4);
    assert_int_equal(answer(endpoint, 200000), ENDPOINT_NO_NEWS); /* nobody was denied since */
    endpoint_settle(endpoint, 5000000);
    assert_int_equal(endpoint_look(endpoint).state, ENDPOINT_RECOVERING);
    while (endpoint_look(endpoint).logins > 0) {
        answer(endpoint, 200000);
    }
    endpoint_settle(endpoint, 1200000);
    assert_int_equal(endpoint_look(endpoint).state, ENDPOINT_RECOVERING);
    endpoint_settle(endpoint, 1200001);
    assert_int_equal(endpoint_look(endpoint).state, ENDPOINT_UP);
    for (int i = 0; i < 100; i++) {
        assert_true(endpoint_admit(endpoint, true, 1200002));
    }
    endpoint_free(&endpoint);
}

static void
test_death_of_a_backend_starts_a_slow_start(void **state)
{
    struct endpoint *endpoint = endpoint_new("db1:5432", "db1");

    (void)state;
    endpoint_limit(endpoint, 2);
    endpoint_shaken(endpoint, 0);
    assert_true(endpoint_admit(endpoint, true, 1));
    assert_true(endpoint_admit(endpoint, true, 1));
    assert_false(endpoint_admit(endpoint, true, 1));
    assert_int_equal(endpoint_withdrawn(endpoint), ENDPOINT_HAS_ROOM);
    assert_true(endpoint_admit(endpoint, true, 1));
    endpoint_free(&endpoint);
}

/* Logins fail at random, from never to nearly always; every one of 64 gets in, in bounded time, and
 * never are more than max_logins on their way once it has failed. */
static void
test_recovery_always_makes_progress(void **state)
{
    enum
    {
        STEP_US = 10000,
        LIMIT_US = 300000000
    };

    (void)state;
    for (int percent = 0; percent <= 90; percent += 10) {
        struct endpoint *endpoint = endpoint_new("db1:5432", "db1");
        int waiting = 64, on_their_way = 1;
        int64_t now_us = 0;

        srand(1);
        endpoint_limit(endpoint, 4);
        assert_true(endpoint_admit(endpoint, true, now_us));
        while (waiting > 0 && now_us < LIMIT_US) {
            for (int i = on_their_way; i > 0; i--, on_their_way--) {
                bool has_failed = now_us == 0 || rand() % 100 < percent;
                has_failed ? fail_login(endpoint, now_us) : answer(endpoint, now_us);
                waiting -= has_failed ? 0 : 1;
            }
            now_us += STEP_US;
            while (on_their_way < waiting && endpoint_admit(endpoint, true, now_us)) {
                on_their_way++;
            }
            assert_true(on_their_way <= 4);
            assert_int_equal(endpoint_look(endpoint).logins, on_their_way);
        }
        assert_int_equal(waiting, 0);
        endpoint_free(&endpoint);
    }
}

static void
test_logins_in_progress_move_to_a_new_endpoint(void **state)
{
    struct endpoint *old = endpoint_new("db1:5432", "db1"), *new = endpoint_new("db2:5432", "db2");

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_true(endpoint_admit(old, true, 0));
    }
    endpoint_take_over(new, old, 2);
    assert_int_equal(endpoint_look(old).logins, 1);
    assert_int_equal(endpoint_look(new).logins, 2);
    answer(new, 0);
    answer(new, 0);
    answer(old, 0);
    endpoint_free(&old);
    endpoint_free(&new);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reasons_have_classes),
        cmocka_unit_test(test_waits_grow_up_to_their_limit_and_are_short_while_a_client_waits),
        cmocka_unit_test(test_waits_vary_by_the_jitter_and_not_more),
        cmocka_unit_test(test_one_attempt_at_a_time_while_it_fails),
        cmocka_unit_test(test_is_called_down_once_after_enough_attempts),
        cmocka_unit_test(test_full_server_is_never_called_down),
        cmocka_unit_test(test_recovery_admits_one_two_four_and_then_any_number),
        cmocka_unit_test(test_death_of_a_backend_starts_a_slow_start),
        cmocka_unit_test(test_recovery_always_makes_progress),
        cmocka_unit_test(test_logins_in_progress_move_to_a_new_endpoint),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
