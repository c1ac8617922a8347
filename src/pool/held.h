/*
 * The requests that a backend was sent and has not answered: what they are, where each began among
 * the bytes sent, and their bytes as far as retry_buffer allows, so that they can be sent to
 * another backend when this one dies. Owned by the backend (few backends, many clients); its buffer
 * is reused, so the hot path copies a request once and allocates nothing.
 *
 * A request is everything up to a Sync, Query or FunctionCall that will be answered with a
 * ReadyForQuery. The oldest is the one whose replies come now.
 */
#pragma once

#include "base/buf.h"
#include "wire/message.h"

/* What came of the replies to the oldest request. */
enum held_seen
{
    SEEN_ANYTHING = 1,  /* any message */
    SEEN_COMPLETED = 2, /* CommandComplete, or what stands for it */
    SEEN_ROWS = 4,      /* what a client must not see twice: rows, completions, copy data, errors */
    SEEN_ERROR = 8,     /* an ErrorResponse: there must not be another */
};

struct held_request
{
    uint64_t len;  /* bytes that were forwarded of it, the announced ones of a message that is
                       still being forwarded included */
    uint32_t kept; /* bytes of it in the buffer */
    uint8_t first; /* type of its first message */
    uint8_t times; /* it was sent again so often */
    bool is_whole; /* its end was forwarded */
    bool is_lost;  /* it cannot be sent again */
    bool is_cut;   /* because not all of its text is kept */
    bool executes; /* an Execute, Query or FunctionCall is among it */
    bool is_mixed; /* it began in the extended protocol and ends with a Query or FunctionCall */
};

struct held
{
    struct buf bytes;          /* owns: what is kept, oldest first */
    struct held_request *ring; /* owns; size is a power of two */
    uint32_t size, head, count;
    uint64_t start;  /* where the oldest began among the bytes offered to the stream */
    struct buf told; /* owns: replies to the oldest that the client saw from an earlier backend */
    size_t repeated; /* bytes of `told` that came again */
    unsigned seen;   /* SEEN_ bits of the oldest: forwarded in earlier reads */
    bool is_withheld;  /* its last replies came with the FATAL and did not go to the client */
    uint32_t completions; /* CommandComplete that came for it */
    struct buf opening;   /* owns: the request that opened the transaction, for ... AND CHAIN */
    bool is_blind; /* a COPY from the client is among them: which reply ends which is unsure */
};

enum
{
    HELD_MAX = 1 << 16 /* requests */
};

void held_deinit(struct held *held);

/* Everything was answered. */
void held_clear(struct held *held);

/* A message of the client is forwarded; bytes is NULL when it is not here as a whole. ends: a
 * ReadyForQuery will answer it. Whoever adds the first sets `start`. Copy data, which belong to the
 * newest request, need one. */
void held_add(struct held *held, const struct message *message, const uint8_t *bytes, bool ends,
    size_t limit);

/* The newest request was forwarded with so many bytes more (or less) than the client sent. */
void held_add_bytes(struct held *held, int64_t bytes);

/* The oldest was answered. Says nothing while is_blind: then only held_clear() ends them. */
void held_answered(struct held *held);

/* The oldest is about to be answered and opened a transaction: remembers it. */
void held_note_opening(struct held *held);

/* The modes of the BEGIN that opened the transaction, "" when none are known; borrowed. */
const char *held_modes(const struct held *held, size_t *len_out);

/* An error made PostgreSQL skip the end of the oldest: it goes on with the next. */
void held_join(struct held *held);

/* The replies of the oldest in [from, to) were forwarded: keeps those that another backend would
 * give again (completions of Parse, Bind, Close; descriptions). */
void held_tell(struct held *held, const uint8_t *from, const uint8_t *to);

/* Whether the client saw this reply already, from the backend that died: 1 yes, swallow it; 0 no;
 * -1 it saw another one there. */
int held_was_told(struct held *held, const struct message *message);

static inline struct held_request *
held_at(const struct held *held, uint32_t i)
{
    return &held->ring[(held->head + i) & (held->size - 1)];
}

/* Walks the requests from the oldest on, for who wants to know all about them. */
struct held_walk
{
    const struct held *held;
    uint64_t sent;              /* bytes that reached the peer */
    char status;                /* of the last ReadyForQuery */
    /* The text of the statement that was given this name earlier, NULL when that is not certain; or
     * NULL. */
    const char *(*text_of)(void *arg, const char *name);
    void *arg;
    bool has_backslash_escapes; /* standard_conforming_strings is off */
    bool is_unreadable;         /* client_encoding is one whose text cannot be told apart */
    uint32_t i;                 /* the next request */
    uint64_t start;             /* where it begins among the bytes offered */
    size_t offset;              /* where it begins among those kept */
};

struct held_walk held_walk(const struct held *held, uint64_t sent, char status, bool escapes);

/* Facts (pool/retry.h) about the next request; 0 behind the last. */
unsigned held_next_facts(struct held_walk *walk);
