/*
 * The first packet of a client. Called by client/login with what arrived so far; calls nothing but
 * message and buf. Reasons are in PostgreSQL's words (its backend_startup.c), since drivers and
 * people know them.
 */
#include "wire/startup.h"

#include "base/buf.h"
#include "base/mem.h"
#include "wire/message.h"

#include <ctype.h>
#include <string.h>

enum
{
    PREFIX_LEN = 8,           /* length word and version or request code */
    MAJOR_OF_REQUESTS = 1234, /* no protocol will ever have this version */
    REQUEST_CANCEL = 5678,
    REQUEST_SSL = 5679,
    REQUEST_GSS = 5680,
    CANCEL_HEADER = PREFIX_LEN + 4,
    PROTOCOL_MAJOR = 3,
};

static enum startup_result
bad(struct fail *fail, const char *text)
{
    (void)fail_set(fail, "08P01", "%s", text);
    return STARTUP_BAD;
}

/* Names starting so ask for protocol extensions (documentation, "Protocol versions"). */
static bool
is_extension(const char *name)
{
    return strncmp(name, "_pq_.", 5) == 0;
}

/* Where to keep the value of a parameter that is not a run-time setting; NULL for settings. */
static const char **
member_of(struct startup *startup, const char *name)
{
    if (strcmp(name, "user") == 0) {
        return &startup->user;
    }
    if (strcmp(name, "database") == 0) {
        return &startup->database;
    }
    if (strcmp(name, "replication") == 0) {
        return &startup->replication;
    }
    if (strcmp(name, "options") == 0) {
        return &startup->options;
    }
    return NULL;
}

/* One name and its value. False at the terminator and when there is neither. */
static bool
next_pair(struct reader *reader, const char **name_out, const char **value_out)
{
    if (reader->is_bad || reader_left(reader) == 0) {
        return false;
    }
    *name_out = reader_string(reader);
    if (reader->is_bad || (*name_out)[0] == '\0') {
        return false;
    }
    *value_out = reader_string(reader);
    return !reader->is_bad;
}

static enum startup_result
parse_login(const uint8_t *data, struct startup *out, struct fail *fail)
{
    struct reader reader = reader_over(data + PREFIX_LEN, out->packet_len - PREFIX_LEN);
    const char *name = NULL;
    const char *value;

    out->params = reader.at;
    out->params_len = (uint32_t)reader_left(&reader);
    while (next_pair(&reader, &name, &value)) {
        const char **member = member_of(out, name);
        if (member != NULL) {
            *member = value;
        } else if (is_extension(name)) {
            out->unknown_count++;
        }
    }
    /* The loop ended well only by taking the empty name, which has to be the last byte. */
    if (!reader_is_done(&reader) || name == NULL || name[0] != '\0') {
        return bad(fail, "invalid startup packet layout: expected terminator as last byte");
    }
    if (out->user == NULL || out->user[0] == '\0') {
        (void)fail_set(fail, "28000", "no PostgreSQL user name specified in startup packet");
        return STARTUP_BAD;
    }
    if (out->database == NULL || out->database[0] == '\0') {
        out->database = out->user;
    }
    return STARTUP_LOGIN;
}

bool
startup_is_cancel(const uint8_t *data, size_t len)
{
    return len >= PREFIX_LEN && message_u32(data + 4) == (MAJOR_OF_REQUESTS << 16 | REQUEST_CANCEL);
}

static enum startup_result
parse_cancel(const uint8_t *data, struct startup *out, struct fail *fail)
{
    if (out->packet_len < CANCEL_HEADER + STARTUP_CANCEL_KEY_MIN ||
        out->packet_len > CANCEL_HEADER + STARTUP_CANCEL_KEY_MAX) {
        return bad(fail, "invalid length of cancel request packet");
    }
    out->cancel_pid = message_u32(data + PREFIX_LEN);
    out->cancel_key = data + CANCEL_HEADER;
    out->cancel_key_len = out->packet_len - CANCEL_HEADER;
    return STARTUP_CANCEL;
}

/* What can be said from the first eight bytes alone; a login or cancel request may still be
 * incomplete. */
