/* pool/ledger: one limit for all workers, first come first served, nothing promised twice. */
#include "pool/ledger.h"

#include "base/mem.h"
#include "base/stats.h"
#include "net/loop.h"
#include "pool/endpoint.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <cmocka.h>

static struct waiter
waiter_of(uint64_t ticket)
{
    return (struct waiter){.ticket = ticket};
}

static enum ledger_step
request(struct ledger *ledger, int worker, struct waiter *waiter, int64_t now_us)
{
    return ledger_request(ledger, worker, waiter, now_us).step;
}

/* A backend was dialled and is offered. */
static struct ledger_grant
arrive(struct ledger *ledger, int worker)
{
    ledger_arrived(ledger);
    return ledger_return(ledger, worker);
}

/* As many backends, idle with worker 0 and with worker 1. */
static void
fill_idle(struct ledger *ledger, int own, int other)
{
    struct waiter waiters[8];
    int count = own + other;

    for (int i = 0; i < count; i++) {
        waiters[i] = waiter_of((uint64_t)i + 100);
        assert_int_equal(request(ledger, 0, &waiters[i], 0), LEDGER_DIAL);
    }
    for (int i = 0; i < count; i++) {
        assert_int_equal(arrive(ledger, 0).kind, GRANT_OWN);
    }
    for (int i = 0; i < count; i++) {
        assert_int_equal(ledger_return(ledger, i < own ? 0 : 1).kind, GRANT_IDLE);
    }
}

static void
test_dials_up_to_the_limit_and_serves_in_order_of_arrival(void **state)
{
    struct ledger ledger;
    struct waiter waiters[5];

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 2, 0);
    for (int i = 0; i < 5; i++) {
        waiters[i] = waiter_of((uint64_t)i + 1);
        assert_int_equal(request(&ledger, 0, &waiters[i], i), i < 2 ? LEDGER_DIAL : LEDGER_WAIT);
    }
    for (int i = 0; i < 5; i++) {
        struct ledger_grant grant = i < 2 ? arrive(&ledger, 0) : ledger_return(&ledger, 0);
        assert_int_equal(grant.kind, GRANT_OWN);
        assert_ptr_equal(grant.waiter, &waiters[i]);
    }
    assert_int_equal(ledger_return(&ledger, 0).kind, GRANT_IDLE);
    assert_int_equal(ledger_return(&ledger, 0).kind, GRANT_IDLE);
    assert_int_equal(request(&ledger, 0, &waiters[0], 9), LEDGER_TAKE);
    assert_int_equal(ledger_look(&ledger).idle, 1);
    ledger_deinit(&ledger);
}

static void
test_idle_backend_of_another_worker_is_asked_for_once(void **state)
{
    struct ledger ledger;
    struct waiter one = waiter_of(1), two = waiter_of(2);

    (void)state;
    ledger_init(&ledger, 2);
    ledger_set_limits(&ledger, 1, 0);
    assert_int_equal(request(&ledger, 0, &one, 1), LEDGER_DIAL);
    arrive(&ledger, 0);
    assert_int_equal(ledger_return(&ledger, 0).kind, GRANT_IDLE);
    struct ledger_answer answer = ledger_request(&ledger, 1, &one, 2);
    assert_int_equal(answer.step, LEDGER_ASK);
    assert_int_equal(answer.worker, 0);
    assert_int_equal(request(&ledger, 0, &two, 3), LEDGER_WAIT);
    assert_false(ledger_take_idle(&ledger, 0));
    struct ledger_grant grant = arrive(&ledger, 1);
    assert_int_equal(grant.kind, GRANT_OWN);
    assert_ptr_equal(grant.waiter, &one);
    grant = ledger_return(&ledger, 1);
    assert_int_equal(grant.kind, GRANT_OTHER);
    assert_int_equal(grant.worker, 0);
    assert_int_equal(grant.ticket, 2);
    assert_null(grant.waiter);
    ledger_deinit(&ledger);
}

