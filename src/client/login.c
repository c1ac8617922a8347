/*
 * Logging in. Called by client.c for every event until the welcome; calls wire/startup, wire/scram,
 * the pool.
 *
 *    first packet ─► method ─► challenge ⇄ answer ─► known database? ─► pool ─► welcome
 */
#include "client/login.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "base/text.h"
#include "client/admit.h"
#include "client/failures.h"
#include "client/keys.h"
#include "client/pam.h"
#include "client/params.h"
#include "client/replication.h"
#include "client/secrets.h"
#include "client/verifiers.h"
#include "client/welcome.h"
#include "conf/hba.h"
#include "conf/users.h"
#include "net/handshake.h"
#include "net/tls.h"
#include "wire/message.h"
#include "wire/password.h"
#include "wire/scram.h"
#include "wire/session.h"
#include "wire/startup.h"

#include <arpa/inet.h>
#include <sys/random.h>
#include <unistd.h>

/* Longest message before login. */
enum
{
    LOGIN_MESSAGE_MAX = 65536 - 1
};

static void take_packets(struct client *client, const uint8_t *data, size_t len);

void
login_end(struct client *client)
{
    struct login *login = client->login;

    scram_free(&login->scram);
    settings_release(&login->settings);
    vars_deinit(&login->wanted);
    free(login->replication);
    text_wipe(&login->looked_up);
    explicit_bzero(login, sizeof(*login));
    free(login);
    client->login = NULL;
}

bool
login_is_console(const char *database)
{
    return strcmp(database, "pgkeel") == 0 || strcmp(database, "pgbouncer") == 0;
}

/* ---- challenges ---- */

static void
challenge_sasl(struct client *client)
{
    static const char *const mechanisms[] = {SCRAM_MECHANISM_PLUS, SCRAM_MECHANISM, NULL};
    struct buf buf = {0};

    message_add_auth_sasl(&buf, mechanisms + !client->login->offers_plus);
    client_send(client, &buf);
    client_become(client, CLIENT_LOGIN);
}

static void
start_scram(struct client *client, const char *verifier_text)
{
    struct login *login = client->login;
    struct scram_verifier verifier;

    if (verifier_text == NULL || !scram_verifier_parse(verifier_text, &verifier)) {
        scram_verifier_mock(client->identity.user, client->crowd->crowds->mock_secret,
            sizeof(client->crowd->crowds->mock_secret), &verifier);
    }
    login->binding_len = tls_binding(&client->stream, login->binding);
    login->offers_plus = login->binding_len > 0;
    login->scram = scram_new(&verifier, login->offers_plus);
    scram_verifier_wipe(&verifier);
    challenge_sasl(client);
}

/* What came while a helper worked for the login. */
static void
take_kept(struct client *client)
{
    uint8_t *data;
    size_t len;

    if (stream_kept(&client->stream, &data, &len) == STREAM_OK) {
        take_packets(client, data, len);
    }
}

/* A helper derived the verifier: go on if the client is still there. */
static void
on_verifier(void *arg, uint64_t ticket, const char *verifier)
{
    struct crowd *crowd = arg;
    struct client *client = slots_find(&crowd->tickets, ticket);

    if (client != NULL && client->state == CLIENT_VERIFYING) {
        start_scram(client, verifier);
        stream_want_read(&client->stream, true);
        take_kept(client);
    }
}

static void
challenge_scram(struct client *client)
{
    const char *secret = client->login->secret;
    char verifier[VERIFIER_MAX];

    if (secret == NULL || client->login->secret_kind != SECRET_PLAIN) {
        start_scram(client, secret);
    } else if (verifiers_find(
                   client->crowd->crowds->verifiers, client->identity.user, secret, verifier)) {
        start_scram(client, verifier);
        explicit_bzero(verifier, sizeof(verifier));
    } else {
        if (client->state != CLIENT_VERIFYING) {
            client_become(client, CLIENT_VERIFYING);
        }
        stream_want_read(&client->stream, false);
        verifiers_derive(client, secret, on_verifier);
    }
}

static void
challenge(struct client *client)
{
    struct login *login = client->login;
    struct buf buf = {0};

    switch (login->method) {
    case METHOD_PLAIN:
    case METHOD_PAM:
        message_add_auth(&buf, AUTH_PLAIN, NULL, 0);
        break;
    case METHOD_MD5:
        ensure(getrandom(login->salt, sizeof(login->salt), 0) == sizeof(login->salt));
        message_add_auth(&buf, AUTH_MD5, login->salt, sizeof(login->salt));
        break;
    case METHOD_SCRAM:
    case METHOD_SCRAM_STARTED:
        challenge_scram(client);
        return;
    case METHOD_TRUST:
        break;
    }
    client_send(client, &buf);
    client_become(client, CLIENT_LOGIN);
}

