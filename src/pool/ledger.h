/*
 * The book of one pool that spans all workers: how many backends there are, how many of them lie
 * idle with which worker, who waits since when. One limit for all threads. Its calls are atomic
 * (one mutex, held for list operations only), so a backend is either promised to somebody or idle,
 * never both.
 *
 * A grant to a waiter of another worker names its ticket: it may have left meanwhile, and then its
 * worker returns the backend again. Shared limits (of a database, of a user) have one lock of their
 * own, taken after the ledger's; the endpoint that a dial goes to has the last word
 * (pool/endpoint.h).
 */
#pragma once

#include "base/fail.h"
#include "pool/quota.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/queue.h>

/* One who waits; embedded in a lease. Its worker owns it, the ledger links it while is_queued. */
struct waiter
{
    TAILQ_ENTRY(waiter) link; /* the ledger's */
    uint64_t ticket;          /* valid at its worker */
    int64_t since_us;
    bool is_queued; /* the ledger's */
};

TAILQ_HEAD(waiter_list, waiter);

struct endpoint;

struct ledger_side
{
    struct waiter_list waiting;
    int idle; /* backends that this worker lists as idle and nobody has been promised */
};

/* Everything here is shared, under the mutex. */
struct ledger
{
    pthread_mutex_t mutex;
    struct ledger_side *sides; /* owns; one a worker */
    int workers;
    int limit; /* most backends, and with reserve those for who waited long */
    int reserve;
    int total;    /* idle, leased, in transit, dialling, closing */
    int arriving; /* dialling or on their way to a worker that asked: they answer for one waiter
                     each */
    int checking; /* asked whether they live, for somebody who waits: they answer for one each */
    int waiting;
    _Atomic bool is_paused; /* nobody is granted anything, nothing is dialled; changes under the
                               mutex */
    struct
    {
        int64_t until_us;       /* 0: dials are not barred; INT64_MAX: the one attempt is out */
        int64_t spare_until_us; /* for dials that nobody waits for */
    } bar;
    struct share share;        /* in the limits of its database and its user */
    struct endpoint *endpoint; /* borrows: where dials go; NULL: anywhere, at any time */
    int logins;                /* dials that the endpoint counts for us */
    uint64_t contended;      /* how often the mutex was taken when we came */
};

enum ledger_step
{
    LEDGER_TAKE,  /* one of the worker's own idle backends is yours */
    LEDGER_OFFER, /* queued; one of the worker's own idle backends is for whoever is next: offer it
                     after ledger_checked() */
    LEDGER_ASK,   /* queued; ask worker `worker` to surrender one: it is promised to this worker */
    LEDGER_DIAL,  /* queued; dial one: it is counted already */
    LEDGER_WAIT,  /* queued; nothing to do */
    LEDGER_WAKE,  /* of ledger_closed(): clients of another pool wait for the room: pools_wake() */
};

struct ledger_answer
{
    enum ledger_step step;
    int worker;
};

enum ledger_grant_kind
{
    GRANT_IDLE,  /* put it on the own idle list */
    GRANT_OWN,   /* lease it to `waiter`, of the same worker */
    GRANT_OTHER, /* hand it over to `worker` for `ticket` */
    GRANT_CLOSE, /* there are too many, or another pool is to have its place: close it */
};

struct ledger_grant
{
    enum ledger_grant_kind kind;
    struct waiter *waiter;
    int worker;
    uint64_t ticket;
};

void ledger_init(struct ledger *ledger, int workers);
void ledger_deinit(struct ledger *ledger);

/* Grants or enqueues. The waiter's ticket must be set. */
struct ledger_answer ledger_request(
    struct ledger *ledger, int worker, struct waiter *waiter, int64_t now_us);

/* Queues the waiter after all: the idle backend that it was granted has to be checked first. */
void ledger_queue(struct ledger *ledger, int worker, struct waiter *waiter);

/* Queues it again, in its old place: what it was granted died on the way. */
void ledger_requeue(struct ledger *ledger, int worker, struct waiter *waiter);

/* Those who wait already need another source, seen from this worker: as ledger_request() says for
 * one who was queued. */
struct ledger_answer ledger_seek(struct ledger *ledger, int worker);

/* Leaves the queue. False when it was not queued (any more): a grant may be on its way. */
bool ledger_leave(struct ledger *ledger, int worker, struct waiter *waiter);

/* A backend of this worker has nothing to do: who gets it? */
struct ledger_grant ledger_return(struct ledger *ledger, int worker);

/* One that was dialled or surrendered has come, or will not come; before ledger_return() or
 * ledger_closed(). */
void ledger_arrived(struct ledger *ledger);

/* Takes an idle backend of this worker out of the count of idle ones. False when it is promised
 * already (a surrender is on its way and will be refused). */
bool ledger_take_idle(struct ledger *ledger, int worker);

/* A backend whose surrender was asked for is checked first: ledger_checked() instead of
 * ledger_arrived(). */
void ledger_check_asked(struct ledger *ledger);

/* The check is over, or takes so long that nobody counts on it any more. */
void ledger_checked(struct ledger *ledger);

/* A backend (or a dial) that was not idle is gone. LEDGER_DIAL when a waiter needs another,
 * LEDGER_WAKE when one of another pool does. */
enum ledger_step ledger_closed(struct ledger *ledger);

/* Whether to dial now for those who wait; counts it when it says LEDGER_DIAL. */
enum ledger_step ledger_want_dial(struct ledger *ledger);

/* Counts a dial that keeps min_size backends warm or, with a waiter older than reserve_after_us,
 * uses the reserve. */
enum ledger_step ledger_want_spare(
    struct ledger *ledger, int min_size, int64_t reserve_after_us, int64_t now_us);

/* Sets limits; backends above them are closed when they come back. */
void ledger_set_limits(struct ledger *ledger, int limit, int reserve);

/* PAUSE and its end: who waits goes on waiting meanwhile. True when that changes anything; the
 * caller sees to it that backends are closed, or dialled for those who wait. */
bool ledger_pause(struct ledger *ledger, bool is_paused);

/* Whether it is paused, right now. Any thread, any lock. */
bool ledger_is_paused(const struct ledger *ledger);

/* Whether this worker has an idle backend that nobody was promised. */
bool ledger_has_idle(struct ledger *ledger, int worker);

/* No dial before these moments, and then one at a time until it is said again; 0: no bar. The
 * second is for dials that no client waits for. */
void ledger_bar_dials(struct ledger *ledger, int64_t until_us, int64_t spare_until_us);

/* Dials go to this endpoint from now on; those in progress are counted there too. */
void ledger_use_endpoint(struct ledger *ledger, struct endpoint *endpoint);

/* A dial has ended, well or not: tell the endpoint that is returned (pool/endpoint.h). */
struct endpoint *ledger_end_login(struct ledger *ledger);

/* The worker's oldest waiter, taken out of the queue, or NULL. */
struct waiter *ledger_pop(struct ledger *ledger, int worker);

struct ledger_view
{
    int total, idle, waiting, arriving, checking, limit;
    int64_t oldest_since_us; /* of all who wait; 0 when nobody does */
    bool is_starved;
};

struct ledger_view ledger_look(struct ledger *ledger);
