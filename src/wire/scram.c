/*
 * The server's role of SCRAM-SHA-256, and md5 and plain. Called by client/login; calls OpenSSL's
 * digests. The order of an exchange:
 *
 *     client                                        pgkeel
 *     n,,n=user,r=CLIENT                     ──►    scram_first()
 *                                            ◄──    r=CLIENT SERVER,s=salt,i=iterations
 *     c=biws,r=CLIENT SERVER,p=ClientProof   ──►    scram_final()
 *                                            ◄──    v=ServerSignature
 *
 * AuthMessage, which both signatures are made of, is the first message without its GS2 header, the
 * second, and the third without its proof, joined by commas (RFC 5802, chapter 3). The user's name
 * in the first message is ignored, as PostgreSQL does: the startup packet has told it.
 */
#include "wire/scram.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"
#include "wire/base64.h"
#include "wire/message.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

enum
{
    NONCE_RAW_LEN = 18, /* as PostgreSQL's: 24 characters */
    NONCE_MAX = 512,
    MOCK_SALT_LEN = 16,
    MOCK_ITERATIONS = 4096,
};

enum scram_state
{
    SCRAM_START, /* waits for the client-first-message */
    SCRAM_SENT,  /* the server-first-message is out */
    SCRAM_PROVEN,
    SCRAM_FAILED,
};

struct scram
{
    struct scram_verifier verifier;
    enum scram_state state;
    bool offers_plus;
    char gs2_flag;                     /* 'n', 'y' or 'p' */
    bool is_plus;                      /* the mechanism binds the channel */
    uint8_t binding[SCRAM_BINDING_MAX];
    size_t binding_len;
    char nonce[NONCE_MAX * 2];         /* client's and ours */
    struct buf auth;                   /* AuthMessage, as far as it is known */
    uint8_t client_key[SCRAM_KEY_LEN]; /* set by SCRAM_PROVEN */
};

static bool
decode_key(const char *text, size_t len, uint8_t *key)
{
    size_t key_len;

    return base64_decode(text, len, key, SCRAM_KEY_LEN, &key_len) && key_len == SCRAM_KEY_LEN;
}

static bool
hmac(const uint8_t *key, const void *data, size_t len, uint8_t *out)
{
    return HMAC(EVP_sha256(), key, SCRAM_KEY_LEN, data, len, out, NULL) != NULL;
}

/* --- Verifiers --- */

bool
scram_is_verifier(const char *secret)
{
    return strncmp(secret, SCRAM_MECHANISM "$", strlen(SCRAM_MECHANISM) + 1) == 0;
}

/* Digits up to end, within 1 and SCRAM_ITERATIONS_MAX. */
static bool
parse_iterations(const char *text, const char *end, uint32_t *out)
{
    uint32_t value = 0;

    for (; text < end; text++) {
        if (*text < '0' || *text > '9') {
            return false;
        }
        value = value * 10 + (uint32_t)(*text - '0');
        if (value > SCRAM_ITERATIONS_MAX) {
            return false;
        }
    }
    *out = value;
    return value > 0;
}

bool
scram_verifier_parse(const char *text, struct scram_verifier *out)
{
    memset(out, 0, sizeof(*out));
    if (!scram_is_verifier(text)) {
        return false;
    }
    const char *iterations = text + strlen(SCRAM_MECHANISM) + 1;
    const char *salt = strchr(iterations, ':');
    const char *stored = salt == NULL ? NULL : strchr(salt, '$');
    const char *server = stored == NULL ? NULL : strchr(stored, ':');
    size_t salt_len;

    if (server == NULL) {
        return false;
    }
    bool is_good = parse_iterations(iterations, salt, &out->iterations) &&
                   base64_decode(salt + 1, (size_t)(stored - salt - 1), out->salt,
                       sizeof(out->salt), &salt_len) &&
                   salt_len > 0 &&
                   decode_key(stored + 1, (size_t)(server - stored - 1), out->stored_key) &&
                   decode_key(server + 1, strlen(server + 1), out->server_key);
    if (!is_good) {
        scram_verifier_wipe(out);
        return false;
    }
    out->salt_len = (uint32_t)salt_len;
    return true;
}

void
scram_verifier_mock(
    const char *user, const void *secret, size_t secret_len, struct scram_verifier *out)
{
    uint8_t digest[SCRAM_KEY_LEN] = {0};

    memset(out, 0, sizeof(*out));
    out->is_mock = true;
    out->iterations = MOCK_ITERATIONS;
    out->salt_len = MOCK_SALT_LEN;
    (void)HMAC(EVP_sha256(), secret, (int)secret_len, (const unsigned char *)user, strlen(user),
        digest, NULL);
    memcpy(out->salt, digest, MOCK_SALT_LEN);
}

