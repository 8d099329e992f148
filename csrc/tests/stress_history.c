/* Many short histories of a ring, each of which must be linearisable (history.h).
 *
 *     stress_history THREADS HISTORIES [SEED]
 *
 * In each history THREADS threads make a few random calls at once; then one of them pops what is left.  A refused
 * history is printed, with the seed that leads to ones like it.
 */
#define _POSIX_C_SOURCE 200809L /* alarm */

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "history.h"
#include "ring.h"

enum { MOST_THREADS = 8, MOST_CALLS = 8, MOST_BATCH = 4, MOST_EVENTS = 2 * HISTORY_VALUES + 4 };

typedef struct thread {
    pthread_t id;
    unsigned index;
    uint64_t random;
    event seen[MOST_EVENTS];
    size_t n;
} thread;

static unsigned threads;
static size_t histories;
static thread workers[MOST_THREADS]; /* the first is main's */
static ring queue;
static const unsigned *weights; /* of the history at hand */
/* Value x is the address of cell[x]. */
static char cell[HISTORY_VALUES];
static _Atomic(unsigned) next_value;

static _Atomic(uint64_t) stamps;
static _Atomic(size_t) begun;
static _Atomic(unsigned) waiting, running;

static unsigned pick(thread *me, unsigned below)
{
    me->random ^= me->random << 13;
    me->random ^= me->random >> 7;
    me->random ^= me->random << 17;
    return (unsigned)(me->random >> 33) % below;
}

/* ---- recording ---- */

/* A return happens before every later invocation, and nothing else is ordered by a stamp: precedence in a history is
   what C11 calls happens-before. */
static uint64_t stamp_invocation(void)
{
    return atomic_fetch_add_explicit(&stamps, 1, memory_order_acquire);
}

static uint64_t stamp_return(void)
{
    return atomic_fetch_add_explicit(&stamps, 1, memory_order_release);
}

static void note(thread *me, fact_kind fact, unsigned value, uint64_t invoked)
{
    CHECK(me->n < MOST_EVENTS);
    me->seen[me->n++] = (event){fact, me->index, value, invoked, 0};
}

static void note_value(thread *me, const void *item, uint64_t invoked)
{
    note(me, POPPED, (unsigned)((const char *)item - cell), invoked);
}

static void push(thread *me, unsigned n)
{
    unsigned first = atomic_fetch_add_explicit(&next_value, n, memory_order_relaxed);
    void *items[MOST_BATCH];
    size_t pushed;
    int outcome;
    if (first + n > HISTORY_VALUES)
        return;
    for (unsigned i = 0; i < n; i++)
        items[i] = &cell[first + i];
    uint64_t invoked = stamp_invocation();
    if (n == 1) {
        outcome = ring_push(&queue, items[0]);
        pushed = outcome >= 0;
    } else {
        pushed = ring_push_many(&queue, items, n, &outcome);
    }
    for (unsigned i = 0; i < pushed; i++)
        note(me, PUSHED, first + i, invoked);
    if (pushed < n)
        note(me, REFUSED, 0, invoked);
}

static void push_one(thread *me)
{
    push(me, 1);
}

static void push_batch(thread *me)
{
    push(me, 1 + pick(me, MOST_BATCH));
}

static void pop_one(thread *me)
{
    bool shut;
    uint64_t invoked = stamp_invocation();
    const void *item = ring_pop(&queue, &shut);
    if (shut)
        note(me, SHUT, 0, invoked);
    if (item)
        note_value(me, item, invoked);
    else
        note(me, NOTHING, 0, invoked);
}

static void pop_batch(thread *me)
{
    void *items[MOST_BATCH];
    size_t limit = 1 + pick(me, MOST_BATCH);
    uint64_t invoked = stamp_invocation();
    size_t n = ring_pop_many(&queue, items, limit);
    for (size_t i = 0; i < n; i++)
        note_value(me, items[i], invoked);
    if (n < limit)
        note(me, NOTHING, 0, invoked);
}

static void arm(thread *me)
{
    uint64_t invoked = stamp_invocation();
    int found = ring_arm(&queue);
    if (found == RING_ARMED) {
        note(me, EMPTY, 0, invoked);
        note(me, OPEN, 0, invoked);
    } else {
        note(me, found == RING_CLOSED ? DRAINED : OCCUPIED, 0, invoked);
    }
}

static void ask_whether_drained(thread *me)
{
    uint64_t invoked = stamp_invocation();
    note(me, ring_drained(&queue) ? DRAINED : NOT_DRAINED, 0, invoked);
}

static void close_queue(thread *me)
{
    uint64_t invoked = stamp_invocation();
    note(me, ring_close(&queue) ? CLOSED : SHUT, 0, invoked);
}

/* ---- a run ---- */

