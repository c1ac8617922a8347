/*
 * libpq for tests: a connection is one end of a socketpair, the test plays PostgreSQL at the other.
 * Login has happened already as far as the code under test can see.
 */
#pragma once

#include <stdint.h>

/* The server's end of the next connection that is dialled, waited for up to 5 s; -1: none came. */
int fake_pq_accept(void);
int fake_pq_accept_within(int64_t us);

/* From now on connecting fails with these words of libpq; NULL: it works again. */
void fake_pq_fail(const char *message);
