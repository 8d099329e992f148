#include "byte_ring.h"

_Static_assert(offsetof(byte_ring, head) == 64, "each side has a cache line of its own");

/* ---- both sides ---- */

static bool attach(byte_ring_end *e, byte_ring *ring, void *bytes, uint64_t capacity, uint64_t tail, uint64_t head)
{
    uint64_t filled = (tail & BYTE_RING_POSITION) - (head & BYTE_RING_POSITION);
    if (capacity < BYTE_RING_LEAST_CAPACITY || capacity > BYTE_RING_MOST_CAPACITY || (capacity & (capacity - 1))
        || ((tail | head) & BYTE_RING_UNUSED) || filled > capacity)
        return false;
    *e = (byte_ring_end){.ring = ring, .bytes = bytes, .capacity = capacity};
    return true;
}

bool byte_ring_attach_producer(byte_ring_end *e, byte_ring *ring, void *bytes, uint64_t capacity)
{
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    if (!attach(e, ring, bytes, capacity, tail, head))
        return false;
    e->position = tail & BYTE_RING_POSITION;
    e->shared = tail & ~BYTE_RING_SLEEPS;
    e->seen = head & BYTE_RING_POSITION;
    return true;
}

bool byte_ring_attach_consumer(byte_ring_end *e, byte_ring *ring, void *bytes, uint64_t capacity)
{
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (!attach(e, ring, bytes, capacity, tail, head))
        return false;
    e->position = head & BYTE_RING_POSITION;
    e->shared = head & ~BYTE_RING_SLEEPS;
    /* As if nothing were known of: the first peek looks at the tail, and acquires. */
    e->seen = e->position;
    return true;
}

/* Messages that wait in `bytes` bytes; a header each is the least that they take, whatever the counters say. */
static uint64_t messages_in(const byte_ring *ring, uint64_t bytes)
{
    uint64_t n = atomic_load_explicit(&ring->published, memory_order_relaxed)
                 - atomic_load_explicit(&ring->taken, memory_order_relaxed);
    uint64_t most = bytes / sizeof(byte_ring_record);
    return n < most ? n : most;
}

uint64_t byte_ring_waiting(const byte_ring_end *e)
{
    /* Acquire: the counters are not behind the positions. */
    uint64_t head = atomic_load_explicit(&e->ring->head, memory_order_acquire) & BYTE_RING_POSITION;
    uint64_t tail = atomic_load_explicit(&e->ring->tail, memory_order_acquire) & BYTE_RING_POSITION;
    return messages_in(e->ring, tail - head < e->capacity ? tail - head : e->capacity);
}

/* ---- producer ---- */

int byte_ring_look_at_head(byte_ring_end *e)
{
    uint64_t head = atomic_load_explicit(&e->ring->head, memory_order_acquire);
    uint64_t tail = e->shared & BYTE_RING_POSITION;
    /* From where it was to what is published. */
    if ((head & BYTE_RING_UNUSED) || tail - (head & BYTE_RING_POSITION) > tail - e->seen)
        return BYTE_RING_CORRUPT;
    e->seen = head & BYTE_RING_POSITION;
    return BYTE_RING_OK;
}

/* The longest record that fits into what is known to be free, before the end of the buffer or behind it. */
static uint32_t known_room(const byte_ring_end *e)
{
    uint64_t free_bytes = byte_ring_free(e), to_end = e->capacity - byte_ring_offset(e);
    uint64_t before = free_bytes < to_end ? free_bytes : to_end, behind = free_bytes - before;
    uint64_t size = before > behind ? before : behind, longest = byte_ring_longest(e);
    if (size < sizeof(byte_ring_record))
        return 0;
    size -= sizeof(byte_ring_record);
    return (uint32_t)(size < longest ? size : longest);
}

uint32_t byte_ring_room(byte_ring_end *e, uint32_t wanted)
{
    uint32_t room = known_room(e);
    if (room >= wanted || byte_ring_look_at_head(e) < 0)
        return room;
    return known_room(e);
}

bool byte_ring_arm_producer(byte_ring_end *e)
{
    uint64_t head = e->seen;
    /* Whether the head is still the one that was too far back is about this word alone, and byte_ring_reserve looks at it
       again. Acquire: who waits for messages to be taken looks at `taken` next, which may have grown without the head. */
    bool armed = atomic_compare_exchange_strong_explicit(&e->ring->head, &head, head | BYTE_RING_SLEEPS,
                                                         memory_order_acquire, memory_order_relaxed);
    BYTE_RING_STEP(HEAD_ARMED);
    return armed || head == (e->seen | BYTE_RING_SLEEPS);
}

int byte_ring_close_producer(byte_ring_end *e)
{
    e->shared |= BYTE_RING_CLOSED;
    int outcome = byte_ring_store(&e->ring->tail, e->shared);
    BYTE_RING_STEP(TAIL);
    return outcome;
}

/* ---- consumer ---- */

int byte_ring_look_at_tail(byte_ring_end *e)
{
    uint64_t tail = atomic_load_explicit(&e->ring->tail, memory_order_acquire);
    uint64_t filled = (tail & BYTE_RING_POSITION) - e->position;
    /* Up to what was released a whole capacity ago. */
    if ((tail & BYTE_RING_UNUSED) || filled > e->capacity - (e->position - (e->shared & BYTE_RING_POSITION)))
        return BYTE_RING_CORRUPT;
    if (!filled)
        return (tail & BYTE_RING_CLOSED) ? BYTE_RING_SHUT : BYTE_RING_EMPTY;
    e->seen = tail & BYTE_RING_POSITION;
    uint64_t waiting = messages_in(e->ring, filled);
    if (waiting > atomic_load_explicit(&e->ring->peak, memory_order_relaxed)) {
        atomic_store_explicit(&e->ring->peak, waiting, memory_order_relaxed);
        BYTE_RING_STEP(PEAK);
    }
    return BYTE_RING_OK;
}

int byte_ring_arm_consumer(byte_ring_end *e)
{
    uint64_t tail = e->position;
    /* Relaxed, both ways: whether there is nothing is about this word alone, and byte_ring_peek looks at it again. */
    bool armed = atomic_compare_exchange_strong_explicit(&e->ring->tail, &tail, tail | BYTE_RING_SLEEPS,
                                                         memory_order_relaxed, memory_order_relaxed);
    BYTE_RING_STEP(TAIL_ARMED);
    if (armed || tail == (e->position | BYTE_RING_SLEEPS))
        return BYTE_RING_OK;
    return (tail & ~BYTE_RING_SLEEPS) == (e->position | BYTE_RING_CLOSED) ? BYTE_RING_SHUT : BYTE_RING_FULL;
}

int byte_ring_close_consumer(byte_ring_end *e)
{
    e->shared |= BYTE_RING_CLOSED;
    int outcome = byte_ring_store(&e->ring->head, e->shared);
    BYTE_RING_STEP(HEAD);
    return outcome;
}
