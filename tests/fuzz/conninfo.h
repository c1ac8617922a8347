/* libpq's reading of connection strings, for those that load settings. */
#pragma once

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>

static __attribute__((unused)) bool
parse_conninfo(const char *conninfo,
    void (*each)(void *arg, const char *keyword, const char *value), void *arg, char *error,
    size_t size)
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
