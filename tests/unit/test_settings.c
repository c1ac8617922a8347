/* conf/settings: keys, files, what is said about their errors, printing. */
#include "conf/files.h"
#include "settings_fixture.h"

/* --- Keys --- */

static const char pgbouncer_keys[] =
    "logfile pidfile listen_addr listen_port unix_socket_dir unix_socket_mode "
    "unix_socket_group user pool_mode max_client_conn default_pool_size min_pool_size "
    "reserve_pool_size reserve_pool_timeout max_db_connections max_db_client_connections "
    "max_user_connections max_user_client_connections server_round_robin "
    "track_extra_parameters ignore_startup_parameters peer_id disable_pqexec "
    "application_name_add_host conffile service_name job_name stats_period "
    "max_prepared_statements scram_iterations auth_type auth_hba_file auth_ident_file "
    "auth_file auth_user auth_query auth_dbname auth_ldap_options syslog syslog_ident "
    "syslog_facility log_connections log_disconnections log_pooler_errors log_stats verbose "
    "admin_users stats_users server_reset_query server_reset_query_always server_check_delay "
    "server_check_query server_fast_close server_lifetime server_idle_timeout "
    "server_connect_timeout server_login_retry client_login_timeout autodb_idle_timeout "
    "pool_idle_timeout dns_max_ttl dns_nxdomain_ttl dns_zone_check_period resolv_conf "
    "query_wait_notify login_notify_message client_tls_sslmode client_tls_key_file "
    "client_tls_cert_file client_tls_ca_file client_tls_protocols client_tls_ciphers "
    "client_tls13_ciphers client_tls_ecdhcurve client_tls_dheparams server_tls_sslmode "
    "server_tls_ca_file server_tls_key_file server_tls_cert_file server_tls_protocols "
    "server_tls_ciphers server_tls13_ciphers query_timeout query_wait_timeout "
    "cancel_wait_timeout client_idle_timeout idle_transaction_timeout transaction_timeout "
    "suspend_timeout pkt_buf max_packet_size listen_backlog sbuf_loopcnt so_reuseport "
    "tcp_defer_accept tcp_socket_buffer tcp_keepalive tcp_keepcnt tcp_keepidle tcp_keepintvl "
    "tcp_user_timeout ";

static void
test_all_keys_of_pgbouncer_are_known(void **state)
{
    char *keys = strdup(pgbouncer_keys);
    char *rest = keys;
    char *key;
    int count = 0;

    (void)state;
    while ((key = strtok_r(rest, " ", &rest)) != NULL) {
        if (key_find(key) == NULL && known_find(key) == NULL) {
            fail_msg("%s is not known", key);
        }
        count++;
    }
    assert_int_equal(count, 101);
    free(keys);
}

static void
test_defaults(void **state)
{
    struct settings *settings = load_good("[databases]\n* =\n");

    (void)state;
    assert_string_equal(settings->listen_addr, "127.0.0.1");
    assert_int_equal(settings->listen_port, 6432);
    assert_int_equal(settings->unix_socket_mode, 0777);
    assert_int_equal(settings->pool_mode, POOL_TRANSACTION);
    assert_int_equal(settings->auth_type, AUTH_TYPE_MD5);
    assert_int_equal(settings->transparent_retry, RETRY_ABORTED);
    assert_int_equal(settings->server_retry_delay, 100000);
    assert_true(settings->server_retry_multiplier == 1.5);
    assert_int_equal(settings->read_buffer, 65536);
    assert_int_equal(settings->max_packet_size, 2147483647);
    assert_int_equal(settings_pool_size(settings, "any", "ann"), 20);
    const struct database *database = settings_find_database(settings, "any");
    assert_string_equal(database->name, "*");
    assert_string_equal(keyword(database, "gssencmode"), "disable");
    assert_string_equal(keyword(database, "sslmode"), "prefer");
    assert_string_equal(keyword(database, "keepalives_idle"), "30");
    assert_null(keyword(database, "sslrootcert"));
    assert_null(keyword(database, "tcp_user_timeout"));
    settings_release(&settings);
    assert_null(settings);
}

