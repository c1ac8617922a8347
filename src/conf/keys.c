/*
 * The keys: what settings.def and known.def say, and reading and printing a value by its kind.
 * Called from the other files of this folder.
 */
#include "conf/internal.h"

#include "base/mem.h"
#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <strings.h>

enum change { RESTART, LIVE };

const struct key conf_keys[KEY_COUNT] = {
#define SETTING(key, kind, default_value, low, high, change, help)                                 \
    {#key, KIND_##kind, default_value, low, high, change == LIVE, help,                            \
        offsetof(struct settings, key)},
#include "conf/settings.def"
#undef SETTING
};

static const struct known known_keys[] = {
#define KNOWN(key, refused, text) {#key, refused, text},
#include "conf/known.def"
#undef KNOWN
};

static const char *const pool_modes[] = {"session", "transaction", "statement", NULL};
static const char *const auth_types[] = {
    "any", "trust", "plain", "md5", "scram-sha-256", "cert", "hba", "pam", NULL};
static const char *const log_formats[] = {"text", "json", NULL};
static const char *const retries[] = {"off", "unread", "aborted", "reads", NULL};
static const char *const drain_modes[] = {"transaction", "client", NULL};

static const char *const *const words[] = {
    [KIND_POOL_MODE] = pool_modes,   [KIND_AUTH_TYPE] = auth_types,
    [KIND_LOG_FORMAT] = log_formats, [KIND_RETRY] = retries,
    [KIND_DRAIN_MODE] = drain_modes,
};

const struct key *
key_find(const char *name)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (strcmp(conf_keys[i].name, name) == 0) {
            return &conf_keys[i];
        }
    }
    return NULL;
}

const struct known *
known_find(const char *name)
{
    for (size_t i = 0; i < sizeof(known_keys) / sizeof(known_keys[0]); i++) {
        if (strcmp(known_keys[i].name, name) == 0) {
            return &known_keys[i];
        }
    }
    return NULL;
}

bool
known_refuses(const struct known *known, const char *value)
{
    size_t len = strlen(value);

    if (known->refused == NULL || len == 0) {
        return false;
    }
    if (strcmp(known->refused, "*") == 0) {
        return true;
    }
    bool is_listed = false;
    bool lists_good = known->refused[0] == '!';
    for (const char *at = known->refused + lists_good; at != NULL; at = strchr(at, '|')) {
        at += *at == '|' ? 1 : 0;
        is_listed =
            is_listed || (strcspn(at, "|") == len && strncasecmp(at, value, len) == 0);
    }
    return is_listed != lists_good;
}

bool
key_read_word(enum kind kind, const char *text, int *value_out)
{
    for (int i = 0; words[kind][i] != NULL; i++) {
        if (strcasecmp(words[kind][i], text) == 0) {
            *value_out = i;
            return true;
        }
    }
    return false;
}

const char *
key_word(enum kind kind, int value)
{
    return words[kind][value];
}

void
key_list_words(enum kind kind, char *to, size_t size)
{
    size_t len = 0;

    to[0] = '\0';
    for (int i = 0; words[kind][i] != NULL && len < size; i++) {
        len += (size_t)snprintf(to + len, size - len, "%s%s", i == 0 ? "" : ", ", words[kind][i]);
    }
}

void
key_print_bound(enum kind kind, double bound, char *to, size_t size)
{
    switch ((int)kind) {
    case KIND_DURATION:
        text_print_duration(to, size, (int64_t)llround(bound * 1e6));
        return;
    case KIND_MODE:
        snprintf(to, size, "%04o", (unsigned)bound);
        return;
    default:
        snprintf(to, size, "%.12g", bound);
    }
}

/* "between 1 and 65535" */
static void
print_range(const struct key *key, char *to, size_t size)
{
    char low[32];
    char high[32];

    key_print_bound(key->kind, key->low, low, sizeof(low));
    key_print_bound(key->kind, key->high, high, sizeof(high));
    snprintf(to, size, "between %s and %s", low, high);
}

/* False and the allowed range, unless the value is inside. */
static bool
check_range(const struct key *key, double value, char *why, size_t size)
{
    char range[80];
    double scale = key->kind == KIND_DURATION ? 1e6 : 1;

    if (value >= key->low * scale && value <= key->high * scale) {
        return true;
    }
    print_range(key, range, sizeof(range));
    snprintf(why, size, "must be %s", range);
    return false;
}

static bool
parse_number(enum kind kind, const char *text, int64_t *value_out)
{
    switch ((int)kind) {
    case KIND_SIZE:
        return text_parse_size(text, value_out);
    case KIND_DURATION:
        return text_parse_duration(text, value_out);
    default:
        return text_parse_integer(text, kind == KIND_MODE, value_out);
    }
}

static bool
read_number(const struct key *key, int64_t *member, const char *text, char *why, size_t size)
{
    static const char *const expected[] = {
        [KIND_COUNT] = "a whole number",
        [KIND_SIZE] = "a size such as 65536 or 64kB",
        [KIND_DURATION] = "a duration such as 30, 500ms or 5min",
        [KIND_MODE] = "an octal number such as 0777",
    };
    int64_t value;

    if (!parse_number(key->kind, text, &value)) {
        char range[80];

        print_range(key, range, sizeof(range));
        snprintf(why, size, "must be %s, %s", expected[key->kind], range);
        return false;
    }
    if (!check_range(key, (double)value, why, size)) {
        return false;
    }
    *member = value;
    return true;
}

