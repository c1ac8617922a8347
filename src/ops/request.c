/* Reading a request's head. Called by ops/http and ops/routes. */
#include "ops/request.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* A run of bytes within the head. */
struct run
{
    const char *at;
    size_t len;
};

static enum request_result
refuse(struct request *request, int status)
{
    request->status = status;
    return REQUEST_BAD;
}

/* The next line, without its end; false when there is none. */
static bool
next_line(struct run *head, struct run *line_out)
{
    const char *end = memchr(head->at, '\n', head->len);

    if (end == NULL) {
        return false;
    }
    *line_out = (struct run){head->at, (size_t)(end - head->at)};
    head->len -= line_out->len + 1;
    head->at = end + 1;
    if (line_out->len > 0 && line_out->at[line_out->len - 1] == '\r') {
        line_out->len--;
    }
    return true;
}

/* Takes what stands before the first such byte, and that byte, off the front; all of it when there
 * is none. */
static struct run
take_until(struct run *rest, char byte)
{
    const char *end = memchr(rest->at, byte, rest->len);
    struct run taken = {rest->at, end != NULL ? (size_t)(end - rest->at) : rest->len};
    size_t used = taken.len + (end != NULL);

    rest->at += used;
    rest->len -= used;
    return taken;
}

static bool
is_word(struct run run, const char *word)
{
    return run.len == strlen(word) && memcmp(run.at, word, run.len) == 0;
}

/* A copy with a zero byte at its end; false when it does not fit or holds what is not printable. */
static bool
copy(struct run run, char *to, size_t size)
{
    if (run.len >= size) {
        return false;
    }
    for (size_t i = 0; i < run.len; i++) {
        if (run.at[i] < ' ' || run.at[i] > '~') {
            return false;
        }
        to[i] = run.at[i];
    }
    to[run.len] = '\0';
    return true;
}

static int
read_first_line(struct run line, struct request *request)
{
    struct run method = take_until(&line, ' ');
    struct run target = take_until(&line, ' ');

    if (target.len == 0 || target.at[0] != '/' || memchr(line.at, ' ', line.len) != NULL) {
        return 400;
    }
    if (!is_word(line, "HTTP/1.1") && !is_word(line, "HTTP/1.0")) {
        return line.len > 5 && memcmp(line.at, "HTTP/", 5) == 0 ? 505 : 400;
    }
    request->is_head = is_word(method, "HEAD");
    if (!request->is_head && !is_word(method, "GET")) {
        return 405;
    }
    struct run path = take_until(&target, '?');
    if (path.len >= sizeof(request->path) || target.len >= sizeof(request->query)) {
        return 414;
    }
    return copy(path, request->path, sizeof(request->path)) &&
                   copy(target, request->query, sizeof(request->query))
               ? 0
               : 400;
}

static struct run
trimmed(struct run run)
{
    while (run.len > 0 && (*run.at == ' ' || *run.at == '\t')) {
        run.at++;
        run.len--;
    }
    while (run.len > 0 && (run.at[run.len - 1] == ' ' || run.at[run.len - 1] == '\t')) {
        run.len--;
    }
    return run;
}

static int
read_header(struct run line, struct request *request)
{
    static const char scheme[] = "Bearer ";
    struct run value = line;
    struct run name = take_until(&value, ':');

    if (name.len == 0 || name.len == line.len || isspace((unsigned char)name.at[name.len - 1]) ||
        isspace((unsigned char)name.at[0])) {
        return 400;
    }
    value = trimmed(value);
    if (name.len == 4 && strncasecmp(name.at, "Host", 4) == 0) {
        return request->host[0] == '\0' && copy(value, request->host, sizeof(request->host)) ? 0
                                                                                            : 400;
    }
    bool is_bearer = name.len == 13 && strncasecmp(name.at, "Authorization", 13) == 0 &&
                     value.len > strlen(scheme) &&
                     strncasecmp(value.at, scheme, strlen(scheme)) == 0;
    if (is_bearer) {
        struct run token = {value.at + strlen(scheme), value.len - strlen(scheme)};
        return copy(trimmed(token), request->bearer, sizeof(request->bearer)) ? 0 : 400;
    }
    return 0;
}

enum request_result
request_parse(const uint8_t *data, size_t len, struct request *request)
{
    struct run head = {(const char *)data, len < REQUEST_MAX ? len : REQUEST_MAX};
    struct run line;
    bool is_first = true;

    memset(request, 0, sizeof(*request));
    while (next_line(&head, &line)) {
        if (line.len == 0 && !is_first) {
            return REQUEST_OK;
        }
        int status = is_first ? read_first_line(line, request) : read_header(line, request);
        if (status != 0) {
            return refuse(request, status);
        }
        is_first = false;
    }
    return len >= REQUEST_MAX ? refuse(request, is_first ? 414 : 431) : REQUEST_MORE;
}

/* ---- the query ---- */

static int
hex_digit(char c)
{
    return c >= '0' && c <= '9'                ? c - '0'
           : isxdigit((unsigned char)c) != 0 ? tolower((unsigned char)c) - 'a' + 10
                                               : -1;
}

static bool
decode(struct run run, char *value, size_t size)
{
    size_t len = 0;

    for (size_t i = 0; i < run.len; i++) {
        int byte = run.at[i] == '+' ? ' ' : run.at[i];
        if (byte == '%') {
            bool is_whole = i + 2 < run.len;
            int high = is_whole ? hex_digit(run.at[i + 1]) : -1;
            int low = is_whole ? hex_digit(run.at[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return false;
            }
            byte = high * 16 + low;
            i += 2;
        }
        if (byte == 0 || len + 1 >= size) {
            return false;
        }
        value[len++] = (char)byte;
    }
    value[len] = '\0';
    return len > 0;
}

bool
request_parameter(const struct request *request, const char *name, char *value, size_t size)
{
    struct run rest = {request->query, strlen(request->query)};

    while (rest.len > 0) {
        struct run pair = take_until(&rest, '&');
        if (is_word(take_until(&pair, '='), name)) {
            return decode(pair, value, size);
        }
    }
    return false;
}
