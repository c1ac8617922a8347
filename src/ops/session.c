/* The console's extended protocol. Called by ops/console; calls ops/commands to describe. */
#include "ops/session.h"

#include "base/mem.h"
#include "ops/commands.h"
#include "ops/show.h"

static struct prepared *
find_prepared(struct session *session, const char *name)
{
    for (int i = 0; i < STATEMENTS_MAX; i++) {
        if (session->prepared[i].name != NULL && strcmp(session->prepared[i].name, name) == 0) {
            return &session->prepared[i];
        }
    }
    return NULL;
}

static void
forget(struct prepared *prepared)
{
    free(prepared->name);
    free(prepared->sql);
    *prepared = (struct prepared){NULL, NULL};
}

bool
session_parse(struct session *session, struct reader *reader, struct buf *buf, struct fail *fail)
{
    const char *name = reader_string(reader);
    const char *sql = reader_string(reader);
    struct prepared *prepared = find_prepared(session, name);

    if (reader->is_bad) {
        return fail_set(fail, "08P01", "invalid Parse message");
    }
    if (prepared != NULL) {
        forget(prepared);
    }
    for (int i = 0; i < STATEMENTS_MAX && prepared == NULL; i++) {
        prepared = session->prepared[i].name == NULL ? &session->prepared[i] : NULL;
    }
    if (prepared == NULL) {
        return fail_set(
            fail, "53000", "at most %d prepared statements on the console", STATEMENTS_MAX);
    }
    prepared->name = mem_string(name);
    prepared->sql = mem_string(sql);
    message_add_simple(buf, MSG_PARSE_COMPLETE);
    return true;
}

bool
session_bind(struct session *session, struct reader *reader, struct buf *buf, struct fail *fail)
{
    (void)reader_string(reader); /* the portal's name: there is one */
    const struct prepared *prepared = find_prepared(session, reader_string(reader));
    uint16_t formats = reader_u16(reader);

    reader_bytes(reader, (size_t)formats * 2);
    uint16_t values = reader_u16(reader);
    if (values > 0 && !reader->is_bad) {
        return fail_set(fail, "08P01", "console statements take no parameters");
    }
    uint16_t results = reader_u16(reader);
    bool is_binary = false;
    for (uint16_t i = 0; i < results; i++) {
        is_binary = reader_u16(reader) == 1 || is_binary;
    }
    if (reader->is_bad) {
        return fail_set(fail, "08P01", "invalid Bind message");
    }
    if (prepared == NULL) {
        return fail_set(fail, "26000", "prepared statement does not exist");
    }
    free(session->portal);
    session->portal = mem_string(prepared->sql);
    session->portal_binary = is_binary;
    message_add_simple(buf, MSG_BIND_COMPLETE);
    return true;
}

static bool
describe(const char *sql, bool is_admin, bool is_binary, struct buf *buf, struct fail *fail)
{
    struct statement statement;

    if (!statement_parse(sql, is_admin, &statement, fail)) {
        return false;
    }
    if (statement.action == ACTION_SHOW) {
        struct show_columns columns = show_columns(statement.show);
        message_add_row_description(buf, columns.columns, columns.count, is_binary);
    } else if (statement.action == ACTION_FAKE) {
        struct message_column column = {statement.fake_name, OID_TEXT};
        message_add_row_description(buf, &column, 1, is_binary);
    } else {
        message_add_simple(buf, MSG_NO_DATA);
    }
    return true;
}

bool
session_describe(struct session *session, bool is_admin, struct reader *reader, struct buf *buf,
    struct fail *fail)
{
    uint8_t what = reader_u8(reader);
    const struct prepared *prepared = find_prepared(session, reader_string(reader));
    const char *sql = what == 'S' && prepared != NULL ? prepared->sql : session->portal;

    if (reader->is_bad || sql == NULL || (what == 'S' && prepared == NULL)) {
        return fail_set(fail, "26000", "nothing of that name to describe");
    }
    if (what == 'S') {
        message_add_no_parameters(buf);
    }
    /* A statement does not know yet in which format its portals will be wanted. */
    return describe(sql, is_admin, what != 'S' && session->portal_binary, buf, fail);
}

bool
session_close_statement(struct session *session, struct reader *reader, struct buf *buf)
{
    uint8_t what = reader_u8(reader);
    struct prepared *prepared = find_prepared(session, reader_string(reader));

    if (what == 'S' && prepared != NULL) {
        forget(prepared);
    }
    message_add_simple(buf, MSG_CLOSE_COMPLETE);
    return true;
}

void
session_deinit(struct session *session)
{
    for (int i = 0; i < STATEMENTS_MAX; i++) {
        forget(&session->prepared[i]);
    }
    free(session->portal);
}
