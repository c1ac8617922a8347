/* Small text. Called from conf, wire and client; calls nothing but buf. */
#include "base/text.h"

#include "base/mem.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit
{
    const char *name;
    int64_t factor;
};

static const struct unit duration_units[] = {
    {"", 1000000},
    {"us", 1},
    {"ms", 1000},
    {"s", 1000000},
    {"sec", 1000000},
    {"min", 60000000},
    {"m", 60000000},
    {"h", 3600000000},
    {"d", 86400000000},
    {NULL, 0},
};

static const struct unit size_units[] = {
    {"", 1},
    {"b", 1},
    {"kb", 1024},
    {"kib", 1024},
    {"k", 1024},
    {"mb", 1 << 20},
    {"mib", 1 << 20},
    {"m", 1 << 20},
    {"gb", 1 << 30},
    {"gib", 1 << 30},
    {"g", 1 << 30},
    {NULL, 0},
};

bool
text_copy(char *to, size_t size, const char *from)
{
    size_t len = strlen(from);
    size_t fits = len < size ? len : size - 1;

    memcpy(to, from, fits);
    to[fits] = '\0';
    return fits == len;
}

/* A number and a unit of the table, spaces between them allowed. */
static bool
parse_with_unit(const char *text, const struct unit *units, int64_t *value_out)
{
    char *end;

    if (!isdigit((unsigned char)text[0]) && text[0] != '.') {
        return false;
    }
    size_t digits = strspn(text, "0123456789.");
    double number = strtod(text, &end);
    if (end != text + digits) {
        return false;
    }
    while (isspace((unsigned char)*end)) {
        end++;
    }
    for (; units->name != NULL; units++) {
        if (strcasecmp(end, units->name) == 0) {
            double value = number * (double)units->factor;
            if (!isfinite(value) || value > 9.0e18) {
                return false;
            }
            *value_out = (int64_t)llround(value);
            return true;
        }
    }
    return false;
}

bool
text_parse_duration(const char *text, int64_t *us_out)
{
    return parse_with_unit(text, duration_units, us_out);
}

bool
text_parse_size(const char *text, int64_t *bytes_out)
{
    return parse_with_unit(text, size_units, bytes_out);
}

bool
text_parse_integer(const char *text, bool octal, int64_t *value_out)
{
    char *end;
    int base = octal && text[0] == '0' ? 8 : 10;
    size_t sign = text[0] == '-' ? 1 : 0;

    if (!isdigit((unsigned char)text[sign]) || strlen(text) > 18) {
        return false;
    }
    long long value = strtoll(text, &end, base);
    if (*end != '\0') {
        return false;
    }
    *value_out = value;
    return true;
}

bool
text_parse_bool(const char *text, bool *value_out)
{
    static const char *const yes[] = {"1", "on", "true", "yes"};
    static const char *const no[] = {"0", "off", "false", "no"};

    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *value_out = strcasecmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

void
text_print_duration(char *to, size_t size, int64_t us)
{
    static const struct unit units[] = {
        {"d", 86400000000},
        {"h", 3600000000},
        {"min", 60000000},
        {"s", 1000000},
        {"ms", 1000},
        {"us", 1},
    };

    for (size_t i = 0; us > 0 && i < sizeof(units) / sizeof(units[0]); i++) {
        if (us % units[i].factor == 0) {
            snprintf(to, size, "%" PRId64 "%s", us / units[i].factor, units[i].name);
            return;
        }
    }
    snprintf(to, size, "%" PRId64, us);
}

unsigned
text_distance(const char *a, const char *b, unsigned limit)
{
    enum
    {
        LONGEST = 64
    };
    unsigned row[LONGEST + 1];
    size_t a_len = strlen(a);
    size_t b_len = strlen(b);

    if (a_len > LONGEST || b_len > LONGEST) {
        return limit + 1;
    }
    for (size_t j = 0; j <= b_len; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= a_len; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            unsigned substitute = diagonal + (a[i - 1] != b[j - 1]);
            unsigned step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = substitute < step ? substitute : step;
        }
    }
    return row[b_len] <= limit ? row[b_len] : limit + 1;
}

void
text_quote_literal(struct buf *buf, const char *value)
{
    if (strchr(value, '\\') != NULL) {
        buf_add(buf, " E", 2);
    }
    buf_add_u8(buf, '\'');
    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '\'' || *c == '\\') {
            buf_add_u8(buf, (uint8_t)*c);
        }
        buf_add_u8(buf, (uint8_t)*c);
    }
    buf_add_u8(buf, '\'');
}

void
text_quote_identifier(struct buf *buf, const char *name)
{
    buf_add_u8(buf, '"');
    for (const char *c = name; *c != '\0'; c++) {
        if (*c == '"') {
            buf_add_u8(buf, '"');
        }
        buf_add_u8(buf, (uint8_t)*c);
    }
    buf_add_u8(buf, '"');
}

void
text_wipe(char **secret)
{
    if (*secret != NULL) {
        explicit_bzero(*secret, strlen(*secret));
        free(*secret);
        *secret = NULL;
    }
}

bool
text_equal_constant_time(const void *a, const void *b, size_t len)
{
    const volatile unsigned char *left = a;
    const volatile unsigned char *right = b;
    unsigned char difference = 0;

    for (size_t i = 0; i < len; i++) {
        difference |= (unsigned char)(left[i] ^ right[i]);
    }
    return difference == 0;
}

size_t
text_utf8_len(const unsigned char *text)
{
    if (text[0] < 0x80) {
        return 1;
    }
    size_t len = text[0] >= 0xF0 ? 4 : text[0] >= 0xE0 ? 3 : 2;
    if (text[0] < 0xC2 || text[0] > 0xF4) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((text[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    bool is_overlong = (text[0] == 0xE0 && text[1] < 0xA0) || (text[0] == 0xF0 && text[1] < 0x90);
    bool is_outside = (text[0] == 0xED && text[1] > 0x9F) || (text[0] == 0xF4 && text[1] > 0x8F);
    return is_overlong || is_outside ? 0 : len;
}

bool
text_is_in(const char *const *list, size_t len, const char *word)
{
    for (size_t i = 0; i < len; i++) {
        if (strcmp(list[i], word) == 0) {
            return true;
        }
    }
    return false;
}
