/* Tickets: slot number in the low half, generation in the high half. */
#include "base/slots.h"

#include "base/mem.h"
#include "base/state.h"

struct slot
{
    void *item;          /* NULL: free */
    uint32_t generation; /* of the present or the next holder, never 0 */
    uint32_t next_free;  /* slot + 1, or 0 */
};

void
slots_deinit(struct slots *slots)
{
    free(slots->all);
    memset(slots, 0, sizeof(*slots));
}

static void
grow(struct slots *slots)
{
    uint32_t size = slots->size == 0 ? 64 : slots->size * 2;

    slots->all = mem_resize(slots->all, size * sizeof(struct slot));
    for (uint32_t i = size; i > slots->size; i--) {
        slots->all[i - 1] = (struct slot){NULL, 1, slots->free_head};
        slots->free_head = i;
    }
    slots->size = size;
}

uint64_t
slots_add(struct slots *slots, void *item)
{
    ensure(item != NULL);
    if (slots->free_head == 0) {
        grow(slots);
    }
    uint32_t number = slots->free_head - 1;
    struct slot *slot = &slots->all[number];
    slots->free_head = slot->next_free;
    slot->item = item;
    slots->used++;
    return (uint64_t)slot->generation << 32 | number;
}

void *
slots_find(const struct slots *slots, uint64_t ticket)
{
    uint32_t number = (uint32_t)ticket;

    if (number >= slots->size || slots->all[number].generation != ticket >> 32) {
        return NULL;
    }
    return slots->all[number].item;
}

void *
slots_at(const struct slots *slots, uint32_t number)
{
    return number < slots->size ? slots->all[number].item : NULL;
}

void
slots_remove(struct slots *slots, uint64_t ticket)
{
    ensure(slots_find(slots, ticket) != NULL);
    struct slot *slot = &slots->all[(uint32_t)ticket];
    slot->item = NULL;
    slot->generation = slot->generation == UINT32_MAX ? 1 : slot->generation + 1;
    slot->next_free = slots->free_head;
    slots->free_head = (uint32_t)ticket + 1;
    slots->used--;
}
