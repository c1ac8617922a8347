/*
 * Endpoints and the classes of what can go wrong with a dial. Called by the ledger (may a login
 * begin?) and by pool/outage (how did it end?); calls nothing; the clock is given from outside.
 *
 * Progress: a login that was admitted ends in exactly one of endpoint_failed(), _answered() and
 * _withdrawn(), each of which gives its place back; FAILING and DOWN admit one when none is in
 * progress and the time has come; RECOVERING always admits at least one.
 */
#include "pool/endpoint.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "conf/settings.h"

#include <string.h>

enum
{
    HURRIED_US = 300000, /* longest wait while a client waits */
    STARTING_US = 100000, /* the same, for a server that says it will be there soon */
    QUIET_US = 1000000,  /* a recovery without a denied dial for this long is over */
    FAILURES_MAX = 2,    /* in a row, of a recovery: then it is failing again */
};

/* ---- classes ---- */

static const struct connect_traits classes[CONNECT_CLASSES] = {
    /*                         name, metric, pool only, permanent, busy, hurried, factor */
    [CONNECT_NETWORK] = {"network", METRIC_connect_failures_network_total, 0, 0, 0, HURRIED_US, 1},
    [CONNECT_TLS] = {"tls", METRIC_connect_failures_tls_total, 1, 0, 0, 0, 4},
    [CONNECT_STARTING] = {"starting", METRIC_connect_failures_starting_total, 0, 0, 0, STARTING_US,
        1},
    [CONNECT_FULL] = {"full", METRIC_connect_failures_full_total, 0, 0, 1, 0, 4},
    [CONNECT_FULL_HERE] = {"full", METRIC_connect_failures_full_total, 1, 0, 1, 0, 4},
    [CONNECT_AUTHENTICATION] = {"authentication", METRIC_connect_failures_authentication_total, 1,
        1, 0, 0, 1},
    [CONNECT_MISSING] = {"database", METRIC_connect_failures_database_total, 1, 1, 0, 0, 1},
    [CONNECT_DENIED] = {"permission", METRIC_connect_failures_permission_total, 1, 1, 0, 0, 1},
    [CONNECT_UNSUITABLE] = {"unsuitable", METRIC_connect_failures_other_total, 1, 0, 0,
        HURRIED_US, 1},
    [CONNECT_OTHER] = {"other", METRIC_connect_failures_other_total, 1, 0, 0, 0, 4},
};

/* The first row whose SQLSTATE begins so and whose text, if it names one, occurs. libpq's own
 * words come without an SQLSTATE; pool/dial makes them 08001. */
static const struct
{
    const char *sqlstate;
    const char *text; /* or NULL */
    enum connect_class class;
} signs[] = {
    {"53300", "too many connections for ", CONNECT_FULL_HERE},
    {"53300", NULL, CONNECT_FULL},
    {"57P04", NULL, CONNECT_OTHER}, /* the database was dropped */
    {"57P", NULL, CONNECT_STARTING},
    {"28", NULL, CONNECT_AUTHENTICATION},
    {"3D000", NULL, CONNECT_MISSING},
    {"42501", NULL, CONNECT_DENIED},
    {"08", "session is ", CONNECT_UNSUITABLE},
    {"08", "hot standby mode", CONNECT_UNSUITABLE},
    /* A connection that broke; the rest about TLS is between this connection string and a server
     * that answers others: its authority, its certificate, its mode. */
    {"08", "SSL SYSCALL", CONNECT_NETWORK},
    {"08", "SSL connection has been closed", CONNECT_NETWORK},
    {"08", "SSL", CONNECT_TLS},
    {"08", "certificate", CONNECT_TLS},
    {"08", "private key", CONNECT_TLS},
    {"08", NULL, CONNECT_NETWORK},
};

enum connect_class
connect_class(const struct fail *fail)
{
    for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++) {
        if (strncmp(fail->sqlstate, signs[i].sqlstate, strlen(signs[i].sqlstate)) == 0 &&
            (signs[i].text == NULL || strstr(fail->text, signs[i].text) != NULL)) {
            return signs[i].class;
        }
    }
    return CONNECT_OTHER;
}

const struct connect_traits *
connect_traits(const struct fail *fail)
{
    return &classes[connect_class(fail)];
}

struct retry
connect_retry(const struct settings *settings, const struct connect_traits *traits,
    unsigned attempts, int64_t now_us)
{
    double delay = (double)settings->server_retry_delay * traits->factor;
    double most = (double)settings->server_retry_max_delay;

    for (unsigned i = 1; i < attempts && delay < most; i++) {
        delay *= settings->server_retry_multiplier;
    }
    delay = delay < most ? delay : most;
    bool is_hurried = traits->hurried_us > 0 && delay > traits->hurried_us;
    double hurried = is_hurried ? traits->hurried_us : delay;
    double jitter = (double)(now_us * 7919 % 2001 - 1000) / 1000.0;
    double part = 1.0 + jitter * (double)settings->server_retry_jitter / 100.0;
    return (struct retry){now_us + (int64_t)(delay * part), now_us + (int64_t)(hurried * part)};
}

