/* Secrets of users. Called by client/login; calls conf/users and pool/lookup. */
#include "client/secrets.h"

#include "base/mem.h"
#include "conf/hba.h"
#include "pool/halt.h"
#include "pool/lookup.h"
#include "pool/pools.h"

#include <string.h>

struct question
{
    struct crowd *crowd; /* borrows: outlives all helpers */
    uint64_t ticket;
};

static void
take_answer(struct client *client, const struct lookup_answer *answer)
{
    struct login *login = client->login;

    login->is_known = answer->is_found;
    if (answer->is_found && answer->secret[0] != '\0') {
        login->looked_up = mem_string(answer->secret);
        login->secret = login->looked_up;
        login->secret_kind = users_kind(login->secret);
    }
}

static void
on_answer(void *arg, const struct lookup_answer *answer, const struct fail *fail)
{
    struct question question = *(struct question *)arg;
    struct client *client = slots_find(&question.crowd->tickets, question.ticket);

    free(arg);
    if (client == NULL || client->state != CLIENT_VERIFYING) {
        return;
    }
    if (fail == NULL) {
        take_answer(client, answer);
        login_resume(client, NULL);
        return;
    }
    struct fail told = *fail; /* the rest is not for somebody who has proved nothing */
    client_log(LEVEL_WARN, client, "%s", fail->detail);
    told.detail[0] = '\0';
    login_resume(client, &told);
}

/* Users of auth_file need no question; nobody is asked about the one who asks. */
static bool
is_to_be_asked(const struct client *client)
{
    const struct login *login = client->login;
    const char *asking = settings_auth_user(login->settings, client->identity.database);

    return !login->is_known && !login->is_console && asking[0] != '\0' &&
           strcmp(asking, client->identity.user) != 0 &&
           login->settings->auth_type != AUTH_TYPE_ANY &&
           login->settings->auth_type != AUTH_TYPE_CERT &&
           (login->rule == NULL || login->rule->method != HBA_PAM);
}

static bool
start_question(struct client *client)
{
    struct crowd *crowd = client->crowd;
    struct question *question = mem_new(sizeof(*question));
    struct lookup_request request = {.lookups = crowd->crowds->lookups,
        .credentials = pools_credentials(crowd->pool.pools),
        .database = client->identity.database,
        .user = client->identity.user,
        .loop = crowd->pool.loop,
        .helpers = crowd->crowds->helpers,
        .done = on_answer,
        .gone = free,
        .arg = question};
    struct fail fail;

    *question = (struct question){crowd, client->ticket};
    if (!connect_lookup(client->login->settings, client->identity.database, &request, &fail)) {
        /* There is no such database: that is told to whoever proves to be somebody. */
        free(question);
        return false;
    }
    return true;
}

static bool
is_paused(const struct client *client)
{
    const char *where = settings_auth_dbname(client->login->settings, client->identity.database);

    return halts_pause_concerns(pools_halts(client->crowd->pool.pools), where);
}

/* False: there is nobody to ask. */
static bool
ask(struct client *client)
{
    client->login->awaits_resume = is_paused(client);
    if (client->login->awaits_resume) {
        client_limit(client, 0);
    } else if (!start_question(client)) {
        return false;
    }
    client_become(client, CLIENT_VERIFYING);
    stream_want_read(&client->stream, false);
    return true;
}

void
secrets_tick(struct crowd *crowd)
{
    struct client *client, *next;

    for (client = TAILQ_FIRST(&crowd->in[CLIENT_VERIFYING]); client != NULL; client = next) {
        next = TAILQ_NEXT(client, link);
        if (client->login == NULL || !client->login->awaits_resume || is_paused(client)) {
            continue;
        }
        client->login->awaits_resume = false;
        client_limit(client, crowd->pool.settings->client_login_timeout);
        if (!start_question(client)) {
            login_resume(client, NULL);
        }
    }
}

enum secrets
secrets_find(struct client *client)
{
    struct login *login = client->login;
    const struct user *user = users_find(login->settings->userlist, client->identity.user);
    struct lookup_answer answer;

    login->is_known = user != NULL;
    login->secret = user != NULL && user->secret[0] != '\0' ? user->secret : NULL;
    login->secret_kind = user != NULL ? user->kind : SECRET_PLAIN;
    if (!is_to_be_asked(client)) {
        return SECRETS_FOUND;
    }
    if (lookups_find(client->crowd->crowds->lookups, client->identity.database,
            client->identity.user, &answer)) {
        take_answer(client, &answer);
        explicit_bzero(&answer, sizeof(answer));
        return SECRETS_FOUND;
    }
    return ask(client) ? SECRETS_ASKED : SECRETS_FOUND;
}

void
secrets_forget(struct client *client)
{
    if (client->login->looked_up != NULL || !client->login->is_known) {
        lookups_forget(client->crowd->crowds->lookups, client->identity.database,
            client->identity.user);
    }
}

/* Only of the verifier that PostgreSQL has; one that we made of a password has a salt of its own.
 */
void
secrets_leave_keys(const struct client *client, struct pool *pool)
{
    const struct login *login = client->login;
    bool is_users_own = strcmp(pool->user, client->identity.user) == 0;

    if (is_users_own && login->scram != NULL && login->secret_kind == SECRET_SCRAM &&
        scram_client_key(login->scram) != NULL && dial_takes_keys()) {
        pool_learn_keys(pool, scram_client_key(login->scram), scram_server_key(login->scram));
    }
}
