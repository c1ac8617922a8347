/*
 * One snapshot from all sources: default < file < environment < command line. Called by the daemon
 * at the start and on reload; calls ini.c, environment.c, then database.c, because databases take
 * defaults from the keys. A finding never ends the work: every error of every source is reported
 * before settings_load() gives up.
 */
#include "conf/settings.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/text.h"
#include "conf/files.h"
#include "conf/hba.h"
#include "conf/internal.h"

#include <ctype.h>
#include <errno.h>
#include <strings.h>

void
loader_report(struct loader *loader, enum settings_severity severity, const char *place,
    const char *key, const char *format, ...)
{
    char text[700];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    loader->has_failed = loader->has_failed || severity == SETTINGS_ERROR;
    loader->report(loader->arg, severity, place, key, text);
}

static void
origin_remember(struct loader *loader, const struct key *key, const char *place)
{
    char **origin = &loader->settings->internal->origins[key - conf_keys];

    free(*origin);
    *origin = mem_string(place);
}

const char *
loader_origin(const struct loader *loader, size_t index)
{
    const char *origin = loader->settings->internal->origins[index];

    return origin == NULL ? "default" : origin;
}

void
loader_set(struct loader *loader, const char *place, const char *name, const char *value)
{
    const struct key *key = key_find(name);
    const struct known *known = known_find(name);
    char why[300];

    if (known != NULL && known_refuses(known, value)) {
        loader_report(loader, SETTINGS_ERROR, place, name, "%s", known->text);
    } else if (key != NULL) {
        origin_remember(loader, key, place);
        if (!key_read(key, key_member(key, loader->settings), value, why, sizeof(why))) {
            loader_report(loader, SETTINGS_ERROR, place, name, "%s", why);
        }
    } else if (known != NULL) {
        loader_report(loader, SETTINGS_INFO, place, name, "not needed: %s", known->text);
    } else {
        struct guess guess = {NULL, LONGEST_GUESS + 1};
        guess_key(name, &guess);
        guess_print(&guess, why, sizeof(why));
        loader_report(loader, SETTINGS_ERROR, place, name, "unknown key%s", why);
    }
}

static void
raw_free(struct raw_database **raw)
{
    if (*raw != NULL) {
        text_wipe(&(*raw)->value);
        free((*raw)->name);
        free(*raw);
        *raw = NULL;
    }
}

void
loader_add_database(
    struct loader *loader, const char *place, const char *name, const char *value, bool is_login)
{
    struct raw_database *raw = mem_new(sizeof(*raw));
    struct raw_database *earlier = NULL;

    raw->name = mem_string(name);
    raw->value = mem_string(value);
    raw->is_login = is_login;
    text_copy(raw->place, sizeof(raw->place), place);
    if (name == NULL) {
        raw_free(&loader->unnamed);
        loader->unnamed = raw;
        return;
    }
    HASH_FIND_STR(loader->raw, name, earlier);
    if (earlier != NULL) {
        HASH_DEL(loader->raw, earlier);
        raw_free(&earlier);
    }
    HASH_ADD_KEYPTR(hh, loader->raw, raw->name, strlen(raw->name), raw);
}

static void
load_defaults(struct settings *settings)
{
    char why[300];

    for (size_t i = 0; i < KEY_COUNT; i++) {
        const struct key *key = &conf_keys[i];
        ensure(key_read(key, key_member(key, settings), key->default_value, why, sizeof(why)));
    }
}

/* "key=value" of the command line, or of the console. */
static void
load_overrides(struct loader *loader, const char *const *override, const char *place)
{
    for (; override != NULL && *override != NULL; override++) {
        const char *equals = strchr(*override, '=');
        if (equals == NULL || equals == *override) {
            loader_report(loader, SETTINGS_ERROR, place, *override, "expected key=value");
            continue;
        }
        char *name = mem_string(*override);
        name[equals - *override] = '\0';
        loader_set(loader, place, name, equals + 1);
        free(name);
    }
}

/* Texts whose values are words. */
static void
check_word(struct loader *loader, size_t index, const char *const *allowed)
{
    const char *value = *(const char **)key_member(&conf_keys[index], loader->settings);
    char list[200] = "";
    size_t len = 0;

    for (size_t i = 0; allowed[i] != NULL; i++) {
        if (strcasecmp(allowed[i], value) == 0) {
            return;
        }
        len += (size_t)snprintf(
            list + len, sizeof(list) - len, "%s%s", i == 0 ? "" : ", ", allowed[i]);
    }
    loader_report(loader, SETTINGS_ERROR, loader_origin(loader, index), conf_keys[index].name,
        "must be one of %s", list);
}

/* What client_tls_sslmode needs. Whether the files are any good the daemon finds out. */
static void
check_tls(struct loader *loader)
{
    const struct settings *settings = loader->settings;
    const char *mode = settings->client_tls_sslmode;

    if (strcmp(mode, "disable") == 0) {
        return;
    }
    const char *place = loader_origin(loader, KEY_client_tls_sslmode);
    if (settings->client_tls_cert_file[0] == '\0' || settings->client_tls_key_file[0] == '\0') {
        loader_report(loader, SETTINGS_ERROR, place, "client_tls_sslmode",
            "needs client_tls_cert_file and client_tls_key_file");
    }
    if (strncmp(mode, "verify-", 7) == 0 && settings->client_tls_ca_file[0] == '\0') {
        loader_report(
            loader, SETTINGS_ERROR, place, "client_tls_sslmode", "needs client_tls_ca_file");
    }
}

