/*
 * What SHOW shows. Called by ops/console; reads clients and backends of each worker in that
 * worker's thread, and ledgers under their locks. Column names, order and types are PgBouncer's,
 * ours are appended.
 */
#include "ops/show.h"

#include "ops/columns.h"
#include "ops/descriptors.h"
#include "ops/endpoints.h"
#include "ops/gather.h"
#include "ops/sockets.h"
#include "ops/totals.h"

#include "conf/settings.h"
#include "conf/users.h"
#include "daemon/daemon.h"
#include "pool/halt.h"
#include "pool/herald.h"
#include "pool/pools.h"

#include <inttypes.h>
#include <strings.h>

static const char *
mode_name(enum pool_mode mode)
{
    static const char *const names[] = {[POOL_SESSION] = "session",
        [POOL_TRANSACTION] = "transaction",
        [POOL_STATEMENT] = "statement"};

    return names[mode];
}

/* ---- POOLS ---- */

static const struct message_column pool_columns[] = {TEXT("database"), TEXT("user"),
    INT4("cl_active"), INT4("cl_waiting"), INT4("cl_active_cancel_req"),
    INT4("cl_waiting_cancel_req"), INT4("sv_active"), INT4("sv_active_cancel"),
    INT4("sv_being_canceled"), INT4("sv_idle"), INT4("sv_used"), INT4("sv_tested"),
    INT4("sv_login"), INT4("maxwait"), INT4("maxwait_us"), TEXT("pool_mode"),
    TEXT("load_balance_hosts")};

static void
finish_pools(struct gather *gather)
{
    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        enum pool_mode mode =
            settings_pool_mode(gather_settings(gather), tally->database, tally->user);
        size_t row = gather_row(gather);
        gather_text(gather, tally->database);
        gather_text(gather, tally->user);
        gather_int4(gather, tally->n[CL_ACTIVE]);
        gather_int4(gather, tally->n[CL_WAITING]);
        gather_int4(gather, 0);
        gather_int4(gather, 0);
        gather_int4(gather, tally->n[SV_ACTIVE]);
        gather_int4(gather, 0);
        gather_int4(gather, 0);
        gather_int4(gather, tally->n[SV_IDLE]);
        gather_int4(gather, 0);
        gather_int4(gather, tally->n[SV_TESTED]);
        gather_int4(gather, tally->n[SV_LOGIN]);
        gather_int4(gather, tally->n[MAX_WAIT_US] / 1000000);
        gather_int4(gather, tally->n[MAX_WAIT_US] % 1000000);
        gather_text(gather, mode_name(mode));
        gather_text(gather, NULL);
        message_end(&gather->rows, row);
    }
}

/* ---- DATABASES and USERS ---- */

static const struct message_column database_columns[] = {TEXT("name"), TEXT("host"), INT4("port"),
    TEXT("database"), TEXT("force_user"), INT4("pool_size"), INT4("min_pool_size"),
    INT4("reserve_pool_size"), INT4("server_lifetime"), TEXT("pool_mode"),
    TEXT("load_balance_hosts"), INT4("max_connections"), INT4("current_connections"),
    INT4("max_client_connections"), INT4("current_client_connections"), INT4("paused"),
    INT4("disabled")};

static void
add_database(struct gather *gather, const char *name, const struct database *database)
{
    const struct settings *settings = gather_settings(gather);
    const struct tally *tally = gather_tally(gather, name, "");
    struct halts *halts = pools_halts(daemon_pools(gather->daemon));
    bool is_own = database->max_db_client_connections != NOT_SET;
    size_t row = gather_row(gather);

    gather_text(gather, name);
    gather_text(gather, database->host);
    gather_int4(gather, strtol(database->port, NULL, 10));
    gather_text(gather, database->dbname != NULL ? database->dbname : name);
    gather_text(gather, database->user);
    gather_int4(gather, settings_pool_size(settings, name, ""));
    gather_int4(gather, settings_min_pool_size(settings, name));
    gather_int4(gather, settings_reserve_pool_size(settings, name, ""));
    gather_int4(gather, settings_server_lifetime(settings, name) / 1000000);
    gather_text(gather,
        database->pool_mode == NOT_SET ? NULL : mode_name((enum pool_mode)database->pool_mode));
    gather_text(gather, NULL);
    gather_int4(gather, settings_max_db_connections(settings, name));
    gather_int4(gather, tally->n[SV_TOTAL]);
    gather_int4(
        gather, is_own ? database->max_db_client_connections : settings->max_db_client_connections);
    gather_int4(gather, tally->n[CL_ACTIVE] + tally->n[CL_WAITING]);
    gather_int4(gather, halts_pause_concerns(halts, name));
    gather_int4(gather, halts_is_disabled(halts, name));
    message_end(&gather->rows, row);
}

