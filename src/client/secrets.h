/*
 * Where the secret of a client's user comes from: auth_file, or PostgreSQL itself (auth_user,
 * auth_query; pool/lookup).
 */
#pragma once

#include "client/login.h"

enum secrets
{
    SECRETS_FOUND, /* as far as there is one: the user may be unknown */
    SECRETS_ASKED, /* login_resume() follows */
};

enum secrets secrets_find(struct client *client);

/* What the client's login has proven it with lets us in to PostgreSQL, too. */
void secrets_leave_keys(const struct client *client, struct pool *pool);

/* The worker's tick: asks for those who waited for the end of a PAUSE. */
void secrets_tick(struct crowd *crowd);

/* It did not fit: the next client asks again. */
void secrets_forget(struct client *client);
