/* Certificates. Called by the daemon and by --check; calls net/tls. */
#include "daemon/certificates.h"

#include "conf/settings.h"
#include "net/tls.h"

#include <string.h>

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
    if (strcmp(settings->client_tls_sslmode, "disable") == 0) {
        return true;
    }
    *tls_out = tls_new(&options, fail);
    return *tls_out != NULL;
}
