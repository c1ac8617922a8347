/*
 * Messages of PostgreSQL's protocol 3 (PostgreSQL documentation, "Frontend/Backend Protocol",
 * "Message Formats"): finding where one ends, reading what is inside, making the ones we send
 * ourselves. Pure functions over bytes; every length that a peer sends is checked here, so that
 * nobody else has to.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

/* Some letters mean one thing from a client and another from a backend. */
enum message_type
{
    /* from a client */
    MSG_BIND = 'B',
    MSG_CLOSE = 'C',
    MSG_DESCRIBE = 'D',
    MSG_EXECUTE = 'E',
    MSG_FLUSH = 'H',
    MSG_FUNCTION_CALL = 'F',
    MSG_PARSE = 'P',
    MSG_PASSWORD = 'p', /* also SASLInitialResponse, SASLResponse, GSSResponse */
    MSG_QUERY = 'Q',
    MSG_SYNC = 'S',
    MSG_TERMINATE = 'X',

    /* from both */
    MSG_COPY_DATA = 'd',
    MSG_COPY_DONE = 'c',
    MSG_COPY_FAIL = 'f', /* client only */

    /* from a backend */
    MSG_AUTHENTICATION = 'R',
    MSG_BIND_COMPLETE = '2',
    MSG_CLOSE_COMPLETE = '3',
    MSG_COMMAND_COMPLETE = 'C',
    MSG_COPY_BOTH = 'W',
    MSG_COPY_IN = 'G',
    MSG_COPY_OUT = 'H',
    MSG_DATA_ROW = 'D',
    MSG_EMPTY_QUERY = 'I',
    MSG_ERROR = 'E',
    MSG_FUNCTION_RESULT = 'V',
    MSG_KEY_DATA = 'K',
    MSG_NEGOTIATE_VERSION = 'v',
    MSG_NO_DATA = 'n',
    MSG_NOTICE = 'N',
    MSG_NOTIFICATION = 'A',
    MSG_PARAMETER_DESCRIPTION = 't',
    MSG_PARAMETER_STATUS = 'S',
    MSG_PARSE_COMPLETE = '1',
    MSG_PORTAL_SUSPENDED = 's',
    MSG_READY = 'Z',
    MSG_ROW_DESCRIPTION = 'T',
};

/* The Int32 of an Authentication message. */
enum message_auth
{
    AUTH_OK = 0,
    AUTH_PLAIN = 3,
    AUTH_MD5 = 5,
    AUTH_SASL = 10,
    AUTH_SASL_CONTINUE = 11,
    AUTH_SASL_FINAL = 12,
};

/* Types of the columns we make ourselves: pg_type.oid. */
enum message_oid
{
    OID_INT8 = 20,
    OID_INT4 = 23,
    OID_TEXT = 25,
    OID_BYTEA = 17,
    OID_NUMERIC = 1700,
};

/* --- Framing --- */

enum
{
    MESSAGE_HEADER = 5
}; /* type byte and length word */

enum message_result
{
    MESSAGE_OK,   /* the header is there and sane; the body may still be on its way */
    MESSAGE_MORE, /* less than a header */
    MESSAGE_BAD,  /* no message has such a length: the stream is lost */
};

struct message
{
    uint8_t type;
    uint32_t len;        /* of the whole message, type byte and length word included */
    const uint8_t *body; /* borrows from the bytes that were peeked at */
    uint32_t body_len;   /* as announced: only message_is_complete() says that it is there */
};

static inline uint32_t
message_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Looks at the header of the message that data begins with. out is only set by MESSAGE_OK. */
static inline enum message_result
message_peek(const uint8_t *data, size_t len, struct message *out)
{
    if (len < MESSAGE_HEADER) {
        return MESSAGE_MORE;
    }
    uint32_t word = message_u32(data + 1);
    if (word < 4 || word > INT32_MAX) {
        return MESSAGE_BAD;
    }
    out->type = data[0];
    out->len = word + 1;
    out->body = data + MESSAGE_HEADER;
    out->body_len = word - 4;
    return MESSAGE_OK;
}

/* len is that of message_peek(). */
static inline bool
message_is_complete(const struct message *message, size_t len)
{
    return message->len <= len;
}

/* Takes the next complete message off the front of a run of them; false when there is none. */
static inline bool
message_next(const uint8_t **data, size_t *len, struct message *out)
{
    if (message_peek(*data, *len, out) != MESSAGE_OK || !message_is_complete(out, *len)) {
        return false;
    }
    *data += out->len;
    *len -= out->len;
    return true;
}

