/* Who must pass what. Called by client/login; calls conf/hba and net/tls. */
#include "client/admit.h"

#include "base/text.h"
#include "conf/hba.h"
#include "net/tls.h"

#include <pwd.h>
#include <string.h>
#include <unistd.h>

/* ---- names ---- */

struct search
{
    const struct client *client;
    const struct hba_rule *rule;
    bool is_found;
};

static void
try_name(void *arg, const char *name)
{
    struct search *search = arg;
    const char *user = search->client->identity.user;

    search->is_found = search->is_found || hba_maps(search->client->login->settings->hba,
                                               search->rule, name, user);
}

static bool
certificate_names_user(const struct client *client, const struct hba_rule *rule)
{
    struct search search = {client, rule, false};

    if (tls_has_certificate(&client->stream)) {
        tls_each_name(&client->stream, try_name, &search);
    }
    return search.is_found;
}

static bool
system_names_user(const struct client *client, const struct hba_rule *rule)
{
    struct search search = {client, rule, false};
    struct passwd entry, *found = NULL;
    char buffer[4096];

    if (client->identity.is_unix &&
        getpwuid_r(client->identity.peer_uid, &entry, buffer, sizeof(buffer), &found) == 0 &&
        found != NULL) {
        try_name(&search, entry.pw_name);
    }
    return search.is_found;
}

/* ---- methods ---- */

/* A verifier can be checked without the password ever being sent. Who is unknown is asked as if
 * there was one, wherever others have them: the question must not tell who exists. */
static enum method
with_password(const struct client *client, enum method method)
{
    const struct login *login = client->login;
    const char *asking = settings_auth_user(login->settings, client->identity.database);
    bool are_looked_up = asking[0] != '\0' && !login->is_console;
    bool has_verifier = login->secret_kind == SECRET_SCRAM;

    if (login->secret == NULL) {
        has_verifier = are_looked_up || users_have_verifiers(login->settings->userlist);
    }
    return has_verifier ? METHOD_SCRAM : method;
}

static bool
refuse(const struct client *client, const char *words, struct fail *fail)
{
    const struct login *login = client->login;
    char address[64] = "[local]";

    if (!client->identity.is_unix) {
        client_address(client, address, sizeof(address));
    }
    const char *what = login->replication != NULL ? "replication connection from host" : "host";
    const char *encryption = client->stream.ssl != NULL ? "SSL encryption" : "no encryption";
    return fail_set(fail, "28000", "%s %s \"%s\", user \"%s\", database \"%s\", %s", words,
        what, address, client->identity.user, client->identity.database, encryption);
}

static bool
prove_by_name(struct client *client, bool is_proven, const char *method, struct fail *fail)
{
    client->login->method = METHOD_TRUST;
    return is_proven || fail_set(fail, "28000", "%s authentication failed for user \"%s\"",
                            method, client->identity.user);
}

static bool
follow_rule(struct client *client, const struct hba_rule *rule, struct fail *fail)
{
    struct login *login = client->login;

    if (rule->needs_name && !certificate_names_user(client, rule)) {
        return prove_by_name(client, false, "certificate", fail);
    }
    switch (rule->method) {
    case HBA_TRUST:
        login->method = METHOD_TRUST;
        return login->is_known ||
               fail_set(fail, "28000", "role \"%s\" does not exist", client->identity.user);
    case HBA_PLAIN:
        login->method = with_password(client, METHOD_PLAIN);
        return true;
    case HBA_MD5:
        login->method = with_password(client, METHOD_MD5);
        return true;
    case HBA_SCRAM:
        login->method = METHOD_SCRAM;
        return true;
    case HBA_CERT:
        return prove_by_name(client, certificate_names_user(client, rule), "certificate", fail);
    case HBA_PEER:
        return prove_by_name(client, system_names_user(client, rule), "Peer", fail);
    case HBA_PAM:
        login->method = METHOD_PAM;
        return true;
    case HBA_REJECT:
    case HBA_METHODS:
        break;
    }
    return false;
}

/* Whoever runs us needs no password on the console, nor does root. */
static bool
is_own_uid(const struct client *client)
{
    uid_t uid = client->identity.peer_uid;

    return client->login->is_console && login_is_console(client->identity.user) &&
           client->identity.is_unix && (uid == geteuid() || uid == 0);
}

/* What must be passed everywhere, without a file of rules. */
static const struct hba_rule of_types[] = {
    [AUTH_TYPE_ANY] = {.method = HBA_TRUST},
    [AUTH_TYPE_TRUST] = {.method = HBA_TRUST},
    [AUTH_TYPE_PLAIN] = {.method = HBA_PLAIN},
    [AUTH_TYPE_MD5] = {.method = HBA_MD5},
    [AUTH_TYPE_SCRAM] = {.method = HBA_SCRAM},
    [AUTH_TYPE_CERT] = {.method = HBA_CERT},
    [AUTH_TYPE_PAM] = {.method = HBA_PAM},
    [AUTH_TYPE_HBA] = {.method = HBA_REJECT},
};

bool
admit_knock(struct client *client, struct fail *fail)
{
    struct login *login = client->login;
    char address[64];

    login->rule = &of_types[login->settings->auth_type];
    if (login->settings->auth_type != AUTH_TYPE_HBA || is_own_uid(client)) {
        return true;
    }
    struct hba_client who = {.database = client->identity.database,
        .user = client->identity.user,
        .address = client->identity.is_unix ? NULL : address,
        .has_tls = client->stream.ssl != NULL,
        .is_replication = login->replication != NULL && !login->is_console &&
                          strcmp(login->replication, "database") != 0};

    client_address(client, address, sizeof(address));
    const struct hba_rule *rule = login->rule = hba_find(login->settings->hba, &who);
    if (rule == NULL) {
        return refuse(client, "no pg_hba.conf entry for", fail);
    }
    if (rule->method == HBA_REJECT) {
        return refuse(client, "pg_hba.conf rejects connection for", fail);
    }
    bool needs_certificate = rule->needs_certificate || rule->method == HBA_CERT;
    if (needs_certificate && !tls_has_certificate(&client->stream)) {
        return fail_set(fail, "28000", "connection requires a valid client certificate");
    }
    return true;
}

bool
admit_choose_method(struct client *client, struct fail *fail)
{
    struct login *login = client->login;

    if (is_own_uid(client)) {
        client->identity.is_admin = true;
        client->identity.is_own = true;
        login->method = METHOD_TRUST;
        return true;
    }
    if (login->settings->auth_type == AUTH_TYPE_ANY) {
        login->method = METHOD_TRUST;
        return true;
    }
    if (login->settings->auth_type == AUTH_TYPE_TRUST) {
        /* No password is asked for, but only who is known is a user. */
        login->method = login->is_known ? METHOD_TRUST : METHOD_PLAIN;
        return true;
    }
    return follow_rule(client, login->rule, fail);
}
