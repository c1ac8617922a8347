/*
 * What the files of this folder share while a snapshot is being made. Nobody else includes it.
 *
 * Order of work: settings.c asks ini.c for the file, environment.c for the environment, and applies
 * the command line; each hands keys to loader_set(), and databases to loader_add_database(), which
 * keeps the bare text. database.c reads those texts last, because they take defaults from keys that
 * may come later.
 */
#pragma once

#include "base/buf.h"
#include "conf/settings.h"
#include "conf/users.h"

#include <stdatomic.h>
#include <uthash.h>

enum {
    PLACE_SIZE = 256,
    NAME_LIMIT = 63, /* PostgreSQL's names: NAMEDATALEN - 1 */
    KEYWORD_LIMIT = 60,
};

enum kind {
    KIND_BOOL,
    KIND_COUNT,
    KIND_SIZE,
    KIND_DURATION,
    KIND_MODE,
    KIND_DECIMAL,
    KIND_STRING,
    KIND_POOL_MODE,
    KIND_AUTH_TYPE,
    KIND_LOG_FORMAT,
    KIND_RETRY,
    KIND_DRAIN_MODE,
};

/* A line of settings.def. */
struct key
{
    const char *name;
    enum kind kind;
    const char *default_value;
    double low, high; /* seconds for a DURATION */
    bool is_live;
    const char *help;
    size_t offset; /* of the member in struct settings */
};

enum {
#define SETTING(key, ...) KEY_##key,
#include "conf/settings.def"
#undef SETTING
    KEY_COUNT
};

extern const struct key conf_keys[KEY_COUNT];

/* A line of known.def. */
struct known
{
    const char *name;
    const char *refused;
    const char *text;
};

/* A database with its place in the hash; names are unique. */
struct database_entry
{
    struct database database;
    UT_hash_handle hh;
};

/* A line of [users]; NOT_SET where the database or the global value counts. */
struct user_settings
{
    char *name; /* owns */
    int64_t pool_size, reserve_pool_size, max_user_connections,
        max_user_client_connections, query_wait_timeout;
    int64_t query_timeout, transaction_timeout, idle_transaction_timeout, client_idle_timeout;
    int pool_mode;
    char place[PLACE_SIZE];
    UT_hash_handle hh;
};

struct settings_private
{
    atomic_int holders;
    char *origins[KEY_COUNT];         /* own; NULL: default */
    struct database_entry *databases; /* owns; hash in the order of the file */
    struct database_entry **order;    /* owns the array only */
    struct user_settings *users;      /* owns; hash */
};

/* A database as written; read by database.c when all keys are known. */
struct raw_database
{
    char *name;  /* owns; NULL: DATABASE_URL, named by what it says */
    char *value; /* owns; secret */
    char place[PLACE_SIZE];
    bool is_login; /* its user and password become a login */
    UT_hash_handle hh;
};

/* One run of settings_load(). */
struct loader
{
    const struct settings_source *source;
    settings_report_fn *report;
    void *arg;
    struct settings *settings;
    struct users *users;
    struct raw_database *raw;     /* owns; hash by name */
    struct raw_database *unnamed; /* owns; DATABASE_URL, or NULL */
    bool has_failed;
    bool is_unread;   /* the file could not be read, so nothing of it is missing */
    bool is_too_deep; /* files include each other; no more is included */
};

/* --- keys.c --- */

const struct key *key_find(const char *name);
const struct known *known_find(const char *name);

/* Whether known.def refuses this value. */
bool known_refuses(const struct known *known, const char *value);

/* Reads text into a member of the key's type. False with a sentence in why. */
must_check bool key_read(
    const struct key *key, void *member, const char *text, char *why, size_t size);

/* The same for databases and users, where -1 means that the global value counts. */
must_check bool key_read_or_unset(
    const struct key *key, void *member, const char *text, char *why, size_t size);

static inline void *
key_member(const struct key *key, struct settings *settings)
{
    return (char *)settings + key->offset;
}

/* Writes the value of the member as text. */
void key_print(const struct key *key, const struct settings *settings, char *to, size_t size);

