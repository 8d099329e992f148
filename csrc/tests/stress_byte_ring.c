/* The byte ring between two processes or threads: every record once, in order, byte by byte, and no wake-up lost.
 *
 *     stress_byte_ring processes|threads SCENARIO CAPACITY LENGTH BATCH COUNT
 *
 *     stream    COUNT records one way
 *     echo      COUNT records there and back, on two rings whose bells share a socket
 *     close     COUNT rounds, each on a new ring: the consumer closes in the middle of a stream
 *
 * Records have up to LENGTH bytes, and up to BATCH at a time are published and released.  Each side sleeps as soon as there
 * is nothing for it to do, by the protocol of the arm calls: a lost wake-up hangs, and the watchdog ends that.
 */
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

#include "byte_ring_peer.h"

typedef struct side {
    byte_ring_end out, in;
    int socket;
    uint64_t random;
    uint64_t slept;
} side;

static uint64_t capacity, count;
static uint32_t longest;
static uint32_t batch;
static side first, second;

/* 30 seconds without a call, and SIGALRM ends the process. */
static void show_progress(void)
{
    alarm(30);
}

static uint32_t pick(side *me, uint32_t below)
{
    me->random++;
    return (uint32_t)(peer_mix(me->random) >> 32) % below;
}

static void nap(side *me)
{
    nanosleep(&(struct timespec){.tv_nsec = pick(me, 50000)}, NULL);
}

static void sleep_until_bell(side *me)
{
    me->slept++;
    CHECK(peer_sleep(me->socket));
}

/* ---- one side's part ---- */

/* False: the consumer closed. */
static bool wait_for_room(side *me)
{
    if (byte_ring_arm_producer(&me->out))
        sleep_until_bell(me);
    return !byte_ring_consumer_closed(&me->out);
}

/* Commits record n.  *unpublished records are committed already, and are published if it has to wait. */
static bool write_record(side *me, uint64_t n, uint64_t *unpublished)
{
    uint32_t length = peer_length(n, longest);
    uint32_t more = length + (pick(me, 8) ? 0 : pick(me, longest - length + 1));
    void *room;
    int found;
    if (!pick(me, 16))
        byte_ring_reserve(&me->out, pick(me, longest + 1), &room); /* and abandon it */
    while ((found = byte_ring_reserve(&me->out, more, &room)) == BYTE_RING_FULL) {
        peer_ring(me->socket, byte_ring_publish(&me->out, *unpublished));
        *unpublished = 0;
        if (!wait_for_room(me))
            return false;
    }
    CHECK(found == BYTE_RING_OK);
    for (uint32_t i = 0; i < length; i++)
        ((unsigned char *)room)[i] = peer_byte(n, i);
    peer_commit(&me->out, n, length);
    ++*unpublished;
    return true;
}

/* Now and then waits until all is taken: with a wake-up lost this never happens. */
static void pause_sending(side *me)
{
    if (!pick(me, 16))
        nap(me);
    if (!pick(me, 32))
        while (byte_ring_waiting(&me->out) && !byte_ring_consumer_closed(&me->out))
            sched_yield();
}

/* `most` records, or until the consumer closed. */
static void send_records(side *me, uint64_t most)
{
    uint64_t n = 0, unpublished = 0;
    bool open = true;
    while (open && n < most) {
        for (uint32_t i = 1 + pick(me, batch); open && n < most && i > 0; i--, n++)
            open = write_record(me, n, &unpublished);
        peer_ring(me->socket, byte_ring_publish(&me->out, unpublished));
        unpublished = 0;
        pause_sending(me);
        show_progress();
    }
    peer_ring(me->socket, byte_ring_close_producer(&me->out));
}

/* False: there will be no more records. */
static bool wait_for_record(side *me)
{
    int armed = byte_ring_arm_consumer(&me->in);
    if (armed == BYTE_RING_OK)
        sleep_until_bell(me);
    return armed != BYTE_RING_SHUT;
}

static void take_record(side *me, uint64_t n, const byte_ring_record *record, const unsigned char *payload)
{
    peer_check(n, peer_length(n, longest), record, payload);
    byte_ring_skip(&me->in, record);
    if (!pick(me, 64))
        nap(me);
}

/* Up to `most` records, or to the end.  How many there were. */
static uint64_t receive_records(side *me, uint64_t most)
{
    uint64_t n = 0, unreleased = 0;
    byte_ring_record record;
    const unsigned char *payload;
    for (bool more = true; more && n < most;) {
        int found = byte_ring_peek(&me->in, &record, &payload);
        if (found == BYTE_RING_OK) {
            take_record(me, n++, &record, payload);
            unreleased++;
        }
        if (found != BYTE_RING_OK || unreleased == batch || !pick(me, batch)) {
            peer_ring(me->socket, byte_ring_release(&me->in, unreleased));
            unreleased = 0;
        }
        if (found == BYTE_RING_EMPTY || found == BYTE_RING_SHUT)
            more = wait_for_record(me);
        else
            CHECK(found == BYTE_RING_OK);
        show_progress();
    }
    return n;
}

/* ---- scenarios: what the first side does, and what the second ---- */

