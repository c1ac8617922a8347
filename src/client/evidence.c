/*
 * Evidence. Called by client/loss; reads the backend's stream, replies and held requests, and asks
 * held_next_facts() what each request says.
 */
#include "client/evidence.h"

#include "client/follow.h"
#include "client/loss.h"
#include "client/session.h"
#include "pool/pool.h"
#include "wire/sql.h"

#include <string.h>

static bool
is_abort(const char *sqlstate)
{
    return strcmp(sqlstate, "57P01") == 0 || strcmp(sqlstate, "57P04") == 0 ||
           strcmp(sqlstate, "57P05") == 0;
}

/* In session pooling nobody knows what a served client has left on its backend. */
static bool
is_pinned(const struct client *client)
{
    bool is_session = pool_policy(client->lease.side)->mode == POOL_SESSION;

    return session_pins(client) != 0 || (client->relay.was_served && is_session);
}

void
evidence_gather(struct evidence *evidence, struct client *client, const struct fail *cause)
{
    struct backend *backend = client->lease.backend;
    bool is_fatal = backend->last_fail != NULL;

    *evidence = (struct evidence){.client = client,
        .cause = *cause,
        .held = backend->held,
        .sent = backend->stream.sent,
        .status = backend->replies.status,
        .owed = replies_owed(&backend->replies),
        .is_awaited = !replies_is_empty(&backend->replies) || backend->held.is_withheld,
        .level = client->crowd->pool.settings->transparent_retry};
    memset(&backend->held, 0, sizeof(backend->held));
    evidence->common |= evidence->status != 'I' ? FACT_TRANSACTION : 0;
    evidence->common |= is_pinned(client) ? FACT_PINNED : 0;
    evidence->common |= is_fatal ? FACT_FATAL : 0;
    evidence->common |= is_fatal && is_abort(backend->last_fail->sqlstate) ? FACT_ABORT : 0;
    /* It did not keep to the protocol, or gave another answer than before: no third try. */
    evidence->common |= strcmp(cause->sqlstate, "08P01") == 0 ? FACT_WORN_OUT : 0;
    bool is_refused =
        strcmp(cause->sqlstate, STATE_READ_ONLY) == 0 ||
        strcmp(cause->sqlstate, STATE_STALE_PLAN) == 0;
    evidence->common |= !is_fatal && is_refused ? FACT_REFUSED : 0;
}

struct held_walk
evidence_walk(const struct evidence *evidence)
{
    const char *encoding = vars_find(&evidence->client->vars, "client_encoding");
    struct held_walk walk = held_walk(&evidence->held, evidence->sent, evidence->status,
        loss_has_backslash_escapes(evidence->client));

    walk.text_of = follow_text;
    walk.arg = evidence->client;
    walk.is_unreadable = encoding != NULL && !sql_is_readable(encoding);
    return walk;
}

unsigned
evidence_next(const struct evidence *evidence, struct held_walk *walk)
{
    bool is_oldest = walk->i == 0;
    unsigned facts = held_next_facts(walk) | evidence->common;

    if (!is_oldest && evidence->common & FACT_FATAL) {
        facts |= FACT_NOT_BEGUN;
    }
    if (is_oldest && evidence->client->relay.is_cancelled) {
        facts |= FACT_CANCELLED;
    }
    return facts;
}

/* Whether PostgreSQL may have run this request, as far as is known without its text. */
static bool
may_have_run(unsigned facts)
{
    bool is_incomplete = (facts & FACT_UNFINISHED) && !(facts & FACT_EXTENDED);

    return !(facts & (FACT_UNSENT | FACT_NOT_BEGUN)) && !is_incomplete;
}

unsigned
evidence_transaction(const struct evidence *evidence)
{
    struct held_walk at = evidence_walk(evidence);
    unsigned facts = evidence->common;
    bool may_commit = false, had_exit = false;

    for (uint32_t i = 0; i < evidence->held.count; i++) {
        unsigned next = evidence_next(evidence, &at);
        facts = i == 0 ? next : facts;
        if (may_have_run(next)) {
            /* What follows a ROLLBACK runs outside of the transaction. */
            may_commit = may_commit || had_exit || (next & FACT_MAY_COMMIT);
            had_exit = had_exit || (next & FACT_LONE_ROLLBACK);
        }
    }
    facts &= ~(unsigned)FACT_MAY_COMMIT;
    if (may_commit) {
        return (facts & ~(unsigned)(FACT_LONE_ROLLBACK | FACT_UNSENT)) | FACT_MAY_COMMIT;
    }
    return facts;
}
