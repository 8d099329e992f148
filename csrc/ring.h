/* ring: an unbounded or bounded FIFO of non-NULL pointers, for any number of threads on both ends.
 *
 * Algorithm.  A chain of segments, each an array of slots that is written once and read once.  Producers
 * claim a slot by one compare-and-swap on a packed tail word and then publish it by a store; consumers
 * take turns by a one-word token.  It descends from the block list of crossbeam's SegQueue and from the
 * armed head of folly's AtomicNotificationQueue; putting segment, offset and flags into the one word that
 * a producer swaps anyway is what makes closing exact and waiting free of a fence (docs/design.md).
 *
 * Progress.  Pushing is lock-free; it allocates once per RING_SLOTS messages, and not at all while the
 * spare segment suffices.  Popping waits only for another consumer of the same ring.
 *
 * Who may call what, while others call what (+ any thread, 1 one thread and nobody else in any other call):
 *
 *                               push, push_many   pop, pop_many, arm, length   close   announce   init, destroy
 *   ring_push, ring_push_many          +                       +                 +         +            1
 *   ring_pop, ring_pop_many            +          + (take turns by the token)    +         +            1
 *   ring_arm, ring_length, _drained    +          + (take turns by the token)    +         +            1
 *   ring_reserve, ring_return_room     +                       +                 +         +            1
 *   ring_look_through                  +          + (take turns by the token)    +         +            1
 *   ring_close, ring_announce          +                       +                 +         +            1
 *   ring_visit                    nobody may be inside a push or a pop: the caller has stopped the world
 *
 * None of them calls back, so a push from a destructor, a signal handler that runs between two byte codes
 * or a weak reference's callback meets no half-done work of its own thread.
 *
 * Invariants.
 *   I1  tail = (S, k): slots 0..k-1 of S and all slots of all earlier segments are claimed, each by exactly
 *       one producer.  The swaps on tail are totally ordered, hence FIFO per sender.
 *   I2  A segment found in tail is dereferenced by a producer only after its swap has claimed a slot in it.
 *       A slot that is claimed but not yet published pins its segment: no consumer can pass it.
 *   I3  The claimant of a segment's last slot stores `next` before it publishes that slot.  Once the last slot has
 *       been read, no producer touches the segment again, so the consumer that read it may free or recycle it at
 *       once.
 *   I4  Every swap on tail continues the release sequence of the swap that installed the segment, and every
 *       claim acquires: the NULLs of a new or recycled segment are visible before anyone stores into it.
 *   I5  head and offset change only under the token, but for head: NULL -> first segment, by the claimant of
 *       the very first slot.
 *   I6  RING_WAIT is set only while the ring is exactly empty and open; only a claim or a close clears it, and
 *       whoever clears it owes one wake-up.
 *   I7  RING_SHUT is never cleared, and no claim succeeds after it: "closed and drained" is final.
 *   I8  0 <= credits <= capacity when nobody is inside a call; a producer holds the credit of every message
 *       from before its claim until the consumer returns it, so at most `capacity` messages wait.
 */
#ifndef MESSAGECHANNEL_RING_H
#define MESSAGECHANNEL_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 30 slots make a segment of 256 bytes on 64-bit machines.  Tests build with fewer to meet every edge. */
#ifndef RING_SLOTS
#define RING_SLOTS 30u
#endif

#define RING_CACHE_LINE 64
#define RING_SEGMENT_ALIGNMENT 128
#define RING_SHUT ((uintptr_t)64)   /* no push succeeds any more */
#define RING_WAIT ((uintptr_t)32)   /* somebody sleeps: the next push owes a wake-up */
#define RING_OFFSET ((uintptr_t)31) /* slots claimed in the segment */
#define RING_LAST ((uintptr_t)RING_SLOTS - 1)
#define RING_SEGMENT(tail) ((ring_segment *)((tail) & ~(uintptr_t)(RING_SEGMENT_ALIGNMENT - 1)))

_Static_assert(RING_SLOTS >= 2 && RING_LAST < RING_WAIT, "the offset fits below the flags");

/* What a push reports: 0 or a sum of the positive ones, or a negative one and nothing was pushed. */
enum {
    RING_WAKE = 1,       /* somebody sleeps on this ring and is to be woken */
    RING_ANNOUNCE = 2,   /* the owner wants to hear of every message (ring_announce) */
    RING_CLOSED = -1,
    RING_NO_MEMORY = -2,
};

/* What ring_arm finds. */
enum { RING_ARMED = 1, RING_NOT_EMPTY = 0 /* , RING_CLOSED: and drained */ };

#define RING_UNKNOWN SIZE_MAX

