/* ops/history: slots of five seconds, bounds, and incidents found between two surveys. */
#include "ops/history.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const char endpoint_name[] = "db:5432";

/* A survey at that moment with one pool of that id. */
static struct survey *
survey_at(int64_t at_us, uint64_t id)
{
    struct survey *survey = mem_new(sizeof(*survey));
    struct survey_pool *pool = mem_new(sizeof(*pool));

    pool->id = id;
    pool->database = mem_string("app");
    pool->user = mem_string("ann");
    pool->endpoint = endpoint_name;
    HASH_ADD(hh, survey->pools, id, sizeof(pool->id), pool);
    survey->endpoints = mem_new(sizeof(*survey->endpoints));
    survey->endpoints[survey->endpoint_count++].name = endpoint_name;
    survey->taken_us = at_us;
    return survey;
}

static void
test_slots(void **state)
{
    struct history history = {0};
    int64_t begin = 1000 * (int64_t)HISTORY_SLOT_US;

    (void)state;
    for (int i = 0; i < 10; i++) { /* half a second apart */
        struct survey *survey = survey_at(begin + i * 500000, 7);
        survey->pools->busy = i;
        survey->pools->waiting = 20 - i;
        survey->pools->counts.queries = (uint64_t)(i + 1) * 10;
        for (int n = 0; n < (i + 1) * 10; n++) {
            histogram_add(&survey->pools->times.query, 1000);
        }
        history_take(&history, survey);
    }
    struct history_pool *pool = history_find(&history, 7);
    const struct history_slot *slot = history_slot_at(pool, 1000);
    assert_non_null(slot);
    assert_int_equal(slot->busy, 9);
    assert_int_equal(slot->waiting, 20);
    assert_int_equal(slot->queries, 100);
    assert_in_range(slot->query_us[SHARE_50], 890, 1024);
    assert_null(history_slot_at(pool, 999));

    /* What the next one counts is what came since; in between is nothing. */
    struct survey *later = survey_at(begin + 3 * HISTORY_SLOT_US, 7);
    later->pools->counts.queries = 130;
    history_take(&history, later);
    assert_int_equal(history_slot_at(pool, 1003)->queries, 30);
    assert_int_equal(history_slot_at(pool, 1002)->queries, 0);
    assert_int_equal(history_slot_at(pool, 1000)->queries, 100);

    /* After a long sleep everything old is gone. */
    history_take(&history, survey_at(begin + 10000 * (int64_t)HISTORY_SLOT_US, 7));
    assert_null(history_slot_at(pool, 1003));
    assert_int_equal(history_slot_at(pool, 11000 - HISTORY_SLOTS + 1)->queries, 0);
    assert_null(history_slot_at(pool, 11000 - HISTORY_SLOTS));
    history_deinit(&history);
}

static void
test_number_of_pools_is_bounded(void **state)
{
    struct history history = {0};
    int64_t now_us = 5000 * (int64_t)HISTORY_SLOT_US;

    (void)state;
    for (uint64_t id = 1; id <= HISTORY_POOLS + 1; id++) {
        history_take(&history, survey_at(now_us, id));
    }
    assert_non_null(history_find(&history, HISTORY_POOLS));
    assert_null(history_find(&history, HISTORY_POOLS + 1));
    /* Who was not seen for fifteen minutes makes room. */
    history_take(&history, survey_at(now_us + (HISTORY_SLOTS + 1) * (int64_t)HISTORY_SLOT_US, 1));
    history_take(
        &history, survey_at(now_us + (HISTORY_SLOTS + 1) * (int64_t)HISTORY_SLOT_US, 1000));
    assert_non_null(history_find(&history, 1));
    assert_non_null(history_find(&history, 1000));
    history_deinit(&history);
}

/* Takes a survey in which so much was counted. */
static void
step(struct history *history, int64_t at_us, uint64_t lost, uint64_t errors)
{
    struct survey *survey = survey_at(at_us, 1);

    survey->pools->counts.lost = lost;
    survey->pools->counts.errors = errors;
    survey->pools->times.longest_wait_us = (int64_t)errors * 1000;
    history_take(history, survey);
}

static void
test_incident_between_surveys(void **state)
{
    struct history history = {0};

    (void)state;
    step(&history, 1000000, 5, 2);
    assert_int_equal(history.incidents.count, 1); /* what died before the first survey, too */
    step(&history, 1500000, 5, 2);
    step(&history, 2000000, 5, 2);
    step(&history, 20000000, 5, 2);
    step(&history, 20500000, 8, 6);
    const struct incident *incident = incidents_at(&history.incidents, 0);
    assert_int_equal(incident->began_us, 20000000);
    assert_int_equal(incident->ended_us, 0);
    step(&history, 21000000, 8, 7);
    step(&history, 21500000, 8, 7);
    assert_int_equal(incident->ended_us, 21000000);
    assert_int_equal(incident->toll.lost, 3);
    assert_int_equal(incident->toll.errors, 5);
    assert_int_equal(incident->toll.longest_wait_us, 7000);
    /* Soon again: the same one goes on. Later: another. */
    step(&history, 25000000, 9, 7);
    assert_int_equal(history.incidents.count, 2);
    assert_int_equal(incident->ended_us, 0);
    step(&history, 25500000, 9, 7);
    step(&history, 26000000, 9, 7);
    step(&history, 60000000, 10, 7);
    assert_int_equal(history.incidents.count, 3);
    for (int i = 0; i < 3 * INCIDENTS_MAX; i++) {
        step(&history, 100000000 + i * (int64_t)20000000, 11 + (uint64_t)i, 7);
        step(&history, 101000000 + i * (int64_t)20000000, 11 + (uint64_t)i, 7);
        step(&history, 102000000 + i * (int64_t)20000000, 11 + (uint64_t)i, 7);
    }
    assert_non_null(incidents_at(&history.incidents, INCIDENTS_MAX - 1));
    assert_null(incidents_at(&history.incidents, INCIDENTS_MAX));
    history_deinit(&history);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_number_of_pools_is_bounded),
        cmocka_unit_test(test_incident_between_surveys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
