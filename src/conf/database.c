/*
 * A line of [databases] or a DATABASE_URL: takes the pooling keys out of a connection string,
 * checks that libpq will know the rest, and completes it from the global keys. Called from
 * settings.c once all keys are known. Messages never quote values: any of them may be a password,
 * above all in a string that was split wrongly.
 */
#include "conf/internal.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"

#include <ctype.h>
#include <strings.h>

/* Ours, of any text. */
static const struct
{
    const char *name;
    size_t offset;
} text_keys[] = {
    {"connect_query", offsetof(struct database, connect_query)},
    {"auth_user", offsetof(struct database, auth_user)},
    {"auth_query", offsetof(struct database, auth_query)},
    {"auth_dbname", offsetof(struct database, auth_dbname)},
    {"password_file", offsetof(struct database, password_file)},
    {"password_command", offsetof(struct database, password_command)},
};

enum
{
    TEXTS = sizeof(text_keys) / sizeof(text_keys[0])
};

/* What is being put together; the arrays have room for all keywords and the NULL. */
struct draft
{
    struct loader *loader;
    const struct raw_database *raw;
    struct database_entry *entry; /* owns until it is added to the settings */
    size_t count;                 /* of keywords */
    char *dbname, *user, *password; /* own, until the entry does */
    char *texts[TEXTS];             /* the same, as text_keys[] */
    struct buf options;           /* what datestyle and timezone add to libpq's options */
    bool has_failed;
};

static const struct
{
    const char *name;
    size_t index; /* whose range and kind it has */
    size_t offset;
} pool_keys[] = {
    {"pool_size", KEY_default_pool_size, offsetof(struct database, pool_size)},
    {"min_pool_size", KEY_min_pool_size, offsetof(struct database, min_pool_size)},
    {"reserve_pool_size", KEY_reserve_pool_size, offsetof(struct database, reserve_pool_size)},
    {"reserve_pool", KEY_reserve_pool_size, offsetof(struct database, reserve_pool_size)},
    {"pool_mode", KEY_pool_mode, offsetof(struct database, pool_mode)},
    {"query_wait_timeout", KEY_query_wait_timeout, offsetof(struct database, query_wait_timeout)},
    {"max_db_connections", KEY_max_db_connections, offsetof(struct database, max_db_connections)},
    {"max_db_client_connections", KEY_max_db_client_connections,
        offsetof(struct database, max_db_client_connections)},
    {"server_lifetime", KEY_server_lifetime, offsetof(struct database, server_lifetime)},
    {"password_command_ttl", KEY_password_command_ttl,
        offsetof(struct database, password_command_ttl)},
};

/* Ours too, but not numbers; load_balance_hosts because PgBouncer has a value of its own for it. */
static const char *const special_keys[] = {"connect_query", "auth_user", "auth_query",
    "auth_dbname", "password_file", "password_command", "datestyle", "timezone",
    "load_balance_hosts"};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static bool
is_pool_key(const char *key)
{
    for (size_t i = 0; i < LENGTH(pool_keys); i++) {
        if (strcmp(pool_keys[i].name, key) == 0) {
            return true;
        }
    }
    return text_is_in(special_keys, LENGTH(special_keys), key);
}

__attribute__((format(printf, 4, 5))) static void
complain(struct draft *draft, enum settings_severity severity, const char *key,
    const char *format, ...)
{
    char path[160];
    char text[500];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(path, sizeof(path), "%s%s%s", draft->raw->name == NULL ? "" : draft->raw->name,
        draft->raw->name == NULL || key[0] == '\0' ? "" : ": ", key);
    draft->has_failed = draft->has_failed || severity == SETTINGS_ERROR;
    loader_report(draft->loader, severity, draft->raw->place, path, "%s", text);
}

static void
complain_unknown(struct draft *draft, const char *key)
{
    struct guess guess = {NULL, LONGEST_GUESS + 1};
    char hint[120];

    for (size_t i = 0; i < LENGTH(pool_keys); i++) {
        guess_consider(&guess, key, pool_keys[i].name);
    }
    for (size_t i = 0; i < LENGTH(special_keys); i++) {
        guess_consider(&guess, key, special_keys[i]);
    }
    keyword_consider(&guess, key);
    guess_print(&guess, hint, sizeof(hint));
    complain(draft, SETTINGS_ERROR, key, "unknown key%s", hint);
}

