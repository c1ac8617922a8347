/* wire/sql: what PostgreSQL splits a text into, and what it would make of the pieces. */
#include "wire/sql.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sql_samples.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* One letter for each kind, so that a row says what comes out in one short string. */
static const char letters[] = {
    [SQL_OTHER] = 'o',
    [SQL_READ] = 'r',
    [SQL_WRITE] = 'w',
    [SQL_BEGIN] = 'B',
    [SQL_COMMIT] = 'C',
    [SQL_ROLLBACK] = 'R',
    [SQL_ROLLBACK_TO] = 'T',
    [SQL_PREPARE_TRANSACTION] = 'P',
    [SQL_COMMIT_PREPARED] = 'D',
    [SQL_ROLLBACK_PREPARED] = 'E',
};

/* Scans bytes of which there are exactly as many as said, so that the sanitizers see a read beyond
 * them; writes the kinds. What every result must hold is checked on the way. */
static void
scan(const char *text, size_t len, bool has_backslash_escapes, char *kinds_out)
{
    char *copy = malloc(len + 1); /* behind the first byte, since malloc(0) may give NULL */
    struct sql_statement statement;

    assert_non_null(copy);
    memcpy(copy + 1, text, len);
    struct sql_scanner scanner = sql_over(copy + 1, len, has_backslash_escapes);
    const char *from = copy + 1;
    while (sql_next(&scanner, &statement)) {
        assert_true(statement.len > 0 && statement.text >= from);
        from = statement.text + statement.len;
        assert_true(from <= copy + 1 + len);
        assert_null(memchr(" \t\n\r\f\v;", statement.text[0], 7));
        *kinds_out++ = letters[statement.kind];
    }
    *kinds_out = '\0';
    assert_false(sql_next(&scanner, &statement));
    free(copy);
}

static void
check_samples(const struct sample *samples, size_t count, bool has_backslash_escapes)
{
    char found[256];

    for (size_t i = 0; i < count; i++) {
        const char *text = samples[i].text;
        size_t len = strlen(text);
        scan(text, len, has_backslash_escapes, found);
        if (strcmp(found, samples[i].kinds) != 0) {
            fail_msg("%s: %s, not %s", text, found, samples[i].kinds);
        }
        for (size_t part = 0; part < len; part++) {
            scan(text, part, false, found);
            scan(text, part, true, found);
        }
    }
}

static void
test_tokens_end_where_the_server_ends_them(void **state)
{
    (void)state;
    check_samples(lexical, COUNT(lexical), false);
}

static void
test_bodies_of_routines_stay_whole(void **state)
{
    (void)state;
    check_samples(routines, COUNT(routines), false);
}

static void
test_kinds(void **state)
{
    (void)state;
    check_samples(kinds, COUNT(kinds), false);
}

static void
test_backslashes_without_standard_conforming_strings(void **state)
{
    (void)state;
    check_samples(backslashes, COUNT(backslashes), true);
}

/* Blanks and comments change nothing, wherever a blank may be. */
static void
test_blanks_and_comments_between_tokens(void **state)
{
    static const char *const blanks[] = {" ", "\n", "\r\n", "\f", "/**/", "/* ; */", "/*/*;*/'*/",
        "--\n", "-- ';\r", " -- $$\n\t/*\"*/"};
    static const char *const commands[][5] = {
        {"rollback", "work", "to", "x", "T"},
        {"rollback", "prepared", "'x'", "", "E"},
        {"commit", "prepared", "'x'", "", "D"},
        {"prepare", "transaction", "'x'", "", "P"},
        {"prepare", "transaction", "as", "select 1", "o"},
        {"start", "transaction", "read", "only", "B"},
        {"(", "select", "1", ")", "r"},
        {"select", "1", "into", "t", "w"},
    };
    char text[256];
    char found[256];

    (void)state;
    for (size_t i = 0; i < COUNT(blanks) * COUNT(commands); i++) {
        const char *blank = blanks[i % COUNT(blanks)];
        const char *const *command = commands[i / COUNT(blanks)];
        snprintf(text, sizeof(text), "%s%s%s%s%s%s%s%s%s;%scommit%s", blank, command[0], blank,
            command[1], blank, command[2], blank, command[3], blank, blank, blank);
        scan(text, strlen(text), false, found);
        if (found[0] != command[4][0] || strcmp(found + 1, "C") != 0) {
            fail_msg("%s: %s, not %sC", text, found, command[4]);
        }
    }
}

static void
test_a_zero_byte_ends_all_certainty(void **state)
{
    static const struct sample rows[] = {
        /* @ stands for it */
        {"@", "o"},
        {"select 1@", "o"},
        {"select a@", "o"},
        {"select 1; select 2@; commit", "ro"},
        {"commit; @; commit", "Co"},
        {"@commit", "o"},
        {"commit@", "o"},
        {"select '@'; commit", "o"},
        {"select E'\\@'; commit", "o"},
        {"select U&'@'; commit", "o"},
        {"select 'a'\n@'b'; commit", "o"},
        {"select $$@$$; commit", "o"},
        {"select $@$; commit", "o"},
        {"select \"@\"; commit", "o"},
        {"select /*@*/ 1; commit", "o"},
        {"select 1 --@\n; commit", "o"},
        {"select (@); commit", "o"},
    };
    char text[64];
    char found[64];

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t len = strlen(rows[i].text);
        memcpy(text, rows[i].text, len);
        *(char *)memchr(text, '@', len) = '\0';
        scan(text, len, false, found);
        if (strcmp(found, rows[i].kinds) != 0) {
            fail_msg("%s: %s, not %s", rows[i].text, found, rows[i].kinds);
        }
    }
}

