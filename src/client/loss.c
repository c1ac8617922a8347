/*
 * A backend died under a client. Called by client/relay with the reason; calls held_next_facts()
 * for each unanswered request and retry_judge() for the verdict, then answers, puts back, or hands
 * the client to client/aborted.
 *
 *    unanswered:   [ answered with an error ... ][ put back, sent to another backend ... ]
 *
 * What is put back must be in order and whole: from some request on every verdict must say so.
 */
#include "client/loss.h"

#include "base/mem.h"
#include "base/state.h"
#include "base/stats.h"
#include "client/aborted.h"
#include "client/evidence.h"
#include "client/follow.h"
#include "client/listening.h"
#include "client/provide.h"
#include "client/session.h"
#include "client/tell.h"
#include "pool/pools.h"
#include "pool/retry.h"

#include <inttypes.h>

/* What an open request or transaction would undo, and what a moved request was told. */
struct loss
{
    struct vars before; /* owns: the client's settings before it */
    bool has_before;
    struct buf told;  /* owns: replies to the request that moves */
    struct fail owed; /* an error that the next message of the open request is answered with */
    bool owes_error;
    uint8_t times; /* it was moved so often */
    bool moves;
};

static struct loss *
loss_of(struct client *client)
{
    if (client->relay.loss == NULL) {
        client->relay.loss = mem_new(sizeof(*client->relay.loss));
    }
    return client->relay.loss;
}

void
loss_forget(struct client *client)
{
    if (client->relay.loss != NULL) {
        vars_deinit(&client->relay.loss->before);
        buf_deinit(&client->relay.loss->told);
        free(client->relay.loss);
        client->relay.loss = NULL;
    }
}

bool
loss_has_backslash_escapes(const struct client *client)
{
    const char *standard = vars_find(&client->vars, "standard_conforming_strings");

    return standard != NULL && strcmp(standard, "off") == 0;
}

void
loss_put_back(struct client *client, const uint8_t *bytes, size_t len)
{
    if (len > 0) {
        stream_keep(&client->stream, bytes, len);
    }
}

/* ---- settings that a rollback takes back ---- */

void
loss_note_setting(struct client *client)
{
    struct loss *loss = loss_of(client);

    if (!loss->has_before) {
        vars_copy(&loss->before, &client->vars);
        loss->has_before = true;
    }
}

void
loss_note_answer(struct client *client)
{
    /* Inside a transaction a change can still be undone. */
    if (client->relay.loss != NULL && client->lease.backend->replies.status == 'I') {
        loss_forget(client);
    }
}

void
loss_undo_settings(struct client *client)
{
    struct loss *loss = client->relay.loss;
    const char *name, *value;
    uint32_t cursor = 0;
    struct buf buf = {0};

    if (loss == NULL || !loss->has_before) {
        return;
    }
    while (vars_next(&loss->before, &cursor, &name, &value)) {
        const char *now = vars_find(&client->vars, name);
        if (now == NULL || strcmp(now, value) != 0) {
            message_add_parameter(&buf, name, value);
        }
    }
    vars_copy(&client->vars, &loss->before);
    loss->has_before = false;
    client_send(client, &buf);
}

/* ---- answers ---- */

static void
count_verdict(struct client *client, enum retry_row row, enum retry_deed deed)
{
    static const enum metric moved[RETRY_ROWS] = {[RETRY_ROW_R1] = METRIC_retries_unread_total,
        [RETRY_ROW_R3] = METRIC_retries_unbegun_total,
        [RETRY_ROW_R4] = METRIC_retries_aborted_total,
        [RETRY_ROW_R5] = METRIC_retries_read_only_total,
        [RETRY_ROW_READS] = METRIC_retries_reads_total};

    if (deed == DEED_RESEND) {
        stats_add(moved[row], 1);
        client->lease.side->counts.moved++;
    } else if (deed == DEED_UNKNOWN || deed == DEED_CLOSE_UNKNOWN) {
        stats_add(METRIC_requests_unknown_total, 1);
    } else if (deed != DEED_NOTHING) {
        stats_add(METRIC_requests_lost_total, 1);
    }
}

static void
set_reason(const struct evidence *evidence, enum retry_deed deed, struct fail *fail)
{
    switch (deed) {
    case DEED_CANCEL:
        fail_set(fail, "57014", "canceling statement due to user request");
        return;
    case DEED_UNKNOWN:
    case DEED_CLOSE_UNKNOWN:
        fail_set(fail, "08007",
            "the server connection was lost; whether the request was executed is unknown");
        break;
    case DEED_CLOSE:
        fail_set(fail, "57P01", "terminating connection: its server connection was lost");
        break;
    case DEED_NOTHING:
    case DEED_RESEND:
    case DEED_REFUSE:
        fail_set(fail, "40001", "the server connection was lost before the request was executed");
        break;
    case DEED_ROLLBACK:
    case DEED_FAIL:
        fail_set(fail, "40001", "the server connection was lost; the transaction was rolled back");
        break;
    }
    fail_detail(fail, "%s", evidence->cause.text);
}

