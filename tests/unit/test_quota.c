/* Limits that several pools share: who gets room, and who makes it. */
#include "pool/quota.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum
{
    POOLS = 3
};

static struct share shares[POOLS];
static struct quota database, users[POOLS];

static int
set_up(void **state)
{
    (void)state;
    database = (struct quota){.limit = 4};
    for (int i = 0; i < POOLS; i++) {
        users[i] = (struct quota){0};
        shares[i] = (struct share){.quotas = {&database, &users[i]}};
    }
    return 0;
}

static void
take(int pool, int count)
{
    for (int i = 0; i < count; i++) {
        assert_true(quota_take(&shares[pool], true, 0));
    }
}

static void
test_who_has_more_makes_room_until_it_is_even(void **state)
{
    (void)state;
    take(0, 4);
    assert_false(quota_starves_others(&shares[0]));
    assert_false(quota_take(&shares[1], true, 10));
    assert_true(quota_is_hungry(&shares[1]));
    assert_true(quota_starves_others(&shares[0]));
    assert_false(quota_starves_others(&shares[1]));
    assert_true(quota_yields(&shares[0], 11));
    quota_give_back(&shares[0]);
    assert_false(quota_take(&shares[0], true, 12)); /* not back to who gave it up */
    assert_true(quota_take(&shares[1], true, 13));
    assert_false(quota_is_hungry(&shares[1]));
    assert_false(quota_take(&shares[1], true, 14));
    assert_true(quota_yields(&shares[0], 15));
    quota_give_back(&shares[0]);
    assert_true(quota_take(&shares[1], true, 16));
    assert_false(quota_take(&shares[1], true, 17));
    assert_false(quota_yields(&shares[0], 18 + 10 * QUOTA_TURN_US)); /* two and two */
}

static void
test_uneven_rest_goes_round(void **state)
{
    (void)state;
    take(0, 2);
    take(1, 1);
    take(2, 1);
    assert_false(quota_take(&shares[1], true, 100));
    assert_false(quota_take(&shares[2], true, 200));
    assert_false(quota_yields(&shares[0], 100 + QUOTA_TURN_US - 1));
    assert_true(quota_yields(&shares[0], 100 + QUOTA_TURN_US));
    assert_false(quota_yields(&shares[0], 100 + QUOTA_TURN_US)); /* one is on its way out */
    assert_false(quota_yields(&shares[1], 100 + QUOTA_TURN_US));
    quota_give_back(&shares[0]);
    assert_false(quota_take(&shares[2], true, 300)); /* the other one is hungry for longer */
    assert_true(quota_take(&shares[1], true, 300));
    assert_false(quota_take(&shares[0], true, 400));
    assert_false(quota_yields(&shares[1], 200 + QUOTA_TURN_US)); /* it has its turn */
    assert_true(quota_yields(&shares[1], 100 + 2 * QUOTA_TURN_US));
}

static void
test_only_backend_goes_round_too(void **state)
{
    (void)state;
    database.limit = 1;
    take(0, 1);
    assert_false(quota_take(&shares[1], true, 0));
    assert_false(quota_yields(&shares[0], QUOTA_TURN_US - 1));
    assert_true(quota_yields(&shares[0], QUOTA_TURN_US));
}

static void
test_who_waits_no_more_is_not_considered(void **state)
{
    (void)state;
    take(0, 4);
    assert_false(quota_take(&shares[1], true, 0));
    assert_false(quota_take(&shares[2], false, 0)); /* nobody waits for it */
    assert_false(quota_is_hungry(&shares[2]));
    quota_forget(&shares[1]);
    assert_false(quota_starves_others(&shares[0]));
    assert_false(quota_yields(&shares[0], 10 * QUOTA_TURN_US));
    quota_give_back(&shares[0]);
    assert_true(quota_take(&shares[0], true, 1));
}

static void
test_limit_of_a_user_counts_as_well(void **state)
{
    (void)state;
    users[1].limit = 1;
    take(1, 1);
    assert_false(quota_take(&shares[1], true, 0));
    assert_false(quota_starves_others(&shares[0])); /* the database has room */
    take(0, 3);
    assert_false(quota_yields(&shares[0], 10 * QUOTA_TURN_US));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_who_has_more_makes_room_until_it_is_even, set_up),
        cmocka_unit_test_setup(test_uneven_rest_goes_round, set_up),
        cmocka_unit_test_setup(test_only_backend_goes_round_too, set_up),
        cmocka_unit_test_setup(test_who_waits_no_more_is_not_considered, set_up),
        cmocka_unit_test_setup(test_limit_of_a_user_counts_as_well, set_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
