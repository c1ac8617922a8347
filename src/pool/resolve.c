/*
 * DNS, asked again. Called by main's tick for each endpoint; a job resolves in a helper and is
 * posted back to main, which posts the answers to every worker that may hold backends there.
 */
#include "pool/resolve.h"

#include "base/buf.h"
#include "base/helpers.h"
#include "base/log.h"
#include "base/mem.h"
#include "conf/settings.h"
#include "pool/pools.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

enum
{
    ADDRESSES_MAX = 64 /* of all names of an endpoint; with more nothing is concluded */
};

struct resolution
{
    struct job job;
    struct pools *pools;            /* borrows */
    struct loop *loop;              /* borrows: main's */
    struct endpoint *endpoint;      /* borrows: endpoints stay until the end */
    char *addresses[ADDRESSES_MAX]; /* own; in order, no two are the same */
    int count;
    bool is_complete; /* every name had an answer */
};

/* What becomes of them: "10.0.0.1,10.0.0.2". */
static char *
join(const struct resolution *resolution)
{
    struct buf text = {0};

    for (int i = 0; i < resolution->count; i++) {
        buf_print(&text, "%s%s", i > 0 ? "," : "", resolution->addresses[i]);
    }
    buf_add_u8(&text, 0);
    return (char *)text.data;
}

static bool
is_address(const char *host)
{
    uint8_t address[16];

    return host[0] == '/' || host[0] == '@' || host[0] == '\0' ||
           inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

/* Copies the next host of a list; returns what follows, NULL at its end. */
static const char *
next_host(const char *hosts, char *host, size_t size)
{
    size_t len = strcspn(hosts, ",");

    snprintf(host, size, "%.*s", (int)len, hosts);
    return hosts[len] == ',' ? hosts + len + 1 : NULL;
}

static bool
has_names(const char *hosts)
{
    char host[NI_MAXHOST];
    bool found = false;

    while (hosts != NULL && !found) {
        hosts = next_host(hosts, host, sizeof(host));
        found = !is_address(host);
    }
    return found;
}

/* ---- in a helper ---- */

static void
add_answer(struct resolution *resolution, const char *address)
{
    int at = 0;

    while (at < resolution->count && strcmp(resolution->addresses[at], address) < 0) {
        at++;
    }
    if (at < resolution->count && strcmp(resolution->addresses[at], address) == 0) {
        return;
    }
    if (resolution->count == ADDRESSES_MAX) {
        resolution->is_complete = false;
        return;
    }
    memmove(resolution->addresses + at + 1, resolution->addresses + at,
        (size_t)(resolution->count - at) * sizeof(char *));
    resolution->addresses[at] = mem_string(address);
    resolution->count++;
}

static void
resolve_name(struct resolution *resolution, const char *host)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *all = NULL;
    char address[NI_MAXHOST];

    if (getaddrinfo(host, NULL, &hints, &all) != 0) {
        resolution->is_complete = false;
        return;
    }
    for (const struct addrinfo *at = all; at != NULL; at = at->ai_next) {
        if (getnameinfo(at->ai_addr, at->ai_addrlen, address, sizeof(address), NULL, 0,
                NI_NUMERICHOST) == 0) {
            add_answer(resolution, address);
        }
    }
    freeaddrinfo(all);
}

static void
resolution_free(struct job *job)
{
    struct resolution *resolution =
        (struct resolution *)((char *)job - offsetof(struct resolution, job));

    for (int i = 0; i < resolution->count; i++) {
        free(resolution->addresses[i]);
    }
    free(resolution);
}

/* ---- in the workers ---- */

/* Whether it is connected to one of these addresses, or over a unix socket. */
static bool
is_at(const struct backend *backend, const char *addresses)
{
    const char *host = backend_host(backend);
    size_t len = strlen(host);
    bool found = len == 0 || host[0] == '/' || host[0] == '@';

    while (!found && *addresses != '\0') {
        size_t next = strcspn(addresses, ",");
        found = next == len && memcmp(addresses, host, len) == 0;
        addresses += next + (addresses[next] == ',' ? 1 : 0);
    }
    return found;
}