static void
test_backend_changes_threads_only_for_who_waits_clearly_longer(void **state)
{
    static const struct
    {
        int64_t own_us, other_us;
        enum ledger_grant_kind kind;
    } rows[] = {{5000, 5000, GRANT_OWN}, {5000, 4001, GRANT_OWN}, {5000, 3999, GRANT_OTHER},
        {4000, 5000, GRANT_OWN}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct ledger ledger;
        struct waiter holder = waiter_of(1), own = waiter_of(2), other = waiter_of(3);

        ledger_init(&ledger, 2);
        ledger_set_limits(&ledger, 1, 0);
        assert_int_equal(request(&ledger, 0, &holder, 0), LEDGER_DIAL);
        arrive(&ledger, 0);
        assert_int_equal(request(&ledger, 0, &own, rows[i].own_us), LEDGER_WAIT);
        assert_int_equal(request(&ledger, 1, &other, rows[i].other_us), LEDGER_WAIT);
        assert_int_equal(ledger_return(&ledger, 0).kind, rows[i].kind);
        assert_int_equal(
            ledger_return(&ledger, 0).kind, rows[i].kind == GRANT_OWN ? GRANT_OTHER : GRANT_OWN);
        ledger_deinit(&ledger);
    }
}

static void
test_waiter_that_leaves_is_passed_over(void **state)
{
    struct ledger ledger;
    struct waiter one = waiter_of(1), two = waiter_of(2);

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 1, 0);
    assert_int_equal(request(&ledger, 0, &one, 1), LEDGER_DIAL);
    assert_int_equal(request(&ledger, 0, &two, 2), LEDGER_WAIT);
    assert_true(ledger_leave(&ledger, 0, &one));
    assert_false(ledger_leave(&ledger, 0, &one));
    assert_ptr_equal(arrive(&ledger, 0).waiter, &two);
    assert_int_equal(ledger_return(&ledger, 0).kind, GRANT_IDLE);
    ledger_deinit(&ledger);
}

static void
test_failed_dial_is_tried_again_unless_barred(void **state)
{
    struct ledger ledger;
    struct waiter one = waiter_of(1);

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 1, 0);
    assert_int_equal(request(&ledger, 0, &one, 1), LEDGER_DIAL);
    ledger_bar_dials(&ledger, INT64_MAX, INT64_MAX);
    ledger_arrived(&ledger);
    assert_int_equal(ledger_closed(&ledger), LEDGER_WAIT);
    assert_int_equal(ledger_look(&ledger).total, 0);
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_WAIT);
    ledger_bar_dials(&ledger, 0, 0);
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_DIAL);
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_WAIT);
    assert_ptr_equal(ledger_pop(&ledger, 0), &one);
    ledger_deinit(&ledger);
}

static void
test_reserve_is_for_those_who_waited_long(void **state)
{
    struct ledger ledger;
    struct waiter one = waiter_of(1), two = waiter_of(2);

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 1, 1);
    assert_int_equal(request(&ledger, 0, &one, 1), LEDGER_DIAL);
    arrive(&ledger, 0);
    assert_int_equal(request(&ledger, 0, &two, 10), LEDGER_WAIT);
    assert_int_equal(ledger_want_spare(&ledger, 0, 100, 100), LEDGER_WAIT);
    assert_int_equal(ledger_want_spare(&ledger, 0, 100, 111), LEDGER_DIAL);
    assert_int_equal(ledger_want_spare(&ledger, 0, 100, 111), LEDGER_WAIT);
    assert_ptr_equal(arrive(&ledger, 0).waiter, &two);
    assert_int_equal(ledger_return(&ledger, 0).kind, GRANT_CLOSE);
    ledger_deinit(&ledger);
}

