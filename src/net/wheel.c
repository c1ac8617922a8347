/* The wheel. Called by net/loop; calls deadlines' functions. */
#include "net/wheel.h"

#include "base/mem.h"

enum
{
    WHEEL_SLOTS = 1024
};

static struct deadline_list *
slot_of(struct wheel *wheel, const struct deadline *deadline)
{
    return &wheel->slots[(deadline->at_us / LOOP_TICK_US + 1) % WHEEL_SLOTS];
}

void
wheel_init(struct wheel *wheel, int64_t now_us)
{
    wheel->slots = mem_new(WHEEL_SLOTS * sizeof(*wheel->slots));
    for (int i = 0; i < WHEEL_SLOTS; i++) {
        TAILQ_INIT(&wheel->slots[i]);
    }
    wheel->tick = now_us / LOOP_TICK_US;
}

void
wheel_deinit(struct wheel *wheel)
{
    free(wheel->slots);
}

void
wheel_add(struct wheel *wheel, struct deadline *deadline)
{
    TAILQ_INSERT_TAIL(slot_of(wheel, deadline), deadline, link);
}

void
wheel_remove(struct wheel *wheel, struct deadline *deadline)
{
    TAILQ_REMOVE(slot_of(wheel, deadline), deadline, link);
}

/* Ends the deadlines of one slot that are due. A callback may start and stop any deadline, so the
 * list is looked at from the front again after each; those of a later turn of the wheel are moved
 * aside. */
static void
expire_slot(struct deadline_list *slot, int64_t now_us)
{
    struct deadline_list later = TAILQ_HEAD_INITIALIZER(later);
    struct deadline *deadline;

    while ((deadline = TAILQ_FIRST(slot)) != NULL) {
        if (deadline->at_us > now_us) {
            TAILQ_REMOVE(slot, deadline, link);
            TAILQ_INSERT_TAIL(&later, deadline, link);
            continue;
        }
        TAILQ_CONCAT(slot, &later, link);
        deadline_stop(deadline);
        deadline->fn(deadline);
    }
    TAILQ_CONCAT(slot, &later, link);
}

void
wheel_turn(struct wheel *wheel, int64_t now_us)
{
    int64_t tick = now_us / LOOP_TICK_US;

    if (tick - wheel->tick > WHEEL_SLOTS) {
        wheel->tick = tick - WHEEL_SLOTS;
    }
    while (wheel->tick < tick) {
        wheel->tick++;
        expire_slot(&wheel->slots[wheel->tick % WHEEL_SLOTS], now_us);
    }
}

void
wheel_shift(struct wheel *wheel, int64_t by_us, int64_t now_us)
{
    struct deadline_list all = TAILQ_HEAD_INITIALIZER(all);
    struct deadline *deadline;

    for (int i = 0; i < WHEEL_SLOTS; i++) {
        TAILQ_CONCAT(&all, &wheel->slots[i], link);
    }
    while ((deadline = TAILQ_FIRST(&all)) != NULL) {
        TAILQ_REMOVE(&all, deadline, link);
        deadline->at_us += by_us;
        wheel_add(wheel, deadline);
    }
    wheel->tick = now_us / LOOP_TICK_US;
}
