/*
 * What becomes of the console's commands: a table with one row for each, of functions that run in
 * main's thread and in each worker's. Called by ops/errand.
 */
#pragma once

#include "ops/commands.h"

struct crowd;
struct errand;

struct duty
{
    /* Main: does it, or begins it. NULL: nothing. False: errand->fail says why not. */
    bool (*begin)(struct errand *errand);
    /* Each worker, one after the other; adds to errand->count. NULL: workers are not concerned. */
    void (*visit)(struct errand *errand, struct crowd *crowd);
    /* Main, after the round: whether it is over, well or not (errand->fail). Else there is another
     * round. */
    bool (*is_over)(struct errand *errand);
    /* Main: who asked has cancelled it. True: one more round is needed. NULL: there is nothing to
     * undo. */
    bool (*undo)(struct errand *errand);
};

/* The row of an action that main must do. */
const struct duty *duty_of(enum action action);