typedef struct ring_segment {
    /* Written by the claimant of the last slot (release), read by the consumer that leaves (acquire). */
    _Alignas(RING_SEGMENT_ALIGNMENT) _Atomic(struct ring_segment *) next;
    /* How many messages were pushed before slot 0, or RING_UNKNOWN while nobody has stored it.  Relaxed: whoever
       stores it, producer or consumer, stores the same value. */
    _Atomic(size_t) first;
    /* NULL: not published.  Stored once by the slot's claimant (release), read under the token (acquire). */
    _Atomic(void *) slot[RING_SLOTS];
} ring_segment;

typedef struct ring {
    /* -- the producers' cache line: what each push looks at comes first, so that it shares no line with the consumers'
       even where the ring starts in the middle of one -- */
    /* segment | RING_SHUT | RING_WAIT | offset.  No segment yet: NULL with offset RING_LAST, so that one
       comparison sends the first push, a segment's last slot and a closed ring to the slow path. */
    _Atomic(uintptr_t) tail;
    /* Every push is to be announced.  Stored by the owner, loaded by producers after their claim, both
       sequentially consistent together with the claim: either the producer sees the flag or the owner
       sees the claim (ring_announce). */
    _Atomic(uint32_t) announce;
    /* Whether there is a capacity.  Constant after ring_init, and so is that; 0 is unbounded. */
    uint32_t bounded;
    size_t capacity;
    /* Room left.  Swapped by producers, added to by consumers.  Sequentially consistent, though the lock of the endpoint
       alone keeps a sender that is about to sleep from missing its wake-up (csrc/model). */
    _Atomic(size_t) credits;
    char producers_padding[RING_CACHE_LINE - sizeof(uintptr_t) - 2 * sizeof(size_t) - 2 * sizeof(uint32_t)];
    /* -- the consumers' cache line -- */
    /* Stored under the token, or by the very first push (release, acquire). */
    _Atomic(ring_segment *) head;
    /* Next slot to read in head, and how many slots of head were claimed when a consumer last looked at the tail: each
       look takes the producers' cache line from them.  Under the token. */
    uint8_t offset, known;
    /* As `bounded`, and constant too: here, where a pop may look at it. */
    bool returns_room;
    /* 1 while a consumer is inside (exchange acquire, store release). */
    _Atomic(uint32_t) token;
    /* One empty segment kept for the next producer.  Exchange only, never compare-and-swap: no ABA. */
    _Atomic(ring_segment *) spare;
    /* The most messages that waited at any look at the tail, of which there is at least one a segment.  Under the
       token. */
    size_t peak;
} ring;

void ring_init(ring *r, size_t capacity);
/* Frees the segments; the messages must have been popped. */
void ring_destroy(ring *r);

/* The slow paths and the batch of a push; see ring_push. */
int ring_push_edge(ring *r, void *item, uintptr_t tail);
/* Pushes items[0..n) in order, one claim per segment instead of one per message.  Returns how many went in;
   fewer than n when the ring was closed or memory ran out meanwhile.  *outcome is as ring_push returns. */
size_t ring_push_many(ring *r, void *const *items, size_t n, int *outcome);
/* Takes up to `limit` messages, oldest first.  0: nothing is published at the front. */
size_t ring_pop_many(ring *r, void **items, size_t limit);

/* RING_ARMED: exactly empty, and the next push or close owes a wake-up.  RING_CLOSED: closed and drained.
   RING_NOT_EMPTY: a message is there, or is claimed and will be published within a few instructions. */
int ring_arm(ring *r);
/* Ends pushing, for ever.  True for the one call that did it, whose caller wakes whoever sleeps. */
bool ring_close(ring *r);
/* Asks for RING_ANNOUNCE from every push that this call does not see; returns the number of messages that it
   saw waiting.  A push that races with it may be both announced and counted, never neither. */
size_t ring_announce(ring *r, bool on);
/* Messages waiting: claimed and not yet popped. */
size_t ring_length(ring *r);
/* Messages ever pushed, and ever popped. */
size_t ring_pushed(ring *r);
size_t ring_popped(ring *r);
size_t ring_peak(ring *r);
static inline bool ring_closed(ring *r)
{
    return (atomic_load_explicit(&r->tail, memory_order_seq_cst) & RING_SHUT) != 0;
}
/* Changes with every push and with the close.  Means nothing else. */
static inline uintptr_t ring_tail(ring *r)
{
    return atomic_load_explicit(&r->tail, memory_order_relaxed);
}
/* Whether the next push or close owes a wake-up. */
static inline bool ring_is_armed(ring *r)
{
    return (atomic_load_explicit(&r->tail, memory_order_relaxed) & RING_WAIT) != 0;
}
/* Takes back the wake-up that is owed, which ring_arm asked for.  False when a push or a close has come first. */
bool ring_disarm(ring *r);
/* True once the ring is closed and its last message was popped. */
bool ring_drained(ring *r);
/* Calls visit on every waiting message; a non-zero answer ends it and is returned. */
int ring_visit(ring *r, int (*visit)(void *item, void *argument), void *argument);
/* As ring_visit, whatever others do meanwhile: nothing is taken away until it is done, and a message that is pushed in
   the meantime, or behind one that is claimed and not yet published, may be missed. `visit` is called as under a lock. */