void
scram_verifier_wipe(struct scram_verifier *verifier)
{
    explicit_bzero(verifier, sizeof(*verifier));
}

/* --- The exchange --- */

bool
scram_parse_initial(const uint8_t *body, size_t len, const char **mechanism_out,
    const uint8_t **data_out, size_t *data_len_out)
{
    struct reader reader = reader_over(body, len);

    *mechanism_out = reader_string(&reader);
    uint32_t data_len = reader_u32(&reader);
    bool is_absent = data_len == UINT32_MAX; /* documentation, "SASLInitialResponse": -1 */
    *data_len_out = is_absent ? 0 : data_len;
    *data_out = reader_bytes(&reader, *data_len_out);
    return reader_is_done(&reader);
}

struct scram *
scram_new(const struct scram_verifier *verifier, bool offers_plus)
{
    struct scram *scram = mem_new(sizeof(*scram));

    scram->verifier = *verifier;
    scram->offers_plus = offers_plus;
    return scram;
}

void
scram_bind(struct scram *scram, const uint8_t *binding, size_t len)
{
    ensure(len <= sizeof(scram->binding));
    scram->is_plus = true;
    memcpy(scram->binding, binding, len);
    scram->binding_len = len;
}

void
scram_free(struct scram **scram)
{
    struct scram *s = *scram;

    if (s == NULL) {
        return;
    }
    buf_deinit(&s->auth);
    explicit_bzero(s, sizeof(*s));
    free(s);
    *scram = NULL;
}

static bool
malformed(struct fail *fail, const char *detail)
{
    (void)fail_set(fail, "08P01", "malformed SCRAM message");
    return fail_detail(fail, "%s", detail);
}

/* A copy with a zero byte, to be freed, of what can be read as text of bounded length at all. */
static bool
copy_message(const uint8_t *data, size_t len, char **copy_out, struct fail *fail)
{
    if (len == 0) {
        return malformed(fail, "The message is empty.");
    }
    if (len > SCRAM_MESSAGE_MAX) {
        return malformed(fail, "The message is too long.");
    }
    if (memchr(data, 0, len) != NULL) {
        return malformed(fail, "Message length does not match input length.");
    }
    *copy_out = mem_new(len + 1);
    memcpy(*copy_out, data, len);
    return true;
}

/* Cuts the attribute at *at out of the message: its letter, '=', and the value up to the next comma
 * or the end. Moves *at behind it. Returns the value, NULL when there is no attribute. */
static const char *
next_attribute(char **at, char *letter_out)
{
    char *begin = *at;

    *letter_out = begin[0];
    bool is_letter = (begin[0] >= 'a' && begin[0] <= 'z') || (begin[0] >= 'A' && begin[0] <= 'Z');
    if (!is_letter || begin[1] != '=') {
        return NULL;
    }
    char *comma = strchr(begin, ',');
    if (comma == NULL) {
        *at = begin + strlen(begin);
    } else {
        *comma = '\0';
        *at = comma + 1;
    }
    return begin + 2;
}

/* The next attribute, which has to be this one. */
static bool
expect_attribute(char **at, char letter, const char **value_out, struct fail *fail)
{
    char found;

    *value_out = next_attribute(at, &found);
    if (*value_out == NULL || found != letter) {
        (void)malformed(fail, "");
        return fail_detail(fail, "Expected attribute \"%c\".", letter);
    }
    return true;
}

/* Whether the flag fits the mechanism that was chosen and those that were offered. */
static bool
check_gs2_flag(const struct scram *scram, char flag, struct fail *fail)
{
    if (flag == 'p' && !scram->is_plus) {
        return malformed(fail, "The client selected SCRAM-SHA-256 without channel binding, but "
                               "the SCRAM message includes channel binding data.");
    }
    if ((flag == 'n' || flag == 'y') && scram->is_plus) {
        return malformed(fail, "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message "
                               "does not include channel binding data.");
    }
    if (flag != 'n' && flag != 'y' && flag != 'p') {
        return malformed(fail, "Unexpected channel-binding flag.");
    }
    if (flag == 'y' && scram->offers_plus) {
        (void)fail_set(fail, "28000", "SCRAM channel binding negotiation error");
        return fail_detail(fail, "The client supports SCRAM channel binding but thinks the server "
                                 "does not. However, this server does support channel binding.");
    }
    return true;
}

