/* LISTEN without a backend. Called by client/session, relay and deliver; calls pool/herald. */
#include "client/listening.h"

#include "base/mem.h"
#include "base/stats.h"
#include "client/limits.h"
#include "client/provide.h"
#include "client/relay.h"
#include "client/session.h"
#include "client/unlisten.h"
#include "pool/channels.h"
#include "pool/herald.h"
#include "pool/wish.h"
#include "pool/pools.h"
#include "wire/message.h"

#include <inttypes.h>

enum
{
    UNREAD_MAX = 4 << 20 /* bytes that a client may leave unread before it is closed */
};

/* Who tells the client of a channel. */
enum teller
{
    TELLER_BACKEND,
    TELLER_NOBODY, /* not the backend any more, and the herald's mark is still to come */
    TELLER_HERALD,
};

struct channel
{
    char *name; /* owns */
    enum teller teller;
    uint32_t serial; /* of the move that brings it to the herald */
};

enum move
{
    MOVE_NONE,
    MOVE_ASKED,  /* the herald is told to listen */
    MOVE_READY,  /* it listens: at the next boundary */
    MOVE_MARKS,  /* the mark is on its way */
    MOVE_LEAVES, /* UNLISTEN is */
};

struct listening
{
    struct client *client; /* borrows */
    TAILQ_ENTRY(listening) link;
    struct channel *channels; /* owns, with their names */
    unsigned count;
    enum move move;
    uint32_t serial;   /* of the latest move */
    uint32_t marked;   /* the serial that was notified last */
    bool is_past_mark; /* the backend's notifications are behind it */
    struct unlisten unlisten;
    bool is_partial;   /* its backend listens to more than to these channels */
    bool owes_warning;     /* its backend was lost before the herald listened */
    struct buf queue; /* owns: what waits for a boundary */
};

static struct listening *
listening_of(struct client *client)
{
    struct baggage *baggage = client_baggage(client);

    if (baggage->listening == NULL) {
        baggage->listening = mem_new(sizeof(*baggage->listening));
        baggage->listening->client = client;
        TAILQ_INSERT_TAIL(&client->crowd->listening, baggage->listening, link);
    }
    return baggage->listening;
}

static struct channel *
find(const struct listening *listening, const char *name)
{
    for (unsigned i = 0; i < listening->count; i++) {
        if (strcmp(listening->channels[i].name, name) == 0) {
            return &listening->channels[i];
        }
    }
    return NULL;
}

static void
add(struct listening *listening, const char *name)
{
    size_t size = (listening->count + 1) * sizeof(*listening->channels);

    listening->channels = mem_resize(listening->channels, size);
    listening->channels[listening->count++] =
        (struct channel){mem_string(name), TELLER_BACKEND, listening->serial};
    wish_listen(listening->client->lease.side, name);
}

static void
drop(struct listening *listening, struct channel *channel)
{
    wish_unlisten(listening->client->lease.side, channel->name);
    free(channel->name);
    *channel = listening->channels[--listening->count];
}

bool
listening_is_on(const struct client *client)
{
    return client->baggage->listening != NULL && client->baggage->listening->count > 0;
}

void
listening_end(struct client *client)
{
    struct listening *listening = client->baggage->listening;

    if (listening == NULL) {
        return;
    }
    while (listening->count > 0) {
        drop(listening, &listening->channels[0]);
    }
    TAILQ_REMOVE(&client->crowd->listening, listening, link);
    unlisten_forget(&listening->unlisten);
    buf_deinit(&listening->queue);
    free(listening->channels);
    free(listening);
    client->baggage->listening = NULL;
}

/* ---- telling ---- */

static bool
may_be_told(const struct client *client)
{
    return client->state == CLIENT_IDLE || client->state == CLIENT_WAITING ||
           (client->state == CLIENT_ACTIVE && relay_is_at_boundary(client));
}

void
listening_tell(struct client *client)
{
    struct listening *listening = client->baggage->listening;

    if (listening == NULL || buf_len(&listening->queue) == 0 || !may_be_told(client)) {
        return;
    }
    stream_write(&client->stream, buf_head(&listening->queue), buf_len(&listening->queue));
    client->lease.side->counts.sent += buf_len(&listening->queue);
    stats_add(METRIC_bytes_sent_total, buf_len(&listening->queue));
    buf_deinit(&listening->queue);
}

/* Who does not read is closed: PostgreSQL would keep it all, for everybody. */
static bool
is_too_slow(const struct listening *listening, const struct client *client)
{
    return buf_len(&listening->queue) + buf_len(&client->stream.out) > UNREAD_MAX;
}