/* --- libpq's keywords --- */

static const char *
keyword_value(const struct draft *draft, const char *keyword)
{
    for (size_t i = 0; i < draft->count; i++) {
        if (strcmp(draft->entry->database.keywords[i], keyword) == 0) {
            return draft->entry->database.values[i];
        }
    }
    return NULL;
}

/* As in libpq, the last of several counts. */
static void
keyword_add(struct draft *draft, const char *keyword, const char *value)
{
    struct database *database = &draft->entry->database;

    for (size_t i = 0; i < draft->count; i++) {
        if (strcmp(database->keywords[i], keyword) == 0) {
            text_wipe((char **)&database->values[i]);
            database->values[i] = mem_string(value);
            return;
        }
    }
    if (draft->count == KEYWORD_LIMIT) {
        complain(draft, SETTINGS_ERROR, keyword, "more than %d keywords", KEYWORD_LIMIT);
        return;
    }
    database->keywords[draft->count] = mem_string(keyword);
    database->values[draft->count++] = mem_string(value);
}

static void
keyword_default(struct draft *draft, const char *keyword, const char *value)
{
    if (value[0] != '\0' && keyword_value(draft, keyword) == NULL) {
        keyword_add(draft, keyword, value);
    }
}

static void
keyword_default_number(struct draft *draft, const char *keyword, int64_t value)
{
    char text[32];

    if (value > 0) {
        snprintf(text, sizeof(text), "%lld", (long long)value);
        keyword_default(draft, keyword, text);
    }
}

static void
ignore_pair(void *arg, const char *keyword, const char *value)
{
    (void)arg;
    (void)keyword;
    (void)value;
}

/* A keyword that a newer libpq has: better told now than at each connection. */
static bool
check_newer(struct draft *draft, const char *key)
{
    conninfo_parse_fn *parse = draft->loader->source->parse_conninfo;
    char probe[80];
    char error[200];

    snprintf(probe, sizeof(probe), "%s=x", key);
    if (parse == NULL || !keyword_is_newer(key) ||
        parse(probe, ignore_pair, NULL, error, sizeof(error))) {
        return true;
    }
    complain(draft, SETTINGS_ERROR, key, "this version of libpq does not know it");
    return false;
}

static void
check_ports(struct draft *draft, const char *value)
{
    const char *at = value;

    while (at != NULL) {
        char port[8];
        int64_t number;
        size_t len = strcspn(at, ",");
        snprintf(port, sizeof(port), "%.*s", (int)len, at);
        if (len > 0 && (len > 5 || !text_parse_integer(port, false, &number) || number < 1 ||
                           number > 65535)) {
            complain(draft, SETTINGS_ERROR, "port", "must be between 1 and 65535");
            return;
        }
        at = at[len] == ',' ? at + len + 1 : NULL;
    }
}

static void
take_keyword(struct draft *draft, const char *key, const char *value)
{
    if (!keyword_is_known(key)) {
        complain_unknown(draft, key);
        return;
    }
    if (strcmp(key, "gssencmode") == 0 && strcmp(value, "disable") != 0) {
        complain(draft, SETTINGS_ERROR, key, "must be disable: GSSAPI encryption is not built");
        return;
    }
    if (strcmp(key, "port") == 0) {
        check_ports(draft, value);
    }
    if (check_newer(draft, key)) {
        keyword_add(draft, key, value);
    }
}

/* --- Our keys --- */

/* "-c name=value" for libpq's options, which are split at spaces unless a backslash stands before.
 * */
static void
add_option(struct draft *draft, const char *name, const char *value)
{
    buf_print(&draft->options, "%s-c %s=", buf_len(&draft->options) > 0 ? " " : "", name);
    for (; *value != '\0'; value++) {
        if (isspace((unsigned char)*value) || *value == '\\') {
            buf_add_u8(&draft->options, '\\');
        }
        buf_add_u8(&draft->options, (uint8_t)*value);
    }
}

