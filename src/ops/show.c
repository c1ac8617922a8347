/*
 * What SHOW shows. Called by ops/console; reads clients and backends of each worker in that
 * worker's thread, and ledgers under their locks. Column names, order and types are PgBouncer's,
 * ours are appended.
 */
#include "ops/show.h"

#include "ops/gather.h"

#include "base/mem.h"
#include "base/stats.h"
#include "conf/settings.h"
#include "conf/users.h"
#include "daemon/daemon.h"
#include "pool/pools.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <strings.h>
#include <time.h>

static const struct settings *
settings_of(const struct gather *gather)
{
    return daemon_crowd(gather->daemon, gather->home)->pool.settings;
}

static const char *
mode_name(enum pool_mode mode)
{
    static const char *const names[] = {[POOL_SESSION] = "session",
        [POOL_TRANSACTION] = "transaction",
        [POOL_STATEMENT] = "statement"};

    return names[mode];
}

/* ---- POOLS ---- */

#define TEXT(name)                                                                                 \
    {                                                                                              \
        name, OID_TEXT                                                                             \
    }
#define INT4(name)                                                                                 \
    {                                                                                              \
        name, OID_INT4                                                                             \
    }
#define INT8(name)                                                                                 \
    {                                                                                              \
        name, OID_INT8                                                                             \
    }

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
        enum pool_mode mode = settings_pool_mode(settings_of(gather), tally->database, tally->user);
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

/* ---- CLIENTS and SERVERS ---- */

static const struct message_column socket_columns[] = {TEXT("type"), TEXT("user"), TEXT("database"),
    TEXT("replication"), TEXT("state"), TEXT("addr"), INT4("port"), TEXT("local_addr"),
    INT4("local_port"), TEXT("connect_time"), TEXT("request_time"), INT4("wait"), INT4("wait_us"),
    INT4("close_needed"), TEXT("ptr"), TEXT("link"), INT4("remote_pid"), TEXT("tls"),
    TEXT("application_name"), INT4("prepared_statements"), INT4("id"), INT4("worker")};

/* "10.0.0.7:5012" in two columns. */
static void
add_peer(struct gather *gather, const char *peer)
{
    const char *colon = strrchr(peer, ':');
    char host[PEER_TEXT_MAX];
    size_t len = colon != NULL ? (size_t)(colon - peer) : strlen(peer);

    snprintf(host, sizeof(host), "%.*s", (int)len, peer);
    gather_text(gather, host);
    gather_int4(gather, colon != NULL ? strtol(colon + 1, NULL, 10) : 0);
}

static void
add_client(struct gather *gather, const struct client *client)
{
    const struct lease *lease = &client->lease;
    const char *name = vars_find(&client->vars, "application_name");
    bool waits = client->state == CLIENT_WAITING || client->state == CLIENT_WELCOME;
    int64_t wait_us = waits && lease->side != NULL ? loop_clock_us() - lease->waiter.since_us : 0;
    size_t row = gather_row(gather);

    gather_text(gather, "C");
    gather_text(gather, client->identity.user);
    gather_text(gather, client->identity.database);
    gather_text(gather, "none");
    gather_text(gather, client_state_name(client->state));
    add_peer(gather, client->identity.peer);
    gather_text(gather, "");
    gather_int4(gather, 0);
    gather_time(gather, client->connected_us);
    gather_time(gather, client->relay.request_us);
    gather_int4(gather, wait_us / 1000000);
    gather_int4(gather, wait_us % 1000000);
    gather_int4(gather, 0);
    gather_id(gather, 'c', client->id);
    gather_id(gather, 's', lease->backend != NULL ? lease->backend->id : 0);
    gather_int4(gather, 0);
    gather_text(gather, client->stream.ssl != NULL ? "TLS" : "");
    gather_text(gather, name != NULL ? name : "");
    gather_int4(gather, 0);
    gather_int4(gather, (int64_t)client->id);
    gather_int4(gather, client->crowd->pool.index);
    message_end(&gather->rows, row);
}

static void
visit_clients(struct gather *gather, struct crowd *crowd)
{
    for (int state = 0; state < CLIENT_CLOSING; state++) {
        struct client *client;
        TAILQ_FOREACH(client, &crowd->in[state], link) {
            if (client->identity.user != NULL) {
                add_client(gather, client);
            }
        }
    }
}

static void
add_backend(struct gather *gather, const struct backend *backend)
{
    const struct pool *pool = backend->side->pool;
    const char *name = vars_find(&backend->vars, "application_name");
    size_t row = gather_row(gather);

    gather_text(gather, "S");
    gather_text(gather, pool->user);
    gather_text(gather, pool->database);
    gather_text(gather, "none");
    gather_text(gather, backend_state_name(backend->state));
    gather_text(gather, backend_host(backend));
    gather_int4(gather, strtol(backend_port(backend), NULL, 10));
    gather_text(gather, "");
    gather_int4(gather, 0);
    gather_time(gather, backend->opened_us);
    gather_time(gather, backend->state_since_us);
    gather_int4(gather, 0);
    gather_int4(gather, 0);
    gather_int4(gather, backend->duty.is_retired ? 1 : 0);
    gather_id(gather, 's', backend->id);
    gather_id(
        gather, 'w', backend->holder != NULL ? backend->holder->waiter.ticket & UINT32_MAX : 0);
    gather_int4(gather, backend->pid);
    gather_text(gather, backend->stream.ssl != NULL ? "TLS" : "");
    gather_text(gather, name != NULL ? name : "");
    gather_int4(gather, 0);
    gather_int4(gather, (int64_t)backend->id);
    gather_int4(gather, backend->side->worker->index);
    message_end(&gather->rows, row);
}

