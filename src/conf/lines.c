/* Lines of fields of words. Called by conf/hba; calls regcomp(). */
#include "conf/lines.h"

#include "base/buf.h"
#include "base/mem.h"
#include "conf/files.h"
#include "conf/internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum
{
    FIELDS_MAX = 64,
    INCLUDES_MAX = 8
};

static void read_file(struct lines *lines, const char *path);

void
lines_complain(struct lines *lines, const char *text)
{
    lines->has_failed = true;
    lines->report(lines->arg, lines->path, lines->line, text);
}

void
word_free(struct word *word)
{
    if (word->regex != NULL) {
        regfree(word->regex);
        free(word->regex);
    }
    free(word->text);
}

void
field_free(struct field *field)
{
    for (size_t i = 0; i < field->count; i++) {
        word_free(&field->words[i]);
    }
    free(field->words);
    *field = (struct field){0};
}

/* What POSIX's expressions, which are used here, read without a complaint as something else than
 * PostgreSQL's do (documentation, "Regular Expression Details"): \d, \m, [\w], (?!...), ***=. */
static bool
is_another_dialect(const char *text)
{
    bool is_bracket = false;

    if (strncmp(text, "***", 3) == 0 || strstr(text, "(?") != NULL ||
        strstr(text, "[[:<:]]") != NULL || strstr(text, "[[:>:]]") != NULL) {
        return true;
    }
    for (const char *at = text; *at != '\0'; at++) {
        if (*at == '\\' && (is_bracket || (isalnum((unsigned char)at[1]) &&
                                              strchr("wWsS", at[1]) == NULL))) {
            return true;
        }
        if (*at == '\\' && at[1] != '\0') {
            at++;
        } else if (*at == '[' && !is_bracket) {
            is_bracket = true;
            at += at[1] == '^';
            at += at[1] == ']';
        } else if (*at == '[' && at[1] == ':' && strstr(at, ":]") != NULL) {
            at = strstr(at, ":]") + 1;
        } else if (*at == ']') {
            is_bracket = false;
        }
    }
    return false;
}

static void
compile(struct lines *lines, struct word *word)
{
    if (is_another_dialect(word->text + 1)) {
        lines_complain(lines, "the regular expression is not POSIX's: \\d, [\\w], (?...) and "
                              "***= are not understood");
        return;
    }
    word->regex = mem_new(sizeof(*word->regex));
    if (regcomp(word->regex, word->text + 1, REG_EXTENDED) != 0) {
        free(word->regex);
        word->regex = NULL;
        lines_complain(lines, "the regular expression is not valid");
    }
}

static void
add_word(struct lines *lines, struct field *field, const char *text, bool is_quoted)
{
    field->words = mem_resize(field->words, (field->count + 1) * sizeof(*field->words));
    struct word *word = &field->words[field->count++];
    *word = (struct word){.text = mem_string(text), .is_quoted = is_quoted};
    if (text[0] == '/') { /* quoted, too: commas and spaces need it */
        compile(lines, word);
    }
}

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next field of the line from *at; false at its end. */
static bool
read_field(struct lines *lines, const char **at, struct field *field)
{
    const char *in = *at + strspn(*at, " \t\r");
    char text[512];

    *field = (struct field){0};
    while (*in != '\0' && *in != '#' && !is_blank(*in)) {
        size_t len = 0;
        bool is_quoted = *in == '"', is_open = false;
        for (; *in != '\0' && len + 1 < sizeof(text); in++) {
            if (is_open && *in == '"' && in[1] == '"') {
                text[len++] = *in++;
            } else if (*in == '"') {
                is_open = !is_open;
            } else if (!is_open && (*in == ',' || *in == '#' || is_blank(*in))) {
                break;
            } else {
                text[len++] = *in;
            }
        }
        text[len] = '\0';
        if (is_open || len + 1 == sizeof(text)) {
            lines_complain(lines, is_open ? "a quote is not closed" : "a word is too long");
            field_free(field);
            return false;
        }
        add_word(lines, field, text, is_quoted);
        const char *next = in + strspn(in, " \t\r");
        if (*next != ',') {
            break;
        }
        in = next + 1 + strspn(next + 1, " \t\r");
    }
    *at = in;
    return field->count > 0;
}

bool
word_is(const struct word *word, const char *text)
{
    return !word->is_quoted && strcmp(word->text, text) == 0;
}

bool
word_fits(const struct word *word, const char *text)
{
    if (word->regex != NULL) {
        return regexec(word->regex, text, 0, NULL, 0) == 0;
    }
    return strcmp(word->text, text) == 0;
}

/* Relative names are relative to the file that has them. */
static void
read_included(struct lines *lines, const char *name, bool may_be_missing)
{
    const char *slash = name[0] != '/' ? strrchr(lines->path, '/') : NULL;
    struct buf path = {0};

    if (slash != NULL) {
        buf_add(&path, lines->path, (size_t)(slash + 1 - lines->path));
    }
    buf_add_string(&path, name);
    const char *text = (const char *)buf_head(&path);
    if (!may_be_missing || access(text, F_OK) == 0 || errno != ENOENT) {
        read_file(lines, text);
    }
    buf_deinit(&path);
}

static bool
is_include(struct lines *lines, const struct field *fields, size_t count)
{
    const struct word *word = &fields[0].words[0];
    bool is_optional = word_is(word, "include_if_exists");
    bool is_one = is_optional || word_is(word, "include");

    if (!is_one && !word_is(word, "include_dir")) {
        return false;
    }
    if (!is_one || count != 2 || fields[1].count != 1 || lines->depth >= INCLUDES_MAX) {
        lines_complain(lines, is_one ? "cannot include this" : "include_dir is not understood");
        return true;
    }
    read_included(lines, fields[1].words[0].text, is_optional);
    return true;
}

static void
read_line(struct lines *lines, const char *line)
{
    struct field fields[FIELDS_MAX];
    size_t count = 0;

    while (count < FIELDS_MAX && read_field(lines, &line, &fields[count])) {
        count++;
    }
    if (count == FIELDS_MAX) {
        lines_complain(lines, "too many words");
    }
    if (count > 0 && !is_include(lines, fields, count)) {
        lines->take(lines, fields, count);
    }
    for (size_t i = 0; i < count; i++) {
        field_free(&fields[i]);
    }
}

/* Lines that end with a backslash go on in the next one. */
static void
read_lines(struct lines *lines, char *text)
{
    char *line = text;

    int joined = 0;

    lines->line = 1;
    for (char *at = text; line != NULL; at++) {
        if (*at == '\\' && at[1] == '\n') {
            at[0] = at[1] = ' ';
            joined++;
        }
        if (*at != '\n' && *at != '\0') {
            continue;
        }
        bool is_last = *at == '\0';
        *at = '\0';
        read_line(lines, line);
        lines->line += 1 + joined;
        joined = 0;
        line = is_last ? NULL : at + 1;
    }
}

static void
read_file(struct lines *lines, const char *path)
{
    const char *outer = lines->path;
    int outer_line = lines->line;
    size_t len;

    char *text = files_read(path, &len);
    if (text == NULL || strlen(text) != len) {
        lines_complain(lines, text == NULL ? strerror(errno) : "contains a zero byte");
        free(text);
        return;
    }
    lines->path = path;
    lines->depth++;
    read_lines(lines, text);
    lines->depth--;
    lines->path = outer;
    lines->line = outer_line;
    free(text);
}

bool
lines_read(struct lines *lines, const char *path)
{
    lines->path = path;
    lines->line = 0;
    read_file(lines, path);
    return !lines->has_failed;
}