static void
check_texts(struct loader *loader)
{
    static const char *const modes[] = {
        "disable", "allow", "prefer", "require", "verify-ca", "verify-full", NULL};
    static const char *const facilities[] = {"auth", "authpriv", "daemon", "user", "local0",
        "local1", "local2", "local3", "local4", "local5", "local6", "local7", NULL};
    struct settings *settings = loader->settings;

    check_word(loader, KEY_server_tls_sslmode, modes);
    check_word(loader, KEY_client_tls_sslmode, modes);
    check_tls(loader);
    server_tls_check(loader);
    check_word(loader, KEY_syslog_facility, facilities);
    /* PgBouncer's word for an empty query, which a bare Sync does cheaper. */
    if (strcmp(settings->server_check_query, "<empty>") == 0) {
        free((char *)settings->server_check_query);
        settings->server_check_query = mem_string("");
    }
}

/* ---- auth_hba_file ---- */

static void
report_hba(void *arg, const char *path, int line, const char *text)
{
    char place[512];

    snprintf(place, sizeof(place), "%s:%d", path, line);
    loader_report(arg, SETTINGS_ERROR, place, "", "%s", text);
}

static void
load_hba(struct loader *loader)
{
    struct settings *settings = loader->settings;
    const char *place = loader_origin(loader, KEY_auth_type);

    if (settings->auth_type == AUTH_TYPE_CERT &&
        strncmp(settings->client_tls_sslmode, "verify-", 7) != 0) {
        loader_report(loader, SETTINGS_ERROR, place, "auth_type",
            "cert needs client_tls_sslmode = verify-ca or verify-full");
    }
#ifndef HAVE_PAM
    if (settings->auth_type == AUTH_TYPE_PAM) {
        loader_report(loader, SETTINGS_ERROR, place, "auth_type", "pgkeel was built without PAM");
    }
#endif
    if (settings->auth_type != AUTH_TYPE_HBA) {
        return;
    }
    if (settings->auth_hba_file[0] == '\0') {
        loader_report(loader, SETTINGS_ERROR, place, "auth_type", "hba needs auth_hba_file");
        return;
    }
    settings->hba =
        hba_read(settings->auth_hba_file, settings->auth_ident_file, report_hba, loader);
}

struct userlist_context
{
    struct loader *loader;
    const char *path;
};

static void
report_user(void *arg, int line, const char *text)
{
    struct userlist_context *context = arg;
    char place[PLACE_SIZE];

    snprintf(place, sizeof(place), "%s:%d", context->path, line);
    loader_report(context->loader, SETTINGS_ERROR, place, "", "%s", text);
}

static void
load_userlist(struct loader *loader)
{
    const char *path = loader->settings->auth_file;
    struct userlist_context context = {loader, path};
    size_t len;

    if (path[0] == '\0') {
        return;
    }
    char *text = files_read(path, &len);
    if (text == NULL) {
        loader_report(loader, SETTINGS_ERROR, loader_origin(loader, KEY_auth_file),
            "auth_file", "cannot read \"%s\": %s", path, strerror(errno));
        return;
    }
    if (!users_parse(loader->users, text, len, report_user, &context)) {
        loader->has_failed = true;
    }
    explicit_bzero(text, len);
    free(text);
}

/* Where what is missing would have been looked for. */
static const char *
main_place(const struct loader *loader)
{
    const struct settings_source *source = loader->source;

    if (source->path != NULL) {
        return source->path;
    }
    return source->text != NULL ? "pgkeel.ini" : "environment";
}

static void
load_databases(struct loader *loader)
{
    struct settings_private *internal = loader->settings->internal;
    struct raw_database *raw;
    struct raw_database *next;
    struct database_entry *entry;

    if (loader->unnamed != NULL) {
        database_read(loader, loader->unnamed);
    }
    HASH_ITER(hh, loader->raw, raw, next) {
        database_read(loader, raw);
    }
    if (!loader->is_unread && loader->unnamed == NULL && loader->raw == NULL) {
        loader_report(loader, SETTINGS_ERROR, main_place(loader), "",
            "no database is configured: set DATABASE_URL or write a [databases] section");
    }
    internal->order = mem_new((HASH_COUNT(internal->databases) + 1) * sizeof(*internal->order));
    size_t count = 0;
    for (entry = internal->databases; entry != NULL; entry = entry->hh.next) {
        internal->order[count++] = entry;
    }
}

static void
ignore_pair(void *arg, const char *keyword, const char *value)
{
    (void)arg;
    (void)keyword;
    (void)value;
}

