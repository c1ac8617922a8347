/*
 * Connections of the HTTP listener. Called by main.c; calls ops/routes for answers and ops/survey
 * for news. One request, one answer, then the connection ends:
 *
 *    READING ── a whole head, or a bad one ─► ANSWERING ── all is sent ─► LEAVING ─► closed
 *        └──────────────── too slow, or the peer is gone ──────────────────────────────┘
 *
 * What anybody can hold of us is bounded: VISITORS_MAX connections, each for some seconds, each
 * with the head of a request and one answer. Beyond that the oldest has to go.
 */
#include "ops/http.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "conf/settings.h"
#include "daemon/daemon.h"
#include "net/listen.h"
#include "net/stream.h"
#include "ops/routes.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum
{
    VISITORS_MAX = 64,
    READING_US = 5000000, /* for a whole head, however slowly it comes */
    ANSWERING_US = 15000000,
    SCRATCH_SIZE = 16384,
    TOKEN_MAX = 256,
    TICKS_PER_SURVEY = 5,
    LOOP_INDEX = -2 /* neither main nor a worker */
};

enum visitor_state
{
    VISITOR_READING,
    VISITOR_ANSWERING,
    VISITOR_LEAVING, /* told that nothing follows; its end is awaited */
};

struct visitor
{
    struct http *http; /* borrows */
    struct stream stream;
    struct deadline deadline;
    enum visitor_state state;
    TAILQ_ENTRY(visitor) link;
};

struct http
{
    struct loop *loop; /* owns */
    struct listener *listeners; /* owns */
    struct desk desk;
    char token[TOKEN_MAX];
    char address[300]; /* http_listen */
    struct daemon_lodger lodger;
    pthread_t thread;
    TAILQ_HEAD(, visitor) visitors; /* own; the oldest first */
    int visitor_count;
    int ticks;
    bool is_surveying; /* a survey is on its way */
};

/* ---- visitors ---- */

static void
free_visitor(void *arg)
{
    struct visitor *visitor = arg;
    int fd = visitor->stream.watch.fd;

    stream_deinit(&visitor->stream);
    close(fd);
    free(visitor);
}

static void
dismiss(struct visitor *visitor)
{
    struct http *http = visitor->http;

    deadline_stop(&visitor->deadline);
    watch_want(&visitor->stream.watch, 0);
    TAILQ_REMOVE(&http->visitors, visitor, link);
    http->visitor_count--;
    loop_bury(http->loop, free_visitor, visitor);
}

static void
on_overdue(struct deadline *deadline)
{
    struct visitor *visitor =
        (struct visitor *)((char *)deadline - offsetof(struct visitor, deadline));

    if (visitor->state == VISITOR_READING) {
        stats_add(METRIC_http_refused_total, 1);
    }
    dismiss(visitor);
}

/* Once all is sent our side is closed, and the peer's end awaited: closing at once could take the
 * answer's last bytes away. */
static void
flush(struct visitor *visitor)
{
    if (visitor->stream.is_write_broken) {
        dismiss(visitor);
    } else if (visitor->state == VISITOR_ANSWERING && stream_flush(&visitor->stream)) {
        visitor->state = VISITOR_LEAVING;
        stream_end(&visitor->stream);
    }
}

static void
answer(struct visitor *visitor, const struct request *request)
{
    struct answer answer;
    struct buf head = {0};

    routes_answer(&visitor->http->desk, request, &answer);
    stats_add(answer.status < 400 || answer.status == 503 ? METRIC_http_requests_total
                                                          : METRIC_http_refused_total,
        1);
    buf_print(&head,
        "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        "Referrer-Policy: no-referrer\r\n%s\r\n",
        routes_status_text(answer.status), answer.type, buf_len(&answer.body), answer.headers);
    if (!request->is_head) {
        buf_add(&head, buf_head(&answer.body), buf_len(&answer.body));
    }
    visitor->state = VISITOR_ANSWERING;
    deadline_start(&visitor->deadline, visitor->http->loop, ANSWERING_US, on_overdue);
    stream_write(&visitor->stream, buf_head(&head), buf_len(&head));
    buf_deinit(&head);
    buf_deinit(&answer.body);
    flush(visitor);
}

