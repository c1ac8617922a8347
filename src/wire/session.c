/*
 * A quick pass that looks at words only, strings and comments included, because leaving those out
 * safely costs as much as reading them; then tokens (wire/token), for the few texts that it
 * suspects. Called by client/session.
 */
#include "wire/session.h"

#include "wire/token.h"

#include <stdint.h>
#include <string.h>

/* ---- the quick pass ---- */

/* Words that say something where a statement begins, and such that do everywhere; by first letter.
 * "pg_" stands for all that begin so. */
static const char *const leading[26][6] = {
    ['c' - 'a'] = {"close", "create", "call"},
    ['d' - 'a'] = {"discard", "declare", "drop", "do", "deallocate"},
    ['e' - 'a'] = {"explain", "execute"},
    ['l' - 'a'] = {"listen", "load"},
    ['p' - 'a'] = {"prepare"},
    ['r' - 'a'] = {"reset"},
    ['s' - 'a'] = {"set"},
    ['u' - 'a'] = {"unlisten"},
};

static const char *const anywhere[26][4] = {
    ['c' - 'a'] = {"currval"},
    ['l' - 'a'] = {"lastval"},
    ['p' - 'a'] = {"pg_"},
    ['s' - 'a'] = {"set_config"},
    ['t' - 'a'] = {"temp", "temporary"},
};

/* What the quick pass sees in a byte. */
enum sight
{
    SEES_OTHER,
    SEES_WORD,
    SEES_BLANK,
    SEES_SEMICOLON,
    SEES_PAREN,
    SEES_COMMENT, /* perhaps */
    SEES_AND,
};

/* Without '$': a word may follow the end of a dollar quote at once. */
#define LETTERS(sight)                                                                             \
    ['a' ... 'z'] = (sight), ['A' ... 'Z'] = (sight), ['0' ... '9'] = (sight), ['_'] = (sight),    \
    [0x80 ... 0xff] = (sight)

static const uint8_t sights[256] = {
    LETTERS(SEES_WORD),
    [' '] = SEES_BLANK,
    ['\t' ... '\r'] = SEES_BLANK,
    [';'] = SEES_SEMICOLON,
    ['('] = SEES_PAREN,
    ['-'] = SEES_COMMENT,
    ['/'] = SEES_COMMENT,
    ['&'] = SEES_AND,
};

static bool
is_word(const char *text, size_t len, const char *word)
{
    size_t i = 0;

    for (; i < len && word[i] != '\0'; i++) {
        if (sql_lower(text[i]) != word[i]) {
            return false;
        }
    }
    return word[i] == '\0' && (i == len || word[i - 1] == '_');
}

static bool
is_listed(const char *text, size_t len, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count && words[i] != NULL; i++) {
        if (is_word(text, len, words[i])) {
            return true;
        }
    }
    return false;
}

static bool
is_telling(const char *text, size_t len, bool leads)
{
    unsigned letter = (unsigned)(sql_lower(text[0]) - 'a');

    return letter < 26 &&
           ((leads && is_listed(text, len, leading[letter], 6)) ||
               (anywhere[letter][0] != NULL && is_listed(text, len, anywhere[letter], 4)));
}

bool
session_is_suspect(const char *text, size_t len)
{
    const char *at = text, *end = text + len, *word;
    bool leads = true, in_comment = false;

    while (at < end) {
        switch ((enum sight)sights[(uint8_t)*at]) {
        case SEES_WORD:
            if (*at >= '0' && *at <= '9') {
                leads = leads && in_comment;
                break; /* a number; a word may follow at once */
            }
            for (word = at; at < end && sights[(uint8_t)*at] == SEES_WORD; at++) {
            }
            if (is_telling(word, (size_t)(at - word), leads)) {
                return true;
            }
            /* Behind a comment the statement is still to begin. */
            leads = leads && in_comment;
            continue;
        case SEES_SEMICOLON:
            leads = true;
            in_comment = false;
            break;
        case SEES_COMMENT:
            in_comment = in_comment || leads;
            break;
        case SEES_AND:
            if (at + 1 < end && at[1] == '"') {
                return true; /* U&"": a name that cannot be read this way */
            }
            break;
        case SEES_OTHER:
            leads = leads && in_comment;
            break;
        case SEES_BLANK:
        case SEES_PAREN:
            break;
        }
        at++;
    }
    return false;
}

