/*
 * Ranges of addresses: 10.0.0.0/8, ::1/128. Pure functions, but for the addresses of this machine.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct range
{
    int family;
    uint8_t address[16], mask[16]; /* network order */
};

/* "10.0.0.7" or "fe80::1"; the mask is not touched. */
bool range_parse(const char *text, struct range *range);

/* Bytes of its addresses. */
size_t range_size(const struct range *range);

/* The mask that leaves so many bits. */
void range_set_prefix(struct range *range, unsigned bits);

/* Whether the client's address is in the range. */
bool range_has(const struct range *range, const struct range *client);

/* Whether it is an address of this machine, or (is_net) of a network that this machine is in. */
bool range_is_near(const struct range *client, bool is_net);