static void
take_special(struct draft *draft, const char *key, const char *value)
{
    const struct known *known = known_find(key);

    for (int i = 0; i < TEXTS; i++) {
        if (strcmp(text_keys[i].name, key) == 0) {
            free(draft->texts[i]);
            draft->texts[i] = value[0] == '\0' ? NULL : mem_string(value);
            return;
        }
    }
    if (known != NULL) {
        if (known_refuses(known, value)) {
            complain(draft, SETTINGS_ERROR, key, "%s", known->text);
        }
    } else if (strcmp(key, "load_balance_hosts") != 0) {
        add_option(draft, key, value);
    } else if (strcmp(value, "random") == 0) {
        take_keyword(draft, key, value);
    } else if (strcmp(value, "round-robin") == 0) {
        complain(draft, SETTINGS_INFO, key, "the hosts are tried in order; random spreads them");
    } else if (strcmp(value, "disable") != 0) { /* disable is libpq's own default */
        complain(draft, SETTINGS_ERROR, key, "must be one of disable, random, round-robin");
    }
}

static void
replace_secret(char **text, const char *value)
{
    text_wipe(text);
    *text = value[0] == '\0' ? NULL : mem_string(value);
}

static void
take_pair(void *arg, const char *key, const char *value)
{
    struct draft *draft = arg;
    char why[300];

    for (size_t i = 0; i < LENGTH(pool_keys); i++) {
        if (strcmp(pool_keys[i].name, key) != 0) {
            continue;
        }
        if (!key_read_or_unset(&conf_keys[pool_keys[i].index],
                (char *)&draft->entry->database + pool_keys[i].offset, value, why, sizeof(why))) {
            complain(draft, SETTINGS_ERROR, key, "%s", why);
        }
        return;
    }
    if (is_pool_key(key)) {
        take_special(draft, key, value);
    } else if (strcmp(key, "dbname") == 0) {
        replace_secret(&draft->dbname, value);
    } else if (strcmp(key, "user") == 0) {
        replace_secret(&draft->user, value);
    } else if (strcmp(key, "password") == 0) {
        replace_secret(&draft->password, value);
    } else {
        take_keyword(draft, key, value);
    }
}

/* --- URLs --- */

/* A parameter of a URL's query: ours is cut out, libpq's stays for libpq to decode. */
static bool
take_parameter(void *arg, const char *key, const char *value)
{
    struct draft *draft = arg;

    if (is_pool_key(key)) {
        take_pair(draft, key, value);
        return true;
    }
    if (keyword_is_known(key) || strcmp(key, "ssl") == 0) { /* JDBC's, which libpq takes in URLs */
        return !check_newer(draft, key);
    }
    complain_unknown(draft, key);
    return true;
}

static void
take_url_pair(void *arg, const char *key, const char *value)
{
    if (value != NULL && value[0] != '\0') {
        take_pair(arg, key, value);
    }
}

static void
read_url(struct draft *draft, char *url)
{
    conninfo_parse_fn *parse = draft->loader->source->parse_conninfo;
    char error[300] = "";

    if (!url_split(url, take_parameter, draft)) {
        complain(draft, SETTINGS_ERROR, "", "bad %%-escape in the URL's parameters");
        return;
    }
    if (parse == NULL) {
        complain(draft, SETTINGS_ERROR, "", "URLs cannot be read without libpq");
        return;
    }
    if (!parse(url, take_url_pair, draft, error, sizeof(error))) {
        error[strcspn(error, "\"\n")] = '\0'; /* after it libpq quotes, maybe the password */
        size_t len = strlen(error);
        while (len > 0 && (isspace((unsigned char)error[len - 1]) || error[len - 1] == ':')) {
            error[--len] = '\0';
        }
        complain(draft, SETTINGS_ERROR, "", "%s", len == 0 ? "not a URL for libpq" : error);
    }
}

/* --- Putting it together --- */

/* The keys server_tls_*. What belongs together is taken together: a key for another certificate, or
 * a highest version below the string's lowest, would let nothing connect. */
