/*
 * Messages of protocol 3. Called from everywhere above wire; calls nothing but buf. The layouts are
 * those of PostgreSQL's documentation, "Message Formats".
 */
#include "wire/message.h"

#include "base/buf.h"
#include "base/state.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const names_from_client[256] = {
    [MSG_BIND] = "Bind",
    [MSG_CLOSE] = "Close",
    [MSG_COPY_DATA] = "CopyData",
    [MSG_COPY_DONE] = "CopyDone",
    [MSG_COPY_FAIL] = "CopyFail",
    [MSG_DESCRIBE] = "Describe",
    [MSG_EXECUTE] = "Execute",
    [MSG_FLUSH] = "Flush",
    [MSG_FUNCTION_CALL] = "FunctionCall",
    [MSG_PARSE] = "Parse",
    [MSG_PASSWORD] = "PasswordMessage",
    [MSG_QUERY] = "Query",
    [MSG_SYNC] = "Sync",
    [MSG_TERMINATE] = "Terminate",
};

static const char *const names_from_backend[256] = {
    [MSG_AUTHENTICATION] = "Authentication",
    [MSG_BIND_COMPLETE] = "BindComplete",
    [MSG_CLOSE_COMPLETE] = "CloseComplete",
    [MSG_COMMAND_COMPLETE] = "CommandComplete",
    [MSG_COPY_BOTH] = "CopyBothResponse",
    [MSG_COPY_DATA] = "CopyData",
    [MSG_COPY_DONE] = "CopyDone",
    [MSG_COPY_IN] = "CopyInResponse",
    [MSG_COPY_OUT] = "CopyOutResponse",
    [MSG_DATA_ROW] = "DataRow",
    [MSG_EMPTY_QUERY] = "EmptyQueryResponse",
    [MSG_ERROR] = "ErrorResponse",
    [MSG_FUNCTION_RESULT] = "FunctionCallResponse",
    [MSG_KEY_DATA] = "BackendKeyData",
    [MSG_NEGOTIATE_VERSION] = "NegotiateProtocolVersion",
    [MSG_NO_DATA] = "NoData",
    [MSG_NOTICE] = "NoticeResponse",
    [MSG_NOTIFICATION] = "NotificationResponse",
    [MSG_PARAMETER_DESCRIPTION] = "ParameterDescription",
    [MSG_PARAMETER_STATUS] = "ParameterStatus",
    [MSG_PARSE_COMPLETE] = "ParseComplete",
    [MSG_PORTAL_SUSPENDED] = "PortalSuspended",
    [MSG_READY] = "ReadyForQuery",
    [MSG_ROW_DESCRIPTION] = "RowDescription",
};

const char *
message_name(uint8_t type, bool is_from_client)
{
    const char *name = is_from_client ? names_from_client[type] : names_from_backend[type];

    return name == NULL ? "unknown" : name;
}

/* --- Reading --- */

struct reader
reader_over(const uint8_t *data, size_t len)
{
    static const uint8_t nothing[1];

    if (len == 0) {
        data = nothing; /* so that NULL with length 0 needs no care below */
    }
    return (struct reader){.at = data, .end = data + len};
}

/* The next len bytes, or NULL when they are not all there. */
static const uint8_t *
take(struct reader *reader, size_t len)
{
    if (reader->is_bad || len > reader_left(reader)) {
        reader->is_bad = true;
        return NULL;
    }
    const uint8_t *at = reader->at;
    reader->at += len;
    return at;
}

uint8_t
reader_u8(struct reader *reader)
{
    const uint8_t *at = take(reader, 1);

    return at == NULL ? 0 : at[0];
}

uint16_t
reader_u16(struct reader *reader)
{
    const uint8_t *at = take(reader, 2);

    return at == NULL ? 0 : (uint16_t)(at[0] << 8 | at[1]);
}

uint32_t
reader_u32(struct reader *reader)
{
    const uint8_t *at = take(reader, 4);

    return at == NULL ? 0 : message_u32(at);
}

const char *
reader_string(struct reader *reader)
{
    const uint8_t *zero = reader->is_bad ? NULL : memchr(reader->at, 0, reader_left(reader));

    if (zero == NULL) {
        reader->is_bad = true;
        return "";
    }
    return (const char *)take(reader, (size_t)(zero - reader->at) + 1);
}

const uint8_t *
reader_bytes(struct reader *reader, size_t len)
{
    return take(reader, len);
}

/* --- Errors --- */