enum { CALLS = 7 };

static void (*const calls[CALLS])(thread *) = {push_one, push_batch, pop_one, pop_batch, arm, ask_whether_drained,
                                               close_queue};

/* What a history is made of: contended ends, batches, closing, empty queues. */
static const unsigned mixtures[][CALLS] = {
    {4, 0, 4, 0, 0, 0, 0},
    {3, 2, 2, 2, 1, 0, 0},
    {5, 1, 4, 1, 0, 1, 1},
    {0, 2, 3, 0, 2, 2, 1},
};

enum { MIXTURES = sizeof mixtures / sizeof *mixtures };

static void make(thread *me, void (*call)(thread *))
{
    size_t before = me->n;
    call(me);
    uint64_t returned = stamp_return();
    for (; before < me->n; before++)
        me->seen[before].returned = returned;
}

static void make_any(thread *me)
{
    unsigned total = 0, chosen = 0;
    for (unsigned i = 0; i < CALLS; i++)
        total += weights[i];
    for (unsigned left = pick(me, total); left >= weights[chosen]; chosen++)
        left -= weights[chosen];
    make(me, calls[chosen]);
}

static void take_part(thread *me)
{
    /* Together, as far as the processors allow. */
    atomic_fetch_sub_explicit(&waiting, 1, memory_order_relaxed);
    while (atomic_load_explicit(&waiting, memory_order_relaxed))
        sched_yield();
    for (unsigned left = 1 + pick(me, MOST_CALLS); left; left--) {
        make_any(me);
        if (pick(me, 8) == 0)
            sched_yield();
    }
    atomic_fetch_sub_explicit(&running, 1, memory_order_release);
}

static void *work(void *argument)
{
    for (size_t round = 1; round <= histories; round++) {
        while (atomic_load_explicit(&begun, memory_order_acquire) < round)
            sched_yield();
        take_part(argument);
    }
    return NULL;
}

/* An empty ring whose next slot is any in a segment. */
static void set_up(thread *me)
{
    bool shut;
    ring_init(&queue, 0);
    for (unsigned skipped = pick(me, 2 * RING_SLOTS); skipped; skipped--)
        CHECK(ring_push(&queue, cell) == 0 && ring_pop(&queue, &shut) == cell);
    weights = mixtures[pick(me, MIXTURES)];
    atomic_store_explicit(&next_value, 0, memory_order_relaxed);
    for (unsigned i = 0; i < threads; i++)
        workers[i].n = 0;
    atomic_store_explicit(&waiting, threads, memory_order_relaxed);
    atomic_store_explicit(&running, threads, memory_order_relaxed);
}

/* All that is left comes out, and then the ring is empty. */
static void take_the_rest(thread *me)
{
    do
        make(me, pop_one);
    while (me->seen[me->n - 1].fact == POPPED);
    make(me, arm);
}

static void judge(unsigned long seed, size_t round)
{
    static event all[MOST_THREADS * MOST_EVENTS];
    size_t n = 0;
    for (const thread *t = workers; t < workers + threads; t++) {
        memcpy(all + n, t->seen, t->n * sizeof *all);
        n += t->n;
    }
    verdict found = history_check(all, n);
    if (found == LINEARISABLE)
        return;
    fprintf(stderr, "seed %lu, history %zu: %s\n", seed, round, verdict_names[found]);
    for (const event *e = all; e < all + n; e++)
        fprintf(stderr, "%6llu .. %-6llu thread %u %s %u\n", (unsigned long long)e->invoked,
                (unsigned long long)e->returned, e->thread, fact_names[e->fact], e->value);
    _Exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s THREADS HISTORIES [SEED]\n", argv[0]);
        return 2;
    }
    threads = (unsigned)strtoul(argv[1], NULL, 10);
    histories = strtoul(argv[2], NULL, 10);
    unsigned long seed = argc > 3 ? strtoul(argv[3], NULL, 10) : (unsigned long)time(NULL);
    CHECK(threads && threads <= MOST_THREADS);
    for (unsigned i = 0; i < threads; i++)
        workers[i] = (thread){.index = i, .random = 1000003u * (i + 1) + seed * 7919u};
    for (unsigned i = 1; i < threads; i++)
        CHECK(!pthread_create(&workers[i].id, NULL, work, &workers[i]));
    for (size_t round = 1; round <= histories; round++) {
        alarm(30);
        set_up(workers);
        atomic_store_explicit(&begun, round, memory_order_release);
        take_part(workers);
        while (atomic_load_explicit(&running, memory_order_acquire))
            sched_yield();
        take_the_rest(workers);
        judge(seed, round);
        ring_destroy(&queue);
    }
    for (unsigned i = 1; i < threads; i++)
        CHECK(!pthread_join(workers[i].id, NULL));
    return 0;
}
