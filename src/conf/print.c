/*
 * Showing settings: rows for SHOW CONFIG, and --print-settings as table, sample file or reference.
 * The manual page is manual.c's.
 * Passwords are in no key; of databases they are masked.
 */
#include "conf/settings.h"

#include "base/text.h"
#include "conf/internal.h"

const struct printed_line conf_lines[] = {
#define HEADING(text) {text, NULL},
#define SETTING(name, ...) {NULL, &conf_keys[KEY_##name]},
#include "conf/settings.def"
#undef SETTING
    {NULL, NULL},
};

bool
settings_next_row(const struct settings *settings, size_t *cursor, struct settings_row *row_out)
{
    if (*cursor >= KEY_COUNT) {
        return false;
    }
    const struct key *key = &conf_keys[*cursor];
    const char *origin = settings->internal->origins[*cursor];

    row_out->key = key->name;
    key_print(key, settings, row_out->value, sizeof(row_out->value));
    row_out->default_value = key->default_value;
    row_out->is_changeable = key->is_live;
    text_copy(row_out->origin, sizeof(row_out->origin), origin == NULL ? "default" : origin);
    (*cursor)++;
    return true;
}

void
print_allowed(const struct key *key, char *to, size_t size)
{
    char low[32];
    char high[32];

    to[0] = '\0';
    if (key->kind == KIND_BOOL) {
        text_copy(to, size, "0 or 1");
    } else if (key->kind > KIND_STRING) {
        key_list_words(key->kind, to, size);
    } else if (key->kind != KIND_STRING) {
        key_print_bound(key->kind, key->low, low, sizeof(low));
        key_print_bound(key->kind, key->high, high, sizeof(high));
        snprintf(to, size, "%s to %s", low, high);
    }
}

static bool
is_set(const struct settings *settings, const struct key *key)
{
    return settings != NULL && settings->internal->origins[key - conf_keys] != NULL;
}

static void
print_value(const struct settings *settings, const struct key *key, char *to, size_t size)
{
    if (is_set(settings, key)) {
        key_print(key, settings, to, size);
    } else {
        text_copy(to, size, key->default_value);
    }
}

/* Quoted as libpq reads it back. */
static void
print_pair(const char *key, const char *value, FILE *to)
{
    fprintf(to, " %s='", key);
    for (; *value != '\0'; value++) {
        if (*value == '\'' || *value == '\\') {
            fputc('\\', to);
        }
        fputc(*value, to);
    }
    fputc('\'', to);
}

static void
print_text(const char *key, const char *value, FILE *to)
{
    if (value != NULL) {
        print_pair(key, value, to);
    }
}

static void
print_limit(const char *key, int64_t value, FILE *to)
{
    if (value != NOT_SET) {
        fprintf(to, " %s=%lld", key, (long long)value);
    }
}

static void
print_time(const char *key, int64_t us, FILE *to)
{
    char text[32];

    if (us != NOT_SET) {
        text_print_duration(text, sizeof(text), us);
        fprintf(to, " %s=%s", key, text);
    }
}

static void
print_database(const struct database *database, const char *lead, FILE *to)
{
    fprintf(to, "%s%s =", lead, database->name);
    if (database->dbname != NULL) {
        print_pair("dbname", database->dbname, to);
    }
    if (database->user != NULL) {
        print_pair("user", database->user, to);
    }
    if (database->password != NULL) {
        fputs(" password=***", to);
    }
    for (size_t i = 0; database->keywords[i] != NULL; i++) {
        bool is_secret = strstr(database->keywords[i], "password") != NULL ||
                         strstr(database->keywords[i], "secret") != NULL ||
                         strstr(database->keywords[i], "scram_") != NULL;
        print_pair(database->keywords[i], is_secret ? "***" : database->values[i], to);
    }
    print_text("connect_query", database->connect_query, to);
    print_text("auth_user", database->auth_user, to);
    print_text("auth_query", database->auth_query, to);
    print_text("auth_dbname", database->auth_dbname, to);
    print_text("password_file", database->password_file, to);
    print_text("password_command", database->password_command, to);
    if (database->pool_mode != NOT_SET) {
        print_pair("pool_mode", key_word(KIND_POOL_MODE, database->pool_mode), to);
    }
    print_limit("pool_size", database->pool_size, to);
    print_limit("min_pool_size", database->min_pool_size, to);
    print_limit("reserve_pool_size", database->reserve_pool_size, to);
    print_limit("max_db_connections", database->max_db_connections, to);
    print_limit("max_db_client_connections", database->max_db_client_connections, to);
    print_time("server_lifetime", database->server_lifetime, to);
    print_time("query_wait_timeout", database->query_wait_timeout, to);
    print_time("password_command_ttl", database->password_command_ttl, to);
    fputc('\n', to);
}