static const char **
field_of(struct error_fields *fields, uint8_t type)
{
    switch (type) {
    case 'V':
        return &fields->severity;
    case 'C':
        return &fields->sqlstate;
    case 'M':
        return &fields->message;
    case 'D':
        return &fields->detail;
    case 'H':
        return &fields->hint;
    case 'R':
        return &fields->routine;
    default:
        return NULL;
    }
}

bool
message_add_columns(struct buf *buf, const struct message *message, bool is_whole)
{
    struct reader reader = reader_over(message->body, is_whole ? message->body_len : 0);

    if (message->type == MSG_NO_DATA) {
        return true;
    }
    unsigned count = reader_u16(&reader);
    for (unsigned i = 0; i < count && !reader.is_bad; i++) {
        buf_add_string(buf, reader_string(&reader));
        reader_bytes(&reader, 4 + 2); /* table and its column */
        buf_add_u32(buf, reader_u32(&reader));
        reader_bytes(&reader, 2); /* size of the type */
        buf_add_u32(buf, reader_u32(&reader));
        reader_bytes(&reader, 2); /* format */
    }
    return is_whole && reader_is_done(&reader);
}

bool
message_parse_error(const uint8_t *body, size_t len, struct error_fields *out)
{
    struct reader reader = reader_over(body, len);
    const char *localized = "";
    uint8_t type;

    *out = (struct error_fields){"", "", "", "", "", ""};
    while ((type = reader_u8(&reader)) != 0) {
        const char *value = reader_string(&reader);
        const char **field = type == 'S' ? &localized : field_of(out, type);
        if (field != NULL && (*field)[0] == '\0') {
            *field = value;
        }
    }
    if (out->severity[0] == '\0') {
        out->severity = localized;
    }
    return reader_is_done(&reader);
}

/* As much as fits, without half a UTF-8 character at the end; in a single-byte encoding that drops
 * at most three letters of a text that is cut anyway. */
static void
copy_cut(char *to, size_t size, const char *from)
{
    size_t len = strlen(from);

    if (len >= size) {
        len = size - 1;
        for (int i = 0; i < 3 && len > 0 && ((uint8_t)from[len] & 0xC0) == 0x80; i++) {
            len--;
        }
    }
    memcpy(to, from, len);
    to[len] = '\0';
}