bool
login_go_on(struct client *client, struct fail *fail)
{
    if (!admit_choose_method(client, fail)) {
        stats_add(METRIC_client_login_failures_total, 1);
        return false;
    }
    if (client->login->method == METHOD_TRUST) {
        return welcome_admit(client, fail);
    }
    challenge(client);
    return true;
}

void
login_resume(struct client *client, const struct fail *reason)
{
    struct fail fail;

    if (reason != NULL) {
        client_reject(client, reason);
        return;
    }
    stream_want_read(&client->stream, true);
    if (!login_go_on(client, &fail)) {
        client_reject(client, &fail);
    } else if (client->state == CLIENT_LOGIN) {
        take_kept(client);
    }
}

/* ---- first packets ---- */

/* As long as PostgreSQL's names are: it would cut the rest off, and rules are for what is left. */
static char *
name_of(const char *text)
{
    char name[SESSION_NAME_SIZE];

    (void)text_copy(name, sizeof(name), text);
    return mem_string(name);
}

static bool
take_login(struct client *client, const struct startup *startup, struct fail *fail)
{
    struct crowd *crowd = client->crowd;
    struct login *login = mem_new(sizeof(*login));
    struct buf buf = {0};

    client->login = login;
    client->identity.user = name_of(startup->user);
    client->identity.database = name_of(startup->database);
    login->settings = settings_hold(crowd->pool.settings);
    login->is_console = login_is_console(startup->database);
    if (replication_is_wanted(startup->replication)) {
        login->replication = mem_string(startup->replication);
    }
    int64_t clients = atomic_fetch_add(&crowd->crowds->clients, 1);
    if (clients >= crowd->crowds->max_client_conn) {
        return fail_set(fail, "53300", "sorry, too many clients already");
    }
    if (!failures_allow(client, fail) || !admit_knock(client, fail)) {
        return false;
    }
    if (!params_collect(startup, login->settings, &login->wanted, fail)) {
        return false;
    }
    if (login->settings->application_name_add_host) {
        params_add_host(&login->wanted, client->identity.peer);
    }
    startup_add_negotiation(startup, &buf);
    client_send(client, &buf);
    return secrets_find(client) == SECRETS_ASKED || login_go_on(client, fail);
}

static void
take_cancel(struct client *client, const struct startup *startup)
{
    struct cancel_key key = {.pid = startup->cancel_pid};

    if (startup->cancel_key_len == sizeof(key.secret)) {
        key.secret = message_u32(startup->cancel_key);
        keys_cancel(client->crowd, key);
    }
    client_close(client, NULL);
}

/* ---- TLS ---- */

static bool
is_tls_on(const struct client *client)
{
    return client->crowd->tls != NULL && !client->identity.is_unix;
}

/* What a step of the handshake brought: the next one is due, or the first packet. */
static void
on_step(void *arg, uint64_t ticket, struct handshake *handshake)
{
    struct crowd *crowd = arg;
    struct client *client = slots_find(&crowd->tickets, ticket);
    struct fail fail;

    if (client == NULL) {
        handshake_drop(handshake);
        return;
    }
    enum stream_result result = handshake_take(handshake, &client->stream, &fail);
    if (result == STREAM_WAIT) {
        return;
    }
    if (result == STREAM_OK && tls_knows_protocol(&client->stream)) {
        login_on_event(client, WATCH_READ); /* the first packet may have come with its end */
        return;
    }
    if (result == STREAM_OK) {
        fail_set(&fail, "08P01", "direct TLS without the protocol postgresql (ALPN)");
    }
    stats_add(METRIC_protocol_errors_total, 1);
    client_log(LEVEL_INFO, client, "%s", fail.text);
    client_close(client, &fail);
}

static bool
begin_tls(struct client *client, bool is_direct)
{
    struct fail fail;

    if (!failures_allow(client, &fail)) {
        client_reject(client, &fail);
        return false;
    }
    if (!is_direct) {
        stream_write(&client->stream, "S", 1);
    }
    if (!tls_accept(client->crowd->tls, &client->stream, is_direct, &fail)) {
        client_close(client, &fail);
        return false;
    }
    return true;
}

