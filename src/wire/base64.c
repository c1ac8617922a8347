/* Base64. Called by scram; calls buf. */
#include "wire/base64.h"

#include "base/buf.h"

#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
base64_add(struct buf *buf, const void *data, size_t len)
{
    const uint8_t *from = data;

    for (size_t i = 0; i < len; i += 3) {
        size_t have = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)from[i] << 16;
        bits |= have > 1 ? (uint32_t)from[i + 1] << 8 : 0;
        bits |= have > 2 ? from[i + 2] : 0;
        char group[4] = {alphabet[bits >> 18], alphabet[bits >> 12 & 63],
            have > 1 ? alphabet[bits >> 6 & 63] : '=', have > 2 ? alphabet[bits & 63] : '='};
        buf_add(buf, group, sizeof(group));
    }
}

/* Bits of up to four characters, padded with zeros; false when one is none of the alphabet. */
static bool
decode_group(const char *text, size_t len, uint32_t *bits_out)
{
    uint32_t bits = 0;

    for (size_t i = 0; i < 4; i++) {
        const char *at = i < len ? memchr(alphabet, text[i], 64) : alphabet;
        if (at == NULL) {
            return false;
        }
        bits = bits << 6 | (uint32_t)(at - alphabet);
    }
    *bits_out = bits;
    return true;
}

bool
base64_decode(const char *text, size_t len, uint8_t *to, size_t size, size_t *to_len_out)
{
    size_t pad = 0;
    size_t used = 0;

    if (len % 4 != 0) {
        return false;
    }
    if (len > 0 && text[len - 1] == '=') {
        pad = text[len - 2] == '=' ? 2 : 1;
    }
    for (size_t i = 0; i < len; i += 4) {
        size_t gone = i + 4 == len ? pad : 0;
        uint32_t bits;
        if (!decode_group(text + i, 4 - gone, &bits) || size - used < 3 - gone) {
            return false;
        }
        if ((bits & ((1U << (8 * gone)) - 1)) != 0) {
            return false; /* bits that no byte has, set */
        }
        for (size_t j = 0; j < 3 - gone; j++) {
            to[used++] = (uint8_t)(bits >> (16 - 8 * j));
        }
    }
    *to_len_out = used;
    return true;
}
