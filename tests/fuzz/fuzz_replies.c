/*
 * The queue of owed replies between a client that sends anything and a PostgreSQL that answers as
 * PostgreSQL does (documentation, "Message Flow"): nothing it says is unexpected, and in the end
 * nothing is owed. A letter lets the client send that message; any other byte lets PostgreSQL go
 * one step further, and says in which way. With '!' in front PostgreSQL says what the letters name
 * instead, fitting or not.
 */
#include "wire/replies.h"

#include "base/mem.h"
#include "base/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum
{
    SENT_MAX = 64
};

struct talk
{
    struct replies replies;
    uint8_t sent[SENT_MAX]; /* what PostgreSQL has not read yet */
    unsigned count;
    bool sends_data; /* the client is among the data of a COPY ... */
    bool is_unsure;  /* ... and there was a Sync among them */
    uint8_t running; /* what it answers: Q, E, F, or 0 */
    bool skips;      /* after an error, to a Sync */
    bool copies;     /* waits for data */
    bool executed;   /* something since the last Sync that a Sync may commit */
    bool is_over;    /* it closed the connection */
};

static void
check(const struct replies *replies)
{
    ensure(replies->count <= replies->size && replies_owed(replies) <= replies->count);
    ensure(replies->answered <= replies->group);
    ensure(!replies_is_settled(replies) || !replies_wants_more(replies));
}

/* ---- the client ---- */

static bool
is_about_data(uint8_t type)
{
    return type == MSG_COPY_DATA || type == MSG_COPY_DONE || type == MSG_COPY_FAIL ||
           type == MSG_FLUSH || type == MSG_SYNC;
}

/* Who began to send data ends them. If the COPY fails, whether a Sync among them is answered is
 * known when everything was: who goes on earlier loses the connection. */
static bool
may_send(struct talk *talk, uint8_t type)
{
    if (replies_is_empty(&talk->replies) && !talk->replies.is_skipping) {
        talk->is_unsure = false;
    }
    return talk->count < SENT_MAX &&
           (is_about_data(type) || (!talk->sends_data && !talk->is_unsure));
}

static void
send_type(struct talk *talk, uint8_t type)
{
    if (may_send(talk, type) && replies_sent(&talk->replies, type)) {
        bool is_end = type == MSG_COPY_DONE || type == MSG_COPY_FAIL;
        talk->is_unsure = talk->is_unsure || (type == MSG_SYNC && talk->sends_data);
        talk->sends_data = type == MSG_COPY_DATA || (talk->sends_data && !is_end);
        talk->sent[talk->count++] = type;
        check(&talk->replies);
    }
}

/* ---- PostgreSQL ---- */

static enum reply_verdict
hear(struct talk *talk, uint8_t type, const char *body)
{
    struct message message = {.type = type, .body = (const uint8_t *)body};

    message.body_len = (uint32_t)strlen(body);
    message.len = MESSAGE_HEADER + message.body_len;
    enum reply_verdict verdict = replies_take(&talk->replies, &message);
    check(&talk->replies);
    return verdict;
}

static void
say(struct talk *talk, uint8_t type)
{
    ensure(hear(talk, type, type == MSG_READY ? "I" : "") == REPLY_FORWARD);
}

static void
say_error(struct talk *talk)
{
    bool is_extended = talk->running != MSG_QUERY && talk->running != MSG_FUNCTION_CALL;

    say(talk, MSG_ERROR);
    if (is_extended) {
        talk->skips = true;
    } else {
        say(talk, MSG_READY);
    }
    talk->running = 0;
    talk->copies = talk->executed = false;
}

static uint8_t
read_type(struct talk *talk)
{
    uint8_t type = talk->sent[0];

    memmove(talk->sent, talk->sent + 1, --talk->count);
    return type;
}

/* The end of a statement; a Query may have more of them. */
static void
complete(struct talk *talk)
{
    say(talk, MSG_COMMAND_COMPLETE);
    talk->copies = false;
    talk->running = talk->running == MSG_EXECUTE ? 0 : talk->running;
}

static void
read_copy(struct talk *talk, unsigned how)
{
    uint8_t type = read_type(talk);

    switch (type) {
    case MSG_COPY_DATA:
        if (how % 4 == 0) {
            say_error(talk);
        }
        break;
    case MSG_COPY_DONE:
        if (how % 4 == 0) {
            say_error(talk);
        } else {
            complete(talk);
        }
        break;
    case MSG_COPY_FAIL:
        say_error(talk);
        break;
    case MSG_FLUSH:
    case MSG_SYNC:
        break;
    default:
        talk->is_over = true; /* it closes with a FATAL */
        break;
    }
}

