/*
 * The settings of all sources with the files that they name, and what the console's SET adds to
 * them until the next reload. Main thread.
 */
#pragma once

#include "conf/settings.h"

struct tls;

/* What SET has changed so far: "key=value", one for each key. Embedded in the daemon. */
struct changes
{
    const char **list; /* own, NULL-terminated; NULL: none */
    size_t count;
};

/* The same changes and one more: of `key` to `value`; NULL: this key is not changed any more. */
struct changes changes_with(const struct changes *changes, const char *key, const char *value);
void changes_clear(struct changes *changes);

/* Reads everything; findings go to the log and, when report is given, there. tls_out NULL: leave
 * the certificates alone. NULL: something is wrong. */
struct settings *load_settings(const struct settings_source *source, settings_report_fn *report,
    void *arg, struct tls **tls_out);
