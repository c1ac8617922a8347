/*
 * What the console asks of main (ops/duty has what that is). An errand goes by post to main, round
 * all workers where they are concerned, again at each tick until everything is over, and home. No
 * loop ever waits. Belongs to the loop it is in.
 *
 *    home ─► main: begin ─► worker 1 ... worker n ─► main: is it over? ─► home
 *                             ▲                        │ at the next tick
 *                             └────────────────────────┘
 */
#pragma once

#include "base/buf.h"
#include "ops/commands.h"

#include <stdint.h>
#include <sys/queue.h>

struct daemon;
struct duty;

/* What is known at home about who asked. */
enum errand_wish
{
    ERRAND_WANTED,
    ERRAND_CANCELLED, /* a cancel request came */
    ERRAND_FORGOTTEN, /* the client is gone */
};

struct errand
{
    TAILQ_ENTRY(errand) link; /* while it waits for main's next tick */
    struct console_statement statement;
    const struct duty *duty;
    struct daemon *daemon; /* borrows */
    uint64_t ticket;       /* of the console's client at worker `home` */
    int home, next;        /* workers */
    enum errand_wish wish;
    int64_t since_us;      /* a duty's: when it began */
    int64_t count;         /* of this round: what the workers found */
    struct buf findings;   /* owns: what a reload reported */
    struct fail fail;      /* without an SQLSTATE: all is well */
    /* In the home worker's thread: whether it is still wanted. */
    enum errand_wish (*ask)(const struct errand *errand);
    void (*done)(struct errand *errand); /* at home; owns the errand */
};

/* Before any other; main thread. From then on SIGUSR1 is PAUSE and SIGUSR2 RESUME, as in PgBouncer.
 */
void errands_init(struct daemon *daemon);

/* Sends it on its way; done() is called in the home worker's thread, or never when the process
 * ends. */
void errand_start(struct errand *errand);
void errand_free(struct errand *errand);
