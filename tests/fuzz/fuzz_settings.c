/* A configuration file of any bytes. */
#include "conf/settings.h"

#include "base/mem.h"
#include "base/state.h"
#include "conninfo.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
report(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    ensure(place != NULL && key != NULL && text[0] != '\0');
    *(size_t *)arg += severity == SETTINGS_ERROR ? 1 : 0;
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
        struct settings_source source = {.text = text, .parse_conninfo = parse_conninfo};
        struct settings *settings = settings_load(&source, report, &errors);
        ensure((settings == NULL) == (errors > 0));
        if (settings != NULL) {
            check(settings);
        }
        settings_release(&settings);
    }
    free(text);
    return 0;
}
