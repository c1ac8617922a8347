/* pg_hba.conf and pg_ident.conf. Called by conf/settings (reading) and client/admit. */
#include "conf/hba.h"

#include "base/mem.h"
#include "conf/lines.h"
#include "conf/range.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum connection
{
    CONNECTION_LOCAL = 1,
    CONNECTION_PLAIN = 2,
    CONNECTION_TLS = 4,
};

enum address_kind
{
    ADDRESS_ALL,
    ADDRESS_RANGE,
    ADDRESS_SAME_HOST,
    ADDRESS_SAME_NET,
};

struct entry
{
    struct hba_rule rule;
    char *map, *service; /* own */
    unsigned connections;
    struct field databases, users;
    enum address_kind address_kind;
    struct range range;
};

struct mapping
{
    char *map;          /* owns */
    struct word system; /* name elsewhere */
    struct word user;   /* of the database; may contain \1 */
};

struct hba
{
    struct entry *entries; /* own */
    size_t count;
    struct mapping *mappings; /* own */
    size_t mappings_count;
};

struct reading
{
    struct lines lines;
    struct hba *hba;
};

static struct hba *
hba_of(struct lines *lines)
{
    return ((struct reading *)((char *)lines - offsetof(struct reading, lines)))->hba;
}

/* ---- addresses ---- */

static bool
is_at(const struct entry *entry, const char *address)
{
    struct range client = {0};

    if (address == NULL || !range_parse(address, &client)) {
        return address == NULL;
    }
    switch (entry->address_kind) {
    case ADDRESS_ALL:
        return true;
    case ADDRESS_SAME_HOST:
        return range_is_near(&client, false);
    case ADDRESS_SAME_NET:
        return range_is_near(&client, true);
    case ADDRESS_RANGE:
        break;
    }
    return range_has(&entry->range, &client);
}

