/*
 * The ordered queue of replies that a backend still owes. Each thing sent to it pushes what must
 * come back and for whom; each thing that comes back pops (PostgreSQL documentation,
 * "Frontend/Backend Protocol", "Message Flow"). What does not fit the head of the queue is
 * unexpected: that backend has lost its place and is closed, so nobody ever reads a reply that
 * belongs to somebody else.
 *
 * Owned by one backend, one byte an entry, no I/O.
 */
#pragma once

#include "wire/message.h"

enum reply_kind
{
    REPLY_PARSE,
    REPLY_PARSE_UNNAMED, /* of the unnamed statement */
    REPLY_BIND,
    REPLY_CLOSE,
    REPLY_DESCRIBE,
    REPLY_COLUMNS, /* a Describe of ours: what a statement returns */
    REPLY_EXECUTE,
    REPLY_SYNC,
    REPLY_QUERY,
    REPLY_FUNCTION,
    REPLY_STRAY_SYNC, /* sent behind data of a COPY: only answered if the COPY has failed by then */
    REPLY_COPY_DATA,  /* no reply: here data were sent before it was known whether a COPY runs */
    REPLY_COPY_END,   /* the same of CopyDone or CopyFail */
};

enum reply_owner
{
    REPLY_FOR_CLIENT = 0,
    REPLY_FOR_US = 0x80,   /* our own request: nobody else sees its reply */
    REPLY_INSERTED = 0x40, /* put among the client's messages: it sees errors only */
};

enum reply_verdict
{
    REPLY_FORWARD,
    REPLY_SWALLOW,
    REPLY_UNEXPECTED,
};

enum copy_state
{
    COPY_NONE,
    COPY_IN,   /* the backend waits for data */
    COPY_ENDS, /* CopyDone or CopyFail was sent */
    COPY_OUT,
    COPY_BOTH,
};

struct replies
{
    uint8_t *ring; /* owns; size is a power of two */
    uint32_t size;
    uint32_t head;
    uint32_t count;
    bool is_skipping; /* an error came, and its Sync was not sent yet */
    bool is_open;     /* extended messages were sent, and their Sync was not yet */
    uint32_t opened;  /* so many of them since the last Sync, Query or FunctionCall */
    enum copy_state copy;
    bool has_data;     /* of the COPY IN that runs, some was sent */
    bool has_answered; /* something came for the head */
    uint32_t credits;  /* Syncs among the data of a COPY that failed: perhaps they are answered */
    char status;    /* of the last ReadyForQuery: 'I', 'T', 'E'; 0 before the first */
    bool is_broken; /* an error came for one of our own requests since replies_watch() */
    uint32_t skipped; /* Queries and FunctionCalls that the last error made PostgreSQL skip */
    uint32_t marks;   /* marked requests that the last message answered, or made it skip */
    uint32_t columns; /* the same of REPLY_COLUMNS */
    uint64_t group;   /* Syncs sent: everything up to the next is skipped together */
    bool failed_unnamed;  /* the last error was that of a client's unnamed Parse ... */
    bool skipped_unnamed; /* ... or made PostgreSQL skip one */
    uint32_t failures; /* errors that made PostgreSQL skip to a Sync */
    uint64_t answered; /* of these: answered, or known to get no answer */
};

enum
{
    REPLIES_MAX = 1 << 20
};

void replies_deinit(struct replies *replies);

/* A request was sent. Nothing is pushed for Flush and copy data; Sync knows about COPY. */
void replies_push(struct replies *replies, enum reply_kind kind, enum reply_owner owner);

/* Marks the newest request: `marks` tells when it is over. Only right after it was pushed. */
void replies_mark(struct replies *replies);

/* Whether the request whose replies come now is marked. */
bool replies_is_marked(const struct replies *replies);

/* Whether a client may send such a message at all after login. */
must_check bool replies_may_send(uint8_t type);

/* The client's message of this type was forwarded: pushes what it will be answered with, if
 * anything. False when a client may not send such a message now. */
must_check bool replies_sent(struct replies *replies, uint8_t type);

/* Whether a request ends with such a message of the client: a ReadyForQuery answers it. */
static inline bool
replies_ends_request(uint8_t type)
{
    return type == MSG_SYNC || type == MSG_QUERY || type == MSG_FUNCTION_CALL;
}

/* A message came from the backend; pops what it answers. Asynchronous ones (Notice, Notification,
 * ParameterStatus) follow the head of the queue. */
enum reply_verdict replies_take(struct replies *replies, const struct message *message);

/* Whether it is not known how many ReadyForQuery will come: the last that was sent is a Sync among
 * the data of a COPY, which is only answered if the COPY has failed by then (else another must
 * come), or everything but such Syncs was answered. */
bool replies_is_unsure(const struct replies *replies);

/* Hands all that was for the client to us: it is gone, its replies are read and dropped. */
void replies_orphan(struct replies *replies);

/* How many ReadyForQuery are still to come. */
uint32_t replies_owed(const struct replies *replies);

/* Whether the oldest unanswered request is our own. */
bool replies_is_ours(const struct replies *replies);

static inline bool
replies_is_empty(const struct replies *replies)
{
    return replies->count == 0;
}

/* Everything was answered, and nothing keeps this backend from serving somebody else. */
static inline bool
replies_is_settled(const struct replies *replies)
{
    return replies->count == 0 && replies->status == 'I' && replies->copy == COPY_NONE &&
           !replies->is_skipping && !replies->is_open;
}

/* Whether the backend waits for something that only whoever sent the last request can send: data of
 * a COPY, a Sync. */
static inline bool
replies_wants_more(const struct replies *replies)
{
    return replies->is_open || replies->is_skipping || replies->copy == COPY_IN ||
           replies->copy == COPY_BOTH;
}