static void
print_databases(const struct settings *settings, const char *lead, FILE *to)
{
    size_t cursor = 0;
    const struct database *database;

    while (settings != NULL && (database = settings_next_database(settings, &cursor)) != NULL) {
        print_database(database, lead, to);
    }
}

static void
print_table(const struct settings *settings, FILE *to)
{
    char value[1024];

    for (size_t i = 0; i < KEY_COUNT; i++) {
        const struct key *key = &conf_keys[i];
        print_value(settings, key, value, sizeof(value));
        fprintf(to, "%-28s %-24s %-20s %s\n", key->name, value[0] == '\0' ? "''" : value,
            is_set(settings, key) ? settings->internal->origins[i] : "default", key->help);
    }
    print_databases(settings, "database ", to);
}

static const char ini_top[] =
    "; pgkeel.ini: every key with its default. Written by: pgkeel --print-settings=ini\n"
    "; Lines that begin with ; or # are comments. Durations are seconds, or 500ms, 5min, 1h, 1d.\n"
    "; Each key can also be set as PGKEEL_<KEY> in the environment. %include FILE reads another\n"
    "; file.\n"
    "\n"
    "[databases]\n"
    "; name = any connection string of libpq: keywords, or a URL. The name * serves all others.\n"
    ";app = host=db.example.org port=5432 dbname=app\n"
    ";two = host=db1,db2 target_session_attrs=read-write pool_size=50 pool_mode=session\n"
    ";url = postgresql://db.example.org/app?sslmode=verify-full&pool_size=10\n"
    ";* = host=db.example.org\n"
    "; Of pgkeel: pool_size min_pool_size reserve_pool_size pool_mode max_db_connections\n"
    ";   max_db_client_connections server_lifetime query_wait_timeout connect_query\n"
    ";   auth_user auth_query auth_dbname password_file password_command password_command_ttl\n"
    ";   datestyle timezone. user and password, when given, hold for every client.\n";

static const char ini_users[] =
    "\n[users]\n"
    "; name = pool_size reserve_pool_size pool_mode max_user_connections query_wait_timeout\n"
    ";reports = pool_mode=session pool_size=5 query_wait_timeout=10min\n"
    "\n[pgkeel]\n";

static void
print_ini(const struct settings *settings, FILE *to)
{
    char value[1024];
    char allowed[120];

    fputs(ini_top, to);
    print_databases(settings, "", to);
    fputs(ini_users, to);
    for (size_t i = 0; !print_is_end(&conf_lines[i]); i++) {
        const struct key *key = conf_lines[i].key;
        if (key == NULL) {
            fprintf(to, "%s;;; %s\n\n", i == 0 ? "" : "\n", conf_lines[i].heading);
            continue;
        }
        print_value(settings, key, value, sizeof(value));
        print_allowed(key, allowed, sizeof(allowed));
        fprintf(to, "; %s\n", key->help);
        if (allowed[0] != '\0' || !key->is_live) {
            fprintf(to, "; %s%s%s\n", allowed, allowed[0] != '\0' && !key->is_live ? "; " : "",
                key->is_live ? "" : "needs a restart");
        }
        fprintf(to, "%s%s =%s%s\n", is_set(settings, key) ? "" : ";", key->name,
            value[0] == '\0' ? "" : " ", value);
    }
}

/* A cell must not end early. */
static void
print_cell(const char *text, FILE *to)
{
    for (; *text != '\0'; text++) {
        if (*text == '|' || *text == '*') {
            fputc('\\', to);
        }
        fputc(*text, to);
    }
}

static void
print_markdown(const struct settings *settings, FILE *to)
{
    char value[1024];
    char allowed[120];

    fputs("# Settings\n", to);
    for (size_t i = 0; !print_is_end(&conf_lines[i]); i++) {
        const struct key *key = conf_lines[i].key;
        if (key == NULL) {
            fprintf(to, "\n## %s\n\n", conf_lines[i].heading);
            fputs("| key | default | allowed | reload | |\n|---|---|---|---|---|\n", to);
            continue;
        }
        print_value(settings, key, value, sizeof(value));
        print_allowed(key, allowed, sizeof(allowed));
        fprintf(to, "| `%s` | %s%s%s | %s | %s | ", key->name, value[0] == '\0' ? "" : "`", value,
            value[0] == '\0' ? "" : "`", allowed, key->is_live ? "yes" : "no");
        print_cell(key->help, to);
        fputs(" |\n", to);
    }
}

void
settings_print(const struct settings *settings, enum settings_print how, FILE *to)
{
    switch (how) {
    case PRINT_TABLE:
        print_table(settings, to);
        return;
    case PRINT_INI:
        print_ini(settings, to);
        return;
    case PRINT_MARKDOWN:
        print_markdown(settings, to);
        return;
    case PRINT_MAN:
        manual_print(to);
        return;
    }
}