/* The databases that the line "*" stands for now, then all lines of [databases]. */
static void
finish_databases(struct gather *gather)
{
    const struct settings *settings = gather_settings(gather);
    const struct tally *used = gather->tallies;
    const struct database *database;
    size_t cursor = 0;

    for (; used != NULL; used = used->next) {
        database = settings_find_database(settings, used->database);
        if (database != NULL && strcmp(database->name, used->database) != 0) {
            add_database(gather, used->database, database);
        }
    }
    while ((database = settings_next_database(settings, &cursor)) != NULL) {
        add_database(gather, database->name, database);
    }
}

static const struct message_column user_columns[] = {TEXT("name"), TEXT("pool_size"),
    TEXT("reserve_pool_size"), TEXT("pool_mode"), INT4("max_user_connections"),
    INT4("current_connections"), INT4("max_user_client_connections"),
    INT4("current_client_connections")};

static bool
is_first_of_user(const struct gather *gather, const struct tally *tally)
{
    const struct tally *other = gather->tallies;

    while (strcmp(other->user, tally->user) != 0) {
        other = other->next;
    }
    return other == tally;
}

static void
add_user(struct gather *gather, const struct tally *tally)
{
    const struct settings *settings = gather_settings(gather);
    int64_t servers = 0, clients = 0;
    char number[24];

    for (const struct tally *other = tally; other != NULL; other = other->next) {
        bool is_same = strcmp(other->user, tally->user) == 0;
        servers += is_same ? other->n[SV_TOTAL] : 0;
        clients += is_same ? other->n[CL_ACTIVE] + other->n[CL_WAITING] : 0;
    }
    size_t row = gather_row(gather);
    gather_text(gather, tally->user);
    snprintf(number, sizeof(number), "%" PRId64,
        settings_pool_size(settings, tally->database, tally->user));
    gather_text(gather, number);
    snprintf(number, sizeof(number), "%" PRId64,
        settings_reserve_pool_size(settings, tally->database, tally->user));
    gather_text(gather, number);
    gather_text(gather, mode_name(settings_pool_mode(settings, tally->database, tally->user)));
    gather_int4(gather, settings_max_user_connections(settings, tally->user));
    gather_int4(gather, servers);
    gather_int4(gather, settings_max_user_client_connections(settings, tally->user));
    gather_int4(gather, clients);
    message_end(&gather->rows, row);
}

/* Users that have a pool, with what holds in their first one. */
static void
finish_users(struct gather *gather)
{
    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        if (is_first_of_user(gather, tally)) {
            add_user(gather, tally);
        }
    }
}

/* ---- LISTS, CONFIG, STATE, VERSION ---- */

static const struct message_column list_columns[] = {TEXT("list"), INT4("items")};
static const struct message_column config_columns[] = {
    TEXT("key"), TEXT("value"), TEXT("default"), TEXT("changeable"), TEXT("origin")};
static const struct message_column state_columns[] = {TEXT("key"), TEXT("value")};
static const struct message_column version_columns[] = {TEXT("version")};

static void
add_list(struct gather *gather, const char *name, int64_t items)
{
    size_t row = gather_row(gather);

    gather_text(gather, name);
    gather_int4(gather, items);
    message_end(&gather->rows, row);
}