/* Passes over the GS2 header: "n,,", "y,," or "p=tls-server-end-point,,". */
static bool
parse_gs2_header(struct scram *scram, char **at, struct fail *fail)
{
    static const char type[] = "=tls-server-end-point";
    char *header = *at;

    if (!check_gs2_flag(scram, header[0], fail)) {
        return false;
    }
    scram->gs2_flag = header[0];
    header++;
    if (scram->gs2_flag == 'p') {
        if (strncmp(header, type, sizeof(type) - 1) != 0 || header[sizeof(type) - 1] != ',') {
            return fail_set(fail, "08P01", "unsupported SCRAM channel-binding type");
        }
        header += sizeof(type) - 1;
    }
    if (header[0] != ',') {
        return malformed(fail, "Comma expected behind the channel-binding flag.");
    }
    if (header[1] == 'a') {
        return fail_set(
            fail, "0A000", "client uses authorization identity, but it is not supported");
    }
    if (header[1] != ',') {
        return malformed(fail, "Unexpected attribute in client-first-message.");
    }
    *at = header + 2;
    return true;
}

/* Printable ASCII without comma (RFC 5802, chapter 7), which cutting at commas took out already. */
static bool
is_nonce(const char *text)
{
    size_t len = strlen(text);

    for (const char *c = text; *c != '\0'; c++) {
        if (*c < 0x21 || *c > 0x7E) {
            return false;
        }
    }
    return len > 0 && len < NONCE_MAX;
}

/* client-first-message: keeps its bare part for AuthMessage, and the client's nonce. */
static bool
parse_first(struct scram *scram, char *at, struct fail *fail)
{
    char letter;
    const char *value;

    if (!parse_gs2_header(scram, &at, fail)) {
        return false;
    }
    if (at[0] == 'm') {
        return fail_set(fail, "0A000", "client requires an unsupported SCRAM extension");
    }
    buf_add(&scram->auth, at, strlen(at));
    if (!expect_attribute(&at, 'n', &value, fail) || !expect_attribute(&at, 'r', &value, fail)) {
        return false;
    }
    if (!is_nonce(value)) {
        return fail_set(fail, "08P01", "non-printable characters in SCRAM nonce");
    }
    text_copy(scram->nonce, sizeof(scram->nonce), value);
    while (*at != '\0') { /* optional extensions are ignored */
        if (next_attribute(&at, &letter) == NULL) {
            return malformed(fail, "Attribute expected.");
        }
    }
    return true;
}

/* The server-first-message, both to the client and to AuthMessage. */
static void
add_server_first(struct scram *scram, struct buf *reply)
{
    size_t begin = buf_len(reply);

    buf_print(reply, "r=%s,s=", scram->nonce);
    base64_add(reply, scram->verifier.salt, scram->verifier.salt_len);
    buf_print(reply, ",i=%u", (unsigned)scram->verifier.iterations);
    buf_add_u8(&scram->auth, ',');
    buf_add(&scram->auth, buf_head(reply) + begin, buf_len(reply) - begin);
    buf_add_u8(&scram->auth, ',');
}

bool
scram_first_with_nonce(
    struct scram *scram, const char *nonce, const char *first, struct buf *reply, struct fail *fail)
{
    if (scram->state != SCRAM_START) {
        return fail_set(fail, "08P01", "SCRAM message out of order");
    }
    scram->state = SCRAM_FAILED;
    char *copy;
    if (!copy_message((const uint8_t *)first, strlen(first), &copy, fail)) {
        return false;
    }
    bool is_good = parse_first(scram, copy, fail);
    free(copy);
    if (!is_good) {
        return false;
    }
    size_t used = strlen(scram->nonce);
    if (!text_copy(scram->nonce + used, sizeof(scram->nonce) - used, nonce)) {
        return fail_set(fail, "08P01", "SCRAM nonce is too long");
    }
    add_server_first(scram, reply);
    scram->state = SCRAM_SENT;
    return true;
}

bool
scram_first(
    struct scram *scram, const uint8_t *data, size_t len, struct buf *reply, struct fail *fail)
{
    uint8_t raw[NONCE_RAW_LEN];
    struct buf nonce = {0};
    char *first;

    if (!copy_message(data, len, &first, fail)) {
        scram->state = SCRAM_FAILED;
        return false;
    }
    if (RAND_bytes(raw, sizeof(raw)) != 1) {
        free(first);
        scram->state = SCRAM_FAILED;
        return fail_set(fail, "XX000", "could not generate random nonce");
    }
    base64_add(&nonce, raw, sizeof(raw));
    buf_add_u8(&nonce, 0);
    bool is_good = scram_first_with_nonce(scram, (char *)buf_head(&nonce), first, reply, fail);
    buf_deinit(&nonce);
    free(first);
    return is_good;
}

/* Whether this is base64 of the header of the first message, so nobody changed it on the way, and
 * of the channel that it is bound to. */
