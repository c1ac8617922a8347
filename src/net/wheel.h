/*
 * The deadlines of one loop, on a wheel: one list for each tick, round and round. Embedded in the
 * loop; its thread.
 */
#pragma once

#include "net/loop.h"

TAILQ_HEAD(deadline_list, deadline);

struct wheel
{
    struct deadline_list *slots; /* owns */
    int64_t tick;                /* the last whose slot was looked at */
};

void wheel_init(struct wheel *wheel, int64_t now_us);
void wheel_deinit(struct wheel *wheel);

void wheel_add(struct wheel *wheel, struct deadline *deadline);
void wheel_remove(struct wheel *wheel, struct deadline *deadline);

/* Ends the deadlines that are due. */
void wheel_turn(struct wheel *wheel, int64_t now_us);

/* Time stood still for so long: puts every deadline off. */
void wheel_shift(struct wheel *wheel, int64_t by_us, int64_t now_us);
