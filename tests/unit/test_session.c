/* wire/session: which texts leave something in a session, and what they name. */
#include "wire/session.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum
{
    L = SESSION_LEAVES,
    E = SESSION_ENDS,
    K = SESSION_LOCKS,
    Q = SESSION_SEQUENCES,
    O = SESSION_LOADS,
    U = SESSION_UNNAMED,
    D = SESSION_DEALLOCATES,
    A = SESSION_DEALLOCATES_ALL,
    S = SESSION_DISCARDS,
    N = SESSION_UNLISTENS,
    M = SESSION_UNLISTENS_ALL,
    ALL = L | E | K | U
};

/* names: of settings, then ":" and of statements, "@" and of channels. */
static const struct example
{
    const char *text;
    unsigned marks;
    const char *names;
} examples[] = {
    /* nothing */
    {"", 0, ""},
    {"SELECT abalance FROM pgbench_accounts WHERE aid = 1234;", 0, ""},
    {"INSERT INTO settings (a) VALUES ('SET x = 1')", 0, ""},
    {"UPDATE t SET a = 1", 0, ""},
    {"UPDATE t SET a = 1 FROM reset WHERE listen = 2", 0, ""},
    {"SELECT set, reset, listen FROM prepare", 0, ""},
    {"BEGIN", 0, ""},
    {"COMMIT", 0, ""},
    {"SELECT 'pg_advisory_lock(1)'", 0, ""},
    {"SELECT $$set_config('a', 'b', false)$$", 0, ""},
    {"SELECT $x$ ; SET a = 1; $x$", 0, ""},
    {"SELECT 1 -- ; SET x = 1", 0, ""},
    {"/* SET x = 1; LISTEN y */ SELECT 1", 0, ""},
    {"/* /* SET */ x = 1; */ SELECT 1", 0, ""},
    {"SELECT ';' , 'SET x = 1'", 0, ""},
    {"SELECT e'\\'; SET x = 1; --'", 0, ""},
    {"SELECT temp FROM sensors", 0, ""},
    {"SELECT a INTO t2 FROM t", 0, ""},
    {"SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)", 0, ""},
    {"SELECT nextval('s')", 0, ""},
    {"CREATE TABLE t (a int)", 0, ""},
    {"CREATE INDEX ON t (temperature)", 0, ""},
    {"ALTER SYSTEM SET work_mem = '1MB'", 0, ""},
    {"ALTER ROLE app SET search_path = x", 0, ""},
    {"CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = x AS $$ SELECT 1 $$", 0, ""},
    {"PREPARE TRANSACTION 'x'", 0, ""},
    {"NOTIFY x", 0, ""},
    {"COPY t FROM STDIN", 0, ""},
    {"EXPLAIN SELECT 1", 0, ""},
    {"DECLARE c CURSOR FOR SELECT 1", 0, ""},
    {"DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1", 0, ""},
    {"SELECT set_config", 0, ""},
    /* for the transaction only */
    {"SET LOCAL a = 1", 0, ""},
    {"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", 0, ""},
    {"SET CONSTRAINTS ALL DEFERRED", 0, ""},
    {"SELECT set_config('a', 'b', true)", 0, ""},
    {"SELECT set_config('a', $1, TRUE), set_config('b', $2, 't')", 0, ""},
    {"SELECT set_config('a', (SELECT f(x, y)), true)", 0, ""},
    /* settings */
    {"SET a = 1", L, "a "},
    {"set A.B to 'x'", L, "a.b "},
    {"SET \"A\".\"b c\" = 1", L, "A.b c "},
    {"SET SESSION a = 1", L, "a "},
    {"SET a TO DEFAULT", L, "a "},
    {"  -- hi\n /* there */ SET a = 1", L, "a "},
    {"SELECT 1; SET a = 1; SET b = 2", L, "a b "},
    {"SELECT ';'; SET a = 1", L, "a "},
    {"SET TIME ZONE 'UTC'", L, "time "},
    {"SET NAMES 'utf8'", L, "names "},
    {"SET ROLE bob", L, "role "},
    {"SET SESSION ROLE bob", L, "role "},
    {"SET SESSION AUTHORIZATION bob", L, "session_authorization "},
    {"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", L, "characteristics "},
    {"RESET a", L | E, "a "},
    {"RESET ALL", L | E, ""},
    {"RESET ROLE", L | E, "role "},
    {"RESET SESSION AUTHORIZATION", L | E, "session_authorization "},
    {"SELECT set_config('app.a', 'b', false)", L, "app.a "},
    {"SELECT set_config('app.a', 'b', $1)", L, "app.a "},
    {"SELECT set_config('app.a', 'b', not true)", L, "app.a "},
    {"SELECT pg_catalog . set_config /* x */ ( 'app.a' , 'b' , false )", L, "app.a "},
    {"SELECT \"set_config\"('app.a', 'b', false)", L, "app.a "},
    {"SELECT set_config($1, 'b', false)", L | U, ""},
    {"SELECT set_config('a' || 'b', 'b', false)", L | U, ""},
    {"SELECT set_config('a', 'b', true), set_config('c', 'd', false)", L, "c "},
    {"SELECT 0set_config('a', 'b', false)", L, "a "}, /* PostgreSQL before 15: 0 AS set_config */
    {"SELECT $x$y$x$lastval()", Q, ""},
    {"SELECT 1 FROM (SELECT set_config('a', 'b', 'false')) x", L, "a "},
    /* things */
    {"LISTEN x", L, ""},
    {"UNLISTEN x", E | N, "@x "},
    {"UNLISTEN \"X y\"", E | N, "@X y "},
    {"UNLISTEN *", E | M, ""},
    {"PREPARE p AS SELECT 1", L, ""},
    {"DECLARE c CURSOR WITH HOLD FOR SELECT 1", L, ""},
    {"CLOSE ALL", E, ""},
    {"LOAD 'auto_explain'", O, ""},
    {"CREATE TEMP TABLE t (a int)", L, ""},
    {"create global temporary table t (a int)", L, ""},
    {"CREATE OR REPLACE TEMP VIEW v AS SELECT 1", L, ""},
    {"SELECT 1 INTO TEMP t", L, ""},
    {"SELECT 1 INTO TEMPORARY TABLE t", L, ""},
    {"WITH x AS (SELECT 1) SELECT * INTO TEMP t FROM x", L, ""},
    {"CREATE TABLE pg_temp.t (a int)", L, ""},
    {"EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", L, ""},
    {"DROP TABLE t", E, ""},
    {"EXECUTE p", L | E | K, ""},
    {"CALL f()", L | E | K, ""},
    {"SELECT pg_advisory_lock(1)", L | K, ""},
    {"SELECT Pg_Try_Advisory_Lock_Shared(1)", L | K, ""},
    {"SELECT pg_advisory_unlock(1)", E | K, ""},
    {"SELECT pg_advisory_unlock_all()", E | K, ""},
    {"SELECT currval('s')", Q, ""},
    {"INSERT INTO t VALUES (lastval())", Q, ""},
    {"DO $$ BEGIN NULL; END $$", L | E | K, ""},
    {"DO $$ BEGIN PERFORM set_config('app.x', 'y', false); END $$", L | E | K, "app.x "},
    {"DO LANGUAGE plpgsql 'BEGIN PERFORM set_config($1, 2, false); END'", ALL, ""},
    /* prepared statements of the protocol */
    {"DEALLOCATE a", E | D, ":a "},
    {"DEALLOCATE PREPARE \"A b\"", E | D, ":A b "},
    {"DEALLOCATE ALL", E | A, ""},
    {"DEALLOCATE PREPARE ALL", E | A, ""},
    {"DISCARD ALL", L | E | A | K | S | M, ""},
    {"DISCARD SEQUENCES", L | E | S, ""},
    {"DISCARD TEMP", L | E, ""},
    /* what cannot be read is suspected of everything */
    {"SET a = 'x", L | ALL, "a "},
    {"SELECT set_config('a', 'b", ALL, "a "},
    {"SELECT U&\"set!005fconfig\" UESCAPE '!' ('a', 'b', false)", ALL, ""},
    {"/* not closed SET a = 1", ALL, ""},
    {"(SET a = 1)", L, "a "},
};