static enum startup_result
parse_prefix(const uint8_t *data, struct startup *out, struct fail *fail)
{
    uint32_t code = message_u32(data + 4);
    unsigned major = code >> 16;
    unsigned minor = code & 0xFFFF;

    out->packet_len = message_u32(data);
    if (out->packet_len < PREFIX_LEN || out->packet_len > STARTUP_LIMIT) {
        return bad(fail, "invalid length of startup packet");
    }
    if (major == MAJOR_OF_REQUESTS && minor == REQUEST_CANCEL) {
        return STARTUP_CANCEL;
    }
    if (major == MAJOR_OF_REQUESTS && (minor == REQUEST_SSL || minor == REQUEST_GSS)) {
        if (out->packet_len != PREFIX_LEN) {
            return bad(fail, "invalid length of startup packet");
        }
        return minor == REQUEST_SSL ? STARTUP_SSL : STARTUP_GSS;
    }
    if (major != PROTOCOL_MAJOR) {
        (void)fail_set(fail, "0A000",
            "unsupported frontend protocol %u.%u: server supports %u.0 to %u.%u", major, minor,
            PROTOCOL_MAJOR, PROTOCOL_MAJOR, STARTUP_MINOR);
        return STARTUP_BAD;
    }
    out->minor = (uint16_t)minor;
    return STARTUP_LOGIN;
}

enum startup_result
startup_parse(const uint8_t *data, size_t len, struct startup *out, struct fail *fail)
{
    memset(out, 0, sizeof(*out));
    if (len >= 4 && (message_u32(data) < PREFIX_LEN || message_u32(data) > STARTUP_LIMIT)) {
        return bad(fail, "invalid length of startup packet");
    }
    if (len < PREFIX_LEN) {
        return STARTUP_MORE;
    }
    enum startup_result result = parse_prefix(data, out, fail);
    if (result != STARTUP_LOGIN && result != STARTUP_CANCEL) {
        return result;
    }
    if (len < out->packet_len) {
        return STARTUP_MORE;
    }
    return result == STARTUP_LOGIN ? parse_login(data, out, fail) : parse_cancel(data, out, fail);
}

uint16_t
startup_minor(const struct startup *startup)
{
    return startup->minor < STARTUP_MINOR ? startup->minor : STARTUP_MINOR;
}

void
startup_add_negotiation(const struct startup *startup, struct buf *buf)
{
    struct reader reader = reader_over(startup->params, startup->params_len);
    size_t count = 0;
    const char *name;
    const char *value;

    if (startup->minor <= STARTUP_MINOR && startup->unknown_count == 0) {
        return;
    }
    const char **names = mem_new((startup->unknown_count + 1) * sizeof(*names));
    while (count < startup->unknown_count && next_pair(&reader, &name, &value)) {
        if (is_extension(name)) {
            names[count++] = name;
        }
    }
    message_add_negotiate_version(buf, startup_minor(startup), names, count);
    free(names);
}

bool
startup_next_param(
    const struct startup *startup, size_t *cursor, const char **name_out, const char **value_out)
{
    struct reader reader = reader_over(startup->params + *cursor, startup->params_len - *cursor);
    struct startup ignored;

    while (next_pair(&reader, name_out, value_out)) {
        if (member_of(&ignored, *name_out) == NULL && !is_extension(*name_out)) {
            *cursor = (size_t)(reader.at - startup->params);
            return true;
        }
    }
    return false;
}

/* --- options --- */

/* Takes the next word off *at and undoes its backslashes, into word (PostgreSQL's pg_split_opts).
 */
static bool
next_word(const char **at, char *word)
{
    const char *from = *at;

    while (isspace((unsigned char)*from)) {
        from++;
    }
    if (*from == '\0') {
        return false;
    }
    while (*from != '\0' && !isspace((unsigned char)*from)) {
        from += *from == '\\';
        if (*from != '\0') {
            *word++ = *from++;
        }
    }
    *word = '\0';
    *at = from;
    return true;
}

/* Reports "name=value"; dashes in the name are underscores (PostgreSQL's ParseLongOption). */
static bool
report_option(char *word, startup_option_fn *fn, void *arg)
{
    char *equals = strchr(word, '=');

    if (equals == NULL || equals == word) {
        return false;
    }
    *equals = '\0';
    for (char *c = word; *c != '\0'; c++) {
        *c = *c == '-' ? '_' : *c;
    }
    fn(arg, word, equals + 1);
    return true;
}

/* One word that is or begins an option; "-c" takes its argument from the word behind it. */
static bool
split_option(const char **at, char *word, startup_option_fn *fn, void *arg)
{
    if (strncmp(word, "--", 2) == 0) {
        return report_option(word + 2, fn, arg);
    }
    if (strncmp(word, "-c", 2) != 0) {
        return false;
    }
    if (word[2] != '\0') {
        return report_option(word + 2, fn, arg);
    }
    return next_word(at, word) && report_option(word, fn, arg);
}

bool
startup_split_options(const char *options, startup_option_fn *fn, void *arg)
{
    char *word = mem_new(strlen(options) + 1); /* no word is longer than all of them */
    bool is_good = true;

    while (is_good && next_word(&options, word)) {
        is_good = split_option(&options, word, fn, arg);
    }
    free(word);
    return is_good;
}
