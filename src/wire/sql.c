/*
 * sql_next() collects the tokens (wire/token) up to a semicolon that splits, kind_of() looks at the
 * first few of them in a table. Called by whoever has to know what a client asked for.
 *
 * Which semicolons split: those outside parentheses (CREATE RULE ... DO (a; b)) and outside the
 * body of a routine (CREATE FUNCTION ... BEGIN ATOMIC a; b; END), see routine_step().
 */
#include "wire/sql.h"

#include <string.h>

/* --- Statements: where they end --- */

enum
{
    HEAD_LEN = 4, /* COMMIT WORK AND CHAIN: as many tokens as decide */
};

/* On the way to a routine's body; only what is outside parentheses counts. */
enum place
{
    AT_START, /* of a statement, at the top or in a body */
    AFTER_CREATE,
    AFTER_OR,
    AFTER_REPLACE,
    IN_ROUTINE, /* CREATE [OR REPLACE] FUNCTION|PROCEDURE was read */
    AFTER_BEGIN,
    ELSEWHERE,
};

static const struct turn
{
    enum place from;
    const char *word;
    enum place to;
} turns[] = {
    {AT_START, "create", AFTER_CREATE},
    {AFTER_CREATE, "or", AFTER_OR},
    {AFTER_OR, "replace", AFTER_REPLACE},
    {AFTER_CREATE, "function", IN_ROUTINE},
    {AFTER_CREATE, "procedure", IN_ROUTINE},
    {AFTER_REPLACE, "function", IN_ROUTINE},
    {AFTER_REPLACE, "procedure", IN_ROUTINE},
    {IN_ROUTINE, "begin", AFTER_BEGIN},
    {AFTER_BEGIN, "begin", AFTER_BEGIN}, /* LANGUAGE begin BEGIN ATOMIC */
    {AFTER_BEGIN, "atomic", AT_START},
};

struct reading
{
    struct token head[HEAD_LEN]; /* the first ones behind leading parentheses; others have len 0 */
    size_t count;
    size_t depth; /* of parentheses */
    enum place place;
    size_t bodies; /* how many BEGIN ATOMIC are open; the grammar lets them nest */
    bool is_parenthesised;
    bool has_into;
    bool is_bad;
};

/* Only in a routine's statement, since both words may be names elsewhere: SELECT begin atomic.
 * END closes the body where a statement would begin; everywhere else in it, it belongs to a CASE or
 * is a name. (No statement in a body begins with END: gram.y, TransactionStmtLegacy.) */
static void
routine_step(struct reading *reading, const struct token *token)
{
    if (reading->depth > 0) {
        return;
    }
    if (token->kind == TOKEN_SEMICOLON) {
        reading->place = AT_START;
        return;
    }
    if (reading->bodies > 0 && reading->place == AT_START && token_is(token, "end")) {
        reading->bodies--;
        reading->place = ELSEWHERE;
        return;
    }
    for (size_t i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
        if (turns[i].from == reading->place && token_is(token, turns[i].word)) {
            reading->bodies += turns[i].from == AFTER_BEGIN && turns[i].to == AT_START;
            reading->place = turns[i].to;
            return;
        }
    }
    bool is_in_routine = reading->place == IN_ROUTINE || reading->place == AFTER_BEGIN;
    reading->place = is_in_routine ? IN_ROUTINE : ELSEWHERE;
}

static void
add_token(struct reading *reading, const struct token *token)
{
    routine_step(reading, token);
    if (reading->count == 0 && token->kind == TOKEN_OPEN) {
        reading->is_parenthesised = true;
    } else if (reading->count < HEAD_LEN) {
        reading->head[reading->count++] = *token;
    }
    if (token->kind == TOKEN_OPEN) {
        reading->depth++;
    } else if (token->kind == TOKEN_CLOSE && reading->depth > 0) {
        reading->depth--;
    } else if (token->kind == TOKEN_CLOSE || token->kind == TOKEN_BAD) {
        reading->is_bad = true;
    }
    reading->has_into |= token_is(token, "into");
}

static bool
is_end(const struct reading *reading, const struct token *token)
{
    return token->kind == TOKEN_END ||
           (token->kind == TOKEN_SEMICOLON && reading->depth == 0 && reading->bodies == 0);
}

/* --- Statements: what they are --- */

