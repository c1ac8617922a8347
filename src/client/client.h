/*
 * A client: an application's session with us, from accept to close. Belongs to one worker for its
 * whole life. After login a handler serves it: the relay (client/relay) or the console
 * (ops/console).
 *
 *    GREETING ─► LOGIN ⇄ VERIFYING      relay:   IDLE ─► WAITING ─► PREPARING ─► ACTIVE ─► IDLE
 *                  └──► WELCOME ─► IDLE       its session may have left something: ACTIVE ⇄ LOOKING
 *                                             its transaction was lost: ACTIVE ─► FAILED ─► IDLE
 *                                        console: CONSOLE      replication: REPLICATING
 *    from every state: CLOSING (a last word is being sent) ─► CLOSED
 */
#pragma once

#include "base/log.h"
#include "client/names.h"
#include "conf/settings.h"
#include "net/listen.h"
#include "net/stream.h"
#include "pool/pool.h"

#include <stdatomic.h>

struct aborted;
struct client;
struct deferred;
struct headcount;
struct helpers;
struct listening;
struct login;
struct lookups;
struct loss;
struct session;
struct tls;
struct verifiers;

enum client_state
{
    CLIENT_GREETING,  /* nothing but first packets so far */
    CLIENT_LOGIN,     /* a challenge was sent */
    CLIENT_VERIFYING, /* a helper derives a key */
    CLIENT_WELCOME,   /* proven; waits for a backend to learn or check settings */
    CLIENT_IDLE,      /* no request in progress, no backend */
    CLIENT_WAITING,   /* a request waits for a backend */
    CLIENT_PREPARING, /* its settings are being put on the backend */
    CLIENT_ACTIVE,    /* holds a backend */
    CLIENT_LOOKING,   /* PostgreSQL is asked what its session left */
    CLIENT_FAILED,    /* its transaction was lost: we answer until it ends it */
    CLIENT_CONSOLE,   /* talks to the console */
    CLIENT_REPLICATING, /* has a connection of its own (client/replication) */
    CLIENT_CLOSING,   /* the last word is on its way */
    CLIENT_CLOSED,
    CLIENT_STATES
};

TAILQ_HEAD(client_list, client);
TAILQ_HEAD(listening_list, listening);

/* Who serves a client after login. */
struct handler
{
    const char *name;
    void (*on_start)(struct client *client); /* just logged in */
    void (*on_kept)(struct client *client);  /* bytes it sent meanwhile wait in its stream */
    void (*on_event)(struct client *client, unsigned what); /* its stream: WATCH_ bits */
    void (*on_close)(struct client *client);                /* gives up what it holds */
    void (*on_cancel)(struct client *client);               /* a cancel request with its key came */
};

/* What a cancel request must repeat: pid names worker and slot, masked; the secret is random. */
struct cancel_key
{
    uint32_t pid;
    uint32_t secret;
};

/* What all workers share about clients; `shared`. */
struct crowds
{
    struct crowd **all; /* borrows */
    int count;
    struct helpers *helpers;         /* borrows */
    const struct handler *console;   /* borrows */
    struct verifiers *verifiers;     /* owns: derived once per user */
    struct lookups *lookups;         /* owns: what auth_query gave */
    struct headcount *headcount;     /* owns: clients of databases and users */
    struct failures *failures;       /* owns: failed logins of addresses */
    uint8_t mock_secret[32];         /* of made-up verifiers */
    uint32_t key_mask;               /* hides slots in cancel keys */
    _Atomic int64_t max_client_conn; /* resolved: never 0 */
    _Atomic int64_t max_unauthenticated; /* of all workers together; never 0 */
    _Atomic int64_t clients;         /* logged in or logging in */
    _Atomic uint64_t next_id;
    _Atomic bool is_draining; /* close clients at their next boundary */
    /* A cancel request came that may be for a client of another process. Any worker's thread. */
    void (*_Atomic cancel_elsewhere)(void *arg, struct cancel_key key);
    void *cancel_arg; /* set before it */
};

/* All clients of one worker. */
struct crowd
{
    struct pool_worker pool; /* the worker as pools see it */
    struct crowds *crowds;   /* borrows */
    struct tls *tls;         /* holds, or NULL: what its clients get */
    struct client_list in[CLIENT_STATES];
    unsigned count[CLIENT_STATES];
    struct slots tickets; /* owns; of clients, for posts */
    struct listening_list listening; /* of those clients that hear from a herald */
    struct buf insert;    /* owns: what goes to a backend in front of a message; of one read */
    struct buf rewritten; /* owns: what a read became; of one read */
    _Atomic int load;     /* shared: clients here, for whoever distributes them */
};

struct identity
{
    char *user, *database; /* own; NULL before login */
    uid_t peer_uid;        /* of a unix socket's peer, else -1 */
    bool is_unix;
    bool is_admin; /* may change things on the console */
    bool is_own;   /* whoever runs us, on the console: health checks, so no line in the log */
    char *peer;    /* owns: "10.0.0.7:5012" */
};

/* What of a refused request is still to be dropped, as PostgreSQL would. */
enum skipping
{
    SKIP_NOTHING,
    SKIP_REQUEST, /* its first message, unless it is a Query or FunctionCall: up to its Sync */
    SKIP_TO_SYNC,
};

/* What limits a client that holds a backend (client/limits). */
enum limit
{
    LIMIT_NONE,
    LIMIT_QUERY,
    LIMIT_TRANSACTION,
    LIMIT_IDLE_TRANSACTION,
    LIMIT_IDLE,
};

