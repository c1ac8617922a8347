/* base/state: a broken invariant ends the whole process, whichever thread met it. */
#include "base/state.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void *
break_it(void *arg)
{
    sigset_t all;

    /* As helper threads do (base/helpers.c). */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    ensure(arg != NULL);
    return arg;
}

static void
test_thread_that_breaks_an_invariant_ends_the_process(void **state)
{
    int status = 0;
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        pthread_t thread;
        alarm(10);
        close(STDERR_FILENO);
        pthread_create(&thread, NULL, break_it, NULL);
        for (;;) {
            pause();
        }
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thread_that_breaks_an_invariant_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
