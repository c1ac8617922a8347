/*
 * wire/scram: the server's role against RFC 7677's example and against a client's role written here
 * from RFC 5802; every broken message; md5 and plain.
 */
#include "wire/scram.h"

#include "wire/password.h"

#include "base/buf.h"
#include "wire/base64.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum
{
    KEY = SCRAM_KEY_LEN
};

/* RFC 7677, chapter 3: user "user", password "pencil". */
static const char rfc_salt[] = "W22ZaJ0SNY7soEsUEjb6gQ==";
static const char rfc_first[] = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
static const char rfc_nonce[] = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
static const char rfc_server_first[] =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
static const char rfc_final[] = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                                "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
static const char rfc_server_final[] = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/* --- The client's role --- */

struct keys
{
    uint8_t client[KEY];
    uint8_t stored[KEY];
    uint8_t server[KEY];
};

static void
derive(
    const char *password, const uint8_t *salt, size_t salt_len, int iterations, struct keys *keys)
{
    uint8_t salted[KEY];

    assert_int_equal(PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, (int)salt_len,
                         iterations, EVP_sha256(), KEY, salted),
        1);
    HMAC(EVP_sha256(), salted, KEY, (const uint8_t *)"Client Key", 10, keys->client, NULL);
    HMAC(EVP_sha256(), salted, KEY, (const uint8_t *)"Server Key", 10, keys->server, NULL);
    EVP_Digest(keys->client, KEY, keys->stored, NULL, EVP_sha256(), NULL);
}

/* As PostgreSQL writes it into pg_authid. */
static char *
make_verifier(const char *password, const uint8_t *salt, size_t salt_len, int iterations)
{
    struct keys keys;
    struct buf buf = {0};

    derive(password, salt, salt_len, iterations, &keys);
    buf_print(&buf, "SCRAM-SHA-256$%d:", iterations);
    base64_add(&buf, salt, salt_len);
    buf_add_u8(&buf, '$');
    base64_add(&buf, keys.stored, KEY);
    buf_add_u8(&buf, ':');
    base64_add(&buf, keys.server, KEY);
    buf_add_u8(&buf, 0);
    return (char *)buf.data;
}

struct client
{
    char first_bare[256];
    char final[1024];
    struct keys keys;
    uint8_t server_signature[KEY];
};

/* client-final-message from the server-first-message; binding is c='s value. */
static void
client_answer(
    struct client *client, const char *password, const char *server_first, const char *binding)
{
    char nonce[300];
    char salt_text[400];
    uint8_t salt[SCRAM_SALT_MAX];
    size_t salt_len;
    int iterations;
    uint8_t signature[KEY];
    struct buf auth = {0};
    struct buf proof = {0};

    assert_int_equal(
        sscanf(server_first, "r=%299[^,],s=%399[^,],i=%d", nonce, salt_text, &iterations), 3);
    assert_true(base64_decode(salt_text, strlen(salt_text), salt, sizeof(salt), &salt_len));
    derive(password, salt, salt_len, iterations, &client->keys);
    buf_print(&auth, "%s,%s,c=%s,r=%s", client->first_bare, server_first, binding, nonce);
    HMAC(EVP_sha256(), client->keys.stored, KEY, buf_head(&auth), buf_len(&auth), signature, NULL);
    HMAC(EVP_sha256(), client->keys.server, KEY, buf_head(&auth), buf_len(&auth),
        client->server_signature, NULL);
    for (int i = 0; i < KEY; i++) {
        signature[i] ^= client->keys.client[i];
    }
    base64_add(&proof, signature, KEY);
    snprintf(client->final, sizeof(client->final), "c=%s,r=%s,p=%.*s", binding, nonce,
        (int)buf_len(&proof), (char *)buf_head(&proof));
    buf_deinit(&proof);
    buf_deinit(&auth);
}

/* --- Helpers --- */

