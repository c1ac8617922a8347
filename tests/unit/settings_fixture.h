/* What tests of the settings share: loading from text with libpq's parser, and the findings. */
#pragma once

#include "conf/settings.h"

#include "conf/internal.h"
#include "conf/users.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "../fuzz/conninfo.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Everything that was reported, one line each: "E place key: text". */
static char findings[1 << 20];
static size_t findings_len;

static __attribute__((unused)) void
report(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    (void)arg;
    findings_len += (size_t)snprintf(findings + findings_len, sizeof(findings) - findings_len,
        "%c %s %s: %s\n", "IWE"[severity], place, key, text);
    assert_true(findings_len < sizeof(findings));
}

static __attribute__((unused)) struct settings *
load(const char *path, const char *text, char **environment, const char *const *overrides)
{
    struct settings_source source = {path, text, environment, overrides, parse_conninfo, NULL};

    findings_len = 0;
    findings[0] = '\0';
    return settings_load(&source, report, NULL);
}

static __attribute__((unused)) struct settings *
load_text(const char *text)
{
    return load(NULL, text, NULL, NULL);
}

static __attribute__((unused)) struct settings *
load_good(const char *text)
{
    struct settings *settings = load_text(text);

    if (settings == NULL) {
        fail_msg("%s", findings);
    }
    return settings;
}

static __attribute__((unused)) void
expect_error(const char *text, const char *expected)
{
    struct settings *settings = load_text(text);

    if (settings != NULL || strstr(findings, expected) == NULL) {
        fail_msg("%s\nexpected: %s\nsaid: %s", text, expected, findings);
    }
}

static __attribute__((unused)) const char *
keyword(const struct database *database, const char *name)
{
    for (size_t i = 0; database->keywords[i] != NULL; i++) {
        if (strcmp(database->keywords[i], name) == 0) {
            return database->values[i];
        }
    }
    return NULL;
}

static __attribute__((unused)) char *
temporary(const char *content, size_t len)
{
    char *path = strdup("/tmp/pgkeel_test_XXXXXX");
    int fd = mkstemp(path);

    assert_true(fd >= 0 && write(fd, content, len) == (ssize_t)len);
    close(fd);
    return path;
}

static __attribute__((unused)) void
temporary_remove(char *path)
{
    unlink(path);
    free(path);
}