static void
reject_slow(struct client *client)
{
    struct fail fail;

    fail_set(&fail, "53400", "too many notifications wait for this client");
    fail_detail(&fail, "More than %d bytes were not read.", UNREAD_MAX);
    client_reject(client, &fail);
}

/* Puts the notification where it waits for its time, if the client is to be told of it. */
static void
hear(struct listening *listening, const char *name, const struct message *message)
{
    const struct channel *channel = find(listening, name);

    if (channel != NULL && channel->teller == TELLER_HERALD) {
        buf_add(&listening->queue, message->body - MESSAGE_HEADER, message->len);
        stats_add(METRIC_notifications_total, 1);
    }
}

/* ---- the herald ---- */

static void
warn_of_gap(struct listening *listening)
{
    struct fail fail;

    listening->owes_warning = false;
    fail_set(&fail, "01000", "notifications may be missing");
    fail_detail(&fail, "The server connection that listened for this session was lost.");
    message_add_notice(&listening->queue, "WARNING", &fail);
    listening_tell(listening->client);
}

static struct crowd *
crowd_of(struct pool_worker *worker)
{
    return (struct crowd *)((char *)worker - offsetof(struct crowd, pool));
}

static struct client *
find_client(struct pool_worker *worker, uint64_t ticket)
{
    struct client *client = slots_find(&crowd_of(worker)->tickets, ticket);

    return client != NULL && client->state < CLIENT_CLOSING && listening_is_on(client) ? client
                                                                                         : NULL;
}

static void
on_heard(struct pool_worker *worker, uint64_t ticket, uint32_t serial)
{
    struct client *client = find_client(worker, ticket);

    if (client == NULL) {
        return;
    }
    struct listening *listening = client->baggage->listening;
    if (listening->serial != serial) {
        return;
    }
    if (listening->owes_warning) {
        warn_of_gap(listening);
    }
    if (listening->move == MOVE_ASKED) {
        listening->move = MOVE_READY;
        if (client->state == CLIENT_ACTIVE) {
            client->handler->on_kept(client);
        }
    }
}

static bool
is_of(const struct listening *listening, const char *database)
{
    const struct client *client = listening->client;

    return client->state < CLIENT_CLOSING &&
           strcmp(client->lease.side->pool->database, database) == 0;
}

/* Whose mark, and of which move. */
struct mark
{
    int worker;
    uint64_t ticket;
    uint32_t serial;
};

static bool
read_mark(const char *payload, struct mark *out)
{
    return sscanf(payload, "%d/%" SCNx64 "/%" SCNx32, &out->worker, &out->ticket, &out->serial) ==
           3;
}

/* From here on the herald tells of these channels. Another herald, of another name of the same
 * database, may be elsewhere in the queue. */
static void
cross(struct pool_worker *worker, const char *database, const char *payload)
{
    struct mark mark;

    if (!read_mark(payload, &mark) || mark.worker != worker->index) {
        return;
    }
    struct client *client = find_client(worker, mark.ticket);
    if (client == NULL || !is_of(client->baggage->listening, database)) {
        return;
    }
    for (unsigned i = 0; i < client->baggage->listening->count; i++) {
        struct channel *channel = &client->baggage->listening->channels[i];
        if (channel->serial == mark.serial) {
            channel->teller = TELLER_HERALD;
        }
    }
}

static void
on_news(struct pool_worker *worker, const char *database, const uint8_t *data, size_t len)
{
    struct crowd *crowd = crowd_of(worker);
    struct listening *listening, *next;
    struct message message;

    while (message_next(&data, &len, &message)) {
        struct reader reader = reader_over(message.body, message.body_len);
        reader_u32(&reader);
        const char *name = reader_string(&reader);
        if (strcmp(name, channels_marker()) == 0) {
            cross(worker, database, reader_string(&reader));
            continue;
        }
        TAILQ_FOREACH (listening, &crowd->listening, link) {
            if (is_of(listening, database)) {
                hear(listening, name, &message);
            }
        }
    }
    for (listening = TAILQ_FIRST(&crowd->listening); listening != NULL; listening = next) {
        struct client *client = listening->client;
        next = TAILQ_NEXT(listening, link);
        if (client->state < CLIENT_CLOSING && is_too_slow(listening, client)) {
            reject_slow(client);
        } else {
            listening_tell(client);
        }
    }
}

/* Whether the herald heard the mark that is on its way nobody knows: it counts no more, and when
 * the backend has told it another follows. */
