/* Sending clients away. Called by ops/duty; calls client_reject(). */
#include "client/evict.h"

#include "pool/pools.h"

void
evict_database(struct crowd *crowd, const char *database, const struct fail *fail)
{
    struct client *client, *next;

    for (int state = 0; state < CLIENT_CLOSING; state++) {
        for (client = TAILQ_FIRST(&crowd->in[state]); client != NULL; client = next) {
            next = TAILQ_NEXT(client, link);
            const struct pool_side *side = client->lease.side;
            if (side != NULL &&
                (database[0] == '\0' || strcmp(side->pool->database, database) == 0)) {
                client_reject(client, fail);
            }
        }
    }
}

static bool
is_slow(const struct client *client)
{
    return stream_is_backed_up(&client->stream) ||
           (client->lease.backend != NULL && stream_is_backed_up(&client->lease.backend->stream));
}

int
evict_slow(struct crowd *crowd, const struct fail *fail)
{
    struct client *client, *next;
    int count = 0;

    for (int state = 0; state < CLIENT_CLOSING; state++) {
        for (client = TAILQ_FIRST(&crowd->in[state]); client != NULL; client = next) {
            next = TAILQ_NEXT(client, link);
            if (!is_slow(client)) {
                continue;
            }
            count++;
            if (fail != NULL) {
                client_close(client, fail);
            }
        }
    }
    return count;
}

bool
evict_one(struct crowd *crowd, uint64_t id, const struct fail *fail)
{
    struct client *client;

    for (int state = 0; state < CLIENT_CLOSING; state++) {
        TAILQ_FOREACH(client, &crowd->in[state], link) {
            if (client->id == id) {
                client_reject(client, fail);
                return true;
            }
        }
    }
    return false;
}