static void
test_quota_is_shared_by_pools(void **state)
{
    struct quota quota = {.limit = 1};
    struct ledger ledgers[2];
    struct waiter waiters[2] = {waiter_of(1), waiter_of(2)};

    (void)state;
    for (int i = 0; i < 2; i++) {
        ledger_init(&ledgers[i], 1);
        ledger_set_limits(&ledgers[i], 5, 0);
        ledgers[i].share.quotas[0] = &quota;
    }
    assert_int_equal(request(&ledgers[0], 0, &waiters[0], 1), LEDGER_DIAL);
    assert_int_equal(request(&ledgers[1], 0, &waiters[1], 2), LEDGER_WAIT);
    assert_true(ledger_look(&ledgers[1]).is_starved);
    arrive(&ledgers[0], 0);
    assert_int_equal(ledger_closed(&ledgers[0]), LEDGER_WAKE);
    assert_int_equal(ledger_want_dial(&ledgers[1]), LEDGER_DIAL);
    assert_false(ledger_look(&ledgers[1]).is_starved);
    arrive(&ledgers[1], 0);
    ledger_deinit(&ledgers[0]);
    ledger_deinit(&ledgers[1]);
}

static void
test_bar_has_an_end_and_lets_one_dial_through(void **state)
{
    struct ledger ledger;
    struct waiter one = waiter_of(1), two = waiter_of(2);
    int64_t now_us = loop_clock_us();

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 5, 0);
    ledger_bar_dials(&ledger, now_us + 60000000, now_us + 60000000);
    assert_int_equal(request(&ledger, 0, &one, 1), LEDGER_WAIT);
    assert_int_equal(ledger_want_spare(&ledger, 1, INT64_MAX, 2), LEDGER_WAIT);
    ledger_bar_dials(&ledger, now_us, now_us + 60000000);
    assert_int_equal(ledger_want_spare(&ledger, 1, INT64_MAX, 2), LEDGER_WAIT);
    assert_int_equal(request(&ledger, 0, &two, 2), LEDGER_DIAL);
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_WAIT); /* the one attempt is out */
    ledger_arrived(&ledger);
    ledger_bar_dials(&ledger, 0, 0);
    assert_int_equal(ledger_closed(&ledger), LEDGER_DIAL);
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_DIAL);
    assert_true(ledger_leave(&ledger, 0, &one) && ledger_leave(&ledger, 0, &two));
    ledger_deinit(&ledger);
}

static void
test_endpoint_has_the_last_word_and_a_denied_dial_costs_no_quota(void **state)
{
    struct endpoint *endpoint = endpoint_new("db1:5432", "db1");
    struct quota quota = {.limit = 5};
    struct ledger ledgers[2];
    struct waiter waiters[3] = {waiter_of(1), waiter_of(2), waiter_of(3)};
    struct endpoint_view view;

    (void)state;
    for (int i = 0; i < 2; i++) {
        ledger_init(&ledgers[i], 1);
        ledger_set_limits(&ledgers[i], 5, 0);
        ledgers[i].share.quotas[0] = &quota;
        ledger_use_endpoint(&ledgers[i], endpoint);
    }
    endpoint_limit(endpoint, 1);
    endpoint_shaken(endpoint, loop_clock_us());
    assert_int_equal(request(&ledgers[0], 0, &waiters[0], 1), LEDGER_DIAL);
    assert_int_equal(request(&ledgers[0], 0, &waiters[1], 2), LEDGER_WAIT);
    assert_int_equal(request(&ledgers[1], 0, &waiters[2], 3), LEDGER_WAIT);
    assert_int_equal(quota.used, 1);
    assert_ptr_equal(ledger_end_login(&ledgers[0]), endpoint);
    assert_int_equal(endpoint_answered(endpoint, loop_clock_us(), &view), ENDPOINT_HAS_ROOM);
    assert_int_equal(ledger_want_dial(&ledgers[1]), LEDGER_DIAL);
    assert_int_equal(quota.used, 2);
    for (int i = 0; i < 3; i++) {
        assert_true(ledger_leave(&ledgers[i / 2], 0, &waiters[i]));
    }
    ledger_deinit(&ledgers[0]);
    ledger_deinit(&ledgers[1]);
    endpoint_free(&endpoint);
}

