/*
 * From the first packet to the welcome: who is it, may it come in, which pool, which settings
 * (PostgreSQL documentation, "Frontend/Backend Protocol", "Start-up"). Nothing about databases or
 * users is told before the client has proven who it is. The client's worker; key derivation goes to
 * a helper.
 */
#pragma once

#include "client/client.h"
#include "conf/users.h"
#include "wire/scram.h"

/* How a client must prove itself. */
enum method
{
    METHOD_TRUST, /* nothing more: known by a certificate or by the system, or anybody may */
    METHOD_PLAIN,
    METHOD_PAM,
    METHOD_MD5,
    METHOD_SCRAM,
    METHOD_SCRAM_STARTED
};

/* What only the login needs. */
struct login
{
    enum method method;
    const struct hba_rule *rule; /* borrows from settings: what must be passed */
    bool is_known;      /* the user exists */
    const char *secret; /* borrows from settings or looked_up; NULL: none that can be checked */
    enum secret_kind secret_kind;
    char *looked_up; /* owns, wiped: what auth_query gave */
    struct settings *settings; /* holds: the secret's home */
    struct scram *scram;       /* owns */
    bool offers_plus;          /* SCRAM-SHA-256-PLUS too, with this data of the channel: */
    uint8_t binding[SCRAM_BINDING_MAX];
    size_t binding_len;
    uint8_t salt[4];
    struct vars wanted; /* owns: settings of the first packet */
    char *replication; /* owns: the value, if it means replication, or NULL */
    bool is_console;
    bool awaits_resume; /* its secret is looked up where everything is paused */
    int64_t waits_since_us;
};

/* "pgkeel" and "pgbouncer" are the console: as databases, and as users for whoever runs us. */
bool login_is_console(const char *name);

void login_on_event(struct client *client, unsigned what);

/* Where the secret comes from is known now: goes on with the method that must be passed. False: the
 * client is turned away. */
must_check bool login_go_on(struct client *client, struct fail *fail);

/* The same after a helper was asked: bytes that came meanwhile are taken. */
void login_resume(struct client *client, const struct fail *fail);

/* Frees what only the login needed, secrets wiped. */
void login_end(struct client *client);
