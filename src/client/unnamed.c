/* The unnamed statement. Called by client/rewrite. */
#include "client/unnamed.h"

#include "client/insert.h"
#include "wire/session.h"

#include <string.h>

/* From here on what this backend has as its unnamed statement is this client's doing. */
static void
unnamed_own(struct client *client)
{
    struct backend *backend = client->lease.backend;

    if (backend->prepared.unnamed_owner != client->id) {
        backend->prepared.unnamed_owner = client->id;
        backend->prepared.unnamed_group = backend->replies.group;
    }
    if (client->baggage != &baggage_none) {
        client->baggage->unnamed.backend = backend->id;
    }
}

/* body is empty when it is not known. */
void
unnamed_keep(struct client *client, const uint8_t *body, size_t len)
{
    struct unnamed *unnamed = &client_baggage(client)->unnamed;

    unnamed->is_suspect =
        len == 0 || session_is_suspect((const char *)body, strlen((const char *)body));
    unnamed->exists = true;
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

/* Where this client was the last to touch it, PostgreSQL knows best whether there is one. */
void
unnamed_provide(struct client *client, struct buf *buf)
{
    const struct backend *backend = client->lease.backend;
    const struct unnamed *unnamed = &client->baggage->unnamed;

    if (backend->prepared.unnamed_owner == client->id && unnamed->backend == backend->id) {
        return;
    }
    if (unnamed->exists && buf_len(&unnamed->body) > 0) {
        insert_parse(client, buf, "", buf_head(&unnamed->body), buf_len(&unnamed->body));
    } else {
        insert_close(client, buf, ""); /* another client's must not answer for it */
    }
    unnamed_own(client);
}
