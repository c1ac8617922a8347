/*
 * Bytes in and out of one socket. Called by client/ and pool/; calls the kernel and OpenSSL. A read
 * of n bytes is one recv() and a write one send(), as in a relay that does not look.
 */
#include "net/stream.h"

#include "base/mem.h"
#include "base/state.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

/* libpq's asynchronous readers can hang on larger records. */
enum
{
    TLS_RECORD_MAX = 8192
};

void
stream_init(struct stream *stream, int fd, void (*fn)(void *arg, unsigned what), void *arg)
{
    memset(stream, 0, sizeof(*stream));
    watch_init(&stream->watch, fd, fn, arg);
}

void
stream_deinit(struct stream *stream)
{
    if (stream->watch.loop != NULL) {
        watch_detach(&stream->watch);
    }
    buf_deinit(&stream->in);
    buf_deinit(&stream->out);
    if (stream->owns_ssl) {
        SSL_free(stream->ssl);
    }
    stream->ssl = NULL;
}

bool
stream_use_tls(struct stream *stream, struct ssl_st *ssl, struct fail *fail)
{
    BIO *bio = BIO_new_socket(stream->watch.fd, BIO_NOCLOSE);

    if (bio == NULL) {
        return fail_set(fail, "58000", "could not attach a TLS session to its socket");
    }
    SSL_set_bio(ssl, bio, bio);
    SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    stream->ssl = ssl;
    stream->has_pending = SSL_has_pending(ssl) == 1;
    return true;
}

/* What a finished SSL call means. */
static enum stream_result
tls_result(struct stream *stream, int returned)
{
    switch (SSL_get_error(stream->ssl, returned)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return STREAM_WAIT;
    case SSL_ERROR_ZERO_RETURN:
        return STREAM_EOF;
    case SSL_ERROR_SYSCALL:
        stream->error = errno != 0 ? errno : ECONNRESET;
        return STREAM_ERROR;
    default:
        /* A peer that ends without close_notify is common and says nothing about the bytes before:
         * every PostgreSQL message carries its own length. */
        if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
            return STREAM_EOF;
        }
        stream->error = EPROTO;
        return STREAM_ERROR;
    }
}

static enum stream_result
tls_receive(struct stream *stream, uint8_t *to, size_t size, size_t *len_out)
{
    enum stream_result result = STREAM_OK;

    *len_out = 0;
    while (*len_out < size && result == STREAM_OK) {
        size_t len = 0;
        ERR_clear_error();
        errno = 0;
        int returned = SSL_read_ex(stream->ssl, to + *len_out, size - *len_out, &len);
        *len_out += len;
        if (returned != 1) {
            result = tls_result(stream, returned);
        } else if (SSL_has_pending(stream->ssl) == 0) {
            break;
        }
    }
    stream->has_pending = *len_out > 0 && (result > STREAM_WAIT || SSL_has_pending(stream->ssl));
    return *len_out > 0 ? STREAM_OK : result;
}

static enum stream_result
plain_receive(struct stream *stream, uint8_t *to, size_t size, size_t *len_out)
{
    ssize_t len;

    do {
        len = recv(stream->watch.fd, to, size, 0);
    } while (len < 0 && errno == EINTR);
    if (len > 0) {
        *len_out = (size_t)len;
        return STREAM_OK;
    }
    if (len == 0) {
        return STREAM_EOF;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return STREAM_WAIT;
    }
    stream->error = errno;
    return STREAM_ERROR;
}

/* Puts the kept tail at the front of the scratch buffer, as much of it as fits. */
static uint8_t *
scratch_with_tail(struct stream *stream, size_t *tail_out, size_t *size_out)
{
    uint8_t *scratch = loop_fresh_scratch(stream->watch.loop, size_out);

    *tail_out = buf_len(&stream->in) < *size_out ? buf_len(&stream->in) : *size_out;
    if (*tail_out > 0) {
        memcpy(scratch, buf_head(&stream->in), *tail_out);
    }
    return scratch;
}

/* What was copied is no longer kept. When more was kept than the scratch buffer holds, no event
 * would announce the rest. */
static void
drop_tail(struct stream *stream, size_t tail)
{
    buf_consume(&stream->in, tail);
    stream->has_leftover = buf_len(&stream->in) > 0;
    if (stream->has_leftover) {
        watch_trigger(&stream->watch, WATCH_READ);
    }
}

enum stream_result
stream_read(struct stream *stream, uint8_t **data_out, size_t *len_out)
{
    size_t tail, size, len = 0;
    uint8_t *scratch = scratch_with_tail(stream, &tail, &size);
    enum stream_result result = STREAM_OK;

    if (tail < size) {
        result = stream->ssl != NULL ? tls_receive(stream, scratch + tail, size - tail, &len)
                                     : plain_receive(stream, scratch + tail, size - tail, &len);
    }
    if (result != STREAM_OK) {
        return result;
    }
    drop_tail(stream, tail);
    *data_out = scratch;
    *len_out = tail + len;
    if (stream->has_pending) {
        watch_trigger(&stream->watch, WATCH_READ);
    }
    return STREAM_OK;
}

enum stream_result
stream_kept(struct stream *stream, uint8_t **data_out, size_t *len_out)
{
    size_t size;

    if (buf_len(&stream->in) == 0) {
        return STREAM_WAIT;
    }
    *data_out = scratch_with_tail(stream, len_out, &size);
    drop_tail(stream, *len_out);
    return STREAM_OK;
}

