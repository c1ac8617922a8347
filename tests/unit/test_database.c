/* conf/database: connection strings, [users], what identifies a database. */
#include "settings_fixture.h"

/* --- Databases and users --- */

static void
test_connection_strings(void **state)
{
    struct settings *settings = load_good("[pgkeel]\nserver_tls_sslmode = require\n"
        "server_tls_ca_file = /ca\ntcp_user_timeout = 5000\n[databases]\n"
        "a = host = h1,h2 port=1,2 password='it''s \\'x\\\\' user=u dbname=d pool_size=7 "
        "pool_mode=session reserve_pool=3 connect_query='select 1' datestyle='ISO, DMY' "
        "timezone=UTC options='-c x=y' application_name=app query_wait_timeout=-1\n"
        "b = postgresql://u%40:p%41ss@h:5,i:6/d?pool_size=3&sslmode=verify-full&"
        "connect_query=select%202&application_name=x%20y&server_lifetime=5min&"
        "password_command=a%20%22%24PGHOST%22%3B%20b&password_command_ttl=14min\n"
        "\"c d\"\"e\" = dbname='' keepalives_idle=9 load_balance_hosts=round-robin\n"
        "e =\n");
    const struct database *a = settings_find_database(settings, "a");
    const struct database *b = settings_find_database(settings, "b");
    const struct database *c = settings_find_database(settings, "c d\"e");

    (void)state;
    assert_string_equal(a->host, "h1,h2");
    assert_string_equal(a->port, "1,2");
    assert_string_equal(a->password, "it's 'x\\");
    assert_string_equal(a->user, "u");
    assert_string_equal(a->dbname, "d");
    assert_string_equal(a->connect_query, "select 1");
    assert_int_equal(a->pool_size, 7);
    assert_int_equal(a->reserve_pool_size, 3);
    assert_int_equal(a->query_wait_timeout, NOT_SET);
    assert_int_equal(a->pool_mode, POOL_SESSION);
    assert_string_equal(keyword(a, "options"), "-c x=y -c datestyle=ISO,\\ DMY -c timezone=UTC");
    assert_string_equal(keyword(a, "application_name"), "app");
    assert_string_equal(keyword(a, "sslmode"), "require");
    assert_string_equal(keyword(a, "sslrootcert"), "/ca");
    assert_string_equal(keyword(a, "tcp_user_timeout"), "5000");
    assert_null(keyword(a, "password"));
    assert_null(keyword(a, "user"));
    assert_null(keyword(a, "dbname"));
    assert_string_equal(b->user, "u@");
    assert_string_equal(b->password, "pAss");
    assert_string_equal(b->host, "h,i");
    assert_string_equal(keyword(b, "sslmode"), "verify-full");
    assert_string_equal(keyword(b, "application_name"), "x y");
    assert_string_equal(b->connect_query, "select 2");
    assert_string_equal(b->password_command, "a \"$PGHOST\"; b");
    assert_int_equal(settings_password_command_ttl(settings, "b"), 840000000);
    assert_int_equal(settings_password_command_ttl(settings, "a"), 600000000);
    assert_int_equal(settings_server_lifetime(settings, "b"), 300000000);
    assert_int_equal(settings_server_lifetime(settings, "a"), 3600000000);
    assert_non_null(c);
    assert_null(c->dbname);
    assert_string_equal(keyword(c, "keepalives_idle"), "9");
    assert_non_null(settings_find_database(settings, "e"));
    assert_null(settings_find_database(settings, "f"));
    assert_string_not_equal(a->identity, b->identity);
    size_t cursor = 0;
    assert_ptr_equal(settings_next_database(settings, &cursor), a);
    assert_ptr_equal(settings_next_database(settings, &cursor), b);
    assert_ptr_equal(settings_next_database(settings, &cursor), c);
    assert_non_null(settings_next_database(settings, &cursor));
    assert_null(settings_next_database(settings, &cursor));
    settings_release(&settings);
}