/* Name of a message type for the log, "unknown" when there is none. */
const char *message_name(uint8_t type, bool is_from_client);

/* --- Reading --- */

/* Takes a body apart from front to back. The first thing that is not there makes is_bad true for
 * good; from then on numbers are 0, strings "", bytes NULL, so callers may check once at the end.
 */
struct reader
{
    const uint8_t *at;
    const uint8_t *end;
    bool is_bad;
};

struct reader reader_over(const uint8_t *data, size_t len);
uint8_t reader_u8(struct reader *reader);
uint16_t reader_u16(struct reader *reader);
uint32_t reader_u32(struct reader *reader);
const char *reader_string(struct reader *reader); /* its zero byte is inside the body */
const uint8_t *reader_bytes(struct reader *reader, size_t len);
static inline size_t
reader_left(const struct reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

/* Nothing was missing and nothing is left over. */
static inline bool
reader_is_done(const struct reader *reader)
{
    return !reader->is_bad && reader->at == reader->end;
}

/* Adds name, type and modifier of each column of a RowDescription; nothing for a NoData. False: the
 * message is not here as a whole, or not well-formed. */
bool message_add_columns(struct buf *buf, const struct message *message, bool is_whole);

/* Fields of an ErrorResponse or NoticeResponse (documentation, "Error and Notice Message Fields").
 * Never NULL;
 * "" when the field is missing. Borrow from the body. */
struct error_fields
{
    const char *severity; /* V, never localized; S when there is no V (before PostgreSQL 9.6) */
    const char *sqlstate; /* C */
    const char *message;  /* M */
    const char *detail;   /* D */
    const char *hint;     /* H */
    const char *routine;  /* R: PostgreSQL's function, the same in every language */
};

/* Of a field that comes twice the first counts; one without its zero byte is left out. False when
 * the body is not well-formed; the fields found up to there are set all the same. */
bool message_parse_error(const uint8_t *body, size_t len, struct error_fields *out);

/* The backend's own words as a reason; XX000 when it gave no valid SQLSTATE. Always false, as
 * fail_set(). */
bool message_error_to_fail(const struct error_fields *fields, struct fail *fail);

/* --- Making --- */

/* Begins a message; returns what message_end() needs to fill in the length. In between, add the
 * body with buf_add*(). Nothing may be consumed from the buffer meanwhile. */
size_t message_begin(struct buf *buf, uint8_t type);
void message_end(struct buf *buf, size_t begin);

/* A message without a body: MSG_SYNC, MSG_PARSE_COMPLETE, MSG_NO_DATA, MSG_EMPTY_QUERY ... */
void message_add_simple(struct buf *buf, uint8_t type);

/* ErrorResponse of severity "ERROR" or "FATAL" ("PANIC"). */
void message_add_error(struct buf *buf, const char *severity, const struct fail *fail);

/* NoticeResponse of severity "NOTICE", "WARNING", "INFO" ... */
void message_add_notice(struct buf *buf, const char *severity, const struct fail *fail);

/* MSG_ERROR or MSG_NOTICE with all fields; those that are NULL or "" are left out. */
void message_add_fields(struct buf *buf, uint8_t type, const struct error_fields *fields);

void message_add_ready(struct buf *buf, char status); /* 'I', 'T' or 'E' */
void message_add_parameter(struct buf *buf, const char *name, const char *value);
void message_add_key(struct buf *buf, uint32_t pid, const void *key, size_t len);
void message_add_auth(struct buf *buf, enum message_auth code, const void *data, size_t len);
/* AuthenticationSASL that offers these mechanisms; ends with NULL. */
void message_add_auth_sasl(struct buf *buf, const char *const *mechanisms);
void message_add_command_complete(struct buf *buf, const char *tag);
void message_add_query(struct buf *buf, const char *sql);

/* NegotiateProtocolVersion: newest 3.minor we speak, and the options we do not know. */
void message_add_negotiate_version(
    struct buf *buf, uint16_t minor, const char *const *names, size_t count);

/* ParameterDescription of a statement without parameters. */
void message_add_no_parameters(struct buf *buf);

struct message_column
{
    const char *name;
    enum message_oid type;
};

/* RowDescription, all columns in the same format. */
void message_add_row_description(
    struct buf *buf, const struct message_column *columns, uint16_t count, bool is_binary);

/* DataRow: begin, exactly count values, message_end(). */
size_t message_begin_row(struct buf *buf, uint16_t count);
void message_row_text(struct buf *buf, const char *value); /* NULL is SQL's NULL */
void message_row_integer(struct buf *buf, int64_t value);
