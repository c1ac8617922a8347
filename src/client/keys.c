/* Cancel keys. Called by client/login, the handlers and daemon/takeover; calls handlers. */
#include "client/keys.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"

#include <sys/random.h>

struct cancel_errand
{
    struct crowd *crowd;
    struct cancel_key key;
};

enum
{
    SLOT_BITS = 25,
    SLOT_MASK = (1 << SLOT_BITS) - 1,
    PID_MASK = 0x7fffffff
};

void
keys_make(struct client *client)
{
    struct crowd *crowd = client->crowd;
    uint32_t slot = (uint32_t)client->ticket;

    ensure(slot <= SLOT_MASK);
    client->key.pid =
        (((uint32_t)crowd->pool.index << SLOT_BITS) | slot) ^ (crowd->crowds->key_mask & PID_MASK);
    do {
        ensure(getrandom(&client->key.secret, sizeof(client->key.secret), 0) ==
               sizeof(client->key.secret));
    } while (client->key.secret == 0);
}

static void
on_cancel(void *arg)
{
    struct cancel_errand errand = *(struct cancel_errand *)arg;
    uint32_t slot = (errand.key.pid ^ errand.crowd->crowds->key_mask) & SLOT_MASK;
    struct client *client = slots_at(&errand.crowd->tickets, slot);

    free(arg);
    bool is_meant = client != NULL && client->key.secret != 0 &&
                    client->key.pid == errand.key.pid && client->key.secret == errand.key.secret;
    if (is_meant && client->handler != NULL) {
        client->handler->on_cancel(client);
    }
}

void
keys_cancel_here(struct crowds *crowds, struct cancel_key key)
{
    uint32_t index = ((key.pid ^ crowds->key_mask) & PID_MASK) >> SLOT_BITS;

    if (index >= (uint32_t)crowds->count) {
        return;
    }
    struct cancel_errand *errand = mem_new(sizeof(*errand));
    errand->crowd = crowds->all[index];
    errand->key = key;
    if (!loop_post(errand->crowd->pool.loop, on_cancel, errand)) {
        free(errand);
    }
}

void
keys_cancel(struct crowd *crowd, struct cancel_key key)
{
    struct crowds *crowds = crowd->crowds;

    stats_add(METRIC_cancel_requests_total, 1);
    keys_cancel_here(crowds, key);
    void (*elsewhere)(void *arg, struct cancel_key key) = atomic_load(&crowds->cancel_elsewhere);
    if (elsewhere != NULL) {
        elsewhere(crowds->cancel_arg, key);
    }
}
