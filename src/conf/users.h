/*
 * Who may log in and with which secret: userlist.txt and the users of DATABASE_URL. Part of a
 * settings snapshot, immutable. Secrets live in struct user only; it is wiped when freed and has no
 * print function.
 */
#pragma once

#include "base/fail.h"

struct users;

enum secret_kind
{
    SECRET_PLAIN,
    SECRET_MD5,
    SECRET_SCRAM
};

struct user
{
    const char *name;
    const char *secret; /* "" : no password was given, never matches */
    enum secret_kind kind;
};

typedef void users_report_fn(void *arg, int line, const char *text);

struct users *users_new(void);
void users_free(struct users **users); /* wipes */

/* Reads lines `"name" "secret"`; reports each bad one and goes on. False when any was bad. */
must_check bool users_parse(
    struct users *users, const char *text, size_t len, users_report_fn *report, void *arg);

/* Adds one; replaces an earlier one of the same name. */
void users_add(struct users *users, const char *name, const char *secret);

const struct user *users_find(const struct users *users, const char *name);
size_t users_count(const struct users *users);
bool users_have_verifiers(const struct users *users); /* of SCRAM, at least one */

/* What a secret is. */
enum secret_kind users_kind(const char *secret);
