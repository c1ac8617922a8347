/*
 * Reads a configuration file through inih. Called from settings.c.
 *
 * inih splits "key = value" lines. What it cannot do is done in the reader that feeds it line by
 * line: counting lines, %include, sections that go on inside an included file, and naming what it
 * would pass over in silence.
 */
#include "conf/internal.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"
#include "conf/files.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <unistd.h>

enum { DEEPEST_INCLUDE = 8, LONGEST_LINE = 1 << 20 };

enum section {
    SECTION_NONE,
    SECTION_DATABASES,
    SECTION_USERS,
    SECTION_SETTINGS,
    SECTION_PEERS,
    SECTION_UNKNOWN, /* was reported; its lines are passed over */
};

static const struct
{
    const char *name;
    enum section section;
} sections[] = {
    {"databases", SECTION_DATABASES}, {"users", SECTION_USERS}, {"pgkeel", SECTION_SETTINGS},
    {"pgbouncer", SECTION_SETTINGS},  {"peers", SECTION_PEERS},
};

/* One file being read, fed to inih in pieces. */
struct reader
{
    struct loader *loader;
    const char *path;
    const char *text; /* borrows; the rest that was not read yet */
    const char *end;
    const char *rest; /* of the line that inih is getting */
    const char *rest_end;
    int line;
    int depth;
    enum section *section; /* borrows; shared with the including file */
};

static void read_file(struct reader *reader);
static void take(struct reader *reader, const char *name, const char *value);

__attribute__((format(printf, 4, 5))) static void
complain(struct reader *reader, enum settings_severity severity, const char *key,
    const char *format, ...)
{
    char place[PLACE_SIZE];
    char text[300];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(place, sizeof(place), "%s:%d", reader->path, reader->line);
    loader_report(reader->loader, severity, place, key, "%s", text);
}

/* --- Lines that are ours --- */

static void
enter_section(struct reader *reader, const char *line, size_t len)
{
    struct guess guess = {NULL, LONGEST_GUESS + 1};
    char name[64];
    char hint[100];
    const char *bracket = memchr(line, ']', len);

    *reader->section = SECTION_UNKNOWN;
    if (bracket == NULL) {
        complain(reader, SETTINGS_ERROR, "", "the ] of a section is missing");
        return;
    }
    const char *rest = bracket + 1;
    while (rest < line + len && isblank((unsigned char)*rest)) {
        rest++;
    }
    if (rest < line + len && *rest != ';' && *rest != '#') {
        complain(reader, SETTINGS_ERROR, "", "unexpected text after the ] of a section");
    }
    snprintf(name, sizeof(name), "%.*s", (int)(bracket - line - 1), line + 1);
    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
        if (strcmp(sections[i].name, name) == 0) {
            *reader->section = sections[i].section;
        }
        guess_consider(&guess, name, sections[i].name);
    }
    if (*reader->section == SECTION_UNKNOWN) {
        guess_print(&guess, hint, sizeof(hint));
        complain(reader, SETTINGS_ERROR, "", "unknown section [%s]%s", name, hint);
    }
    if (*reader->section == SECTION_PEERS) {
        complain(reader, SETTINGS_INFO, "peers",
            "not needed: all threads belong to one process, which knows its cancel keys");
    }
}

/* As PgBouncer, relative to the working directory; failing that, beside the file that includes it.
 * */
static char *
resolve(const struct reader *reader, const char *name)
{
    const char *slash = strrchr(reader->path, '/');
    char *path = NULL;

    if (name[0] == '/' || slash == NULL || access(name, F_OK) == 0) {
        return mem_string(name);
    }
    if (asprintf(&path, "%.*s/%s", (int)(slash - reader->path), reader->path, name) < 0) {
        mem_exhausted(strlen(name));
    }
    return path;
}

