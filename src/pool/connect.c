/*
 * New backends of a pool: what libpq is told, and what becomes of its answer. Called by pool/pool
 * (pool_dial); calls pool/dial, then scrub_align() in the worker that asked.
 */
#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "base/text.h"
#include "conf/settings.h"
#include "conf/users.h"
#include "pool/dial.h"
#include "pool/endpoint.h"
#include "pool/lookup.h"
#include "pool/pools.h"
#include "pool/scrub.h"
#include "wire/base64.h"

#include <stdatomic.h>

enum
{
    DIAL_PARAMS_MAX = 64,
    KEY_TEXT_SIZE = 48, /* of 32 bytes in base64 */
    DIAL_PARAMS_OWN = 8 /* user, database, password or keys; what one client wants */
};

struct dialling
{
    struct pool_side *side; /* borrows: the ledger counts the dial */
    uint32_t generation;
    uint32_t keys; /* the serial of those it was given; 0: none */
    int64_t since_us;
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
    if (backend != NULL) {
        stats_time(TIMING_server_connect_seconds,
            loop_now_us(side->worker->loop) - dialling.since_us);
    }
    if (dialling.generation != atomic_load(&side->pool->generation)) {
        drop_outdated(side, backend);
        return;
    }
    if (backend == NULL) {
        if (dialling.keys > 0 && strcmp(fail.sqlstate, "28P01") == 0) {
            pool_forget_keys(side->pool, dialling.keys);
        }
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

/* Why nothing else than what libpq itself finds can be said when PostgreSQL asks for a password. */
static const char *
why_without(const struct settings *settings, const char *database, const char *user)
{
    const struct user *entry = users_find(settings->userlist, user);
    bool is_looked_up = entry == NULL && settings_auth_user(settings, database)[0] != '\0';

    if (entry != NULL && entry->kind == SECRET_MD5) {
        return "of this user only an md5 hash is known";
    }
    if (!is_looked_up && (entry == NULL || entry->kind != SECRET_SCRAM)) {
        return "none is known for this user";
    }
    return dial_takes_keys()
               ? "of this user only a SCRAM verifier is known, and nobody has logged in with it yet"
               : "of this user only a SCRAM verifier is known, and this libpq cannot log in with "
                 "its keys (PostgreSQL 18's can)";
}

/* What libpq is told. */
struct conninfo
{
    const char *keywords[DIAL_PARAMS_MAX + 1], *values[DIAL_PARAMS_MAX + 1];
    int count;
    struct credential_source source;
    const char *without; /* or NULL */
    struct pool_keys keys;
    char client_key[KEY_TEXT_SIZE], server_key[KEY_TEXT_SIZE]; /* of them */
};

/* Secrets among it were copied. */
static void
conninfo_wipe(struct conninfo *conninfo)
{
    explicit_bzero(&conninfo->keys, sizeof(conninfo->keys));
    explicit_bzero(conninfo->client_key, sizeof(conninfo->client_key));
    explicit_bzero(conninfo->server_key, sizeof(conninfo->server_key));
}

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
    if (is_its_own(database, user)) {
        conninfo->source = (struct credential_source){.file = database->password_file,
            .command = database->password_command,
            .ttl_us = settings_password_command_ttl(settings, name),
            .database = name,
            .user = user,
            .host = database->host,
            .port = database->port};
    }
    const char *password = pool_password(settings, database, user);
    if (password != NULL) {
        add(conninfo, "password", password);
    } else {
        conninfo->without = why_without(settings, name, user);
    }
    return true;
}

static void
print_key(const uint8_t *key, char text[KEY_TEXT_SIZE])
{
    struct buf buf = {0};

    base64_add(&buf, key, SCRAM_KEY_LEN);
    buf_add_u8(&buf, 0);
    (void)text_copy(text, KEY_TEXT_SIZE, (const char *)buf_head(&buf));
    explicit_bzero(buf_head(&buf), buf_len(&buf));
    buf_deinit(&buf);
}

/* Where no password is known, the keys that a client left do. */
static void
add_keys(struct pool *pool, struct conninfo *conninfo)
{
    bool has_source = conninfo->source.file != NULL || conninfo->source.command != NULL;

    if (conninfo->without == NULL || has_source || !pool_keys(pool, &conninfo->keys)) {
        return;
    }
    print_key(conninfo->keys.client, conninfo->client_key);
    print_key(conninfo->keys.server, conninfo->server_key);
    add(conninfo, "scram_client_key", conninfo->client_key);
    add(conninfo, "scram_server_key", conninfo->server_key);
    conninfo->without = "only the keys of a SCRAM login are known, which it does not ask for";
}

static bool
read_pool(const struct pool_side *side, struct conninfo *conninfo, struct fail *fail)
{
    if (!read_database(
            side->worker->settings, side->pool->database, side->pool->user, conninfo, fail)) {
        return false;
    }
    add_keys(side->pool, conninfo);
    return true;
}

static void
start(struct pool_side *side, struct conninfo *conninfo, const struct dial_result *result)
{
    struct endpoint *endpoint = pool_endpoint(side->pool);
    bool has_command = conninfo->source.command != NULL;

    /* A server that does not answer holds up all who dial it; a command, one pool. */
    dial_start(&(struct dial_request){.keywords = conninfo->keywords,
        .values = conninfo->values,
        .source = conninfo->source,
        .credentials = pools_credentials(side->pool->pools),
        .without = conninfo->without,
        .place = &endpoint->place,
        .share = has_command ? (const void *)side->pool : endpoint,
        .timeout_us = side->worker->settings->server_connect_timeout,
        .loop = side->worker->loop,
        .helpers = pools_helpers(side->pool->pools),
        .result = *result});
    conninfo_wipe(conninfo);
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
    dialling->keys = conninfo.keys.serial;
    dialling->since_us = loop_now_us(side->worker->loop);
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
    request->source = conninfo.source;
    request->without = conninfo.without;
    request->query = settings_auth_query(settings, database);
    request->timeout_us = settings->server_connect_timeout;
    lookup_start(request);
    return true;
}
