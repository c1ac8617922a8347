/* The welcome. Called by client/login; calls the pool, then the handler that serves the client. */
#include "client/welcome.h"

#include "base/state.h"
#include "base/stats.h"
#include "client/deliver.h"
#include "client/headcount.h"
#include "client/keys.h"
#include "client/login.h"
#include "client/params.h"
#include "client/relay.h"
#include "client/replication.h"
#include "client/secrets.h"
#include "client/wait.h"
#include "pool/halt.h"
#include "pool/pools.h"
#include "wire/message.h"

#include <arpa/inet.h>

void
welcome_send(struct client *client, const struct vars *reported, enum client_state state,
    const struct handler *handler)
{
    const char *name, *value;
    uint32_t cursor = 0;
    struct buf buf = {0};

    keys_make(client);
    message_add_auth(&buf, AUTH_OK, NULL, 0);
    while (vars_next(reported, &cursor, &name, &value)) {
        const char *own = vars_find(&client->vars, name);
        message_add_parameter(&buf, name, own != NULL ? own : value);
    }
    uint32_t secret = htonl(client->key.secret);
    message_add_key(&buf, client->key.pid, &secret, sizeof(secret));
    message_add_ready(&buf, 'I');
    client_send(client, &buf);
    stats_add(METRIC_client_logins_total, 1);
    stats_time(TIMING_client_login_seconds,
        loop_now_us(client->crowd->pool.loop) - client->connected_us);
    client->lease.side->counts.logins++;
    if (client->crowd->pool.settings->log_connections) {
        client_log(LEVEL_INFO, client, "login ok");
    }
    login_end(client);
    client_become(client, state);
    stream_want_read(&client->stream, true);
    client->handler = handler;
    client->handler->on_start(client);
    client->handler->on_kept(client);
}

static void
send_welcome(struct client *client, const struct vars *reported)
{
    welcome_send(client, reported, CLIENT_IDLE, &relay_handler);
}

/* A backend was granted to learn PostgreSQL's settings or to check the client's. */
static void
on_granted(struct lease *lease)
{
    struct client *client = (struct client *)((char *)lease - offsetof(struct client, lease));
    struct vars reported = {0};

    ensure(pool_welcome(lease->side->pool, &reported));
    client->vars.len = 0;
    params_start(client, &reported, &client->login->wanted);
    bool is_done = params_apply(client);
    if (is_done) {
        lease_return(lease, false);
        send_welcome(client, &reported);
    }
    vars_deinit(&reported);
}

static void
on_refused(struct lease *lease, const struct fail *fail)
{
    client_reject((struct client *)((char *)lease - offsetof(struct client, lease)), fail);
}

static void
take_backend(struct client *client)
{
    if (lease_take(&client->lease)) {
        on_granted(&client->lease);
    }
}

static void
on_backend(struct lease *lease, unsigned what)
{
    struct client *client = (struct client *)((char *)lease - offsetof(struct client, lease));
    struct vars reported = {0};
    struct fail fail;

    if (!deliver_own(lease, what, &fail)) {
        /* Nothing of the client's was done there: another one will do, as long as it may wait. */
        lease_discard(lease, &fail);
        take_backend(client);
        return;
    }
    if (!replies_is_settled(&lease->backend->replies)) {
        return;
    }
    if (!params_applied(client, &fail)) {
        lease_return(lease, true);
        client_reject(client, &fail);
        return;
    }
    ensure(pool_welcome(lease->side->pool, &reported));
    lease_return(lease, false);
    send_welcome(client, &reported);
    vars_deinit(&reported);
}

static const struct lease_ops login_ops = {on_granted, on_refused, on_backend};

static void
on_welcome_deadline(struct deadline *deadline)
{
    struct client *client = (struct client *)((char *)deadline - offsetof(struct client, deadline));
    struct fail fail;
    int64_t more_us = wait_too_long(client, client->login->waits_since_us, &fail);

    if (more_us > 0) {
        deadline_start(deadline, client->crowd->pool.loop, more_us, on_welcome_deadline);
        return;
    }
    client_reject(client, &fail);
}

static bool
admit_to_console(struct client *client, struct fail *fail)
{
    const struct settings *settings = client->login->settings;
    const char *user = client->identity.user;

    client->identity.is_admin =
        client->identity.is_admin || settings_lists(settings->admin_users, user);
    if (!client->identity.is_admin && !settings_lists(settings->stats_users, user)) {
        return fail_set(fail, "42501", "user \"%s\" may not use the console", user);
    }
    if (client->crowd->pool.settings->log_connections) {
        client_log(client->identity.is_own ? LEVEL_DEBUG : LEVEL_INFO, client, "login ok");
    }
    login_end(client);
    keys_make(client);
    client_become(client, CLIENT_CONSOLE);
    client->handler = client->crowd->crowds->console;
    client->handler->on_start(client);
    return true;
}

bool
welcome_admit(struct client *client, struct fail *fail)
{
    struct login *login = client->login;
    struct crowd *crowd = client->crowd;
    struct vars reported = {0};
    struct halts *halts = pools_halts(crowd->pool.pools);

    if (login->is_console) {
        return admit_to_console(client, fail);
    }
    if (halts_is_disabled(halts, client->identity.database)) {
        fail_set(fail, "55000", "database \"%s\" is not currently accepting connections",
            client->identity.database);
        return fail_detail(fail, "DISABLE on the console");
    }
    if (!headcount_enter(client, fail)) {
        return false;
    }
    if (login->replication != NULL && halts_pause_concerns(halts, client->identity.database)) {
        return fail_set(fail, "57P03", "database \"%s\" is paused", client->identity.database);
    }
    if (login->replication != NULL) {
        return replication_admit(client, fail);
    }
    const struct database *database =
        settings_find_database(login->settings, client->identity.database);
    if (database == NULL) {
        return fail_set(fail, "3D000", "database \"%s\" does not exist", client->identity.database);
    }
    const char *user = database->user != NULL ? database->user : client->identity.user;
    lease_init(
        &client->lease, pools_join(&crowd->pool, client->identity.database, user), &login_ops);
    secrets_leave_keys(client, client->lease.side->pool);
    if (pool_welcome(client->lease.side->pool, &reported) &&
        !params_start(client, &reported, &login->wanted)) {
        send_welcome(client, &reported);
        vars_deinit(&reported);
        return true;
    }
    vars_deinit(&reported);
    client_become(client, CLIENT_WELCOME);
    login->waits_since_us = loop_now_us(crowd->pool.loop);
    deadline_start(&client->deadline, crowd->pool.loop,
        wait_too_long(client, login->waits_since_us, fail), on_welcome_deadline);
    take_backend(client);
    return true;
}
