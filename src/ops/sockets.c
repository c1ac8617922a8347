/* Rows of connections. Called by ops/show through its table; reads clients and backends. */
#include "ops/sockets.h"

#include "client/replication.h"
#include "client/session.h"
#include "daemon/daemon.h"
#include "ops/columns.h"
#include "ops/gather.h"
#include "pool/idle.h"
#include "pool/pools.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define PGBOUNCERS                                                                                 \
    TEXT("type"), TEXT("user"), TEXT("database"), TEXT("replication"), TEXT("state"),              \
        TEXT("addr"), INT4("port"), TEXT("local_addr"), INT4("local_port"), TEXT("connect_time"),  \
        TEXT("request_time"), INT4("wait"), INT4("wait_us"), INT4("close_needed"), TEXT("ptr"),    \
        TEXT("link"), INT4("remote_pid"), TEXT("tls"), TEXT("application_name"),                   \
        INT4("prepared_statements"), INT4("id")
#define OURS INT4("worker"), TEXT("pinned"), INT4("pinned_s")

const struct message_column socket_columns[SOCKET_COLUMNS] = {PGBOUNCERS, OURS};
const struct message_column buffer_columns[BUFFER_COLUMNS] = {PGBOUNCERS, INT4("recv_pos"),
    INT4("pkt_pos"), INT4("pkt_remain"), INT4("send_pos"), INT4("send_remain"),
    INT4("pkt_avail"), INT4("send_avail"), OURS};

/* ---- addresses ---- */

/* "10.0.0.7:5012" or "[::1]:5012" in two columns; on a unix socket, as in PgBouncer, our port. */
void
sockets_add_peer(struct gather *gather, const struct client *client)
{
    const char *peer = client->identity.peer;
    const char *colon = strrchr(peer, ':');
    char host[PEER_TEXT_MAX];

    if (client->identity.is_unix || colon == NULL) {
        gather_text(gather, "unix");
        gather_int4(gather, client->crowd->pool.settings->listen_port);
        return;
    }
    bool is_bracketed = peer[0] == '[';
    int len = (int)(colon - peer) - (is_bracketed ? 2 : 0);
    snprintf(host, sizeof(host), "%.*s", len, peer + (is_bracketed ? 1 : 0));
    gather_text(gather, host);
    gather_int4(gather, strtol(colon + 1, NULL, 10));
}

/* Our end of a socket in two columns; a unix socket has the port that its name has. */
static void
add_local(struct gather *gather, int fd, int64_t unix_port)
{
    struct sockaddr_storage address = {0};
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)&address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
    socklen_t len = sizeof(address);
    char host[INET6_ADDRSTRLEN] = "";
    int64_t port = 0;

    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        address.ss_family = AF_UNSPEC;
    }
    if (address.ss_family == AF_UNIX) {
        snprintf(host, sizeof(host), "unix");
        port = unix_port;
    } else if (address.ss_family == AF_INET) {
        inet_ntop(AF_INET, &in4->sin_addr, host, sizeof(host));
        port = ntohs(in4->sin_port);
    } else if (address.ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        port = ntohs(in6->sin6_port);
    }
    gather_text(gather, host);
    gather_int4(gather, port);
}

/* "unix:4711": the process at the other end, as the kernel knows it. */
static int64_t
peer_pid(const struct client *client)
{
    const char *colon = strrchr(client->identity.peer, ':');

    return client->identity.is_unix && colon != NULL ? strtol(colon + 1, NULL, 10) : 0;
}

/* PgBouncer's positions in its buffers. Ours are empty, but for a tail that is no whole message yet
 * and for what the kernel did not take; `rest` of a large message passes through without one. */
static void
add_buffers(struct gather *gather, const struct stream *stream, uint32_t rest)
{
    if (gather->show->columns != buffer_columns) {
        return;
    }
    gather_int4(gather, (int64_t)buf_len(&stream->in));
    gather_int4(gather, 0);
    gather_int4(gather, rest);
    gather_int4(gather, 0);
    gather_int4(gather, (int64_t)buf_len(&stream->out));
    gather_int4(gather, (int64_t)buf_len(&stream->in));
    gather_int4(gather, (int64_t)buf_len(&stream->out));
}

/* Why a client keeps its backend beyond a transaction, and for how many seconds already. */
static void
add_pins(struct gather *gather, const struct client *client)
{
    int64_t since_us = client != NULL ? session_pinned_since(client) : 0;
    char words[160];

    session_pin_words(client != NULL ? session_pins(client) : 0, words, sizeof(words));
    gather_text(gather, words);
    gather_int4(gather, since_us > 0 ? (loop_clock_us() - since_us) / 1000000 : 0);
}

/* ---- clients ---- */

