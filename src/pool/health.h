/*
 * Finding the dead before a client does. Idle backends that die aloud are seen by their event
 * (pool/pool); this is about those that die silently: a check (a Sync, or server_check_query, with
 * a deadline of its own) before use when one is suspect or was idle for long, one now and then in
 * the background, TCP's acknowledgements while it is busy; and about the one that turned read-only
 * under a pool that wants to write.
 *
 *    IDLE ── needs a check ──► TESTING ── answered ──► whoever is next
 *                                 └────── silent ────► gone at once, all others are suspect
 *
 * The thread of the backend's worker, but for health_suspect().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct backend;
struct fail;
struct pool;
struct pool_side;
struct pool_worker;

/* What is known about the life of one backend; embedded in it. */
struct backend_health
{
    uint32_t trust;      /* the suspicions there had been when it last proved that it lives */
    int64_t proved_us;   /* when it did, and became idle */
    int64_t used_us;     /* when it came back from its last use */
    bool is_expected;    /* being checked, and the ledger counts on it for somebody who waits */
    struct fail *death;  /* owns: why we gave it up while it was silent, or NULL */
    int64_t unheard_us;  /* busy: since when it owes an acknowledgement; 0: it does not */
    uint32_t unheard_at; /* busy: segments that had been sent again when it was last heard */
};

/* Of one pool. Shared: atomics. */
struct pool_health
{
    _Atomic uint32_t suspicions;
    _Atomic int64_t suspected_us; /* the last suspicion; 0: none yet */
    _Atomic int64_t crashed_us;   /* the last death without a FATAL; 0: none yet */
    _Atomic int64_t demoted_us;   /* the last time the log called it read-only; 0: never */
};

/* Of one worker. */
struct worker_health
{
    uint32_t gaps;     /* times its loop stood still: as many suspicions against its idle ones */
    int64_t gap_us;    /* the last one's end */
    int64_t looked_us; /* when the acknowledgements were last looked at */
};

/* ---- idle backends ---- */

/* It has just answered and becomes idle. is_used: after serving somebody, not after a check. */
void health_proved(struct backend *backend, bool is_used);

/* Whether it must be checked before anybody gets it. */
bool health_needs_check(const struct backend *backend);

/* When its next check in the background is due, spread so that a pool's do not fall together; 0:
 * never. */
int64_t health_check_due_us(const struct backend *backend);

/* Checks an idle backend that the ledger does not count as idle any more. is_expected: somebody
 * waits for it, and the ledger counts that as `checking`. */
void health_check(struct backend *backend, bool is_expected);

/* ---- what scrub.c says about a check ---- */

void health_passed(struct backend *backend);
void health_failed(struct backend *backend, const struct fail *fail);

/* ---- news ---- */

/* A backend died: every idle backend of its endpoint becomes suspect, at most once in
 * pool_recreate_cooldown. Without a FATAL, as in a crash or an immediate shutdown, its siblings die
 * within milliseconds too: for a moment an answer of theirs says nothing. Not under the registry's
 * mutex. */
void health_note_death(const struct backend *backend, const struct fail *fail);

/* Whether it may be one of those siblings: it is checked before anybody gets it. */
bool health_is_doubtful(const struct backend *backend);

/* All idle backends of the pool are checked before their next use. Any thread, any lock. */
void health_suspect(struct pool *pool, const char *why);

/* It reported a setting. A backend of a pool that wants to write is retired when it cannot any
 * more. */
void health_note_parameter(struct backend *backend, const char *name, const char *value);

/* It refused to write, or reported that it will: retired, closed when it comes back; the others are
 * suspect. `how` is for the log. Not under the registry's mutex. */
void health_demoted(struct backend *backend, const char *how);

/* ---- the worker ---- */

/* Its tick: looks at the acknowledgements of busy backends, at most once a second. */
void health_tick(struct pool_worker *worker);

/* Its loop stood still. */
void health_note_gap(struct pool_worker *worker, int64_t gap_us);
