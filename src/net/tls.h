/*
 * TLS towards clients: the certificate we show, what we ask of theirs, and the handshake on a
 * stream. A `tls` never changes; a reload makes another one, and sessions keep what they began
 * with. TLS towards PostgreSQL is libpq's.
 */
#pragma once

#include "base/fail.h"
#include "net/stream.h"

struct tls;

struct tls_options
{
    const char *cert_file, *key_file;
    const char *ca_file;   /* "": certificates of clients are not asked for */
    const char *protocols; /* "secure", "all", or "tlsv1.2,tlsv1.3" */
    const char *ciphers;   /* of TLS 1.2: OpenSSL's list, or "default", "secure", ... */
    const char *ciphers13; /* "": OpenSSL's */
    const char *curve;     /* "auto", "none" or a curve */
    bool needs_certificate; /* a client without a certificate of that authority is turned away */
};

/* Reads the files. NULL with the reason: 58000. */
struct tls *tls_new(const struct tls_options *options, struct fail *fail);

/* Any thread. */
struct tls *tls_hold(struct tls *tls);
void tls_release(struct tls **tls); /* NULL is fine */

/* The stream is a server's end of a TLS session from now on: handshake_step() until it is over.
 * is_direct: without an SSLRequest; then the client must name the protocol "postgresql" (ALPN). */
must_check bool tls_accept(
    struct tls *tls, struct stream *stream, bool is_direct, struct fail *fail);

/* After the handshake: whether a client that began directly named its protocol. */
bool tls_knows_protocol(const struct stream *stream);

/* The data of channel binding "tls-server-end-point" (RFC 5929): a hash of our certificate.
 * Returns its length, at most TLS_BINDING_MAX; 0: there is none. */
enum
{
    TLS_BINDING_MAX = 64
};
size_t tls_binding(const struct stream *stream, uint8_t *to);

/* Whether the client showed a certificate that was found valid. */
bool tls_has_certificate(const struct stream *stream);

/* Calls each() with every name of the client's certificate: its common name, then its DNS names and
 * mail addresses. Names with a zero byte in them are left out. */
void tls_each_name(
    const struct stream *stream, void (*each)(void *arg, const char *name), void *arg);

/* "TLSv1.3", "TLS_AES_256_GCM_SHA384"; "" without TLS and while a helper works on it. */
const char *tls_version(const struct stream *stream);
const char *tls_cipher(const struct stream *stream);
