/* Paths. Called by ops/http; calls ops/metrics and ops/status, asks daemon and pools for health. */
#include "ops/routes.h"

#include "conf/settings.h"
#include "daemon/daemon.h"
#include "ops/metrics.h"
#include "ops/page.h"
#include "ops/status.h"
#include "pool/pools.h"

#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>

enum
{
    HANGS_US = 5000000 /* a loop that has not run for so long does not live */
};

static const char plain[] = "text/plain; charset=utf-8";

static const struct
{
    int status;
    const char *text;
} statuses[] = {
    {200, "200 OK"},
    {400, "400 Bad Request"},
    {401, "401 Unauthorized"},
    {403, "403 Forbidden"},
    {404, "404 Not Found"},
    {405, "405 Method Not Allowed"},
    {414, "414 URI Too Long"},
    {431, "431 Request Header Fields Too Large"},
    {503, "503 Service Unavailable"},
    {505, "505 HTTP Version Not Supported"},
};

const char *
routes_status_text(int status)
{
    size_t i = 0;

    while (i < sizeof(statuses) / sizeof(statuses[0]) - 1 && statuses[i].status != status) {
        i++;
    }
    return statuses[i].text;
}

/* ---- health ---- */

static void
live(struct desk *desk, const struct request *request, struct answer *answer)
{
    int64_t now_us = loop_clock_us();
    int64_t main_us = loop_ticked_at_us(daemon_loop(desk->daemon));

    (void)request;
    if (now_us - main_us > HANGS_US) {
        answer->status = 503;
        buf_print(&answer->body, "the main loop hangs\n");
    }
    for (int i = 0; i < daemon_worker_count(desk->daemon); i++) {
        if (now_us - loop_ticked_at_us(daemon_crowd(desk->daemon, i)->pool.loop) > HANGS_US) {
            answer->status = 503;
            buf_print(&answer->body, "the loop of worker %d hangs\n", i);
        }
    }
    if (answer->status == 200) {
        buf_print(&answer->body, "ok\n");
    }
}

/* How the pools of one database stand. */
struct inquiry
{
    const char *database;
    bool is_first, has_pool, is_up, is_down;
    struct fail fail;
};

/* Nobody has a connection: the first pool opens one, so that the next inquiry hears what is true
 * now, and not when somebody last needed it. */
static void
rouse(void *arg, struct pool *pool)
{
    struct inquiry *inquiry = arg;

    if (!inquiry->is_first && strcmp(pool->database, inquiry->database) == 0) {
        inquiry->is_first = true;
        atomic_store_explicit(&pool->inquired_us, loop_clock_us(), memory_order_relaxed);
    }
}

static void
inquire(void *arg, struct pool *pool)
{
    struct inquiry *inquiry = arg;

    if (strcmp(pool->database, inquiry->database) != 0) {
        return;
    }
    struct outage outage = pool_outage(pool);
    inquiry->has_pool = true;
    inquiry->is_up |= atomic_load(&pool->live) > 0;
    inquiry->is_down |= outage.is_down;
    if (outage.is_down) {
        inquiry->fail = outage.fail;
    }
}

/* Names, and reasons with addresses in them, are not for everybody where there is a token; that
 * was checked. */
static void
ready_for(struct desk *desk, const char *database, struct answer *answer)
{
    struct inquiry inquiry = {.database = database};

    const struct survey *survey = desk->history.latest;

    if (survey != NULL && settings_find_database(survey->settings, database) == NULL) {
        answer->status = 404;
        buf_print(&answer->body, "no such database\n");
        return;
    }
    pools_each(daemon_pools(desk->daemon), inquire, &inquiry);
    if (inquiry.is_up || !inquiry.has_pool) {
        buf_print(&answer->body,
            inquiry.is_up ? "ok\n" : "ok; nobody has used this database so far\n");
        return;
    }
    pools_each(daemon_pools(desk->daemon), rouse, &inquiry);
    answer->status = 503;
    if (inquiry.is_down) {
        buf_print(&answer->body, "down: %s\n", inquiry.fail.text);
    } else {
        buf_print(&answer->body, "connecting\n");
    }
}

static void
ready(struct desk *desk, const struct request *request, struct answer *answer)
{
    char database[256];

    if (!daemon_is_serving(desk->daemon)) {
        answer->status = 503;
        buf_print(&answer->body, "shutting down\n");
    } else if (request_parameter(request, "db", database, sizeof(database))) {
        ready_for(desk, database, answer);
    } else if (request->query[0] != '\0') {
        answer->status = 400;
        buf_print(&answer->body, "the one parameter is db\n");
    } else {
        buf_print(&answer->body, "ok\n");
    }
}

