/*
 * PgBouncer's server_tls_* keys in libpq's words. Called from settings.c to check them and from
 * database.c for each connection string.
 */
#include "conf/internal.h"

#include <string.h>
#include <strings.h>

/* PgBouncer's names of versions, libpq's, oldest first. */
static const struct
{
    const char *name, *libpq;
} versions[] = {
    {"tlsv1.0", "TLSv1"},
    {"tlsv1.1", "TLSv1.1"},
    {"tlsv1.2", "TLSv1.2"},
    {"tlsv1.3", "TLSv1.3"},
};

enum
{
    VERSIONS = sizeof(versions) / sizeof(versions[0])
};

static const struct
{
    const char *name;
    unsigned bits; /* one for each of versions[] */
} words[] = {
    {"tlsv1.0", 1}, {"tlsv1.1", 2}, {"tlsv1.2", 4},  {"tlsv1.3", 8},
    {"secure", 12}, {"all", 15},    {"legacy", 15},
};

/* The versions of a list; 0: it has another word, or none. */
static unsigned
read_versions(const char *list)
{
    unsigned bits = 0;

    for (const char *at = list + strspn(list, ", :\t"); *at != '\0';) {
        size_t len = strcspn(at, ", :\t");
        size_t i = 0, count = sizeof(words) / sizeof(words[0]);
        while (i < count &&
               !(strlen(words[i].name) == len && strncasecmp(words[i].name, at, len) == 0)) {
            i++;
        }
        if (i == count) {
            return 0;
        }
        bits |= words[i].bits;
        at += len + strspn(at + len, ", :\t");
    }
    return bits;
}

bool
server_tls_range(const char *list, const char **lowest_out, const char **highest_out)
{
    unsigned bits = read_versions(list[0] == '\0' ? "secure" : list);
    int lowest = 0, highest = VERSIONS - 1;

    if (bits == 0) {
        return false;
    }
    while ((bits & 1u << lowest) == 0) {
        lowest++;
    }
    while ((bits & 1u << highest) == 0) {
        highest--;
    }
    *lowest_out = versions[lowest].libpq;
    *highest_out = highest == VERSIONS - 1 ? "" : versions[highest].libpq;
    /* libpq knows a lowest and a highest one: a gap between them would be let in. */
    return bits == (2u << highest) - (1u << lowest);
}

void
server_tls_check(struct loader *loader)
{
    const struct settings *settings = loader->settings;
    const char *lowest, *highest;

    if (!server_tls_range(settings->server_tls_protocols, &lowest, &highest)) {
        loader_report(loader, SETTINGS_ERROR, loader_origin(loader, KEY_server_tls_protocols),
            "server_tls_protocols",
            "must be secure, all, or neighbours of tlsv1.0, tlsv1.1, tlsv1.2, tlsv1.3");
    }
    bool has_cert = settings->server_tls_cert_file[0] != '\0';
    if (has_cert != (settings->server_tls_key_file[0] != '\0')) {
        loader_report(loader, SETTINGS_ERROR,
            loader_origin(loader, has_cert ? KEY_server_tls_cert_file : KEY_server_tls_key_file),
            has_cert ? "server_tls_cert_file" : "server_tls_key_file", "needs %s, too",
            has_cert ? "server_tls_key_file" : "server_tls_cert_file");
    }
}