/* Whether clients of it could be let in by a verifier, which then has to let us in, too. */
static bool
needs_keys(const struct settings *settings, const struct database *database)
{
    bool has_own = database->user != NULL || database->password != NULL ||
                   database->password_file != NULL || database->password_command != NULL;

    return !has_own && (users_have_verifiers(settings->userlist) ||
                           settings_auth_user(settings, database->name)[0] != '\0');
}

/* Said once, as every such login would fail later. */
static void
check_keys(struct loader *loader)
{
    conninfo_parse_fn *parse = loader->source->parse_conninfo;
    const struct database *database;
    struct buf names = {0};
    char error[200];
    size_t cursor = 0;

    if (loader->has_failed || parse == NULL ||
        parse("scram_client_key=x", ignore_pair, NULL, error, sizeof(error))) {
        return;
    }
    while ((database = settings_next_database(loader->settings, &cursor)) != NULL) {
        if (needs_keys(loader->settings, database)) {
            buf_print(&names, "%s\"%s\"", buf_len(&names) > 0 ? ", " : "", database->name);
        }
    }
    if (buf_len(&names) > 0) {
        buf_add_u8(&names, 0);
        loader_report(loader, SETTINGS_WARNING, main_place(loader), "",
            "whoever has only a SCRAM verifier gets no connection to %s, unless PostgreSQL asks "
            "for no password: this libpq cannot log in with the keys of a verifier (PostgreSQL "
            "18's can), so these databases need user and password", (char *)buf_head(&names));
    }
    buf_deinit(&names);
}

/* Without a file nobody chose md5 for the sake of an old client: the stronger way is the default.
 * */
static void
choose_auth_type(struct loader *loader)
{
    struct settings *settings = loader->settings;
    bool is_plain = loader->source->path == NULL && loader->source->text == NULL;

    if (is_plain && settings->internal->origins[KEY_auth_type] == NULL) {
        loader_set(loader, "environment", "auth_type", "scram-sha-256");
    }
    /* After an error it would only repeat what follows from that. */
    if (!loader->has_failed && users_count(loader->users) == 0 &&
        settings->auth_type != AUTH_TYPE_ANY && settings->auth_type != AUTH_TYPE_PAM) {
        const char *origin = settings->internal->origins[KEY_auth_file];
        loader_report(loader, SETTINGS_WARNING, origin == NULL ? main_place(loader) : origin,
            "auth_file", "no user is known, so nobody can log in");
    }
}

static void
loader_deinit(struct loader *loader)
{
    struct raw_database *raw;
    struct raw_database *next;

    HASH_ITER(hh, loader->raw, raw, next) {
        HASH_DEL(loader->raw, raw);
        raw_free(&raw);
    }
    raw_free(&loader->unnamed);
}

struct settings *
settings_load(const struct settings_source *source, settings_report_fn *report, void *arg)
{
    static _Atomic uint64_t serials;
    struct loader loader = {.source = source, .report = report, .arg = arg};

    loader.settings = mem_new(sizeof(*loader.settings));
    loader.settings->serial = atomic_fetch_add(&serials, 1) + 1;
    loader.settings->internal = mem_new(sizeof(*loader.settings->internal));
    loader.users = users_new();
    loader.settings->userlist = loader.users;
    atomic_init(&loader.settings->internal->holders, 1);

    files_begin(source->changes != NULL);
    load_defaults(loader.settings);
    ini_load(&loader);
    environment_load(&loader);
    load_overrides(&loader, source->overrides, "command line");
    load_overrides(&loader, source->changes, "SET");
    check_texts(&loader);
    load_userlist(&loader);
    load_hba(&loader);
    load_databases(&loader);
    choose_auth_type(&loader);
    check_keys(&loader);

    loader_deinit(&loader);
    files_end(!loader.has_failed);
    if (loader.has_failed) {
        settings_release(&loader.settings);
    }
    return loader.settings;
}

bool
settings_is_live(const char *name)
{
    const struct key *key = key_find(name);

    return key != NULL && key->is_live;
}

struct settings *
settings_hold(struct settings *settings)
{
    atomic_fetch_add_explicit(&settings->internal->holders, 1, memory_order_relaxed);
    return settings;
}

static void
free_private(struct settings_private *internal)
{
    struct database_entry *database;
    struct database_entry *next_database;
    struct user_settings *user;
    struct user_settings *next_user;

    HASH_ITER(hh, internal->databases, database, next_database) {
        HASH_DEL(internal->databases, database);
        database_free(&database);
    }
    HASH_ITER(hh, internal->users, user, next_user) {
        HASH_DEL(internal->users, user);
        free(user->name);
        free(user);
    }
    for (size_t i = 0; i < KEY_COUNT; i++) {
        free(internal->origins[i]);
    }
    free(internal->order);
    free(internal);
}

void
settings_release(struct settings **settings)
{
    struct settings *gone = *settings;

    *settings = NULL;
    if (gone == NULL || atomic_fetch_sub(&gone->internal->holders, 1) != 1) {
        return;
    }
    free_private(gone->internal);
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (conf_keys[i].kind == KIND_STRING) {
            free(*(char **)key_member(&conf_keys[i], gone));
        }
    }
    struct users *users = (struct users *)gone->userlist;
    hba_free(&gone->hba);
    users_free(&users);
    free(gone);
}
