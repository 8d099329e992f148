/* The byte ring alone, without Python: what no message to another process can be faster than.
 *
 *     byte_ring stream|batches|ping_pong LENGTH MESSAGES
 *
 * Two processes, each on a processor of its own, neither of which ever sleeps.  Each message is copied in and out.  Prints
 * nanoseconds: a message, or a round trip.
 */
#ifdef __linux__
#define _GNU_SOURCE /* sched_setaffinity */
#else
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#endif

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "byte_ring.h"
#include "parker.h"
#include "pause.h"
#include "pin.h"

enum { CAPACITY = 1 << 18, BATCH = 64 };

static byte_ring_end out, in;
static uint32_t length;
static size_t messages;
/* Messages that are published at once. */
static size_t batch = 1;
static unsigned char message[CAPACITY];

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* Longer each time, as the library's threads wait (csrc/spin.c): some messages gather meanwhile, and the two fight less over
   each cache line. */
static void wait_a_moment(unsigned *pauses)
{
    for (unsigned i = 0; i <= *pauses; i++)
        pause_processor();
    if (*pauses < 256)
        *pauses = *pauses * 2 + 1;
    else
        sched_yield();
}

/* Message i begins with the number i. */
static void write_message(size_t i)
{
    void *room;
    int found;
    unsigned pauses = 0;
    memcpy(message, &i, sizeof i);
    while ((found = byte_ring_reserve(&out, length, &room)) == BYTE_RING_FULL)
        wait_a_moment(&pauses);
    if (found != BYTE_RING_OK)
        fail("no room");
    memcpy(room, message, length);
    byte_ring_commit(&out, length, BYTE_RING_WHOLE, 0, 0);
}

static void read_message(size_t i)
{
    byte_ring_record record;
    const unsigned char *payload;
    int found;
    unsigned pauses = 0;
    while ((found = byte_ring_peek(&in, &record, &payload)) == BYTE_RING_EMPTY)
        wait_a_moment(&pauses);
    if (found != BYTE_RING_OK || record.length != length)
        fail("no message");
    memcpy(message, payload, length);
    if (memcmp(message, &i, sizeof i))
        fail("out of order");
    byte_ring_skip(&in, &record);
}

static void stream(void)
{
    for (size_t i = 0; i < messages;) {
        for (size_t end = i + batch; i < end; i++)
            write_message(i);
        byte_ring_publish(&out, batch);
    }
}

/* Room is given back by the quarter. */
static void receive_stream(void)
{
    size_t released = 0;
    for (size_t i = 0; i < messages; i++) {
        read_message(i);
        if (in.position - (in.shared & BYTE_RING_POSITION) >= CAPACITY / 4) {
            byte_ring_release(&in, i + 1 - released);
            released = i + 1;
        }
    }
}

static void ping(void)
{
    for (size_t i = 0; i < messages; i++) {
        write_message(i);
        byte_ring_publish(&out, 1);
        read_message(i);
        byte_ring_release(&in, 1);
    }
}

static void pong(void)
{
    for (size_t i = 0; i < messages; i++) {
        read_message(i);
        byte_ring_release(&in, 1);
        write_message(i);
        byte_ring_publish(&out, 1);
    }
}

static const struct figure {
    const char *name;
    void (*first)(void), (*second)(void);
} figures[] = {{"stream", stream, receive_stream}, {"batches", stream, receive_stream}, {"ping_pong", ping, pong}};

/* What the two share. */
static struct memory {
    byte_ring there, back;
    unsigned char there_bytes[CAPACITY], back_bytes[CAPACITY];
    _Atomic(int) ready;
} *shared;

static void attach(byte_ring *outwards, void *outwards_bytes, byte_ring *inwards, void *inwards_bytes)
{
    /* So that no page is met for the first time later. */
    memset(outwards_bytes, 0, CAPACITY);
    memcpy(message, inwards_bytes, CAPACITY);
    if (!byte_ring_attach_producer(&out, outwards, outwards_bytes, CAPACITY)
        || !byte_ring_attach_consumer(&in, inwards, inwards_bytes, CAPACITY))
        fail("can't attach");
}

/* Before the first message, and after the last. */
static void meet(int both)
{
    unsigned spins = 0;
    atomic_fetch_add(&shared->ready, 1);
    while (atomic_load(&shared->ready) < both)
        pause_backoff(&spins);
}

int main(int argc, char **argv)
{
    const struct figure *chosen = figures;
    int status;
    while (argc == 4 && chosen < figures + 3 && strcmp(chosen->name, argv[1]))
        chosen++;
    if (argc != 4 || chosen == figures + 3) {
        fprintf(stderr, "usage: %s stream|batches|ping_pong LENGTH MESSAGES\n", argv[0]);
        return 2;
    }
    if (!strcmp(chosen->name, "batches"))
        batch = BATCH;
    length = (uint32_t)strtoul(argv[2], NULL, 10);
    messages = strtoul(argv[3], NULL, 10) / batch * batch;
    if (length < sizeof(size_t) || length > CAPACITY / 2 - sizeof(byte_ring_record) || !messages)
        fail("a message has from 8 bytes to half the ring, and there is at least one");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail("no memory");
    pid_t second = fork();
    if (second < 0)
        fail("can't start");
    pin_to_processor(second == 0);
    /* Each would wait for the other for ever, did that one fail. */
    alarm(60);
    if (second == 0)
        attach(&shared->back, shared->back_bytes, &shared->there, shared->there_bytes);
    else
        attach(&shared->there, shared->there_bytes, &shared->back, shared->back_bytes);
    meet(2);
    int64_t begin = parker_now();
    if (second == 0)
        chosen->second();
    else
        chosen->first();
    meet(4);
    int64_t end = parker_now();
    if (second == 0)
        _exit(0);
    if (waitpid(second, &status, 0) != second || status)
        fail("the other process failed");
    printf("%.2f\n", (double)(end - begin) / (double)messages);
    return 0;
}