static struct scram_verifier
rfc_verifier(void)
{
    struct scram_verifier verifier;
    uint8_t salt[32];
    size_t salt_len;

    assert_true(base64_decode(rfc_salt, strlen(rfc_salt), salt, sizeof(salt), &salt_len));
    char *text = make_verifier("pencil", salt, salt_len, 4096);
    assert_true(scram_verifier_parse(text, &verifier));
    free(text);
    return verifier;
}

static bool
first(struct scram *scram, const char *message, struct buf *reply, struct fail *fail)
{
    size_t len = strlen(message);
    uint8_t *copy = malloc(len + 1);

    memcpy(copy + 1, message, len); /* its last byte is the last one allocated */
    bool is_good = scram_first(scram, copy + 1, len, reply, fail);
    free(copy);
    return is_good;
}

static bool
final(struct scram *scram, const char *message, struct buf *reply, struct fail *fail)
{
    size_t len = strlen(message);
    uint8_t *copy = malloc(len + 1);

    memcpy(copy + 1, message, len);
    bool is_good = scram_final(scram, copy + 1, len, reply, fail);
    free(copy);
    return is_good;
}

static const char *
as_string(struct buf *buf)
{
    buf_add_u8(buf, 0);
    return (const char *)buf_head(buf);
}

/* One whole exchange; the SQLSTATE of its end, "" for success. */
static const char *
exchange(const struct scram_verifier *verifier, const char *password, char flag)
{
    static struct fail fail;
    struct client client = {.first_bare = "n=,r=fyko+d2lbbFgONRv9qkxdawL"};
    struct buf reply = {0};
    char message[300];
    struct scram *scram = scram_new(verifier, false);

    fail = (struct fail){.text = ""};
    snprintf(message, sizeof(message), "%c,,%s", flag, client.first_bare);
    assert_true(first(scram, message, &reply, &fail));
    assert_null(scram_client_key(scram));
    client_answer(&client, password, as_string(&reply), flag == 'y' ? "eSws" : "biws");
    buf_clear(&reply);
    if (final(scram, client.final, &reply, &fail)) {
        struct buf expected = {0};
        buf_add(&expected, "v=", 2);
        base64_add(&expected, client.server_signature, KEY);
        assert_string_equal(as_string(&reply), as_string(&expected));
        assert_memory_equal(scram_client_key(scram), client.keys.client, KEY);
        assert_memory_equal(scram_server_key(scram), client.keys.server, KEY);
        buf_deinit(&expected);
    } else {
        assert_null(scram_client_key(scram));
        assert_null(scram_server_key(scram));
        assert_int_equal(buf_len(&reply), 0);
        assert_true(fail.sqlstate[0] != '\0');
    }
    buf_deinit(&reply);
    scram_free(&scram);
    assert_null(scram);
    return fail.sqlstate;
}

/* --- Tests --- */

static void
test_rfc_7677(void **state)
{
    struct scram_verifier verifier = rfc_verifier();
    struct scram *scram = scram_new(&verifier, false);
    struct buf reply = {0};
    struct fail fail;

    (void)state;
    assert_true(scram_first_with_nonce(scram, rfc_nonce, rfc_first, &reply, &fail));
    assert_string_equal(as_string(&reply), rfc_server_first);
    buf_clear(&reply);
    assert_true(final(scram, rfc_final, &reply, &fail));
    assert_string_equal(as_string(&reply), rfc_server_final);
    buf_deinit(&reply);
    scram_free(&scram);
}

static void
test_exchanges(void **state)
{
    static const char *const passwords[] = {"", "pencil", "p", "with,comma=and space", "\xc3\xa4",
        "a very long password, longer than one block of the digest, which is sixty-four bytes"};
    static const int iterations[] = {1, 4096};
    uint8_t salt[SCRAM_SALT_MAX];

    (void)state;
    memset(salt, 0x5A, sizeof(salt));
    for (size_t i = 0; i < COUNT(passwords) * COUNT(iterations); i++) {
        struct scram_verifier verifier;
        const char *password = passwords[i / 2];
        size_t salt_len = i == 3 ? SCRAM_SALT_MAX : i + 1;
        char *text = make_verifier(password, salt, salt_len, iterations[i % 2]);
        assert_true(scram_is_verifier(text));
        assert_true(scram_verifier_parse(text, &verifier));
        assert_string_equal(exchange(&verifier, password, 'n'), "");
        assert_string_equal(exchange(&verifier, password, 'y'), "");
        assert_string_equal(exchange(&verifier, "wrong", 'n'), "28P01");
        free(text);
    }
}

