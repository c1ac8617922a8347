/*
 * SQL text, token by token, as PostgreSQL's lexer splits it (PostgreSQL documentation, "Lexical
 * Structure"; its scan.l). Pure functions, linear in the length; nothing is allocated, texts need
 * no zero byte at their end, results borrow from them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

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

struct sql_scanner
{
    const char *at, *end;
    bool has_backslash_escapes; /* standard_conforming_strings is off: '\'' is one literal */
};

/* has_backslash_escapes is for when the server parsed the text. Who cannot know, because a request
 * in flight may have changed it, scans by both rules and takes the worse answer. */
struct sql_scanner sql_over(const char *text, size_t len, bool has_backslash_escapes);

/* The small letter for a capital one, as PostgreSQL folds keywords: ASCII only. */
static inline char
sql_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* The next token. Behind TOKEN_BAD and TOKEN_END come only more of TOKEN_END. */
struct token sql_token(struct sql_scanner *scanner);

/* Whether it is this keyword (in small letters) or character. Never true for what is in quotes,
 * since the quotes belong to the token. */
bool token_is(const struct token *token, const char *word);