/* Where the relay stands with this client. */
struct relay_state
{
    uint32_t client_rest;     /* bytes of a large message from the client still to come */
    bool drops_client_rest;   /* they go nowhere */
    bool is_backlogged;       /* too many replies are owed, or a cancel is: kept messages wait */
    bool awaits_cancels;      /* the latter: what is sent before they are over could be hit */
    bool passes_backend_rest; /* the backend's large message goes to the client */
    enum skipping skipping;   /* a request was refused */
    bool is_told_to_wait;     /* the NOTICE of query_wait_notify was sent for this request */
    bool is_leaving;          /* said goodbye or closed its side: finish what is complete */
    bool is_cancelled;        /* a cancel request was passed on for the oldest request */
    bool was_served;          /* a request of this lease was answered */
    bool is_limit_told;       /* the client was told that `expired` is over */
    enum limit expired;       /* is over: what runs is being cancelled */
    int64_t request_us, transaction_us; /* when they began; 0: none */
    struct loss *loss;       /* owns, or NULL: what an open request or transaction would undo */
    struct aborted *aborted; /* owns while FAILED, or while a chained transaction is to be opened */
};

/* The unnamed statement, in case it is used on another backend than it was made on. */
struct unnamed
{
    struct buf body; /* owns: what follows the name in its Parse; empty when it is not known */
    uint64_t backend; /* id of the one it was last made or dropped on */
    uint64_t group;   /* of its Parse */
    bool exists;
    bool is_suspect; /* its text may leave something in the session */
};

/* What a client has prepared and set. Most clients have nothing, and idle ones are many. */
struct baggage
{
    struct names names; /* owns: its prepared statements */
    struct unnamed unnamed;
    struct deferred *deferred; /* owns, or NULL: a Bind that waits (client/provide) */
    uint64_t drops_in_group; /* in which it bound DEALLOCATE ALL or DISCARD ALL; 0: none */
    struct vars startup;     /* owns: its settings at login; empty until one changes */
    struct session *session; /* owns, or NULL: nothing of it was left on a backend */
    struct listening *listening; /* owns, or NULL: it never listened without a backend */
};

extern struct baggage baggage_none; /* empty for ever */

struct client
{
    struct stream stream;
    struct crowd *crowd;      /* borrows */
    TAILQ_ENTRY(client) link; /* the list of its state */
    enum client_state state;
    bool is_counted;      /* by client/headcount */
    bool follows_names;   /* its prepared statements move with it from backend to backend */
    bool watches_session; /* what it leaves in its session is looked after */
    struct deadline deadline; /* of the state */
    uint64_t id, ticket;
    int64_t connected_us, state_since_us;
    struct identity identity;
    struct login *login; /* owns; until the welcome */
    const struct handler *handler;
    void *handler_data; /* the handler's */
    struct lease lease; /* its side is NULL before it has a pool */
    struct vars vars;   /* owns: the settings this session wants */
    struct baggage *baggage; /* owns, or borrows `baggage_none` */
    struct relay_state relay;
    struct cancel_key key;
};

const char *client_state_name(enum client_state state);

/* "10.0.0.7" of the peer "10.0.0.7:5012", "::1" of "[::1]:5012". */
void client_address(const struct client *client, char *to, size_t size);

/* What all workers share but their number, helpers, console and limits. */
void crowds_init(struct crowds *crowds);
void crowds_deinit(struct crowds *crowds);

void crowd_init(struct crowd *crowd, struct crowds *crowds);
void crowd_deinit(struct crowd *crowd);

/* Takes over an accepted connection. The worker's thread. */
void client_open(struct crowd *crowd, const struct accepted *accepted);

/* The only assignment of state; checks that it is legal, restarts the deadline, moves between
 * lists. */
void client_become(struct client *client, enum client_state state);

/* The client's own baggage, made when it has none: before anything is put into it. */
struct baggage *client_baggage(struct client *client);

/* Where the prepared statements of all clients are. */
struct statements *client_statements(const struct client *client);

/* Writes what was built and frees it. */
void client_send(struct client *client, struct buf *buf);

/* Ends the session at once, with everything it holds. fail: why, for the log; NULL: the client's
 * own wish. */
void client_close(struct client *client, const struct fail *fail);

/* Ends the session once everything was sent. fail: why, for the log. */
void client_finish(struct client *client, const struct fail *fail);

/* Sends the reason as FATAL, then ends the session. */
void client_reject(struct client *client, const struct fail *fail);

/* The time the present state may still take, instead of its table's; 0: unlimited. */
void client_limit(struct client *client, int64_t limit_us);

/* Closes those that are between transactions, with 57P01. */
void crowd_drain(struct crowd *crowd);

/* Closes one with 57P01, because the process leaves. */
void client_drain(struct client *client);

/* Whether no transaction is open and no request unanswered. */
bool client_is_between(const struct client *client);

/* Closes all at once. */
void crowd_close_all(struct crowd *crowd);

unsigned crowd_size(const struct crowd *crowd);

struct log_subject client_subject(const struct client *client);

#define client_log(level, client, ...)                                                             \
    do {                                                                                           \
        if (log_wants(level)) {                                                                    \
            struct log_subject client_log_subject = client_subject(client);                        \
            log_write(level, &client_log_subject, __VA_ARGS__);                                    \
        }                                                                                          \
    } while (0)