/* ---- reading ---- */

struct reading
{
    struct sql_scanner scanner;
    session_name_fn *tell;
    void *arg;
    unsigned marks;
    unsigned depth; /* of DO bodies */
};

enum
{
    DO_DEPTH_MAX = 4,
    EVERYTHING = SESSION_LEAVES | SESSION_ENDS | SESSION_LOCKS | SESSION_UNNAMED
};

static void read_text(struct reading *reading);

/* A name as PostgreSQL folds it; false when it is none, or too long to be one. */
static bool
fold(const struct token *token, char *name)
{
    size_t len = 0, i = 0;
    bool is_quoted = token->len > 1 && (token->text[0] == '"' || token->text[0] == '\'');

    if (token->kind != TOKEN_WORD && !is_quoted) {
        return false;
    }
    for (i = is_quoted; i < token->len - is_quoted; i++) {
        if (len >= SESSION_NAME_SIZE - 1) {
            return false;
        }
        name[len++] = is_quoted ? token->text[i] : sql_lower(token->text[i]);
        i += is_quoted && token->text[i] == token->text[0];
    }
    name[len] = '\0';
    return len > 0;
}

static struct token
peek(const struct reading *reading)
{
    struct sql_scanner ahead = reading->scanner;

    return sql_token(&ahead);
}

/* name, "name", a.b: told in full. */
static bool
tell_name(struct reading *reading, struct token token, enum session_name kind)
{
    char part[SESSION_NAME_SIZE], name[2 * SESSION_NAME_SIZE];

    if (!fold(&token, part)) {
        return false;
    }
    strcpy(name, part);
    struct token dot = peek(reading);
    while (kind == NAME_SETTING && token_is(&dot, ".")) {
        sql_token(&reading->scanner);
        token = sql_token(&reading->scanner);
        if (!fold(&token, part) || strlen(name) + strlen(part) + 2 > sizeof(name)) {
            return false;
        }
        strcat(name, ".");
        strcat(name, part);
        dot = peek(reading);
    }
    reading->tell(reading->arg, name, kind);
    return true;
}

static void
read_set(struct reading *reading)
{
    struct token token = sql_token(&reading->scanner);

    if (token_is(&token, "local") || token_is(&token, "transaction") ||
        token_is(&token, "constraints")) {
        return;
    }
    reading->marks |= SESSION_LEAVES;
    if (token_is(&token, "session")) {
        struct token next = peek(reading);
        if (token_is(&next, "authorization")) {
            reading->tell(reading->arg, "session_authorization", NAME_SETTING);
            return;
        }
        /* SET session = ... would be a setting of that name; there is none. */
        token = sql_token(&reading->scanner);
    }
    tell_name(reading, token, NAME_SETTING);
}

static void
read_reset(struct reading *reading)
{
    struct token token = sql_token(&reading->scanner);

    reading->marks |= SESSION_LEAVES | SESSION_ENDS;
    if (token_is(&token, "session")) {
        reading->tell(reading->arg, "session_authorization", NAME_SETTING);
    } else if (!token_is(&token, "all")) {
        tell_name(reading, token, NAME_SETTING);
    }
}

static void
read_discard(struct reading *reading)
{
    struct token token = sql_token(&reading->scanner);

    reading->marks |= SESSION_LEAVES | SESSION_ENDS;
    if (token_is(&token, "all")) {
        reading->marks |= SESSION_DEALLOCATES_ALL | SESSION_LOCKS | SESSION_DISCARDS |
                          SESSION_UNLISTENS_ALL;
    } else if (token_is(&token, "sequences")) {
        reading->marks |= SESSION_DISCARDS;
    }
}

