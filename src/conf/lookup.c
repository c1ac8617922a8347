/*
 * What holds for a pool: the user's value, else the database's, else the global one. Called by
 * everybody at run time, in any thread; nothing changes here but during loading, when settings.c's
 * callees add the users.
 */
#include "conf/settings.h"

#include "base/mem.h"
#include "base/text.h"
#include "conf/internal.h"

#include <ctype.h>

/* --- Loading a line of [users] --- */

static const struct
{
    const char *name;
    size_t index; /* whose range and kind it has */
    size_t offset;
} user_keys[] = {
    {"pool_size", KEY_default_pool_size, offsetof(struct user_settings, pool_size)},
    {"reserve_pool_size", KEY_reserve_pool_size,
        offsetof(struct user_settings, reserve_pool_size)},
    {"pool_mode", KEY_pool_mode, offsetof(struct user_settings, pool_mode)},
    {"max_user_connections", KEY_max_user_connections,
        offsetof(struct user_settings, max_user_connections)},
    {"query_wait_timeout", KEY_query_wait_timeout,
        offsetof(struct user_settings, query_wait_timeout)},
    {"query_timeout", KEY_query_timeout, offsetof(struct user_settings, query_timeout)},
    {"transaction_timeout", KEY_transaction_timeout,
        offsetof(struct user_settings, transaction_timeout)},
    {"idle_transaction_timeout", KEY_idle_transaction_timeout,
        offsetof(struct user_settings, idle_transaction_timeout)},
    {"max_user_client_connections", KEY_max_user_client_connections,
        offsetof(struct user_settings, max_user_client_connections)},
    {"client_idle_timeout", KEY_client_idle_timeout,
        offsetof(struct user_settings, client_idle_timeout)},
};

struct draft
{
    struct loader *loader;
    const char *place;
    struct user_settings *user;
};

static void
take_pair(void *arg, const char *key, const char *value)
{
    struct draft *draft = arg;
    struct guess guess = {NULL, LONGEST_GUESS + 1};
    char why[300];
    char path[160];

    snprintf(path, sizeof(path), "%s: %s", draft->user->name, key);
    for (size_t i = 0; i < sizeof(user_keys) / sizeof(user_keys[0]); i++) {
        guess_consider(&guess, key, user_keys[i].name);
        if (strcmp(user_keys[i].name, key) != 0) {
            continue;
        }
        if (!key_read_or_unset(&conf_keys[user_keys[i].index],
                (char *)draft->user + user_keys[i].offset, value, why, sizeof(why))) {
            loader_report(draft->loader, SETTINGS_ERROR, draft->place, path, "%s", why);
        }
        return;
    }
    guess_print(&guess, why, sizeof(why));
    loader_report(draft->loader, SETTINGS_ERROR, draft->place, path, "unknown key%s", why);
}

void
user_settings_read(
    struct loader *loader, const char *place, const char *name, const char *value)
{
    struct user_settings **users = &loader->settings->internal->users;
    struct user_settings *user;
    struct draft draft = {loader, place, NULL};
    char why[200];

    if (name[0] == '\0') {
        loader_report(loader, SETTINGS_ERROR, place, "", "the name is empty");
        return;
    }
    HASH_FIND_STR(*users, name, user);
    if (user != NULL) {
        loader_report(
            loader, SETTINGS_ERROR, place, name, "given twice, first at %s", user->place);
        return;
    }
    user = mem_new(sizeof(*user));
    user->name = mem_string(name);
    text_copy(user->place, sizeof(user->place), place);
    user->pool_size = user->reserve_pool_size = user->max_user_connections = NOT_SET;
    user->max_user_client_connections = NOT_SET;
    user->query_wait_timeout = user->query_timeout = user->transaction_timeout = NOT_SET;
    user->idle_transaction_timeout = user->client_idle_timeout = NOT_SET;
    user->pool_mode = NOT_SET;
    HASH_ADD_KEYPTR(hh, *users, user->name, strlen(user->name), user);

    char *text = mem_string(value);
    draft.user = user;
    if (!pairs_split(text, take_pair, &draft, why, sizeof(why))) {
        loader_report(loader, SETTINGS_ERROR, place, name, "%s", why);
    }
    text_wipe(&text);
}

/* --- Looking up --- */

static const struct user_settings *
find_user(const struct settings *settings, const char *name)
{
    struct user_settings *user = NULL;

    if (name != NULL) {
        HASH_FIND_STR(settings->internal->users, name, user);
    }
    return user;
}

const struct database *
settings_find_database(const struct settings *settings, const char *name)
{
    struct database_entry *entry = NULL;

    HASH_FIND_STR(settings->internal->databases, name, entry);
    if (entry == NULL) {
        HASH_FIND_STR(settings->internal->databases, "*", entry);
    }
    return entry == NULL ? NULL : &entry->database;
}

const char *
database_keyword(const struct database *database, const char *keyword)
{
    for (int i = 0; database->keywords[i] != NULL; i++) {
        if (strcmp(database->keywords[i], keyword) == 0) {
            return database->values[i];
        }
    }
    return NULL;
}

const struct database *
settings_next_database(const struct settings *settings, size_t *cursor)
{
    struct database_entry *entry = settings->internal->order[*cursor];

    *cursor += entry == NULL ? 0 : 1;
    return entry == NULL ? NULL : &entry->database;
}

