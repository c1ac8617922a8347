/* The console's extended protocol. Called by ops/console; calls ops/commands to describe. */
#include "ops/session.h"

#include "base/mem.h"
#include "ops/commands.h"
#include "ops/show.h"

/* ---- what has a name ---- */

static struct console_prepared *
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
forget_prepared(struct console_prepared *prepared)
{
    free(prepared->name);
    free(prepared->sql);
    *prepared = (struct console_prepared){NULL, NULL};
}

static struct portal *
find_portal(struct session *session, const char *name)
{
    for (int i = 0; i < PORTALS_MAX; i++) {
        if (session->portals[i].name != NULL && strcmp(session->portals[i].name, name) == 0) {
            return &session->portals[i];
        }
    }
    return NULL;
}

static void
forget_portal(struct portal *portal)
{
    free(portal->name);
    free(portal->sql);
    *portal = (struct portal){NULL, NULL, 0};
}

static bool
no_such(const char *what, const char *name, struct fail *fail)
{
    bool is_portal = strcmp(what, "portal") == 0;

    return fail_set(fail, is_portal ? "34000" : "26000", "%s \"%.60s\" does not exist", what, name);
}

/* ---- Parse and Bind ---- */

bool
session_parse(struct session *session, struct reader *reader, struct buf *buf, struct fail *fail)
{
    const char *name = reader_string(reader);
    const char *sql = reader_string(reader);
    struct console_prepared *prepared = find_prepared(session, name);

    if (reader->is_bad) {
        return fail_set(fail, "08P01", "invalid Parse message");
    }
    if (prepared != NULL) {
        forget_prepared(prepared);
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

/* No code: all text; one: for all columns; else one for each column. */
static uint64_t
read_formats(struct reader *reader)
{
    uint16_t count = reader_u16(reader);
    uint64_t formats = 0;

    for (uint16_t i = 0; i < count; i++) {
        uint64_t is_binary = reader_u16(reader) == 1 ? 1 : 0;
        formats |= i < FORMATS_MAX ? is_binary << i : 0;
    }
    return count == 1 && formats != 0 ? UINT64_MAX : formats;
}

bool
session_bind(struct session *session, struct reader *reader, struct buf *buf, struct fail *fail)
{
    const char *name = reader_string(reader);
    const char *statement = reader_string(reader);
    uint16_t parameters = reader_u16(reader);

    reader_bytes(reader, (size_t)parameters * 2);
    uint16_t values = reader_u16(reader);
    if (values > 0 && !reader->is_bad) {
        return fail_set(fail, "08P01", "console statements take no parameters");
    }
    uint64_t formats = read_formats(reader);
    const struct console_prepared *prepared = find_prepared(session, statement);
    if (reader->is_bad) {
        return fail_set(fail, "08P01", "invalid Bind message");
    }
    if (prepared == NULL) {
        return no_such("prepared statement", statement, fail);
    }
    struct portal *portal = find_portal(session, name);
    if (portal != NULL) {
        forget_portal(portal);
    }
    for (int i = 0; i < PORTALS_MAX && portal == NULL; i++) {
        portal = session->portals[i].name == NULL ? &session->portals[i] : NULL;
    }
    if (portal == NULL) {
        return fail_set(fail, "53000", "at most %d portals on the console", PORTALS_MAX);
    }
    *portal = (struct portal){mem_string(name), mem_string(prepared->sql), formats};
    message_add_simple(buf, MSG_BIND_COMPLETE);
    return true;
}

/* ---- Describe, Execute, Close ---- */

/* RowDescription with a format for each column (documentation, "Message Formats": the format code
 * is the last of a field's 18 bytes after its name). */
static void
add_columns(struct buf *buf, const struct message_column *columns, uint16_t count, uint64_t formats)
{
    size_t at = buf_len(buf) + MESSAGE_HEADER + 2;

    message_add_row_description(buf, columns, count, false);
    for (uint16_t i = 0; i < count; i++) {
        at += strlen(columns[i].name) + 1 + 18;
        buf_head(buf)[at - 1] = i < FORMATS_MAX ? (uint8_t)(formats >> i & 1) : 0;
    }
}

static bool
describe(const struct session *session, const char *sql, uint64_t formats, struct buf *buf,
    struct fail *fail)
{
    struct console_statement statement;

    if (!console_statement_parse(sql, session->is_admin, &statement, fail)) {
        return false;
    }
    if (statement.action == ACTION_SHOW) {
        struct show_columns columns = show_columns(statement.show, session->is_plain);
        add_columns(buf, columns.columns, columns.count, formats);
    } else if (statement.action == ACTION_FAKE) {
        struct message_column column = {statement.fake_name, OID_TEXT};
        add_columns(buf, &column, 1, formats);
    } else {
        message_add_simple(buf, MSG_NO_DATA);
    }
    return true;
}

bool
session_describe(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail)
{
    uint8_t what = reader_u8(reader);
    const char *name = reader_string(reader);

    if (reader->is_bad || (what != 'S' && what != 'P')) {
        return fail_set(fail, "08P01", "invalid Describe message");
    }
    if (what == 'S') {
        const struct console_prepared *prepared = find_prepared(session, name);
        if (prepared == NULL) {
            return no_such("prepared statement", name, fail);
        }
        message_add_no_parameters(buf);
        /* It does not know yet in which formats its portals will be wanted. */
        return describe(session, prepared->sql, 0, buf, fail);
    }
    const struct portal *portal = find_portal(session, name);
    if (portal == NULL) {
        return no_such("portal", name, fail);
    }
    return describe(session, portal->sql, portal->formats, buf, fail);
}

const struct portal *
session_execute(struct session *session, struct reader *reader, struct fail *fail)
{
    const char *name = reader_string(reader);

    (void)reader_u32(reader); /* most rows: all are sent at once */
    if (reader->is_bad) {
        fail_set(fail, "08P01", "invalid Execute message");
        return NULL;
    }
    const struct portal *portal = find_portal(session, name);
    if (portal == NULL) {
        no_such("portal", name, fail);
    }
    return portal;
}

bool
session_close_named(
    struct session *session, struct reader *reader, struct buf *buf, struct fail *fail)
{
    uint8_t what = reader_u8(reader);
    const char *name = reader_string(reader);

    if (reader->is_bad || (what != 'S' && what != 'P')) {
        return fail_set(fail, "08P01", "invalid Close message");
    }
    struct console_prepared *prepared = what == 'S' ? find_prepared(session, name) : NULL;
    struct portal *portal = what == 'P' ? find_portal(session, name) : NULL;
    if (prepared != NULL) {
        forget_prepared(prepared);
    }
    if (portal != NULL) {
        forget_portal(portal);
    }
    message_add_simple(buf, MSG_CLOSE_COMPLETE);
    return true;
}

/* ---- the end ---- */

void
session_sync(struct session *session)
{
    session->is_skipping = false;
    for (int i = 0; i < PORTALS_MAX; i++) {
        forget_portal(&session->portals[i]);
    }
}

void
session_deinit(struct session *session)
{
    for (int i = 0; i < STATEMENTS_MAX; i++) {
        forget_prepared(&session->prepared[i]);
    }
    session_sync(session);
}