/* A bound of the key's range, as people write it. */
void key_print_bound(enum kind kind, double bound, char *to, size_t size);

/* One of the words of an enumeration; false when it is none. */
bool key_read_word(enum kind kind, const char *text, int *value_out);
const char *key_word(enum kind kind, int value);

/* The words of an enumeration, for messages: "session, transaction, statement". */
void key_list_words(enum kind kind, char *to, size_t size);

/* The nearest of the words, or NULL when none is near. Call it once for each candidate: best is
 * NULL and distance LONGEST_GUESS + 1 at first. */
enum { LONGEST_GUESS = 3 };
struct guess
{
    const char *best;
    unsigned distance;
};
void guess_consider(struct guess *guess, const char *typed, const char *candidate);
/* " (did you mean \"x\"?)" or nothing. */
void guess_print(const struct guess *guess, char *to, size_t size);
void guess_key(const char *typed, struct guess *guess);

/* --- settings.c --- */

__attribute__((format(printf, 5, 6))) void loader_report(struct loader *loader,
    enum settings_severity severity, const char *place, const char *key, const char *format, ...);

/* Sets a key from text; reports what is wrong with it. `place` becomes the origin. */
void loader_set(struct loader *loader, const char *place, const char *name, const char *value);

/* Where a key was set, for findings that come after reading; index: KEY_... */
const char *loader_origin(const struct loader *loader, size_t index);

/* Remembers a database; replaces one of the same name. Name NULL for DATABASE_URL. */
void loader_add_database(
    struct loader *loader, const char *place, const char *name, const char *value, bool is_login);

/* --- ini.c --- */

void ini_load(struct loader *loader);

/* --- environment.c --- */

void environment_load(struct loader *loader);

/* --- conninfo.c --- */

/* Splits "a = b c='d e'" in place and calls each for every pair; false with a sentence in why. */
typedef void pair_fn(void *arg, const char *key, const char *value);
must_check bool pairs_split(char *text, pair_fn *each, void *arg, char *why, size_t size);

bool is_url(const char *text);

/* Calls take for every parameter behind the ?, decoded, and cuts out of the URL, in place, those
 * for which it returns true. False for a bad %-escape. */
typedef bool parameter_fn(void *arg, const char *key, const char *value);
must_check bool url_split(char *url, parameter_fn *take, void *arg);

/* --- keywords.c --- */

/* Whether libpq has this keyword, in some version; whether only some versions do. */
bool keyword_is_known(const char *key);
bool keyword_is_newer(const char *key);
void keyword_consider(struct guess *guess, const char *typed);

/* --- identity.c --- */

/* A text that differs when anything that concerns connecting differs. The caller frees it. */
char *identity_of(const struct database *database);

/* --- database.c --- */

/* Makes struct database of what was written and adds it to the settings. */
void database_read(struct loader *loader, const struct raw_database *raw);
void database_free(struct database_entry **entry);

/* --- server_tls.c --- */

/* libpq's ssl_min_protocol_version and ssl_max_protocol_version for a list like "tlsv1.2,tlsv1.3"
 * or "secure"; the newest is no limit: "". False when it is none. */
must_check bool server_tls_range(
    const char *list, const char **lowest_out, const char **highest_out);

/* Reports what is wrong with the server_tls_* keys. */
void server_tls_check(struct loader *loader);

/* --- print.c --- */

/* settings.def in its order, for printing: key NULL is a heading, both NULL the end. */
struct printed_line
{
    const char *heading;
    const struct key *key;
};

extern const struct printed_line conf_lines[];

static inline bool
print_is_end(const struct printed_line *line)
{
    return line->heading == NULL && line->key == NULL;
}

/* "1 to 65535", "0 to 1d", or nothing where any text will do. */
void print_allowed(const struct key *key, char *to, size_t size);

/* --- manual.c --- */

/* pgkeel.ini(5), for man. */
void manual_print(FILE *to);

/* --- lookup.c --- */

/* A line of [users]. */
void user_settings_read(
    struct loader *loader, const char *place, const char *name, const char *value);