static int64_t
first_set(int64_t user, int64_t database, int64_t global)
{
    if (user != NOT_SET) {
        return user;
    }
    return database != NOT_SET ? database : global;
}

/* The value of a member, NOT_SET when there is no such user or database. */
#define OF(object, member) ((object) == NULL ? NOT_SET : (int64_t)(object)->member)

enum pool_mode
settings_pool_mode(const struct settings *settings, const char *database, const char *user)
{
    const struct user_settings *u = find_user(settings, user);
    const struct database *d = settings_find_database(settings, database);

    return (enum pool_mode)first_set(OF(u, pool_mode), OF(d, pool_mode), settings->pool_mode);
}

int64_t
settings_pool_size(const struct settings *settings, const char *database, const char *user)
{
    const struct user_settings *u = find_user(settings, user);
    const struct database *d = settings_find_database(settings, database);

    return first_set(OF(u, pool_size), OF(d, pool_size), settings->default_pool_size);
}

int64_t
settings_reserve_pool_size(const struct settings *settings, const char *database, const char *user)
{
    const struct user_settings *u = find_user(settings, user);
    const struct database *d = settings_find_database(settings, database);

    return first_set(
        OF(u, reserve_pool_size), OF(d, reserve_pool_size), settings->reserve_pool_size);
}

int64_t
settings_min_pool_size(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return first_set(NOT_SET, OF(d, min_pool_size), settings->min_pool_size);
}

int64_t
settings_max_db_connections(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return first_set(NOT_SET, OF(d, max_db_connections), settings->max_db_connections);
}

int64_t
settings_max_db_client_connections(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return first_set(
        NOT_SET, OF(d, max_db_client_connections), settings->max_db_client_connections);
}

int64_t
settings_max_user_client_connections(const struct settings *settings, const char *user)
{
    const struct user_settings *u = find_user(settings, user);

    return first_set(
        OF(u, max_user_client_connections), NOT_SET, settings->max_user_client_connections);
}

int64_t
settings_max_user_connections(const struct settings *settings, const char *user)
{
    const struct user_settings *u = find_user(settings, user);

    return first_set(OF(u, max_user_connections), NOT_SET, settings->max_user_connections);
}

int64_t
settings_password_command_ttl(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return first_set(NOT_SET, OF(d, password_command_ttl), settings->password_command_ttl);
}

int64_t
settings_server_lifetime(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return first_set(NOT_SET, OF(d, server_lifetime), settings->server_lifetime);
}

int64_t
settings_query_wait_timeout(
    const struct settings *settings, const char *database, const char *user)
{
    const struct user_settings *u = find_user(settings, user);
    const struct database *d = settings_find_database(settings, database);

    return first_set(
        OF(u, query_wait_timeout), OF(d, query_wait_timeout), settings->query_wait_timeout);
}

const char *
settings_auth_user(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return d != NULL && d->auth_user != NULL ? d->auth_user : settings->auth_user;
}

const char *
settings_auth_query(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return d != NULL && d->auth_query != NULL ? d->auth_query : settings->auth_query;
}

const char *
settings_auth_dbname(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);
    const char *name = d != NULL && d->auth_dbname != NULL ? d->auth_dbname : settings->auth_dbname;

    return name[0] != '\0' ? name : database;
}

const char *
settings_connect_query(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    return d == NULL ? NULL : d->connect_query;
}

int64_t
settings_query_timeout(const struct settings *settings, const char *user)
{
    const struct user_settings *u = find_user(settings, user);

    return first_set(OF(u, query_timeout), NOT_SET, settings->query_timeout);
}

int64_t
settings_transaction_timeout(const struct settings *settings, const char *user)
{
    const struct user_settings *u = find_user(settings, user);

    return first_set(OF(u, transaction_timeout), NOT_SET, settings->transaction_timeout);
}

int64_t
settings_idle_transaction_timeout(const struct settings *settings, const char *user)
{
    const struct user_settings *u = find_user(settings, user);

    return first_set(
        OF(u, idle_transaction_timeout), NOT_SET, settings->idle_transaction_timeout);
}

int64_t
settings_client_idle_timeout(const struct settings *settings, const char *user)
{
    const struct user_settings *u = find_user(settings, user);

    return first_set(OF(u, client_idle_timeout), NOT_SET, settings->client_idle_timeout);
}

const char *
settings_session_attributes(const struct settings *settings, const char *database)
{
    const struct database *d = settings_find_database(settings, database);

    for (int i = 0; d != NULL && d->keywords[i] != NULL; i++) {
        if (strcmp(d->keywords[i], "target_session_attrs") == 0) {
            return d->values[i];
        }
    }
    return "any";
}

bool
settings_lists(const char *list, const char *name)
{
    size_t len = strlen(name);

    while (*list != '\0') {
        list += strspn(list, ", \t");
        size_t word = strcspn(list, ",");
        size_t trimmed = word;
        while (trimmed > 0 && isblank((unsigned char)list[trimmed - 1])) {
            trimmed--;
        }
        if (trimmed == len && len > 0 && memcmp(list, name, len) == 0) {
            return true;
        }
        list += word;
    }
    return false;
}
