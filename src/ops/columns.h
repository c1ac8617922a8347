/*
 * Columns of the tables that SHOW shows, one line each: name and type.
 */
#pragma once

#include "wire/message.h"

#define TEXT(name)                                                                                 \
    {                                                                                              \
        name, OID_TEXT                                                                             \
    }
#define INT4(name)                                                                                 \
    {                                                                                              \
        name, OID_INT4                                                                             \
    }
#define NUMERIC(name)                                                                              \
    {                                                                                              \
        name, OID_NUMERIC                                                                          \
    }
#define BYTEA(name)                                                                                \
    {                                                                                              \
        name, OID_BYTEA                                                                            \
    }
#define INT8(name)                                                                                 \
    {                                                                                              \
        name, OID_INT8                                                                             \
    }