static void
test_mock_never_lets_in(void **state)
{
    struct scram_verifier mock;
    struct scram_verifier again;
    struct scram_verifier other;

    (void)state;
    scram_verifier_mock("nobody", "secret", 6, &mock);
    scram_verifier_mock("nobody", "secret", 6, &again);
    assert_memory_equal(&mock, &again, sizeof(mock));
    scram_verifier_mock("nobody2", "secret", 6, &other);
    assert_memory_not_equal(mock.salt, other.salt, mock.salt_len);
    scram_verifier_mock("nobody", "Secret", 6, &other);
    assert_memory_not_equal(mock.salt, other.salt, mock.salt_len);
    assert_int_equal(mock.salt_len, 16);
    assert_int_equal(mock.iterations, 4096);
    assert_string_equal(exchange(&mock, "", 'n'), "28P01");
    assert_string_equal(exchange(&mock, "pencil", 'n'), "28P01");

    /* Not even when the keys fit. */
    struct scram_verifier known = rfc_verifier();
    known.is_mock = true;
    assert_string_equal(exchange(&known, "pencil", 'n'), "28P01");
    scram_verifier_wipe(&known);
    assert_int_equal(known.iterations, 0);
}

static void
test_nonces_differ(void **state)
{
    struct scram_verifier verifier = rfc_verifier();
    struct fail fail;
    struct buf replies[2] = {{0}, {0}};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct scram *scram = scram_new(&verifier, false);
        assert_true(first(scram, rfc_first, &replies[i], &fail));
        scram_free(&scram);
    }
    assert_int_equal(buf_len(&replies[0]), buf_len(&replies[1]));
    assert_memory_equal(buf_head(&replies[0]), "r=rOprNGfwEbeRWgbNEkqO", 22);
    assert_memory_not_equal(buf_head(&replies[0]), buf_head(&replies[1]), buf_len(&replies[0]));
    buf_deinit(&replies[0]);
    buf_deinit(&replies[1]);
}

static void
test_broken_verifiers(void **state)
{
#define KEY_A "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    static const struct
    {
        const char *text;
        bool is_good;
    } rows[] = {
        {"SCRAM-SHA-256$4096:AAAA$" KEY_A ":" KEY_A, true},
        {"SCRAM-SHA-256$1:AAAA$" KEY_A ":" KEY_A, true},
        {"SCRAM-SHA-256$10000000:AAAA$" KEY_A ":" KEY_A, true},
        {"SCRAM-SHA-256$10000001:AAAA$" KEY_A ":" KEY_A, false},
        {"SCRAM-SHA-256$99999999999999999999:AAAA$" KEY_A ":" KEY_A, false},
        {"SCRAM-SHA-256$0:AAAA$" KEY_A ":" KEY_A, false},
        {"SCRAM-SHA-256$-1:AAAA$" KEY_A ":" KEY_A, false},
        {"SCRAM-SHA-256$:AAAA$" KEY_A ":" KEY_A, false},
        {"SCRAM-SHA-256$4096:$" KEY_A ":" KEY_A, false},
        {"SCRAM-SHA-256$4096:AA$" KEY_A ":" KEY_A, false},
        {"SCRAM-SHA-256$4096:AAAA$" KEY_A, false},
        {"SCRAM-SHA-256$4096:AAAA$" KEY_A ":", false},
        {"SCRAM-SHA-256$4096:AAAA$AAAA:" KEY_A, false},
        {"SCRAM-SHA-256$4096:AAAA$" KEY_A ":" KEY_A "x", false},
        {"SCRAM-SHA-256$4096:AAAA$" KEY_A ":" KEY_A KEY_A, false},
        {"SCRAM-SHA-256$4096", false},
        {"SCRAM-SHA-256$", false},
        {"SCRAM-SHA-1$4096:AAAA$" KEY_A ":" KEY_A, false},
        {"md5", false},
        {"", false},
    };
    struct scram_verifier verifier;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char *copy = strdup(rows[i].text);
        assert_int_equal(scram_verifier_parse(copy, &verifier), rows[i].is_good);
        free(copy);
    }
    /* a salt larger than we keep */
    static char text[2000];
    memset(text, 'A', 1200);
    memcpy(text, "SCRAM-SHA-256$4096:", 19);
    strcpy(text + 19 + 1024, "$" KEY_A ":" KEY_A);
    assert_false(scram_verifier_parse(text, &verifier));
}