/* ---- numbers ---- */

static void
metrics(struct desk *desk, const struct request *request, struct answer *answer)
{
    (void)request;
    answer->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_print(&answer->body, desk->daemon, desk->history.latest);
}

static void
status(struct desk *desk, const struct request *request, struct answer *answer)
{
    char since[24] = "0";

    answer->type = "application/json";
    (void)request_parameter(request, "since", since, sizeof(since));
    status_print(&answer->body, desk->daemon, &desk->history, strtoll(since, NULL, 10));
}

/* ---- the page ---- */

/* Only the page's own script and style run, by a number that nobody can guess. Whatever a name
 * might smuggle in does not have it. */
static void
page(struct desk *desk, const struct request *request, struct answer *answer)
{
    static const char mark[] = "@@@@the-nonce@@@";
    uint64_t random;
    char nonce[sizeof(mark)];
    const uint8_t *at = page_html, *end = page_html_end, *found;

    (void)desk;
    (void)request;
    if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
        answer->status = 503;
        return;
    }
    snprintf(nonce, sizeof(nonce), "%016llx", (unsigned long long)random);
    while ((found = memmem(at, (size_t)(end - at), mark, strlen(mark))) != NULL) {
        buf_add(&answer->body, at, (size_t)(found - at));
        buf_add(&answer->body, nonce, strlen(nonce));
        at = found + strlen(mark);
    }
    buf_add(&answer->body, at, (size_t)(end - at));
    answer->type = "text/html; charset=utf-8";
    snprintf(answer->headers, sizeof(answer->headers),
        "Content-Security-Policy: default-src 'none'; script-src 'nonce-%s'; "
        "style-src 'nonce-%s'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'\r\n",
        nonce, nonce);
}

/* ---- the table ---- */

/* The page holds no numbers, it asks for them; health is for those who have no token to give. */
static const struct route
{
    const char *path;
    bool needs_token;       /* where there is one */
    bool query_needs_token; /* with parameters only */
    void (*answer)(struct desk *desk, const struct request *request, struct answer *answer);
} routes[] = {
    {"/", false, false, page},
    {"/metrics", true, true, metrics},
    {"/status.json", true, true, status},
    {"/livez", false, false, live},
    {"/readyz", false, true, ready},
};

static const struct route *
find_route(const char *path)
{
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        if (strcmp(routes[i].path, path) == 0) {
            return &routes[i];
        }
    }
    return NULL;
}

/* In a time that does not tell how much of it was right. */
static bool
is_same(const char *given, const char *token)
{
    size_t len = strlen(token);
    bool is_as_long = strlen(given) == len;
    unsigned different = !is_as_long;

    for (size_t i = 0; i < len; i++) {
        different |= (unsigned char)given[is_as_long ? i : 0] ^ (unsigned char)token[i];
    }
    return different == 0;
}

static bool
may_ask(const struct desk *desk, const struct route *route, const struct request *request)
{
    bool is_needed = route->needs_token || (route->query_needs_token && request->query[0] != '\0');

    return desk->token[0] == '\0' || !is_needed || is_same(request->bearer, desk->token);
}

/* A page of another site can make a browser ask us, under a name of its own that leads to the
 * loopback. Numbers and "localhost" nobody else can own. */
static bool
is_own_name(const char *host)
{
    size_t name_len = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    size_t last = name_len;

    if (host[0] == '[' || host[0] == '\0' ||
        (name_len == 9 && strncasecmp(host, "localhost", 9) == 0)) {
        return true;
    }
    while (last > 0 && host[last - 1] != '.') {
        last--;
    }
    return strspn(host + last, "0123456789") == name_len - last && name_len > last;
}

static void
refuse(struct answer *answer, int status_code)
{
    answer->status = status_code;
    buf_print(&answer->body, "%s\n", routes_status_text(status_code));
    snprintf(answer->headers, sizeof(answer->headers), "%s",
        status_code == 401   ? "WWW-Authenticate: Bearer\r\n"
        : status_code == 405 ? "Allow: GET, HEAD\r\n"
                             : "");
}

void
routes_answer(struct desk *desk, const struct request *request, struct answer *answer)
{
    const struct route *route = find_route(request->path);

    *answer = (struct answer){.status = 200, .type = plain};
    if (request->status != 0) {
        refuse(answer, request->status);
    } else if (desk->is_local && desk->token[0] == '\0' && !is_own_name(request->host)) {
        refuse(answer, 403);
    } else if (route == NULL) {
        refuse(answer, 404);
    } else if (!may_ask(desk, route, request)) {
        refuse(answer, 401);
    } else {
        route->answer(desk, request, answer);
    }
}
