/* The byte ring against a hostile other side, which writes anything anywhere into the shared memory.
 *
 *     fuzz_byte_ring alone|race ROUNDS [SEED]
 *
 *     alone     garbage is written between the calls, random and such as is nearly right
 *     race      and another thread writes more of it during the calls; not for ThreadSanitizer
 *
 * Pages that nobody may touch lie on both sides of the buffer.  Whatever is written, each call returns, what it returns
 * lies inside of the buffer, and what the side keeps for itself stays sound.
 */
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "byte_ring.h"
#include "check.h"

enum { CALLS = 50, OUTCOMES = 6 };

static uint64_t capacity;
static byte_ring *ring;
static unsigned char *bytes;
static byte_ring_end victim;
/* Where the victim is, as the other side guesses. */
static _Atomic(uint64_t) whereabouts;
static _Atomic(bool) over;
/* How often each outcome was seen, by its number less BYTE_RING_CORRUPT. */
static size_t outcomes[OUTCOMES];
/* What the payloads of all records come to; it makes sure that they are read. */
static volatile unsigned sum;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 8;
}

static uint32_t pick(uint64_t *state, uint64_t below)
{
    return (uint32_t)(next_random(state) % below);
}

/* ---- the hostile side ---- */

static uint64_t nasty_word(uint64_t *state)
{
    uint64_t near = atomic_load_explicit(&whereabouts, memory_order_relaxed);
    uint64_t flags = pick(state, 4) ? 0 : pick(state, 8);
    switch (pick(state, 8)) {
    case 0:
        return next_random(state) << 8 ^ next_random(state);
    case 1:
        return near + capacity + 8 * pick(state, 3) - 8;
    case 2:
        return near - capacity;
    case 3:
        return near - 8 * pick(state, 3);
    case 4:
        return near | flags;
    default:
        return (near + 8 * pick(state, capacity / 8 + 1)) | flags;
    }
}

static uint64_t nasty_header(uint64_t *state, uint64_t offset)
{
    uint64_t to_end = capacity - offset, word;
    const uint64_t lengths[] = {0, 1, 8, to_end - 8, to_end - 7, to_end, to_end + 8, capacity / 2 - 8, capacity - 8,
                                capacity, UINT32_MAX, UINT32_MAX - 7, UINT32_MAX - 8, next_random(state),
                                pick(state, 64), pick(state, 64), pick(state, 64), pick(state, capacity)};
    byte_ring_record record = {.length = (uint32_t)lengths[pick(state, sizeof lengths / sizeof *lengths)],
                               .kind = (uint8_t)(pick(state, 2) ? pick(state, 2) : pick(state, 256))};
    memcpy(&word, &record, sizeof word);
    return word;
}

static void write_header(uint64_t *state, uint64_t offset)
{
    atomic_store_explicit((_Atomic(uint64_t) *)(void *)(bytes + offset), nasty_header(state, offset),
                          memory_order_relaxed);
}

static void disturb(uint64_t *state)
{
    uint64_t here = atomic_load_explicit(&whereabouts, memory_order_relaxed) & (capacity - 1);
    switch (pick(state, 10)) {
    case 0:
    case 1:
        atomic_store_explicit(&ring->tail, nasty_word(state), memory_order_relaxed);
        break;
    case 2:
        atomic_store_explicit(&ring->head, nasty_word(state), memory_order_relaxed);
        break;
    case 3:
        atomic_store_explicit(&ring->published, nasty_word(state), memory_order_relaxed);
        atomic_store_explicit(&ring->taken, nasty_word(state), memory_order_relaxed);
        break;
    case 4:
        write_header(state, 8 * pick(state, capacity / 8));
        break;
    case 5:
        for (uint64_t offset = 0; offset < capacity; offset += 8)
            write_header(state, offset);
        break;
    default:
        write_header(state, here);
        break;
    }
}

/* What gains most from a header that is read twice: one that is right, one that is not, in turn. */
static void *race(void *argument)
{
    uint64_t state = *(uint64_t *)argument;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        if (pick(&state, 4) == 0)
            disturb(&state);
        for (int i = 0; i < 20; i++) {
            uint64_t near = atomic_load_explicit(&whereabouts, memory_order_relaxed);
            if (pick(&state, 8) == 0)
                atomic_store_explicit(&ring->tail, near + capacity / 2, memory_order_relaxed);
            write_header(&state, near & (capacity - 1));
        }
    }
    return NULL;
}

/* ---- the victim ---- */

static int note(int outcome)
{
    CHECK(outcome >= BYTE_RING_CORRUPT && outcome <= BYTE_RING_BELL);
    outcomes[outcome - BYTE_RING_CORRUPT]++;
    return outcome;
}

static void check_inside(const unsigned char *begin, uint32_t length)
{
    CHECK(begin >= bytes + sizeof(byte_ring_record) && begin <= bytes + capacity);
    CHECK(length <= (size_t)(bytes + capacity - begin));
}

