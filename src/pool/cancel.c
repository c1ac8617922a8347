/*
 * Cancel requests as helper jobs. Called by client/ and pool/; calls libpq's PQcancel(), which
 * blocks until PostgreSQL closed that connection.
 */
#include "pool/cancel.h"

#include "base/helpers.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/stats.h"
#include "pool/pools.h"
#include "pool/scrub.h"

#include <libpq-fe.h>

struct cancel
{
    struct job job;
    PGcancel *handle;           /* owns */
    struct pool_worker *worker; /* borrows: outlives all helpers */
    uint64_t ticket;            /* of the backend */
    char error[256];
};

static void
cancel_free(struct cancel *cancel)
{
    PQfreeCancel(cancel->handle);
    free(cancel);
}

static void
cancel_drop(struct job *job)
{
    cancel_free((struct cancel *)((char *)job - offsetof(struct cancel, job)));
}

/* Back in the worker: the backend may be reused when this was the last one. */
static void
cancel_over(void *arg)
{
    struct cancel *cancel = arg;
    struct backend *backend = slots_find(&cancel->worker->backends, cancel->ticket);

    if (cancel->error[0] != '\0') {
        log_warn("cancel request failed: %s", cancel->error);
    }
    cancel_free(cancel);
    if (backend == NULL) {
        return;
    }
    backend->duty.cancels--;
    if (backend->state == BACKEND_SCRUBBING) {
        scrub_run(backend);
    } else if (backend->state == BACKEND_LEASED && backend->duty.cancels == 0) {
        pool_tell_holder(backend, 0); /* its next request may wait */
    }
}

static void
cancel_run(struct job *job)
{
    struct cancel *cancel = (struct cancel *)((char *)job - offsetof(struct cancel, job));

    if (PQcancel(cancel->handle, cancel->error, sizeof(cancel->error)) == 1) {
        cancel->error[0] = '\0';
    }
    cancel->error[strcspn(cancel->error, "\n")] = '\0';
    if (!loop_post(cancel->worker->loop, cancel_over, cancel)) {
        cancel_drop(job);
    }
}

/* ticket: of the backend that is told when it is over, or 0. False: there is nothing to send. */
static bool
send_cancel(struct pool_worker *worker, struct pg_conn *conn, uint64_t ticket)
{
    /* libpq has a handle also where the server gave no key, or that of nobody. */
    PGcancel *handle = PQbackendPID(conn) != 0 ? PQgetCancel(conn) : NULL;

    if (handle == NULL) {
        return false;
    }
    struct cancel *cancel = mem_new(sizeof(*cancel));
    cancel->handle = handle;
    cancel->worker = worker;
    cancel->ticket = ticket;
    cancel->job = (struct job){.kind = JOB_URGENT, .run = cancel_run, .drop = cancel_drop};
    stats_add(METRIC_cancel_forwarded_total, 1);
    helpers_run(pools_helpers(worker->pools), &cancel->job);
    return true;
}

void
cancel_send(struct backend *backend)
{
    /* helpers_run() comes back before anything of the job can. */
    backend->duty.cancels += send_cancel(backend->side->worker, backend->conn, backend->ticket);
}

void
cancel_send_apart(struct pool_worker *worker, struct pg_conn *conn)
{
    send_cancel(worker, conn, 0);
}
