/*
 * The queue of owed replies between a client that sends anything and a PostgreSQL that answers as
 * PostgreSQL does (documentation, "Message Flow"): what it answers is never unexpected, and in the
 * end nothing is owed. The input is a row of steps; each lets the client send, the server read or
 * say something, or (for good) the server lie.
 */
#include "wire/replies.h"

#include "base/mem.h"
#include "base/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum
{
    SENT_MAX = 64
};

struct server
{
    struct replies replies;
    uint8_t sent[SENT_MAX]; /* the client's messages that the server has not read */
    unsigned count;
    uint8_t running; /* the message that is being answered: Q, E, F or 0 */
    bool skips;      /* after an error, to a Sync */
    bool copies;     /* waits for data of a COPY */
    unsigned readies; /* ReadyForQuery said */
};

static const uint8_t client_types[] = "PBDECSQFHdcfX";

/* The server says something, which must fit. */
static void
say(struct server *server, uint8_t type, const char *body)
{
    struct message message = {.type = type,
        .len = MESSAGE_HEADER + (uint32_t)strlen(body),
        .body = (const uint8_t *)body,
        .body_len = (uint32_t)strlen(body)};

    ensure(replies_take(&server->replies, &message) != REPLY_UNEXPECTED);
}

static void
say_ready(struct server *server)
{
    say(server, MSG_READY, "I");
    server->running = 0;
}

static void
say_error(struct server *server)
{
    say(server, MSG_ERROR, "");
    server->copies = false;
    if (server->running == MSG_QUERY || server->running == MSG_FUNCTION_CALL) {
        say_ready(server);
    } else {
        server->skips = true;
    }
    server->running = 0;
}
