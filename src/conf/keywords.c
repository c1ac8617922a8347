/* Which keywords libpq has. Called from database.c. */
#include "conf/internal.h"

#include "base/text.h"

/* libpq's keywords, PostgreSQL 15 documentation, 34.1.2. replication is missing: it cannot be
 * pooled. */
static const char *const libpq_keys[] = {"host", "hostaddr", "port", "dbname", "user", "password",
    "passfile", "require_auth", "channel_binding", "connect_timeout", "client_encoding", "options",
    "application_name", "fallback_application_name", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "gssencmode", "sslmode",
    "sslcompression", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslcrldir",
    "sslsni", "requirepeer", "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname",
    "gsslib", "service", "target_session_attrs"};

/* Those of PostgreSQL 16 to 18; whether ours has them is asked of libpq itself. */
static const char *const newer_keys[] = {"require_auth", "sslcertmode", "gssdelegation",
    "load_balance_hosts", "sslnegotiation", "min_protocol_version", "max_protocol_version",
    "servicefile", "sslkeylogfile", "scram_client_key", "scram_server_key", "oauth_issuer",
    "oauth_client_id", "oauth_client_secret", "oauth_scope"};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

bool
keyword_is_newer(const char *key)
{
    return text_is_in(newer_keys, LENGTH(newer_keys), key);
}

bool
keyword_is_known(const char *key)
{
    return text_is_in(libpq_keys, LENGTH(libpq_keys), key) || keyword_is_newer(key);
}

void
keyword_consider(struct guess *guess, const char *typed)
{
    for (size_t i = 0; i < LENGTH(libpq_keys); i++) {
        guess_consider(guess, typed, libpq_keys[i]);
    }
    for (size_t i = 0; i < LENGTH(newer_keys); i++) {
        guess_consider(guess, typed, newer_keys[i]);
    }
}
