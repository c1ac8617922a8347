/* The unnamed statement. Called by client/rewrite. */
#include "client/unnamed.h"

#include "client/insert.h"

/* From here on what this backend has as its unnamed statement is this client's doing. */
static void
unnamed_own(struct client *client)
{
    struct backend *backend = client->lease.backend;

    if (backend->prepared.unnamed_owner != client->id) {
        backend->prepared.unnamed_owner = client->id;
        backend->prepared.unnamed_group = backend->replies.group;
    }
    backend->prepared.unnamed_last = backend->replies.group;
    if (client->baggage != &baggage_none) {
        client->baggage->unnamed.backend = backend->id;
    }
}

/* body is empty when it is not known. */
void
unnamed_keep(struct client *client, const uint8_t *body, size_t len, bool is_suspect)
{
    struct unnamed *unnamed = &client_baggage(client)->unnamed;

    unnamed->is_suspect = is_suspect;
    unnamed->exists = true;
    unnamed->group = client->lease.backend->replies.group;
    buf_clear(&unnamed->body);
    buf_add(&unnamed->body, body, len);
    unnamed_own(client);
}

void
unnamed_forget(struct client *client)
{
    if (client->baggage != &baggage_none) {
        client->baggage->unnamed.exists = false;
        buf_clear(&client->baggage->unnamed.body);
    }
    unnamed_own(client);
}

const char *
unnamed_text(const struct client *client)
{
    const struct buf *body = &client->baggage->unnamed.body;

    return buf_len(body) > 0 ? (const char *)buf_head(body) : NULL;
}

/* Where this client was the last to touch it, PostgreSQL knows best whether there is one; but not
 * while an error may still make it skip the client's first touch, because then it has another's. */
bool
unnamed_provide(struct client *client, struct buf *buf)
{
    const struct backend *backend = client->lease.backend;
    const struct replies *replies = &backend->replies;
    const struct unnamed *unnamed = &client->baggage->unnamed;
    uint64_t group = backend->prepared.unnamed_group;

    if (backend->prepared.unnamed_owner == client->id && unnamed->backend == backend->id) {
        return group == replies->group || group < replies->answered;
    }
    if (unnamed->exists && buf_len(&unnamed->body) > 0) {
        insert_parse(client, buf, "", buf_head(&unnamed->body), buf_len(&unnamed->body));
    } else {
        insert_close(client, buf, "");
    }
    unnamed_own(client);
    return true;
}

void
unnamed_follow_error(struct client *client)
{
    const struct replies *replies = &client->lease.backend->replies;
    struct baggage *baggage = client->baggage;
    bool is_lost = replies->failed_unnamed || replies->skipped_unnamed;

    /* Not when a later group made it anew. */
    if (baggage != &baggage_none && is_lost && baggage->unnamed.group == replies->answered) {
        baggage->unnamed.exists = false;
        buf_clear(&baggage->unnamed.body);
    }
}