static bool
is_right_binding(const struct scram *scram, const char *value)
{
    static const char header[] = "p=tls-server-end-point,,";
    struct buf raw = {0}, expected = {0};

    if (scram->gs2_flag != 'p') {
        return strcmp(value, scram->gs2_flag == 'y' ? "eSws" : "biws") == 0;
    }
    buf_add(&raw, header, sizeof(header) - 1);
    buf_add(&raw, scram->binding, scram->binding_len);
    base64_add(&expected, buf_head(&raw), buf_len(&raw));
    bool is_right = buf_len(&expected) == strlen(value) &&
                    text_equal_constant_time(buf_head(&expected), value, strlen(value));
    buf_deinit(&raw);
    buf_deinit(&expected);
    return is_right;
}

/* client-final-message: channel binding, nonce, extensions, proof. Completes AuthMessage. */
static bool
parse_final(struct scram *scram, char *at, uint8_t *proof, struct fail *fail)
{
    char letter = '\0';
    const char *value = strstr(at, ",p=");

    buf_add(&scram->auth, at, value == NULL ? strlen(at) : (size_t)(value - at));
    if (!expect_attribute(&at, 'c', &value, fail)) {
        return false;
    }
    if (!is_right_binding(scram, value)) {
        return scram->gs2_flag == 'p'
                   ? fail_set(fail, "28000", "SCRAM channel binding check failed")
                   : fail_set(fail, "08P01",
                         "unexpected SCRAM channel-binding attribute in client-final-message");
    }
    if (!expect_attribute(&at, 'r', &value, fail)) {
        return false;
    }
    if (strcmp(value, scram->nonce) != 0) {
        (void)fail_set(fail, "08P01", "invalid SCRAM response");
        return fail_detail(fail, "Nonce does not match.");
    }
    while (letter != 'p') { /* optional extensions are ignored */
        value = next_attribute(&at, &letter);
        if (value == NULL) {
            return malformed(fail, "Attribute expected.");
        }
    }
    if (*at != '\0') {
        return malformed(fail, "Garbage found at the end of client-final-message.");
    }
    if (!decode_key(value, strlen(value), proof)) {
        return malformed(fail, "Malformed proof in client-final-message.");
    }
    return true;
}

/* Whether the proof was made with the ClientKey whose hash is StoredKey (RFC 5802, chapter 3).
 * Works as long for a mock. */
static bool
check_proof(struct scram *scram, const uint8_t *proof)
{
    uint8_t signature[SCRAM_KEY_LEN];
    uint8_t stored[SCRAM_KEY_LEN];
    uint8_t *key = scram->client_key;

    if (!hmac(
            scram->verifier.stored_key, buf_head(&scram->auth), buf_len(&scram->auth), signature)) {
        return false;
    }
    for (size_t i = 0; i < SCRAM_KEY_LEN; i++) {
        key[i] = proof[i] ^ signature[i];
    }
    if (EVP_Digest(key, SCRAM_KEY_LEN, stored, NULL, EVP_sha256(), NULL) != 1) {
        return false;
    }
    bool is_equal = text_equal_constant_time(stored, scram->verifier.stored_key, SCRAM_KEY_LEN);
    explicit_bzero(signature, sizeof(signature));
    explicit_bzero(stored, sizeof(stored));
    return is_equal && !scram->verifier.is_mock;
}

static bool
answer_final(struct scram *scram, const uint8_t *proof, struct buf *reply, struct fail *fail)
{
    uint8_t signature[SCRAM_KEY_LEN];

    bool is_proven =
        check_proof(scram, proof) &&
        hmac(scram->verifier.server_key, buf_head(&scram->auth), buf_len(&scram->auth), signature);
    if (!is_proven) {
        explicit_bzero(scram->client_key, sizeof(scram->client_key));
        return fail_set(fail, "28P01", "password authentication failed");
    }
    buf_add(reply, "v=", 2);
    base64_add(reply, signature, sizeof(signature));
    scram->state = SCRAM_PROVEN;
    return true;
}

bool
scram_final(
    struct scram *scram, const uint8_t *data, size_t len, struct buf *reply, struct fail *fail)
{
    uint8_t proof[SCRAM_KEY_LEN];

    if (scram->state != SCRAM_SENT) {
        return fail_set(fail, "08P01", "SCRAM message out of order");
    }
    scram->state = SCRAM_FAILED;
    char *final;
    if (!copy_message(data, len, &final, fail)) {
        return false;
    }
    bool is_good = parse_final(scram, final, proof, fail);
    explicit_bzero(final, len);
    free(final);
    is_good = is_good && answer_final(scram, proof, reply, fail);
    explicit_bzero(proof, sizeof(proof));
    return is_good;
}

const uint8_t *
scram_client_key(const struct scram *scram)
{
    return scram->state == SCRAM_PROVEN ? scram->client_key : NULL;
}

const uint8_t *
scram_server_key(const struct scram *scram)
{
    return scram->state == SCRAM_PROVEN ? scram->verifier.server_key : NULL;
}
