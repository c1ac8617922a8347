/*
 * What SHOW shows. Called by ops/console; reads clients and backends of each worker in that
 * worker's thread, and ledgers under their locks. Column names, order and types are PgBouncer's,
 * ours are appended.
 */
#include "ops/show.h"

#include "ops/columns.h"
#include "ops/endpoints.h"
#include "ops/gather.h"
#include "ops/sockets.h"

#include "conf/settings.h"
#include "conf/users.h"
#include "daemon/daemon.h"
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
    gather_int4(gather, 0);
    gather_int4(gather, 0);
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
    {"CLIENTS", socket_columns, SOCKET_COLUMNS, sockets_visit_clients, NULL},
    {"CONFIG", COLUMNS(config_columns), NULL, finish_config},
    {"DATABASES", COLUMNS(database_columns), gather_databases, finish_databases},
    {"ENDPOINTS", endpoint_columns, ENDPOINT_COLUMNS, NULL, endpoints_finish},
    {"LISTS", COLUMNS(list_columns), gather_pools, finish_lists},
    {"MEM", COLUMNS(memory_columns), gather_pools, finish_memory},
    {"POOLS", COLUMNS(pool_columns), gather_pools, finish_pools},
    {"PREPARED", prepared_columns, PREPARED_COLUMNS, NULL, prepared_finish},
    {"SERVERS", socket_columns, SOCKET_COLUMNS, sockets_visit_servers, NULL},
    {"STATE", COLUMNS(state_columns), NULL, finish_state},
    {"STATS", COLUMNS(stats_columns), gather_databases, finish_stats},
    {"STATS_AVERAGES", COLUMNS(averages_columns), gather_databases, finish_stats},
    {"STATS_TOTALS", COLUMNS(totals_columns), gather_databases, finish_stats},
    {"USERS", COLUMNS(user_columns), gather_pools, finish_users},
    {"VERSION", COLUMNS(version_columns), NULL, finish_version},
    {"WAITING", waiting_columns, WAITING_COLUMNS, endpoints_visit_waiting, NULL},
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