static void
read_unlisten(struct reading *reading)
{
    struct token token = sql_token(&reading->scanner);

    reading->marks |= SESSION_ENDS;
    if (token_is(&token, "*")) {
        reading->marks |= SESSION_UNLISTENS_ALL;
    } else if (tell_name(reading, token, NAME_CHANNEL)) {
        reading->marks |= SESSION_UNLISTENS;
    }
}

static void
read_deallocate(struct reading *reading)
{
    struct token token = sql_token(&reading->scanner);

    reading->marks |= SESSION_ENDS;
    if (token_is(&token, "prepare")) {
        struct token next = peek(reading);
        if (next.kind == TOKEN_WORD || (next.len > 0 && next.text[0] == '"')) {
            token = sql_token(&reading->scanner);
        }
    }
    if (token_is(&token, "all")) {
        reading->marks |= SESSION_DEALLOCATES_ALL;
    } else if (tell_name(reading, token, NAME_STATEMENT)) {
        reading->marks |= SESSION_DEALLOCATES;
    }
}

static void
read_prepare(struct reading *reading)
{
    struct token token = peek(reading);

    reading->marks |= token_is(&token, "transaction") ? 0 : SESSION_LEAVES;
}

/* What is in the body of a DO is as good as in the text itself. */
static void
read_do(struct reading *reading)
{
    struct token token = peek(reading);
    struct reading inner = *reading;

    reading->marks |= SESSION_LEAVES | SESSION_ENDS | SESSION_LOCKS;
    while (token.kind != TOKEN_END && token.kind != TOKEN_BAD && token.kind != TOKEN_SEMICOLON) {
        token = sql_token(&reading->scanner);
        if (token.len < 2 || (token.text[0] != '$' && token.text[0] != '\'')) {
            continue;
        }
        const char *mark = memchr(token.text + 1, token.text[0], token.len - 1);
        size_t tag = token.text[0] == '$' && mark != NULL ? (size_t)(mark - token.text) + 1 : 1;
        if (token.len < 2 * tag || reading->depth >= DO_DEPTH_MAX) {
            reading->marks |= EVERYTHING;
            continue;
        }
        inner.scanner = sql_over(token.text + tag, token.len - 2 * tag, false);
        inner.depth = reading->depth + 1;
        read_text(&inner);
        /* It cannot DEALLOCATE what the protocol prepared. */
        reading->marks |= inner.marks & EVERYTHING;
    }
}

static void
leaves(struct reading *reading)
{
    reading->marks |= SESSION_LEAVES;
}

static void
ends(struct reading *reading)
{
    reading->marks |= SESSION_ENDS;
}

static void
loads(struct reading *reading)
{
    reading->marks |= SESSION_LOADS;
}

static void
does_anything(struct reading *reading)
{
    reading->marks |= SESSION_LEAVES | SESSION_ENDS | SESSION_LOCKS;
}

/* The first word of a statement. */
static const struct
{
    const char *word;
    void (*read)(struct reading *reading);
} statements[] = {
    {"set", read_set},
    {"reset", read_reset},
    {"discard", read_discard},
    {"deallocate", read_deallocate},
    {"prepare", read_prepare},
    {"execute", does_anything},
    {"call", does_anything},
    {"do", read_do},
    {"load", loads},
    {"listen", leaves},
    {"unlisten", read_unlisten},
    {"close", ends},
    {"drop", ends},
};

/* Arguments of set_config(): its name, and whether it is for the transaction only. */
static void
read_set_config(struct reading *reading)
{
    static const char *const truths[] = {"true", "'true'", "'t'", "'on'", "'yes'", "'1'"};
    struct sql_scanner at = reading->scanner;
    struct token token = sql_token(&at), name = sql_token(&at), last = {.len = 0};
    unsigned depth = 1, commas = 0, behind = 0;
    bool is_literal = false, is_local = false;

    if (token.kind != TOKEN_OPEN) {
        return;
    }
    for (token = sql_token(&at); depth > 0; token = sql_token(&at)) {
        if (token.kind == TOKEN_END || token.kind == TOKEN_BAD) {
            break;
        }
        depth += token.kind == TOKEN_OPEN;
        depth -= token.kind == TOKEN_CLOSE;
        if (depth == 1 && token_is(&token, ",")) {
            is_literal = is_literal || (commas == 0 && behind == 0);
            commas++;
            behind = 0;
        } else if (depth > 0) {
            last = token;
            behind++;
        }
    }
    for (size_t i = 0; i < sizeof(truths) / sizeof(truths[0]); i++) {
        is_local = is_local || (commas == 2 && behind == 1 && token_is(&last, truths[i]));
    }
    if (is_local) {
        return;
    }
    reading->marks |= SESSION_LEAVES;
    char text[SESSION_NAME_SIZE];
    if (is_literal && name.text[0] == '\'' && fold(&name, text)) {
        reading->tell(reading->arg, text, NAME_SETTING);
    } else {
        reading->marks |= SESSION_UNNAMED;
    }
}