/* Reads the address, and perhaps a mask behind it; returns how many fields it took, 0 for none. */
static size_t
read_address(struct lines *lines, struct entry *entry, const struct field *fields, size_t count)
{
    char text[64];
    char *end;

    if (count == 0 || fields[0].count != 1) {
        lines_complain(lines, "expected one address");
        return 0;
    }
    const struct word *word = &fields[0].words[0];
    if (word_is(word, "all") || word_is(word, "samehost") || word_is(word, "samenet")) {
        entry->address_kind = word_is(word, "all")        ? ADDRESS_ALL
                              : word_is(word, "samehost") ? ADDRESS_SAME_HOST
                                                          : ADDRESS_SAME_NET;
        return 1;
    }
    entry->address_kind = ADDRESS_RANGE;
    snprintf(text, sizeof(text), "%s", word->text);
    char *slash = strchr(text, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    if (!range_parse(text, &entry->range)) {
        lines_complain(lines, "expected an address: all, samehost, samenet, 10.0.0.0/8 or ::1/128 "
                          "(names of hosts are not looked up)");
        return 0;
    }
    if (slash != NULL) {
        unsigned long bits = strtoul(slash + 1, &end, 10);
        if (slash[1] == '\0' || *end != '\0' || bits > range_size(&entry->range) * 8) {
            lines_complain(lines, "the length of the network is not valid");
            return 0;
        }
        range_set_prefix(&entry->range, (unsigned)bits);
        return 1;
    }
    struct range mask = {0};
    if (count < 2 || fields[1].count != 1 || !range_parse(fields[1].words[0].text, &mask) ||
        mask.family != entry->range.family) {
        lines_complain(lines, "expected the length of the network (/32) or a mask");
        return 0;
    }
    memcpy(entry->range.mask, mask.address, sizeof(mask.address));
    return 2;
}

/* ---- a line of pg_hba.conf ---- */

static const struct
{
    const char *name;
    unsigned connections;
} connection_words[] = {
    {"local", CONNECTION_LOCAL},
    {"host", CONNECTION_PLAIN | CONNECTION_TLS},
    {"hostssl", CONNECTION_TLS},
    {"hostnossl", CONNECTION_PLAIN},
    {"hostgssenc", 0},
    {"hostnogssenc", CONNECTION_PLAIN | CONNECTION_TLS},
};

static const struct
{
    const char *name;
    enum hba_method method;
} method_words[] = {
    {"trust", HBA_TRUST},
    {"reject", HBA_REJECT},
    {"password", HBA_PLAIN},
    {"plain", HBA_PLAIN},
    {"md5", HBA_MD5},
    {"scram-sha-256", HBA_SCRAM},
    {"cert", HBA_CERT},
    {"peer", HBA_PEER},
#ifdef HAVE_PAM
    {"pam", HBA_PAM},
#endif
};

static bool
read_method(struct lines *lines, struct entry *entry, const struct field *field)
{
    for (size_t i = 0; i < sizeof(method_words) / sizeof(method_words[0]); i++) {
        if (field->count == 1 && strcmp(field->words[0].text, method_words[i].name) == 0) {
            entry->rule.method = method_words[i].method;
            return true;
        }
    }
    lines_complain(lines,
        "expected a method: trust, reject, scram-sha-256, md5, password, cert, peer or pam (where "
        "pgkeel was built with it)");
    return false;
}

static bool
read_option(struct lines *lines, struct entry *entry, const char *option)
{
    if (strncmp(option, "map=", 4) == 0) {
        free(entry->map);
        entry->map = mem_string(option + 4);
        entry->rule.map = entry->map;
        return true;
    }
    if (strncmp(option, "pamservice=", 11) == 0) {
        free(entry->service);
        entry->service = mem_string(option + 11);
        entry->rule.service = entry->service;
        return true;
    }
    if (strcmp(option, "clientcert=verify-ca") == 0 ||
        strcmp(option, "clientcert=verify-full") == 0) {
        entry->rule.needs_certificate = true;
        entry->rule.needs_name = strcmp(option, "clientcert=verify-full") == 0;
        return true;
    }
    lines_complain(lines, "an option is not understood: only map, pamservice, "
                      "clientcert=verify-ca and clientcert=verify-full are");
    return false;
}

/* PostgreSQL knows who is in a role; here nobody does. */
static bool
check_names(struct lines *lines, const struct field *field, bool are_users)
{
    for (size_t i = 0; i < field->count; i++) {
        const struct word *word = &field->words[i];
        bool is_role = are_users ? word->text[0] == '+'
                                 : word_is(word, "samerole") || word_is(word, "samegroup");
        if (!word->is_quoted && (is_role || word->text[0] == '@')) {
            lines_complain(lines, "members of roles (+, samerole) and files of names (@) cannot be "
                              "known here");
            return false;
        }
    }
    return true;
}

static bool
check_combination(struct lines *lines, const struct entry *entry)
{
    const struct hba_rule *rule = &entry->rule;

    if (rule->method == HBA_PEER && entry->connections != CONNECTION_LOCAL) {
        lines_complain(lines, "peer is for local connections only");
        return false;
    }
    if ((rule->method == HBA_CERT || rule->needs_certificate) &&
        entry->connections != CONNECTION_TLS) {
        lines_complain(lines, "certificates are for hostssl only");
        return false;
    }
    if (rule->map != NULL && rule->method != HBA_CERT && rule->method != HBA_PEER &&
        !rule->needs_name) {
        lines_complain(lines, "map is for cert and peer only");
        return false;
    }
    if (rule->service != NULL && rule->method != HBA_PAM) {
        lines_complain(lines, "pamservice is for pam only");
        return false;
    }
    return true;
}

static void
free_entry(struct entry *entry)
{
    free(entry->map);
    free(entry->service);
    field_free(&entry->databases);
    field_free(&entry->users);
}

static bool
read_connection(struct lines *lines, struct entry *entry, const struct field *field)
{
    for (size_t i = 0; i < sizeof(connection_words) / sizeof(connection_words[0]); i++) {
        if (field->count == 1 && word_is(&field->words[0], connection_words[i].name)) {
            entry->connections = connection_words[i].connections;
            return true;
        }
    }
    lines_complain(lines, "expected local, host, hostssl or hostnossl");
    return false;
}

/* Behind the users: address, method, options. */
static bool
read_rest(struct lines *lines, struct entry *entry, const struct field *fields, size_t count)
{
    size_t at = 0;

    if (entry->connections != CONNECTION_LOCAL) {
        at = read_address(lines, entry, fields, count);
        if (at == 0) {
            return false;
        }
    }
    if (at >= count) {
        lines_complain(lines, "the method is missing");
        return false;
    }
    if (!read_method(lines, entry, &fields[at])) {
        return false;
    }
    for (at++; at < count; at++) {
        for (size_t i = 0; i < fields[at].count; i++) {
            if (!read_option(lines, entry, fields[at].words[i].text)) {
                return false;
            }
        }
    }
    return check_combination(lines, entry);
}

static void
take_rule(struct lines *lines, struct field *fields, size_t count)
{
    struct entry entry = {.rule.line = lines->line};

    if (!read_connection(lines, &entry, &fields[0])) {
        return;
    }
    if (count < 3) {
        lines_complain(lines, "expected database, user and what follows");
        return;
    }
    entry.databases = fields[1];
    entry.users = fields[2];
    fields[1] = fields[2] = (struct field){0};
    if (!check_names(lines, &entry.databases, false) ||
        !check_names(lines, &entry.users, true) ||
        !read_rest(lines, &entry, fields + 3, count - 3)) {
        free_entry(&entry);
        return;
    }
    struct hba *hba = hba_of(lines);
    hba->entries = mem_resize(hba->entries, (hba->count + 1) * sizeof(*hba->entries));
    hba->entries[hba->count++] = entry;
}

/* ---- a line of pg_ident.conf ---- */

static void
take_mapping(struct lines *lines, struct field *fields, size_t count)
{
    struct hba *hba = hba_of(lines);

    if (count != 3 || fields[0].count != 1 || fields[1].count != 1 || fields[2].count != 1) {
        lines_complain(lines, "expected map, name and user");
        return;
    }
    if (!fields[2].words[0].is_quoted && fields[2].words[0].text[0] == '+') {
        lines_complain(lines, "members of roles (+) cannot be known here");
        return;
    }
    hba->mappings =
        mem_resize(hba->mappings, (hba->mappings_count + 1) * sizeof(*hba->mappings));
    struct mapping *mapping = &hba->mappings[hba->mappings_count++];
    *mapping = (struct mapping){.map = mem_string(fields[0].words[0].text),
        .system = fields[1].words[0],
        .user = fields[2].words[0]};
    fields[1].words[0] = fields[2].words[0] = (struct word){0};
}

/* ---- both files ---- */

struct hba *
hba_read(const char *path, const char *ident_path, hba_report_fn *report, void *arg)
{
    struct reading reading = {.lines = {.take = take_rule, .report = report, .arg = arg},
        .hba = mem_new(sizeof(struct hba))};

    bool is_good = lines_read(&reading.lines, path);
    if (ident_path[0] != '\0') {
        reading.lines.take = take_mapping;
        is_good = lines_read(&reading.lines, ident_path) && is_good;
    }
    if (!is_good) {
        hba_free(&reading.hba);
    }
    return reading.hba;
}

void
hba_free(struct hba **pointer)
{
    struct hba *hba = *pointer;

    if (hba == NULL) {
        return;
    }
    for (size_t i = 0; i < hba->count; i++) {
        free_entry(&hba->entries[i]);
    }
    for (size_t i = 0; i < hba->mappings_count; i++) {
        free(hba->mappings[i].map);
        word_free(&hba->mappings[i].system);
        word_free(&hba->mappings[i].user);
    }
    free(hba->entries);
    free(hba->mappings);
    free(hba);
    *pointer = NULL;
}

/* ---- looking up ---- */

static bool
is_database(const struct field *field, const struct hba_client *client)
{
    for (size_t i = 0; i < field->count; i++) {
        const struct word *word = &field->words[i];
        bool is_fitting = word_is(word, "all");
        if (client->is_replication || word_is(word, "replication")) {
            is_fitting = client->is_replication && word_is(word, "replication");
        } else if (word_is(word, "sameuser")) {
            is_fitting = strcmp(client->database, client->user) == 0;
        } else if (!is_fitting) {
            is_fitting = word_fits(word, client->database);
        }
        if (is_fitting) {
            return true;
        }
    }
    return false;
}

static bool
is_user(const struct field *field, const char *user)
{
    for (size_t i = 0; i < field->count; i++) {
        if (word_is(&field->words[i], "all") || word_fits(&field->words[i], user)) {
            return true;
        }
    }
    return false;
}

const struct hba_rule *
hba_find(const struct hba *hba, const struct hba_client *client)
{
    unsigned connection = client->address == NULL ? CONNECTION_LOCAL
                          : client->has_tls       ? CONNECTION_TLS
                                                  : CONNECTION_PLAIN;

    for (size_t i = 0; i < hba->count; i++) {
        const struct entry *entry = &hba->entries[i];
        if (entry->connections & connection && is_at(entry, client->address) &&
            is_database(&entry->databases, client) && is_user(&entry->users, client->user)) {
            return &entry->rule;
        }
    }
    return NULL;
}

/* The user of a mapping whose expression fits, with \1 filled in. */
static bool
is_mapped(const struct mapping *mapping, const char *name, const char *user)
{
    regmatch_t found[2];
    char filled[512];

    if (mapping->system.regex == NULL) {
        return strcmp(mapping->system.text, name) == 0 &&
               (word_is(&mapping->user, "all") || word_fits(&mapping->user, user));
    }
    if (regexec(mapping->system.regex, name, 2, found, 0) != 0) {
        return false;
    }
    const char *hole = mapping->user.is_quoted ? NULL : strstr(mapping->user.text, "\\1");
    if (hole == NULL) {
        return word_is(&mapping->user, "all") || word_fits(&mapping->user, user);
    }
    if (found[1].rm_so < 0) {
        return false;
    }
    int len = snprintf(filled, sizeof(filled), "%.*s%.*s%s", (int)(hole - mapping->user.text),
        mapping->user.text, (int)(found[1].rm_eo - found[1].rm_so), name + found[1].rm_so,
        hole + 2);
    return len > 0 && (size_t)len < sizeof(filled) && strcmp(filled, user) == 0;
}

bool
hba_maps(const struct hba *hba, const struct hba_rule *rule, const char *name, const char *user)
{
    if (rule->map == NULL) {
        return strcmp(name, user) == 0;
    }
    for (size_t i = 0; i < hba->mappings_count; i++) {
        if (strcmp(hba->mappings[i].map, rule->map) == 0 &&
            is_mapped(&hba->mappings[i], name, user)) {
            return true;
        }
    }
    return false;
}
