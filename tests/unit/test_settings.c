/* conf/settings: files, environment, command line; what is said about their errors. */
#include "conf/settings.h"

#include "conf/internal.h"
#include "conf/users.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <libpq-fe.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Everything that was reported, one line each: "E place key: text". */
static char findings[1 << 20];
static size_t findings_len;

static void
report(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    (void)arg;
    findings_len += (size_t)snprintf(findings + findings_len, sizeof(findings) - findings_len,
        "%c %s %s: %s\n", "IWE"[severity], place, key, text);
    assert_true(findings_len < sizeof(findings));
}

static bool
parse(const char *conninfo, void (*each)(void *arg, const char *keyword, const char *value),
    void *arg, char *error, size_t size)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo, &message);

    snprintf(error, size, "%s", message == NULL ? "" : message);
    PQfreemem(message);
    for (PQconninfoOption *at = options; at != NULL && at->keyword != NULL; at++) {
        if (at->val != NULL) {
            each(arg, at->keyword, at->val);
        }
    }
    PQconninfoFree(options);
    return options != NULL;
}

static struct settings *
load(const char *path, const char *text, char **environment, const char *const *overrides)
{
    struct settings_source source = {path, text, environment, overrides, parse};

    findings_len = 0;
    findings[0] = '\0';
    return settings_load(&source, report, NULL);
}

static struct settings *
load_text(const char *text)
{
    return load(NULL, text, NULL, NULL);
}

static struct settings *
load_good(const char *text)
{
    struct settings *settings = load_text(text);

    if (settings == NULL) {
        fail_msg("%s", findings);
    }
    return settings;
}

static void
expect_error(const char *text, const char *expected)
{
    struct settings *settings = load_text(text);

    if (settings != NULL || strstr(findings, expected) == NULL) {
        fail_msg("%s\nexpected: %s\nsaid: %s", text, expected, findings);
    }
}

static const char *
keyword(const struct database *database, const char *name)
{
    for (size_t i = 0; database->keywords[i] != NULL; i++) {
        if (strcmp(database->keywords[i], name) == 0) {
            return database->values[i];
        }
    }
    return NULL;
}

static char *
temporary(const char *content, size_t len)
{
    char *path = strdup("/tmp/pgkeel_test_XXXXXX");
    int fd = mkstemp(path);

    assert_true(fd >= 0 && write(fd, content, len) == (ssize_t)len);
    close(fd);
    return path;
}

static void
temporary_remove(char *path)
{
    unlink(path);
    free(path);
}

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
        {"auth_type = hba", "auth_type: not built yet"},
        {"auth_type = md6", "(did you mean \"md5\"?)"},
        {"auth_hba_file = x", "auth_hba_file: not built yet: without it"},
        {"auth_user = x", "auth_user: not built yet: without it"},
        {"auth_query = x", "auth_query: not built yet: without it"},
        {"client_tls_sslmode = verify-full", "client_tls_sslmode: not built yet"},
        {"server_tls_sslmode = on", "must be one of disable, allow"},
        {"syslog_facility = moon", "must be one of auth, authpriv"},
        {"auth_file = /nonexistent", "cannot read \"/nonexistent\": No such file"},
        {"listen_port = 1\nlisten_port = 2",
            "E pgkeel.ini:5 listen_port: given twice, first at pgkeel.ini:4"},
        {"listen_port: 1", "expected key = value"},
        {"listen_port", "expected key = value"},
        {"= 1", "expected key = value"},
        {"[pgboncer]", "unknown section [pgboncer] (did you mean \"pgbouncer\"?)"},
        {"[pgkeel", "the ] of a section is missing"},
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
    expect_error("[pgkeel]\n", "no database is configured: set DATABASE_URL or write");
    /* All at once. */
    expect_error("[pgkeel]\na = 1\nlisten_port = 0\n[databases]\nx = prt=1\n", "2 a: unknown key");
    assert_non_null(strstr(findings, ":3 listen_port: "));
    assert_non_null(strstr(findings, ":5 x: prt: unknown key (did you mean \"port\"?)"));
}

static void
test_known_keys_are_mentioned(void **state)
{
    struct settings *settings =
        load_good("[databases]\n*=\n[pgbouncer]\ndns_max_ttl = 5\nclient_tls_sslmode = prefer\n"
                  "auth_hba_file =\nserver_check_query = <empty>\n[peers]\n1 = host=x\n");

    (void)state;
    assert_non_null(strstr(findings, "I pgkeel.ini:4 dns_max_ttl: not needed: "));
    assert_non_null(strstr(findings, "I pgkeel.ini:5 client_tls_sslmode: not needed: "));
    assert_non_null(strstr(findings, "I pgkeel.ini:8 peers: not needed: "));
    assert_null(strstr(findings, "E "));
    assert_string_equal(settings->server_check_query, "");
    settings_release(&settings);
}

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
        "connect_query=select%202&application_name=x%20y&server_lifetime=5min\n"
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
        {"auth_user=x", "auth_user: not built yet"},
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
        "[users]\nann = pool_size=9 pool_mode=session max_user_connections=2 query_timeout=3\n"
        "bob = reserve_pool_size=1 query_wait_timeout=500ms\n");

    (void)state;
    assert_non_null(strstr(findings, "I pgkeel.ini:5 ann: query_timeout: not built yet"));
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
    settings_release(&settings);
    expect_error("[databases]\n*=\n[users]\na = pol_size=1\na =\n",
        "4 a: pol_size: unknown key (did you mean \"pool_size\"?)");
    assert_non_null(strstr(findings, ":5 a: given twice, first at pgkeel.ini:4"));
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
        {"PGKEEL_LISTEN_PORT=x", "E environment listen_port: must be"},
        {"PGKEEL_AUTH_USER=x", "E environment auth_user: not built yet"},
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
            {"min_pool_size", "2", "environment"}, {"reserve_pool_size", "3", "command line"},
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
    fprintf(file, "%%include %s\n", strrchr(loop, '/') + 1); /* beside the including file */
    fclose(file);
    assert_null(load(loop, NULL, NULL, NULL));
    assert_non_null(strstr(findings, ":1 : more than 8 files include each other"));
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
    assert_non_null(strstr(findings, "E /nonexistent : cannot be read: No such file"));
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
        cmocka_unit_test(test_connection_strings),
        cmocka_unit_test(test_bad_connection_strings),
        cmocka_unit_test(test_users_section),
        cmocka_unit_test(test_identity_keeps_and_hides),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_bad_environment),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_include),
        cmocka_unit_test(test_pgbouncer_ini_of_debian),
        cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_many_are_fast),
        cmocka_unit_test(test_printing),
        cmocka_unit_test(test_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
