/*
 * Tells two ways to connect apart without keeping the passwords in clear. Called from database.c.
 *
 * SipHash-2-4 (Aumasson and Bernstein, 2012) with keys that this process makes up: without them
 * nobody who sees an identity in a log can try passwords against it. Two of 64 bits, so that no two
 * databases ever meet.
 */
#include "conf/internal.h"

#include "base/mem.h"
#include "base/state.h"

#include <inttypes.h>
#include <sys/random.h>

static uint64_t
rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static void
mix(uint64_t v[4], int rounds)
{
    for (int i = 0; i < rounds; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

static uint64_t
siphash(const uint64_t key[2], const uint8_t *data, size_t len)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
        key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};

    for (size_t at = 0; at <= len; at += 8) {
        size_t left = len - at < 8 ? len - at : 8;
        uint64_t word = left < 8 ? (uint64_t)len << 56 : 0;
        for (size_t i = 0; i < left; i++) {
            word |= (uint64_t)data[at + i] << (8 * i);
        }
        v[3] ^= word;
        mix(v, 2);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    mix(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* With its length in front, so that no two lists read the same; NULL is not "". */
static void
add(struct buf *buf, const char *text)
{
    buf_add_u32(buf, text == NULL ? UINT32_MAX : (uint32_t)strlen(text));
    buf_add(buf, text == NULL ? "" : text, text == NULL ? 0 : strlen(text));
}

char *
identity_of(const struct database *database)
{
    static uint64_t keys[4]; /* main thread only, as all of loading */
    struct buf buf = {0};
    char *identity = NULL;

    if (keys[0] == 0) {
        ensure(getrandom(keys, sizeof(keys), 0) == (ssize_t)sizeof(keys));
    }
    for (size_t i = 0; database->keywords[i] != NULL; i++) {
        add(&buf, database->keywords[i]);
        add(&buf, database->values[i]);
    }
    add(&buf, database->dbname);
    add(&buf, database->user);
    add(&buf, database->password);
    add(&buf, database->connect_query);
    uint64_t first = siphash(keys, buf_head(&buf), buf_len(&buf));
    uint64_t second = siphash(keys + 2, buf_head(&buf), buf_len(&buf));
    explicit_bzero(buf.data, buf.size);
    buf_deinit(&buf);
    if (asprintf(&identity, "%016" PRIx64 "%016" PRIx64, first, second) < 0) {
        mem_exhausted(33);
    }
    return identity;
}
