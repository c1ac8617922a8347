/*
 * One connection of ours to PostgreSQL. libpq dialled it and its PGconn stays the owner of socket
 * and TLS session; from the hand-over on we speak the raw protocol over them and libpq is not
 * called again before PQfinish(). Belongs to one worker's side of one pool at a time; in transit it
 * belongs to the post.
 *
 *                  ┌───────── moves to another worker ─────────┐
 *    ALIGNING ─► IDLE ─► LEASED ─► SCRUBBING ─► IDLE     MOVING ─► LEASED / IDLE
 *       │         │ └─► TESTING ─► LEASED / IDLE │
 *       └─────────┴───────┴─┴──────────┴──► CLOSING ─► freed
 */
#pragma once

#include "net/stream.h"
#include "pool/held.h"
#include "pool/health.h"
#include "pool/prepared.h"
#include "pool/vars.h"
#include "wire/replies.h"

#include <sys/queue.h>

struct pg_conn;
struct lease;
struct pool_side;

enum backend_state
{
    BACKEND_ALIGNING,  /* dialled; proving that the stream is aligned, running connect_query */
    BACKEND_IDLE,      /* on its side's idle list */
    BACKEND_LEASED,    /* a client holds it */
    BACKEND_SCRUBBING, /* the client left or is done: draining, rolling back, resetting, waiting for
                          a cancel */
    BACKEND_TESTING,   /* idle, and asked whether it lives */
    BACKEND_MOVING,    /* on its way to another worker */
    BACKEND_CLOSING,   /* said goodbye; counted until PostgreSQL closed too */
    BACKEND_STATES
};

/* What scrub.c still has to do before the backend is idle. */
enum scrub_step
{
    SCRUB_ALIGN,    /* first Sync answered */
    SCRUB_CONNECT,  /* connect_query answered */
    SCRUB_DRAIN,    /* replies to the client's requests read and dropped */
    SCRUB_CANCELS,  /* no cancel request is on its way any more */
    SCRUB_ROLLBACK, /* ROLLBACK answered */
    SCRUB_RESET,    /* server_reset_query answered */
    SCRUB_CHECK,    /* a Sync or server_check_query answered: it lives */
    SCRUB_DONE,
};

/* What this backend has that only one client should see. */
struct backend_duty
{
    bool is_dirty;    /* session state may be left: reset before the next client */
    bool is_preparing; /* settings were put on it, and that was not answered: the same */
    bool is_retired;  /* close instead of returning: too old, RECONNECT, read-only ... */
    unsigned cancels; /* cancel requests on their way to it */
    enum scrub_step step;
};

struct backend
{
    struct stream stream;
    struct pg_conn *conn;      /* owns; and through it socket and TLS session */
    struct pool_side *side;    /* borrows: where it is now */
    struct statements *statements; /* borrows: the registry of what it has prepared */
    struct lease *holder;      /* borrows while LEASED */
    TAILQ_ENTRY(backend) link; /* the list of its state */
    enum backend_state state;
    uint32_t generation; /* of the pool when it was dialled */
    struct backend_duty duty;
    struct backend_health health;
    struct deadline deadline; /* of the state */
    struct replies replies;   /* owns */
    struct held held;         /* owns: requests of its holder that it has not answered */
    struct prepared prepared; /* owns: statements prepared on it */
    struct vars vars;         /* owns: the session's settings as far as we manage them */
    uint64_t id;
    uint64_t ticket; /* at its worker, for posts that concern it; 0 in transit */
    int pid;         /* PostgreSQL's process */
    int64_t opened_us, state_since_us;
    int64_t expires_us;     /* server_lifetime with jitter; 0: never */
    uint32_t skip_len;      /* bytes of a streamed message that are still to come */
    struct fail *last_fail; /* owns: last FATAL it sent, or NULL */
    struct fail *refusal;   /* owns: its last ERROR for a request of our own, or NULL */
};

TAILQ_HEAD(backend_list, backend);

/* Names of states for SHOW and the log. */
const char *backend_state_name(enum backend_state state);

/* Takes over what libpq dialled. The stream is not attached yet. NULL with the reason when TLS
 * cannot be taken over; conn is finished then. */
struct backend *backend_new(struct pg_conn *conn, struct fail *fail);

/* Moves to another state and its list at `backend->side`; counts the time anew. The only assignment
 * of state. */
void backend_become(struct backend *backend, enum backend_state state);

/* Attaches to its side's worker: the list of `state`, a ticket, the event loop. */
void backend_attach(struct backend *backend, struct pool_side *side, enum backend_state state);

/* Leaves its worker and becomes MOVING; the caller posts it. */
void backend_detach(struct backend *backend);

/* Says goodbye and frees it when PostgreSQL has closed too. An aligned and idle stream gets a
 * Terminate; on any other nothing more is written, so that a half-sent request is never completed.
 * Logs the reason (NULL: none worth a line). The ledger is told when it is over. */
void backend_close(struct backend *backend, const struct fail *fail);

/* The same for one that will never answer: reset, and at once gone from the ledger's count. The
 * caller has logged why. */
void backend_abort(struct backend *backend);

/* At once and without waiting: for the end of the process. Does not tell the ledger. */
void backend_destroy(struct backend *backend);

/* A ParameterStatus came: remembers it. Returns true when it is a setting that clients have values
 * of their own for. */
bool backend_note_parameter(struct backend *backend, const struct message *message,
    const char **name_out, const char **value_out);

/* An ErrorResponse came, not yet taken from the replies: remembers it when it is FATAL or PANIC,
 * for whoever reports the loss, or when it answers a request of our own. Returns whether it is
 * FATAL. */
bool backend_note_error(struct backend *backend, const struct message *message);

/* A message came: replies_take(), and what it tells about prepared statements. */
enum reply_verdict backend_take(
    struct backend *backend, const struct message *message, bool is_whole);

/* Why the stream ended: PostgreSQL's last words or the kernel's. */
void backend_loss(const struct backend *backend, struct fail *fail);

/* track_extra_parameters: these are put back for each client too, if PostgreSQL reports them.
 * False: they are too many. Before there are threads. */
must_check bool backend_track(const char *list);

/* Whether this is a setting that we put back for each client (reported by PostgreSQL and
 * changeable). */
bool backend_manages(const char *name);

/* Whether its PostgreSQL reports this managed setting (search_path: since 18). */
bool backend_reports(const struct backend *backend, const char *name);

/* How its database stores texts; NULL: it did not say. */
const char *backend_encoding(const struct backend *backend);

/* All ParameterStatus values libpq saw during login, for the welcome of clients. */
void backend_reported(const struct pg_conn *conn, struct vars *reported);

/* Address and port of the PostgreSQL it is connected to; borrowed from the PGconn. */
const char *backend_host(const struct backend *backend);
const char *backend_port(const struct backend *backend);

/* Writes a request of our own: simple query. */
void backend_send_query(struct backend *backend, const char *sql);
