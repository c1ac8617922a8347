/*
 * Splitting of connection strings; pure text. Called from database.c and lookup.c. The keyword form
 * is libpq's (PostgreSQL documentation, 34.1.1.1), and '' inside quotes, PgBouncer's quote.
 */
#include "conf/internal.h"

#include <ctype.h>
#include <strings.h>

static char *
skip_blanks(char *at)
{
    while (isspace((unsigned char)*at)) {
        at++;
    }
    return at;
}

/* Takes quotes and backslashes off a value in place; returns what follows it, NULL when a quote is
 * open. */
static char *
take_value(char *at, char **value_out)
{
    bool is_quoted = *at == '\'';
    char *to = at;
    char *from = at + (is_quoted ? 1 : 0);

    *value_out = at;
    while (*from != '\0' && (is_quoted || !isspace((unsigned char)*from))) {
        if (is_quoted && *from == '\'' && from[1] != '\'') {
            *to = '\0';
            return from + 1;
        }
        bool is_escape = *from == '\\' || (is_quoted && *from == '\'');
        from += is_escape ? 1 : 0;
        if (*from != '\0') { /* a backslash at the end is nothing, as in libpq */
            *to++ = *from++;
        }
    }
    if (is_quoted) {
        return NULL;
    }
    char *next = *from == '\0' ? from : from + 1;
    *to = '\0';
    return next;
}

bool
pairs_split(char *text, pair_fn *each, void *arg, char *why, size_t size)
{
    const char *last = "the start"; /* what stands between may be a piece of a password */
    char *at = skip_blanks(text);

    while (*at != '\0') {
        char *key = at;
        char *value;
        at += strcspn(at, "= \t\r\n\v\f");
        char *key_end = at;
        at = skip_blanks(at);
        if (*at != '=' || key == key_end) {
            snprintf(why, size, "expected key=value after %s (values with blanks need quotes: '')",
                last);
            return false;
        }
        at = skip_blanks(at + 1);
        *key_end = '\0';
        at = take_value(at, &value);
        if (at == NULL) {
            snprintf(why, size, "a quote is not closed after %s=", key);
            return false;
        }
        each(arg, key, value);
        last = key;
        at = skip_blanks(at);
    }
    return true;
}

bool
is_url(const char *text)
{
    return strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0;
}

/* Decodes %41 in place. */
static bool
decode(char *text)
{
    char *to = text;

    for (; *text != '\0'; text++) {
        if (*text == '%') {
            char digits[3] = {text[1], text[1] == '\0' ? '\0' : text[2], '\0'};
            char *end;
            long value = strtol(digits, &end, 16);
            if (!isxdigit((unsigned char)digits[0]) || end != digits + 2 || value == 0) {
                return false;
            }
            *to++ = (char)value;
            text += 2;
        } else {
            *to++ = *text;
        }
    }
    *to = '\0';
    return true;
}

/* One parameter, copied because libpq is to get it as it was. */
static bool
take_parameter(const char *start, size_t len, parameter_fn *take, void *arg, bool *is_taken_out)
{
    char *key = strndup(start, len);
    char *value = key == NULL ? NULL : strchr(key, '=');
    bool is_good = true;

    *is_taken_out = false;
    if (value != NULL) {
        *value++ = '\0';
        is_good = decode(key) && decode(value);
        *is_taken_out = is_good && take(arg, key, value);
    } /* else libpq says what is wrong with it */
    if (key != NULL) {
        explicit_bzero(key, len);
    }
    free(key);
    return is_good;
}

/* The ? before the parameters. As in libpq, one that stands before the first @ or / belongs to the
 * user or the password when an @ follows, and one between brackets to a host. */
static char *
find_parameters(char *url)
{
    char *scheme_end = strstr(url, "://");
    char *start = scheme_end == NULL ? url : scheme_end + 3;
    size_t len = strcspn(start, "@/");

    char *host = start[len] == '@' ? start + len + 1 : start;
    do {
        host += *host == ',' ? 1 : 0;
        host += *host == '[' ? strcspn(host, "]") : 0;
        host += strcspn(host, ",/?");
    } while (*host == ',');
    return strchr(host, '?');
}

bool
url_split(char *url, parameter_fn *take, void *arg)
{
    char *question = find_parameters(url);
    char *at = question == NULL ? NULL : question + 1;
    char *to = at;

    while (at != NULL && *at != '\0') {
        size_t len = strcspn(at, "&");
        char *next = at[len] == '&' ? at + len + 1 : at + len;
        bool is_taken;

        if (!take_parameter(at, len, take, arg, &is_taken)) {
            return false;
        }
        if (!is_taken) {
            if (to != question + 1) {
                *to++ = '&';
            }
            memmove(to, at, len);
            to += len;
        }
        at = next;
    }
    if (question != NULL) {
        *(to == question + 1 ? question : to) = '\0';
    }
    return true;
}