static void
finish_lists(struct gather *gather)
{
    int64_t databases = 0, pools = 0, used = 0;
    size_t cursor = 0;

    while (settings_next_database(gather_settings(gather), &cursor) != NULL) {
        databases++;
    }
    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        pools++;
        used += tally->n[SV_TOTAL];
    }
    add_list(gather, "databases", databases);
    add_list(gather, "users", (int64_t)users_count(gather_settings(gather)->userlist));
    add_list(gather, "peers", 0);
    add_list(gather, "pools", pools);
    add_list(gather, "peer_pools", 0);
    add_list(gather, "free_clients", 0);
    add_list(gather, "used_clients", gather->clients);
    add_list(gather, "login_clients", gather->logins);
    add_list(gather, "free_servers", 0);
    add_list(gather, "used_servers", used);
    add_list(gather, "dns_names", 0);
    add_list(gather, "dns_zones", 0);
    add_list(gather, "dns_queries", 0);
    add_list(gather, "dns_pending", 0);
}

static const struct message_column memory_columns[] = {
    TEXT("name"), INT4("size"), INT4("used"), INT4("free"), INT4("memtotal")};

static void
add_memory(struct gather *gather, const char *name, size_t size, int64_t used)
{
    size_t row = gather_row(gather);

    gather_text(gather, name);
    gather_int4(gather, (int64_t)size);
    gather_int4(gather, used);
    gather_int4(gather, 0); /* nothing is kept for later: what is free is the allocator's */
    gather_int4(gather, (int64_t)size * used);
    message_end(&gather->rows, row);
}

/* The objects themselves, without what their streams hold back for a slow peer. */
static void
finish_memory(struct gather *gather)
{
    int64_t backends = 0, pools = 0;
    int workers = daemon_worker_count(gather->daemon);

    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        backends += tally->n[SV_TOTAL];
        pools++;
    }
    add_memory(gather, "client", sizeof(struct client), gather->clients);
    add_memory(gather, "server", sizeof(struct backend), backends);
    add_memory(
        gather, "pool", sizeof(struct pool) + (size_t)workers * sizeof(struct pool_side), pools);
    add_memory(gather, "read_buffer", (size_t)gather_settings(gather)->read_buffer, workers);
}

static void
finish_config(struct gather *gather)
{
    struct settings_row setting;
    size_t cursor = 0;

    while (settings_next_row(gather_settings(gather), &cursor, &setting)) {
        size_t row = gather_row(gather);
        gather_text(gather, setting.key);
        gather_text(gather, setting.value);
        gather_text(gather, setting.default_value);
        gather_text(gather, setting.is_changeable ? "yes" : "no");
        gather_text(gather, setting.origin);
        message_end(&gather->rows, row);
    }
}

static void
finish_state(struct gather *gather)
{
    struct halts *halts = pools_halts(daemon_pools(gather->daemon));
    bool is_paused = halts_pause_concerns(halts, ""), is_suspended = halts_is_suspended(halts);
    const char *rows[][2] = {{"active", is_paused || is_suspended ? "no" : "yes"},
        {"paused", is_paused ? "yes" : "no"}, {"suspended", is_suspended ? "yes" : "no"}};

    for (int i = 0; i < 3; i++) {
        size_t row = gather_row(gather);
        gather_text(gather, rows[i][0]);
        gather_text(gather, rows[i][1]);
        message_end(&gather->rows, row);
    }
}

static void
finish_version(struct gather *gather)
{
    size_t row = gather_row(gather);

    gather_text(gather, "pgkeel " PGKEEL_VERSION);
    message_end(&gather->rows, row);
}

/* ---- what listens for clients ---- */

static const struct message_column listener_columns[] = {TEXT("database"), TEXT("user"),
    TEXT("state"), INT4("remote_pid"), INT4("channels"), INT4("worker")};

static void
add_listener(void *arg, const struct herald_view *view)
{
    struct gather *gather = arg;
    size_t row = gather_row(gather);

    gather_text(gather, view->database);
    gather_text(gather, view->user);
    gather_text(gather, view->state);
    gather_int4(gather, view->pid);
    gather_int4(gather, view->channels);
    gather_int4(gather, gather->next);
    message_end(&gather->rows, row);
}

static void
visit_listeners(struct gather *gather, struct crowd *crowd)
{
    heralds_each(&crowd->pool, add_listener, gather);
}

/* ---- what PgBouncer has and we do without: no rows ---- */