static void
add_tls_defaults(struct draft *draft, const struct settings *settings)
{
    const char *lowest, *highest;

    keyword_default(draft, "sslmode", settings->server_tls_sslmode);
    /* libpq verifies in every mode when it is given an authority, and where TLS is optional goes on
     * in clear when that fails. So, as in PgBouncer, none is given there. */
    const char *mode = keyword_value(draft, "sslmode");
    if (strcmp(mode, "require") == 0 || strncmp(mode, "verify-", 7) == 0) {
        keyword_default(draft, "sslrootcert", settings->server_tls_ca_file);
    }
    if (strncmp(mode, "verify-", 7) == 0 && keyword_value(draft, "sslrootcert") == NULL) {
        complain(draft, SETTINGS_WARNING, "sslmode",
            "%s without sslrootcert: only root.crt in ~/.postgresql will be trusted", mode);
    }
    if (keyword_value(draft, "sslcert") == NULL && keyword_value(draft, "sslkey") == NULL) {
        keyword_default(draft, "sslcert", settings->server_tls_cert_file);
        keyword_default(draft, "sslkey", settings->server_tls_key_file);
    }
    if (keyword_value(draft, "ssl_min_protocol_version") == NULL &&
        keyword_value(draft, "ssl_max_protocol_version") == NULL &&
        server_tls_range(settings->server_tls_protocols, &lowest, &highest)) {
        keyword_default(draft, "ssl_min_protocol_version", lowest);
        keyword_default(draft, "ssl_max_protocol_version", highest);
    }
}

static void
add_defaults(struct draft *draft)
{
    const struct settings *settings = draft->loader->settings;
    const char *options = keyword_value(draft, "options");

    keyword_default(draft, "gssencmode", "disable");
    add_tls_defaults(draft, settings);
    keyword_default(draft, "keepalives", settings->tcp_keepalive ? "1" : "0");
    keyword_default_number(draft, "keepalives_idle", settings->tcp_keepidle);
    keyword_default_number(draft, "keepalives_interval", settings->tcp_keepintvl);
    keyword_default_number(draft, "keepalives_count", settings->tcp_keepcnt);
    keyword_default_number(draft, "tcp_user_timeout", settings->tcp_user_timeout);
    if (buf_len(&draft->options) > 0) {
        struct buf all = {0};
        buf_print(&all, "%s%s", options == NULL ? "" : options, options == NULL ? "" : " ");
        buf_add(&all, buf_head(&draft->options), buf_len(&draft->options));
        buf_add_u8(&all, '\0');
        keyword_add(draft, "options", (const char *)buf_head(&all));
        buf_deinit(&all);
    }
}

static void
check_name(struct draft *draft, const char *name)
{
    if (name[0] == '\0') {
        complain(draft, SETTINGS_ERROR, "", "the name is empty");
    } else if (strlen(name) > NAME_LIMIT) {
        complain(draft, SETTINGS_ERROR, "", "the name is longer than %d bytes", NAME_LIMIT);
    } else if (strcmp(name, "pgkeel") == 0 || strcmp(name, "pgbouncer") == 0) {
        complain(draft, SETTINGS_ERROR, "", "this is the name of the console");
    }
}

/* What is read, but will not do what its writer thinks. */
static void
warn(struct draft *draft)
{
    const char *at = draft->raw->value;

    /* To PgBouncer a backslash is a letter like any other; to libpq it is not. */
    while (!is_url(draft->raw->value) && (at = strchr(at, '\\')) != NULL) {
        if (at[1] == '\0' || strchr("'\\ ", at[1]) == NULL) {
            complain(draft, SETTINGS_WARNING, "",
                "a backslash only takes away the meaning of what follows; for itself write two");
            return;
        }
        at += 2;
    }
}

/* DATABASE_URL: its user is who clients log in as, too. */
static void
add_login(struct draft *draft)
{
    if (draft->user == NULL) {
        return;
    }
    if (draft->dbname == NULL) {
        draft->dbname = mem_string(draft->user); /* as libpq does */
    }
    if (draft->password == NULL) {
        complain(draft, SETTINGS_WARNING, "", "has no password, so nobody can log in as \"%s\"",
            draft->user);
    }
    users_add(draft->loader->users, draft->user, draft->password == NULL ? "" : draft->password);
}

