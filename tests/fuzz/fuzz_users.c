/* userlist.txt of any bytes; and any name with any secret, quoted, is read as what it was. */
#include "conf/users.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/state.h"
#include "wire/scram.h"

#include <stdint.h>
#include <string.h>

enum
{
    NAME_MAX_LEN = 127,
    SECRET_MAX_LEN = 2047
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
report(void *arg, int line, const char *text)
{
    ensure(line > 0 && text[0] != '\0');
    *(size_t *)arg += 1;
}

/* Reads it alone; how many lines were wrong. */
static size_t
read_alone(const char *text, size_t len)
{
    struct users *users = users_new();
    size_t mistakes = 0;

    ensure(users_parse(users, text, len, report, &mistakes) == (mistakes == 0));
    users_free(&users);
    return mistakes;
}

/* No line says anything about another. */
static void
check_lines(const char *text, size_t len)
{
    const char *end = text + len;
    size_t lines = 0, sum = 0, mistakes = 0;
    struct users *users = users_new();

    ensure(users_parse(users, text, len, report, &mistakes) == (mistakes == 0));
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t line_len = (size_t)((newline != NULL ? newline : end) - text);
        char *exact = mem_new(line_len > 0 ? line_len : 1); /* reading beyond it is an error */
        memcpy(exact, text, line_len);
        sum += read_alone(exact, line_len);
        free(exact);
        text += line_len + (newline != NULL);
        lines++;
    }
    ensure(sum == mistakes && users_count(users) + mistakes <= lines);
    users_free(&users);
}

static void
add_quoted(struct buf *buf, const char *text)
{
    buf_add_u8(buf, '"');
    for (; *text != '\0'; text++) {
        buf_add(buf, "\"\"", *text == '"' ? 2 : 0);
        buf_add(buf, text, *text == '"' ? 0 : 1);
    }
    buf_add_u8(buf, '"');
}

static bool
is_damaged(const char *secret)
{
    struct scram_verifier verifier;

    return scram_is_verifier(secret) && !scram_verifier_parse(secret, &verifier);
}

static void
check_quoted(const char *name, const char *secret)
{
    struct users *users = users_new();
    struct buf line = {0};
    size_t mistakes = 0;
    bool fits = name[0] != '\0' && strlen(name) <= NAME_MAX_LEN &&
                strlen(secret) <= SECRET_MAX_LEN && !is_damaged(secret);

    add_quoted(&line, name);
    buf_add_u8(&line, ' ');
    add_quoted(&line, secret);
    const char *text = (const char *)buf_head(&line);
    ensure(users_parse(users, text, buf_len(&line), report, &mistakes) == fits);
    if (fits) {
        const struct user *user = users_find(users, name);
        ensure(user != NULL && strcmp(user->name, name) == 0 && strcmp(user->secret, secret) == 0);
        ensure(user->kind == users_kind(secret));
        ensure(users_have_verifiers(users) == (user->kind == SECRET_SCRAM));
    }
    buf_deinit(&line);
    users_free(&users);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_new(size + 1);

    memcpy(text, data, size);
    check_lines(text, size);
    char *secret = strchr(text, '\n');
    if (secret != NULL) {
        *secret++ = '\0';
        secret[strcspn(secret, "\n")] = '\0';
        check_quoted(text, secret);
    }
    free(text);
    return 0;
}
