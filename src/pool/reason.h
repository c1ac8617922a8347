/*
 * Why backends are closed, counted. Any thread.
 */
#pragma once

#include "base/fail.h"

/* NULL: it was found dead. */
void reason_count(const struct fail *fail);