static void
test_text_of_statements(void **state)
{
    static const char *const rows[][3] = {
        /* text, then its statements */
        {" select 1 ; select 2 ", "select 1", "select 2"},
        {"/* a */ select /* b */ 1 /* c */; -- d\n  commit -- e", "select /* b */ 1", "commit"},
        {"(select 1);(select 2) ;", "(select 1)", "(select 2)"},
        {"select 'a'\n --x\n ;commit", "select 'a'", "commit"},
        {";; select ';' ;; commit;", "select ';'", "commit"},
        {"create function f() begin atomic select 1; end ; commit",
            "create function f() begin atomic select 1; end", "commit"},
        {"commit; /* x", "commit", "/* x"},
        {"commit; select 1 /* x", "commit", "select 1 /* x"},
        {"commit; select 'x; y ", "commit", "select 'x; y "},
        {"commit; select (1; 2", "commit", "select (1; 2"},
    };
    struct sql_statement statement;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sql_scanner scanner = sql_over(rows[i][0], strlen(rows[i][0]), false);
        for (size_t j = 1; j < 3; j++) {
            assert_true(sql_next(&scanner, &statement));
            assert_int_equal(statement.len, strlen(rows[i][j]));
            assert_memory_equal(statement.text, rows[i][j], statement.len);
        }
        assert_false(sql_next(&scanner, &statement));
    }
}

static void
test_chains(void **state)
{
    static const struct
    {
        const char *text;
        bool is_chain;
    } rows[] = {
        {"commit", false},
        {"commit and chain", true},
        {"COMMIT WORK AND CHAIN", true},
        {"end transaction and /* no */ chain", true},
        {"rollback and chain", true},
        {"abort work and chain", true},
        {"rollback transaction and chain", true},
        {"commit and no chain", false},
        {"rollback work and no chain", false},
        {"commit and", false},
        {"commit chain", false},
        {"commit and \"chain\"", false},
        {"commit prepared and chain", false},
        {"rollback to and", false},
        {"begin and chain", false},
        {"select and chain", false},
    };
    struct sql_statement statement;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sql_scanner scanner = sql_over(rows[i].text, strlen(rows[i].text), false);
        assert_true(sql_next(&scanner, &statement));
        if (statement.is_chain != rows[i].is_chain) {
            fail_msg("%s", rows[i].text);
        }
    }
}

static void
test_modes(void **state)
{
    static const char *const rows[][2] = {
        {"begin", ""},
        {"begin ;", ""},
        {"begin work", ""},
        {"begin transaction -- read only", ""},
        {"start transaction /* x */ ;", ""},
        {"begin read only", "read only"},
        {"BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY , DEFERRABLE ;",
            "ISOLATION LEVEL SERIALIZABLE, READ ONLY , DEFERRABLE"},
        {"start /**/ transaction /**/ read /**/ write /**/; select 1", "read /**/ write"},
        {"begin work work", "work"},
        {"begin \"work\"", "\"work\""},
        {"commit work read only", ""},
        {"set transaction read only", ""},
        {"select transaction 1", ""},
    };
    struct sql_statement statement;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sql_scanner scanner = sql_over(rows[i][0], strlen(rows[i][0]), false);
        assert_true(sql_next(&scanner, &statement));
        assert_int_equal(statement.modes_len, strlen(rows[i][1]));
        assert_memory_equal(statement.modes, rows[i][1], statement.modes_len);
    }
}

static void
test_encodings(void **state)
{
    static const char *const readable[] = {"UTF8", "SQL_ASCII", "LATIN1", "LATIN10", "WIN1252",
        "WIN866", "ISO_8859_5", "KOI8R", "KOI8U", "EUC_JP", "EUC_JIS_2004", "EUC_TW",
        "MULE_INTERNAL"};
    static const char *const others[] = {
        "SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "", "utf", "UTF16"};

    (void)state;
    for (size_t i = 0; i < COUNT(readable); i++) {
        assert_true(sql_is_readable(readable[i]));
    }
    for (size_t i = 0; i < COUNT(others); i++) {
        assert_false(sql_is_readable(others[i]));
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens_end_where_the_server_ends_them),
        cmocka_unit_test(test_bodies_of_routines_stay_whole),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_backslashes_without_standard_conforming_strings),
        cmocka_unit_test(test_blanks_and_comments_between_tokens),
        cmocka_unit_test(test_a_zero_byte_ends_all_certainty),
        cmocka_unit_test(test_text_of_statements),
        cmocka_unit_test(test_chains),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_encodings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
