/* Loading. Called by daemon/daemon; calls conf/ and daemon/certificates. */
#include "daemon/load.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/certificates.h"

#include <string.h>

/* ---- SET ---- */

static const char *
join(const char *key, const char *value)
{
    struct buf buf = {0};

    buf_print(&buf, "%s=%s", key, value);
    buf_add_u8(&buf, 0);
    char *text = mem_string((const char *)buf_head(&buf));
    buf_deinit(&buf);
    return text;
}

struct changes
changes_with(const struct changes *changes, const char *key, const char *value)
{
    struct changes made = {mem_new((changes->count + 2) * sizeof(*made.list)), 0};
    size_t len = strlen(key);

    for (size_t i = 0; i < changes->count; i++) {
        const char *other = changes->list[i];
        if (strncmp(other, key, len) != 0 || other[len] != '=') {
            made.list[made.count++] = mem_string(other);
        }
    }
    if (value != NULL) {
        made.list[made.count++] = join(key, value);
    }
    return made;
}

void
changes_clear(struct changes *changes)
{
    for (size_t i = 0; i < changes->count; i++) {
        free((char *)changes->list[i]);
    }
    free(changes->list);
    *changes = (struct changes){NULL, 0};
}

/* ---- everything ---- */

struct listener_of_findings
{
    settings_report_fn *report;
    void *arg;
    bool logs_all; /* else errors only: the rest was said when the files were read */
};

static void
log_finding(
    enum settings_severity severity, const char *place, const char *key, const char *text)
{
    static const enum log_level levels[] = {[SETTINGS_INFO] = LEVEL_INFO,
        [SETTINGS_WARNING] = LEVEL_WARN,
        [SETTINGS_ERROR] = LEVEL_ERROR};

    log_write(levels[severity], NULL, "%s: %s%s%s", place, key, key[0] != '\0' ? ": " : "", text);
}

static void
pass_finding(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    const struct listener_of_findings *listener = arg;

    if (listener->logs_all || severity == SETTINGS_ERROR) {
        log_finding(severity, place, key, text);
    }
    if (listener->report != NULL) {
        listener->report(listener->arg, severity, place, key, text);
    }
}

struct settings *
load_settings(const struct settings_source *source, settings_report_fn *report, void *arg,
    struct tls **tls_out)
{
    struct listener_of_findings listener = {report, arg, source->changes == NULL};
    struct settings *settings = settings_load(source, pass_finding, &listener);
    struct fail fail;

    if (settings != NULL && tls_out != NULL && !certificates_load(settings, tls_out, &fail)) {
        pass_finding(&listener, SETTINGS_ERROR, "files", "", fail.text);
        settings_release(&settings);
    }
    return settings;
}
