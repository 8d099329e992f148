/* Spinning: how long, when it pays, when a thread gives it up. */
#ifdef __linux__
#define _GNU_SOURCE /* sched_setaffinity, CPU_SET */
#endif

#include "spin.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel.h"
#include "check.h"
#include "parker.h"

/* Spins in vain; 0 where the thread would not, else the looks that it took. */
static unsigned looks_in_vain(int64_t deadline)
{
    unsigned looks = 0;
    spin s;
    if (spin_begin(&s, deadline))
        do
            looks++;
        while (spin_on(&s));
    return looks;
}

/* What a thread remembers of its spins is its own: each case begins in a new one. */
static void in_a_new_thread(void *(*run)(void *))
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

static void *a_deadline_in_the_past_ends_it_at_once(void *unused)
{
    CHECK(looks_in_vain(parker_now() - 1) == 1);
    return unused;
}

static void *it_ends_without_a_deadline(void *unused)
{
    CHECK(looks_in_vain(INT64_MAX) > 1);
    return unused;
}

static void *spins_in_vain_are_given_up_but_for_a_try_now_and_then(void *unused)
{
    unsigned in_a_row = 0, pauses = 0;
    while (looks_in_vain(INT64_MAX))
        in_a_row++;
    CHECK(in_a_row > 1);
    while (!looks_in_vain(INT64_MAX))
        pauses++;
    CHECK(pauses > in_a_row);
    return unused;
}

static void *one_that_pays_restores_the_credit(void *unused)
{
    unsigned before = 0, after = 0;
    while (looks_in_vain(INT64_MAX))
        before++;
    CHECK(spin_paid());
    while (looks_in_vain(INT64_MAX))
        after++;
    CHECK(after == before);
    return unused;
}

static channel *shared;

static void *push_and_make_room(void *unused)
{
    CHECK(ring_push(&shared->side[0].inbox, &shared) >= 0);
    ring_return_room(&shared->side[1].inbox, 1);
    return unused;
}

static void *it_sees_what_another_thread_brings(void *unused)
{
    /* Now and then the other thread is not there in time. */
    for (int attempts = 0, seen = 0; seen < 3; attempts++) {
        CHECK(attempts < 1000);
        shared = channel_new(1, false);
        CHECK(ring_reserve(&shared->side[1].inbox, 1) == 1);
        uintptr_t tail = ring_tail(&shared->side[0].inbox);
        pthread_t other;
        CHECK(pthread_create(&other, NULL, push_and_make_room, NULL) == 0);
        bool message = endpoint_spin_for_message(&shared->side[0], tail, INT64_MAX);
        bool room = endpoint_spin_for_room(&shared->side[1], INT64_MAX);
        CHECK(pthread_join(other, NULL) == 0);
        CHECK(!message || ring_length(&shared->side[0].inbox) == 1);
        CHECK(!room || ring_has_room(&shared->side[1].inbox));
        seen += message && room;
        if (!message || !room)
            spin_paid();
        bool shut;
        CHECK(ring_pop(&shared->side[0].inbox, &shut) == &shared);
        channel_decref(shared);
        channel_decref(shared);
    }
    return unused;
}

#ifdef __linux__
/* In a process of its own: the number of processors is looked up once. */
static void nobody_spins_on_one_processor(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        cpu_set_t allowed, one;
        sched_getaffinity(0, sizeof allowed, &allowed);
        CPU_ZERO(&one);
        for (size_t processor = 0; processor < CPU_SETSIZE; processor++)
            if (CPU_ISSET(processor, &allowed) && CPU_COUNT(&one) == 0)
                CPU_SET(processor, &one);
        sched_setaffinity(0, sizeof one, &one);
        _exit(looks_in_vain(INT64_MAX) == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

int main(void)
{
#ifdef __linux__
    nobody_spins_on_one_processor();
#endif
    if (sysconf(_SC_NPROCESSORS_ONLN) == 1)
        return 0;
    in_a_new_thread(a_deadline_in_the_past_ends_it_at_once);
    in_a_new_thread(it_ends_without_a_deadline);
    in_a_new_thread(spins_in_vain_are_given_up_but_for_a_try_now_and_then);
    in_a_new_thread(one_that_pays_restores_the_credit);
    in_a_new_thread(it_sees_what_another_thread_brings);
    return 0;
}
