/* What a client says to the console: statements, and messages of the extended protocol. */
#include "ops/commands.h"

#include "base/mem.h"
#include "base/state.h"
#include "ops/session.h"
#include "ops/show.h"

#include <ctype.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_fail(const struct fail *fail)
{
    ensure(strlen(fail->sqlstate) == 5 && fail->text[0] != '\0');
}

/* Admins may do all that others may, and letters mean the same in either case. */
static void
check_statement(const char *sql)
{
    struct console_statement statement, other;
    char *upper = mem_string(sql);
    struct fail fail, other_fail;

    for (char *at = upper; *at != '\0'; at++) {
        *at = (char)toupper((unsigned char)*at);
    }
    bool is_good = console_statement_parse(sql, false, &statement, &fail);
    bool is_good_for_admins = console_statement_parse(upper, true, &other, &other_fail);
    ensure(!is_good || (is_good_for_admins && other.action == statement.action));
    ensure(is_good_for_admins || is_good || strcmp(fail.sqlstate, "42501") == 0 ||
           strcmp(fail.sqlstate, other_fail.sqlstate) == 0);
    if (!is_good) {
        check_fail(&fail);
    } else if (statement.action != ACTION_EMPTY) {
        ensure(statement.tag[0] != '\0');
        ensure((statement.show != NULL) == (statement.action == ACTION_SHOW));
        ensure((statement.fake_name != NULL) == (statement.action == ACTION_FAKE));
    }
    free(upper);
}

static bool
take(struct session *session, const struct message *message, struct buf *buf, struct fail *fail)
{
    struct reader reader = reader_over(message->body, message->body_len);

    switch (message->type) {
    case MSG_PARSE:
        return session_parse(session, &reader, buf, fail);
    case MSG_BIND:
        return session_bind(session, &reader, buf, fail);
    case MSG_DESCRIBE:
        return session_describe(session, &reader, buf, fail);
    case MSG_CLOSE:
        return session_close_named(session, &reader, buf, fail);
    case MSG_EXECUTE: {
        const struct portal *portal = session_execute(session, &reader, fail);
        if (portal != NULL) {
            check_statement(portal->sql);
        }
        return portal != NULL;
    }
    case MSG_QUERY:
        check_statement(reader_string(&reader));
        return true;
    default:
        session_sync(session);
        return true;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct session *session = mem_new(sizeof(*session));
    struct message message, reply;
    char *text = mem_new(size + 1);

    session->is_admin = true;
    memcpy(text, data, size);
    check_statement(text);
    free(text);
    while (message_next(&data, &size, &message)) {
        struct buf buf = {0};
        struct fail fail = {.text = ""};
        if (!take(session, &message, &buf, &fail)) {
            check_fail(&fail);
        } else {
            const uint8_t *at = buf_head(&buf);
            size_t len = buf_len(&buf);
            while (message_next(&at, &len, &reply)) {
            }
            ensure(len == 0); /* whole messages */
        }
        buf_deinit(&buf);
    }
    session_deinit(session);
    free(session);
    return 0;
}
