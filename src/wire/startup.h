/*
 * The first packet of a client: a login, a cancel request, or the wish for encryption (PostgreSQL
 * documentation, "Frontend/Backend Protocol", "Start-up" and "Message Formats"). Pure functions;
 * everything in struct startup borrows from the bytes that were parsed.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

enum
{
    STARTUP_LIMIT = 10000 + 4,    /* PostgreSQL's MAX_STARTUP_PACKET_LENGTH and the length word */
    STARTUP_MINOR = 2,            /* newest 3.x we speak */
    STARTUP_CANCEL_KEY_MIN = 4,   /* protocol 3.0 */
    STARTUP_CANCEL_KEY_MAX = 256, /* protocol 3.2 */
};

enum startup_result
{
    STARTUP_MORE,   /* incomplete, sane so far */
    STARTUP_BAD,    /* the reason says why; answer it and close */
    STARTUP_SSL,    /* SSLRequest: answer one byte, then comes another first packet */
    STARTUP_GSS,    /* GSSENCRequest: the same */
    STARTUP_CANCEL, /* CancelRequest: the connection ends without an answer */
    STARTUP_LOGIN,  /* StartupMessage */
};

struct startup
{
    /* Every result but MORE and BAD. Bytes behind it belong to what comes next; behind an
     * SSLRequest there must be none (CVE-2021-23222's kind). */
    uint32_t packet_len;

    /* STARTUP_LOGIN */
    uint16_t minor;          /* of 3.minor, as asked for; startup_minor() is what will be spoken */
    const char *user;        /* never empty */
    const char *database;    /* the user's name when not given */
    const char *replication; /* NULL when not given */
    const char *options;     /* NULL when not given; see startup_split_options() */
    unsigned unknown_count;  /* "_pq_." options, none of which we know */
    const uint8_t *params;   /* for startup_next_param() */
    uint32_t params_len;

    /* STARTUP_CANCEL */
    uint32_t cancel_pid;
    uint32_t cancel_key_len;
    const uint8_t *cancel_key;
};

/* What data begins with. Announced lengths are checked before more is waited for, so a caller never
 * holds more than STARTUP_LIMIT bytes. A parameter that comes twice: the last one counts, as in
 * PostgreSQL. */
enum startup_result startup_parse(
    const uint8_t *data, size_t len, struct startup *out, struct fail *fail) must_check;

/* Whether a packet, well-formed or not, is meant as a cancel request. */
bool startup_is_cancel(const uint8_t *data, size_t len) must_check;

/* Minor version of protocol 3 that this client and we both speak. */
uint16_t startup_minor(const struct startup *startup);

/* Adds NegotiateProtocolVersion when the client asked for more than we speak; else nothing. Goes
 * out before any Authentication message. */
void startup_add_negotiation(const struct startup *startup, struct buf *buf);

/* Walks over the parameters that are run-time settings: not user, database, replication, options,
 * nor "_pq_.". Set *cursor to 0 first. In the order they were sent; a name may come again, then the
 * later value counts. */
bool startup_next_param(
    const struct startup *startup, size_t *cursor, const char **name_out, const char **value_out);

typedef void startup_option_fn(void *arg, const char *name, const char *value);

/* Takes the value of "options" apart as PostgreSQL does: -c name=value, -cname=value, --name=value,
 * separated by white space, a backslash takes the next character as it is; dashes in the name of
 * the long form are underscores. Calls fn for each. False at the first thing that is anything else,
 * with what came before reported already. */
bool startup_split_options(const char *options, startup_option_fn *fn, void *arg) must_check;