static bool
read_decimal(const struct key *key, double *member, const char *text, char *why, size_t size)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !isfinite(value)) {
        snprintf(why, size, "must be a number between %g and %g", key->low, key->high);
        return false;
    }
    if (!check_range(key, value, why, size)) {
        return false;
    }
    *member = value;
    return true;
}

static bool
read_word(const struct key *key, void *member, const char *text, char *why, size_t size)
{
    struct guess guess = {NULL, LONGEST_GUESS + 1};
    char list[120];
    char hint[120];
    int value;

    if (key_read_word(key->kind, text, &value)) {
        memcpy(member, &value, sizeof(value)); /* enumerations are ints; asserted below */
        return true;
    }
    for (int i = 0; words[key->kind][i] != NULL; i++) {
        guess_consider(&guess, text, words[key->kind][i]);
    }
    key_list_words(key->kind, list, sizeof(list));
    guess_print(&guess, hint, sizeof(hint));
    snprintf(why, size, "must be one of %s%s", list, hint);
    return false;
}

_Static_assert(sizeof(enum pool_mode) == sizeof(int) && sizeof(enum auth_type) == sizeof(int) &&
                   sizeof(enum log_format) == sizeof(int) &&
                   sizeof(enum transparent_retry) == sizeof(int) &&
                   sizeof(enum drain_mode) == sizeof(int),
    "enumerations are as wide as int");

bool
key_read(const struct key *key, void *member, const char *text, char *why, size_t size)
{
    switch (key->kind) {
    case KIND_BOOL:
        snprintf(why, size, "must be on or off (also 1, true, yes, 0, false, no)");
        return text_parse_bool(text, member);
    case KIND_COUNT:
    case KIND_SIZE:
    case KIND_DURATION:
    case KIND_MODE:
        return read_number(key, member, text, why, size);
    case KIND_DECIMAL:
        return read_decimal(key, member, text, why, size);
    case KIND_STRING:
        free(*(char **)member);
        *(char **)member = mem_string(text);
        return true;
    case KIND_POOL_MODE:
    case KIND_AUTH_TYPE:
    case KIND_LOG_FORMAT:
    case KIND_RETRY:
    case KIND_DRAIN_MODE:
        return read_word(key, member, text, why, size);
    }
    return false;
}

bool
key_read_or_unset(const struct key *key, void *member, const char *text, char *why, size_t size)
{
    bool is_word = key->kind >= KIND_STRING;

    if (!is_word && strcmp(text, "-1") == 0) {
        *(int64_t *)member = NOT_SET;
        return true;
    }
    return key_read(key, member, text, why, size);
}

/* Whole kilobytes and megabytes with their unit, as people write them. */
static void
print_size(char *to, size_t size, int64_t bytes)
{
    bool is_mega = bytes > 0 && bytes % (1 << 20) == 0;
    bool is_kilo = bytes > 0 && bytes % 1024 == 0;

    snprintf(to, size, "%" PRId64 "%s", is_mega ? bytes >> 20 : is_kilo ? bytes >> 10 : bytes,
        is_mega       ? "MB"
            : is_kilo ? "kB"
                      : "");
}

/* Its value is shown to nobody. */
static bool
key_is_secret(const struct key *key)
{
    return strcmp(key->name, "http_token") == 0;
}

void
key_print(const struct key *key, const struct settings *settings, char *to, size_t size)
{
    const void *member = (const char *)settings + key->offset;

    switch (key->kind) {
    case KIND_BOOL:
        text_copy(to, size, *(const bool *)member ? "1" : "0");
        return;
    case KIND_COUNT:
        snprintf(to, size, "%" PRId64, *(const int64_t *)member);
        return;
    case KIND_SIZE:
        print_size(to, size, *(const int64_t *)member);
        return;
    case KIND_DURATION: /* plain seconds, as PgBouncer shows them */
        snprintf(to, size, "%.12g", (double)*(const int64_t *)member / 1e6);
        return;
    case KIND_MODE:
        snprintf(to, size, "%04" PRIo64, *(const int64_t *)member);
        return;
    case KIND_DECIMAL:
        snprintf(to, size, "%.12g", *(const double *)member);
        return;
    case KIND_STRING: {
        const char *text = *(const char *const *)member;
        text_copy(to, size, key_is_secret(key) && text[0] != '\0' ? "***" : text);
        return;
    }
    case KIND_POOL_MODE:
    case KIND_AUTH_TYPE:
    case KIND_LOG_FORMAT:
    case KIND_RETRY:
    case KIND_DRAIN_MODE:
        text_copy(to, size, key_word(key->kind, *(const int *)member));
        return;
    }
}

void
guess_consider(struct guess *guess, const char *typed, const char *candidate)
{
    unsigned distance = text_distance(typed, candidate, LONGEST_GUESS);

    /* More than half of a short word changed is another word. */
    if (distance < guess->distance && distance * 2 <= strlen(candidate)) {
        guess->distance = distance;
        guess->best = candidate;
    }
}

void
guess_print(const struct guess *guess, char *to, size_t size)
{
    to[0] = '\0';
    if (guess->best != NULL) {
        snprintf(to, size, " (did you mean \"%s\"?)", guess->best);
    }
}

void
guess_key(const char *typed, struct guess *guess)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        guess_consider(guess, typed, conf_keys[i].name);
    }
    for (size_t i = 0; i < sizeof(known_keys) / sizeof(known_keys[0]); i++) {
        guess_consider(guess, typed, known_keys[i].name);
    }
}
