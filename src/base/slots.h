/*
 * Numbers for things that come and go: a ticket names one object for its whole life and nobody
 * after it, because its slot's generation changes when it is removed. Posts between threads carry
 * tickets, never pointers. One owner thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct slots
{
    struct slot *all; /* owns */
    uint32_t size;
    uint32_t used;
    uint32_t free_head; /* first free slot + 1, or 0 */
};

void slots_deinit(struct slots *slots);

/* Gives item a ticket; never 0. */
uint64_t slots_add(struct slots *slots, void *item);

/* The item that holds this ticket, or NULL when it is gone. Any number may be asked for. */
void *slots_find(const struct slots *slots, uint64_t ticket);

/* Whatever holds this slot now, or NULL; the slot is the low half of its ticket. */
void *slots_at(const struct slots *slots, uint32_t number);

/* Takes the ticket back; it will never be valid again. */
void slots_remove(struct slots *slots, uint64_t ticket);
