/* Lines of fields of words. Called by conf/hba; calls regcomp(). */
#include "conf/lines.h"

#include "base/mem.h"
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

static void
compile(struct lines *lines, struct word *word)
{
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
    if (!is_quoted && text[0] == '/') {
        compile(lines, word);
    }
}

/* The next field of the line from *at; false at its end. */
static bool
read_field(struct lines *lines, const char **at, struct field *field)
{
    const char *in = *at + strspn(*at, " \t\r");
    char text[512];

    *field = (struct field){0};
    while (*in != '\0' && *in != '#' && !isspace((unsigned char)*in)) {
        size_t len = 0;
        bool is_quoted = *in == '"', is_open = false;
        for (; *in != '\0' && len + 1 < sizeof(text); in++) {
            if (*in == '"') {
                is_open = !is_open;
            } else if (!is_open && (*in == ',' || *in == '#' || isspace((unsigned char)*in))) {
                break;
            } else {
                text[len++] = *in;
            }
        }
        text[len] = '\0';
        if (is_open || len + 1 == sizeof(text)) {
            lines_complain(lines, is_open ? "a quote is not closed" : "a word is too long");
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

static bool
is_include(struct lines *lines, const struct field *fields, size_t count)
{
    bool is_one = word_is(&fields[0].words[0], "include") ||
                  word_is(&fields[0].words[0], "include_if_exists");

    if (!is_one && !word_is(&fields[0].words[0], "include_dir")) {
        return false;
    }
    if (!is_one || count != 2 || lines->depth >= INCLUDES_MAX) {
        lines_complain(lines, is_one ? "cannot include this" : "include_dir is not understood");
        return true;
    }
    const char *path = fields[1].words[0].text;
    if (!word_is(&fields[0].words[0], "include_if_exists") || access(path, F_OK) == 0) {
        read_file(lines, path);
    }
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

    char *text = loader_read_file(path, &len);
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
