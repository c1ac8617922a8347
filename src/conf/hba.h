/*
 * Which method a connection must pass: pg_hba.conf, and the maps of pg_ident.conf, in PostgreSQL's
 * grammar (documentation, "The pg_hba.conf File", "User Name Maps"). The first rule that fits
 * counts. Never changes once it is read; part of a snapshot of the settings.
 */
#pragma once

#include "base/fail.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

enum hba_method
{
    HBA_TRUST,
    HBA_REJECT,
    HBA_PLAIN,
    HBA_MD5,
    HBA_SCRAM,
    HBA_CERT,
    HBA_PEER,
    HBA_PAM,
    HBA_METHODS
};

struct hba_rule
{
    enum hba_method method;
    const char *map;        /* NULL: names must be equal */
    const char *service;    /* of PAM; NULL: auth_pam_service */
    bool needs_certificate; /* clientcert: any that was found valid */
    bool needs_name;        /* clientcert=verify-full: with the user's name in it */
    int line;
};

/* Who comes. */
struct hba_client
{
    const char *database, *user;
    const char *address; /* "10.0.0.7" or "::1"; NULL: a unix socket */
    bool has_tls;
    bool is_replication; /* physical: no database */
};

struct hba;

/* For each mistake: in which file and line, and what. */
typedef void hba_report_fn(void *arg, const char *path, int line, const char *text);

/* Reads the file, and that of the maps unless it is "". NULL when there was a mistake, each of them
 * reported. */
struct hba *hba_read(
    const char *path, const char *ident_path, hba_report_fn *report, void *arg);
void hba_free(struct hba **hba);

/* The rule for this client; NULL: none, so it is turned away. */
const struct hba_rule *hba_find(const struct hba *hba, const struct hba_client *client);

/* Whether who is called so elsewhere (a certificate's name, a user of the system) may be this user
 * of the database. */
bool hba_maps(const struct hba *hba, const struct hba_rule *rule, const char *name,
    const char *user);