/* ---- endpoints ---- */

struct endpoint *
endpoint_new(const char *name, const char *hosts)
{
    struct endpoint *endpoint = mem_new(sizeof(*endpoint));

    endpoint->name = mem_string(name);
    endpoint->names.hosts = mem_string(hosts);
    endpoint->shared.max_logins = 1;
    pthread_mutex_init(&endpoint->shared.mutex, NULL);
    return endpoint;
}

void
endpoint_free(struct endpoint **pointer)
{
    struct endpoint *endpoint = *pointer;

    pthread_mutex_destroy(&endpoint->shared.mutex);
    free(endpoint->name);
    free(endpoint->names.hosts);
    free(endpoint->names.addresses);
    free(endpoint);
    *pointer = NULL;
}

const char *
endpoint_state_name(enum endpoint_state state)
{
    static const char *const names[ENDPOINT_STATES] = {[ENDPOINT_UP] = "up",
        [ENDPOINT_FAILING] = "failing",
        [ENDPOINT_DOWN] = "down",
        [ENDPOINT_RECOVERING] = "recovering"};

    return names[state];
}

bool
endpoint_is_failing(const struct endpoint_view *view)
{
    return view->state == ENDPOINT_FAILING || view->state == ENDPOINT_DOWN;
}

void
endpoint_limit(struct endpoint *endpoint, int max_logins)
{
    pthread_mutex_lock(&endpoint->shared.mutex);
    endpoint->shared.max_logins = max_logins;
    pthread_mutex_unlock(&endpoint->shared.mutex);
}

static void
become_locked(struct endpoint *endpoint, enum endpoint_state state, int64_t now_us)
{
    endpoint->shared.view.state = state;
    if (state != ENDPOINT_DOWN) { /* which has lasted since it was FAILING */
        endpoint->shared.view.since_us = now_us;
    }
}

static void
recover_locked(struct endpoint *endpoint, int allowance, int64_t now_us)
{
    become_locked(endpoint, ENDPOINT_RECOVERING, now_us);
    endpoint->shared.view.attempts = 0;
    endpoint->shared.view.allowance = allowance;
    endpoint->shared.failures_in_a_row = 0;
    endpoint->shared.last_denied_us = now_us;
}

bool
endpoint_admit(struct endpoint *endpoint, bool is_awaited, int64_t now_us)
{
    struct endpoint_view *view = &endpoint->shared.view;
    bool admits = true;

    pthread_mutex_lock(&endpoint->shared.mutex);
    if (endpoint_is_failing(view)) {
        int64_t at_us = is_awaited ? view->retry.hurried_at_us : view->retry.at_us;
        admits = view->logins == 0 && now_us >= at_us;
        endpoint->shared.is_probing = endpoint->shared.is_probing || admits;
    } else if (view->state == ENDPOINT_RECOVERING) {
        admits = view->logins < view->allowance;
    }
    if (admits) {
        view->logins++;
    } else {
        endpoint->shared.has_denied = true;
        endpoint->shared.last_denied_us = now_us;
    }
    pthread_mutex_unlock(&endpoint->shared.mutex);
    return admits;
}

/* A login has ended. */
static void
end_login_locked(struct endpoint *endpoint)
{
    ensure(endpoint->shared.view.logins > 0);
    endpoint->shared.view.logins--;
    endpoint->shared.is_probing = false;
}

/* Whether to ask those again who were denied. */
static unsigned
room_locked(struct endpoint *endpoint)
{
    if (!endpoint->shared.has_denied || endpoint_is_failing(&endpoint->shared.view)) {
        return ENDPOINT_NO_NEWS;
    }
    endpoint->shared.has_denied = false;
    return ENDPOINT_HAS_ROOM;
}

/* A failure among successes slows a recovery down; it is tried again at once, but not for ever. */
static bool
slow_down_locked(struct endpoint *endpoint)
{
    struct endpoint_view *view = &endpoint->shared.view;

    if (view->state != ENDPOINT_RECOVERING ||
        ++endpoint->shared.failures_in_a_row >= FAILURES_MAX) {
        return false;
    }
    view->allowance = view->allowance > 1 ? view->allowance / 2 : 1;
    return true;
}