static void
void_mark(struct listening *listening)
{
    uint32_t serial = listening->serial;

    for (unsigned i = 0; listening->move == MOVE_MARKS && i < listening->count; i++) {
        struct channel *channel = &listening->channels[i];
        if (channel->teller == TELLER_BACKEND && channel->serial == serial) {
            listening->serial = channel->serial = serial + 1;
        }
    }
}

static void
on_gap(struct pool_worker *worker, const char *database)
{
    struct crowd *crowd = crowd_of(worker);
    struct listening *listening;

    TAILQ_FOREACH (listening, &crowd->listening, link) {
        bool is_concerned = false;
        for (unsigned i = 0; i < listening->count && is_of(listening, database); i++) {
            struct channel *channel = &listening->channels[i];
            /* The mark may have been missed, too. */
            bool is_left = channel->teller == TELLER_NOBODY;
            channel->teller = is_left ? TELLER_HERALD : channel->teller;
            is_concerned = is_concerned || channel->teller == TELLER_HERALD;
        }
        if (is_of(listening, database)) {
            void_mark(listening);
        }
        if (is_concerned) {
            warn_of_gap(listening);
        }
    }
}

static const struct herald_ops herald_ops = {on_heard, on_news, on_gap};

void
listening_init(struct crowd *crowd)
{
    TAILQ_INIT(&crowd->listening);
    crowd->pool.herald_ops = &herald_ops;
}

/* ---- moving ---- */

static void
start_move(struct client *client, const struct buf *channels)
{
    struct listening *listening = listening_of(client);
    const char *at = (const char *)buf_head(channels), *end = at + buf_len(channels);

    listening->serial++;
    listening->move = MOVE_ASKED;
    for (; at < end; at += strlen(at) + 1) {
        struct channel *channel = find(listening, at);
        if (channel == NULL) {
            add(listening, at);
        } else if (channel->teller == TELLER_BACKEND) {
            channel->serial = listening->serial;
        }
    }
    wish_confirm(client->lease.side, client->ticket, listening->serial);
}

void
listening_looked(struct client *client, const struct buf *channels, bool may_move)
{
    struct listening *listening = client->baggage->listening;

    for (unsigned i = 0; listening != NULL && i < listening->count; i++) {
        struct channel *channel = &listening->channels[i];
        if (channel->teller == TELLER_BACKEND && !buf_has_string(channels, channel->name)) {
            drop(listening, channel);
            i--;
        }
    }
    bool is_moving =
        may_move && buf_len(channels) > 0 && client->crowd->pool.settings->shared_listener;
    if (listening != NULL) {
        listening->move = MOVE_NONE;
        listening->is_partial = buf_len(channels) > 0 && !is_moving;
    }
    if (is_moving) {
        start_move(client, channels);
    }
}

static void
send_mark(struct client *client)
{
    struct listening *listening = client->baggage->listening;
    struct buf sql = {0};

    listening->marked = listening->serial;
    buf_print(&sql, "LISTEN %s; NOTIFY %s, '%d/%" PRIx64 "/%" PRIx32 "'", channels_marker(),
        channels_marker(), client->crowd->pool.index, client->ticket, listening->serial);
    buf_add_u8(&sql, 0);
    client->lease.backend->replies.is_broken = false;
    backend_send_query(client->lease.backend, (const char *)buf_head(&sql));
    buf_deinit(&sql);
}

bool
listening_moves(struct client *client)
{
    struct listening *listening = client->baggage->listening;

    if (listening == NULL || client->state != CLIENT_ACTIVE || listening->move != MOVE_READY ||
        session_pins(client) != PIN_LISTEN || session_has_news(client) ||
        client->lease.backend->duty.cancels > 0) {
        return false;
    }
    listening->move = MOVE_MARKS;
    listening->is_past_mark = false;
    client_become(client, CLIENT_LOOKING);
    limits_begin_move(client);
    send_mark(client);
    return true;
}

bool
listening_is_moving(const struct client *client)
{
    const struct listening *listening = client->baggage->listening;

    return listening != NULL && listening->move >= MOVE_MARKS;
}