static void
take(struct visitor *visitor, const uint8_t *data, size_t len)
{
    struct request request;

    if (visitor->state != VISITOR_READING) {
        return; /* a body, or another request: we said that nothing follows */
    }
    if (request_parse(data, len, &request) == REQUEST_MORE) {
        stream_keep(&visitor->stream, data, len);
        return;
    }
    answer(visitor, &request);
}

static void
on_event(void *arg, unsigned what)
{
    struct visitor *visitor = arg;
    uint8_t *data;
    size_t len;

    if (what & WATCH_WRITE) {
        flush(visitor);
        return; /* what can be read comes up again */
    }
    switch (stream_read(&visitor->stream, &data, &len)) {
    case STREAM_OK:
        take(visitor, data, len);
        break;
    case STREAM_WAIT:
        break;
    case STREAM_EOF:
    case STREAM_ERROR:
        dismiss(visitor);
        break;
    }
}

static void
on_accepted(void *arg, const struct accepted *accepted)
{
    struct http *http = arg;
    struct visitor *visitor = mem_new(sizeof(*visitor));

    if (http->visitor_count >= VISITORS_MAX) {
        stats_add(METRIC_http_refused_total, 1);
        dismiss(TAILQ_FIRST(&http->visitors));
    }
    visitor->http = http;
    stream_init(&visitor->stream, accepted->fd, on_event, visitor);
    watch_attach(&visitor->stream.watch, http->loop);
    TAILQ_INSERT_TAIL(&http->visitors, visitor, link);
    http->visitor_count++;
    deadline_start(&visitor->deadline, http->loop, READING_US, on_overdue);
    stream_want_read(&visitor->stream, true);
}

/* ---- surveys ---- */

static void
on_survey(void *arg, struct survey *survey)
{
    struct http *http = arg;

    http->is_surveying = false;
    history_take(&http->desk.history, survey);
}

/* A worker that hangs keeps the survey; then the numbers grow old, and everything is answered all
 * the same. */
static void
on_tick(void *arg)
{
    struct http *http = arg;

    if (++http->ticks >= TICKS_PER_SURVEY && !http->is_surveying) {
        http->ticks = 0;
        http->is_surveying = true;
        survey_start(http->desk.daemon, http->loop, on_survey, http);
    }
}

/* ---- beginning and end ---- */

static bool
read_token(const struct settings *settings, char *token, struct fail *fail)
{
    const char *path = settings->http_token_file;

    if (path[0] == '\0' || settings->http_token[0] != '\0') {
        snprintf(token, TOKEN_MAX, "%s", settings->http_token);
        return strlen(settings->http_token) < TOKEN_MAX ||
               fail_set(fail, "58000", "http_token is longer than %d characters", TOKEN_MAX - 1);
    }
    FILE *file = fopen(path, "re");
    bool is_read = file != NULL && fgets(token, TOKEN_MAX, file) != NULL;
    if (file != NULL) {
        fclose(file);
    }
    token[is_read ? strcspn(token, "\r\n") : 0] = '\0';
    return token[0] != '\0' ||
           fail_set(fail, "58000", "could not read a token from http_token_file \"%s\"", path);
}

/* "127.0.0.1:9127", "[::1]:9127", "*:9127", or the port alone for the loopback. */
static bool
split_address(const char *text, char *host, size_t size, int *port_out)
{
    const char *colon = strrchr(text, ':');
    const char *digits = colon != NULL ? colon + 1 : text;
    size_t len = colon != NULL ? (size_t)(colon - text) : 0;

    if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    if (digits[0] == '\0' || strspn(digits, "0123456789") != strlen(digits) || len >= size ||
        strlen(digits) > 5) {
        return false;
    }
    memcpy(host, text, len);
    host[len] = '\0';
    if (len == 0) {
        snprintf(host, size, "127.0.0.1");
    }
    *port_out = (int)strtol(digits, NULL, 10);
    return *port_out > 0 && *port_out <= 65535;
}