/* Words inside a statement; what they are called in quotes too. */
static void
read_word(struct reading *reading, const struct token *token)
{
    static const struct
    {
        const char *name;
        unsigned marks;
    } functions[] = {
        {"pg_advisory_lock", SESSION_LEAVES | SESSION_LOCKS},
        {"pg_advisory_lock_shared", SESSION_LEAVES | SESSION_LOCKS},
        {"pg_try_advisory_lock", SESSION_LEAVES | SESSION_LOCKS},
        {"pg_try_advisory_lock_shared", SESSION_LEAVES | SESSION_LOCKS},
        {"pg_advisory_unlock", SESSION_ENDS | SESSION_LOCKS},
        {"pg_advisory_unlock_shared", SESSION_ENDS | SESSION_LOCKS},
        {"pg_advisory_unlock_all", SESSION_ENDS | SESSION_LOCKS},
        {"currval", SESSION_SEQUENCES},
        {"lastval", SESSION_SEQUENCES},
        {"pg_temp", SESSION_LEAVES},
    };
    char name[SESSION_NAME_SIZE];

    if (!fold(token, name)) {
        return;
    }
    if (strcmp(name, "set_config") == 0) {
        read_set_config(reading);
    }
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        reading->marks |= strcmp(name, functions[i].name) == 0 ? functions[i].marks : 0;
    }
}

/* One statement from behind its first token. */
static void
read_rest(struct reading *reading, const struct token *first)
{
    bool makes = token_is(first, "create") || token_is(first, "explain");
    bool declares = token_is(first, "declare") || token_is(first, "explain");
    struct token token = *first, before = {.len = 0};

    while (token.kind != TOKEN_END && token.kind != TOKEN_SEMICOLON) {
        bool is_temp = token_is(&token, "temp") || token_is(&token, "temporary");
        bool is_unreadable = token_is(&token, "&") && token_is(&before, "u");
        if (token.kind == TOKEN_BAD || is_unreadable) {
            reading->marks |= EVERYTHING;
        }
        if ((is_temp && (makes || token_is(&before, "into"))) ||
            (declares && token_is(&token, "hold") && !token_is(&before, "without"))) {
            reading->marks |= SESSION_LEAVES;
        }
        if (token.kind == TOKEN_WORD || (token.len > 0 && token.text[0] == '"')) {
            read_word(reading, &token);
        }
        before = token;
        token = sql_token(&reading->scanner);
    }
}

static void
read_text(struct reading *reading)
{
    struct token token = sql_token(&reading->scanner);

    while (token.kind != TOKEN_END) {
        for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++) {
            if (token_is(&token, statements[i].word)) {
                struct sql_scanner behind = reading->scanner;
                statements[i].read(reading);
                reading->scanner = behind;
                break;
            }
        }
        if (token.kind != TOKEN_SEMICOLON && token.kind != TOKEN_OPEN) {
            read_rest(reading, &token);
        }
        token = sql_token(&reading->scanner);
    }
}

unsigned
session_read(const char *text, size_t len, bool has_backslash_escapes, session_name_fn *tell,
    void *arg)
{
    struct reading reading = {
        .scanner = sql_over(text, len, has_backslash_escapes), .tell = tell, .arg = arg};

    read_text(&reading);
    return reading.marks;
}
