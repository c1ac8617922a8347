/* base/slots: tickets name one thing for its life and nothing after it. */
#include "base/slots.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { THINGS = 5000 };

static void
test_ticket_finds_its_holder_until_it_is_removed(void **state)
{
    static char things[THINGS];
    static uint64_t tickets[THINGS];
    struct slots slots = {0};

    (void)state;
    for (int i = 0; i < THINGS; i++) {
        tickets[i] = slots_add(&slots, &things[i]);
        assert_true(tickets[i] != 0);
    }
    for (int i = 0; i < THINGS; i += 2) {
        slots_remove(&slots, tickets[i]);
    }
    for (int i = 0; i < THINGS; i++) {
        assert_ptr_equal(slots_find(&slots, tickets[i]), i % 2 == 0 ? NULL : &things[i]);
    }
    assert_int_equal(slots.used, THINGS / 2);
    slots_deinit(&slots);
}

static void
test_slot_that_is_used_again_has_another_ticket(void **state)
{
    struct slots slots = {0};
    int thing;
    uint64_t old = 0;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        uint64_t ticket = slots_add(&slots, &thing);
        assert_true(ticket != old);
        assert_null(slots_find(&slots, old));
        assert_ptr_equal(slots_at(&slots, (uint32_t)ticket), &thing);
        slots_remove(&slots, ticket);
        assert_null(slots_at(&slots, (uint32_t)ticket));
        old = ticket;
    }
    slots_deinit(&slots);
}

static void
test_any_number_may_be_asked_for(void **state)
{
    struct slots slots = {0};
    int thing;

    (void)state;
    assert_null(slots_find(&slots, 0));
    assert_null(slots_at(&slots, UINT32_MAX));
    uint64_t ticket = slots_add(&slots, &thing);
    for (int i = 0; i < 64; i++) {
        assert_null(slots_find(&slots, ticket ^ (uint64_t)1 << i));
    }
    slots_deinit(&slots);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ticket_finds_its_holder_until_it_is_removed),
        cmocka_unit_test(test_slot_that_is_used_again_has_another_ticket),
        cmocka_unit_test(test_any_number_may_be_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