void
stream_keep(struct stream *stream, const uint8_t *rest, size_t len)
{
    struct buf later = stream->in;

    stream->in = (struct buf){0};
    buf_add(&stream->in, rest, len);
    if (buf_len(&later) > 0) {
        buf_add(&stream->in, buf_head(&later), buf_len(&later));
    }
    buf_deinit(&later);
}

static enum stream_result
send_some(struct stream *stream, const uint8_t *data, size_t len, size_t *sent_out)
{
    *sent_out = 0;
    if (stream->ssl != NULL) {
        ERR_clear_error();
        errno = 0;
        size_t record = len < TLS_RECORD_MAX ? len : TLS_RECORD_MAX;
        int returned = SSL_write_ex(stream->ssl, data, record, sent_out);
        return returned == 1 ? STREAM_OK : tls_result(stream, returned);
    }
    ssize_t sent = send(stream->watch.fd, data, len, MSG_NOSIGNAL);
    if (sent >= 0) {
        *sent_out = (size_t)sent;
        return STREAM_OK;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        return STREAM_WAIT;
    }
    stream->error = errno;
    return STREAM_ERROR;
}

/* Sends until done or the kernel has enough; returns how much went. */
static size_t
send_all(struct stream *stream, const uint8_t *data, size_t len)
{
    size_t total = 0;

    while (total < len) {
        size_t sent;
        enum stream_result result = send_some(stream, data + total, len - total, &sent);
        if (result == STREAM_WAIT) {
            break;
        }
        if (result != STREAM_OK) {
            stream->is_write_broken = true;
            break;
        }
        total += sent;
        stream->sent += sent;
        /* A short send() means a full socket buffer: asking again would only say so. */
        if (stream->ssl == NULL) {
            break;
        }
    }
    return total;
}

static void
want_write(struct stream *stream, bool wanted)
{
    unsigned wants = stream->watch.wants & ~(unsigned)WATCH_WRITE;
    watch_want(&stream->watch, wanted ? wants | WATCH_WRITE : wants);
}

void
stream_write(struct stream *stream, const void *data, size_t len)
{
    stream->offered += len;
    if (stream->is_write_broken || len == 0) {
        return;
    }
    size_t sent = stream_is_backed_up(stream) ? 0 : send_all(stream, data, len);
    if (sent < len && !stream->is_write_broken) {
        buf_add(&stream->out, (const uint8_t *)data + sent, len - sent);
        want_write(stream, true);
    }
}

bool
stream_flush(struct stream *stream)
{
    if (stream_is_backed_up(stream)) {
        size_t sent = send_all(stream, buf_head(&stream->out), buf_len(&stream->out));
        buf_consume(&stream->out, sent);
        if (stream->is_write_broken) {
            buf_deinit(&stream->out);
        }
    }
    if (stream_is_backed_up(stream)) {
        return false;
    }
    want_write(stream, false);
    return true;
}

bool
stream_is_shaking_hands(const struct stream *stream)
{
    return stream->is_away || stream->is_shaking;
}

void
stream_go_away(struct stream *stream)
{
    watch_detach(&stream->watch);
    stream->is_away = true;
}

void
stream_come_back(struct stream *stream, struct loop *loop, bool wants_write)
{
    stream->is_away = false;
    watch_attach(&stream->watch, loop);
    watch_want(&stream->watch, WATCH_READ | (wants_write ? WATCH_WRITE : 0));
    stream->has_pending = SSL_has_pending(stream->ssl) == 1;
}

void
stream_end(struct stream *stream)
{
    if (stream->owns_ssl && SSL_is_init_finished(stream->ssl) == 1 && !stream->is_write_broken &&
        !(SSL_get_shutdown(stream->ssl) & SSL_SENT_SHUTDOWN)) {
        ERR_clear_error();
        SSL_shutdown(stream->ssl);
    }
    shutdown(stream->watch.fd, SHUT_WR);
}

int
stream_first_byte(struct stream *stream)
{
    uint8_t byte;

    return recv(stream->watch.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1 ? byte : -1;
}

void
stream_want_read(struct stream *stream, bool wanted)
{
    unsigned wants = stream->watch.wants & (unsigned)WATCH_WRITE;

    if (wanted == ((stream->watch.wants & WATCH_READ) != 0)) {
        return;
    }
    watch_want(&stream->watch, wanted ? wants | WATCH_READ : wants);
    if (wanted && (stream->has_pending || stream->has_leftover)) {
        watch_trigger(&stream->watch, WATCH_READ);
    }
}

void
stream_want_closed(struct stream *stream)
{
    watch_want(&stream->watch, (stream->watch.wants & (unsigned)WATCH_WRITE) | WATCH_CLOSED);
}

enum stream_result
stream_peek(struct stream *stream)
{
    char byte;

    if (stream->has_pending || buf_len(&stream->in) > 0) {
        return STREAM_OK;
    }
    ssize_t len = recv(stream->watch.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (len > 0) {
        return STREAM_OK;
    }
    if (len == 0) {
        return STREAM_EOF;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        return STREAM_WAIT;
    }
    stream->error = errno;
    return STREAM_ERROR;
}

const char *
stream_reason(const struct stream *stream)
{
    if (stream->error == EPROTO) {
        return "TLS protocol error";
    }
    return stream->error != 0 ? strerror(stream->error) : "closed by the peer";
}