/* Whether this first packet may be answered in clear. */
static bool
is_safe_enough(const struct client *client, struct fail *fail)
{
    const char *mode = client->crowd->pool.settings->client_tls_sslmode;
    bool is_required = is_tls_on(client) && strcmp(mode, "allow") != 0 &&
                       strcmp(mode, "prefer") != 0;

    if (is_required && client->stream.ssl == NULL) {
        return fail_set(fail, "28000", "connections without TLS are not accepted");
    }
    return true;
}

/* Handles one first packet; returns the bytes it took, 0 to wait for more or when the client is
 * gone. */
static size_t
take_first_packet(struct client *client, const uint8_t *data, size_t len)
{
    struct startup startup;
    struct fail fail;

    enum startup_result result = startup_parse(data, len, &startup, &fail);
    switch (result) {
    case STARTUP_MORE:
        return 0;
    case STARTUP_SSL:
    case STARTUP_GSS:
        if (len > startup.packet_len) {
            fail_set(&fail, "08P01", "received unencrypted data after an encryption request");
            break;
        }
        if (result == STARTUP_SSL && is_tls_on(client) && client->stream.ssl == NULL) {
            return begin_tls(client, false) ? startup.packet_len : 0;
        }
        stream_write(&client->stream, "N", 1);
        return startup.packet_len;
    case STARTUP_CANCEL:
        take_cancel(client, &startup);
        return 0;
    case STARTUP_LOGIN:
        if (!is_safe_enough(client, &fail) || !take_login(client, &startup, &fail)) {
            break;
        }
        return startup.packet_len;
    case STARTUP_BAD:
        stats_add(METRIC_protocol_errors_total, 1);
        if (startup_is_cancel(data, len)) {
            client_close(client, NULL); /* a cancel request is never answered */
            return 0;
        }
        break;
    }
    if (client->state < CLIENT_CLOSING) {
        client_reject(client, &fail);
    }
    return 0;
}

/* ---- answers ---- */

static bool
wrong_password(struct client *client, struct fail *fail)
{
    stats_add(METRIC_client_login_failures_total, 1);
    secrets_forget(client);
    return fail_set(
        fail, "28P01", "password authentication failed for user \"%s\"", client->identity.user);
}

static bool
choose_mechanism(struct login *login, const char *mechanism)
{
    if (login->offers_plus && strcmp(mechanism, SCRAM_MECHANISM_PLUS) == 0) {
        scram_bind(login->scram, login->binding, login->binding_len);
        return true;
    }
    return strcmp(mechanism, SCRAM_MECHANISM) == 0;
}

static bool
take_scram(struct client *client, const struct message *message, struct fail *fail)
{
    struct login *login = client->login;
    const char *mechanism;
    const uint8_t *data = message->body;
    size_t len = message->body_len;
    struct buf reply = {0}, buf = {0};

    if (login->method == METHOD_SCRAM) {
        if (!scram_parse_initial(message->body, message->body_len, &mechanism, &data, &len) ||
            !choose_mechanism(login, mechanism)) {
            return fail_set(
                fail, "08P01", "client selected an invalid SASL authentication mechanism");
        }
        if (!scram_first(login->scram, data, len, &reply, fail)) {
            buf_deinit(&reply);
            return false;
        }
        login->method = METHOD_SCRAM_STARTED;
        message_add_auth(&buf, AUTH_SASL_CONTINUE, buf_head(&reply), buf_len(&reply));
        buf_deinit(&reply);
        client_send(client, &buf);
        return true;
    }
    if (!scram_final(login->scram, data, len, &reply, fail)) {
        buf_deinit(&reply);
        return strcmp(fail->sqlstate, "28P01") == 0 ? wrong_password(client, fail) : false;
    }
    message_add_auth(&buf, AUTH_SASL_FINAL, buf_head(&reply), buf_len(&reply));
    buf_deinit(&reply);
    client_send(client, &buf);
    return welcome_admit(client, fail);
}

static bool
refused_by_pam(struct client *client, struct fail *fail)
{
    stats_add(METRIC_client_login_failures_total, 1);
    return fail_set(
        fail, "28000", "PAM authentication failed for user \"%s\"", client->identity.user);
}

/* PAM has answered: go on if the client is still there. */
static void
on_pam(void *arg, uint64_t ticket, bool is_right)
{
    struct crowd *crowd = arg;
    struct client *client = slots_find(&crowd->tickets, ticket);
    struct fail fail;

    if (client == NULL || client->state != CLIENT_VERIFYING) {
        return;
    }
    stream_want_read(&client->stream, true);
    if (is_right ? !welcome_admit(client, &fail) : !refused_by_pam(client, &fail)) {
        client_reject(client, &fail);
    }
}

