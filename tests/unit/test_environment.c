/* conf/environment: variables, and which source wins. */
#include "settings_fixture.h"

/* --- Sources --- */

static void
test_environment(void **state)
{
    char *file = temporary("s3cret\n", 7);
    char *url = temporary("postgresql://eve:pw@h/evedb\r\n", 29);
    char file_variable[100];
    char url_variable[100];
    char *environment[] = {"DATABASE_URL=postgresql://app:se%20cret@db:5433/shop?pool_size=3",
        "DATABASE_URL_TWO=postgres://bob@h2", url_variable, file_variable, "HOME=/",
        "PGKEEL_LISTEN_PORT=7000", "PGKEEL_POL_MODE=session", "PGKEEL_BIN=x", "PGKEEL_CONFIG=y",
        "PGKEEL_AUTH_FILE=", "=odd", "odd", "DATABASE_URLS=x", NULL};

    (void)state;
    snprintf(file_variable, sizeof(file_variable), "PGKEEL_SYSLOG_IDENT_FILE=%s", file);
    snprintf(url_variable, sizeof(url_variable), "DATABASE_URL_THREE_FILE=%s", url);
    struct settings *settings = load(NULL, NULL, environment, NULL);
    assert_non_null(settings);
    assert_int_equal(settings->listen_port, 7000);
    assert_int_equal(settings->auth_type, AUTH_TYPE_SCRAM);
    assert_string_equal(settings->syslog_ident, "s3cret");
    assert_non_null(strstr(findings, "W environment PGKEEL_POL_MODE: unknown variable (did you "
                                     "mean \"PGKEEL_POOL_MODE\"?)"));
    assert_null(strstr(findings, "PGKEEL_BIN"));
    assert_non_null(strstr(findings, "W DATABASE_URL_TWO two: has no password"));
    const struct database *shop = settings_find_database(settings, "shop");
    assert_string_equal(shop->dbname, "shop");
    assert_string_equal(shop->user, "app");
    assert_string_equal(shop->password, "se cret");
    assert_string_equal(shop->port, "5433");
    assert_int_equal(shop->pool_size, 3);
    assert_string_equal(users_find(settings->userlist, "app")->secret, "se cret");
    assert_string_equal(users_find(settings->userlist, "bob")->secret, "");
    assert_string_equal(settings_find_database(settings, "two")->dbname, "bob");
    assert_string_equal(settings_find_database(settings, "three")->dbname, "evedb");
    assert_string_equal(users_find(settings->userlist, "eve")->secret, "pw");
    settings_release(&settings);
    temporary_remove(file);
    temporary_remove(url);
}

static void
test_bad_environment(void **state)
{
    static char *const bad[][2] = {
        {"DATABASE_URL=postgresql://h:1", "E DATABASE_URL : names neither a database nor a user"},
        {"DATABASE_URL_FILE=/nonexistent", "E environment DATABASE_URL_FILE: cannot read"},
        {"PGKEEL_LISTEN_PORT=x", "E environment PGKEEL_LISTEN_PORT listen_port: must be"},
        {"PGKEEL_AUTH_LDAP_OPTIONS=x",
            "E environment PGKEEL_AUTH_LDAP_OPTIONS auth_ldap_options: not built yet"},
        {"PGKEEL_LISTEN_PORT_FILE=/nonexistent", "PGKEEL_LISTEN_PORT_FILE: cannot read"},
        {"DATABASE_URL=", "E environment : no database is configured"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        char *environment[] = {bad[i][0], NULL};
        assert_null(load(NULL, NULL, environment, NULL));
        if (strstr(findings, bad[i][1]) == NULL) {
            fail_msg("%s: %s", bad[i][0], findings);
        }
    }
    char *both[] = {"DATABASE_URL=postgresql://a/b", "DATABASE_URL_FILE=/x", NULL};
    assert_null(load(NULL, NULL, both, NULL));
    assert_non_null(strstr(findings, "DATABASE_URL is set, too"));
}

static void
test_precedence(void **state)
{
    static const char text[] = "[databases]\na = host=file\nb = host=file\n[pgkeel]\n"
                               "default_pool_size = 1\nmin_pool_size = 1\nreserve_pool_size = 1\n";
    char *environment[] = {"PGKEEL_MIN_POOL_SIZE=2", "PGKEEL_RESERVE_POOL_SIZE=2",
        "DATABASE_URL=postgresql://env/a", "DATABASE_URL_B=host=env", NULL};
    const char *const overrides[] = {"reserve_pool_size=3", NULL};
    struct settings *settings = load(NULL, text, environment, overrides);
    struct settings_row row;
    size_t cursor = 0;
    int seen = 0;

    (void)state;
    assert_non_null(settings);
    assert_int_equal(settings->default_pool_size, 1);
    assert_int_equal(settings->min_pool_size, 2);
    assert_int_equal(settings->reserve_pool_size, 3);
    assert_string_equal(settings_find_database(settings, "a")->host, "env");
    assert_string_equal(settings_find_database(settings, "b")->host, "env");
    while (settings_next_row(settings, &cursor, &row)) {
        static const char *const origins[][3] = {{"default_pool_size", "1", "pgkeel.ini:5"},
            {"min_pool_size", "2", "environment PGKEEL_MIN_POOL_SIZE"},
            {"reserve_pool_size", "3", "command line"},
            {"listen_port", "6432", "default"}};
        for (size_t i = 0; i < COUNT(origins); i++) {
            if (strcmp(row.key, origins[i][0]) == 0) {
                assert_string_equal(row.value, origins[i][1]);
                assert_string_equal(row.origin, origins[i][2]);
                seen++;
            }
        }
    }
    assert_int_equal(cursor, KEY_COUNT);
    assert_int_equal(seen, 4);
    struct settings *held = settings_hold(settings);
    settings_release(&settings);
    assert_int_equal(held->min_pool_size, 2);
    settings_release(&held);
    const char *const odd[] = {"nothing", "=x", NULL};
    assert_null(load(NULL, text, NULL, odd));
    assert_non_null(strstr(findings, "E command line nothing: expected key=value"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_bad_environment),
        cmocka_unit_test(test_precedence),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
