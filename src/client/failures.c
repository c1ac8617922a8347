/* Failed logins by address. Called by client/client and client/login; calls nothing. */
#include "client/failures.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

enum
{
    SETS = 1024,
    WAYS = 4
};

#define MINUTE_US 60000000

/* Each failure moves full_us on by its share of a minute: what lies more than a minute ahead is too
 * much. In the past: nothing is remembered of it, and the place is free. */
struct record
{
    uint64_t address; /* hashed */
    int64_t full_us;
};

struct failures
{
    pthread_mutex_t mutex;
    uint64_t keys[2]; /* nobody can choose addresses that share a place */
    struct record records[SETS][WAYS];
};

struct failures *
failures_new(void)
{
    struct failures *failures = mem_new(sizeof(*failures));

    pthread_mutex_init(&failures->mutex, NULL);
    ensure(getrandom(failures->keys, sizeof(failures->keys), 0) == sizeof(failures->keys));
    return failures;
}

void
failures_free(struct failures **failures)
{
    pthread_mutex_destroy(&(*failures)->mutex);
    free(*failures);
    *failures = NULL;
}

/* 0: it has none. */
static uint64_t
hash_address(const struct failures *failures, const struct client *client)
{
    char text[PEER_TEXT_MAX];
    struct in_addr four;
    struct in6_addr six;
    uint64_t number = 0;

    client_address(client, text, sizeof(text));
    text[strcspn(text, "%")] = '\0'; /* the interface of a link-local address */
    if (inet_pton(AF_INET, text, &four) == 1) {
        number = four.s_addr;
    } else if (inet_pton(AF_INET6, text, &six) == 1) {
        memcpy(&number, &six, sizeof(number));
    } else {
        return 0;
    }
    number = (number ^ failures->keys[0]) * (failures->keys[1] | 1);
    number ^= number >> 32;
    return number * (failures->keys[0] | 1) | 1;
}

/* What is known of the address, or the place for it: of the one that is forgotten first. */
static struct record *
place_locked(struct failures *failures, uint64_t address)
{
    struct record *set = failures->records[(address >> 1) % SETS], *place = set;

    for (int i = 0; i < WAYS; i++) {
        if (set[i].address == address) {
            return &set[i];
        }
        place = set[i].full_us < place->full_us ? &set[i] : place;
    }
    return place;
}

bool
failures_allow(const struct client *client, struct fail *fail)
{
    struct failures *failures = client->crowd->crowds->failures;
    int64_t most = client->crowd->pool.settings->max_login_failures;
    uint64_t address = most > 0 ? hash_address(failures, client) : 0;

    if (address == 0) {
        return true;
    }
    pthread_mutex_lock(&failures->mutex);
    struct record *record = place_locked(failures, address);
    int64_t full_us = record->address == address ? record->full_us : 0;
    pthread_mutex_unlock(&failures->mutex);
    int64_t ahead_us = full_us - loop_now_us(client->crowd->pool.loop);
    /* Another failure must fit. */
    if (ahead_us + MINUTE_US / most <= MINUTE_US) {
        return true;
    }
    stats_add(METRIC_clients_refused_by_address_total, 1);
    return fail_set(fail, "53300", "too many failed logins from this address (max_login_failures)");
}

void
failures_count(const struct client *client, const struct fail *fail)
{
    struct failures *failures = client->crowd->crowds->failures;
    int64_t most = client->crowd->pool.settings->max_login_failures;
    int64_t now_us = loop_now_us(client->crowd->pool.loop);
    bool is_own_fault = fail == NULL || strncmp(fail->sqlstate, "28", 2) == 0 ||
                        strcmp(fail->sqlstate, "08P01") == 0;
    /* Cancels and probes over TLS leave without a login; what takes long here is our doing. */
    bool has_begun = client->login != NULL || (fail != NULL && client->stream.ssl != NULL);
    bool waits_for_us = client->state == CLIENT_VERIFYING || client->stream.is_away;
    if (fail != NULL && waits_for_us && strcmp(fail->sqlstate, "08P01") == 0) {
        return;
    }
    uint64_t address =
        most > 0 && is_own_fault && has_begun ? hash_address(failures, client) : 0;

    if (address == 0) {
        return;
    }
    pthread_mutex_lock(&failures->mutex);
    struct record *record = place_locked(failures, address);
    if (record->address != address) {
        *record = (struct record){address, 0};
    }
    record->full_us = (record->full_us > now_us ? record->full_us : now_us) + MINUTE_US / most;
    pthread_mutex_unlock(&failures->mutex);
}