/* libpq is asked for the same. */
static void
test_values_are_unescaped_as_libpq_does(void **state)
{
    static const char *const texts[] = {"password=a\\", "password=a\\\\", "password=\\'a\\ b",
        "password='a\\'b\\\\'", "password=a'b", "password=''"};
    char ini[100];

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        PQconninfoOption *options = PQconninfoParse(texts[i], NULL), *at = options;
        assert_non_null(options);
        while (strcmp(at->keyword, "password") != 0) {
            at++;
        }
        snprintf(ini, sizeof(ini), "[databases]\nd = %s\n", texts[i]);
        struct settings *settings = load_good(ini);
        const char *password = settings_find_database(settings, "d")->password;
        assert_string_equal(password != NULL ? password : "", at->val);
        settings_release(&settings);
        PQconninfoFree(options);
    }
}

static void
test_bad_connection_strings(void **state)
{
    static const struct
    {
        const char *value, *expected;
    } bad[] = {
        {"host='x", "E pgkeel.ini:2 a: a quote is not closed after host="},
        {"host", "expected key=value after the start"},
        {"password=my secret", "expected key=value after password"},
        {"hots=x", "a: hots: unknown key (did you mean \"host\"?)"},
        {"replication=1", "replication: unknown key"},
        {"port=0", "port: must be between 1 and 65535"},
        {"port=5432,x", "port: must be between 1 and 65535"},
        {"pool_size=x", "pool_size: must be a whole number"},
        {"pool_size=-2", "pool_size: must be between 0"},
        {"pool_mode=x", "pool_mode: must be one of"},
        {"auth_ldap_options=x", "auth_ldap_options: unknown key"},
        {"gssencmode=prefer", "gssencmode: must be disable"},
        {"load_balance_hosts=x", "must be one of disable, random"},
        {"postgresql://u:p%zz@h/d", "E pgkeel.ini:2 a: invalid percent-encoded token\n"},
        {"postgresql://h/d?pool_siz=1", "pool_siz: unknown key (did you mean \"pool_size\"?)"},
        {"postgresql://h/d?pool_size=%4", "bad %-escape"},
        {"postgresql://h/d?x%00y=1", "bad %-escape"},
    };
    char text[300];

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        snprintf(text, sizeof(text), "[databases]\na = %s", bad[i].value);
        expect_error(text, bad[i].expected);
        assert_null(strstr(findings, "secret"));
    }
    expect_error("[databases]\na=\na=\n", "pgkeel.ini:3 a: given twice, first at pgkeel.ini:2");
    expect_error("[databases]\npgbouncer=\n", "this is the name of the console");
    expect_error("[databases]\n\"\" =\n", "the name is empty");
    expect_error("[databases]\n"
                 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg =\n",
        "longer than 63 bytes");
}

static void
test_users_section(void **state)
{
    struct settings *settings = load_good("[databases]\nd = pool_size=4 pool_mode=statement\n*=\n"
        "[users]\nann = pool_size=9 pool_mode=session max_user_connections=2 "
        "query_timeout=3 idle_transaction_timeout=4 max_user_client_connections=7\n"
        "bob = reserve_pool_size=1 query_wait_timeout=500ms\n");

    (void)state;
    assert_int_equal(settings_max_user_client_connections(settings, "ann"), 7);
    assert_int_equal(settings_max_user_client_connections(settings, "bob"), 0);
    assert_int_equal(settings_pool_size(settings, "d", "ann"), 9);
    assert_int_equal(settings_pool_size(settings, "d", "bob"), 4);
    assert_int_equal(settings_pool_size(settings, "x", "bob"), 20);
    assert_int_equal(settings_pool_mode(settings, "d", "ann"), POOL_SESSION);
    assert_int_equal(settings_pool_mode(settings, "d", NULL), POOL_STATEMENT);
    assert_int_equal(settings_pool_mode(settings, "x", "bob"), POOL_TRANSACTION);
    assert_int_equal(settings_max_user_connections(settings, "ann"), 2);
    assert_int_equal(settings_max_user_connections(settings, "bob"), 0);
    assert_int_equal(settings_reserve_pool_size(settings, "d", "bob"), 1);
    assert_int_equal(settings_query_wait_timeout(settings, "d", "bob"), 500000);
    assert_int_equal(settings_query_wait_timeout(settings, "d", "ann"), 120000000);
    assert_int_equal(settings_query_timeout(settings, "ann"), 3000000);
    assert_int_equal(settings_query_timeout(settings, "bob"), 0);
    assert_int_equal(settings_idle_transaction_timeout(settings, "ann"), 4000000);
    assert_int_equal(settings_transaction_timeout(settings, "ann"), 0);
    settings_release(&settings);
    expect_error("[databases]\n*=\n[users]\na = pol_size=1\na =\n",
        "4 a: pol_size: unknown key (did you mean \"pool_size\"?)");
    assert_non_null(strstr(findings, ":5 a: given twice, first at pgkeel.ini:4"));
}

