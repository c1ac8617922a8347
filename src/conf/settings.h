/*
 * What the operator wants: one immutable snapshot of configuration file, environment and command
 * line, users included. Every key is one line of settings.def; from that line come the member
 * below, its default, range check, INI key, environment variable, origin for SHOW CONFIG, sample
 * file and reference.
 *
 * Snapshots are counted and may be held by any thread (`shared`); nothing in them changes after
 * loading.
 */
#pragma once

#include "base/fail.h"

#include <stdint.h>
#include <stdio.h>

struct users;
struct user;
struct settings_private;

enum pool_mode
{
    POOL_SESSION,
    POOL_TRANSACTION,
    POOL_STATEMENT
};
enum auth_type
{
    AUTH_TYPE_ANY,
    AUTH_TYPE_TRUST,
    AUTH_TYPE_PLAIN,
    AUTH_TYPE_MD5,
    AUTH_TYPE_SCRAM,
    AUTH_TYPE_CERT,
    AUTH_TYPE_HBA,
    AUTH_TYPE_PAM
};
enum log_format
{
    LOG_FORMAT_TEXT,
    LOG_FORMAT_JSON
};
enum transparent_retry
{
    RETRY_OFF,
    RETRY_UNREAD,
    RETRY_ABORTED,
    RETRY_READS
};
enum drain_mode
{
    DRAIN_TRANSACTION,
    DRAIN_CLIENT
};

/* Types of the members: BOOL bool, COUNT and SIZE (bytes) and DURATION (microseconds) int64_t,
 * DECIMAL double, MODE int64_t (octal), STRING const char * (never NULL), enumerations their enum.
 */
struct settings
{
#define SETTING(key, kind, ...) SETTING_TYPE_##kind key;
#define SETTING_TYPE_BOOL bool
#define SETTING_TYPE_COUNT int64_t
#define SETTING_TYPE_SIZE int64_t
#define SETTING_TYPE_DURATION int64_t
#define SETTING_TYPE_MODE int64_t
#define SETTING_TYPE_DECIMAL double
#define SETTING_TYPE_STRING const char *
#define SETTING_TYPE_POOL_MODE enum pool_mode
#define SETTING_TYPE_AUTH_TYPE enum auth_type
#define SETTING_TYPE_LOG_FORMAT enum log_format
#define SETTING_TYPE_RETRY enum transparent_retry
#define SETTING_TYPE_DRAIN_MODE enum drain_mode
#include "conf/settings.def"
#undef SETTING

    const struct users *userlist;      /* owns; never NULL */
    struct hba *hba;                   /* owns; with auth_type = hba never NULL */
    uint64_t serial;                   /* no other snapshot of this process has it; never 0 */
    struct settings_private *internal; /* owns: databases, per-user settings, origins, the count */
};

enum
{
    NOT_SET = -1
}; /* of the numbers below: the global value counts */

/* A line of [databases]. */
struct database
{
    const char *name; /* "*" for the fallback */
    const char *
        *keywords; /* own: libpq's, NULL-terminated, as for PQconnectStartParams(); without user, */
    const char **values;       /* password, dbname (below) and pooling keys */
    const char *dbname;        /* NULL: the name that the client asked for */
    const char *user;          /* forced for every client, or NULL */
    const char *password;      /* secret, or NULL */
    const char *host, *port;   /* for people: "" when libpq decides */
    const char *connect_query; /* or NULL, as the next five */
    const char *auth_user, *auth_query, *auth_dbname;
    const char *password_file; /* read anew for each connection */
    const char *password_command; /* run for a new connection when what it gave is too old */
    const char
        *identity; /* differs when anything that concerns connecting differs; no secret in clear */
    int64_t pool_size, min_pool_size, reserve_pool_size, max_db_connections,
        max_db_client_connections;
    int64_t server_lifetime, query_wait_timeout, password_command_ttl;
    int pool_mode;
};

enum settings_severity
{
    SETTINGS_INFO,
    SETTINGS_WARNING,
    SETTINGS_ERROR
};

/* One call per finding: `place` is "file:line", "environment", "environment PGKEEL_KEY" or "command
 * line"; key may be "". */
typedef void settings_report_fn(void *arg, enum settings_severity severity, const char *place,
    const char *key, const char *text);