static void
test_broken_first_messages(void **state)
{
    static const struct
    {
        const char *message;
        const char *sqlstate; /* "": accepted */
    } rows[] = {
        {"n,,n=,r=abc", ""},
        {"y,,n=,r=abc", ""},
        {"n,,n=user,r=abc,x=ignored", ""},
        {"n,,n=us=2Cer,r=a=b", ""},
        {"", "08P01"},
        {"n", "08P01"},
        {"n,", "08P01"},
        {"n,,", "08P01"},
        {"n,,n", "08P01"},
        {"n,,n=", "08P01"},
        {"n,,n=,r", "08P01"},
        {"n,,n=,r=", "08P01"},
        {"n,,n=,r=,r=x", "08P01"},
        {"n,,r=abc,n=", "08P01"},
        {"n,,n=,r=a b", "08P01"},
        {"n,,n=,r=a\x7f", "08P01"},
        {"n,,n=,r=\xc3\xa4", "08P01"},
        {"n,,n=,r=abc,x", "08P01"},
        {"n,,n=,r=abc,,", "08P01"},
        {"n,,n=,r=abc,1=2", "08P01"},
        {"n;,n=,r=abc", "08P01"},
        {"n,x,n=,r=abc", "08P01"},
        {"x,,n=,r=abc", "08P01"},
        {"N,,n=,r=abc", "08P01"},
        {"p=tls-server-end-point,,n=,r=abc", "08P01"},
        {"n,a=bob,n=,r=abc", "0A000"},
        {"n,,m=ext,n=,r=abc", "0A000"},
    };
    struct scram_verifier verifier = rfc_verifier();

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct scram *scram = scram_new(&verifier, false);
        struct buf reply = {0};
        struct fail fail = {.text = ""};
        bool is_good = first(scram, rows[i].message, &reply, &fail);
        assert_string_equal(fail.sqlstate, rows[i].sqlstate);
        assert_int_equal(is_good, rows[i].sqlstate[0] == '\0');
        assert_int_equal(buf_len(&reply) > 0, is_good);
        if (!is_good) { /* nothing goes on after a failure */
            assert_false(first(scram, rfc_first, &reply, &fail));
            assert_false(final(scram, rfc_final, &reply, &fail));
        }
        buf_deinit(&reply);
        scram_free(&scram);
    }
}

static void
test_sizes_are_bounded(void **state)
{
    static char message[SCRAM_MESSAGE_MAX * 2];
    static const size_t nonce_lens[] = {1, 511, 512, 4088, 4089, 8000};
    struct scram_verifier verifier = rfc_verifier();
    struct buf reply = {0};
    struct fail fail;

    (void)state;
    for (size_t i = 0; i < COUNT(nonce_lens); i++) {
        struct scram *scram = scram_new(&verifier, false);
        memset(message, 'a', sizeof(message));
        memcpy(message, "n,,n=,r=", 8);
        message[8 + nonce_lens[i]] = '\0';
        assert_int_equal(first(scram, message, &reply, &fail), nonce_lens[i] < 512);
        scram_free(&scram);
    }
    struct scram *scram = scram_new(&verifier, false);
    memcpy(message, "n,,n=,r=abc\0", 12);
    assert_false(scram_first(scram, (const uint8_t *)message, 12, &reply, &fail));
    assert_string_equal(fail.detail, "Message length does not match input length.");
    scram_free(&scram);
    buf_deinit(&reply);
}