static void
draft_free(struct draft *draft)
{
    text_wipe(&draft->dbname);
    text_wipe(&draft->user);
    text_wipe(&draft->password);
    for (int i = 0; i < TEXTS; i++) {
        free(draft->texts[i]);
    }
    database_free(&draft->entry);
}

/* Gives the database to the settings, or throws it away when something was wrong. */
static void
finish(struct draft *draft)
{
    struct database_entry **all = &draft->loader->settings->internal->databases;
    struct database *database = &draft->entry->database;
    const char *name = draft->raw->name == NULL ? draft->dbname : draft->raw->name;

    if (name == NULL) {
        complain(draft, SETTINGS_ERROR, "", "names neither a database nor a user");
    } else {
        check_name(draft, name);
    }
    add_defaults(draft);
    struct database_entry *earlier = NULL;
    if (name != NULL) {
        HASH_FIND_STR(*all, name, earlier);
    }
    /* DATABASE_URL is read first, and wins over a line of the file. */
    if (draft->has_failed || earlier != NULL) {
        draft_free(draft);
        return;
    }
    database->name = mem_string(name);
    database->dbname = draft->dbname;
    database->user = draft->user;
    database->password = draft->password;
    for (int i = 0; i < TEXTS; i++) {
        *(char **)((char *)database + text_keys[i].offset) = draft->texts[i];
        draft->texts[i] = NULL;
    }
    if (database->password_file != NULL && database->password_command != NULL) {
        complain(draft, SETTINGS_ERROR, "password_command", "there is a password_file, too");
    }
    const char *host = keyword_value(draft, "host");
    const char *port = keyword_value(draft, "port");
    host = host == NULL ? keyword_value(draft, "hostaddr") : host;
    database->host = mem_string(host == NULL ? "" : host);
    database->port = mem_string(port == NULL ? "" : port);
    database->identity = identity_of(database);
    HASH_ADD_KEYPTR(hh, *all, database->name, strlen(database->name), draft->entry);
}

void
database_read(struct loader *loader, const struct raw_database *raw)
{
    struct draft draft = {.loader = loader, .raw = raw};
    struct database *database;
    char *text = mem_string(raw->value);
    char why[200];

    draft.entry = mem_new(sizeof(*draft.entry));
    database = &draft.entry->database;
    database->keywords = mem_new((KEYWORD_LIMIT + 1) * sizeof(*database->keywords));
    database->values = mem_new((KEYWORD_LIMIT + 1) * sizeof(*database->values));
    database->pool_size = database->min_pool_size = database->reserve_pool_size = NOT_SET;
    database->max_db_connections = database->max_db_client_connections = NOT_SET;
    database->server_lifetime = database->query_wait_timeout = NOT_SET;
    database->password_command_ttl = NOT_SET;
    database->pool_mode = NOT_SET;

    if (is_url(text)) {
        read_url(&draft, text);
    } else if (!pairs_split(text, take_pair, &draft, why, sizeof(why))) {
        complain(&draft, SETTINGS_ERROR, "", "%s", why);
    }
    warn(&draft);
    if (raw->is_login) {
        add_login(&draft);
    }
    finish(&draft);
    buf_deinit(&draft.options);
    text_wipe(&text);
}

void
database_free(struct database_entry **entry)
{
    struct database *database = &(*entry)->database;

    for (size_t i = 0; database->keywords[i] != NULL; i++) {
        free((char *)database->keywords[i]);
        text_wipe((char **)&database->values[i]); /* sslpassword may be among them */
    }
    free(database->keywords);
    free(database->values);
    free((char *)database->name);
    text_wipe((char **)&database->password);
    free((char *)database->dbname);
    free((char *)database->user);
    free((char *)database->host);
    free((char *)database->port);
    for (int i = 0; i < TEXTS; i++) {
        free(*(char **)((char *)database + text_keys[i].offset));
    }
    free((char *)database->identity);
    free(*entry);
    *entry = NULL;
}