static void
test_dials_in_progress_follow_their_pool_to_another_endpoint(void **state)
{
    struct endpoint *old = endpoint_new("db1:5432", "db1"), *new = endpoint_new("db2:5432", "db2");
    struct ledger ledger;
    struct waiter waiter = waiter_of(1);

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 5, 0);
    ledger_use_endpoint(&ledger, old);
    assert_int_equal(request(&ledger, 0, &waiter, 1), LEDGER_DIAL);
    ledger_use_endpoint(&ledger, new);
    assert_int_equal(endpoint_look(old).logins, 0);
    assert_int_equal(endpoint_look(new).logins, 1);
    assert_int_equal(endpoint_withdrawn(ledger_end_login(&ledger)), ENDPOINT_NO_NEWS);
    assert_int_equal(endpoint_look(new).logins, 0);
    assert_true(ledger_leave(&ledger, 0, &waiter));
    ledger_deinit(&ledger);
    endpoint_free(&old);
    endpoint_free(&new);
}

/* ---- many threads ---- */

enum
{
    THREADS = 8,
    LIMIT = 3,
    ROUNDS = 20000
};

static struct
{
    struct ledger ledger;
    _Atomic int holders, most, served;
    _Atomic uint64_t granted[THREADS]; /* tickets that other workers granted */
} crowd;

static void
use_and_return(int worker)
{
    int holders = atomic_fetch_add(&crowd.holders, 1) + 1;

    if (holders > atomic_load(&crowd.most)) {
        atomic_store(&crowd.most, holders);
    }
    atomic_fetch_add(&crowd.served, 1);
    atomic_fetch_sub(&crowd.holders, 1);
    struct ledger_grant grant = ledger_return(&crowd.ledger, worker);
    if (grant.kind == GRANT_OTHER) {
        atomic_store(&crowd.granted[grant.worker], grant.ticket);
    } else if (grant.kind != GRANT_IDLE) {
        abort(); /* this worker waits for nobody now */
    }
}

/* One worker with one client: takes what is idle, here or there, dials, or waits for a grant. */
static void *
work(void *arg)
{
    int worker = (int)(intptr_t)arg;
    struct waiter waiter = {0};

    for (int i = 0; i < ROUNDS; i++) {
        waiter.ticket++;
        struct ledger_answer answer = ledger_request(&crowd.ledger, worker, &waiter, i);
        if (answer.step == LEDGER_ASK || answer.step == LEDGER_DIAL) {
            ledger_arrived(&crowd.ledger);
            struct ledger_grant grant = ledger_return(&crowd.ledger, worker);
            if (grant.kind == GRANT_OTHER) {
                atomic_store(&crowd.granted[grant.worker], grant.ticket);
            } else if (grant.kind == GRANT_OWN) {
                use_and_return(worker);
                continue;
            }
        } else if (answer.step == LEDGER_TAKE) {
            use_and_return(worker);
            continue;
        }
        while (atomic_load(&crowd.granted[worker]) != waiter.ticket) {
            if (i % 7 == 0 && ledger_leave(&crowd.ledger, worker, &waiter)) {
                break;
            }
            sched_yield();
        }
        if (atomic_load(&crowd.granted[worker]) == waiter.ticket) {
            use_and_return(worker);
        }
    }
    return NULL;
}

