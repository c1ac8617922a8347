/*
 * One host:port of PostgreSQL (or several, tried in order) as all pools that dial it see it: does
 * it answer, when is it tried again, how many logins run at a time. Made by the registry and kept
 * until the end; what changes is shared, under its own mutex, which is taken last of all.
 *
 *             dial failed              server_retry_attempts
 *     UP ───────────────► FAILING ─────────────────────────► DOWN      one attempt at a time
 *      ▲                     └───────────────┬────────────────┘
 *      └── quiet for 1 s ── RECOVERING ◄─────┘ an attempt was answered
 *                                              1, 2, 4 ... server_max_logins logins at a time
 */
#pragma once

#include "base/fail.h"
#include "pool/dial.h"

#include <pthread.h>
#include <stdint.h>
#include <uthash.h>

struct settings;

/* ---- why a dial failed ---- */

enum connect_class
{
    CONNECT_NETWORK,
    CONNECT_TLS,
    CONNECT_STARTING,       /* 57P03 and its kin: starting up, shutting down, recovering */
    CONNECT_FULL,           /* 53300 for the whole server */
    CONNECT_FULL_HERE,      /* 53300 for this role or database */
    CONNECT_AUTHENTICATION, /* 28P01, 28000 */
    CONNECT_MISSING,        /* 3D000: no such database */
    CONNECT_DENIED,         /* 42501 */
    CONNECT_UNSUITABLE,     /* not what target_session_attrs asks for */
    CONNECT_OTHER,
    CONNECT_CLASSES
};

/* What follows from a class: a row of the table in endpoint.c. */
struct connect_traits
{
    const char *name;
    int metric;         /* enum metric */
    bool concerns_pool; /* only this (database, user); the endpoint itself answered */
    bool is_permanent;  /* the same answer will come again: tell those who wait at once */
    bool is_busy;       /* PostgreSQL works, it has no room: wait as for a busy pool */
    int hurried_us;     /* longest wait while a client waits; 0: as long as otherwise */
    int factor;         /* of server_retry_delay */
};

enum connect_class connect_class(const struct fail *fail);
const struct connect_traits *connect_traits(const struct fail *fail);

/* When to try again after this many failures in a row: at_out without anybody waiting, and while a
 * client waits. */
struct retry
{
    int64_t at_us;
    int64_t hurried_at_us;
};

struct retry connect_retry(const struct settings *settings, const struct connect_traits *traits,
    unsigned attempts, int64_t now_us);

/* ---- endpoints ---- */

enum endpoint_state
{
    ENDPOINT_UP,
    ENDPOINT_FAILING,
    ENDPOINT_DOWN,
    ENDPOINT_RECOVERING,
    ENDPOINT_STATES
};

/* How it stands. */
struct endpoint_view
{
    enum endpoint_state state;
    int64_t since_us;    /* of FAILING and DOWN: the first failure; 0: since the start */
    unsigned attempts;   /* that failed in a row */
    struct retry retry;  /* while FAILING or DOWN */
    struct fail fail;    /* the last reason; an empty SQLSTATE: there never was one */
    int logins;          /* dials that have begun and not ended */
    int allowance;       /* most of them while RECOVERING */
    uint64_t failures;   /* counted since the start */
    uint64_t down_total; /* times it became DOWN */
};

/* What pool/resolve knows about the names; the main thread's. */
struct endpoint_names
{
    char *hosts;      /* own; never changes: names or addresses, with commas between them */
    char *addresses;  /* own: the last answers, or NULL */
    bool is_pending;  /* a helper resolves them, and reads hosts */
    int64_t after_us; /* ask DNS no earlier */
};

struct endpoint
{
    char *name; /* own: "db1:5432" */
    struct dial_place place; /* shared: atomic */
    struct endpoint_names names;
    struct
    {
        pthread_mutex_t mutex;
        struct endpoint_view view;
        int max_logins;
        int failures_in_a_row;  /* while RECOVERING */
        bool is_probing;        /* the one attempt of FAILING and DOWN is out */
        bool is_doubted;        /* something failed since its names were resolved */
        bool has_denied;        /* a dial was denied since it was last asked about */
        int64_t last_denied_us; /* while RECOVERING; or its beginning */
    } shared;
    UT_hash_handle hh; /* the registry's */
};

struct endpoint *endpoint_new(const char *name, const char *hosts);
void endpoint_free(struct endpoint **endpoint);

const char *endpoint_state_name(enum endpoint_state state);

/* server_max_logins. Any thread, as all below. */
void endpoint_limit(struct endpoint *endpoint, int max_logins);

/* Whether a login may begin now; counts it. is_awaited: a client waits for it. */
must_check bool endpoint_admit(struct endpoint *endpoint, bool is_awaited, int64_t now_us);

/* What became of a login, and what its caller has to do about it. */
enum endpoint_news
{
    ENDPOINT_NO_NEWS,
    ENDPOINT_COUNTED = 1,   /* one more attempt failed: worth a line */
    ENDPOINT_FELL = 2,      /* it is DOWN from now on */
    ENDPOINT_CAME_BACK = 4, /* it answers again */
    ENDPOINT_HAS_ROOM = 8,  /* dials were denied that may be tried again now */
};

/* A login failed for a reason that concerns the endpoint. */
unsigned endpoint_failed(struct endpoint *endpoint, const struct settings *settings,
    const struct fail *fail, int64_t now_us, struct endpoint_view *view_out);

/* A login succeeded, or was refused with a reason that concerns only its pool. view_out: how it
 * stood before. */
unsigned endpoint_answered(
    struct endpoint *endpoint, int64_t now_us, struct endpoint_view *view_out);

/* A login came to nothing without a word about the endpoint. */
unsigned endpoint_withdrawn(struct endpoint *endpoint);

/* A backend died: expect a crowd of logins at a server that has just started. */
void endpoint_shaken(struct endpoint *endpoint, int64_t now_us);

/* Ends the recovery once it is quiet; call it now and then. */
void endpoint_settle(struct endpoint *endpoint, int64_t now_us);

/* Whether a login failed or a backend died since this was asked last. */
bool endpoint_take_doubt(struct endpoint *endpoint);

/* Logins in progress of a pool that dials another endpoint from now on. */
void endpoint_take_over(struct endpoint *endpoint, struct endpoint *from, int logins);

struct endpoint_view endpoint_look(struct endpoint *endpoint);

/* Whether dials wait for the next attempt. */
bool endpoint_is_failing(const struct endpoint_view *view);
