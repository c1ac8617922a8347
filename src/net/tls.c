/* TLS towards clients. Called by the daemon (contexts) and client/login; calls OpenSSL. */
#include "net/tls.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"

#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <strings.h>

struct tls
{
    _Atomic int holders;
    SSL_CTX *context; /* owns */
};

/* Protocol that PostgreSQL's clients name (documentation, "SSL Session Encryption"). */
static const unsigned char alpn[] = "\012postgresql";

static bool
fail_with(struct fail *fail, const char *what, const char *value)
{
    unsigned long error = ERR_peek_last_error();
    const char *reason = error != 0 ? ERR_reason_error_string(error) : NULL;

    fail_set(fail, "58000", "%s \"%s\": %s", what, value, reason != NULL ? reason : "not usable");
    ERR_clear_error();
    return false;
}

/* ---- protocols and ciphers, in PgBouncer's words ---- */

static const struct
{
    const char *name;
    int version; /* 0: many */
} versions[] = {
    {"tlsv1.2", TLS1_2_VERSION},
    {"tlsv1.3", TLS1_3_VERSION},
    {"secure", 0},
    {"all", 0},
};

static bool
set_protocols(SSL_CTX *context, const char *list, struct fail *fail)
{
    int lowest = 0, highest = 0;
    char word[32];

    for (const char *at = list; *at != '\0';) {
        at += strspn(at, ", :\t");
        size_t len = strcspn(at, ", :\t");
        if (len >= sizeof(word)) {
            return fail_set(fail, "58000", "client_tls_protocols: \"%s\" is not understood", list);
        }
        memcpy(word, at, len);
        word[len] = '\0';
        at += len;
        size_t i = 0, count = sizeof(versions) / sizeof(versions[0]);
        while (i < count && strcasecmp(versions[i].name, word) != 0) {
            i++;
        }
        if (len > 0 && i == count) {
            return fail_set(fail, "58000",
                "client_tls_protocols: \"%s\" is not tlsv1.2, tlsv1.3, secure or all", word);
        }
        if (len > 0) {
            int from = versions[i].version != 0 ? versions[i].version : TLS1_2_VERSION;
            int to = versions[i].version != 0 ? versions[i].version : TLS1_3_VERSION;
            lowest = lowest == 0 || from < lowest ? from : lowest;
            highest = to > highest ? to : highest;
        }
    }
    SSL_CTX_set_min_proto_version(context, lowest != 0 ? lowest : TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(context, highest != 0 ? highest : TLS1_3_VERSION);
    return true;
}

static const struct
{
    const char *name, *list;
} cipher_words[] = {
    {"default", "HIGH:!aNULL:!eNULL:!MD5:@STRENGTH"},
    {"secure", "HIGH:!aNULL:!eNULL:!MD5:@STRENGTH"},
    {"normal", "HIGH:!aNULL:!eNULL:!MD5:@STRENGTH"},
    {"fast", "ECDHE+AESGCM:AESGCM:HIGH:!aNULL:!eNULL:!MD5"},
    {"all", "HIGH:!aNULL:!eNULL"},
};

static bool
set_ciphers(SSL_CTX *context, const struct tls_options *options, struct fail *fail)
{
    const char *list = options->ciphers;

    for (size_t i = 0; i < sizeof(cipher_words) / sizeof(cipher_words[0]); i++) {
        list = strcasecmp(list, cipher_words[i].name) == 0 ? cipher_words[i].list : list;
    }
    if (list[0] != '\0' && SSL_CTX_set_cipher_list(context, list) != 1) {
        return fail_with(fail, "client_tls_ciphers", options->ciphers);
    }
    if (options->ciphers13[0] != '\0' &&
        SSL_CTX_set_ciphersuites(context, options->ciphers13) != 1) {
        return fail_with(fail, "client_tls13_ciphers", options->ciphers13);
    }
    bool has_curve = options->curve[0] != '\0' && strcasecmp(options->curve, "auto") != 0 &&
                     strcasecmp(options->curve, "none") != 0;
    if (has_curve && SSL_CTX_set1_groups_list(context, options->curve) != 1) {
        return fail_with(fail, "client_tls_ecdhcurve", options->curve);
    }
    return true;
}

/* ---- contexts ---- */

static bool
load_files(SSL_CTX *context, const struct tls_options *options, struct fail *fail)
{
    if (SSL_CTX_use_certificate_chain_file(context, options->cert_file) != 1) {
        return fail_with(fail, "client_tls_cert_file", options->cert_file);
    }
    if (SSL_CTX_use_PrivateKey_file(context, options->key_file, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1) {
        return fail_with(fail, "client_tls_key_file", options->key_file);
    }
    if (options->ca_file[0] == '\0') {
        return true;
    }
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(options->ca_file);
    if (names == NULL || SSL_CTX_load_verify_locations(context, options->ca_file, NULL) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return fail_with(fail, "client_tls_ca_file", options->ca_file);
    }
    SSL_CTX_set_client_CA_list(context, names);
    SSL_CTX_set_verify(context,
        SSL_VERIFY_PEER | (options->needs_certificate ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    return true;
}

static int
choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
    const unsigned char *in, unsigned in_len, void *arg)
{
    unsigned char *chosen;

    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&chosen, out_len, alpn, sizeof(alpn) - 1, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* Nobody is there to be asked for the password of a key: OpenSSL would ask on the terminal. */
static int
refuse_password(char *to, int size, int is_writing, void *arg)
{
    (void)to;
    (void)size;
    (void)is_writing;
    (void)arg;
    return 0;
}

static void
set_habits(SSL_CTX *context)
{
    static const unsigned char name[] = "pgkeel";

    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE);
    /* One read() a record instead of one for its head and one for its body. */
    SSL_CTX_set_read_ahead(context, 1);
    /* Sessions go on by tickets, which the client keeps: nothing is stored here. */
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(context, name, sizeof(name) - 1);
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
    SSL_CTX_set_default_passwd_cb(context, refuse_password);
}

struct tls *
tls_new(const struct tls_options *options, struct fail *fail)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    struct tls *tls = NULL;

    ERR_clear_error();
    if (context == NULL) {
        fail_set(fail, "58000", "OpenSSL cannot be used");
        return NULL;
    }
    set_habits(context);
    if (set_protocols(context, options->protocols, fail) && set_ciphers(context, options, fail) &&
        load_files(context, options, fail)) {
        tls = mem_new(sizeof(*tls));
        tls->holders = 1;
        tls->context = context;
    } else {
        SSL_CTX_free(context);
    }
    ERR_clear_error();
    return tls;
}

struct tls *
tls_hold(struct tls *tls)
{
    if (tls != NULL) {
        atomic_fetch_add(&tls->holders, 1);
    }
    return tls;
}

void
tls_release(struct tls **pointer)
{
    struct tls *tls = *pointer;

    *pointer = NULL;
    if (tls != NULL && atomic_fetch_sub(&tls->holders, 1) == 1) {
        SSL_CTX_free(tls->context);
        free(tls);
    }
}

/* ---- sessions ---- */

bool
tls_accept(struct tls *tls, struct stream *stream, bool is_direct, struct fail *fail)
{
    SSL *ssl = SSL_new(tls->context);

    if (ssl == NULL) {
        return fail_set(fail, "53200", "no memory for a TLS session");
    }
    SSL_set_accept_state(ssl);
    SSL_set_app_data(ssl, is_direct ? (void *)alpn : NULL);
    if (!stream_use_tls(stream, ssl, fail)) {
        SSL_free(ssl);
        return false;
    }
    stream->owns_ssl = stream->is_shaking = true;
    return true;
}

bool
tls_knows_protocol(const struct stream *stream)
{
    const unsigned char *name;
    unsigned len;

    SSL_get0_alpn_selected(stream->ssl, &name, &len);
    return SSL_get_app_data(stream->ssl) == NULL || len > 0;
}

size_t
tls_binding(const struct stream *stream, uint8_t *to)
{
    X509 *certificate = stream->ssl != NULL ? SSL_get_certificate(stream->ssl) : NULL;
    const EVP_MD *digest = NULL;
    unsigned len = 0;
    int kind;

    if (certificate == NULL ||
        X509_get_signature_info(certificate, &kind, NULL, NULL, NULL) != 1) {
        return 0;
    }
    /* RFC 5929, 4.1: the weak ones count as SHA-256. */
    digest = kind == NID_md5 || kind == NID_sha1 || kind == NID_undef ? EVP_sha256()
                                                                      : EVP_get_digestbynid(kind);
    if (digest == NULL || EVP_MD_get_size(digest) > TLS_BINDING_MAX ||
        X509_digest(certificate, digest, to, &len) != 1) {
        return 0;
    }
    return len;
}

bool
tls_has_certificate(const struct stream *stream)
{
    return stream->ssl != NULL && SSL_get0_peer_certificate(stream->ssl) != NULL &&
           SSL_get_verify_result(stream->ssl) == X509_V_OK;
}

static void
tell_name(const ASN1_STRING *string, void (*each)(void *arg, const char *name), void *arg)
{
    unsigned char *text = NULL;
    int len = ASN1_STRING_to_UTF8(&text, string);

    if (len > 0 && strlen((const char *)text) == (size_t)len) {
        each(arg, (const char *)text);
    }
    OPENSSL_free(text);
}

void
tls_each_name(const struct stream *stream, void (*each)(void *arg, const char *name), void *arg)
{
    X509 *certificate = SSL_get0_peer_certificate(stream->ssl);
    X509_NAME *subject = X509_get_subject_name(certificate);
    int at = -1;

    while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0) {
        tell_name(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)), each, arg);
    }
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type == GEN_DNS || name->type == GEN_EMAIL) {
            tell_name(name->d.ia5, each, arg);
        }
    }
    GENERAL_NAMES_free(names);
}

const char *
tls_version(const struct stream *stream)
{
    return stream->ssl != NULL && !stream->is_away ? SSL_get_version(stream->ssl) : "";
}

const char *
tls_cipher(const struct stream *stream)
{
    return stream->ssl != NULL && !stream->is_away ? SSL_get_cipher_name(stream->ssl) : "";
}
