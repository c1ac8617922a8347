/* Escaping. Called by ops/metrics and ops/status. */
#include "ops/escape.h"

#include <string.h>

static bool
is_continuation(unsigned char byte)
{
    return (byte & 0xc0) == 0x80;
}

/* How many bytes the character takes; 0: it is none. */
static size_t
character_len(const unsigned char *at)
{
    if (at[0] < 0x80) {
        return 1;
    }
    if (at[0] >= 0xc2 && at[0] <= 0xdf) {
        return is_continuation(at[1]) ? 2 : 0;
    }
    if (at[0] >= 0xe0 && at[0] <= 0xef && is_continuation(at[1]) && is_continuation(at[2])) {
        bool is_long = at[0] == 0xe0 && at[1] < 0xa0;
        bool is_surrogate = at[0] == 0xed && at[1] >= 0xa0;
        return is_long || is_surrogate ? 0 : 3;
    }
    if (at[0] >= 0xf0 && at[0] <= 0xf4 && is_continuation(at[1]) && is_continuation(at[2]) &&
        is_continuation(at[3])) {
        bool is_long = at[0] == 0xf0 && at[1] < 0x90;
        bool is_beyond = at[0] == 0xf4 && at[1] >= 0x90;
        return is_long || is_beyond ? 0 : 4;
    }
    return 0;
}

/* Characters of several bytes as they are, single bytes by fn. */
static void
add_characters(struct buf *buf, const char *text, void (*fn)(struct buf *buf, unsigned char byte))
{
    const unsigned char *at = (const unsigned char *)text;

    while (*at != '\0') {
        size_t len = character_len(at);
        if (len == 0) {
            buf_add(buf, "\xef\xbf\xbd", 3);
            at++;
        } else if (len == 1) {
            fn(buf, *at++);
        } else {
            buf_add(buf, at, len);
            at += len;
        }
    }
}

static void
add_json_byte(struct buf *buf, unsigned char byte)
{
    if (byte < ' ' || byte == 0x7f || strchr("\"\\<>&'", byte) != NULL) {
        buf_print(buf, "\\u%04x", byte);
    } else {
        buf_add_u8(buf, byte);
    }
}

static void
add_label_byte(struct buf *buf, unsigned char byte)
{
    switch (byte) {
    case '\n':
        buf_add(buf, "\\n", 2);
        break;
    case '"':
    case '\\':
        buf_add_u8(buf, '\\');
        buf_add_u8(buf, byte);
        break;
    default:
        buf_add_u8(buf, byte);
    }
}

void
escape_json(struct buf *buf, const char *text)
{
    if (text == NULL) {
        buf_add(buf, "null", 4);
        return;
    }
    buf_add_u8(buf, '"');
    add_characters(buf, text, add_json_byte);
    buf_add_u8(buf, '"');
}

void
escape_label(struct buf *buf, const char *text)
{
    add_characters(buf, text, add_label_byte);
}
