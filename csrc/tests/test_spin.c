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

static channel *shared;

/* Spins in vain; 0 where the thread would not, else the looks that it took. */
static unsigned looks_in_vain(int64_t deadline)
{
    unsigned looks = 0;
    spin s;
    if (spin_begin(&s, &shared, 0, deadline))
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

static int64_t first_look_after(const void *where, size_t done)
{
    spin s;
    int64_t begin = parker_now();
    CHECK(spin_begin(&s, where, done, begin));
    return parker_now() - begin;
}

/* Of several tries the shortest, for a thread may lose its processor. */
static void *in_a_stream_the_first_look_comes_later_and_later(void *unused)
{
    int64_t plain = INT64_MAX, streaming = INT64_MAX, after = INT64_MAX;
    int one, other;
    for (int i = 0; i < 20; i++) {
        size_t done = 0;
        int64_t took = first_look_after(&one, done);
        plain = took < plain ? took : plain;
        for (int j = 0; j < 10; j++)
            took = first_look_after(&one, done += 1000000);
        streaming = took < streaming ? took : streaming;
        /* One message at a time is no stream, and neither is another queue. */
        for (int j = 0; j < 10; j++)
            took = j % 2 ? first_look_after(&one, ++done) : first_look_after(&other, done += 1000000);
        after = took < after ? took : after;
    }
    CHECK(streaming > 10 * plain && streaming > 10 * after);
    return unused;
}


static _Atomic(int) round_number;

/* In each round, once the other thread is about to look. */
static void *push_and_make_room(void *unused)
{
    for (int seen = 0;;) {
        int now = atomic_load(&round_number);
        if (now < 0)
            return unused;
        if (now == seen) {
            sched_yield();
            continue;
        }
        CHECK(ring_push(&shared->side[0].inbox, &shared) >= 0);
        ring_return_room(&shared->side[1].inbox, 1);
        seen = now;
    }
}

static void *it_sees_what_another_thread_brings(void *unused)
{
    pthread_t other;
    ring *messages, *room;
    shared = channel_new(1, false);
    messages = &shared->side[0].inbox;
    room = &shared->side[1].inbox;
    CHECK(pthread_create(&other, NULL, push_and_make_room, NULL) == 0);
    /* On a busy machine the other thread is often not there in time. */
    int64_t patience_ends = parker_now() + (int64_t)20 * 1000000000;
    for (int i = 1, seen = 0; seen < 3; i++) {
        CHECK(parker_now() < patience_ends);
        CHECK(ring_reserve(room, 1) == 1);
        uintptr_t tail = ring_tail(messages);
        spin_paid();
        atomic_store(&round_number, i);
        bool message_came = endpoint_spin_for_message(&shared->side[0], tail, 0, INT64_MAX);
        spin_paid();
        bool room_came = endpoint_spin_for_room(&shared->side[1], 0, INT64_MAX);
        CHECK(!message_came || ring_length(messages) == 1);
        CHECK(!room_came || ring_has_room(room));
        seen += message_came && room_came;
        bool shut;
        while (!ring_pop(messages, &shut))
            sched_yield();
        while (!ring_has_room(room))
            sched_yield();
    }
    atomic_store(&round_number, -1);
    CHECK(pthread_join(other, NULL) == 0);
    channel_decref(shared);
    channel_decref(shared);
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
    in_a_new_thread(in_a_stream_the_first_look_comes_later_and_later);
    in_a_new_thread(it_sees_what_another_thread_brings);
    return 0;
}
