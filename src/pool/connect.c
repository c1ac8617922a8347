/*
 * New backends of a pool: what libpq is told, and what becomes of its answer. Called by pool/pool
 * (pool_dial); calls pool/dial, then scrub_align() in the worker that asked.
 */
#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "conf/settings.h"
#include "conf/users.h"
#include "pool/dial.h"
#include "pool/lookup.h"
#include "pool/pools.h"
#include "pool/scrub.h"

#include <stdatomic.h>

enum
{
    DIAL_PARAMS_MAX = 64,
    DIAL_PARAMS_OWN = 7 /* user, database, password; what one client wants */
};

struct dialling
{
    struct pool_side *side; /* borrows: the ledger counts the dial */
    uint32_t generation;
};

/* A reload or RECONNECT came while it was dialled: whatever came of it says nothing about where the
 * pool dials now. */
static void
drop_outdated(struct pool_side *side, struct backend *backend)
{
    struct fail fail;

    outage_void(side->pool);
    ledger_arrived(&side->pool->ledger);
    if (backend == NULL) {
        pool_backend_gone(side);
        return;
    }
    fail_set(&fail, "57P01", "replaced");
    backend_attach(backend, side, BACKEND_ALIGNING);
    backend_close(backend, &fail);
}

static void
on_dialled(void *arg, struct pg_conn *conn, const struct fail *reason)
{
    struct dialling dialling = *(struct dialling *)arg;
    struct pool_side *side = dialling.side;
    struct fail fail = *reason;

    free(arg);
    struct backend *backend = conn != NULL ? backend_new(conn, &fail) : NULL;
    stats_add(backend != NULL ? METRIC_server_connects_total
                              : METRIC_server_connect_failures_total,
        1);
    if (dialling.generation != atomic_load(&side->pool->generation)) {
        drop_outdated(side, backend);
        return;
    }
    if (backend == NULL) {
        pool_dial_failed(side, &fail);
        pool_backend_gone(side);
        return;
    }
    backend->generation = dialling.generation;
    backend_attach(backend, side, BACKEND_ALIGNING);
    scrub_align(backend);
}

/* Whether the database's password, or the file with it, is this user's. */
static bool
is_its_own(const struct database *database, const char *user)
{
    return database->user == NULL || strcmp(database->user, user) == 0;
}

static const char *
pool_password(const struct settings *settings, const struct database *database, const char *user)
{
    if (database->password != NULL && is_its_own(database, user)) {
        return database->password;
    }
    const struct user *entry = users_find(settings->userlist, user);
    return entry != NULL && entry->kind == SECRET_PLAIN && entry->secret[0] != '\0' ? entry->secret
                                                                                    : NULL;
}

/* What libpq is told. */
struct conninfo
{
    const char *keywords[DIAL_PARAMS_MAX + 1], *values[DIAL_PARAMS_MAX + 1];
    int count;
    const char *password_file; /* or NULL */
};

static void
add(struct conninfo *conninfo, const char *keyword, const char *value)
{
    ensure(conninfo->count < DIAL_PARAMS_MAX);
    conninfo->keywords[conninfo->count] = keyword;
    conninfo->values[conninfo->count++] = value;
    conninfo->keywords[conninfo->count] = conninfo->values[conninfo->count] = NULL;
}

/* Of this database and user; false with the reason when the settings have none. */
static bool
read_database(const struct settings *settings, const char *name, const char *user,
    struct conninfo *conninfo, struct fail *fail)
{
    const struct database *database = settings_find_database(settings, name);

    if (database == NULL) {
        return fail_set(fail, "3D000", "database \"%s\" does not exist", name);
    }
    /* libpq takes the first of two equal keywords as overwritten by the second, so ours go last. */
    for (int i = 0; database->keywords[i] != NULL && i < DIAL_PARAMS_MAX - DIAL_PARAMS_OWN; i++) {
        add(conninfo, database->keywords[i], database->values[i]);
    }
    add(conninfo, "user", user);
    add(conninfo, "dbname", database->dbname != NULL ? database->dbname : name);
    conninfo->password_file = is_its_own(database, user) ? database->password_file : NULL;
    const char *password = pool_password(settings, database, user);
    if (password != NULL) {
        add(conninfo, "password", password);
    }
    return true;
}

static bool
read_pool(const struct pool_side *side, struct conninfo *conninfo, struct fail *fail)
{
    return read_database(
        side->worker->settings, side->pool->database, side->pool->user, conninfo, fail);
}

static void
start(struct pool_side *side, const struct conninfo *conninfo, const struct dial_result *result)
{
    dial_start(&(struct dial_request){.keywords = conninfo->keywords,
        .values = conninfo->values,
        .password_file = conninfo->password_file,
        .timeout_us = side->worker->settings->server_connect_timeout,
        .loop = side->worker->loop,
        .helpers = pools_helpers(side->pool->pools),
        .result = *result});
}

void
pool_dial(struct pool_side *side)
{
    struct conninfo conninfo = {0};
    struct fail fail;

    if (!read_pool(side, &conninfo, &fail)) {
        pool_dial_failed(side, &fail);
        pool_backend_gone(side);
        return;
    }
    struct dialling *dialling = mem_new(sizeof(*dialling));
    dialling->side = side;
    dialling->generation = atomic_load(&side->pool->generation);
    start(side, &conninfo, &(struct dial_result){on_dialled, free, dialling});
}

bool
pool_dial_apart(struct pool_side *side, const struct vars *extra,
    const struct dial_result *result, struct fail *fail)
{
    struct conninfo conninfo = {0};
    const char *keyword, *value;
    uint32_t cursor = 0;

    if (!read_pool(side, &conninfo, fail)) {
        return false;
    }
    while (vars_next(extra, &cursor, &keyword, &value)) {
        add(&conninfo, keyword, value);
    }
    start(side, &conninfo, result);
    return true;
}

bool
connect_lookup(const struct settings *settings, const char *database,
    struct lookup_request *request, struct fail *fail)
{
    struct conninfo conninfo = {0};
    const char *user = settings_auth_user(settings, database);
    const char *where = settings_auth_dbname(settings, database);

    if (!read_database(settings, where, user, &conninfo, fail)) {
        return false;
    }
    /* Nothing that anybody's session brings is ever said on this connection. */
    add(&conninfo, "application_name", "pgkeel: looks up users");
    request->keywords = conninfo.keywords;
    request->values = conninfo.values;
    request->password_file = conninfo.password_file;
    request->query = settings_auth_query(settings, database);
    request->timeout_us = settings->server_connect_timeout;
    lookup_start(request);
    return true;
}