static void
test_broken_final_messages(void **state)
{
#define NONCE "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define PROOF "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    static const struct
    {
        const char *message;
        const char *sqlstate;
    } rows[] = {
        {"c=biws,r=" NONCE ",p=" PROOF, ""},
        {"c=biws,r=" NONCE ",p=" KEY_A, "28P01"},
        {"c=biws,r=" NONCE ",x=y,p=" PROOF, "28P01"}, /* understood, but not what was signed */
        {"", "08P01"},
        {"c=biws", "08P01"},
        {"c=biws,r=" NONCE, "08P01"},
        {"c=biws,r=" NONCE ",", "08P01"},
        {"c=biws,r=" NONCE ",p", "08P01"},
        {"c=biws,r=" NONCE ",p=", "08P01"},
        {"c=biws,r=" NONCE ",p=AAAA", "08P01"},
        {"c=biws,r=" NONCE ",p=" PROOF "AAAA", "08P01"},
        {"c=biws,r=" NONCE ",p=" PROOF ",x=y", "08P01"},
        {"c=biws,r=" NONCE ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVR=", "08P01"},
        {"c=biws,r=" NONCE "x,p=" PROOF, "08P01"},
        {"c=biws,r=rOprNGfwEbeRWgbNEkqO,p=" PROOF, "08P01"},
        {"c=biws,r=,p=" PROOF, "08P01"},
        {"c=eSws,r=" NONCE ",p=" PROOF, "08P01"},
        {"c=,r=" NONCE ",p=" PROOF, "08P01"},
        {"c=cD10bHMtdW5pcXVlLCw=,r=" NONCE ",p=" PROOF, "08P01"},
        {"r=" NONCE ",c=biws,p=" PROOF, "08P01"},
        {"p=" PROOF, "08P01"},
        {",,,,", "08P01"},
        {"v=x", "08P01"},
    };
    struct scram_verifier verifier = rfc_verifier();

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct scram *scram = scram_new(&verifier, false);
        struct buf reply = {0};
        struct fail fail = {.text = ""};
        assert_true(scram_first_with_nonce(scram, rfc_nonce, rfc_first, &reply, &fail));
        buf_clear(&reply);
        bool is_good = final(scram, rows[i].message, &reply, &fail);
        assert_string_equal(fail.sqlstate, rows[i].sqlstate);
        assert_int_equal(is_good, rows[i].sqlstate[0] == '\0');
        /* Once: neither a second guess nor a second success. */
        assert_false(final(scram, rfc_final, &reply, &fail));
        assert_string_equal(fail.sqlstate, "08P01");
        buf_deinit(&reply);
        scram_free(&scram);
    }
}

static void
test_order_and_downgrade(void **state)
{
    struct scram_verifier verifier = rfc_verifier();
    struct scram *scram = scram_new(&verifier, true);
    struct buf reply = {0};
    struct fail fail;

    (void)state;
    assert_false(final(scram, rfc_final, &reply, &fail));
    assert_string_equal(fail.sqlstate, "08P01");
    assert_false(first(scram, "y,,n=,r=abc", &reply, &fail));
    assert_string_equal(fail.sqlstate, "28000");
    scram_free(&scram);
    scram_free(&scram);

    scram = scram_new(&verifier, true);
    assert_true(first(scram, "n,,n=,r=abc", &reply, &fail));
    assert_false(first(scram, "n,,n=,r=abc", &reply, &fail));
    scram_free(&scram);
    buf_deinit(&reply);
}

