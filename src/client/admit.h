/*
 * What a client must pass: by auth_type, or by the rules of auth_hba_file. What the system or the
 * TLS session proves (peer, cert, clientcert) is checked here; passwords are client/login's.
 */
#pragma once

#include "client/login.h"

/* Whether anybody needs to look who the user is: a rule may turn away whoever comes from there, or
 * without a certificate. False: 28000, in PostgreSQL's words. */
must_check bool admit_knock(struct client *client, struct fail *fail);

/* Sets the login's method; its secret is there. False: the client is turned away, with 28000 in
 * PostgreSQL's words. */
must_check bool admit_choose_method(struct client *client, struct fail *fail);