static bool
open_listeners(void *arg, struct listener **inherited, struct fail *fail)
{
    struct http *http = arg;
    struct listen_options options = {
        .backlog = VISITORS_MAX, .unix_group = (gid_t)-1, .inherited = inherited};
    char host[256];
    int port;

    if (!split_address(http->address, host, sizeof(host), &port)) {
        return fail_set(
            fail, "58000", "http_listen is an address and a port, not \"%s\"", http->address);
    }
    if (!listen_tcp(&http->listeners, host, port, &options, fail)) {
        return false;
    }
    http->desk.is_local = true;
    for (struct listener *at = http->listeners; at != NULL; at = listen_next(at)) {
        const char *name = listen_name(at);
        bool is_local = strncmp(name, "127.", 4) == 0 || strncmp(name, "[::1]", 5) == 0;
        http->desk.is_local = http->desk.is_local && is_local;
    }
    return true;
}

static struct listener *
own_listeners(void *arg)
{
    struct http *http = arg;

    return http->listeners;
}

static void
on_leave(void *arg)
{
    struct http *http = arg;

    listen_close(&http->listeners);
}

/* In main: the thread runs until main is over. */
static void
leave(void *arg)
{
    struct http *http = arg;

    ensure(loop_post(http->loop, on_leave, http));
}

static void
on_stop(void *arg)
{
    loop_stop(arg);
}

void
http_free(struct http **pointer)
{
    struct http *http = *pointer;
    struct visitor *visitor;

    *pointer = NULL;
    if (http == NULL) {
        return;
    }
    if (http->desk.daemon != NULL) {
        ensure(loop_post(http->loop, on_stop, http->loop));
        pthread_join(http->thread, NULL);
    }
    while ((visitor = TAILQ_FIRST(&http->visitors)) != NULL) {
        dismiss(visitor);
    }
    listen_close(&http->listeners);
    loop_free(&http->loop);
    history_deinit(&http->desk.history);
    explicit_bzero(http->token, sizeof(http->token));
    free(http);
}

static void *
http_main(void *arg)
{
    struct http *http = arg;

    pthread_setname_np(pthread_self(), "http");
    stats_thread_init();
    listen_start(http->listeners, http->loop, on_accepted, http);
    loop_on_tick(http->loop, on_tick, http);
    loop_run(http->loop);
    stats_thread_deinit();
    return NULL;
}

/* In main. */
static void
start(void *arg, struct daemon *daemon)
{
    struct http *http = arg;

    for (struct listener *at = http->listeners; at != NULL; at = listen_next(at)) {
        log_info("metrics and status on http://%s/", listen_name(at));
    }
    if (!http->desk.is_local && http->token[0] == '\0') {
        log_warn("http_listen is open to the network, and there is no http_token: everybody who "
                 "can connect sees databases, users and addresses");
    }
    http->desk.daemon = daemon;
    ensure(pthread_create(&http->thread, NULL, http_main, http) == 0);
}

bool
http_new(const struct settings *settings, struct http **http_out, struct fail *fail)
{
    *http_out = NULL;
    if (settings->http_listen[0] == '\0') {
        return true;
    }
    struct http *http = mem_new(sizeof(*http));
    TAILQ_INIT(&http->visitors);
    http->loop = loop_new(LOOP_INDEX, SCRATCH_SIZE);
    http->desk.token = http->token;
    http->ticks = TICKS_PER_SURVEY;
    http->lodger = (struct daemon_lodger){open_listeners, own_listeners, start, leave, http};
    snprintf(http->address, sizeof(http->address), "%s", settings->http_listen);
    if (!read_token(settings, http->token, fail)) {
        http_free(&http);
        return false;
    }
    *http_out = http;
    return true;
}

const struct daemon_lodger *
http_lodger(const struct http *http)
{
    return http != NULL ? &http->lodger : NULL;
}