static void stream_first(side *me)
{
    send_records(me, count);
    CHECK(me->slept > 0);
}

static void stream_second(side *me)
{
    CHECK(receive_records(me, UINT64_MAX) == count);
    CHECK(atomic_load(&me->in.ring->taken) == count && byte_ring_waiting(&me->in) == 0);
    CHECK(me->slept > 0);
}

static void close_first(side *me)
{
    send_records(me, UINT64_MAX);
}

static void close_second(side *me)
{
    uint64_t most = pick(me, 200);
    CHECK(receive_records(me, most) == most);
    if (pick(me, 2))
        nap(me);
    peer_ring(me->socket, byte_ring_close_consumer(&me->in));
}

/* Both rings' bells wake, whatever the side is waiting for. */
static void echo_first(side *me)
{
    for (uint64_t sent = 0, received = 0; received < count; show_progress()) {
        byte_ring_record record;
        const unsigned char *payload;
        uint64_t unpublished = 0;
        /* Never more than what fits, so that neither waits for room while the other does. */
        for (uint32_t i = pick(me, batch + 1); i > 0 && sent < count && sent - received < batch; i--)
            CHECK(write_record(me, sent++, &unpublished));
        peer_ring(me->socket, byte_ring_publish(&me->out, unpublished));
        while (byte_ring_peek(&me->in, &record, &payload) == BYTE_RING_OK) {
            take_record(me, received++, &record, payload);
            peer_ring(me->socket, byte_ring_release(&me->in, 1));
        }
        if (sent - received == batch || (sent == count && received < count))
            CHECK(wait_for_record(me));
    }
    peer_ring(me->socket, byte_ring_close_producer(&me->out));
}

static void echo_second(side *me)
{
    uint64_t n = 0;
    byte_ring_record record;
    const unsigned char *payload;
    for (bool more = true; more; show_progress()) {
        int found = byte_ring_peek(&me->in, &record, &payload);
        if (found == BYTE_RING_OK) {
            uint64_t unpublished = 0;
            take_record(me, n, &record, payload);
            CHECK(write_record(me, n++, &unpublished));
            peer_ring(me->socket, byte_ring_publish(&me->out, 1));
            peer_ring(me->socket, byte_ring_release(&me->in, 1));
        } else {
            more = wait_for_record(me);
        }
    }
    CHECK(n == count);
}

static const struct scenario {
    const char *name;
    void (*first)(side *me), (*second)(side *me);
} scenarios[] = {{"stream", stream_first, stream_second}, {"echo", echo_first, echo_second},
                 {"close", close_first, close_second}};

/* ---- two processes, two threads ---- */

static void *run_second(void *scenario)
{
    ((const struct scenario *)scenario)->second(&second);
    return NULL;
}

static void in_processes(const struct scenario *s)
{
    pid_t child = fork();
    int status;
    CHECK(child >= 0);
    if (child == 0) {
        close(first.socket);
        show_progress();
        s->second(&second);
        _exit(0);
    }
    close(second.socket);
    s->first(&first);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(first.socket);
}

static void in_threads(const struct scenario *s)
{
    pthread_t id;
    CHECK(pthread_create(&id, NULL, run_second, (void *)s) == 0);
    s->first(&first);
    CHECK(pthread_join(id, NULL) == 0);
    close(first.socket);
    close(second.socket);
}

static void round_of(const struct scenario *s, uint64_t number, void (*run)(const struct scenario *))
{
    byte_ring *there = peer_map(capacity), *back = peer_map(capacity);
    int sockets[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    first = (side){.socket = sockets[0], .random = number << 40};
    second = (side){.socket = sockets[1], .random = number << 40 | (uint64_t)1 << 39};
    CHECK(byte_ring_attach_producer(&first.out, there, there + 1, capacity));
    CHECK(byte_ring_attach_consumer(&first.in, back, back + 1, capacity));
    CHECK(byte_ring_attach_producer(&second.out, back, back + 1, capacity));
    CHECK(byte_ring_attach_consumer(&second.in, there, there + 1, capacity));
    run(s);
    peer_unmap(there, capacity);
    peer_unmap(back, capacity);
}

int main(int argc, char **argv)
{
    const struct scenario *s = scenarios, *end = scenarios + sizeof scenarios / sizeof *scenarios;
    while (argc == 7 && s < end && strcmp(s->name, argv[2]))
        s++;
    if (argc != 7 || s == end) {
        fprintf(stderr, "usage: %s processes|threads stream|echo|close CAPACITY LENGTH BATCH COUNT\n", argv[0]);
        return 2;
    }
    void (*run)(const struct scenario *) = strcmp(argv[1], "threads") ? in_processes : in_threads;
    capacity = strtoull(argv[3], NULL, 10);
    longest = (uint32_t)strtoul(argv[4], NULL, 10);
    batch = (uint32_t)strtoul(argv[5], NULL, 10);
    count = strtoull(argv[6], NULL, 10);
    show_progress();
    for (uint64_t round = 0; round < (s->first == close_first ? count : 1); round++)
        round_of(s, round, run);
    return 0;
}
