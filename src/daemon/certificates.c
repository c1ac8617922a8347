/* Certificates. Called by the daemon and by --check; calls net/tls. */
#include "daemon/certificates.h"

#include "conf/settings.h"
#include "net/tls.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* libpq reads them anew for each connection, and would go on without a certificate that is not
 * there. */
static bool
check_outgoing(const struct settings *settings, struct fail *fail)
{
    const struct
    {
        const char *key, *path;
    } files[] = {
        {"server_tls_ca_file", settings->server_tls_ca_file},
        {"server_tls_cert_file", settings->server_tls_cert_file},
        {"server_tls_key_file", settings->server_tls_key_file},
    };

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        bool is_file = files[i].path[0] != '\0' && strcmp(files[i].path, "system") != 0;
        if (is_file && eaccess(files[i].path, R_OK) != 0) {
            return fail_set(
                fail, "58000", "%s \"%s\": %s", files[i].key, files[i].path, strerror(errno));
        }
    }
    return true;
}

bool
certificates_load(const struct settings *settings, struct tls **tls_out, struct fail *fail)
{
    struct tls_options options = {
        .cert_file = settings->client_tls_cert_file,
        .key_file = settings->client_tls_key_file,
        .ca_file = settings->client_tls_ca_file,
        .protocols = settings->client_tls_protocols,
        .ciphers = settings->client_tls_ciphers,
        .ciphers13 = settings->client_tls13_ciphers,
        .curve = settings->client_tls_ecdhcurve,
        .needs_certificate = strncmp(settings->client_tls_sslmode, "verify-", 7) == 0,
    };

    *tls_out = NULL;
    if (!check_outgoing(settings, fail)) {
        return false;
    }
    if (strcmp(settings->client_tls_sslmode, "disable") == 0) {
        return true;
    }
    *tls_out = tls_new(&options, fail);
    return *tls_out != NULL;
}
