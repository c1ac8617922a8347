/*
 * Tokens of SQL text: follows PostgreSQL's scan.l as far as it matters where something begins and
 * ends. Called by wire/sql and wire/session; calls nothing.
 */
#include "wire/token.h"

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

static bool
is_word_start(char c)
{
    return (sql_lower(c) >= 'a' && sql_lower(c) <= 'z') || c == '_' || (unsigned char)c >= 0x80;
}

static bool
is_word_part(char c)
{
    return is_word_start(c) || is_digit(c) || c == '$';
}

/* --- Tokens --- */

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
    char letter = sql_lower(peek(scanner, 0));

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

struct token
sql_token(struct sql_scanner *scanner)
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

bool
token_is(const struct token *token, const char *word)
{
    size_t len = strlen(word);

    if (token->len != len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (sql_lower(token->text[i]) != word[i]) {
            return false;
        }
    }
    return true;
}

struct sql_scanner
sql_over(const char *text, size_t len, bool has_backslash_escapes)
{
    return (struct sql_scanner){
        .at = text, .end = text + len, .has_backslash_escapes = has_backslash_escapes};
}
