/* Variables of the environment, one a line, of any text. What ..._FILE names is a file of what
 * stands there. */
#include "conf/settings.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/state.h"
#include "conninfo.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum
{
    VARIABLES_MAX = 32
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct environment
{
    char *variables[VARIABLES_MAX + 1]; /* own */
    int files[VARIABLES_MAX];
    int count;
};

static void
report(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    ensure(place != NULL && key != NULL && text[0] != '\0');
    *(size_t *)arg += severity == SETTINGS_ERROR ? 1 : 0;
}

/* The value becomes a file. It may end with what cannot stand in a variable: \0 for a zero byte. */
static char *
with_file(const char *variable, const char *equals, int *file_out)
{
    struct buf text = {0};

    *file_out = memfd_create("environment", MFD_CLOEXEC);
    ensure(*file_out >= 0);
    for (const char *at = equals + 1; *at != '\0'; at++) {
        bool is_zero = at[0] == '\\' && at[1] == '0';
        buf_add_u8(&text, is_zero ? 0 : (uint8_t)*at);
        at += is_zero;
    }
    ensure(buf_len(&text) == 0 ||
           write(*file_out, buf_head(&text), buf_len(&text)) == (ssize_t)buf_len(&text));
    buf_clear(&text);
    buf_print(&text, "%.*s=/proc/self/fd/%d", (int)(equals - variable), variable, *file_out);
    buf_add_u8(&text, 0);
    char *made = mem_string((const char *)buf_head(&text));
    buf_deinit(&text);
    return made;
}

static void
add_variable(struct environment *environment, const char *line)
{
    const char *equals = strchr(line, '=');
    size_t len = equals != NULL ? (size_t)(equals - line) : 0;
    bool is_file = len > 5 && strncasecmp(equals - 5, "_FILE", 5) == 0;
    int *file = &environment->files[environment->count];

    *file = -1;
    /* Rules of access may include files of the machine, which are not the fuzzer's to read. */
    if (strcasestr(line, "_HBA_FILE") != NULL || strcasestr(line, "_IDENT_FILE") != NULL) {
        return;
    }
    environment->variables[environment->count++] =
        is_file ? with_file(line, equals, file) : mem_string(line);
}

/* What says that it comes from a variable names one that is there. */
static void
check_origin(const struct environment *environment, const char *origin)
{
    static const char prefix[] = "environment ";
    size_t len = strlen(origin + sizeof(prefix) - 1);
    bool is_there = false;

    if (strncmp(origin, prefix, sizeof(prefix) - 1) != 0) {
        return;
    }
    for (int i = 0; i < environment->count; i++) {
        const char *variable = environment->variables[i];
        is_there = is_there || (strncmp(variable, origin + sizeof(prefix) - 1, len) == 0 &&
                                   (variable[len] == '=' || len >= 200)); /* it is cut there */
    }
    ensure(is_there);
}

static void
check(const struct settings *settings, const struct environment *environment)
{
    const struct database *database;
    struct settings_row row;
    size_t cursor = 0;

    while (settings_next_row(settings, &cursor, &row)) {
        ensure(row.key[0] != '\0' && row.origin[0] != '\0');
        check_origin(environment, row.origin);
    }
    cursor = 0;
    while ((database = settings_next_database(settings, &cursor)) != NULL) {
        ensure(database->name[0] != '\0');
        ensure(settings_find_database(settings, database->name) == database);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct environment environment = {.count = 0};
    char *text = mem_new(size + 1), *rest = text, *line;
    size_t errors = 0;

    memcpy(text, data, size);
    while ((line = strsep(&rest, "\n")) != NULL && environment.count < VARIABLES_MAX) {
        add_variable(&environment, line);
    }
    struct settings_source source = {
        .environment = environment.variables, .parse_conninfo = parse_conninfo};
    struct settings *settings = settings_load(&source, report, &errors);
    ensure((settings == NULL) == (errors > 0));
    if (settings != NULL) {
        check(settings, &environment);
    }
    settings_release(&settings);
    for (int i = 0; i < environment.count; i++) {
        free(environment.variables[i]);
        if (environment.files[i] >= 0) {
            close(environment.files[i]);
        }
    }
    free(text);
    return 0;
}