static const struct message_column peer_columns[] = {
    INT4("peer_id"), TEXT("host"), INT4("port"), INT4("pool_size")};
static const struct message_column peer_pool_columns[] = {INT4("peer_id"),
    INT4("cl_active_cancel_req"), INT4("cl_waiting_cancel_req"), INT4("sv_active_cancel"),
    INT4("sv_login")};
static const struct message_column host_columns[] = {
    TEXT("hostname"), INT8("ttl"), TEXT("addrs")};
static const struct message_column zone_columns[] = {
    TEXT("zonename"), INT8("serial"), INT4("count")};

/* ---- the table ---- */

#define COLUMNS(array) array, sizeof(array) / sizeof((array)[0])

static const struct show shows[] = {
    {"ACTIVE_SOCKETS", buffer_columns, BUFFER_COLUMNS, 3, false, sockets_visit_active, NULL},
    {"CLIENTS", socket_columns, SOCKET_COLUMNS, 3, false, sockets_visit_clients, NULL},
    {"CONFIG", COLUMNS(config_columns), 1, false, NULL, finish_config},
    {"DATABASES", COLUMNS(database_columns), 0, false, gather_databases, finish_databases},
    {"DNS_HOSTS", COLUMNS(host_columns), 0, false, NULL, NULL},
    {"DNS_ZONES", COLUMNS(zone_columns), 0, false, NULL, NULL},
    {"ENDPOINTS", endpoint_columns, ENDPOINT_COLUMNS, 0, false, NULL, endpoints_finish},
    {"FDS", descriptor_columns, DESCRIPTOR_COLUMNS, 0, true, descriptors_visit, NULL},
    {"LISTENERS", COLUMNS(listener_columns), 0, false, visit_listeners, NULL},
    {"LISTS", COLUMNS(list_columns), 0, false, gather_pools, finish_lists},
    {"MEM", COLUMNS(memory_columns), 0, false, gather_pools, finish_memory},
    {"PEERS", COLUMNS(peer_columns), 0, false, NULL, NULL},
    {"PEER_POOLS", COLUMNS(peer_pool_columns), 0, false, NULL, NULL},
    {"POOLS", COLUMNS(pool_columns), 0, false, gather_pools, finish_pools},
    {"PREPARED", prepared_columns, PREPARED_COLUMNS, 0, false, NULL, prepared_finish},
    {"SERVERS", socket_columns, SOCKET_COLUMNS, 3, false, sockets_visit_servers, NULL},
    {"SOCKETS", buffer_columns, BUFFER_COLUMNS, 3, false, sockets_visit_all, NULL},
    {"STATE", COLUMNS(state_columns), 0, false, NULL, finish_state},
    {"STATS", stats_columns, STATS_COLUMNS, 0, false, gather_databases, stats_finish},
    {"STATS_AVERAGES", averages_columns, TOTALS_COLUMNS, 0, false, gather_databases,
        averages_finish},
    {"STATS_TOTALS", totals_columns, TOTALS_COLUMNS, 0, false, gather_databases, totals_finish},
    {"TOTALS", sum_columns, SUM_COLUMNS, 0, false, gather_databases, sums_finish},
    {"USERS", COLUMNS(user_columns), 0, false, gather_pools, finish_users},
    {"VERSION", COLUMNS(version_columns), 0, false, NULL, finish_version},
    {"WAITING", waiting_columns, WAITING_COLUMNS, 0, false, endpoints_visit_waiting, NULL},
};

enum
{
    SHOWS = sizeof(shows) / sizeof(shows[0])
};

const struct show *
show_find(const char *name)
{
    for (int i = 0; i < SHOWS; i++) {
        if (strcasecmp(shows[i].name, name) == 0) {
            return &shows[i];
        }
    }
    return NULL;
}

const char *
show_name(size_t i)
{
    return i < SHOWS ? shows[i].name : NULL;
}

bool
show_is_for_admins(const struct show *show)
{
    return show->is_for_admins;
}

struct show_columns
show_columns(const struct show *show, bool is_plain)
{
    uint16_t count = is_plain ? (uint16_t)(show->count - show->ours) : show->count;

    return (struct show_columns){show->columns, count};
}