enum listening_step
listening_moves_on(struct client *client)
{
    struct listening *listening = client->baggage->listening;
    struct backend *backend = client->lease.backend;

    if (listening->move == MOVE_MARKS && !backend->replies.is_broken && listening->is_past_mark) {
        listening->move = MOVE_LEAVES;
        backend_send_query(backend, "UNLISTEN *");
        return LISTENING_GOES_ON;
    }
    if (listening->move == MOVE_MARKS && !backend->replies.is_broken &&
        listening->marked != listening->serial) {
        send_mark(client);
        return LISTENING_GOES_ON;
    }
    if (listening->move == MOVE_MARKS) {
        listening->move = MOVE_NONE;
        client_log(LEVEL_WARN, client, "keeps its server connection, which cannot notify: %s",
            backend->refusal != NULL ? backend->refusal->text : "no reason given");
        return LISTENING_STAYS;
    }
    listening->move = MOVE_NONE;
    backend->duty.is_dirty = backend->duty.is_dirty || backend->replies.is_broken;
    return LISTENING_MOVED;
}

/* The backend tells of the marks of all who move in this database: which is this client's? */
static bool
is_own_mark(const struct listening *listening, const char *payload)
{
    const struct client *client = listening->client;
    struct mark mark;

    return read_mark(payload, &mark) && mark.worker == client->crowd->pool.index &&
           mark.ticket == client->ticket && mark.serial == listening->serial;
}

/* Its notifications are the herald's from here on. */
static void
pass_mark(struct listening *listening)
{
    listening->is_past_mark = true;
    for (unsigned i = 0; i < listening->count; i++) {
        struct channel *channel = &listening->channels[i];
        bool is_left = channel->teller == TELLER_BACKEND;
        channel->teller = is_left ? TELLER_NOBODY : channel->teller;
    }
}

/* A notification of the backend; true: it is not for the client. */
static bool
takes_notification(struct listening *listening, const struct message *message)
{
    struct reader reader = reader_over(message->body, message->body_len);

    reader_u32(&reader);
    const char *name = reader_string(&reader);
    if (strcmp(name, channels_marker()) == 0) {
        if (listening->move == MOVE_MARKS && is_own_mark(listening, reader_string(&reader))) {
            pass_mark(listening);
        }
        return true;
    }
    if (listening_is_moving(listening->client) && listening->is_past_mark) {
        return true;
    }
    const struct channel *channel = find(listening, name);
    /* The herald may be past the mark before the backend is. */
    bool is_ahead = listening->move == MOVE_MARKS && channel != NULL &&
                    channel->serial == listening->serial;
    return channel != NULL && channel->teller != TELLER_BACKEND && !is_ahead;
}

/* ---- leaving channels ---- */

void
listening_note_unlisten(struct client *client, const char *channel)
{
    unlisten_note(&client->baggage->listening->unlisten, channel);
}

void
listening_on_lease(struct client *client)
{
    if (client->baggage->listening != NULL) {
        unlisten_forget(&client->baggage->listening->unlisten);
    }
}

/* Those that its backend listens to are looked for there. */
static void
note_boundary(struct listening *listening, char status)
{
    for (unsigned i = 0; status == 'I' && i < listening->count; i++) {
        struct channel *channel = &listening->channels[i];
        if (channel->teller != TELLER_BACKEND &&
            unlisten_has(&listening->unlisten, channel->name)) {
            drop(listening, channel);
            i--;
        }
    }
    unlisten_settle(&listening->unlisten, status);
}

bool
listening_takes(struct client *client, const struct message *message)
{
    struct listening *listening = client->baggage->listening;
    const struct replies *replies = &client->lease.backend->replies;

    switch (message->type) {
    case MSG_NOTIFICATION:
        return takes_notification(listening, message);
    case MSG_COMMAND_COMPLETE:
        unlisten_tag(&listening->unlisten, message);
        return false;
    case MSG_ERROR:
        unlisten_error(&listening->unlisten);
        return false;
    case MSG_READY:
        if (replies_is_empty(replies) && !provide_is_deferring(client)) {
            note_boundary(listening, replies->status);
        }
        return false;
    default:
        return false;
    }
}

void
listening_survive(struct client *client)
{
    struct listening *listening = client->baggage->listening;

    if (!listening_is_on(client) || session_pins(client) != PIN_LISTEN ||
        session_has_news(client) || listening->is_partial) {
        return;
    }
    /* Told all up to the mark, which the herald tells of, too. */
    bool is_away = listening->move >= MOVE_MARKS && listening->is_past_mark;
    for (unsigned i = 0; i < listening->count; i++) {
        struct channel *channel = &listening->channels[i];
        bool was_told = channel->teller == TELLER_BACKEND;
        channel->teller = was_told ? TELLER_HERALD : channel->teller;
    }
    session_end(client);
    listening->owes_warning = !is_away;
    if (listening->owes_warning && listening->move != MOVE_ASKED) {
        warn_of_gap(listening);
    }
    listening->move = MOVE_NONE;
}
