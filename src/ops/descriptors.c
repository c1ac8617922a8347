/* Descriptors as rows. Called by ops/show through its table; reads clients and backends. */
#include "ops/descriptors.h"

#include "daemon/daemon.h"
#include "ops/columns.h"
#include "ops/gather.h"
#include "ops/sockets.h"
#include "pool/pools.h"

const struct message_column descriptor_columns[DESCRIPTOR_COLUMNS] = {INT4("fd"), TEXT("task"),
    TEXT("user"), TEXT("database"), TEXT("addr"), INT4("port"), INT8("cancel"), INT4("link"),
    TEXT("client_encoding"), TEXT("std_strings"), TEXT("datestyle"), TEXT("timezone"),
    TEXT("password"), BYTEA("scram_client_key"), BYTEA("scram_server_key")};

static void
add_session(struct gather *gather, const struct vars *vars)
{
    static const char *const names[] = {
        "client_encoding", "standard_conforming_strings", "DateStyle", "TimeZone"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        gather_text(gather, vars_find(vars, names[i]));
    }
    for (int i = 0; i < 3; i++) {
        gather_text(gather, NULL);
    }
}

static void
add_client(struct gather *gather, const struct client *client)
{
    const struct backend *backend = client->lease.backend;
    size_t row = gather_row(gather);

    gather_int4(gather, client->stream.watch.fd);
    gather_text(gather, "client");
    gather_text(gather, client->identity.user);
    gather_text(gather, client->identity.database);
    sockets_add_peer(gather, client);
    gather_text(gather, NULL);
    gather_int4(gather, backend != NULL ? backend->stream.watch.fd : 0);
    add_session(gather, &client->vars);
    message_end(&gather->rows, row);
}

static void
add_backend(struct gather *gather, const struct backend *backend)
{
    const struct client *holder = sockets_holder(backend);
    size_t row = gather_row(gather);

    gather_int4(gather, backend->stream.watch.fd);
    gather_text(gather, "server");
    gather_text(gather, backend->side->pool->user);
    gather_text(gather, backend->side->pool->database);
    gather_text(gather, backend_host(backend));
    gather_int4(gather, strtol(backend_port(backend), NULL, 10));
    gather_text(gather, NULL);
    gather_int4(gather, holder != NULL ? holder->stream.watch.fd : 0);
    add_session(gather, &backend->vars);
    message_end(&gather->rows, row);
}

static void
add_backends(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    const struct backend *backend;

    for (int state = 0; state < BACKEND_STATES; state++) {
        TAILQ_FOREACH(backend, &pool->sides[visit->worker].in[state], link) {
            add_backend(visit->gather, backend);
        }
    }
}

void
descriptors_visit(struct gather *gather, struct crowd *crowd)
{
    struct visit visit = {gather, crowd->pool.index, false};

    for (int state = 0; state < CLIENT_CLOSING; state++) {
        struct client *client;
        TAILQ_FOREACH(client, &crowd->in[state], link) {
            if (client->identity.user != NULL) {
                add_client(gather, client);
            }
        }
    }
    pools_each(daemon_pools(gather->daemon), add_backends, &visit);
}
