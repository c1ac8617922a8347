/* conf/hba: rules and maps in PostgreSQL's grammar, and what is not understood. */
#include "conf/hba.h"

#include "base/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static char findings[2000];

static void
report(void *arg, const char *path, int line, const char *text)
{
    size_t len = strlen(findings);

    (void)arg;
    (void)path;
    snprintf(findings + len, sizeof(findings) - len, "%d: %s\n", line, text);
}

static void
write_file(char *path, const char *text)
{
    strcpy(path, "/tmp/pgkeel-hba-XXXXXX");
    int fd = mkstemp(path);
    ensure(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static struct hba *
read_texts(const char *text, const char *ident)
{
    char path[64], ident_path[64] = "";

    findings[0] = '\0';
    write_file(path, text);
    if (ident != NULL) {
        write_file(ident_path, ident);
    }
    struct hba *hba = hba_read(path, ident_path, report, NULL);
    unlink(path);
    unlink(ident_path);
    return hba;
}

static int
line_for(const struct hba *hba, struct hba_client client)
{
    const struct hba_rule *rule = hba_find(hba, &client);

    return rule != NULL ? rule->line : 0;
}

static void
test_first_rule_that_fits_counts(void **state)
{
    struct hba *hba = read_texts(
        "# comment\n"
        "local all all peer # for ourselves\n"
        "host app,\"with space\" ann,bob 10.0.0.0/8 scram-sha-256\n"
        "host app carl 10.1.0.0 255.255.0.0 md5\n"
        "hostssl sameuser all all cert\n"
        "hostnossl sameuser all all reject\n"
        "host /^test_[0-9]+$ /^t 192.168.7.9/32 password\n"
        "host replication rep ::1/128 \\\n"
        "   trust\n"
        "host \"all\" \"sameuser\" 0.0.0.0/0 trust\n"
        "host all eve samehost trust\n",
        NULL);
    static const struct
    {
        struct hba_client client;
        int line;
    } rows[] = {
        {{.database = "x", .user = "y"}, 2},
        {{.database = "app", .user = "ann", .address = "10.255.0.1"}, 3},
        {{.database = "with space", .user = "bob", .address = "10.0.0.1"}, 3},
        {{.database = "with space", .user = "carl", .address = "10.0.0.1"}, 0},
        {{.database = "app", .user = "ann", .address = "11.0.0.1"}, 0},
        {{.database = "app", .user = "carl", .address = "10.1.200.1"}, 4},
        {{.database = "app", .user = "carl", .address = "10.2.200.1"}, 0},
        {{.database = "ann", .user = "ann", .address = "10.0.0.1", .has_tls = true}, 5},
        {{.database = "ann", .user = "ann", .address = "10.0.0.1"}, 6},
        {{.database = "test_12", .user = "tim", .address = "192.168.7.9"}, 7},
        {{.database = "test_x", .user = "tim", .address = "192.168.7.9"}, 0},
        {{.database = "test_12", .user = "tim", .address = "192.168.7.8"}, 0},
        {{.database = "", .user = "rep", .address = "::1", .is_replication = true}, 8},
        {{.database = "replication", .user = "rep", .address = "::1"}, 0},
        {{.database = "all", .user = "sameuser", .address = "1.2.3.4"}, 10},
        {{.database = "x", .user = "sameuser", .address = "1.2.3.4"}, 0},
        {{.database = "x", .user = "eve", .address = "127.0.0.1"}, 11},
        {{.database = "x", .user = "eve", .address = "203.0.113.9"}, 0},
        {{.database = "x", .user = "eve", .address = "nonsense"}, 0},
    };

    (void)state;
    assert_string_equal(findings, "");
    assert_non_null(hba);
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_int_equal(line_for(hba, rows[i].client), rows[i].line);
    }
    hba_free(&hba);
}

static void
test_mistakes_are_told_each_with_its_line(void **state)
{
    static const struct
    {
        const char *text, *finding;
    } rows[] = {
        {"hots all all all trust", "1: expected local, host"},
        {"\n\nhost all", "3: expected database"},
        {"host all all trust", "1: expected an address"},
        {"host all all example.com trust", "not looked up"},
        {"host all all 10.0.0.0/33 trust", "length of the network"},
        {"host all all 10.0.0.0/ trust", "length of the network"},
        {"host all all ::1/129 trust", "length of the network"},
        {"host all all 10.0.0.0 trust", "or a mask"},
        {"host all all 10.0.0.0 ffff:: trust", "or a mask"},
        {"host all all all", "the method is missing"},
        {"host all all all ldap", "expected a method"},
        {"host all all all md5 x=y", "an option"},
        {"host all all all md5 map=x", "map is for"},
        {"host all all all peer", "peer is for local"},
        {"host all all all cert", "certificates are for hostssl"},
        {"host all +staff all trust", "members of roles"},
        {"host samerole all all trust", "members of roles"},
        {"host @names all all trust", "files of names"},
        {"host \"all all all trust", "a quote is not closed"},
        {"host /( all all trust", "regular expression"},
        {"host /^tmp\\d+$ all all reject", "not POSIX's"},
        {"host all /^(?!app_) all reject", "not POSIX's"},
        {"host all /^[\\w.]+$ all reject", "not POSIX's"},
        {"host all /***=ann all reject", "not POSIX's"},
        {"hostnossl,hostssl all all all reject", "1: expected local, host"},
        {"host all all 10.0.0.0 255.0.0.0,255.255.0.0 trust", "or a mask"},
        {"hostssl all all all trust\vclientcert=verify-full", "expected a method"},
        {"hostssl all all all md5 clientcert=verify-full,x=y", "an option"},
        {"host all a,\"b all trust", "a quote is not closed"},
        {"include /nowhere,/etc/passwd", "cannot include"},
        {"include /nowhere", "1: No such file"},
        {"include_dir /tmp", "include_dir"},
        {"host all all all trust\\\n\\\nx\nlocal", "4: expected database"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct hba *hba = read_texts(rows[i].text, NULL);
        assert_null(hba);
        if (strstr(findings, rows[i].finding) == NULL) {
            fail_msg("%s: %s", rows[i].text, findings);
        }
    }
    assert_null(hba_read("/nowhere", "", report, NULL));
}

static void
test_maps(void **state)
{
    struct hba *hba = read_texts("hostssl all all all cert map=m\nlocal all all peer map=n\n",
        "m  anna  ann\nm /^(.*)@example\\.com$ \\1\nm /^admin_ \"boss\"\nn root all\n");
    struct hba_rule by_m = {.map = "m"}, by_n = {.map = "n"}, plain = {.map = NULL};

    (void)state;
    assert_non_null(hba);
    assert_true(hba_maps(hba, &by_m, "anna", "ann"));
    assert_false(hba_maps(hba, &by_m, "ann", "ann"));
    assert_true(hba_maps(hba, &by_m, "bob@example.com", "bob"));
    assert_false(hba_maps(hba, &by_m, "bob@example.com", "ann"));
    assert_false(hba_maps(hba, &by_m, "bob@exampleXcom", "bob"));
    assert_true(hba_maps(hba, &by_m, "admin_7", "boss"));
    assert_true(hba_maps(hba, &by_n, "root", "anybody"));
    assert_false(hba_maps(hba, &by_n, "anna", "ann"));
    assert_true(hba_maps(hba, &plain, "ann", "ann"));
    assert_false(hba_maps(hba, &plain, "ann", "Ann"));
    hba_free(&hba);
    assert_null(read_texts("", "m anna\n"));
    assert_null(read_texts("", "m anna +staff\n"));
}

static void
test_included_files_and_endless_includes(void **state)
{
    char path[64], text[200];

    (void)state;
    write_file(path, "host all ann all trust\n");
    snprintf(text, sizeof(text), "include %s\ninclude_if_exists /nowhere\nhost all bob all trust\n",
        path);
    struct hba *hba = read_texts(text, NULL);
    assert_non_null(hba);
    struct hba_client client = {.database = "x", .user = "bob", .address = "1.1.1.1"};
    assert_int_equal(line_for(hba, client), 3);
    client.user = "ann";
    assert_int_equal(line_for(hba, client), 1);
    hba_free(&hba);
    FILE *file = fopen(path, "w");
    fprintf(file, "include %s\n", path);
    fclose(file);
    findings[0] = '\0';
    assert_null(hba_read(path, "", report, NULL));
    unlink(path);
}

static void
test_words_are_read_as_postgres_reads_them(void **state)
{
    struct hba *hba = read_texts("host sameuser all all reject\n"
                                 "host \"/^tmp_[0-9]{1,2}$\" \"a\"\"b\" all reject\n"
                                 "host /^[^]]x$|^\\w\\.[[:digit:]]$ all all reject\n",
        NULL);
    static const struct
    {
        struct hba_client client;
        int line;
    } rows[] = {
        {{.database = "sameuser", .user = "ann", .address = "1.1.1.1"}, 0},
        {{.database = "sameuser", .user = "sameuser", .address = "1.1.1.1"}, 1},
        {{.database = "tmp_12", .user = "a\"b", .address = "1.1.1.1"}, 2},
        {{.database = "tmp_123", .user = "a\"b", .address = "1.1.1.1"}, 0},
        {{.database = "tmp_12", .user = "ab", .address = "1.1.1.1"}, 0},
        {{.database = "yx", .user = "ann", .address = "1.1.1.1"}, 3},
        {{.database = "]x", .user = "ann", .address = "1.1.1.1"}, 0},
        {{.database = "a.7", .user = "ann", .address = "1.1.1.1"}, 3},
    };

    (void)state;
    assert_string_equal(findings, "");
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_int_equal(line_for(hba, rows[i].client), rows[i].line);
    }
    hba_free(&hba);
}

static void
test_every_option_between_commas_counts(void **state)
{
    struct hba *hba = read_texts("hostssl all all all cert clientcert=verify-full,map=m\n"
                                 "hostssl all all all md5 map=m,clientcert=verify-full\n",
        "m anna ann\n");
    struct hba_client client = {
        .database = "x", .user = "ann", .address = "1.1.1.1", .has_tls = true};

    (void)state;
    assert_string_equal(findings, "");
    const struct hba_rule *rule = hba_find(hba, &client);
    assert_string_equal(rule->map, "m");
    assert_true(rule->needs_certificate && rule->needs_name);
    assert_false(hba_maps(hba, rule, "ann", "ann"));
    hba_free(&hba);
}

static void
test_relative_includes_are_beside_the_file_that_has_them(void **state)
{
    char path[64], text[200];

    (void)state;
    write_file(path, "host all ann all reject\n");
    snprintf(text, sizeof(text), "include_if_exists %s\nhost all all all trust\n",
        strrchr(path, '/') + 1);
    struct hba *hba = read_texts(text, NULL);
    struct hba_client client = {.database = "x", .user = "ann", .address = "1.1.1.1"};
    assert_int_equal(line_for(hba, client), 1);
    client.user = "bob";
    assert_int_equal(line_for(hba, client), 2);
    hba_free(&hba);
    unlink(path);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_rule_that_fits_counts),
        cmocka_unit_test(test_mistakes_are_told_each_with_its_line),
        cmocka_unit_test(test_maps),
        cmocka_unit_test(test_words_are_read_as_postgres_reads_them),
        cmocka_unit_test(test_every_option_between_commas_counts),
        cmocka_unit_test(test_relative_includes_are_beside_the_file_that_has_them),
        cmocka_unit_test(test_included_files_and_endless_includes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