static void
test_threads_never_hold_more_than_the_limit_nor_lose_a_grant(void **state)
{
    pthread_t threads[THREADS];

    (void)state;
    ledger_init(&crowd.ledger, THREADS);
    ledger_set_limits(&crowd.ledger, LIMIT, 0);
    for (intptr_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    struct ledger_view view = ledger_look(&crowd.ledger);
    assert_true(atomic_load(&crowd.most) <= LIMIT);
    assert_true(view.total <= LIMIT);
    assert_int_equal(view.idle, view.total);
    assert_int_equal(view.waiting, 0);
    assert_int_equal(view.arriving, 0);
    assert_true(atomic_load(&crowd.served) > THREADS * ROUNDS / 2);
    ledger_deinit(&crowd.ledger);
}

static void
test_waiters_queue_behind_backends_that_are_checked(void **state)
{
    struct ledger ledger;
    struct waiter waiters[3];

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 3, 0);
    fill_idle(&ledger, 2, 0);
    for (int i = 0; i < 3; i++) {
        waiters[i] = waiter_of((uint64_t)i + 1);
    }
    /* The first was granted one that has to be checked; the second gets a check of its own. */
    assert_int_equal(request(&ledger, 0, &waiters[0], 1), LEDGER_TAKE);
    ledger_queue(&ledger, 0, &waiters[0]);
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_WAIT);
    assert_int_equal(request(&ledger, 0, &waiters[1], 2), LEDGER_OFFER);
    assert_int_equal(ledger_look(&ledger).idle, 0);
    assert_int_equal(ledger_look(&ledger).checking, 2);
    assert_int_equal(request(&ledger, 0, &waiters[2], 3), LEDGER_DIAL);
    /* Whichever check is over first serves who came first. */
    ledger_checked(&ledger);
    assert_ptr_equal(ledger_return(&ledger, 0).waiter, &waiters[0]);
    ledger_checked(&ledger);
    assert_ptr_equal(ledger_return(&ledger, 0).waiter, &waiters[1]);
    assert_ptr_equal(arrive(&ledger, 0).waiter, &waiters[2]);
    ledger_deinit(&ledger);
}

static void
test_waiter_whose_grant_was_spoilt_gets_its_old_place(void **state)
{
    struct ledger ledger;
    struct waiter waiters[3], holder = waiter_of(9);

    (void)state;
    ledger_init(&ledger, 1);
    ledger_set_limits(&ledger, 1, 0);
    fill_idle(&ledger, 1, 0);
    assert_int_equal(request(&ledger, 0, &holder, 1), LEDGER_TAKE);
    for (int i = 0; i < 3; i++) {
        waiters[i] = waiter_of((uint64_t)i + 1);
        assert_int_equal(request(&ledger, 0, &waiters[i], i + 2), LEDGER_WAIT);
    }
    assert_true(ledger_leave(&ledger, 0, &waiters[1]));
    assert_ptr_equal(ledger_return(&ledger, 0).waiter, &waiters[0]);
    ledger_requeue(&ledger, 0, &waiters[1]);
    ledger_requeue(&ledger, 0, &waiters[0]);
    ledger_requeue(&ledger, 0, &waiters[0]);
    assert_int_equal(ledger_look(&ledger).waiting, 3);
    for (int i = 0; i < 3; i++) {
        assert_ptr_equal(ledger_return(&ledger, 0).waiter, &waiters[i]);
    }
    ledger_deinit(&ledger);
}

static void
test_check_that_takes_long_is_not_counted_on(void **state)
{
    struct ledger ledger;
    struct waiter one = waiter_of(1);

    (void)state;
    ledger_init(&ledger, 2);
    ledger_set_limits(&ledger, 3, 0);
    fill_idle(&ledger, 2, 1);
    assert_int_equal(request(&ledger, 0, &one, 1), LEDGER_TAKE);
    ledger_queue(&ledger, 0, &one);
    assert_int_equal(ledger_seek(&ledger, 0).step, LEDGER_WAIT);
    /* Sources in turn: the own idle one, that of the other worker, and at the limit none. */
    ledger_checked(&ledger);
    assert_int_equal(ledger_seek(&ledger, 0).step, LEDGER_OFFER);
    assert_int_equal(ledger_seek(&ledger, 0).step, LEDGER_WAIT);
    ledger_checked(&ledger);
    struct ledger_answer answer = ledger_seek(&ledger, 0);
    assert_int_equal(answer.step, LEDGER_ASK);
    assert_int_equal(answer.worker, 1);
    ledger_check_asked(&ledger);
    assert_int_equal(ledger_look(&ledger).arriving, 0);
    assert_int_equal(ledger_look(&ledger).checking, 1);
    ledger_checked(&ledger);
    assert_int_equal(ledger_seek(&ledger, 0).step, LEDGER_WAIT);
    /* The dead one frees its place: the last resort. */
    assert_int_equal(ledger_closed(&ledger), LEDGER_DIAL);
    assert_ptr_equal(arrive(&ledger, 0).waiter, &one);
    ledger_deinit(&ledger);
}

