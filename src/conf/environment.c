/*
 * DATABASE_URL, DATABASE_URL_<NAME>, PGKEEL_<KEY>, each also as ..._FILE, which names a file with
 * the value. Called from settings.c; PGKEEL_CONFIG is read for main.c and the tools.
 */
#include "conf/internal.h"

#include "base/mem.h"
#include "base/text.h"
#include "conf/files.h"

#include <ctype.h>
#include <errno.h>

static const char prefix[] = "PGKEEL_";
static const char url[] = "DATABASE_URL";
static const char file_suffix[] = "_FILE";

static const char config[] = "PGKEEL_CONFIG";

/* Read by others than the settings. */
static const char *const not_keys[] = {"PGKEEL_BIN", config};

static char *
lower(const char *text)
{
    char *copy = mem_string(text);

    for (char *at = copy; *at != '\0'; at++) {
        *at = (char)tolower((unsigned char)*at);
    }
    return copy;
}

static bool
is_key(const char *name)
{
    return key_find(name) != NULL || known_find(name) != NULL;
}

static bool
is_given(const struct loader *loader, const char *name)
{
    size_t len = strlen(name);

    for (char **at = loader->source->environment; *at != NULL; at++) {
        if (strncmp(*at, name, len) == 0 && (*at)[len] == '=') {
            return true;
        }
    }
    return false;
}

/* The content of the file without the newline that editors add; NULL was reported. */
static char *
read_value(struct loader *loader, const char *variable, const char *path)
{
    size_t len;
    char *text = files_read(path, &len);

    if (text == NULL) {
        loader_report(loader, SETTINGS_ERROR, "environment", variable, "cannot read \"%s\": %s",
            path, strerror(errno));
        return NULL;
    }
    if (strlen(text) != len) {
        loader_report(
            loader, SETTINGS_ERROR, "environment", variable, "\"%s\" contains a zero byte", path);
        explicit_bzero(text, len);
        free(text);
        return NULL;
    }
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r')) {
        text[--len] = '\0';
    }
    return text;
}

static void
report_unknown(struct loader *loader, const char *variable, const char *name)
{
    struct guess guess = {NULL, LONGEST_GUESS + 1};
    char meant[100];
    char hint[140] = "";

    guess_key(name, &guess);
    if (guess.best != NULL) {
        snprintf(meant, sizeof(meant), "%s%s", prefix, guess.best);
        for (char *at = meant; *at != '\0'; at++) {
            *at = (char)toupper((unsigned char)*at);
        }
        guess.best = meant;
        guess_print(&guess, hint, sizeof(hint));
    }
    loader_report(loader, SETTINGS_WARNING, "environment", variable, "unknown variable%s", hint);
}

static void
take_key(struct loader *loader, const char *variable, const char *value)
{
    char *name = lower(variable + strlen(prefix));
    size_t len = strlen(name);
    size_t suffix = strlen(file_suffix);
    char *read = NULL;

    /* auth_file itself ends so; only what is no key is tried without the ending. */
    if (!is_key(name) && len > suffix && strcmp(name + len - suffix, "_file") == 0) {
        name[len - suffix] = '\0';
        if (is_key(name)) {
            read = read_value(loader, variable, value);
            value = read;
        } else {
            name[len - suffix] = '_';
        }
    }
    if (value == NULL) {
        free(name);
        return;
    }
    if (is_key(name)) {
        char place[PLACE_SIZE];
        snprintf(place, sizeof(place), "environment %s", variable); /* may end in _FILE */
        loader_set(loader, place, name, value);
    } else {
        report_unknown(loader, variable, name);
    }
    text_wipe(&read);
    free(name);
}

static void
take_url(struct loader *loader, const char *variable, const char *value)
{
    char *base = mem_string(variable);
    size_t len = strlen(base);
    size_t suffix = strlen(file_suffix);
    char *read = NULL;

    if (strcmp(base + len - suffix, file_suffix) == 0) {
        base[len - suffix] = '\0';
        if (is_given(loader, base)) {
            loader_report(loader, SETTINGS_ERROR, "environment", variable,
                "%s is set, too: one of them is enough", base);
            free(base);
            return;
        }
        read = read_value(loader, variable, value);
        value = read;
    }
    if (value != NULL && value[0] != '\0') {
        const char *tail = base + strlen(url);
        char *name = *tail == '_' ? lower(tail + 1) : NULL;
        loader_add_database(loader, base, name, value, true);
        free(name);
    }
    text_wipe(&read);
    free(base);
}

static void
take_variable(struct loader *loader, const char *variable, const char *value)
{
    for (size_t i = 0; i < sizeof(not_keys) / sizeof(not_keys[0]); i++) {
        if (strcmp(not_keys[i], variable) == 0) {
            return;
        }
    }
    size_t len = strlen(url);
    if (strncmp(variable, prefix, strlen(prefix)) == 0) {
        take_key(loader, variable, value);
    } else if (strncmp(variable, url, len) == 0 &&
               (variable[len] == '\0' || (variable[len] == '_' && variable[len + 1] != '\0'))) {
        take_url(loader, variable, value);
    }
}

const char *
settings_usual_path(void)
{
    const char *path = getenv(config);

    return path != NULL && path[0] != '\0' ? path : NULL;
}

void
environment_load(struct loader *loader)
{
    char **at = loader->source->environment;

    for (; at != NULL && *at != NULL; at++) {
        const char *equals = strchr(*at, '=');
        if (equals == NULL || equals == *at) {
            continue;
        }
        char *variable = strndup(*at, (size_t)(equals - *at));
        if (variable == NULL) {
            mem_exhausted((size_t)(equals - *at));
        }
        take_variable(loader, variable, equals + 1);
        free(variable);
    }
}