static void
test_values_and_errors(void **state)
{
    static const struct
    {
        const char *line, *expected;
    } bad[] = {
        {"listen_port = 0", "E pgkeel.ini:4 listen_port: must be between 1 and 65535"},
        {"listen_port = x", "must be a whole number, between 1 and 65535"},
        {"read_buffer = 1kB", "read_buffer: must be between 16384 and 1048576"},
        {"server_lifetime = -5", "must be a duration"},
        {"client_login_timeout = 2d", "must be between 0 and 1d"},
        {"unix_socket_mode = 777", "must be between 0000 and 0777"},
        {"server_retry_multiplier = 99", "must be between 1 and 10"},
        {"server_retry_multiplier = nan", "must be a number between 1 and 10"},
        {"verbose = 99999999999999999999999", "must be a whole number"},
        {"so_reuseport = maybe", "must be on or off"},
        {"pool_mode = transactions",
            "must be one of session, transaction, statement (did you mean \"transaction\"?)"},
        {"pol_mode = session", "unknown key (did you mean \"pool_mode\"?)"},
        {"qwertz = 1", "E pgkeel.ini:4 qwertz: unknown key\n"},
        {"auth_type = ldap", "auth_type: not built"},
        {"auth_type = hba", "auth_type: hba needs auth_hba_file"},
        {"auth_type = cert", "auth_type: cert needs client_tls_sslmode"},
        {"auth_type = md6", "(did you mean \"md5\"?)"},
        {"auth_type = hba\nauth_hba_file = /nowhere/hba", "/nowhere/hba:0 : No such file"},
        {"client_tls_sslmode = prefer", "needs client_tls_cert_file and client_tls_key_file"},
        {"client_tls_sslmode = verify-full", "client_tls_sslmode: needs client_tls_ca_file"},
        {"client_tls_sslmode = on", "must be one of disable, allow"},
        {"server_tls_sslmode = on", "must be one of disable, allow"},
        {"server_tls_protocols = sslv3", "E pgkeel.ini:4 server_tls_protocols: must be secure"},
        {"server_tls_protocols = tlsv1.1,tlsv1.3", "neighbours of tlsv1.0"},
        {"server_tls_ciphers = AES128-SHA", "restrict them there (CipherString)"},
        {"server_tls13_ciphers = TLS_AES_128_GCM_SHA256", "restrict them there (Ciphersuites)"},
        {"server_tls_cert_file = /c", "server_tls_cert_file: needs server_tls_key_file, too"},
        {"server_tls_key_file = /k", "server_tls_key_file: needs server_tls_cert_file, too"},
        {"syslog_facility = moon", "must be one of auth, authpriv"},
        {"auth_file = /nonexistent", "cannot read \"/nonexistent\": No such file"},
        {"listen_port = 1\nlisten_port = 2",
            "E pgkeel.ini:5 listen_port: given twice, first at pgkeel.ini:4"},
        {"listen_port: 1", "expected key = value"},
        {"listen_port", "expected key = value"},
        {"= 1", "expected key = value"},
        {"[pgboncer]", "unknown section [pgboncer] (did you mean \"pgbouncer\"?)"},
        {"[pgkeel", "the ] of a section is missing"},
        {"[pgkeel]listen_port = 1", "unexpected text after the ] of a section"},
        {"%inclode x", "unknown directive"},
        {"%include /nonexistent", "cannot read \"/nonexistent\": No such file"},
    };
    char text[500];

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        snprintf(text, sizeof(text), "[databases]\n*=\n[pgbouncer]\n%s", bad[i].line);
        expect_error(text, bad[i].expected);
    }
    expect_error("x = 1", "stands before the first [section]");
    expect_error("[pgkeel]\n", "E pgkeel.ini : no database is configured: set DATABASE_URL or ");
    assert_null(strstr(findings, "nobody can log in")); /* what follows from errors is noise */
    /* All at once. */
    expect_error("[pgkeel]\na = 1\nlisten_port = 0\n[databases]\nx = prt=1\n", "2 a: unknown key");
    assert_non_null(strstr(findings, ":3 listen_port: "));
    assert_non_null(strstr(findings, ":5 x: prt: unknown key (did you mean \"port\"?)"));
}

static void
test_known_keys_are_mentioned(void **state)
{
    struct settings *settings =
        load_good("[databases]\n*=\n[pgbouncer]\ndns_max_ttl = 5\nclient_tls_dheparams = auto\n"
                  "server_tls_ciphers = Fast\nserver_tls13_ciphers =\nauth_hba_file =\n"
                  "server_check_query = <empty>\n[peers]\n1 = host=x\n");

    (void)state;
    assert_non_null(strstr(findings, "I pgkeel.ini:4 dns_max_ttl: not needed: "));
    assert_non_null(strstr(findings, "I pgkeel.ini:5 client_tls_dheparams: not needed: "));
    assert_non_null(strstr(findings, "I pgkeel.ini:10 peers: not needed: "));
    assert_null(strstr(findings, "E "));
    assert_string_equal(settings->server_check_query, "");
    settings_release(&settings);
}