static void
test_paused_ledger_grants_and_dials_nothing_and_keeps_the_queue(void **state)
{
    struct ledger ledger;
    struct waiter one = waiter_of(1), two = waiter_of(2);

    (void)state;
    ledger_init(&ledger, 2);
    ledger_set_limits(&ledger, 3, 0);
    fill_idle(&ledger, 1, 1);
    assert_true(ledger_pause(&ledger, true));
    assert_false(ledger_pause(&ledger, true));
    assert_int_equal(request(&ledger, 0, &one, 1), LEDGER_WAIT);
    assert_int_equal(request(&ledger, 1, &two, 2), LEDGER_WAIT);
    assert_int_equal(ledger_seek(&ledger, 0).step, LEDGER_WAIT);
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_WAIT);
    assert_int_equal(ledger_want_spare(&ledger, 3, 1, 9), LEDGER_WAIT);
    /* Both go, one idle and one that comes back; nothing takes their place. */
    assert_true(ledger_take_idle(&ledger, 0));
    assert_int_equal(ledger_closed(&ledger), LEDGER_WAIT);
    assert_true(ledger_take_idle(&ledger, 1));
    assert_int_equal(ledger_return(&ledger, 1).kind, GRANT_CLOSE);
    assert_int_equal(ledger_closed(&ledger), LEDGER_WAIT);
    assert_int_equal(ledger_look(&ledger).total, 0);
    assert_true(ledger_pause(&ledger, false));
    assert_int_equal(ledger_want_dial(&ledger), LEDGER_DIAL);
    assert_ptr_equal(arrive(&ledger, 0).waiter, &one);
    assert_int_equal(ledger_return(&ledger, 1).kind, GRANT_OWN);
    ledger_deinit(&ledger);
}

static void *
look(void *arg)
{
    return (void *)(intptr_t)ledger_look(arg).total;
}

static void
test_who_finds_it_locked_is_counted_and_waits(void **state)
{
    uint64_t before = stats_sum(METRIC_ledger_contended_total);
    struct ledger ledger;
    pthread_t thread;

    (void)state;
    ledger_init(&ledger, 1);
    pthread_mutex_lock(&ledger.mutex);
    assert_int_equal(pthread_create(&thread, NULL, look, &ledger), 0);
    while (stats_sum(METRIC_ledger_contended_total) == before) {
        sched_yield();
    }
    pthread_mutex_unlock(&ledger.mutex);
    pthread_join(thread, NULL);
    assert_int_equal(ledger.contended, 1);
    assert_int_equal(stats_sum(METRIC_ledger_contended_total), before + 1);
    ledger_deinit(&ledger);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dials_up_to_the_limit_and_serves_in_order_of_arrival),
        cmocka_unit_test(test_idle_backend_of_another_worker_is_asked_for_once),
        cmocka_unit_test(test_backend_changes_threads_only_for_who_waits_clearly_longer),
        cmocka_unit_test(test_waiter_that_leaves_is_passed_over),
        cmocka_unit_test(test_failed_dial_is_tried_again_unless_barred),
        cmocka_unit_test(test_reserve_is_for_those_who_waited_long),
        cmocka_unit_test(test_quota_is_shared_by_pools),
        cmocka_unit_test(test_bar_has_an_end_and_lets_one_dial_through),
        cmocka_unit_test(test_endpoint_has_the_last_word_and_a_denied_dial_costs_no_quota),
        cmocka_unit_test(test_dials_in_progress_follow_their_pool_to_another_endpoint),
        cmocka_unit_test(test_waiters_queue_behind_backends_that_are_checked),
        cmocka_unit_test(test_waiter_whose_grant_was_spoilt_gets_its_old_place),
        cmocka_unit_test(test_check_that_takes_long_is_not_counted_on),
        cmocka_unit_test(test_paused_ledger_grants_and_dials_nothing_and_keeps_the_queue),
        cmocka_unit_test(test_threads_never_hold_more_than_the_limit_nor_lose_a_grant),
        cmocka_unit_test(test_who_finds_it_locked_is_counted_and_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
