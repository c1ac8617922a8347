/*
 * What clients get as TLS, from the files that the settings name. Read at the start and on reload.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>

struct settings;
struct tls;

/* *tls_out: held for the caller, NULL when TLS is off. False with the reason. */
must_check bool certificates_load(
    const struct settings *settings, struct tls **tls_out, struct fail *fail);
