/* A configuration file of any bytes, and users of the same. */
#include "conf/settings.h"

#include "base/mem.h"
#include "base/state.h"
#include "conf/users.h"

#include <libpq-fe.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
parse(const char *conninfo, void (*each)(void *arg, const char *keyword, const char *value),
    void *arg, char *error, size_t size)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo, &message);

    snprintf(error, size, "%s", message == NULL ? "" : message);
    PQfreemem(message);
    for (PQconninfoOption *at = options; at != NULL && at->keyword != NULL; at++) {
        if (at->val != NULL) {
            each(arg, at->keyword, at->val);
        }
    }
    PQconninfoFree(options);
    return options != NULL;
}

static void
report(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    ensure(place != NULL && key != NULL && text[0] != '\0');
    *(size_t *)arg += severity == SETTINGS_ERROR ? 1 : 0;
}

static void
report_user(void *arg, int line, const char *text)
{
    ensure(line > 0 && text[0] != '\0');
    *(size_t *)arg += 1;
}

static void
check(const struct settings *settings)
{
    size_t cursor = 0;
    struct settings_row row;
    const struct database *database;

    while (settings_next_row(settings, &cursor, &row)) {
        ensure(row.key[0] != '\0' && row.origin[0] != '\0');
    }
    cursor = 0;
    while ((database = settings_next_database(settings, &cursor)) != NULL) {
        ensure(settings_find_database(settings, database->name) == database);
        ensure(settings_pool_size(settings, database->name, "u") >= 0);
    }
    FILE *nowhere = fopen("/dev/null", "w");
    ensure(nowhere != NULL);
    settings_print(settings, PRINT_INI, nowhere);
    fclose(nowhere);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_new(size + 1);
    size_t errors = 0;

    memcpy(text, data, size);
    /* A file of the machine is not the fuzzer's to read. */
    if (strstr(text, "%include") == NULL && strstr(text, "auth_file") == NULL) {
        struct settings_source source = {.text = text, .parse_conninfo = parse};
        struct settings *settings = settings_load(&source, report, &errors);
        ensure((settings == NULL) == (errors > 0));
        if (settings != NULL) {
            check(settings);
        }
        settings_release(&settings);
    }
    errors = 0;
    struct users *users = users_new();
    ensure(users_parse(users, text, size, report_user, &errors) == (errors == 0));
    users_free(&users);
    free(text);
    return 0;
}