/* Five characters, digits and capital letters (documentation, appendix A). */
static bool
is_sqlstate(const char *text)
{
    return strlen(text) == 5 && strspn(text, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5;
}

bool
message_error_to_fail(const struct error_fields *fields, struct fail *fail)
{
    memset(fail, 0, sizeof(*fail));
    memcpy(fail->sqlstate, is_sqlstate(fields->sqlstate) ? fields->sqlstate : "XX000", 6);
    copy_cut(fail->text, sizeof(fail->text),
        fields->message[0] != '\0' ? fields->message : "error without a message");
    copy_cut(fail->detail, sizeof(fail->detail), fields->detail);
    fail->is_verbatim = true;
    return false;
}

/* --- Making --- */

size_t
message_begin(struct buf *buf, uint8_t type)
{
    size_t begin = buf_len(buf);

    buf_add_u8(buf, type);
    buf_add_u32(buf, 0);
    return begin;
}

void
message_end(struct buf *buf, size_t begin)
{
    size_t len = buf_len(buf) - begin - 1;

    ensure(len <= INT32_MAX);
    buf_patch_u32(buf, begin + 1, (uint32_t)len);
}

void
message_add_simple(struct buf *buf, uint8_t type)
{
    message_end(buf, message_begin(buf, type));
}

static void
add_field(struct buf *buf, uint8_t type, const char *value)
{
    if (value != NULL && value[0] != '\0') {
        buf_add_u8(buf, type);
        buf_add_string(buf, value);
    }
}

void
message_add_fields(struct buf *buf, uint8_t type, const struct error_fields *fields)
{
    size_t begin = message_begin(buf, type);

    add_field(buf, 'S', fields->severity);
    add_field(buf, 'V', fields->severity);
    add_field(buf, 'C', fields->sqlstate);
    add_field(buf, 'M', fields->message);
    add_field(buf, 'D', fields->detail);
    add_field(buf, 'H', fields->hint);
    buf_add_u8(buf, 0);
    message_end(buf, begin);
}

void
message_add_error(struct buf *buf, const char *severity, const struct fail *fail)
{
    struct error_fields fields = {severity, fail->sqlstate, fail->text, fail->detail, "", ""};

    message_add_fields(buf, MSG_ERROR, &fields);
}

void
message_add_notice(struct buf *buf, const char *severity, const struct fail *fail)
{
    struct error_fields fields = {severity, fail->sqlstate, fail->text, fail->detail, "", ""};

    message_add_fields(buf, MSG_NOTICE, &fields);
}

void
message_add_ready(struct buf *buf, char status)
{
    size_t begin = message_begin(buf, MSG_READY);

    buf_add_u8(buf, (uint8_t)status);
    message_end(buf, begin);
}

void
message_add_parameter(struct buf *buf, const char *name, const char *value)
{
    size_t begin = message_begin(buf, MSG_PARAMETER_STATUS);

    buf_add_string(buf, name);
    buf_add_string(buf, value);
    message_end(buf, begin);
}

void
message_add_key(struct buf *buf, uint32_t pid, const void *key, size_t len)
{
    size_t begin = message_begin(buf, MSG_KEY_DATA);

    buf_add_u32(buf, pid);
    buf_add(buf, key, len);
    message_end(buf, begin);
}

void
message_add_auth(struct buf *buf, enum message_auth code, const void *data, size_t len)
{
    size_t begin = message_begin(buf, MSG_AUTHENTICATION);

    buf_add_u32(buf, (uint32_t)code);
    buf_add(buf, data, len);
    message_end(buf, begin);
}

void
message_add_auth_sasl(struct buf *buf, const char *const *mechanisms)
{
    size_t begin = message_begin(buf, MSG_AUTHENTICATION);

    buf_add_u32(buf, AUTH_SASL);
    for (; *mechanisms != NULL; mechanisms++) {
        buf_add_string(buf, *mechanisms);
    }
    buf_add_u8(buf, 0);
    message_end(buf, begin);
}

void
message_add_command_complete(struct buf *buf, const char *tag)
{
    size_t begin = message_begin(buf, MSG_COMMAND_COMPLETE);

    buf_add_string(buf, tag);
    message_end(buf, begin);
}

void
message_add_query(struct buf *buf, const char *sql)
{
    size_t begin = message_begin(buf, MSG_QUERY);

    buf_add_string(buf, sql);
    message_end(buf, begin);
}

void
message_add_negotiate_version(
    struct buf *buf, uint16_t minor, const char *const *names, size_t count)
{
    size_t begin = message_begin(buf, MSG_NEGOTIATE_VERSION);

    /* The documentation says minor version; PostgreSQL sends, and libpq expects, the whole one. */
    buf_add_u32(buf, 3U << 16 | minor);
    buf_add_u32(buf, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        buf_add_string(buf, names[i]);
    }
    message_end(buf, begin);
}

void
message_add_no_parameters(struct buf *buf)
{
    size_t begin = message_begin(buf, MSG_PARAMETER_DESCRIPTION);

    buf_add_u16(buf, 0);
    message_end(buf, begin);
}

/* pg_type.typlen: -1 is of variable length. */
static uint16_t
size_of_type(enum message_oid type)
{
    switch (type) {
    case OID_INT4:
        return 4;
    case OID_INT8:
        return 8;
    case OID_TEXT:
    case OID_BYTEA:
    case OID_NUMERIC:
        break;
    }
    return (uint16_t)-1;
}

void
message_add_row_description(
    struct buf *buf, const struct message_column *columns, uint16_t count, bool is_binary)
{
    size_t begin = message_begin(buf, MSG_ROW_DESCRIPTION);

    buf_add_u16(buf, count);
    for (uint16_t i = 0; i < count; i++) {
        buf_add_string(buf, columns[i].name);
        buf_add_u32(buf, 0); /* of no table */
        buf_add_u16(buf, 0); /* so of no column */
        buf_add_u32(buf, (uint32_t)columns[i].type);
        buf_add_u16(buf, size_of_type(columns[i].type));
        buf_add_u32(buf, (uint32_t)-1); /* no type modifier */
        buf_add_u16(buf, is_binary ? 1 : 0);
    }
    message_end(buf, begin);
}

size_t
message_begin_row(struct buf *buf, uint16_t count)
{
    size_t begin = message_begin(buf, MSG_DATA_ROW);

    buf_add_u16(buf, count);
    return begin;
}

void
message_row_text(struct buf *buf, const char *value)
{
    if (value == NULL) {
        buf_add_u32(buf, (uint32_t)-1);
        return;
    }
    size_t len = strlen(value);
    buf_add_u32(buf, (uint32_t)len);
    buf_add(buf, value, len);
}

void
message_row_integer(struct buf *buf, int64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRId64, value);
    message_row_text(buf, text);
}
