/* Tidings. Called by pool/herald; posts to workers. */
#include "pool/tidings.h"

#include "base/mem.h"
#include "pool/herald.h"
#include "pool/pool.h"

static void
free_tiding(struct tiding *tiding)
{
    free(tiding->database);
    buf_deinit(&tiding->news);
    free(tiding);
}

static void
on_tiding(void *arg)
{
    struct tiding *tiding = arg;
    const struct herald_ops *ops = tiding->worker->herald_ops;

    if (tiding->database == NULL) {
        ops->on_heard(tiding->worker, tiding->ticket, tiding->serial);
    } else if (buf_len(&tiding->news) > 0) {
        ops->on_news(
            tiding->worker, tiding->database, buf_head(&tiding->news), buf_len(&tiding->news));
    } else {
        ops->on_gap(tiding->worker, tiding->database);
    }
    free_tiding(tiding);
}

void
tidings_tell(const struct tiding *what)
{
    struct tiding *tiding = mem_new(sizeof(*tiding));

    *tiding = *what;
    if (!loop_post(tiding->worker->loop, on_tiding, tiding)) {
        free_tiding(tiding);
    }
}
