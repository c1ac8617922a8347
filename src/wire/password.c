/* Answers to md5 and plain challenges. Called by client/login; calls OpenSSL for MD5. */
#include "wire/password.h"

#include "base/text.h"
#include "wire/scram.h"

#include <openssl/evp.h>
#include <string.h>

enum
{
    MD5_HEX_LEN = 32
};

/* Hexadecimal MD5 of a followed by b; false where the platform forbids MD5 (FIPS). */
static bool
md5_hex(const void *a, size_t a_len, const void *b, size_t b_len, char *hex)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    bool is_good = context != NULL && EVP_DigestInit_ex(context, EVP_md5(), NULL) == 1 &&
                   EVP_DigestUpdate(context, a, a_len) == 1 &&
                   EVP_DigestUpdate(context, b, b_len) == 1 &&
                   EVP_DigestFinal_ex(context, digest, NULL) == 1;
    EVP_MD_CTX_free(context);
    for (size_t i = 0; i < MD5_HEX_LEN / 2; i++) {
        hex[2 * i] = is_good ? digits[digest[i] >> 4] : '0';
        hex[2 * i + 1] = is_good ? digits[digest[i] & 15] : '0';
    }
    hex[MD5_HEX_LEN] = '\0';
    explicit_bzero(digest, sizeof(digest));
    return is_good;
}

static bool
is_md5_secret(const char *secret)
{
    return strncmp(secret, "md5", 3) == 0 && strlen(secret) == 3 + MD5_HEX_LEN &&
           strspn(secret + 3, "0123456789abcdef") == MD5_HEX_LEN;
}

/* Equal strings; the time depends on the length of what the peer sent only. */
static bool
is_equal_string(const char *secret, const char *answer)
{
    size_t secret_len = strlen(secret);
    size_t answer_len = strlen(answer);

    /* With lengths that differ something is compared all the same. */
    const char *against = secret_len == answer_len ? secret : answer;
    bool is_equal = text_equal_constant_time(against, answer, answer_len);
    return is_equal && secret_len == answer_len;
}

/* The inner hash, md5(password + user), as PostgreSQL keeps it. */
static bool
inner_hex(const char *user, const char *secret, char *hex)
{
    if (is_md5_secret(secret)) {
        memcpy(hex, secret + 3, MD5_HEX_LEN + 1);
        return true;
    }
    return md5_hex(secret, strlen(secret), user, strlen(user), hex);
}

bool
password_check_md5(const char *user, const char *secret, const uint8_t salt[4], const char *answer)
{
    char inner[MD5_HEX_LEN + 1];
    char expected[3 + MD5_HEX_LEN + 1] = "md5";

    if (scram_is_verifier(secret) || secret[0] == '\0') {
        return false;
    }
    bool is_good = inner_hex(user, secret, inner) &&
                   md5_hex(inner, MD5_HEX_LEN, salt, 4, expected + 3) &&
                   is_equal_string(expected, answer);
    explicit_bzero(inner, sizeof(inner));
    explicit_bzero(expected, sizeof(expected));
    return is_good;
}

bool
password_check_plain(const char *user, const char *secret, const char *answer)
{
    char hex[MD5_HEX_LEN + 1];

    if (scram_is_verifier(secret) || secret[0] == '\0') {
        return false;
    }
    if (!is_md5_secret(secret)) {
        return is_equal_string(secret, answer);
    }
    bool is_good = md5_hex(answer, strlen(answer), user, strlen(user), hex) &&
                   is_equal_string(secret + 3, hex);
    explicit_bzero(hex, sizeof(hex));
    return is_good;
}
