/* Counting clients. Called by client/welcome and client/client; calls nothing. */
#include "client/headcount.h"

#include "base/mem.h"
#include "base/state.h"

#include <pthread.h>
#include <uthash.h>

struct entry
{
    UT_hash_handle hh;
    int64_t clients;
    char key[]; /* "d:app", "u:ann" */
};

struct headcount
{
    pthread_mutex_t mutex;
    struct entry *entries; /* own; none without clients */
};

struct headcount *
headcount_new(void)
{
    struct headcount *headcount = mem_new(sizeof(*headcount));

    pthread_mutex_init(&headcount->mutex, NULL);
    return headcount;
}

void
headcount_free(struct headcount **headcount)
{
    ensure((*headcount)->entries == NULL);
    pthread_mutex_destroy(&(*headcount)->mutex);
    free(*headcount);
    *headcount = NULL;
}

/* The entry of this database or user, made when there is none. */
static struct entry *
find_locked(struct headcount *headcount, char kind, const char *name)
{
    struct entry *entry;
    struct buf key = {0};

    buf_print(&key, "%c:%s", kind, name);
    HASH_FIND(hh, headcount->entries, buf_head(&key), buf_len(&key), entry);
    if (entry == NULL) {
        entry = mem_new(sizeof(*entry) + buf_len(&key) + 1);
        memcpy(entry->key, buf_head(&key), buf_len(&key));
        HASH_ADD_KEYPTR(hh, headcount->entries, entry->key, buf_len(&key), entry);
    }
    buf_deinit(&key);
    return entry;
}

static void
change_locked(struct headcount *headcount, char kind, const char *name, int change)
{
    struct entry *entry = find_locked(headcount, kind, name);

    entry->clients += change;
    ensure(entry->clients >= 0);
    if (entry->clients == 0) {
        HASH_DEL(headcount->entries, entry);
        free(entry);
    }
}

bool
headcount_enter(struct client *client, struct fail *fail)
{
    struct headcount *headcount = client->crowd->crowds->headcount;
    const struct settings *settings = client->crowd->pool.settings;
    const struct identity *identity = &client->identity;
    int64_t of_database = settings_max_db_client_connections(settings, identity->database);
    int64_t of_user = settings_max_user_client_connections(settings, identity->user);

    pthread_mutex_lock(&headcount->mutex);
    change_locked(headcount, 'd', identity->database, 1);
    change_locked(headcount, 'u', identity->user, 1);
    int64_t in_database = find_locked(headcount, 'd', identity->database)->clients;
    int64_t as_user = find_locked(headcount, 'u', identity->user)->clients;
    pthread_mutex_unlock(&headcount->mutex);
    client->is_counted = true;
    if (of_database > 0 && in_database > of_database) {
        headcount_leave(client);
        return fail_set(fail, "53300", "client connections exceeded (max_db_client_connections)");
    }
    if (of_user > 0 && as_user > of_user) {
        headcount_leave(client);
        return fail_set(
            fail, "53300", "client connections exceeded (max_user_client_connections)");
    }
    return true;
}

void
headcount_leave(struct client *client)
{
    struct headcount *headcount = client->crowd->crowds->headcount;

    if (!client->is_counted) {
        return;
    }
    client->is_counted = false;
    pthread_mutex_lock(&headcount->mutex);
    change_locked(headcount, 'd', client->identity.database, -1);
    change_locked(headcount, 'u', client->identity.user, -1);
    pthread_mutex_unlock(&headcount->mutex);
}