static void
retire_strangers(struct pool_side *side, const char *addresses)
{
    struct backend *backend, *next;
    struct fail why;

    fail_set(&why, "57P01", "its address is no longer its server's");
    for (int state = 0; state < BACKEND_CLOSING; state++) {
        for (backend = TAILQ_FIRST(&side->in[state]); backend != NULL; backend = next) {
            next = TAILQ_NEXT(backend, link);
            if (is_at(backend, addresses)) {
                continue;
            }
            backend->duty.is_retired = true;
            /* One that was promised to another worker is looked at when it is asked for. */
            if (state == BACKEND_IDLE &&
                ledger_take_idle(&side->pool->ledger, side->worker->index)) {
                backend_close(backend, &why);
            }
        }
    }
}

/* The answers on their way to one side. */
struct eviction
{
    struct pool_side *side; /* holds its pool */
    char *addresses;        /* owns */
};

static void
on_eviction(void *arg)
{
    struct eviction *eviction = arg;

    retire_strangers(eviction->side, eviction->addresses);
    pools_part(eviction->side->pool);
    free(eviction->addresses);
    free(eviction);
}

/* ---- back in main ---- */

static void
visit_pool(void *arg, struct pool *pool)
{
    const struct endpoint *endpoint = arg;
    int workers = pool_endpoint(pool) == endpoint ? pools_count(pool->pools) : 0;

    for (int i = 0; i < workers; i++) {
        struct eviction *eviction = mem_new(sizeof(*eviction));
        eviction->side = &pool->sides[i];
        eviction->addresses = mem_string(endpoint->names.addresses);
        pool->holders++; /* under the registry's lock */
        if (!loop_post(eviction->side->worker->loop, on_eviction, eviction)) {
            pool->holders--;
            free(eviction->addresses);
            free(eviction);
        }
    }
}

static void
note_answers(struct endpoint *endpoint, char *addresses)
{
    char *old = endpoint->names.addresses;

    if (old == NULL) {
        log_info("addresses of %s are %s", endpoint->name, addresses);
    } else if (strcmp(old, addresses) != 0) {
        log_warn("addresses of %s changed from %s to %s", endpoint->name, old, addresses);
    }
    endpoint->names.addresses = addresses;
    free(old);
}

static void
on_resolved(void *arg)
{
    struct resolution *resolution = arg;
    struct endpoint *endpoint = resolution->endpoint;

    endpoint->names.is_pending = false;
    /* Without an answer nothing is known: backends that live are no worse than before. */
    if (resolution->is_complete && resolution->count > 0) {
        note_answers(endpoint, join(resolution));
        pools_each(resolution->pools, visit_pool, endpoint);
    }
    resolution_free(&resolution->job);
}

static void
resolution_run(struct job *job)
{
    struct resolution *resolution =
        (struct resolution *)((char *)job - offsetof(struct resolution, job));
    const char *hosts = resolution->endpoint->names.hosts;
    char host[NI_MAXHOST];

    resolution->is_complete = true;
    while (hosts != NULL && resolution->is_complete) {
        hosts = next_host(hosts, host, sizeof(host));
        if (is_address(host)) {
            add_answer(resolution, host);
        } else {
            resolve_name(resolution, host);
        }
    }
    if (!loop_post(resolution->loop, on_resolved, resolution)) {
        resolution_free(job);
    }
}

void
resolve_tick(struct pools *pools, struct endpoint *endpoint, int backends,
    const struct settings *settings, int64_t now_us)
{
    struct endpoint_names *names = &endpoint->names;

    if (backends == 0 || names->is_pending || now_us < names->after_us ||
        !has_names(names->hosts) || !endpoint_take_doubt(endpoint)) {
        return;
    }
    struct resolution *resolution = mem_new(sizeof(*resolution));

    names->is_pending = true;
    names->after_us = now_us + settings->pool_recreate_cooldown;
    resolution->pools = pools;
    resolution->loop = pools_main_loop(pools);
    resolution->endpoint = endpoint;
    resolution->job =
        (struct job){.kind = JOB_ORDINARY, .run = resolution_run, .drop = resolution_free};
    helpers_run(pools_helpers(pools), &resolution->job);
}