static void
add_client(struct gather *gather, const struct client *client)
{
    const struct lease *lease = &client->lease;
    const char *name = vars_find(&client->vars, "application_name");
    bool waits = client->state == CLIENT_WAITING || client->state == CLIENT_WELCOME;
    int64_t wait_us = waits && lease->side != NULL ? loop_clock_us() - lease->waiter.since_us : 0;
    size_t row = gather_row(gather);

    gather_text(gather, "C");
    gather_text(gather, client->identity.user);
    gather_text(gather, client->identity.database);
    gather_text(gather, replication_kind(client));
    gather_text(gather, client_state_name(client->state));
    sockets_add_peer(gather, client);
    add_local(gather, client->stream.watch.fd, client->crowd->pool.settings->listen_port);
    gather_time(gather, client->connected_us);
    gather_time(gather, client->relay.request_us);
    gather_int4(gather, wait_us / 1000000);
    gather_int4(gather, wait_us % 1000000);
    gather_int4(gather, 0);
    gather_id(gather, 'c', client->id);
    gather_id(gather, 's', lease->backend != NULL ? lease->backend->id : 0);
    gather_int4(gather, peer_pid(client));
    gather_text(gather, client->stream.ssl != NULL ? "TLS" : "");
    gather_text(gather, name != NULL ? name : "");
    gather_int4(gather, client->baggage->names.count);
    gather_int4(gather, (int64_t)client->id);
    add_buffers(gather, &client->stream, client->relay.client_rest);
    gather_int4(gather, client->crowd->pool.index);
    add_pins(gather, client);
    message_end(&gather->rows, row);
}

void
sockets_visit_clients(struct gather *gather, struct crowd *crowd)
{
    for (int state = 0; state < CLIENT_CLOSING; state++) {
        struct client *client;
        TAILQ_FOREACH(client, &crowd->in[state], link) {
            if (client->identity.user != NULL) {
                add_client(gather, client);
            }
        }
    }
}

/* ---- servers ---- */

/* The client that holds it, or NULL: leases are embedded in clients. */
const struct client *
sockets_holder(const struct backend *backend)
{
    const char *lease = (const char *)backend->holder;

    return lease != NULL ? (const struct client *)(lease - offsetof(struct client, lease)) : NULL;
}

static uint64_t
holder_id(const struct backend *backend)
{
    const struct client *client = sockets_holder(backend);

    return client != NULL ? client->id : 0;
}

static void
add_backend(struct gather *gather, const struct backend *backend)
{
    const struct pool *pool = backend->side->pool;
    int64_t port = strtol(backend_port(backend), NULL, 10);
    const char *name = vars_find(&backend->vars, "application_name");
    size_t row = gather_row(gather);

    gather_text(gather, "S");
    gather_text(gather, pool->user);
    gather_text(gather, pool->database);
    gather_text(gather, "none");
    gather_text(gather, backend_state_name(backend->state));
    gather_text(gather, backend_host(backend));
    gather_int4(gather, port);
    add_local(gather, backend->stream.watch.fd, port);
    gather_time(gather, backend->opened_us);
    gather_time(gather, backend->state_since_us);
    gather_int4(gather, 0);
    gather_int4(gather, 0);
    gather_int4(gather, idle_is_unwanted(backend));
    gather_id(gather, 's', backend->id);
    gather_id(gather, 'c', holder_id(backend));
    gather_int4(gather, backend->pid);
    gather_text(gather, backend->stream.ssl != NULL ? "TLS" : "");
    gather_text(gather, name != NULL ? name : "");
    gather_int4(gather, backend->prepared.count);
    gather_int4(gather, (int64_t)backend->id);
    add_buffers(gather, &backend->stream, backend->skip_len);
    gather_int4(gather, backend->side->worker->index);
    add_pins(gather, sockets_holder(backend));
    message_end(&gather->rows, row);
}

static void
add_leased(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    const struct backend *backend;

    TAILQ_FOREACH(backend, &pool->sides[visit->worker].in[BACKEND_LEASED], link) {
        add_backend(visit->gather, backend);
    }
}

static void
add_backends(void *arg, struct pool *pool)
{
    const struct visit *visit = arg;
    const struct pool_side *side = &pool->sides[visit->worker];

    for (int state = 0; state < BACKEND_STATES; state++) {
        const struct backend *backend;
        TAILQ_FOREACH(backend, &side->in[state], link) {
            add_backend(visit->gather, backend);
        }
    }
}

void
sockets_visit_all(struct gather *gather, struct crowd *crowd)
{
    sockets_visit_clients(gather, crowd);
    sockets_visit_servers(gather, crowd);
}

/* Clients that hold a backend or wait for one, and the backends that are held. */
void
sockets_visit_active(struct gather *gather, struct crowd *crowd)
{
    struct visit visit = {gather, crowd->pool.index, false};

    for (int state = 0; state < CLIENT_CLOSING; state++) {
        struct client *client;
        TAILQ_FOREACH(client, &crowd->in[state], link) {
            if (client->lease.state != LEASE_NONE) {
                add_client(gather, client);
            }
        }
    }
    pools_each(daemon_pools(gather->daemon), add_leased, &visit);
}

void
sockets_visit_servers(struct gather *gather, struct crowd *crowd)
{
    struct visit visit = {gather, crowd->pool.index, false};

    pools_each(daemon_pools(gather->daemon), add_backends, &visit);
}