static void
add_backends(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    const struct pool_side *side = &pool->sides[visit->worker];

    for (int state = 0; state < BACKEND_STATES; state++) {
        const struct backend *backend;
        TAILQ_FOREACH(backend, &side->in[state], link) {
            add_backend(visit->gather, backend);
        }
    }
}

static void
visit_servers(struct gather *gather, struct crowd *crowd)
{
    struct visit visit = {gather, crowd->pool.index, false};

    pools_each(daemon_pools(gather->daemon), add_backends, &visit);
}

/* ---- DATABASES and USERS ---- */

static const struct message_column database_columns[] = {TEXT("name"), TEXT("host"), INT4("port"),
    TEXT("database"), TEXT("force_user"), INT4("pool_size"), INT4("min_pool_size"),
    INT4("reserve_pool_size"), INT4("server_lifetime"), TEXT("pool_mode"),
    TEXT("load_balance_hosts"), INT4("max_connections"), INT4("current_connections"),
    INT4("max_client_connections"), INT4("current_client_connections"), INT4("paused"),
    INT4("disabled")};

static void
finish_databases(struct gather *gather)
{
    const struct settings *settings = settings_of(gather);
    const struct database *database;
    size_t cursor = 0;

    while ((database = settings_next_database(settings, &cursor)) != NULL) {
        const struct tally *tally = gather_tally(gather, database->name, "");
        size_t row = gather_row(gather);
        gather_text(gather, database->name);
        gather_text(gather, database->host);
        gather_int4(gather, strtol(database->port, NULL, 10));
        gather_text(gather, database->dbname != NULL ? database->dbname : database->name);
        gather_text(gather, database->user);
        gather_int4(gather, settings_pool_size(settings, database->name, ""));
        gather_int4(gather, settings_min_pool_size(settings, database->name));
        gather_int4(gather, settings_reserve_pool_size(settings, database->name, ""));
        gather_int4(gather, settings_server_lifetime(settings, database->name) / 1000000);
        gather_text(gather,
            database->pool_mode == NOT_SET ? NULL : mode_name((enum pool_mode)database->pool_mode));
        gather_text(gather, NULL);
        gather_int4(gather, settings_max_db_connections(settings, database->name));
        gather_int4(gather, tally->n[SV_TOTAL]);
        gather_int4(gather, settings->max_db_client_connections);
        gather_int4(gather, tally->n[CL_ACTIVE] + tally->n[CL_WAITING]);
        gather_int4(gather, 0);
        gather_int4(gather, 0);
        message_end(&gather->rows, row);
    }
}

/* ---- STATS ---- */

static const struct message_column stats_columns[] = {TEXT("database"),
    INT8("total_server_assignment_count"), INT8("total_xact_count"), INT8("total_query_count"),
    INT8("total_received"), INT8("total_sent"), INT8("total_xact_time"), INT8("total_query_time"),
    INT8("total_wait_time"), INT8("total_client_parse_count"), INT8("total_server_parse_count"),
    INT8("total_bind_count"), INT8("total_client_login_count"), INT8("avg_server_assignment_count"),
    INT8("avg_xact_count"), INT8("avg_query_count"), INT8("avg_recv"), INT8("avg_sent"),
    INT8("avg_xact_time"), INT8("avg_query_time"), INT8("avg_wait_time"),
    INT8("avg_client_parse_count"), INT8("avg_server_parse_count"), INT8("avg_bind_count"),
    INT8("avg_client_login_count")};

static const struct message_column totals_columns[] = {TEXT("database"),
    INT8("server_assignment_count"), INT8("xact_count"), INT8("query_count"),
    INT8("bytes_received"), INT8("bytes_sent"), INT8("xact_time"), INT8("query_time"),
    INT8("wait_time"), INT8("client_parse_count"), INT8("server_parse_count"), INT8("bind_count"),
    INT8("client_login_count")};

static const struct message_column averages_columns[] = {TEXT("database"),
    INT8("server_assignment_count"), INT8("xact_count"), INT8("query_count"),
    INT8("bytes_received"), INT8("bytes_sent"), INT8("xact_time"), INT8("query_time"),
    INT8("wait_time"), INT8("avg_client_parse_count"), INT8("avg_server_parse_count"),
    INT8("avg_bind_count"), INT8("avg_client_login_count")};