static void
test_names_in_quotes(void **state)
{
    struct settings *settings = load_good("[databases]\n\"a:b=c\" = host=colon\n\"d\"=host=d \n"
        "[users]\n\"x = \"\"y\"\"\" = pool_size=3\n");

    (void)state;
    assert_string_equal(settings_find_database(settings, "a:b=c")->host, "colon");
    assert_string_equal(settings_find_database(settings, "d")->host, "d");
    assert_int_equal(settings_pool_size(settings, "d", "x = \"y\""), 3);
    settings_release(&settings);
    expect_error("[databases]\n\"open = password=secret\n", "E pgkeel.ini:2 : the quote of a name");
    assert_null(strstr(findings, "secret"));
    expect_error("[databases]\n\"open\"\"", "the quote of a name is not closed");
    expect_error("[databases]\n\"", "the quote of a name is not closed");
    expect_error("[databases]\n\"a\" b = x", "expected \"name\" = value");
    expect_error("[databases]\n\"a\"", "expected \"name\" = value");
    expect_error("[databases]\n*=\n[users]\n\"\" = pool_size=1", "4 : the name is empty");
}

/* As libpq reads it: the password ends at the @, whatever is in it. */
static void
test_question_mark_in_a_password(void **state)
{
    static const char *const urls[] = {"postgresql://u:p?q@h/d?pool_size=3&sslmode=require",
        "postgresql://u:p?q@h?pool_size=3&dbname=d&sslmode=require",
        "postgres://u:p?q@/d?host=h&sslmode=require&pool_size=3"};
    char text[200];

    (void)state;
    for (size_t i = 0; i < COUNT(urls); i++) {
        snprintf(text, sizeof(text), "[databases]\na = %s", urls[i]);
        struct settings *settings = load_good(text);
        const struct database *a = settings_find_database(settings, "a");
        assert_string_equal(a->password, "p?q");
        assert_string_equal(a->host, "h");
        assert_string_equal(a->dbname, "d");
        assert_int_equal(a->pool_size, 3);
        assert_string_equal(keyword(a, "sslmode"), "require");
        settings_release(&settings);
    }
}

static void
test_warns_of_what_will_surprise(void **state)
{
    struct settings *settings = load_good("[databases]\na = password=se\\cret\n"
        "b = password='a\\'b\\\\c' dbname=x\\ y\nc = max_db_client_connections=5\n"
        "d = max_db_client_connections=0\ne = postgresql://h/x?options=a\\b\n");

    (void)state;
    assert_non_null(strstr(findings, "W pgkeel.ini:2 a: a backslash only takes away"));
    assert_null(strstr(findings, ":3 "));
    assert_null(strstr(findings, ":4 "));
    assert_null(strstr(findings, ":5 "));
    assert_null(strstr(findings, ":6 "));
    assert_null(strstr(findings, "cret"));
    assert_string_equal(settings_find_database(settings, "b")->password, "a'b\\c");
    assert_string_equal(settings_find_database(settings, "b")->dbname, "x y");
    assert_int_equal(settings_max_db_client_connections(settings, "c"), 5);
    assert_int_equal(settings_max_db_client_connections(settings, "a"), 0);
    settings_release(&settings);
}

static void
test_identity_keeps_and_hides(void **state)
{
    static const char *const values[] = {"host=h password=secretx", "host=h password=secrety",
        "host=h", "host=g", "host=h user=u", "host=h dbname=d", "host=h sslmode=require",
        "host=h connect_query=x"};
    struct settings *first = load_good("[databases]\na = host=h password=secretx pool_size=1\n");
    const char *identity = settings_find_database(first, "a")->identity;

    (void)state;
    for (size_t i = 0; i < COUNT(values); i++) {
        char text[200];
        snprintf(text, sizeof(text), "[databases]\na = %s", values[i]);
        struct settings *other = load_good(text);
        const char *theirs = settings_find_database(other, "a")->identity;
        assert_int_equal(strcmp(identity, theirs) == 0, i == 0);
        assert_null(strstr(theirs, "secret"));
        settings_release(&other);
    }
    settings_release(&first);
}

