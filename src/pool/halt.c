/* What is paused and disabled. Called by pool/pools, client/ and the console; calls the ledgers. */
#include "pool/halt.h"

#include "base/mem.h"
#include "pool/pools.h"
#include "pool/tick.h"

#include <pthread.h>
#include <string.h>
#include <uthash.h>

struct halt
{
    UT_hash_handle hh;
    bool is_paused, is_disabled; /* at least one of them */
    char database[];
};

struct halts
{
    pthread_mutex_t mutex;
    bool is_all_paused, is_suspended;
    struct halt *all; /* own, by database */
};

struct halts *
halts_new(void)
{
    struct halts *halts = mem_new(sizeof(*halts));

    pthread_mutex_init(&halts->mutex, NULL);
    return halts;
}

void
halts_free(struct halts **pointer)
{
    struct halts *halts = *pointer;
    struct halt *halt, *next;

    HASH_ITER(hh, halts->all, halt, next) {
        HASH_DEL(halts->all, halt);
        free(halt);
    }
    pthread_mutex_destroy(&halts->mutex);
    free(halts);
    *pointer = NULL;
}

/* What holds for the database; nothing when it has no entry. */
static struct halt
look(struct halts *halts, const char *database, bool *is_all_paused_out)
{
    struct halt *halt, copy = {0};

    pthread_mutex_lock(&halts->mutex);
    *is_all_paused_out = halts->is_all_paused;
    HASH_FIND_STR(halts->all, database, halt);
    if (halt != NULL) {
        copy.is_paused = halt->is_paused;
        copy.is_disabled = halt->is_disabled;
    }
    pthread_mutex_unlock(&halts->mutex);
    return copy;
}

/* The entry of the database, made when there is none. */
static struct halt *
find_locked(struct halts *halts, const char *database)
{
    struct halt *halt;

    HASH_FIND_STR(halts->all, database, halt);
    if (halt == NULL) {
        size_t len = strlen(database);
        halt = mem_new(sizeof(*halt) + len + 1);
        memcpy(halt->database, database, len + 1);
        HASH_ADD_KEYPTR(hh, halts->all, halt->database, len, halt);
    }
    return halt;
}

static void
forget_idle_locked(struct halts *halts, struct halt *halt)
{
    if (!halt->is_paused && !halt->is_disabled) {
        HASH_DEL(halts->all, halt);
        free(halt);
    }
}

static bool
set_pause(struct halts *halts, const char *database, bool is_paused)
{
    bool is_changed;

    pthread_mutex_lock(&halts->mutex);
    if (database[0] == '\0') {
        is_changed = halts->is_all_paused != is_paused;
        halts->is_all_paused = is_paused;
    } else {
        struct halt *halt = find_locked(halts, database);
        is_changed = halt->is_paused != is_paused;
        halt->is_paused = is_paused;
        forget_idle_locked(halts, halt);
    }
    pthread_mutex_unlock(&halts->mutex);
    return is_changed;
}

bool
halts_pause(struct halts *halts, const char *database)
{
    return set_pause(halts, database, true);
}

bool
halts_resume(struct halts *halts, const char *database)
{
    return set_pause(halts, database, false);
}

bool
halts_pause_concerns(struct halts *halts, const char *database)
{
    bool is_all_paused;
    bool is_paused = look(halts, database, &is_all_paused).is_paused;

    return is_all_paused || is_paused;
}

bool
halts_suspend(struct halts *halts, bool is_suspended)
{
    pthread_mutex_lock(&halts->mutex);
    bool is_changed = halts->is_suspended != is_suspended;
    halts->is_suspended = is_suspended;
    pthread_mutex_unlock(&halts->mutex);
    return is_changed;
}

bool
halts_is_suspended(struct halts *halts)
{
    pthread_mutex_lock(&halts->mutex);
    bool is_suspended = halts->is_suspended;
    pthread_mutex_unlock(&halts->mutex);
    return is_suspended;
}

void
halts_disable(struct halts *halts, const char *database, bool is_disabled)
{
    pthread_mutex_lock(&halts->mutex);
    struct halt *halt = find_locked(halts, database);
    halt->is_disabled = is_disabled;
    forget_idle_locked(halts, halt);
    pthread_mutex_unlock(&halts->mutex);
}

bool
halts_is_disabled(struct halts *halts, const char *database)
{
    bool is_all_paused;

    return look(halts, database, &is_all_paused).is_disabled;
}

/* Under the registry's lock. */
static void
enforce_on(void *arg, struct pool *pool)
{
    bool is_paused = halts_pause_concerns(arg, pool->database);

    if (!ledger_pause(&pool->ledger, is_paused)) {
        return;
    }
    if (is_paused) {
        /* As after RECONNECT, but that nothing takes the place of what is closed. */
        atomic_fetch_add(&pool->generation, 1);
        tick_tidy(pool);
    } else {
        atomic_store(&pool->resumed_us, loop_clock_us());
        outage_reconsider(pool);
    }
}

void
halts_enforce(struct pools *pools)
{
    pools_each(pools, enforce_on, pools_halts(pools));
    pools_wake(pools, NULL);
}
