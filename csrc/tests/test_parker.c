/* The parker: tokens, deadlines, signals. */
#define _POSIX_C_SOURCE 200809L /* sigaction, pthread_kill */

#include "parker.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

#include "check.h"

#define MILLISECOND 1000000

static void a_token_that_comes_first_is_not_lost(void)
{
    parker p;
    parker_init(&p);
    parker_unpark(&p);
    CHECK(parker_park(&p, INT64_MAX) == PARKER_UNPARKED);
    parker_destroy(&p);
}

static void tokens_do_not_add_up(void)
{
    parker p;
    parker_init(&p);
    parker_unpark(&p);
    parker_unpark(&p);
    CHECK(parker_park(&p, INT64_MAX) == PARKER_UNPARKED);
    CHECK(parker_park(&p, parker_now()) == PARKER_TIMED_OUT);
    parker_destroy(&p);
}

static void a_deadline_in_the_past_returns_at_once(void)
{
    const int64_t past[] = {parker_now() - 1, 0, -1, -MILLISECOND, INT64_MIN};
    parker p;
    parker_init(&p);
    for (size_t i = 0; i < sizeof past / sizeof *past; i++) {
        CHECK(parker_park(&p, past[i]) == PARKER_TIMED_OUT);
        parker_unpark(&p);
        CHECK(parker_park(&p, past[i]) == PARKER_UNPARKED);
    }
    parker_destroy(&p);
}

static void a_time_out_is_not_early(void)
{
    parker p;
    parker_init(&p);
    for (int64_t wait = 0; wait < 20 * MILLISECOND; wait += 7 * MILLISECOND) {
        int64_t deadline = parker_now() + wait;
        CHECK(parker_park(&p, deadline) == PARKER_TIMED_OUT);
        CHECK(parker_now() >= deadline);
    }
    parker_destroy(&p);
}

typedef struct pair {
    parker ping;
    parker pong;
    int ball; /* plain: who was unparked sees what was done before */
} pair;

enum { RALLIES = 1000 };

static void *answer(void *argument)
{
    pair *two = argument;
    for (int i = 0; i < RALLIES; i++) {
        CHECK(parker_park(&two->ping, INT64_MAX) == PARKER_UNPARKED);
        two->ball++;
        parker_unpark(&two->pong);
    }
    return NULL;
}

static void two_threads_wake_each_other(void)
{
    pair two;
    pthread_t thread;
    parker_init(&two.ping);
    parker_init(&two.pong);
    two.ball = 0;
    CHECK(!pthread_create(&thread, NULL, answer, &two));
    for (int i = 0; i < RALLIES; i++) {
        two.ball++;
        parker_unpark(&two.ping);
        CHECK(parker_park(&two.pong, INT64_MAX) == PARKER_UNPARKED);
        CHECK(two.ball == 2 * (i + 1));
    }
    CHECK(!pthread_join(thread, NULL));
    parker_destroy(&two.ping);
    parker_destroy(&two.pong);
}

#if PARKER_FUTEX

static _Atomic(bool) interrupted;

static void ignore(int number)
{
    (void)number;
}

static void *park_until_interrupted(void *argument)
{
    CHECK(parker_park(argument, INT64_MAX) == PARKER_INTERRUPTED);
    interrupted = true;
    return NULL;
}

static void a_signal_ends_a_park(void)
{
    parker p;
    pthread_t thread;
    struct sigaction action = {.sa_handler = ignore};
    CHECK(!sigaction(SIGUSR1, &action, NULL));
    parker_init(&p);
    CHECK(!pthread_create(&thread, NULL, park_until_interrupted, &p));
    /* Again and again: a signal that comes before the thread sleeps is gone. */
    while (!interrupted) {
        CHECK(!pthread_kill(thread, SIGUSR1));
        sched_yield();
    }
    CHECK(!pthread_join(thread, NULL));
    parker_destroy(&p);
}

#endif

int main(void)
{
    /* The watchdog: SIGALRM ends a test that hangs, and a test that a signal ended has failed. */
    alarm(10);
    a_token_that_comes_first_is_not_lost();
    tokens_do_not_add_up();
    a_deadline_in_the_past_returns_at_once();
    a_time_out_is_not_early();
    two_threads_wake_each_other();
#if PARKER_FUTEX
    a_signal_ends_a_park();
#endif
    return 0;
}
