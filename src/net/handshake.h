/*
 * One step of a TLS handshake with a client, made by a helper: a signature takes a millisecond,
 * which no loop has when hundreds log in. Meanwhile the stream is away: out of its loop, nobody
 * reads, writes or asks about its session, and whoever gives it up leaves the descriptor open. The
 * loop's thread, but for the step itself.
 */
#pragma once

#include "base/helpers.h"
#include "net/stream.h"

struct handshake;

/* The step is over, in the stream's loop. Whoever had the stream takes it back, or drops it. */
typedef void handshake_done_fn(void *arg, uint64_t ticket, struct handshake *handshake);

/* Sends the stream away with the session that tls_accept() began. arg and ticket are handed to
 * done(). */
void handshake_step(struct stream *stream, struct helpers *helpers, handshake_done_fn *done,
    void *arg, uint64_t ticket);

/* Back in its loop. STREAM_OK: the handshake is over; STREAM_WAIT: another step is due at the next
 * event; STREAM_ERROR: it failed, *fail says why. Ends `handshake`. */
enum stream_result handshake_take(
    struct handshake *handshake, struct stream *stream, struct fail *fail);

/* Nobody has the stream any more: closes what it left. Ends `handshake`. */
void handshake_drop(struct handshake *handshake);
