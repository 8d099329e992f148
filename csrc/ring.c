#include "ring.h"

#include <stdlib.h>

#include "pause.h"
#include "pool.h"

_Static_assert(RING_SLOTS != 30 || sizeof(void *) != 8 || sizeof(ring_segment) == 256,
               "a segment is four cache lines");
_Static_assert(offsetof(ring, head) == RING_CACHE_LINE, "consumers have a cache line of their own");

#ifdef _WIN32
#include <malloc.h>
#define aligned_alloc(alignment, size) _aligned_malloc(size, alignment)
#define aligned_free _aligned_free
#else
#define aligned_free free
#endif

/* ---- segments ---- */

static ring_segment *segment_get(ring *r)
{
    ring_segment *s = atomic_exchange_explicit(&r->spare, NULL, memory_order_acquire);
    if (!s)
        s = pool_get();
    if (!s && !(s = aligned_alloc(RING_SEGMENT_ALIGNMENT, (sizeof *s + RING_SEGMENT_ALIGNMENT - 1)
                                                              / RING_SEGMENT_ALIGNMENT * RING_SEGMENT_ALIGNMENT)))
        return NULL;
    /* Relaxed: the swap that installs the segment releases all of this (I4). */
    atomic_store_explicit(&s->next, NULL, memory_order_relaxed);
    atomic_store_explicit(&s->first, RING_UNKNOWN, memory_order_relaxed);
    for (unsigned i = 0; i < RING_SLOTS; i++)
        atomic_store_explicit(&s->slot[i], NULL, memory_order_relaxed);
    return s;
}

/* The caller owns the segment alone (I3). */
static void segment_put(ring *r, ring_segment *s)
{
    ring_segment *former = atomic_exchange_explicit(&r->spare, s, memory_order_acq_rel);
    if (former && !pool_put(former))
        aligned_free(former);
}

void ring_init(ring *r, size_t capacity)
{
    atomic_init(&r->tail, RING_LAST);
    r->bounded = r->returns_room = capacity != 0;
    r->capacity = capacity;
    atomic_init(&r->credits, capacity);
    atomic_init(&r->announce, 0);
    atomic_init(&r->head, NULL);
    r->offset = r->known = 0;
    atomic_init(&r->token, 0);
    atomic_init(&r->spare, NULL);
    r->peak = 0;
}

void ring_destroy(ring *r)
{
    ring_segment *s = atomic_load_explicit(&r->head, memory_order_relaxed);
    while (s) {
        ring_segment *next = atomic_load_explicit(&s->next, memory_order_relaxed);
        aligned_free(s);
        s = next;
    }
    aligned_free(atomic_load_explicit(&r->spare, memory_order_relaxed));
}

/* ---- producers ---- */

/* Publishes the last slot of the old segment after linking the new one (I3), or the first slot of the very
   first segment. */
static void publish_edge(ring *r, ring_segment *old, ring_segment *new_segment, void *item)
{
    if (old) {
        /* Unknown while the thread that installed `old` is held up before its own store: then the consumer that
           gets there fills the gap (next_segment), and no producer waits for another. */
        size_t first = atomic_load_explicit(&old->first, memory_order_relaxed);
        if (first != RING_UNKNOWN)
            atomic_store_explicit(&new_segment->first, first + RING_SLOTS, memory_order_relaxed);
        atomic_store_explicit(&old->next, new_segment, memory_order_release);
        atomic_store_explicit(&old->slot[RING_LAST], item, memory_order_release);
    } else {
        atomic_store_explicit(&new_segment->first, 0, memory_order_relaxed);
        atomic_store_explicit(&new_segment->slot[0], item, memory_order_release);
        atomic_store_explicit(&r->head, new_segment, memory_order_release);
    }
}

int ring_push_edge(ring *r, void *item, uintptr_t tail)
{
    ring_segment *new_segment = NULL;
    for (;;) {
        ring_segment *s = RING_SEGMENT(tail);
        uintptr_t offset = tail & RING_OFFSET;
        uintptr_t wanted;
        if (tail & RING_SHUT) {
            if (new_segment)
                segment_put(r, new_segment);
            return RING_CLOSED;
        }
        if (offset == RING_LAST) {
            if (!new_segment && !(new_segment = segment_get(r)))
                return RING_NO_MEMORY;
            /* One swap claims the last slot and installs the successor: nobody ever waits for an installer. */
            wanted = (uintptr_t)new_segment | (s ? 0 : 1);
        } else {
            wanted = (tail + 1) & ~RING_WAIT;
        }
        if (!ring_swap_tail(r, &tail, wanted))
            continue;
        if (offset == RING_LAST) {
            publish_edge(r, s, new_segment, item);
        } else {
            atomic_store_explicit(&s->slot[offset], item, memory_order_release);
            if (new_segment)
                segment_put(r, new_segment);
        }
        return ring_outcome(r, tail);
    }
}