int ring_look_through(ring *r, int (*visit)(void *item, void *argument), void *argument);

/* Room in a bounded ring: a producer reserves a credit before it pushes, a consumer returns it after it popped.
   How many of the `wanted` credits were got, 0 when full. */
size_t ring_reserve(ring *r, size_t wanted);
void ring_return_room(ring *r, size_t n);
/* Whether there is room, or was a moment ago. */
static inline bool ring_has_room(ring *r)
{
    return atomic_load_explicit(&r->credits, memory_order_relaxed) > 0;
}

void ring_take_token_slow(ring *r);

/* RING_SERIALISED: whoever builds the ring promises that one thread at a time is in any call, and that the next one sees
   what the last one did, as the GIL of CPython sees to.  Then nobody can change a word between a look and a swap, and
   a store does for the swap; the algorithm is the same. */

static inline bool ring_swap_tail(ring *r, uintptr_t *tail, uintptr_t wanted)
{
#ifdef RING_SERIALISED
    (void)tail;
    atomic_store_explicit(&r->tail, wanted, memory_order_relaxed);
    return true;
#else
    /* Sequentially consistent for `announce`; acquire, and release of a new segment, are what I4 needs. */
    return atomic_compare_exchange_weak_explicit(&r->tail, tail, wanted, memory_order_seq_cst, memory_order_relaxed);
#endif
}

static inline void ring_take_token(ring *r)
{
#ifdef RING_SERIALISED
    (void)r;
#else
    if (atomic_exchange_explicit(&r->token, 1, memory_order_acquire) != 0)
        ring_take_token_slow(r);
#endif
}

static inline void ring_drop_token(ring *r)
{
#ifdef RING_SERIALISED
    (void)r;
#else
    atomic_store_explicit(&r->token, 0, memory_order_release);
#endif
}

static inline int ring_outcome(ring *r, uintptr_t tail)
{
    int outcome = (tail & RING_WAIT) ? RING_WAKE : 0;
    if (atomic_load_explicit(&r->announce, memory_order_seq_cst))
        outcome |= RING_ANNOUNCE;
    return outcome;
}

/* Appends a message.  Reserve, then publish: the swap claims the slot, the release store makes the message readable. */
static inline int ring_push(ring *r, void *item)
{
    uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    while ((tail & (RING_SHUT | RING_OFFSET)) < RING_LAST) {
        if (ring_swap_tail(r, &tail, (tail + 1) & ~RING_WAIT)) {
            atomic_store_explicit(&RING_SEGMENT(tail)->slot[tail & RING_OFFSET], item, memory_order_release);
            return ring_outcome(r, tail);
        }
    }
    return ring_push_edge(r, item, tail);
}

/* The slow paths of a pop.  Token held. */
/* How many messages wait while `tail` is the tail, which is in another segment than the head; 0 when that can't be told. */
size_t ring_waiting(ring *r, ring_segment *head, uintptr_t tail);
/* Leaves a segment whose last slot was read and returns its successor. */
ring_segment *ring_next_segment(ring *r, ring_segment *s);

/* Loads the tail and notes what it tells: how far the head segment is claimed, and how many messages wait.  Token held. */
static inline uintptr_t ring_look_at_tail(ring *r, ring_segment *head)
{
    uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    size_t waiting;
    if (RING_SEGMENT(tail) == head) {
        r->known = (uint8_t)(tail & RING_OFFSET);
        waiting = (size_t)(r->known - r->offset);
    } else {
        r->known = RING_SLOTS;
        waiting = ring_waiting(r, head, tail);
    }
    if (waiting > r->peak)
        r->peak = waiting;
    return tail;
}

/* The oldest message, or NULL when none is published at the front.  *shut is set by the pop that takes the last message
   of a ring that was closed before, and by those that find it closed and empty; others may set it once it is closed. */
static inline void *ring_pop(ring *r, bool *shut)
{
    void *item = NULL;
    *shut = false;
    ring_take_token(r);
    ring_segment *s = atomic_load_explicit(&r->head, memory_order_acquire);
    if (s) {
        uint32_t offset = r->offset;
        /* Where this is the last message that is known of, it may be the last of all. */
        if (offset + 1 >= r->known)
            *shut = (ring_look_at_tail(r, s) & RING_SHUT) != 0;
        item = atomic_load_explicit(&s->slot[offset], memory_order_acquire);
        if (item) {
            if (offset < RING_LAST)
                r->offset = (uint8_t)(offset + 1);
            else
                ring_next_segment(r, s);
        }
    } else {
        *shut = ring_closed(r);
    }
    ring_drop_token(r);
    return item;
}

#endif