static const enum tally_number stats_numbers[] = {ASSIGNMENTS, TRANSACTIONS, QUERIES, RECEIVED,
    SENT, TRANSACTION_US, QUERY_US, WAIT_US, CLIENT_PARSES, SERVER_PARSES, BINDS, LOGINS};

enum
{
    STATS_NUMBERS = sizeof(stats_numbers) / sizeof(stats_numbers[0])
};

static void
add_totals(struct gather *gather, const struct tally *tally)
{
    for (int i = 0; i < STATS_NUMBERS; i++) {
        gather_int8(gather, tally->n[stats_numbers[i]]);
    }
}

/* Averages since the start: per second, and times per transaction, query and lease. */
static void
add_averages(struct gather *gather, const struct tally *tally)
{
    int64_t seconds = (loop_clock_us() - daemon_started_at_us(gather->daemon)) / 1000000 + 1;

    for (int i = 0; i < STATS_NUMBERS; i++) {
        enum tally_number number = stats_numbers[i];
        int64_t divisor = number == TRANSACTION_US ? tally->n[TRANSACTIONS]
                          : number == QUERY_US     ? tally->n[QUERIES]
                          : number == WAIT_US      ? tally->n[ASSIGNMENTS]
                                                   : seconds;
        gather_int8(gather, divisor > 0 ? tally->n[number] / divisor : 0);
    }
}

static void
finish_stats(struct gather *gather)
{
    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        size_t row = gather_row(gather);
        gather_text(gather, tally->database);
        if (gather->show->columns != averages_columns) {
            add_totals(gather, tally);
        }
        if (gather->show->columns != totals_columns) {
            add_averages(gather, tally);
        }
        message_end(&gather->rows, row);
    }
}

/* ---- LISTS, CONFIG, STATE, VERSION ---- */

static const struct message_column list_columns[] = {TEXT("list"), INT8("items")};
static const struct message_column config_columns[] = {
    TEXT("key"), TEXT("value"), TEXT("default"), TEXT("changeable"), TEXT("origin")};
static const struct message_column state_columns[] = {TEXT("key"), TEXT("value")};
static const struct message_column version_columns[] = {TEXT("version")};

static void
add_list(struct gather *gather, const char *name, int64_t items)
{
    size_t row = gather_row(gather);

    gather_text(gather, name);
    gather_int8(gather, items);
    message_end(&gather->rows, row);
}

static void
finish_lists(struct gather *gather)
{
    int64_t databases = 0, pools = 0, clients = 0, logins = 0, idle = 0, used = 0;
    size_t cursor = 0;

    while (settings_next_database(settings_of(gather), &cursor) != NULL) {
        databases++;
    }
    for (const struct tally *tally = gather->tallies; tally != NULL; tally = tally->next) {
        pools++;
        clients += tally->n[CL_ACTIVE] + tally->n[CL_WAITING];
        idle += tally->n[SV_IDLE];
        used += tally->n[SV_ACTIVE] + tally->n[SV_TESTED];
        logins += tally->n[SV_LOGIN];
    }
    add_list(gather, "databases", databases);
    add_list(gather, "users", (int64_t)users_count(settings_of(gather)->userlist));
    add_list(gather, "peers", 0);
    add_list(gather, "pools", pools);
    add_list(gather, "peer_pools", 0);
    add_list(gather, "free_clients", 0);
    add_list(gather, "used_clients", clients);
    add_list(gather, "login_clients", 0);
    add_list(gather, "free_servers", idle);
    add_list(gather, "used_servers", used + logins);
    add_list(gather, "dns_names", 0);
    add_list(gather, "dns_zones", 0);
    add_list(gather, "dns_queries", 0);
    add_list(gather, "dns_pending", 0);
}

static void
finish_config(struct gather *gather)
{
    struct settings_row setting;
    size_t cursor = 0;

    while (settings_next_row(settings_of(gather), &cursor, &setting)) {
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
    static const char *const rows[][2] = {{"active", "yes"}, {"paused", "no"}, {"suspended", "no"}};

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

/* ---- the table ---- */

#define COLUMNS(array) array, sizeof(array) / sizeof((array)[0])

static const struct show shows[] = {
    {"CLIENTS", COLUMNS(socket_columns), visit_clients, NULL},
    {"CONFIG", COLUMNS(config_columns), NULL, finish_config},
    {"DATABASES", COLUMNS(database_columns), gather_databases, finish_databases},
    {"LISTS", COLUMNS(list_columns), gather_pools, finish_lists},
    {"POOLS", COLUMNS(pool_columns), gather_pools, finish_pools},
    {"SERVERS", COLUMNS(socket_columns), visit_servers, NULL},
    {"STATE", COLUMNS(state_columns), NULL, finish_state},
    {"STATS", COLUMNS(stats_columns), gather_databases, finish_stats},
    {"STATS_AVERAGES", COLUMNS(averages_columns), gather_databases, finish_stats},
    {"STATS_TOTALS", COLUMNS(totals_columns), gather_databases, finish_stats},
    {"VERSION", COLUMNS(version_columns), NULL, finish_version},
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

struct show_columns
show_columns(const struct show *show)
{
    return (struct show_columns){show->columns, show->count};
}