/* --- server_tls_* --- */

static void
expect_keyword(const char *keys, const char *string, const char *name, const char *expected)
{
    char text[400];

    snprintf(text, sizeof(text), "[databases]\na = %s\n[pgkeel]\n%s", string, keys);
    struct settings *settings = load_good(text);
    const char *got = keyword(settings_find_database(settings, "a"), name);
    if ((got == NULL) != (expected == NULL) || (got != NULL && strcmp(got, expected) != 0)) {
        fail_msg("%s, %s: %s is %s", keys, string, name, got == NULL ? "not set" : got);
    }
    settings_release(&settings);
}

static void
test_tls_keys_in_libpqs_words(void **state)
{
    static const char pair[] = "server_tls_cert_file = /c\nserver_tls_key_file = /k";
    static const struct
    {
        const char *keys, *string, *name, *expected;
    } cases[] = {
        {"", "", "sslmode", "prefer"},
        {"", "sslmode=disable", "sslmode", "disable"},
        {"", "", "sslrootcert", NULL},
        /* libpq would fall back to clear text when the authority does not vouch. */
        {"server_tls_ca_file = /a", "", "sslrootcert", NULL},
        {"server_tls_ca_file = /a", "sslmode=require", "sslrootcert", "/a"},
        {"server_tls_ca_file = /a", "sslmode=verify-full", "sslrootcert", "/a"},
        {"server_tls_ca_file = /a", "sslmode=require sslrootcert=/b", "sslrootcert", "/b"},
        {"server_tls_ca_file = /a", "sslmode=prefer sslrootcert=/b", "sslrootcert", "/b"},
        {"server_tls_ca_file = /a\nserver_tls_sslmode = verify-ca", "", "sslrootcert", "/a"},
        {pair, "", "sslcert", "/c"},
        {pair, "", "sslkey", "/k"},
        /* The key is another certificate's. */
        {pair, "sslcert=/d", "sslkey", NULL},
        {pair, "sslkey=/d", "sslcert", NULL},
        {"", "", "ssl_min_protocol_version", "TLSv1.2"},
        {"", "", "ssl_max_protocol_version", NULL},
        {"server_tls_protocols =", "", "ssl_min_protocol_version", "TLSv1.2"},
        {"server_tls_protocols = tlsv1.3", "", "ssl_min_protocol_version", "TLSv1.3"},
        {"server_tls_protocols = tlsv1.2", "", "ssl_max_protocol_version", "TLSv1.2"},
        {"server_tls_protocols = TLSv1.2:tlsv1.1", "", "ssl_min_protocol_version", "TLSv1.1"},
        {"server_tls_protocols = all", "", "ssl_min_protocol_version", "TLSv1"},
        {"server_tls_protocols = legacy", "", "ssl_max_protocol_version", NULL},
        /* A lowest one above the highest would let nothing connect. */
        {"server_tls_protocols = tlsv1.2", "ssl_min_protocol_version=TLSv1.3",
            "ssl_max_protocol_version", NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        expect_keyword(cases[i].keys, cases[i].string, cases[i].name, cases[i].expected);
        assert_null(strstr(findings, "without sslrootcert"));
    }
    /* PgBouncer takes the system's authorities here. */
    expect_keyword("server_tls_sslmode = verify-full", "", "sslrootcert", NULL);
    assert_non_null(strstr(findings, "W pgkeel.ini:2 a: sslmode: verify-full without sslrootcert"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connection_strings),
        cmocka_unit_test(test_values_are_unescaped_as_libpq_does),
        cmocka_unit_test(test_bad_connection_strings),
        cmocka_unit_test(test_users_section),
        cmocka_unit_test(test_names_in_quotes),
        cmocka_unit_test(test_question_mark_in_a_password),
        cmocka_unit_test(test_warns_of_what_will_surprise),
        cmocka_unit_test(test_identity_keeps_and_hides),
        cmocka_unit_test(test_tls_keys_in_libpqs_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