/* One step of a Query, Execute or FunctionCall. */
static void
run(struct talk *talk, unsigned how)
{
    if (how % 8 == 0) {
        say_error(talk);
        return;
    }
    if (talk->running == MSG_FUNCTION_CALL) {
        say(talk, MSG_FUNCTION_RESULT);
        say(talk, MSG_READY);
        talk->running = 0;
        return;
    }
    switch (how % 8) {
    case 1:
        say(talk, MSG_COPY_IN);
        talk->copies = true;
        break;
    case 2:
        say(talk, MSG_COPY_OUT);
        say(talk, MSG_COPY_DATA);
        say(talk, MSG_COPY_DONE);
        complete(talk);
        break;
    case 3:
        if (talk->running == MSG_QUERY) {
            say(talk, MSG_ROW_DESCRIPTION);
        }
        say(talk, MSG_DATA_ROW);
        complete(talk);
        break;
    case 4:
        say(talk, talk->running == MSG_EXECUTE ? MSG_PORTAL_SUSPENDED : MSG_NOTICE);
        talk->running = talk->running == MSG_EXECUTE ? 0 : talk->running;
        break;
    case 5:
        say(talk, MSG_EMPTY_QUERY);
        if (talk->running == MSG_QUERY) {
            say(talk, MSG_READY);
        }
        talk->running = 0;
        break;
    default:
        complete(talk);
        if (talk->running == MSG_QUERY) {
            say(talk, MSG_READY);
            talk->running = 0;
        }
        break;
    }
}

/* Reads one message. */
static void
read_next(struct talk *talk, unsigned how)
{
    uint8_t type = read_type(talk);

    if (type == MSG_SYNC) {
        if (how % 8 == 0 && talk->executed) {
            say(talk, MSG_ERROR); /* of a deferred constraint */
        }
        talk->skips = talk->executed = false;
        say(talk, MSG_READY);
        return;
    }
    if (talk->skips) {
        return;
    }
    switch (type) {
    case MSG_QUERY:
    case MSG_EXECUTE:
    case MSG_FUNCTION_CALL:
        talk->running = type;
        talk->executed = type == MSG_EXECUTE;
        break;
    case MSG_PARSE:
    case MSG_BIND:
    case MSG_CLOSE:
        if (how % 4 == 0) {
            say_error(talk);
        } else {
            say(talk, type == MSG_PARSE  ? MSG_PARSE_COMPLETE
                      : type == MSG_BIND ? MSG_BIND_COMPLETE
                                         : MSG_CLOSE_COMPLETE);
        }
        break;
    case MSG_DESCRIBE:
        if (how % 4 == 0) {
            say_error(talk);
            break;
        }
        if (how % 4 > 1) {
            say(talk, MSG_PARAMETER_DESCRIPTION);
        }
        say(talk, how % 4 == 2 ? MSG_NO_DATA : MSG_ROW_DESCRIPTION);
        break;
    default: /* Flush; data that a COPY which failed has left */
        break;
    }
}

/* False: it waits for the client. */
static bool
go_on(struct talk *talk, unsigned how)
{
    if (how % 16 == 15) {
        say(talk, how % 32 == 31 ? MSG_PARAMETER_STATUS : MSG_NOTIFICATION);
    }
    if (talk->running != 0 && !talk->copies) {
        run(talk, how);
    } else if (talk->count == 0 || talk->is_over) {
        return false;
    } else if (talk->copies) {
        read_copy(talk, how);
    } else {
        read_next(talk, how);
    }
    return true;
}

/* The client ends what it began, and everything is answered. */
static void
finish(struct talk *talk)
{
    for (int round = 0; round < 4; round++) {
        while (go_on(talk, 6)) {
        }
        if (talk->is_over) {
            return;
        }
        if (talk->copies) {
            send_type(talk, MSG_COPY_FAIL);
        } else if (!replies_is_empty(&talk->replies) || replies_wants_more(&talk->replies)) {
            send_type(talk, MSG_SYNC);
        }
    }
    ensure(replies_is_settled(&talk->replies) && replies_owed(&talk->replies) == 0);
    ensure(talk->replies.answered == talk->replies.group);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct talk talk = {.count = 0};
    bool lies = false;

    send_type(&talk, MSG_SYNC);
    go_on(&talk, 6); /* as a dial begins */
    for (size_t i = 0; i < size && !talk.is_over; i++) {
        if (data[i] == '!' && i + 1 < size) {
            lies = true; /* from here on nobody knows what PostgreSQL should say */
            i++;
            talk.is_over = hear(&talk, data[i], i % 2 == 0 ? "I" : "") == REPLY_UNEXPECTED;
        } else if (replies_may_send(data[i])) {
            send_type(&talk, data[i]);
        } else if (!lies) {
            go_on(&talk, data[i]);
        }
    }
    if (!lies) {
        finish(&talk);
    }
    replies_deinit(&talk.replies);
    return 0;
}
