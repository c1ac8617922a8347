/* SQL: any bytes, by both rules for backslashes. */
#include "wire/sql.h"

#include "base/mem.h"
#include "base/state.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
is_same(const struct sql_statement *a, const struct sql_statement *b)
{
    return a->kind == b->kind && a->len == b->len && a->is_chain == b->is_chain &&
           a->modes_len == b->modes_len;
}

/* A statement taken out of its text and read again is the same one, and only one. */
static void
check_alone(const struct sql_statement *statement, bool has_backslash_escapes)
{
    struct sql_scanner scanner = sql_over(statement->text, statement->len, has_backslash_escapes);
    struct sql_statement again;

    ensure(sql_next(&scanner, &again));
    ensure(again.text == statement->text && is_same(&again, statement));
    ensure(!sql_next(&scanner, &again));
}

static void
check(const struct sql_statement *statement, const char *from, const char *end)
{
    ensure(statement->len > 0 && statement->text >= from);
    ensure(statement->len <= (size_t)(end - statement->text));
    ensure(memchr(" \t\n\r\f\v;", statement->text[0], 7) == NULL);
    ensure(
        !statement->is_chain || statement->kind == SQL_COMMIT || statement->kind == SQL_ROLLBACK);
    ensure(statement->modes_len == 0 ||
           (statement->kind == SQL_BEGIN && statement->modes > statement->text &&
               statement->modes + statement->modes_len == statement->text + statement->len));
    ensure(statement->kind == SQL_OTHER || memchr(statement->text, '\0', statement->len) == NULL);
}

/* No letter means anything else when it is written the other way; tags of dollar quotes stay equal
 * or different. */
static char *
with_other_letters(const char *text, size_t len)
{
    char *copy = mem_new(len + 1);

    for (size_t i = 0; i < len; i++) {
        char folded = (char)(text[i] | 0x20);
        copy[i] = folded >= 'a' && folded <= 'z' ? (char)(text[i] ^ 0x20) : text[i];
    }
    return copy;
}

static void
scan(const char *text, size_t len, bool has_backslash_escapes)
{
    char *other_text = with_other_letters(text, len);
    struct sql_scanner scanner = sql_over(text, len, has_backslash_escapes);
    struct sql_scanner other_scanner = sql_over(other_text, len, has_backslash_escapes);
    struct sql_statement statement;
    struct sql_statement other;
    const char *from = text;

    while (sql_next(&scanner, &statement)) {
        check(&statement, from, text + len);
        check_alone(&statement, has_backslash_escapes);
        ensure(sql_next(&other_scanner, &other));
        ensure(is_same(&statement, &other));
        ensure(other.text - other_text == statement.text - text);
        from = statement.text + statement.len;
    }
    ensure(scanner.at == text + len);
    ensure(!sql_next(&other_scanner, &other));
    free(other_text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    scan((const char *)data, size, false);
    scan((const char *)data, size, true);
    return 0;
}
