/*
 * Everything a client may send while it logs in. The first byte chooses what the rest is; an
 * exchange is two messages with a line feed between them, against the user of RFC 7677, chapter 3.
 */
#include "wire/scram.h"

#include "wire/password.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/state.h"
#include "wire/base64.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char verifier_text[] =
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
    "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
static const char nonce[] = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

static void
fuzz_exchange(const char *first, const uint8_t *final, size_t final_len, bool offers_plus)
{
    struct scram_verifier verifier;
    struct buf reply = {0};
    struct fail fail = {.text = ""};

    ensure(scram_verifier_parse(verifier_text, &verifier));
    struct scram *scram = scram_new(&verifier, offers_plus);
    if (offers_plus && final_len % 2 == 1) {
        scram_bind(scram, verifier.stored_key, sizeof(verifier.stored_key));
    }
    if (scram_first_with_nonce(scram, nonce, first, &reply, &fail)) {
        ensure(buf_len(&reply) < SCRAM_MESSAGE_MAX);
        buf_clear(&reply);
        bool is_proven = scram_final(scram, final, final_len, &reply, &fail);
        ensure(is_proven == (scram_client_key(scram) != NULL));
        ensure(is_proven == (buf_len(&reply) > 0));
    }
    ensure(scram_client_key(scram) != NULL || strlen(fail.sqlstate) == 5);
    buf_deinit(&reply);
    scram_free(&scram);
}

static void
fuzz_verifier(const char *text)
{
    struct scram_verifier verifier;

    if (scram_verifier_parse(text, &verifier)) {
        ensure(verifier.salt_len > 0 && verifier.salt_len <= SCRAM_SALT_MAX);
        ensure(verifier.iterations > 0 && verifier.iterations <= SCRAM_ITERATIONS_MAX);
    }
}

/* What decodes is the one spelling of its bytes. */
static void
fuzz_base64(const char *text, size_t len)
{
    uint8_t decoded[64];
    size_t decoded_len;
    struct buf buf = {0};

    if (base64_decode(text, len, decoded, sizeof(decoded), &decoded_len)) {
        base64_add(&buf, decoded, decoded_len);
        ensure(buf_len(&buf) == len);
        ensure(len == 0 || memcmp(buf_head(&buf), text, len) == 0);
        buf_deinit(&buf);
    }
}

static void
fuzz_answers(const char *text)
{
    static const uint8_t salt[4] = {1, 2, 3, 4};

    ensure(!password_check_md5("ann", verifier_text, salt, text));
    ensure(!password_check_plain("ann", verifier_text, text));
    ensure(!password_check_plain("ann", "", text));
    ensure(text[0] == '\0' || strncmp(text, "md5", 3) == 0 || scram_is_verifier(text)
           || password_check_plain("ann", text, text));
    ensure(!password_check_md5("ann", text, salt, text)); /* nobody answers with what is stored */
}

static void
fuzz_initial(const uint8_t *data, size_t size)
{
    const char *mechanism;
    const uint8_t *message;
    size_t len;

    if (scram_parse_initial(data, size, &mechanism, &message, &len)) {
        ensure(strlen(mechanism) + 1 + 4 + len == size);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    uint8_t what = data[0];
    data++;
    size--;
    char *text = mem_new(size + 1); /* ends at the first zero byte, where a text is wanted */
    memcpy(text, data, size);
    char *line_feed = memchr(text, '\n', size);

    switch (what) {
    case 'v':
        fuzz_verifier(text);
        break;
    case 'b':
        fuzz_base64(text, size);
        break;
    case 'a':
        fuzz_answers(text);
        break;
    case 'i':
        fuzz_initial(data, size);
        break;
    default:
        if (line_feed != NULL) {
            size_t first_len = (size_t)(line_feed - text);
            *line_feed = '\0';
            fuzz_exchange(text, data + first_len + 1, size - first_len - 1, what == '+');
        }
        break;
    }
    free(text);
    return 0;
}
