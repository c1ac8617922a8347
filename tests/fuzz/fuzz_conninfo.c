/* Connection strings and URLs: any text. What libpq takes is told as libpq reads it. */
#include "conf/internal.h"

#include "base/mem.h"
#include "base/state.h"

#include <libpq-fe.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Pairs in the order they were told. */
struct told
{
    struct buf strings; /* key, value, key, value ... */
    size_t count;
    bool takes; /* parameters out of a URL */
};

static void
take_pair(void *arg, const char *key, const char *value)
{
    struct told *told = arg;

    buf_add_string(&told->strings, key);
    buf_add_string(&told->strings, value);
    told->count++;
}

static bool
take_parameter(void *arg, const char *key, const char *value)
{
    take_pair(arg, key, value);
    return ((struct told *)arg)->takes;
}

/* The last value that was told of this key, or NULL. */
static const char *
last_of(const struct told *told, const char *key)
{
    const char *at = (const char *)buf_head(&told->strings);
    const char *found = NULL;

    for (size_t i = 0; i < told->count; i++) {
        const char *value = at + strlen(at) + 1;
        found = strcmp(at, key) == 0 ? value : found;
        at = value + strlen(value) + 1;
    }
    return found;
}

static const char *
libpq_value(const PQconninfoOption *options, const char *key)
{
    while (options->keyword != NULL && strcmp(options->keyword, key) != 0) {
        options++;
    }
    return options->keyword != NULL ? options->val : NULL;
}

/* libpq reads three words as one: ssl=true (in URLs) and requiressl=1 are sslmode=require. */
static bool
is_sslmode(const char *key)
{
    return strcmp(key, "sslmode") == 0 || strcmp(key, "ssl") == 0 ||
           strcmp(key, "requiressl") == 0;
}

/* Each key that was told has the value that libpq has for it. */
static void
check_told(const struct told *told, const PQconninfoOption *options)
{
    const char *at = (const char *)buf_head(&told->strings);

    for (size_t i = 0; i < told->count; i++) {
        const char *value = libpq_value(options, at);
        ensure(is_sslmode(at) ||
               (value != NULL && strcmp(value, last_of(told, at)) == 0));
        at += strlen(at) + 1;
        at += strlen(at) + 1;
    }
}

static void
check_pairs(const char *text, const PQconninfoOption *options)
{
    struct told told = {.takes = false};
    char *copy = mem_string(text);
    char why[300] = "";

    bool is_good = pairs_split(copy, take_pair, &told, why, sizeof(why));
    ensure(is_good || why[0] != '\0');
    ensure(buf_len(&told.strings) <= strlen(text) + 1 + told.count);
    if (options != NULL) {
        ensure(is_good);
        check_told(&told, options);
        for (const PQconninfoOption *at = options; at->keyword != NULL; at++) {
            ensure(at->val == NULL || is_sslmode(at->keyword) ||
                   last_of(&told, at->keyword) != NULL);
        }
    }
    free(copy);
    buf_deinit(&told.strings);
}

/* What is left of the URL says the same to libpq. */
static void
check_rest(const char *url, const PQconninfoOption *options)
{
    PQconninfoOption *rest = PQconninfoParse(url, NULL);

    ensure(rest != NULL);
    for (const PQconninfoOption *at = options; at->keyword != NULL; at++) {
        const char *value = libpq_value(rest, at->keyword);
        ensure((value == NULL) == (at->val == NULL));
        ensure(value == NULL || strcmp(value, at->val) == 0);
    }
    PQconninfoFree(rest);
}

static void
check_url(const char *text, const PQconninfoOption *options)
{
    struct told told = {.takes = false}, again = {.takes = true}, none = {.takes = true};
    char *url = mem_string(text);

    bool is_good = url_split(url, take_parameter, &told);
    ensure(strlen(url) <= strlen(text));
    if (options != NULL) {
        ensure(is_good);
        check_told(&told, options);
        check_rest(url, options);
    }
    if (is_good) {
        ensure(url_split(url, take_parameter, &again));
        ensure(again.count == told.count);
        ensure(url_split(url, take_parameter, &none));
        ensure(none.count == 0);
    }
    free(url);
    buf_deinit(&told.strings);
    buf_deinit(&again.strings);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_new(size + 1);

    memcpy(text, data, size);
    PQconninfoOption *options = PQconninfoParse(text, NULL);
    if (is_url(text)) {
        check_url(text, options);
    } else {
        check_pairs(text, options);
    }
    PQconninfoFree(options);
    free(text);
    return 0;
}