size_t ring_push_many(ring *r, void *const *items, size_t n, int *outcome)
{
    size_t done = 0;
    *outcome = 0;
    while (done < n) {
        uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
        uintptr_t offset = tail & RING_OFFSET;
        int one;
        if ((tail & (RING_SHUT | RING_OFFSET)) < RING_LAST && n - done > 1) {
            size_t run = RING_LAST - offset < n - done ? RING_LAST - offset : n - done;
            if (!ring_swap_tail(r, &tail, (tail + run) & ~RING_WAIT))
                continue;
            ring_segment *s = RING_SEGMENT(tail);
            for (size_t i = 0; i < run; i++)
                atomic_store_explicit(&s->slot[offset + i], items[done + i], memory_order_release);
            done += run;
            one = ring_outcome(r, tail);
        } else {
            one = ring_push(r, items[done]);
            if (one >= 0)
                done++;
        }
        if (one < 0) {
            /* A wake-up that an earlier run owes is still owed: the caller sees `done` and *outcome. */
            if (done == 0)
                *outcome = one;
            break;
        }
        *outcome |= one;
    }
    return done;
}

bool ring_close(ring *r)
{
    uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    while (!ring_swap_tail(r, &tail, (tail | RING_SHUT) & ~RING_WAIT))
        ;
    return !(tail & RING_SHUT);
}

/* ---- consumers ---- */

void ring_take_token_slow(ring *r)
{
    unsigned spins = 0;
    do {
        while (atomic_load_explicit(&r->token, memory_order_relaxed))
            pause_backoff(&spins);
    } while (atomic_exchange_explicit(&r->token, 1, memory_order_acquire));
}

/* Messages popped so far.  Token held. */
static size_t popped(ring *r)
{
    ring_segment *s = atomic_load_explicit(&r->head, memory_order_acquire);
    return s ? atomic_load_explicit(&s->first, memory_order_relaxed) + r->offset : 0;
}

/* Messages claimed according to `tail`, or RING_UNKNOWN.  Token held, which keeps tail's segment alive: it can't
   be consumed past meanwhile.  `tail` was loaded with acquire, so `first` is of the segment's present life (I4). */
static size_t claimed(uintptr_t tail)
{
    ring_segment *s = RING_SEGMENT(tail);
    if (!s)
        return 0;
    size_t first = atomic_load_explicit(&s->first, memory_order_relaxed);
    return first == RING_UNKNOWN ? RING_UNKNOWN : first + (tail & RING_OFFSET);
}

/* Segments behind one that did not know its number when they were linked do not know theirs either; whoever comes by
   with the token tells them.  Every writer of `first` stores the same value. */
static void number_next(ring_segment *s, ring_segment *next)
{
    atomic_store_explicit(&next->first, atomic_load_explicit(&s->first, memory_order_relaxed) + RING_SLOTS,
                          memory_order_relaxed);
}

/* Messages claimed by now.  Token held.  Where the tail's segment does not know its number yet, numbers the segments
   from the head on, waiting for links that their claimants are about to store. */
static size_t claimed_by_now(ring *r)
{
    uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_seq_cst);
    unsigned spins = 0;
    if (claimed(tail) == RING_UNKNOWN) {
        ring_segment *s;
        while (!(s = atomic_load_explicit(&r->head, memory_order_acquire)))
            pause_backoff(&spins);
        while (s != RING_SEGMENT(tail)) {
            ring_segment *next;
            while (!(next = atomic_load_explicit(&s->next, memory_order_acquire)))
                pause_backoff(&spins);
            number_next(s, next);
            s = next;
        }
    }
    return claimed(tail);
}

size_t ring_waiting(ring *r, ring_segment *head, uintptr_t tail)
{
    size_t end = claimed(tail), begin = atomic_load_explicit(&head->first, memory_order_relaxed) + r->offset;
    return end == RING_UNKNOWN ? 0 : end - begin;
}

ring_segment *ring_next_segment(ring *r, ring_segment *s)
{
    ring_segment *next = atomic_load_explicit(&s->next, memory_order_acquire);
    number_next(s, next);
    /* Relaxed: consumers see it through the token. */
    atomic_store_explicit(&r->head, next, memory_order_relaxed);
    r->offset = r->known = 0;
    segment_put(r, s);
    return next;
}

