/* Endpoints and who waits for them. Called by ops/show through its table. */
#include "ops/endpoints.h"

#include "daemon/daemon.h"
#include "ops/columns.h"
#include "ops/gather.h"
#include "pool/endpoint.h"
#include "pool/pools.h"
#include "pool/statements.h"

#include <inttypes.h>

const struct message_column endpoint_columns[ENDPOINT_COLUMNS] = {TEXT("endpoint"), TEXT("state"),
    TEXT("since"), INT4("attempts"), TEXT("last_error"), TEXT("error_class"),
    INT8("next_attempt_us"), INT4("logins"), INT4("max_logins"), INT4("backends"),
    INT8("failed_total_count"), INT8("down_total_count")};

const struct message_column waiting_columns[WAITING_COLUMNS] = {INT4("id"), TEXT("user"),
    TEXT("database"), TEXT("addr"), INT8("wait_us"), TEXT("why"), TEXT("reason"),
    INT8("oldest_lease_us")};

/* ---- ENDPOINTS ---- */

static void
add_endpoint(void *arg, struct endpoint *endpoint, int backends)
{
    struct gather *gather = arg;
    struct endpoint_view view = endpoint_look(endpoint);
    bool is_failing = endpoint_is_failing(&view);
    bool has_failed = view.fail.sqlstate[0] != '\0';
    int64_t left_us = is_failing ? view.retry.at_us - loop_clock_us() : 0;
    size_t row = gather_row(gather);

    gather_text(gather, endpoint->name);
    gather_text(gather, endpoint_state_name(view.state));
    gather_time(gather, view.since_us);
    gather_int4(gather, view.attempts);
    gather_text(gather, has_failed ? view.fail.text : NULL);
    gather_text(gather, has_failed ? connect_traits(&view.fail)->name : NULL);
    gather_int8(gather, left_us > 0 ? left_us : 0);
    gather_int4(gather, view.logins);
    gather_int4(gather, is_failing ? 1 : view.state == ENDPOINT_RECOVERING ? view.allowance : 0);
    gather_int4(gather, backends);
    gather_int8(gather, (int64_t)view.failures);
    gather_int8(gather, (int64_t)view.down_total);
    message_end(&gather->rows, row);
}

void
endpoints_finish(struct gather *gather)
{
    pools_each_endpoint(daemon_pools(gather->daemon), add_endpoint, gather);
}

/* ---- WAITING ---- */

static void
add_waiting(struct gather *gather, const struct client *client)
{
    struct outage outage = pool_outage(client->lease.side->pool);
    int64_t now_us = loop_clock_us();
    int64_t since_us = outage.oldest_lease_us;
    size_t row = gather_row(gather);

    gather_int4(gather, (int64_t)client->id);
    gather_text(gather, client->identity.user);
    gather_text(gather, client->identity.database);
    gather_text(gather, client->identity.peer);
    gather_int8(gather, now_us - client->lease.waiter.since_us);
    gather_text(gather, outage.is_paused ? "paused" : outage.is_down ? "down" : "busy");
    gather_text(gather, outage.attempts > 0 ? outage.fail.text : NULL);
    gather_int8(gather, since_us > 0 ? now_us - since_us : 0);
    message_end(&gather->rows, row);
}

void
endpoints_visit_waiting(struct gather *gather, struct crowd *crowd)
{
    static const enum client_state states[] = {CLIENT_WELCOME, CLIENT_WAITING};
    const struct client *client;

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        TAILQ_FOREACH(client, &crowd->in[states[i]], link) {
            if (client->lease.state == LEASE_WAITING) {
                add_waiting(gather, client);
            }
        }
    }
}

/* ---- prepared statements ---- */

const struct message_column prepared_columns[PREPARED_COLUMNS] = {
    TEXT("name"), INT4("users"), INT8("bytes"), TEXT("statement")};

static void
add_prepared(void *arg, const struct statement *statement)
{
    struct gather *gather = arg;
    char name[STATEMENT_NAME_SIZE];
    size_t row = gather_row(gather);

    statement_name(statement, name);
    gather_text(gather, name);
    gather_int4(gather, atomic_load(&statement->refs));
    gather_int8(gather, (int64_t)(sizeof(*statement) + statement->key_len));
    gather_text(gather, statement_text(statement));
    message_end(&gather->rows, row);
}

void
prepared_finish(struct gather *gather)
{
    statements_each(pools_statements(daemon_pools(gather->daemon)), add_prepared, gather);
}
