/*
 * Handshakes in helpers. Called by client/login; calls OpenSSL. Both sides hold the session while
 * it is away, so that neither asks whether the other is still there.
 */
#include "net/handshake.h"

#include "base/mem.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <unistd.h>

struct handshake
{
    struct job job; /* first */
    SSL *ssl;       /* holds */
    struct loop *loop;
    handshake_done_fn *done;
    void *arg;
    uint64_t ticket;
    enum stream_result result;
    bool wants_write;
    struct fail fail;
};

static void
handshake_free(struct handshake *handshake)
{
    SSL_free(handshake->ssl);
    free(handshake);
}

static void
on_back(void *arg)
{
    struct handshake *handshake = arg;

    handshake->done(handshake->arg, handshake->ticket, handshake);
}

/* Any thread. Once the loop is gone its streams are, too. */
static void
send_back(struct handshake *handshake)
{
    if (!loop_post(handshake->loop, on_back, handshake)) {
        handshake_drop(handshake);
    }
}

static void
fail_with(struct handshake *handshake)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());

    handshake->result = STREAM_ERROR;
    fail_set(&handshake->fail, "08P01", "TLS handshake failed: %s",
        reason != NULL ? reason : errno != 0 ? strerror(errno) : "closed by the peer");
}

/* Whether either side has hung up meanwhile: no signature is made for those. */
static bool
is_vain(const struct handshake *handshake)
{
    struct pollfd fd = {.fd = SSL_get_fd(handshake->ssl), .events = POLLRDHUP};

    return poll(&fd, 1, 0) == 1 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* In a helper. */
static void
run(struct job *job)
{
    struct handshake *handshake = (struct handshake *)job;

    if (is_vain(handshake)) {
        handshake->result = STREAM_ERROR;
        fail_set(&handshake->fail, "08006", "closed by the peer");
        send_back(handshake);
        return;
    }
    ERR_clear_error();
    errno = 0;
    int returned = SSL_do_handshake(handshake->ssl);
    int error = SSL_get_error(handshake->ssl, returned);
    handshake->wants_write = error == SSL_ERROR_WANT_WRITE;
    if (error == SSL_ERROR_NONE) {
        handshake->result = STREAM_OK;
    } else if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        handshake->result = STREAM_WAIT;
    } else {
        fail_with(handshake);
    }
    ERR_clear_error();
    send_back(handshake);
}

static void
give_up(struct job *job)
{
    struct handshake *handshake = (struct handshake *)job;

    handshake->result = STREAM_ERROR;
    fail_set(&handshake->fail, "57P01", "pgkeel is shutting down");
    send_back(handshake);
}

void
handshake_step(struct stream *stream, struct helpers *helpers, handshake_done_fn *done, void *arg,
    uint64_t ticket)
{
    struct handshake *handshake = mem_new(sizeof(*handshake));

    handshake->job = (struct job){.kind = JOB_HEAVY, .run = run, .drop = give_up};
    handshake->ssl = stream->ssl;
    handshake->loop = stream->watch.loop;
    handshake->done = done;
    handshake->arg = arg;
    handshake->ticket = ticket;
    SSL_up_ref(handshake->ssl);
    stream_go_away(stream);
    helpers_run(helpers, &handshake->job);
}

enum stream_result
handshake_take(struct handshake *handshake, struct stream *stream, struct fail *fail)
{
    enum stream_result result = handshake->result;

    stream_come_back(stream, handshake->loop, handshake->wants_write);
    stream->is_shaking = result != STREAM_OK;
    if (result == STREAM_ERROR) {
        *fail = handshake->fail;
        stream->error = EPROTO;
    }
    handshake_free(handshake);
    return result;
}

void
handshake_drop(struct handshake *handshake)
{
    close(SSL_get_fd(handshake->ssl));
    handshake_free(handshake);
}