static void consumers_call(uint64_t *state)
{
    byte_ring_record record;
    const unsigned char *payload;
    int found;
    switch (pick(state, 7)) {
    case 0:
        found = note(byte_ring_release(&victim, pick(state, 3)));
        CHECK(found == BYTE_RING_OK || found == BYTE_RING_BELL);
        break;
    case 1:
        found = note(byte_ring_arm_consumer(&victim));
        CHECK(found == BYTE_RING_OK || found == BYTE_RING_FULL || found == BYTE_RING_SHUT);
        break;
    case 2:
        CHECK(byte_ring_waiting(&victim) <= capacity / sizeof record);
        break;
    case 3:
        if (!pick(state, 20))
            CHECK(note(byte_ring_close_consumer(&victim)) >= 0);
        break;
    default:
        found = note(byte_ring_peek(&victim, &record, &payload));
        CHECK(found == BYTE_RING_OK || found == BYTE_RING_EMPTY || found == BYTE_RING_SHUT || found == BYTE_RING_CORRUPT);
        if (found != BYTE_RING_OK)
            break;
        CHECK(record.kind != BYTE_RING_PADDING);
        check_inside(payload, record.length);
        CHECK(byte_ring_size(record.length) <= victim.seen - victim.position);
        for (uint32_t i = 0; i < record.length; i++)
            sum += payload[i];
        byte_ring_skip(&victim, &record);
        break;
    }
    uint64_t released = victim.shared & BYTE_RING_POSITION;
    CHECK(victim.position % 8 == 0 && victim.seen % 8 == 0);
    CHECK(victim.seen - released <= capacity && victim.position - released <= victim.seen - released);
}

static void producers_call(uint64_t *state)
{
    void *room;
    int found;
    uint32_t length = pick(state, 3) ? pick(state, 64) : pick(state, byte_ring_longest(&victim) + 1);
    switch (pick(state, 8)) {
    case 0:
        found = note(byte_ring_publish(&victim, pick(state, 3)));
        CHECK(found == BYTE_RING_OK || found == BYTE_RING_BELL);
        break;
    case 1:
        byte_ring_arm_producer(&victim);
        break;
    case 2:
        CHECK(byte_ring_room(&victim, length) <= byte_ring_longest(&victim));
        CHECK(byte_ring_waiting(&victim) <= capacity / sizeof(byte_ring_record));
        break;
    case 3:
        byte_ring_consumer_closed(&victim);
        break;
    case 4:
        if (!pick(state, 20))
            CHECK(note(byte_ring_close_producer(&victim)) >= 0);
        break;
    default:
        found = note(byte_ring_reserve(&victim, length, &room));
        CHECK(found == BYTE_RING_OK || found == BYTE_RING_FULL || found == BYTE_RING_CORRUPT);
        if (found != BYTE_RING_OK)
            break;
        check_inside(room, length);
        CHECK(byte_ring_size(length) <= byte_ring_free(&victim));
        memset(room, (int)length, length);
        if (pick(state, 4))
            byte_ring_commit(&victim, length, BYTE_RING_WHOLE, 0, 0);
        break;
    }
    uint64_t published = victim.shared & BYTE_RING_POSITION;
    CHECK(victim.position % 8 == 0 && victim.seen % 8 == 0);
    CHECK(victim.position - victim.seen <= capacity && published - victim.seen <= victim.position - victim.seen);
}

static void round_of(uint64_t *state, bool (*attach)(byte_ring_end *, byte_ring *, void *, uint64_t),
                     void (*call)(uint64_t *))
{
    uint64_t start = (next_random(state) << 3) - (pick(state, 2) ? 0 : (uint64_t)1 << 40);
    atomic_store(&whereabouts, start);
    atomic_store(&ring->head, start);
    atomic_store(&ring->tail, start + 8 * pick(state, capacity / 8 + 1));
    for (int garbage = (int)pick(state, 4); garbage > 0; garbage--)
        disturb(state);
    if (!attach(&victim, ring, bytes, capacity))
        return;
    for (int i = 0; i < CALLS; i++) {
        if (pick(state, 2))
            disturb(state);
        call(state);
        atomic_store_explicit(&whereabouts, victim.position, memory_order_relaxed);
    }
}

static void map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    capacity = page < BYTE_RING_LEAST_CAPACITY ? BYTE_RING_LEAST_CAPACITY : page;
    unsigned char *all = mmap(NULL, capacity + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED);
    bytes = all + page;
    CHECK(mprotect(bytes, capacity, PROT_READ | PROT_WRITE) == 0);
    ring = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(ring != MAP_FAILED);
}

int main(int argc, char **argv)
{
    pthread_t racer;
    if (argc < 3 || (strcmp(argv[1], "alone") && strcmp(argv[1], "race"))) {
        fprintf(stderr, "usage: %s alone|race ROUNDS [SEED]\n", argv[0]);
        return 2;
    }
    bool racing = !strcmp(argv[1], "race");
    uint64_t rounds = strtoull(argv[2], NULL, 10);
    uint64_t state = argc > 3 ? strtoull(argv[3], NULL, 10) | 1 : 1, racers_state = state ^ (uint64_t)1 << 40;
    map();
    if (racing)
        CHECK(pthread_create(&racer, NULL, race, &racers_state) == 0);
    for (uint64_t n = 0; n < rounds; n++) {
        /* The watchdog. */
        if (n % 256 == 0)
            alarm(30);
        round_of(&state, byte_ring_attach_consumer, consumers_call);
        round_of(&state, byte_ring_attach_producer, producers_call);
    }
    atomic_store(&over, true);
    if (racing)
        CHECK(pthread_join(racer, NULL) == 0);
    for (int i = 0; i < OUTCOMES; i++)
        CHECK(outcomes[i] > 0);
    return 0;
}