/* libpq's reading of a URL, given from outside because conf does not know libpq. */
typedef bool conninfo_parse_fn(const char *conninfo,
    void (*each)(void *arg, const char *keyword, const char *value), void *arg, char *error,
    size_t size);

struct settings_source
{
    const char *path;             /* file, or NULL: none */
    const char *text;             /* instead of a file: its content (tests, fuzzing), or NULL */
    char **environment;           /* environ, or NULL */
    const char *const *overrides; /* "key=value" of the command line, NULL-terminated, or NULL */
    conninfo_parse_fn *parse_conninfo;
    const char *const *changes;   /* the same of the console's SET; not NULL: files are not read
                                     anew, but taken as they were */
};

/* The file that PGKEEL_CONFIG names, for when the command line names none; NULL: neither does. */
const char *settings_usual_path(void);

/* Reads everything and reports every finding. NULL after any error. Main thread. */
struct settings *settings_load(
    const struct settings_source *source, settings_report_fn *report, void *arg);

/* Whether a key can be changed while we run. */
bool settings_is_live(const char *key);

/* One more, one less holder. Any thread. */
struct settings *settings_hold(struct settings *settings);
void settings_release(struct settings **settings);

/* The database of that name, else the fallback "*", else NULL. Borrowed from the snapshot. */
const struct database *settings_find_database(const struct settings *settings, const char *name);

/* What libpq is told for this keyword of its own, or NULL. */
const char *database_keyword(const struct database *database, const char *keyword);

/* Walks all databases in the order of the file; set *cursor to 0 first. */
const struct database *settings_next_database(const struct settings *settings, size_t *cursor);

/* What holds for this pool: the user's value, else the database's, else the global one. */
enum pool_mode settings_pool_mode(
    const struct settings *settings, const char *database, const char *user);
int64_t settings_pool_size(const struct settings *settings, const char *database, const char *user);
int64_t settings_reserve_pool_size(
    const struct settings *settings, const char *database, const char *user);
int64_t settings_min_pool_size(const struct settings *settings, const char *database);
int64_t settings_max_db_connections(const struct settings *settings, const char *database);
int64_t settings_max_db_client_connections(const struct settings *settings, const char *database);
int64_t settings_max_user_connections(const struct settings *settings, const char *user);
int64_t settings_max_user_client_connections(const struct settings *settings, const char *user);
int64_t settings_password_command_ttl(const struct settings *settings, const char *database);
int64_t settings_server_lifetime(const struct settings *settings, const char *database);
int64_t settings_query_wait_timeout(
    const struct settings *settings, const char *database, const char *user);
int64_t settings_query_timeout(const struct settings *settings, const char *user);
int64_t settings_transaction_timeout(const struct settings *settings, const char *user);
int64_t settings_idle_transaction_timeout(const struct settings *settings, const char *user);
int64_t settings_client_idle_timeout(const struct settings *settings, const char *user);

/* libpq's target_session_attrs of its connection string; "any" when it has none. */
const char *settings_session_attributes(const struct settings *settings, const char *database);
const char *settings_connect_query(const struct settings *settings, const char *database);

/* How users of the database are looked up; the user is "" when they are not. */
const char *settings_auth_user(const struct settings *settings, const char *database);
const char *settings_auth_query(const struct settings *settings, const char *database);
const char *settings_auth_dbname(const struct settings *settings, const char *database);

/* Whether the name is in a list like admin_users: "ann, bob". */
bool settings_lists(const char *list, const char *name);

/* SHOW CONFIG: all keys in the order of settings.def; set *cursor to 0 first. Values are text,
 * secrets masked. */
struct settings_row
{
    const char *key;
    char value[1024];
    const char *default_value;
    bool is_changeable; /* LIVE: a reload is enough */
    char origin[256]; /* "default", "file:line", "environment PGKEEL_KEY", "command line", "SET" */
};

bool settings_next_row(
    const struct settings *settings, size_t *cursor, struct settings_row *row_out);

enum settings_print
{
    PRINT_TABLE,
    PRINT_INI,
    PRINT_MARKDOWN,
    PRINT_MAN /* pgkeel.ini(5), always with the defaults */
};

/* Every key with value, origin and help; databases with secrets masked. settings NULL: the
 * defaults. */
void settings_print(const struct settings *settings, enum settings_print how, FILE *to);