/* The first row whose words the statement begins with. */
static const struct rule
{
    const char *words[3];
    enum sql_kind kind;
    bool may_be_parenthesised;
} rules[] = {
    {{"select"}, SQL_READ, true},
    {{"values"}, SQL_READ, true},
    {{"table"}, SQL_READ, true},
    {{"show"}, SQL_READ, false},
    {{"with"}, SQL_WRITE, true}, /* may hold an INSERT, UPDATE, DELETE or MERGE */
    {{"insert"}, SQL_WRITE, false},
    {{"update"}, SQL_WRITE, false},
    {{"delete"}, SQL_WRITE, false},
    {{"merge"}, SQL_WRITE, false},
    {{"explain"}, SQL_WRITE, false}, /* with ANALYZE it runs what it explains */
    {{"set"}, SQL_WRITE, false},
    {{"begin"}, SQL_BEGIN, false},
    {{"start", "transaction"}, SQL_BEGIN, false},
    {{"commit", "prepared"}, SQL_COMMIT_PREPARED, false},
    {{"commit"}, SQL_COMMIT, false},
    {{"end"}, SQL_COMMIT, false},
    {{"rollback", "prepared"}, SQL_ROLLBACK_PREPARED, false},
    {{"rollback", "to"}, SQL_ROLLBACK_TO, false},
    {{"rollback", "work", "to"}, SQL_ROLLBACK_TO, false},
    {{"rollback", "transaction", "to"}, SQL_ROLLBACK_TO, false},
    {{"rollback"}, SQL_ROLLBACK, false},
    {{"abort"}, SQL_ROLLBACK, false},
    {{"prepare", "transaction", "as"}, SQL_OTHER, false}, /* a statement of that name */
    {{"prepare", "transaction", "("}, SQL_OTHER, false},
    {{"prepare", "transaction"}, SQL_PREPARE_TRANSACTION, false},
};

static bool
begins_with(const struct reading *reading, const char *const words[3])
{
    for (size_t i = 0; i < 3 && words[i] != NULL; i++) {
        if (!token_is(&reading->head[i], words[i])) {
            return false;
        }
    }
    return true;
}

static enum sql_kind
kind_of(const struct reading *reading)
{
    if (reading->is_bad || reading->depth > 0 || reading->bodies > 0) {
        return SQL_OTHER;
    }
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        const struct rule *rule = &rules[i];
        if (!begins_with(reading, rule->words)) {
            continue;
        }
        if (reading->is_parenthesised && !rule->may_be_parenthesised) {
            return SQL_OTHER;
        }
        /* INTO is reserved: at another place than its own it is only a label or a column. */
        return rule->kind == SQL_READ && reading->has_into ? SQL_WRITE : rule->kind;
    }
    return SQL_OTHER;
}

/* The details that a few kinds have. */
static void
describe(const struct reading *reading, struct sql_statement *out)
{
    bool has_noise =
        token_is(&reading->head[1], "work") || token_is(&reading->head[1], "transaction");
    const struct token *rest = &reading->head[has_noise ? 2 : 1];

    if (out->kind == SQL_BEGIN && rest->len > 0) {
        out->modes = rest->text;
        out->modes_len = (size_t)(out->text + out->len - rest->text);
    }
    if (out->kind == SQL_COMMIT || out->kind == SQL_ROLLBACK) {
        out->is_chain = token_is(&rest[0], "and") && token_is(&rest[1], "chain");
    }
}

/* --- For callers --- */

bool
sql_is_readable(const char *client_encoding)
{
    /* All that PostgreSQL allows for a server, where ASCII bytes are ASCII characters. */
    static const char *const families[] = {
        "UTF8", "SQL_ASCII", "LATIN", "WIN", "ISO_8859_", "KOI8", "EUC_", "MULE_INTERNAL"};

    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        if (strncmp(client_encoding, families[i], strlen(families[i])) == 0) {
            return true;
        }
    }
    return false;
}

bool
sql_next(struct sql_scanner *scanner, struct sql_statement *out)
{
    struct reading reading = {.place = AT_START};
    struct token token = sql_token(scanner);

    while (token.kind == TOKEN_SEMICOLON) {
        token = sql_token(scanner);
    }
    if (token.kind == TOKEN_END) {
        return false;
    }
    *out = (struct sql_statement){.text = token.text, .modes = ""};
    while (!is_end(&reading, &token)) {
        add_token(&reading, &token);
        out->len = (size_t)(token.text + token.len - out->text);
        token = sql_token(scanner);
    }
    out->kind = kind_of(&reading);
    describe(&reading, out);
    return true;
}