/* Answers one request with an error, and with ReadyForQuery when all of it was forwarded. */
static void
answer(const struct evidence *evidence, const struct fail *fail, bool is_whole, char status)
{
    struct client *client = evidence->client;
    struct buf buf = {0};

    client_log(LEVEL_WARN, client, "request ended with ERROR %s: %s: %s", fail->sqlstate,
        fail->text, fail->detail);
    if (!is_whole && !evidence->is_awaited) {
        /* Everything was answered so far: an error now would put the client out of step. */
        loss_of(client)->owed = *fail;
        loss_of(client)->owes_error = true;
        client->relay.skipping = SKIP_TO_SYNC;
        return;
    }
    tell_error(client, &buf, "ERROR", fail);
    if (is_whole) {
        message_add_ready(&buf, status);
    } else {
        client->relay.skipping = SKIP_TO_SYNC;
    }
    client_send(client, &buf);
}

void
loss_say_owed(struct client *client)
{
    struct loss *loss = client->relay.loss;
    struct buf buf = {0};

    if (loss != NULL && loss->owes_error) {
        loss->owes_error = false;
        tell_error(client, &buf, "ERROR", &loss->owed);
        client_send(client, &buf);
    }
}

/* The oldest got an ErrorResponse from PostgreSQL already: there is no second one. */
static void
answer_ready(const struct evidence *evidence, bool is_whole, char status)
{
    struct buf buf = {0};

    if (is_whole) {
        message_add_ready(&buf, status);
        client_send(evidence->client, &buf);
    } else {
        evidence->client->relay.skipping = SKIP_TO_SYNC;
    }
}

static void
answer_request(const struct evidence *evidence, uint32_t i, enum retry_deed deed, char status)
{
    bool is_whole = held_at(&evidence->held, i)->is_whole;
    struct fail fail;

    set_reason(evidence, deed, &fail);
    if (i == 0 && evidence->held.seen & SEEN_ERROR) {
        answer_ready(evidence, is_whole, status);
        return;
    }
    answer(evidence, &fail, is_whole, status);
}

/* With a COPY from the client among them, the reply queue knows best how many answers are owed. */
static void
answer_blind(const struct evidence *evidence, enum retry_deed deed, char status)
{
    struct fail fail;

    set_reason(evidence, deed, &fail);
    for (uint32_t i = 0; i < evidence->owed || i == 0; i++) {
        if (i == 0 && evidence->held.seen & SEEN_ERROR) {
            answer_ready(evidence, evidence->owed > 0, status);
        } else {
            answer(evidence, &fail, evidence->owed > 0, status);
        }
    }
}

/* ---- what moves ---- */

void
loss_follow(struct client *client)
{
    struct loss *loss = client->relay.loss;
    struct held *held = &client->lease.backend->held;

    if (loss == NULL || !loss->moves) {
        return;
    }
    held->told = loss->told;
    held->repeated = 0;
    held_at(held, 0)->times = loss->times;
    loss->told = (struct buf){0};
    loss->moves = false;
}

static void
put_back(struct evidence *evidence, uint32_t from)
{
    const struct held *held = &evidence->held;
    size_t offset = 0;

    for (uint32_t i = 0; i < from; i++) {
        offset += held_at(held, i)->kept;
    }
    loss_put_back(
        evidence->client, buf_head(&held->bytes) + offset, buf_len(&held->bytes) - offset);
    evidence->resends_oldest = from == 0;
}

static void
move_requests(struct evidence *evidence)
{
    struct client *client = evidence->client;
    struct loss *loss = loss_of(client);

    loss->moves = true;
    loss->times = held_at(&evidence->held, evidence->moved_from)->times + 1;
    if (evidence->moved_from == 0) {
        loss->told = evidence->held.told;
        evidence->held.told = (struct buf){0};
    }
    put_back(evidence, evidence->moved_from);
    pool_log(LEVEL_INFO, client->lease.side, "request moved to another server connection (%s: %s)",
        retry_row_name(evidence->row), evidence->cause.text);
}

/* ---- outside of a transaction ---- */

/* From which request on all can be sent again. */
static void
find_moved(struct evidence *evidence)
{
    struct held_walk at = evidence_walk(evidence);

    evidence->moved_from = 0;
    for (uint32_t i = 0; i < evidence->held.count; i++) {
        struct retry_verdict verdict = retry_judge(evidence_next(evidence, &at), evidence->level);
        if (verdict.deed != DEED_RESEND) {
            evidence->moved_from = i + 1;
        } else if (evidence->moved_from == i) {
            evidence->row = verdict.row;
        }
    }
}