static void
test_nobody_can_log_in(void **state)
{
    struct settings *settings = load_good("[databases]\n*=\n");

    (void)state;
    assert_string_equal(
        findings, "W pgkeel.ini auth_file: no user is known, so nobody can log in\n");
    settings_release(&settings);
    settings = load_good("[databases]\n*=\n[pgkeel]\nauth_type = any\n");
    assert_string_equal(findings, "");
    settings_release(&settings);
}

static void
test_include(void **state)
{
    char text[300];
    char *inner = temporary("c = host=inner", 14);
    char *loop = temporary("", 0);

    (void)state;
    snprintf(text, sizeof(text), "[databases]\na=\n%%include %s\nb=\n", inner);
    struct settings *settings = load_good(text);
    assert_string_equal(settings_find_database(settings, "c")->host, "inner");
    assert_non_null(settings_find_database(settings, "b"));
    settings_release(&settings);

    FILE *file = fopen(loop, "w");
    assert_non_null(file);
    for (int i = 0; i < 50; i++) { /* 50 to the power of 8, unless the first loop ends it all */
        fprintf(file, "%%include %s\n", strrchr(loop, '/') + 1); /* beside the including file */
    }
    fclose(file);
    assert_null(load(loop, NULL, NULL, NULL));
    const char *said = strstr(findings, ":1 : more than 8 files include each other");
    assert_non_null(said);
    assert_null(strstr(said + 10, ":1 : more than"));
    temporary_remove(inner);
    temporary_remove(loop);
}

static void
test_pgbouncer_ini_of_debian(void **state)
{
    char *users = temporary("\"ann\" \"secret\"\n", 15);
    char text[300];
    char override[100];
    const char *const overrides[] = {override, NULL};
    const char *path = access("tests/unit/data/pgbouncer.ini", R_OK) == 0
                           ? "tests/unit/data/pgbouncer.ini"
                           : "data/pgbouncer.ini";

    (void)state;
    snprintf(text, sizeof(text), "[databases]\napp = host=h\n%%include %s\n", path);
    snprintf(override, sizeof(override), "auth_file=%s", users);
    struct settings *settings = load(NULL, text, NULL, overrides);
    if (settings == NULL) {
        fail_msg("%s", findings);
    }
    assert_string_equal(settings->listen_addr, "localhost");
    assert_string_equal(settings->unix_socket_dir, "/var/run/postgresql");
    assert_int_equal(users_find(settings->userlist, "ann")->kind, SECRET_PLAIN);
    settings_release(&settings);
    temporary_remove(users);
}

static void
test_hostile_files(void **state)
{
    enum { LEN = 3 << 20 };
    char *large = malloc(LEN + 1);
    static const char zero[] = "[databases]\na=\n[pgkeel]\nlisten\0_port = 1\nlisten_port = 7";
    char *path = temporary(zero, sizeof(zero) - 1);

    (void)state;
    assert_null(load(path, NULL, NULL, NULL));
    assert_non_null(strstr(findings, ":4 : contains a zero byte"));
    temporary_remove(path);
    assert_null(load("/nonexistent", NULL, NULL, NULL));
    assert_string_equal(
        findings, "E /nonexistent : cannot be read: No such file or directory\n");
    assert_null(load("/", NULL, NULL, NULL));

    assert_non_null(large);
    memset(large, 'x', LEN);
    large[LEN] = '\0';
    assert_null(load_text(large));
    assert_non_null(strstr(findings, "E pgkeel.ini:1 : longer than 1048576 bytes"));
    /* A long line that is allowed comes through whole. */
    memcpy(large, "[databases]\n*=\n[pgkeel]\nsyslog_ident=", 37);
    large[900000] = '\0';
    struct settings *settings = load_good(large);
    assert_int_equal(strlen(settings->syslog_ident), 900000 - 37);
    settings_release(&settings);
    settings = load_good("\xEF\xBB\xBF[databases]\r\n a = host=x \r\n\t;c\r\n#d\r\n[pgkeel]\r\n"
                         "syslog_ident = a ; b # c");
    assert_string_equal(settings_find_database(settings, "a")->host, "x");
    assert_string_equal(settings->syslog_ident, "a ; b # c");
    settings_release(&settings);
    free(large);
}

