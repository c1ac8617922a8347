/*
 * What the console asks of main: RELOAD and RECONNECT. An errand goes by post to main and home
 * again. Belongs to the loop it is in.
 */
#pragma once

#include "base/buf.h"
#include "ops/commands.h"

#include <stdint.h>

struct daemon;

struct errand
{
    struct console_statement statement;
    struct daemon *daemon; /* borrows */
    uint64_t ticket;       /* of the console's client at worker `home` */
    int home;
    struct buf findings; /* owns: what a reload reported */
    bool is_done;
    void (*done)(struct errand *errand); /* at home; owns the errand */
};

/* Sends it on its way; done() is called in the home worker's thread, or never when the process
 * ends. */
void errand_start(struct errand *errand);
void errand_free(struct errand *errand);