static void
include(struct reader *reader, const char *line, size_t len)
{
    struct reader child = {
        .loader = reader->loader, .depth = reader->depth + 1, .section = reader->section};
    static const char word[] = "%include";
    size_t skip = sizeof(word) - 1;

    if (len <= skip || strncmp(line, word, skip) != 0 || !isblank((unsigned char)line[skip])) {
        complain(reader, SETTINGS_ERROR, "", "unknown directive (expected %%include file)");
        return;
    }
    if (reader->loader->is_too_deep) {
        return; /* each file of a loop would be read many times over */
    }
    if (child.depth > DEEPEST_INCLUDE) {
        reader->loader->is_too_deep = true;
        complain(reader, SETTINGS_ERROR, "", "more than %d files include each other",
            DEEPEST_INCLUDE);
        return;
    }
    while (skip < len && isblank((unsigned char)line[skip])) {
        skip++;
    }
    char *name = strndup(line + skip, len - skip);
    if (name == NULL) {
        mem_exhausted(len);
    }
    char *path = resolve(reader, name);
    size_t size;
    char *text = files_read(path, &size);
    if (text == NULL) {
        complain(reader, SETTINGS_ERROR, "", "cannot read \"%s\": %s", path, strerror(errno));
    } else {
        child.path = path;
        child.text = text;
        child.end = text + size;
        read_file(&child);
        explicit_bzero(text, size);
        free(text);
    }
    free(path);
    free(name);
}

/* PgBouncer's names in double quotes, "" inside for one: takes the quotes off in place. Returns
 * what follows, NULL when the quote is open. */
static char *
unquote(char *name)
{
    char *to = name;
    char *from = name + 1;

    for (; *from != '\0' && (*from != '"' || from[1] == '"'); from++) {
        from += *from == '"' ? 1 : 0;
        *to++ = *from;
    }
    if (*from == '\0') {
        return NULL;
    }
    *to = '\0';
    return from + 1;
}

/* "name" = value: not for inih, which would split at a = or : inside the name. */
static void
take_quoted(struct reader *reader, const char *line, size_t len)
{
    char *name = strndup(line, len);

    if (name == NULL) {
        mem_exhausted(len);
    }
    char *value = unquote(name);
    while (value != NULL && isblank((unsigned char)*value)) {
        value++;
    }
    if (value == NULL) {
        complain(reader, SETTINGS_ERROR, "", "the quote of a name is not closed");
    } else if (*value != '=') {
        complain(reader, SETTINGS_ERROR, "", "expected \"name\" = value");
    } else {
        value++;
        while (isblank((unsigned char)*value)) {
            value++;
        }
        take(reader, name, value);
    }
    explicit_bzero(name, len);
    free(name);
}

/* Takes what is ours; tells whether inih is to see the line. It never sees one that it would
 * misread. */
static bool
is_pair(struct reader *reader, const char *line, size_t len)
{
    if (memchr(line, '\0', len) != NULL) {
        complain(reader, SETTINGS_ERROR, "", "contains a zero byte");
        return false;
    }
    if (len > LONGEST_LINE) {
        complain(reader, SETTINGS_ERROR, "", "longer than %d bytes", LONGEST_LINE);
        return false;
    }
    if (reader->line == 1 && len >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3; /* a byte order mark */
        len -= 3;
    }
    for (; len > 0 && isspace((unsigned char)*line); len--) {
        line++;
    }
    while (len > 0 && isspace((unsigned char)line[len - 1])) {
        len--;
    }
    if (len == 0 || *line == ';' || *line == '#') {
        return false;
    }
    if (*line == '[') {
        enter_section(reader, line, len);
        return false;
    }
    if (*line == '%') {
        include(reader, line, len);
        return false;
    }
    if (*line == '"') {
        take_quoted(reader, line, len);
        return false;
    }
    /* inih would also split at a colon. */
    const char *equals = memchr(line, '=', len);
    const char *colon = memchr(line, ':', len);
    if (equals == NULL || equals == line || (colon != NULL && colon < equals)) {
        complain(reader, SETTINGS_ERROR, "", "expected key = value");
        return false;
    }
    return true;
}

