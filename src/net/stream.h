/*
 * A socket with what did not fit: plain or TLS, non-blocking. Reads go into the loop's scratch
 * buffer behind the tail that was kept from the last read, so an idle stream owns no buffer at all;
 * writes go out at once, and only what the kernel did not take is stored (never more than one read
 * of the other side, because that side is not read meanwhile). Embedded in a client or a backend;
 * the thread of the loop it is attached to.
 */
#pragma once

#include "base/buf.h"
#include "base/fail.h"
#include "net/loop.h"

struct ssl_st;

enum stream_result
{
    STREAM_OK,
    STREAM_WAIT,  /* nothing to read now */
    STREAM_EOF,   /* the peer closed its side */
    STREAM_ERROR, /* stream->error says which */
};

struct stream
{
    struct watch watch;
    struct ssl_st *ssl;   /* NULL: plain */
    struct buf in;        /* owns: the incomplete tail of the last read */
    struct buf out;       /* owns: what the kernel did not take */
    uint64_t offered;     /* bytes handed to stream_write() so far */
    uint64_t sent;        /* of these: taken by the kernel, with TLS as whole records */
    int error;            /* errno of the first failure, or 0 */
    bool is_write_broken; /* writing failed; reading may still tell why */
    bool has_pending;     /* TLS: decrypted bytes wait that no event will announce */
    bool has_leftover;    /* more was kept than one read returns: the same */
    bool owns_ssl : 1;    /* else `ssl` belongs to a PGconn; here, where it takes no room */
    bool is_shaking : 1;  /* its handshake is not over; OpenSSL says so again after an error */
    bool is_away : 1;     /* a helper goes on with its handshake: nothing may be done with it */
};

/* Takes a non-blocking socket; fn is called with WATCH_ bits once attached. */
void stream_init(struct stream *stream, int fd, void (*fn)(void *arg, unsigned what), void *arg);

/* Leaves its loop and frees its buffers; the descriptor stays open. Also of one that is away. */
void stream_deinit(struct stream *stream);

/* From now on bytes go through this TLS session whose handshake is over: gives it a socket BIO of
 * ours, so that failed writes are failures and bytes below TLS are counted. */
must_check bool stream_use_tls(struct stream *stream, struct ssl_st *ssl, struct fail *fail);

/* Whether the handshake of a session that tls_accept() began is not over (net/handshake). */
bool stream_is_shaking_hands(const struct stream *stream);

/* Leaves its loop for a step of the handshake, and comes back to wait for the next. */
void stream_go_away(struct stream *stream);
void stream_come_back(struct stream *stream, struct loop *loop, bool wants_write);

/* Nothing more will be written: tells the peer so. */
void stream_end(struct stream *stream);

/* Reads once into the loop's scratch, behind what was kept. On STREAM_OK *data_out holds *len_out
 * bytes, valid until the callback returns; what is not consumed must be kept with stream_keep().
 * EOF and errors come only after all bytes before them were returned; a kept tail stays in
 * stream->in then. */
enum stream_result stream_read(struct stream *stream, uint8_t **data_out, size_t *len_out);

/* What was kept, without reading: the same as stream_read() from a socket that has nothing new. */
enum stream_result stream_kept(struct stream *stream, uint8_t **data_out, size_t *len_out);

/* Keeps the rest of what stream_read() returned for the next read, in front of what else is kept.
 */
void stream_keep(struct stream *stream, const uint8_t *rest, size_t len);

/* Sends now what the kernel takes and stores the rest. After a failed write everything is dropped
 * and is_write_broken set: the reason is found by reading. What lies beyond `sent` of the bytes
 * offered never reached the peer: part of a TLS record is nothing to it. */
void stream_write(struct stream *stream, const void *data, size_t len);

/* Sends stored bytes; to be called on WATCH_WRITE. True when none is left. */
bool stream_flush(struct stream *stream);

static inline bool
stream_is_backed_up(const struct stream *stream)
{
    return buf_len(&stream->out) > 0;
}

/* Whether to go on reading; waiting to write follows from stored bytes by itself. */
void stream_want_read(struct stream *stream, bool wanted);

/* Waits for the peer's end instead of its bytes. */
void stream_want_closed(struct stream *stream);

/* A non-blocking look: STREAM_WAIT when nothing has come, STREAM_OK when bytes wait, else EOF or
 * ERROR. */
enum stream_result stream_peek(struct stream *stream);

/* The next byte that waits in the socket, or -1; it stays there. Of plain streams. */
int stream_first_byte(struct stream *stream);

/* The sentence for what ended the stream: "Connection reset by peer", "closed by the peer", ... */
const char *stream_reason(const struct stream *stream);
