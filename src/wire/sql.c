/*
 * Two halves. Tokens: next_token() follows PostgreSQL's scan.l as far as it matters where something
 * begins and ends. Statements: sql_next() collects the tokens up to a semicolon that splits,
 * kind_of() looks at the first few of them in a table. Calls nothing; called by whoever has to know
 * what a client asked for.
 *
 * Which semicolons split: those outside parentheses (CREATE RULE ... DO (a; b)) and outside the
 * body of a routine (CREATE FUNCTION ... BEGIN ATOMIC a; b; END), see routine_step().
 */
#include "wire/sql.h"

#include <string.h>

/* --- Characters: scan.l's definitions; what they mean does not depend on a locale --- */

static bool
is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r'); /* \v since PostgreSQL 16, an error before */
}

static bool
is_newline(char c)
{
    return c == '\n' || c == '\r';
}

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char
to_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool
is_word_start(char c)
{
    return (to_lower(c) >= 'a' && to_lower(c) <= 'z') || c == '_' || (unsigned char)c >= 0x80;
}

static bool
is_word_part(char c)
{
    return is_word_start(c) || is_digit(c) || c == '$';
}

/* --- Tokens --- */

enum token_kind
{
    TOKEN_END,
    TOKEN_BAD,  /* not terminated, or a zero byte: nothing behind it can be read */
    TOKEN_WORD, /* a keyword or an identifier without quotes */
    TOKEN_OPEN,
    TOKEN_CLOSE,
    TOKEN_SEMICOLON,
    TOKEN_ELSE, /* literals, quoted identifiers, numbers, parameters, operators */
};

struct token
{
    enum token_kind kind;
    const char *text; /* borrows */
    size_t len;
};

/* The byte at that distance; 0 behind the end. A 0 in the text, where none can be, stops everything
 * as the end would, but is not taken for it. */
static char
peek(const struct sql_scanner *scanner, size_t distance)
{
    return distance < (size_t)(scanner->end - scanner->at) ? scanner->at[distance] : '\0';
}

static bool
looks_at(const struct sql_scanner *scanner, char first, char second)
{
    return peek(scanner, 0) == first && peek(scanner, 1) == second;
}

/* Goes behind a character if it is there. */
static bool
skip(struct sql_scanner *scanner, char c)
{
    bool is_there = scanner->at < scanner->end && *scanner->at == c;

    scanner->at += is_there;
    return is_there;
}

static void
skip_line_comment(struct sql_scanner *scanner)
{
    while (peek(scanner, 0) != '\0' && !is_newline(*scanner->at)) {
        scanner->at++;
    }
}

/* They nest. One that is not terminated is not skipped. */
static bool
skip_block_comment(struct sql_scanner *scanner)
{
    const char *from = scanner->at;
    size_t depth = 0;

    do {
        if (looks_at(scanner, '/', '*')) {
            depth++;
            scanner->at += 2;
        } else if (looks_at(scanner, '*', '/')) {
            depth--;
            scanner->at += 2;
        } else if (peek(scanner, 0) != '\0') {
            scanner->at++;
        } else {
            scanner->at = from;
            return false;
        }
    } while (depth > 0);
    return true;
}

/* Blanks and comments. False at a comment that is not terminated. */
static bool
skip_space(struct sql_scanner *scanner)
{
    for (;;) {
        if (is_blank(peek(scanner, 0))) {
            scanner->at++;
        } else if (looks_at(scanner, '-', '-')) {
            skip_line_comment(scanner);
        } else if (!looks_at(scanner, '/', '*')) {
            return true;
        } else if (!skip_block_comment(scanner)) {
            return false;
        }
    }
}

/* 'one' and, behind a line break, 'two' are one literal, and the second part is read by the rules
 * of the first (scan.l: quotecontinue). Comments of the "--" kind may be between them, others not.
 * Goes into the next part if there is one. */
static bool
skip_to_continuation(struct sql_scanner *scanner)
{
    struct sql_scanner ahead = *scanner;
    bool has_newline = false;

    for (;;) {
        if (is_blank(peek(&ahead, 0))) {
            has_newline |= is_newline(*ahead.at);
            ahead.at++;
        } else if (looks_at(&ahead, '-', '-')) {
            skip_line_comment(&ahead);
        } else {
            break;
        }
    }
    if (!has_newline || !skip(&ahead, '\'')) {
        return false;
    }
    scanner->at = ahead.at;
    return true;
}

/* From inside the quotes to behind the closing one. A doubled quote is a quote. */
static bool
skip_quoted(struct sql_scanner *scanner, char quote, bool has_backslashes)
{
    while (peek(scanner, 0) != '\0') {
        char c = *scanner->at++;
        if (c == '\\' && has_backslashes) {
            if (peek(scanner, 0) == '\0') {
                return false;
            }
            scanner->at++;
        } else if (c == quote && !skip(scanner, quote)) {
            return true;
        }
    }
    return false;
}

static bool
skip_literal(struct sql_scanner *scanner, bool has_backslashes)
{
    do {
        if (!skip_quoted(scanner, '\'', has_backslashes)) {
            return false;
        }
    } while (skip_to_continuation(scanner));
    return true;
}

