/* conf/users: userlist.txt, good, hostile and large. */
#include "conf/users.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BYTES(text) text, sizeof(text) - 1
#define VERIFIER                                                                                   \
    "SCRAM-SHA-256$4096:c2FsdA==$"                                                                 \
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA="

struct findings
{
    int count;
    int line;
    char text[100];
};

static void
report(void *arg, int line, const char *text)
{
    struct findings *findings = arg;

    findings->count++;
    findings->line = line;
    snprintf(findings->text, sizeof(findings->text), "%s", text);
}

static void
test_reads_lines(void **state)
{
    static const char text[] = "; comment\n# too\n\n  \"ann\" \"plain;#\"\r\n"
                               "\"b\"\"ob\" \"q\"\"q\" more\n"
                               "\"m\" \"md50123456789abcdef0123456789abcdef\"\n"
                               "\"n\" \"md5short\"\n\"e\" \"\"\n"
                               "\"s\"\t\"" VERIFIER "\"";
    static const struct
    {
        const char *name, *secret;
        enum secret_kind kind;
    } expected[] = {
        {"ann", "plain;#", SECRET_PLAIN},
        {"b\"ob", "q\"q", SECRET_PLAIN},
        {"m", "md50123456789abcdef0123456789abcdef", SECRET_MD5},
        {"n", "md5short", SECRET_PLAIN},
        {"e", "", SECRET_PLAIN},
        {"s", VERIFIER, SECRET_SCRAM},
    };
    struct users *users = users_new();
    struct findings findings = {0};

    (void)state;
    assert_true(users_parse(users, BYTES(text), report, &findings));
    assert_int_equal(users_count(users), COUNT(expected));
    for (size_t i = 0; i < COUNT(expected); i++) {
        const struct user *user = users_find(users, expected[i].name);
        assert_non_null(user);
        assert_string_equal(user->name, expected[i].name);
        assert_string_equal(user->secret, expected[i].secret);
        assert_int_equal(user->kind, expected[i].kind);
    }
    assert_null(users_find(users, "nobody"));
    assert_int_equal(findings.count, 0);
    users_free(&users);
    assert_null(users);
    users_free(&users);
}

static void
test_reports_bad_lines_and_goes_on(void **state)
{
    static const struct
    {
        const char *text;
        size_t len;
        const char *why;
    } bad[] = {
        {BYTES("\n\"open"), "a quote is not closed"},
        {BYTES("\n\"a\" \"open\n"), "a quote is not closed"},
        {BYTES("\nann secret"), "expected \"name\" \"secret\""},
        {BYTES("\n\"ann\""), "expected \"name\" \"secret\""},
        {BYTES("\n\"\" \"x\""), "the name is empty"},
        {BYTES("\n\"a\0b\" \"x\""), "contains a zero byte"},
        {BYTES("\n\"a\" \"\0\""), "contains a zero byte"},
        {BYTES("\n\"a\" \"SCRAM-SHA-256$4096:c2FsdA==$a:b\""),
            "expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"},
        {BYTES("\n\"a\" \"SCRAM-SHA-256$\""),
            "expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct users *users = users_new();
        struct findings findings = {0};
        assert_false(users_parse(users, bad[i].text, bad[i].len, report, &findings));
        assert_int_equal(findings.count, 1);
        assert_int_equal(findings.line, 2);
        assert_string_equal(findings.text, bad[i].why);
        assert_true(users_parse(users, BYTES("\"c\" \"d\""), report, &findings));
        assert_int_equal(users_count(users), 1);
        users_free(&users);
    }
}

static void
test_limits_length(void **state)
{
    enum { LEN = 1 << 20 };
    char *text = malloc(LEN);
    struct users *users = users_new();
    struct findings findings = {0};

    (void)state;
    assert_non_null(text);
    memset(text, 'x', LEN);
    text[0] = '"';
    assert_false(users_parse(users, text, LEN, report, &findings));
    memcpy(text, "\"a\" \"", 5);
    assert_false(users_parse(users, text, LEN, report, &findings));
    assert_int_equal(findings.count, 2);
    assert_string_equal(findings.text, "too long");
    free(text);
    users_free(&users);
}

static void
test_adding_replaces(void **state)
{
    struct users *users = users_new();

    (void)state;
    users_add(users, "ann", "one");
    users_add(users, "ann", "SCRAM-SHA-256$two");
    assert_int_equal(users_count(users), 1);
    assert_string_equal(users_find(users, "ann")->secret, "SCRAM-SHA-256$two");
    assert_int_equal(users_find(users, "ann")->kind, SECRET_SCRAM);
    users_free(&users);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_lines),
        cmocka_unit_test(test_reports_bad_lines_and_goes_on),
        cmocka_unit_test(test_limits_length),
        cmocka_unit_test(test_adding_replaces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
