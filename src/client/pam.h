/*
 * Passwords that PAM checks (auth_type pam, rules with that method), each in a helper: modules wait
 * for networks and for seconds after a wrong one. Only where pgkeel was built with PAM; elsewhere
 * the settings refuse it. The library has no limit for the time it takes: client_login_timeout has.
 */
#pragma once

#include "client/login.h"

/* Called with the client's ticket (it may have left). */
typedef void pam_done_fn(void *crowd, uint64_t ticket, bool is_right);

/* Asks the service whether this is the password of the client's user, and whether its account may
 * be used; then calls done in the client's loop. */
void pam_check(
    struct client *client, const char *service, const char *password, pam_done_fn *done);
