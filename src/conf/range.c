/* Ranges of addresses. Called by conf/hba. */
#include "conf/range.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <string.h>

bool
range_parse(const char *text, struct range *range)
{
    if (inet_pton(AF_INET, text, range->address) == 1) {
        range->family = AF_INET;
        return true;
    }
    range->family = AF_INET6;
    return inet_pton(AF_INET6, text, range->address) == 1;
}

size_t
range_size(const struct range *range)
{
    return range->family == AF_INET ? 4 : 16;
}

void
range_set_prefix(struct range *range, unsigned bits)
{
    for (size_t i = 0; i < range_size(range); i++) {
        unsigned here = bits > i * 8 ? bits - (unsigned)i * 8 : 0;
        range->mask[i] = here >= 8 ? 0xff : (uint8_t)(0xff00 >> here);
    }
}

bool
range_has(const struct range *range, const struct range *client)
{
    if (range->family != client->family) {
        return false;
    }
    for (size_t i = 0; i < range_size(range); i++) {
        if ((range->address[i] ^ client->address[i]) & range->mask[i]) {
            return false;
        }
    }
    return true;
}

static void
copy_socket_address(const struct sockaddr *from, uint8_t *to)
{
    if (from->sa_family == AF_INET) {
        memcpy(to, &((const struct sockaddr_in *)from)->sin_addr, 4);
    } else {
        memcpy(to, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    }
}

bool
range_is_near(const struct range *client, bool is_net)
{
    struct ifaddrs *all, *at;
    bool is_found = false;

    if (getifaddrs(&all) != 0) {
        return false;
    }
    for (at = all; at != NULL && !is_found; at = at->ifa_next) {
        struct range own = {0};
        if (at->ifa_addr == NULL || at->ifa_netmask == NULL ||
            at->ifa_addr->sa_family != client->family) {
            continue;
        }
        own.family = client->family;
        copy_socket_address(at->ifa_addr, own.address);
        if (is_net) {
            copy_socket_address(at->ifa_netmask, own.mask);
        } else {
            range_set_prefix(&own, 128);
        }
        is_found = range_has(&own, client);
    }
    freeifaddrs(all);
    return is_found;
}