/* Length of the $tag$ that the scanner is at; 0 if it is not at one. */
static size_t
dollar_tag_len(const struct sql_scanner *scanner)
{
    size_t len = 1;

    if (is_word_start(peek(scanner, 1))) {
        do {
            len++;
        } while (is_word_part(peek(scanner, len)) && peek(scanner, len) != '$');
    }
    return peek(scanner, len) == '$' ? len + 1 : 0;
}

/* From the opening tag to behind the closing one. */
static bool
skip_dollar_quoted(struct sql_scanner *scanner, size_t tag_len)
{
    const char *tag = scanner->at;

    scanner->at += tag_len;
    size_t left = (size_t)(scanner->end - scanner->at);
    const char *closing = memmem(scanner->at, left, tag, tag_len);
    if (closing == NULL || memchr(scanner->at, '\0', (size_t)(closing - scanner->at)) != NULL) {
        return false;
    }
    scanner->at = closing + tag_len;
    return true;
}

static enum token_kind
quoted(bool is_terminated)
{
    return is_terminated ? TOKEN_ELSE : TOKEN_BAD;
}

/* A word, or a literal with a letter at its quote: E'', B'', X''. N'' and U&'' need no care: taken
 * for a word and a literal they end at the same place. (Where U&'' would not, because backslashes
 * escape, PostgreSQL refuses it.) */
static enum token_kind
skip_word(struct sql_scanner *scanner)
{
    char letter = to_lower(peek(scanner, 0));

    if (peek(scanner, 1) == '\'' && (letter == 'e' || letter == 'b' || letter == 'x')) {
        scanner->at += 2;
        return quoted(skip_literal(scanner, letter == 'e'));
    }
    while (is_word_part(peek(scanner, 0))) {
        scanner->at++;
    }
    return TOKEN_WORD;
}

/* Numbers are digits only: a letter behind them begins a word (before PostgreSQL 15; an error
 * since), an exponent that is taken for one ends where the word does. */
static enum token_kind
skip_token(struct sql_scanner *scanner)
{
    char c = peek(scanner, 0);

    if (is_word_start(c)) {
        return skip_word(scanner);
    }
    if (c == '$') {
        size_t tag_len = dollar_tag_len(scanner);
        if (tag_len > 0) {
            return quoted(skip_dollar_quoted(scanner, tag_len));
        }
    }
    scanner->at++;
    switch (c) {
    case '\0':
        return TOKEN_BAD;
    case '\'':
        return quoted(skip_literal(scanner, scanner->has_backslash_escapes));
    case '"':
        return quoted(skip_quoted(scanner, '"', false));
    case '(':
        return TOKEN_OPEN;
    case ')':
        return TOKEN_CLOSE;
    case ';':
        return TOKEN_SEMICOLON;
    default:
        return TOKEN_ELSE;
    }
}

static struct token
next_token(struct sql_scanner *scanner)
{
    bool is_readable = skip_space(scanner);
    struct token token = {.kind = TOKEN_BAD, .text = scanner->at};

    if (is_readable) {
        token.kind = scanner->at == scanner->end ? TOKEN_END : skip_token(scanner);
    }
    if (token.kind == TOKEN_BAD) {
        scanner->at = scanner->end;
    }
    token.len = (size_t)(scanner->at - token.text);
    return token;
}

/* Whether it is this keyword (in small letters) or character. Never true for what is in quotes,
 * since the quotes belong to the token. */
static bool
is(const struct token *token, const char *word)
{
    size_t len = strlen(word);

    if (token->len != len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (to_lower(token->text[i]) != word[i]) {
            return false;
        }
    }
    return true;
}

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
    if (reading->bodies > 0 && reading->place == AT_START && is(token, "end")) {
        reading->bodies--;
        reading->place = ELSEWHERE;
        return;
    }
    for (size_t i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
        if (turns[i].from == reading->place && is(token, turns[i].word)) {
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
    reading->has_into |= is(token, "into");
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
        if (!is(&reading->head[i], words[i])) {
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
    bool has_noise = is(&reading->head[1], "work") || is(&reading->head[1], "transaction");
    const struct token *rest = &reading->head[has_noise ? 2 : 1];

    if (out->kind == SQL_BEGIN && rest->len > 0) {
        out->modes = rest->text;
        out->modes_len = (size_t)(out->text + out->len - rest->text);
    }
    if (out->kind == SQL_COMMIT || out->kind == SQL_ROLLBACK) {
        out->is_chain = is(&rest[0], "and") && is(&rest[1], "chain");
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

struct sql_scanner
sql_over(const char *text, size_t len, bool has_backslash_escapes)
{
    return (struct sql_scanner){
        .at = text, .end = text + len, .has_backslash_escapes = has_backslash_escapes};
}

bool
sql_next(struct sql_scanner *scanner, struct sql_statement *out)
{
    struct reading reading = {.place = AT_START};
    struct token token = next_token(scanner);

    while (token.kind == TOKEN_SEMICOLON) {
        token = next_token(scanner);
    }
    if (token.kind == TOKEN_END) {
        return false;
    }
    *out = (struct sql_statement){.text = token.text, .modes = ""};
    while (!is_end(&reading, &token)) {
        add_token(&reading, &token);
        out->len = (size_t)(token.text + token.len - out->text);
        token = next_token(scanner);
    }
    out->kind = kind_of(&reading);
    describe(&reading, out);
    return true;
}