/* Answers those that stay, puts back those that move. */
static void
settle_requests(struct evidence *evidence)
{
    struct held_walk at = evidence_walk(evidence);

    find_moved(evidence);
    for (uint32_t i = 0; i < evidence->held.count; i++) {
        struct retry_verdict verdict = retry_judge(evidence_next(evidence, &at), evidence->level);
        count_verdict(evidence->client, verdict.row, verdict.deed);
        if (i >= evidence->moved_from) {
            continue;
        }
        /* It could be sent again, but one behind it cannot. */
        bool is_proven = verdict.row != RETRY_ROW_READS;
        if (verdict.deed == DEED_RESEND) {
            verdict.deed = is_proven ? DEED_REFUSE : DEED_UNKNOWN;
        }
        answer_request(evidence, i, verdict.deed, 'I');
    }
    if (evidence->moved_from < evidence->held.count) {
        move_requests(evidence);
    }
}

/* ---- inside a transaction ---- */

static bool
can_put_back(const struct evidence *evidence, uint32_t from)
{
    for (uint32_t i = from; i < evidence->held.count; i++) {
        if (held_at(&evidence->held, i)->is_lost) {
            return false;
        }
    }
    return !evidence->held.is_blind;
}

/* The transaction is gone, and that is certain: the client goes on in a failed one, which answers
 * what is in flight as if it had just come. */
static void
fail_transaction(struct evidence *evidence)
{
    struct client *client = evidence->client;
    const struct held *held = &evidence->held;
    size_t modes_len;
    const char *modes = held_modes(held, &modes_len);
    bool is_fresh = !(held->seen & SEEN_ROWS) && buf_len(&held->told) == 0;
    struct fail fail;

    set_reason(evidence, DEED_FAIL, &fail);
    client_log(LEVEL_WARN, client, "transaction lost with its server connection (%s)",
        evidence->cause.text);
    if (held->count == 0 || !evidence->is_awaited) {
        /* The client waits for nothing, also in the midst of a request: it learns of it with its
         * next message. */
        aborted_begin(client, &fail, false, modes, modes_len);
        return;
    }
    if (is_fresh && can_put_back(evidence, 0)) {
        aborted_begin(client, &fail, false, modes, modes_len);
        put_back(evidence, 0);
        return;
    }
    aborted_begin(client, &fail, true, modes, modes_len);
    if (held->is_blind) {
        answer_blind(evidence, DEED_FAIL, 'E');
        return;
    }
    answer_request(evidence, 0, DEED_FAIL, 'E');
    if (can_put_back(evidence, 1)) {
        put_back(evidence, 1);
        return;
    }
    for (uint32_t i = 1; i < held->count; i++) {
        answer_request(evidence, i, DEED_FAIL, 'E');
    }
}

/* ---- the case ---- */

/* The oldest may have committed. Those behind it that were not begun take the ordinary way. */
static void
settle_unknown(struct evidence *evidence)
{
    evidence->common &= ~(unsigned)FACT_TRANSACTION;
    if (evidence->held.is_blind) {
        count_verdict(evidence->client, RETRY_ROW_R6, DEED_UNKNOWN);
        answer_blind(evidence, DEED_UNKNOWN, 'I');
        return;
    }
    /* No row but R6 may speak for the requests that ran. */
    evidence->level = evidence->level > RETRY_ABORTED ? RETRY_ABORTED : evidence->level;
    settle_requests(evidence);
}

static void
close_client(struct evidence *evidence, enum retry_deed deed)
{
    struct fail fail;

    set_reason(evidence, deed, &fail);
    fail_detail(&fail, "%s; the session's state was lost with it", evidence->cause.text);
    client_reject(evidence->client, &fail);
}

static void
set_lost_session(struct fail *cause)
{
    struct fail fail;

    fail_set(&fail, "57P01", "terminating connection: its server connection was lost");
    fail_detail(&fail, "%s; the session's state was lost with it", cause->text);
    *cause = fail;
}