size_t ring_pop_many(ring *r, void **items, size_t limit)
{
    size_t n = 0;
    ring_take_token(r);
    ring_segment *s = atomic_load_explicit(&r->head, memory_order_acquire);
    if (s) {
        uint32_t offset = r->offset;
        void *item;
        ring_look_at_tail(r, s);
        while (n < limit && (item = atomic_load_explicit(&s->slot[offset], memory_order_acquire))) {
            items[n++] = item;
            if (++offset == RING_SLOTS) {
                s = ring_next_segment(r, s);
                offset = 0;
            }
        }
        r->offset = (uint8_t)offset;
    }
    ring_drop_token(r);
    return n;
}

/* Whether everything claimed according to `tail` was popped.  Token held. */
static bool is_empty(ring *r, uintptr_t tail)
{
    ring_segment *s = RING_SEGMENT(tail);
    return s == NULL || (s == atomic_load_explicit(&r->head, memory_order_acquire)
                         && (tail & RING_OFFSET) == r->offset);
}

int ring_arm(ring *r)
{
    int found = RING_ARMED;
    ring_take_token(r);
    uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    for (;;) {
        if (!is_empty(r, tail)) {
            found = RING_NOT_EMPTY;
            break;
        }
        if (tail & RING_SHUT) {
            found = RING_CLOSED;
            break;
        }
        if ((tail & RING_WAIT) || ring_swap_tail(r, &tail, tail | RING_WAIT))
            break;
    }
    ring_drop_token(r);
    return found;
}

bool ring_disarm(ring *r)
{
    uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    while (tail & RING_WAIT)
        if (ring_swap_tail(r, &tail, tail & ~RING_WAIT))
            return true;
    return false;
}

bool ring_drained(ring *r)
{
    uintptr_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    if (!(tail & RING_SHUT))
        return false;
    /* tail is final now (I7). */
    ring_take_token(r);
    bool empty = is_empty(r, tail);
    ring_drop_token(r);
    return empty;
}

size_t ring_length(ring *r)
{
    ring_take_token(r);
    size_t n = claimed_by_now(r) - popped(r);
    ring_drop_token(r);
    return n;
}

size_t ring_pushed(ring *r)
{
    ring_take_token(r);
    size_t n = claimed_by_now(r);
    ring_drop_token(r);
    return n;
}

size_t ring_popped(ring *r)
{
    ring_take_token(r);
    size_t n = popped(r);
    ring_drop_token(r);
    return n;
}

size_t ring_peak(ring *r)
{
    ring_take_token(r);
    size_t waiting = claimed_by_now(r) - popped(r);
    if (waiting > r->peak)
        r->peak = waiting;
    size_t peak = r->peak;
    ring_drop_token(r);
    return peak;
}

size_t ring_announce(ring *r, bool on)
{
    atomic_store_explicit(&r->announce, on, memory_order_seq_cst);
    return ring_length(r);
}

int ring_visit(ring *r, int (*visit)(void *item, void *argument), void *argument)
{
    ring_segment *s = atomic_load_explicit(&r->head, memory_order_acquire);
    for (uint32_t offset = r->offset; s; offset = 0, s = atomic_load_explicit(&s->next, memory_order_acquire)) {
        for (; offset < RING_SLOTS; offset++) {
            void *item = atomic_load_explicit(&s->slot[offset], memory_order_acquire);
            if (!item)
                return 0;
            int answer = visit(item, argument);
            if (answer)
                return answer;
        }
    }
    return 0;
}

int ring_look_through(ring *r, int (*visit)(void *item, void *argument), void *argument)
{
    ring_take_token(r);
    int answer = ring_visit(r, visit, argument);
    ring_drop_token(r);
    return answer;
}

/* ---- room ---- */

size_t ring_reserve(ring *r, size_t wanted)
{
    if (!r->bounded)
        return wanted;
    size_t credits = atomic_load_explicit(&r->credits, memory_order_seq_cst);
    size_t got;
    do {
        got = credits < wanted ? credits : wanted;
        if (!got)
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(&r->credits, &credits, credits - got, memory_order_seq_cst,
                                                    memory_order_seq_cst));
    return got;
}

void ring_return_room(ring *r, size_t n)
{
    if (r->returns_room)
        atomic_fetch_add_explicit(&r->credits, n, memory_order_seq_cst);
}