static void
test_initial_response(void **state)
{
#define BYTES(text) text, sizeof(text) - 1
    static const struct
    {
        const char *body;
        size_t len;
        bool is_good;
        size_t data_len;
    } rows[] = {
        {BYTES("SCRAM-SHA-256\0\0\0\0\3abc"), true, 3},
        {BYTES("SCRAM-SHA-256\0\0\0\0\0"), true, 0},
        {BYTES("SCRAM-SHA-256\0\xff\xff\xff\xff"), true, 0},
        {BYTES("\0\0\0\0\0"), true, 0},
        {BYTES(""), false, 0},
        {BYTES("SCRAM-SHA-256"), false, 0},
        {BYTES("SCRAM-SHA-256\0"), false, 0},
        {BYTES("SCRAM-SHA-256\0\0\0\0"), false, 0},
        {BYTES("SCRAM-SHA-256\0\0\0\0\4abc"), false, 0},
        {BYTES("SCRAM-SHA-256\0\0\0\0\2abc"), false, 0},
        {BYTES("SCRAM-SHA-256\0\x7f\xff\xff\xff"
               "abc"),
            false, 0},
        {BYTES("SCRAM-SHA-256\0\xff\xff\xff\xfe"
               "abc"),
            false, 0},
        {BYTES("SCRAM-SHA-256\0\xff\xff\xff\xff"
               "abc"),
            false, 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *mechanism;
        const uint8_t *data;
        size_t data_len;
        uint8_t *body = malloc(rows[i].len + 1);
        memcpy(body + 1, rows[i].body, rows[i].len);
        bool is_good = scram_parse_initial(body + 1, rows[i].len, &mechanism, &data, &data_len);
        assert_int_equal(is_good, rows[i].is_good);
        if (is_good) {
            assert_string_equal(mechanism, rows[i].body);
            assert_int_equal(data_len, rows[i].data_len);
            assert_memory_equal(data, "abc", data_len);
        }
        free(body);
    }
}

/* Expected values made with PostgreSQL's formula by another program (md5sum). */
static void
test_md5_and_plain(void **state)
{
    static const char hash[] = "md59d792a3a8853c2411afb9163d088c036"; /* secret + ann */
    static const char verifier[] = "SCRAM-SHA-256$4096:AAAA$" KEY_A ":" KEY_A;
    static const uint8_t salt[4] = {1, 2, 3, 4};
    static const char answer[] = "md59009ce60b9ca97f1e752376843d1309e";

    (void)state;
    assert_true(password_check_md5("ann", "secret", salt, answer));
    assert_true(password_check_md5("ann", hash, salt, answer));
    assert_false(password_check_md5("bob", "secret", salt, answer));
    assert_false(password_check_md5("ann", "Secret", salt, answer));
    assert_false(password_check_md5("ann", "secret", (const uint8_t *)"\1\2\3\5", answer));
    assert_false(password_check_md5("ann", "secret", salt, ""));
    assert_false(password_check_md5("ann", "secret", salt, hash));
    assert_false(password_check_md5("ann", "secret", salt, answer + 3));
    assert_false(password_check_md5("ann", verifier, salt, answer));
    assert_false(password_check_md5("ann", "", salt, answer));

    assert_true(password_check_plain("ann", "secret", "secret"));
    assert_true(password_check_plain("ann", hash, "secret"));
    assert_false(password_check_plain("bob", hash, "secret"));
    assert_false(password_check_plain("ann", hash, hash)); /* the hash is not the password */
    assert_false(password_check_plain("ann", "secret", "secre"));
    assert_false(password_check_plain("ann", "secret", "secret2"));
    assert_false(password_check_plain("ann", "secret", ""));
    assert_false(password_check_plain("ann", "", ""));
    assert_false(password_check_plain("ann", verifier, verifier));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc_7677),
        cmocka_unit_test(test_exchanges),
        cmocka_unit_test(test_mock_never_lets_in),
        cmocka_unit_test(test_nonces_differ),
        cmocka_unit_test(test_broken_verifiers),
        cmocka_unit_test(test_broken_first_messages),
        cmocka_unit_test(test_sizes_are_bounded),
        cmocka_unit_test(test_broken_final_messages),
        cmocka_unit_test(test_order_and_downgrade),
        cmocka_unit_test(test_initial_response),
        cmocka_unit_test(test_md5_and_plain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
