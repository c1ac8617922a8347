/* The first packet: any bytes, at once and as they would arrive. */
#include "wire/startup.h"

#include "base/buf.h"
#include "base/state.h"
#include "wire/message.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_option(void *arg, const char *name, const char *value)
{
    ensure(name[0] != '\0' && strchr(name, '=') == NULL);
    *(size_t *)arg += strlen(name) + strlen(value);
}

static void
check_login(const struct startup *startup)
{
    size_t cursor = 0;
    size_t total = 0;
    const char *name;
    const char *value;
    struct buf buf = {0};
    struct message message;

    ensure(startup->user[0] != '\0' && startup->database[0] != '\0');
    while (startup_next_param(startup, &cursor, &name, &value)) {
        ensure(cursor <= startup->params_len && name[0] != '\0');
        total += strlen(name) + strlen(value) + 2;
    }
    ensure(total < startup->params_len);

    startup_add_negotiation(startup, &buf);
    if (buf_len(&buf) > 0) {
        ensure(message_peek(buf_head(&buf), buf_len(&buf), &message) == MESSAGE_OK);
        ensure(message.len == buf_len(&buf) && message.type == MSG_NEGOTIATE_VERSION);
    }
    buf_deinit(&buf);

    size_t used = 0;
    if (startup->options != NULL && startup_split_options(startup->options, check_option, &used)) {
        ensure(used <= strlen(startup->options));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct startup startup;
    struct fail fail;
    enum startup_result result = startup_parse(data, size, &startup, &fail);

    if (result == STARTUP_BAD) {
        ensure(strlen(fail.sqlstate) == 5 && fail.text[0] != '\0');
        return 0;
    }
    if (result == STARTUP_MORE) {
        ensure(size < STARTUP_LIMIT);
        return 0;
    }
    ensure(startup.packet_len >= 8 && startup.packet_len <= size);
    if (result == STARTUP_LOGIN) {
        check_login(&startup);
    }
    if (result == STARTUP_CANCEL) {
        ensure(startup.cancel_key + startup.cancel_key_len == data + startup.packet_len);
    }
    /* One byte less is never a whole packet, and not a broken one either. */
    ensure(startup_parse(data, startup.packet_len - 1, &startup, &fail) == STARTUP_MORE);
    return 0;
}