/* What inih calls instead of fgets(): a piece of the next line. */
static char *
feed(char *to, int size, void *stream)
{
    struct reader *reader = stream;

    if (reader->rest == reader->rest_end) {
        if (reader->text == reader->end) {
            return NULL;
        }
        const char *line = reader->text;
        const char *newline = memchr(line, '\n', (size_t)(reader->end - line));
        reader->text = newline == NULL ? reader->end : newline + 1;
        reader->line++;
        reader->rest = "\n";
        reader->rest_end = reader->rest + 1;
        if (is_pair(reader, line, (size_t)(reader->text - line))) {
            reader->rest = line;
            reader->rest_end = reader->text;
        }
    }
    size_t len = (size_t)(reader->rest_end - reader->rest);
    len = len < (size_t)size ? len : (size_t)size - 1;
    memcpy(to, reader->rest, len);
    to[len] = '\0';
    reader->rest += len;
    return to;
}

/* --- Pairs --- */

static void
add_database(struct reader *reader, const char *place, const char *name, const char *value)
{
    struct raw_database *earlier;

    HASH_FIND_STR(reader->loader->raw, name, earlier);
    if (earlier != NULL) {
        complain(reader, SETTINGS_ERROR, name, "given twice, first at %s", earlier->place);
        return;
    }
    loader_add_database(reader->loader, place, name, value, false);
}

static void
add_setting(struct reader *reader, const char *place, const char *name, const char *value)
{
    const struct key *key = key_find(name);
    const char *earlier =
        key == NULL ? NULL : reader->loader->settings->internal->origins[key - conf_keys];

    if (earlier != NULL) {
        complain(reader, SETTINGS_ERROR, name, "given twice, first at %s", earlier);
        return;
    }
    loader_set(reader->loader, place, name, value);
}

static void
take(struct reader *reader, const char *name, const char *value)
{
    char place[PLACE_SIZE];

    snprintf(place, sizeof(place), "%s:%d", reader->path, reader->line);
    switch (*reader->section) {
    case SECTION_NONE:
        complain(reader, SETTINGS_ERROR, name, "stands before the first [section]");
        break;
    case SECTION_DATABASES:
        add_database(reader, place, name, value);
        break;
    case SECTION_USERS:
        user_settings_read(reader->loader, place, name, value);
        break;
    case SECTION_SETTINGS:
        add_setting(reader, place, name, value);
        break;
    case SECTION_PEERS:
    case SECTION_UNKNOWN:
        break;
    }
}

static int
take_pair(void *arg, const char *inih_section, const char *name, const char *value)
{
    (void)inih_section; /* does not know the including file's */
    take(arg, name, value);
    return 1;
}

static void
read_file(struct reader *reader)
{
    ini_parse_stream(feed, reader, take_pair, reader);
}

void
ini_load(struct loader *loader)
{
    const struct settings_source *source = loader->source;
    enum section section = SECTION_NONE;
    struct reader reader = {.loader = loader, .path = source->path, .section = &section};
    char *text = NULL;
    size_t len = 0;

    if (source->text != NULL) {
        reader.path = source->path == NULL ? "pgkeel.ini" : source->path;
        text = mem_string(source->text);
        len = strlen(text);
    } else if (source->path != NULL) {
        text = files_read(source->path, &len);
        if (text == NULL) {
            loader->is_unread = true;
            loader_report(
                loader, SETTINGS_ERROR, source->path, "", "cannot be read: %s", strerror(errno));
        }
    }
    if (text == NULL) {
        return;
    }
    /* inih keeps these for the process; the main thread alone reads configuration. */
    ini_use_stack = false;
    ini_allow_realloc = true;
    ini_max_line = 2 * LONGEST_LINE;
    ini_allow_inline_comments = false;
    ini_allow_multiline = false;
    reader.text = text;
    reader.end = text + len;
    read_file(&reader);
    explicit_bzero(text, len);
    free(text);
}
