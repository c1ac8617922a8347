/* Connections outside of pools. Called by client/replication; calls libpq. */
#include "pool/apart.h"

#include <libpq-fe.h>
#include <sys/socket.h>

bool
apart_open(struct apart *apart, struct pg_conn *conn, struct loop *loop,
    void (*fn)(void *arg, unsigned what), void *arg)
{
    struct fail fail;

    apart->conn = conn;
    stream_init(&apart->stream, PQsocket(conn), fn, arg);
    PQsetnonblocking(conn, 1);
    if (PQsslInUse(conn) &&
        !stream_use_tls(&apart->stream, PQsslStruct(conn, "OpenSSL"), &fail)) {
        apart_free(apart);
        return false;
    }
    watch_attach(&apart->stream.watch, loop);
    stream_want_read(&apart->stream, true);
    return true;
}

void
apart_cut(struct apart *apart)
{
    shutdown(apart->stream.watch.fd, SHUT_RDWR);
    watch_want(&apart->stream.watch, 0);
}

void
apart_free(struct apart *apart)
{
    stream_deinit(&apart->stream);
    PQfinish(apart->conn);
}

void
apart_drop(struct pg_conn *conn)
{
    PQfinish(conn);
}

int
apart_pid(const struct apart *apart)
{
    return PQbackendPID(apart->conn);
}
