/*
 * From the client to the backend: takes the client's bytes message by message, books what will
 * answer them, and forwards whole ones; a message larger than the read buffer goes in pieces. What
 * must wait is kept in the client's stream.
 */
#pragma once

#include "client/client.h"

enum intake_result
{
    INTAKE_TAKEN, /* as much as can be taken now */
    INTAKE_AGAIN, /* something was put in front of what is kept: look at it again */
    INTAKE_OVER,  /* the client is closing */
};

/* Takes what a read, or what was kept, brought. */
enum intake_result intake_take(struct client *client, const uint8_t *data, size_t len);