static void
test_many_are_fast(void **state)
{
    char *text = malloc(1 << 20);
    char *users = malloc(1 << 20);
    size_t len = (size_t)sprintf(text, "[databases]\n");
    size_t users_len = 0;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        len += (size_t)sprintf(text + len, "db%d = host=h%d port=5432 pool_size=5\n", i, i);
    }
    for (int i = 0; i < 10000; i++) {
        users_len += (size_t)sprintf(users + users_len, "\"user%d\" \"secret%d\"\n", i, i);
    }
    char *path = temporary(users, users_len);
    sprintf(text + len, "[pgkeel]\nauth_file = %s\n", path);
    clock_t start = clock();
    struct settings *settings = load_good(text);
    assert_true(clock() - start < CLOCKS_PER_SEC);
    assert_int_equal(users_count(settings->userlist), 10000);
    assert_string_equal(settings_find_database(settings, "db999")->host, "h999");
    settings_release(&settings);
    temporary_remove(path);
    free(text);
    free(users);
}

/* --- Printing --- */

static char *
printed(const struct settings *settings, enum settings_print how)
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);

    assert_non_null(stream);
    settings_print(settings, how, stream);
    fclose(stream);
    return text;
}

static void
test_printing(void **state)
{
    struct settings *settings = load_good("[databases]\nd = password=hush sslpassword=hush user=u "
        "host=h\n[pgkeel]\nlisten_port = 7000\n");

    (void)state;
    for (enum settings_print how = PRINT_TABLE; how <= PRINT_MARKDOWN; how++) {
        char *text = printed(settings, how);
        assert_null(strstr(text, "hush"));
        assert_non_null(strstr(text, "7000"));
        free(text);
        text = printed(NULL, how);
        assert_non_null(strstr(text, "6432"));
        free(text);
    }
    settings_release(&settings);
    /* The sample is itself a good file, also with every default written out. */
    char *text = printed(NULL, PRINT_INI);
    for (char *at = text; (at = strstr(at, "\n;")) != NULL; at++) {
        at[1] = at[2] == ' ' || at[2] == ';' ? ';' : ' ';
    }
    settings = load_good(text);
    assert_int_equal(settings->read_buffer, 65536);
    assert_string_equal(settings_find_database(settings, "two")->host, "db1,db2");
    settings_release(&settings);
    free(text);
}

/* Seen from the root, or from beside this file. */
static char *
sample(const char *name)
{
    char *path = NULL;

    assert_true(asprintf(&path, "%s/%s", access("etc", R_OK) == 0 ? "etc" : "../../etc", name) > 0);
    return path;
}

static void
test_samples(void **state)
{
    static const char *const names[] = {"minimal.ini", "docker.ini", "cloud.ini", "pgkeel.ini"};
    char *users = sample("userlist.txt");
    char override[300];
    const char *const overrides[] = {override, NULL};
    char *environment[] = {"DATABASE_URL=postgresql://app:secret@db/app", NULL};

    (void)state;
    snprintf(override, sizeof(override), "auth_file=%s", users);
    for (size_t i = 0; i < COUNT(names); i++) {
        char *path = sample(names[i]);
        struct settings *settings = load(path, NULL, environment, overrides);
        if (settings == NULL || strstr(findings, "W ") != NULL) {
            fail_msg("%s: %s", path, findings);
        }
        settings_release(&settings);
        free(path);
    }
    /* The complete one is what the table of keys says; `pgkeel --print-settings=ini` writes it. */
    char *path = sample("pgkeel.ini");
    char *text = printed(NULL, PRINT_INI);
    size_t len;
    char *kept = files_read(path, &len);
    assert_non_null(kept);
    assert_string_equal(kept, text);
    free(kept);
    free(text);
    free(path);
    free(users);
}

static void
test_lists(void **state)
{
    (void)state;
    assert_true(settings_lists("ann, bob", "ann"));
    assert_true(settings_lists("ann , bob", "ann"));
    assert_true(settings_lists("ann,bob ", "bob"));
    assert_false(settings_lists("ann, bob", "an"));
    assert_false(settings_lists("ann, bob", ""));
    assert_false(settings_lists("", "ann"));
    assert_false(settings_lists(",,", ""));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_keys_of_pgbouncer_are_known),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values_and_errors),
        cmocka_unit_test(test_known_keys_are_mentioned),
        cmocka_unit_test(test_nobody_can_log_in),
        cmocka_unit_test(test_include),
        cmocka_unit_test(test_pgbouncer_ini_of_debian),
        cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_many_are_fast),
        cmocka_unit_test(test_printing),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
