/* pool/statements, with a hash that finds nothing: every statement collides with every other, so
 * only comparing the bytes can tell them apart. */
#define STATEMENTS_HASH 7
#include "../../src/pool/statements.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct statement *
get(struct statements *statements, const struct vars *settings, const char *text, uint32_t type)
{
    uint8_t body[128];
    size_t len = strlen(text) + 1;

    memcpy(body, text, len);
    memcpy(body + len, (uint8_t[]){0, 1, 0, 0, 0, (uint8_t)type}, 6);
    struct statement_key key = {1, settings, body, len + 6};
    return statements_get(statements, &key, 4096);
}

static void
test_identity_is_text_types_settings_and_pool_not_their_hash(void **state)
{
    struct statements *statements = statements_new();
    struct vars iso = {0}, sql = {0}, named = {0};
    struct statement *one, *two, *three, *four, *again, *other_name;

    (void)state;
    vars_put(&iso, "DateStyle", "ISO");
    vars_put(&sql, "DateStyle", "SQL");
    vars_put(&named, "DateStyle", "ISO");
    vars_put(&named, "application_name", "a");
    one = get(statements, &iso, "SELECT 1 /* force_close_72_1104700233803323 */", 23);
    two = get(statements, &iso, "SELECT 1 /* force_close_246_1106019706635764 */", 23);
    three = get(statements, &iso, "SELECT 1 /* force_close_72_1104700233803323 */", 25);
    four = get(statements, &sql, "SELECT 1 /* force_close_72_1104700233803323 */", 23);
    again = get(statements, &iso, "SELECT 1 /* force_close_72_1104700233803323 */", 23);
    struct statement_key elsewhere = {2, &iso,
        (const uint8_t *)statement_text(one), one->key_len - one->body_at};
    struct statement *five = statements_get(statements, &elsewhere, 4096);
    assert_true(five->id != one->id);
    other_name = get(statements, &named, "SELECT 1 /* force_close_72_1104700233803323 */", 23);
    assert_ptr_equal(one, again);
    assert_ptr_equal(one, other_name);
    assert_true(one->id != two->id && one->id != three->id && one->id != four->id);
    assert_true(two->id != three->id && two->id != four->id && three->id != four->id);
    assert_string_equal(statement_text(two), "SELECT 1 /* force_close_246_1106019706635764 */");
    struct statement *all[] = {one, two, three, four, again, other_name, five};
    for (size_t i = 0; i < 7; i++) {
        statement_release(statements, all[i]);
    }
    assert_int_equal(statements_look(statements).count, 0);
    assert_int_equal(statements_look(statements).bytes, 0);
    statements_free(&statements);
    vars_deinit(&iso);
    vars_deinit(&sql);
    vars_deinit(&named);
}

static void
test_a_retired_statement_is_made_anew(void **state)
{
    struct statements *statements = statements_new();
    struct vars none = {0};
    struct statement *old = get(statements, &none, "SELECT 1", 0);

    (void)state;
    statement_retire(statements, old);
    statement_retire(statements, old);
    struct statement *fresh = get(statements, &none, "SELECT 1", 0);
    assert_true(fresh->id != old->id);
    statement_release(statements, old);
    assert_ptr_equal(get(statements, &none, "SELECT 1", 0), fresh);
    statement_release(statements, fresh);
    statement_release(statements, fresh);
    assert_int_equal(statements_look(statements).count, 0);
    statements_free(&statements);
}

static bool
learn_text(struct statements *statements, struct statement *statement, const char *columns)
{
    struct buf buf = {0};

    buf_add(&buf, columns, strlen(columns));
    bool is_same = statement_learn(statements, statement, &buf);
    buf_deinit(&buf);
    return is_same;
}

static void
test_columns_are_learned_once_and_compared(void **state)
{
    struct statements *statements = statements_new();
    struct vars none = {0};
    struct statement *one = get(statements, &none, "SELECT 1", 0);
    struct statement *two = get(statements, &none, "SELECT 2", 0);
    struct statement *three = get(statements, &none, "SELECT 3", 0);
    size_t before = statements_look(statements).bytes;

    (void)state;
    assert_false(statement_has_columns(one));
    assert_true(learn_text(statements, one, "ab"));
    assert_true(statement_has_columns(one));
    assert_true(learn_text(statements, one, "ab"));
    assert_false(learn_text(statements, one, "ac"));
    assert_false(learn_text(statements, one, ""));
    assert_true(learn_text(statements, two, ""));
    assert_true(statement_has_columns(two));
    assert_false(learn_text(statements, two, "a"));
    assert_false(statement_inherit(statements, two, one));
    assert_true(statement_inherit(statements, one, three));
    assert_true(statement_inherit(statements, three, one));
    assert_false(learn_text(statements, three, "a"));
    assert_int_equal(statements_look(statements).bytes, before + 4);
    statement_release(statements, one);
    statement_release(statements, two);
    statement_release(statements, three);
    assert_int_equal(statements_look(statements).bytes, 0);
    statements_free(&statements);
}

static void
test_memory_is_limited_and_given_back(void **state)
{
    struct statements *statements = statements_new();
    struct vars none = {0};
    struct statement *got[100];
    char text[64];
    size_t count = 0;

    (void)state;
    for (; count < 100; count++) {
        snprintf(text, sizeof(text), "SELECT %zu", count);
        got[count] = get(statements, &none, text, 0);
        if (got[count] == NULL) {
            break;
        }
    }
    assert_true(count >= 5 && count <= 99);
    assert_true(statements_look(statements).bytes <= 4096);
    /* What is there already costs nothing. */
    assert_ptr_equal(get(statements, &none, "SELECT 0", 0), got[0]);
    statement_release(statements, got[0]);
    for (size_t i = 0; i < count; i++) {
        statement_release(statements, got[i]);
    }
    got[0] = get(statements, &none, text, 0);
    assert_non_null(got[0]);
    statement_release(statements, got[0]);
    statements_free(&statements);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity_is_text_types_settings_and_pool_not_their_hash),
        cmocka_unit_test(test_a_retired_statement_is_made_anew),
        cmocka_unit_test(test_columns_are_learned_once_and_compared),
        cmocka_unit_test(test_memory_is_limited_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