static void
tell(void *arg, const char *name, enum session_name kind)
{
    buf_print(arg, "%s%s ", kind == NAME_STATEMENT ? ":" : kind == NAME_CHANNEL ? "@" : "", name);
}

static void
test_marks_and_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        const struct example *example = &examples[i];
        struct buf names = {0};
        size_t len = strlen(example->text);
        bool is_suspect = session_is_suspect(example->text, len);
        unsigned marks = session_read(example->text, len, false, tell, &names);
        buf_add_u8(&names, 0);
        if (marks != example->marks) {
            fail_msg("%s: marks %x, not %x", example->text, marks, example->marks);
        }
        if (strcmp((const char *)buf_head(&names), example->names) != 0) {
            fail_msg("%s: names '%s', not '%s'", example->text, (const char *)buf_head(&names),
                example->names);
        }
        /* The quick pass may suspect too much, never too little. */
        if (marks != 0 && !is_suspect) {
            fail_msg("%s: not suspected", example->text);
        }
        buf_deinit(&names);
    }
}

static void
test_common_texts_are_not_even_suspected(void **state)
{
    static const char *const texts[] = {
        "SELECT abalance FROM pgbench_accounts WHERE aid = 1234;",
        "UPDATE pgbench_accounts SET abalance = abalance + 5 WHERE aid = 7;",
        "INSERT INTO pgbench_history (tid, bid) VALUES (1, 2)",
        "BEGIN;",
        "COMMIT",
        "SELECT a.id, b.name FROM a JOIN b ON a.id = b.id WHERE b.created > now() - '1 day'",
        "DELETE FROM t WHERE a = $1 AND b LIKE 'x%'",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_false(session_is_suspect(texts[i], strlen(texts[i])));
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks_and_names),
        cmocka_unit_test(test_common_texts_are_not_even_suspected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
