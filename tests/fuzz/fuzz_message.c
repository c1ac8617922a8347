/* A stream of messages: framing, errors, and a reader that is asked for anything. */
#include "wire/message.h"

#include "base/buf.h"
#include "base/state.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What came in as an error goes out as one with the same words. */
static void
check_error(const struct message *message)
{
    struct error_fields fields;
    struct error_fields again;
    struct message made;
    struct fail fail;
    struct buf buf = {0};

    bool is_good = message_parse_error(message->body, message->body_len, &fields);
    ensure(!message_error_to_fail(&fields, &fail) && strlen(fail.sqlstate) == 5);
    ensure(fail.text[0] != '\0');
    message_add_fields(&buf, MSG_ERROR, &fields);
    ensure(message_peek(buf_head(&buf), buf_len(&buf), &made) == MESSAGE_OK);
    ensure(made.len == buf_len(&buf));
    ensure(message_parse_error(made.body, made.body_len, &again));
    ensure(!is_good || strcmp(fields.severity, again.severity) == 0);
    ensure(strcmp(fields.sqlstate, again.sqlstate) == 0);
    ensure(strcmp(fields.message, again.message) == 0);
    ensure(strcmp(fields.detail, again.detail) == 0);
    ensure(strcmp(fields.hint, again.hint) == 0);
    buf_deinit(&buf);
}

/* The body says itself what is read from it. */
static void
check_reader(const struct message *message)
{
    struct reader reader = reader_over(message->body, message->body_len);
    const uint8_t *end = message->body + message->body_len;

    while (!reader.is_bad) {
        uint8_t what = reader_u8(&reader);
        const uint8_t *bytes;
        switch (what % 4) {
        case 0:
            (void)reader_u16(&reader);
            break;
        case 1:
            (void)reader_u32(&reader);
            break;
        case 2:
            ensure(strlen(reader_string(&reader)) <= message->body_len);
            break;
        default:
            bytes = reader_bytes(&reader, what);
            ensure(bytes == NULL || bytes + what <= end);
            break;
        }
        ensure(reader.at <= end);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct message message;

    while (message_peek(data, size, &message) == MESSAGE_OK) {
        ensure(message.len >= MESSAGE_HEADER && message.body_len == message.len - MESSAGE_HEADER);
        ensure(message_name(message.type, true) != NULL);
        ensure(message_name(message.type, false) != NULL);
        if (!message_is_complete(&message, size)) {
            break;
        }
        check_error(&message);
        check_reader(&message);
        data += message.len;
        size -= message.len;
    }
    return 0;
}