static bool
ask_pam(struct client *client, const char *password, struct fail *fail)
{
    const struct login *login = client->login;
    const char *service = login->rule->service;

    if (password[0] == '\0') {
        return refused_by_pam(client, fail);
    }
    client_become(client, CLIENT_VERIFYING);
    stream_want_read(&client->stream, false);
    pam_check(client, service != NULL ? service : login->settings->auth_pam_service, password,
        on_pam);
    return true;
}

static bool
take_password(struct client *client, const struct message *message, struct fail *fail)
{
    struct login *login = client->login;
    struct reader reader = reader_over(message->body, message->body_len);

    if (login->method == METHOD_SCRAM || login->method == METHOD_SCRAM_STARTED) {
        return take_scram(client, message, fail);
    }
    const char *answer = reader_string(&reader);
    if (!reader_is_done(&reader)) {
        return fail_set(fail, "08P01", "invalid password packet");
    }
    if (login->method == METHOD_PAM) {
        return ask_pam(client, answer, fail);
    }
    /* An unknown user is checked against a secret that nothing matches, in the same time. */
    const char *user = client->identity.user;
    const char *secret = login->secret != NULL ? login->secret : "md5";
    bool is_right = login->method == METHOD_MD5
                        ? password_check_md5(user, secret, login->salt, answer)
                        : password_check_plain(user, secret, answer);
    if (!is_right || login->secret == NULL) {
        return wrong_password(client, fail);
    }
    return welcome_admit(client, fail);
}

/* Handles one answer; returns the bytes it took, 0 to wait for more or when the client is gone. */
static size_t
take_answer(struct client *client, const uint8_t *data, size_t len)
{
    struct message message;
    struct fail fail;
    enum message_result result = message_peek(data, len, &message);

    if (result == MESSAGE_MORE) {
        return 0;
    }
    if (result == MESSAGE_BAD || message.len > LOGIN_MESSAGE_MAX || message.type != MSG_PASSWORD) {
        if (message.type == MSG_TERMINATE && result == MESSAGE_OK) {
            client_close(client, NULL);
            return 0;
        }
        stats_add(METRIC_protocol_errors_total, 1);
        fail_set(&fail, "08P01", "expected a password response");
        client_reject(client, &fail);
        return 0;
    }
    if (!message_is_complete(&message, len)) {
        return 0;
    }
    if (!take_password(client, &message, &fail)) {
        client_reject(client, &fail);
        return 0;
    }
    return message.len;
}

/* Takes packets as long as they belong to the login; what is left is kept. */
static void
take_packets(struct client *client, const uint8_t *data, size_t len)
{
    size_t taken = 1;

    while (len > 0 && taken > 0 && client->state <= CLIENT_LOGIN) {
        taken = client->state == CLIENT_GREETING ? take_first_packet(client, data, len)
                                                 : take_answer(client, data, len);
        data += taken;
        len -= taken;
    }
    if (client->state < CLIENT_CLOSING && len > 0) {
        stream_keep(&client->stream, data, len);
        if (client->handler != NULL) {
            client->handler->on_kept(client);
        }
    }
}

/* A TLS handshake without an SSLRequest: no first packet begins like this, it would be too long. */
static bool
begins_directly(struct client *client)
{
    enum
    {
        HANDSHAKE = 0x16
    };
    return client->state == CLIENT_GREETING && is_tls_on(client) && client->stream.ssl == NULL &&
           buf_len(&client->stream.in) == 0 && stream_first_byte(&client->stream) == HANDSHAKE;
}

void
login_on_event(struct client *client, unsigned what)
{
    uint8_t *data;
    size_t len;

    if (begins_directly(client) && !begin_tls(client, true)) {
        return;
    }
    if (stream_is_shaking_hands(&client->stream)) {
        ensure(client->state == CLIENT_GREETING && client->login == NULL);
        handshake_step(&client->stream, client->crowd->crowds->helpers, on_step, client->crowd,
            client->ticket);
        return;
    }
    if (what & WATCH_WRITE) {
        stream_flush(&client->stream);
    }
    if (!(what & WATCH_READ)) {
        return;
    }
    if (client->state == CLIENT_VERIFYING || client->state == CLIENT_WELCOME) {
        /* Whatever it says now is for later. */
        stream_want_read(&client->stream, false);
        return;
    }
    switch (stream_read(&client->stream, &data, &len)) {
    case STREAM_OK:
        take_packets(client, data, len);
        break;
    case STREAM_WAIT:
        break;
    case STREAM_EOF:
    case STREAM_ERROR:
        client_close(client, NULL);
        break;
    }
}