/* Does what the verdict says; the lease is over already. */
static void
carry_out(struct evidence *evidence, struct retry_verdict verdict)
{
    struct client *client = evidence->client;

    if (verdict.deed == DEED_FAIL || verdict.deed == DEED_CLOSE_UNKNOWN) {
        count_verdict(client, verdict.row, verdict.deed);
    }
    switch (verdict.deed) {
    case DEED_CLOSE:
    case DEED_CLOSE_UNKNOWN:
        close_client(evidence, verdict.deed);
        return;
    case DEED_ROLLBACK:
    case DEED_FAIL:
        loss_undo_settings(client);
        fail_transaction(evidence);
        break;
    case DEED_UNKNOWN:
        loss_undo_settings(client);
        client_become(client, CLIENT_IDLE);
        settle_unknown(evidence);
        break;
    case DEED_NOTHING:
        client_become(client, CLIENT_IDLE);
        break;
    case DEED_RESEND:
    case DEED_CANCEL:
    case DEED_REFUSE:
        loss_undo_settings(client);
        client_become(client, CLIENT_IDLE);
        settle_requests(evidence);
        break;
    }
    follow_lost(client, evidence->resends_oldest);
    stream_want_read(&client->stream, !client->relay.is_leaving);
    client->handler->on_kept(client);
}

/* Nothing of the client was forwarded yet: another backend will do. */
static void
start_over(struct client *client, const struct fail *cause)
{
    pool_log(LEVEL_INFO, client->lease.side, "request moved to another server connection (R1: %s)",
        cause->text);
    count_verdict(client, RETRY_ROW_R1, DEED_RESEND);
    lease_discard(&client->lease, cause);
    client_become(client, CLIENT_IDLE);
    client->handler->on_kept(client);
}

void
loss_take(struct client *client, const struct fail *fail)
{
    struct backend *backend = client->lease.backend;
    bool is_cut = backend->skip_len > 0 && client->relay.passes_backend_rest;
    struct fail cause = *fail;
    struct evidence evidence;

    if (client->state == CLIENT_LOOKING && listening_is_moving(client)) {
        client_become(client, CLIENT_ACTIVE);
    }
    listening_survive(client);
    if (client->state == CLIENT_LOOKING) {
        /* What its session left there will never be known. */
        set_lost_session(&cause);
        client_reject(client, &cause);
        return;
    }
    if (client->state != CLIENT_ACTIVE) {
        start_over(client, &cause);
        return;
    }
    if (is_cut || client->relay.is_leaving) {
        /* Half of a message is with the client already: nothing else can be said. */
        lease_discard(&client->lease, &cause);
        client_close(client, &cause);
        return;
    }
    bool is_stale_plan =
        backend->last_fail == NULL && strcmp(cause.sqlstate, STATE_STALE_PLAN) == 0;
    if (backend->last_fail == NULL && strcmp(cause.sqlstate, STATE_READ_ONLY) == 0) {
        health_demoted(backend, STATE_READ_ONLY);
    }
    evidence_gather(&evidence, client, &cause);
    struct retry_verdict verdict = retry_judge(evidence_transaction(&evidence), evidence.level);
    if (is_stale_plan) {
        lease_abandon(&client->lease, false, false); /* nothing else is wrong with it */
    } else {
        lease_discard(&client->lease, &cause);
    }
    if (verdict.deed != DEED_CLOSE && verdict.deed != DEED_CLOSE_UNKNOWN) {
        session_end(client); /* what is sent again is noted again */
    }
    client->relay.drops_client_rest = client->relay.client_rest > 0;
    client->relay.is_backlogged = false;
    provide_forget(client);
    client->relay.is_cancelled = client->relay.is_limit_told = false;
    client->relay.expired = LIMIT_NONE;
    carry_out(&evidence, verdict);
    held_deinit(&evidence.held);
}

/* Only a request that is alone can leave a backend that lives: what is behind it would run. */
static bool
can_leave(const struct client *client)
{
    const struct backend *backend = client->lease.backend;
    const struct held *held = &backend->held;

    if (held->count != 1 || held->is_blind || backend->replies.status != 'I' ||
        client->relay.is_cancelled) {
        return false;
    }
    const struct held_request *request = held_at(held, 0);
    return request->is_whole && !request->is_lost && request->times == 0 &&
           !(held->seen & SEEN_ROWS) &&
           client->crowd->pool.settings->transparent_retry >= RETRY_ABORTED;
}

bool
loss_is_refusal(struct client *client, const struct message *message, struct fail *fail)
{
    struct error_fields fields;

    if (!can_leave(client)) {
        return false;
    }
    message_parse_error(message->body, message->body_len, &fields);
    bool is_demotion = pool_policy(client->lease.side)->is_read_write &&
                       strcmp(fields.sqlstate, STATE_READ_ONLY) == 0;
    /* What it left in its session would stay behind. */
    bool is_stale = follow_is_stale_plan(&fields) && !session_is_dirty(client);
    if (!is_demotion && !(is_stale && follow_may_renew(client))) {
        return false;
    }
    if (!is_demotion) {
        follow_retire(client);
    }
    message_error_to_fail(&fields, fail);
    return true;
}
