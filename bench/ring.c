/* The ring alone, without Python: what no message can be faster than.
 *
 *     ring stream|batches|ping_pong MESSAGES
 *
 * Two threads, each on a processor of its own, neither of which ever sleeps.  Prints nanoseconds: a message, or a round
 * trip.
 */
#ifdef __linux__
#define _GNU_SOURCE /* sched_setaffinity */
#endif

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parker.h"
#include "pause.h"
#include "pin.h"
#include "ring.h"

enum { BATCH = 256 };

static ring there, back;
static size_t messages;

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* Message i is the number i + 1. */
static void *message(size_t i)
{
    return (void *)(uintptr_t)(i + 1);
}

static void push(ring *r, size_t i)
{
    if (ring_push(r, message(i)) < 0)
        fail("a push failed");
}

static void expect(ring *r, size_t i)
{
    bool shut;
    void *item;
    /* As long as the library's threads wait at first (csrc/spin.c). */
    while (!(item = ring_pop(r, &shut)))
        for (int pauses = 0; pauses < 8; pauses++)
            pause_processor();
    if (item != message(i))
        fail("out of order");
}

static void stream(void)
{
    for (size_t i = 0; i < messages; i++)
        push(&there, i);
}

static void receive_stream(void)
{
    for (size_t i = 0; i < messages; i++)
        expect(&there, i);
}

static void batches(void)
{
    void *items[BATCH];
    int outcome;
    for (size_t done = 0; done < messages; done += BATCH) {
        for (size_t i = 0; i < BATCH; i++)
            items[i] = message(done + i);
        if (ring_push_many(&there, items, BATCH, &outcome) < BATCH)
            fail("a push failed");
    }
}

static void receive_batches(void)
{
    void *items[BATCH];
    unsigned spins = 0;
    for (size_t done = 0; done < messages;) {
        size_t n = ring_pop_many(&there, items, BATCH);
        if (!n)
            pause_backoff(&spins);
        else if (items[n - 1] != message(done + n - 1))
            fail("out of order");
        done += n;
    }
}

static void ping(void)
{
    for (size_t i = 0; i < messages; i++) {
        push(&there, i);
        expect(&back, i);
    }
}

static void pong(void)
{
    for (size_t i = 0; i < messages; i++) {
        expect(&there, i);
        push(&back, i);
    }
}

static const struct figure {
    const char *name;
    void (*first)(void), (*second)(void);
} figures[] = {{"stream", stream, receive_stream}, {"batches", batches, receive_batches}, {"ping_pong", ping, pong}};

static const struct figure *chosen = figures;
static _Atomic(int) ready;

static void meet(void)
{
    unsigned spins = 0;
    atomic_fetch_add(&ready, 1);
    while (atomic_load(&ready) < 2)
        pause_backoff(&spins);
}

static void *run_second(void *unused)
{
    pin_to_processor(1);
    meet();
    chosen->second();
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t second;
    while (argc == 3 && chosen < figures + 3 && strcmp(chosen->name, argv[1]))
        chosen++;
    if (argc != 3 || chosen == figures + 3) {
        fprintf(stderr, "usage: %s stream|batches|ping_pong MESSAGES\n", argv[0]);
        return 2;
    }
    messages = strtoul(argv[2], NULL, 10) / BATCH * BATCH;
    ring_init(&there, 0);
    ring_init(&back, 0);
    if (!messages || pthread_create(&second, NULL, run_second, NULL))
        fail("can't start");
    pin_to_processor(0);
    meet();
    int64_t begin = parker_now();
    chosen->first();
    pthread_join(second, NULL);
    printf("%.2f\n", (double)(parker_now() - begin) / (double)messages);
    ring_destroy(&there);
    ring_destroy(&back);
    return 0;
}