unsigned
endpoint_failed(struct endpoint *endpoint, const struct settings *settings, const struct fail *fail,
    int64_t now_us, struct endpoint_view *view_out)
{
    const struct connect_traits *traits = connect_traits(fail);
    struct endpoint_view *view = &endpoint->shared.view;
    unsigned news = ENDPOINT_NO_NEWS;

    pthread_mutex_lock(&endpoint->shared.mutex);
    /* Logins that began before the first failure and fail after it tell nothing new. */
    bool is_late = endpoint_is_failing(view) && !endpoint->shared.is_probing;
    end_login_locked(endpoint);
    view->fail = *fail;
    view->failures++;
    endpoint->shared.is_doubted = true;
    if (!is_late && !slow_down_locked(endpoint)) {
        if (!endpoint_is_failing(view)) {
            become_locked(endpoint, ENDPOINT_FAILING, now_us);
            view->attempts = 0;
        }
        view->attempts++;
        view->retry = connect_retry(settings, traits, view->attempts, now_us);
        news |= ENDPOINT_COUNTED;
    }
    if (view->state == ENDPOINT_FAILING && !traits->is_busy &&
        view->attempts >= (unsigned)settings->server_retry_attempts) {
        become_locked(endpoint, ENDPOINT_DOWN, now_us);
        view->down_total++;
        news |= ENDPOINT_FELL;
    }
    news |= room_locked(endpoint);
    *view_out = *view;
    pthread_mutex_unlock(&endpoint->shared.mutex);
    return news;
}

unsigned
endpoint_answered(struct endpoint *endpoint, int64_t now_us, struct endpoint_view *view_out)
{
    struct endpoint_view *view = &endpoint->shared.view;
    unsigned news = ENDPOINT_NO_NEWS;

    pthread_mutex_lock(&endpoint->shared.mutex);
    *view_out = *view;
    end_login_locked(endpoint);
    endpoint->shared.failures_in_a_row = 0;
    if (endpoint_is_failing(view)) {
        recover_locked(endpoint, 1, now_us);
        endpoint->shared.has_denied = true;
        news |= ENDPOINT_CAME_BACK;
    }
    if (view->state == ENDPOINT_RECOVERING) {
        int doubled = view->allowance * 2;
        int most = endpoint->shared.max_logins;
        view->allowance = doubled < most ? doubled : most;
    }
    news |= room_locked(endpoint);
    pthread_mutex_unlock(&endpoint->shared.mutex);
    return news;
}

unsigned
endpoint_withdrawn(struct endpoint *endpoint)
{
    pthread_mutex_lock(&endpoint->shared.mutex);
    end_login_locked(endpoint);
    unsigned news = room_locked(endpoint);
    pthread_mutex_unlock(&endpoint->shared.mutex);
    return news;
}

void
endpoint_shaken(struct endpoint *endpoint, int64_t now_us)
{
    pthread_mutex_lock(&endpoint->shared.mutex);
    endpoint->shared.is_doubted = true;
    if (endpoint->shared.view.state == ENDPOINT_UP) {
        recover_locked(endpoint, endpoint->shared.max_logins, now_us);
    }
    pthread_mutex_unlock(&endpoint->shared.mutex);
}

void
endpoint_settle(struct endpoint *endpoint, int64_t now_us)
{
    struct endpoint_view *view = &endpoint->shared.view;

    pthread_mutex_lock(&endpoint->shared.mutex);
    if (view->state == ENDPOINT_RECOVERING && view->logins == 0 &&
        now_us - endpoint->shared.last_denied_us > QUIET_US) {
        become_locked(endpoint, ENDPOINT_UP, now_us);
    }
    pthread_mutex_unlock(&endpoint->shared.mutex);
}

bool
endpoint_take_doubt(struct endpoint *endpoint)
{
    pthread_mutex_lock(&endpoint->shared.mutex);
    bool is_doubted = endpoint->shared.is_doubted;
    endpoint->shared.is_doubted = false;
    pthread_mutex_unlock(&endpoint->shared.mutex);
    return is_doubted;
}

void
endpoint_take_over(struct endpoint *endpoint, struct endpoint *from, int logins)
{
    if (from != NULL) {
        pthread_mutex_lock(&from->shared.mutex);
        from->shared.view.logins -= logins;
        from->shared.is_probing = from->shared.is_probing && from->shared.view.logins > 0;
        pthread_mutex_unlock(&from->shared.mutex);
    }
    pthread_mutex_lock(&endpoint->shared.mutex);
    endpoint->shared.view.logins += logins;
    pthread_mutex_unlock(&endpoint->shared.mutex);
}

struct endpoint_view
endpoint_look(struct endpoint *endpoint)
{
    pthread_mutex_lock(&endpoint->shared.mutex);
    struct endpoint_view view = endpoint->shared.view;
    pthread_mutex_unlock(&endpoint->shared.mutex);
    return view;
}
