/* A view machine for C11 atomics: what each thread may still read.
 *
 * A location has a history of values.  A thread has a view: for each location, how far it lags behind the newest value.
 * A load reads any value that is no older than the thread's view of the location; a store appends; a read-modify-write
 * reads the newest and appends.  A release stores the writer's view with the value, and an acquire that reads the value
 * joins that view into the reader's; a read-modify-write also passes on the view that it found (release sequence).  A
 * sequentially consistent load reads nothing older than the last sequentially consistent store of its location.
 *
 * A store appends at the end of the history, so it must know the newest value; otherwise it would race with another
 * store, which is an error here, except where both store the same value.
 *
 * Happens-before is in the views too, as facts that a view knows: that a message's contents were written, that a thread's
 * last access of a segment is over, that the last use of plain data is over.  An access makes the fact unknown to all
 * but the thread itself.  Hence a race is found even where the interleaving at hand did no harm.
 *
 * Everything here is canonical: what no thread can read or learn any more is forgotten at the end of each step (settle),
 * so that Spin sees equal states as equal.
 */
#include <stdint.h>
#include <string.h>

#include "layout.h"
#include "orders.h"

/* pan's: reports an error and ends the search. */
extern void (*uerror)(char *);

/* How many values of a history are kept; reading an older one is reported, so it can't go unnoticed.  A segment's
   location has a stale one, an initial one and one that is stored, and only that is released with a view.

   SEQUENTIAL: every load reads the newest value, and all is known to all.  Such a model says nothing of memory orders;
   it is for larger configurations. */
#ifdef SEQUENTIAL
#define TAIL_DEPTH 1
#define DEPTH 1
#else
#define TAIL_DEPTH 12
#define DEPTH 3
#endif
#define KEPT(l) ((l) == TAIL ? TAIL_DEPTH : DEPTH)
#define CELL(l, n) ((l) == TAIL ? (n) : TAIL_DEPTH + ((l) - 1) * DEPTH + (n))
#define CELLS CELL(LOCATIONS, 0)
#define WITH_VIEW(l) ((l) < SEGMENT_LOCATIONS ? KEPT(l) : 1)
#define VIEW(l, n) (RELEASED + ((l) < SEGMENT_LOCATIONS ? CELL(l, n) : CELL(SEGMENT_LOCATIONS, 0) + (l) - SEGMENT_LOCATIONS))

/* Facts. */
#define CONTENTS(item) (1u << ((item) - 1))
#define ACCESS(t, s) (1u << (8 + ((s) - 1) * THREADS + (t)))
#define CONSUMERS_FIELDS (1u << 30) /* offset, peak: plain, under the token */
#define WAITERS (1u << 31)          /* the lists: plain, under the lock */
_Static_assert(8 + SEGMENTS * THREADS <= 30 && ITEMS <= 8, "the facts fit");

/* A view that says nothing about a location lags by NO_LAG. */
#define NO_LAG 15

typedef struct __attribute__((packed)) view {
    uint8_t lags[(LOCATIONS + 1) / 2];
    uint32_t facts;
} view;

/* One array, so that a loop can go over all views: the threads', that of the sequentially consistent stores, those that
   were released with the values of locations and of words. */
#define TOTAL THREADS
#define RELEASED (TOTAL + 1)
#define PASSED_ON (VIEW(LOCATIONS, 0))
#define VIEWS (PASSED_ON + WORDS)

typedef struct __attribute__((packed)) memory {
    view view[VIEWS];
    uint8_t value[CELLS];
    uint8_t word[WORDS];
    uint8_t finished;
    uint8_t fresh, freed; /* segments that malloc has never given, that were freed: a bit each */
} memory;

/* ---- views ---- */

static int lag(const view *v, int l)
{
    return v->lags[l / 2] >> l % 2 * 4 & 15;
}

static void set_lag(view *v, int l, int n)
{
    v->lags[l / 2] = (uint8_t)((v->lags[l / 2] & (l % 2 ? 15 : 240)) | n << l % 2 * 4);
}

static void know_nothing(view *v)
{
    memset(v->lags, 255, sizeof v->lags);
    v->facts = 0;
}

static void join(view *to, const view *from)
{
    for (int l = 0; l < LOCATIONS; l++)
        if (lag(from, l) < lag(to, l))
            set_lag(to, l, lag(from, l));
    to->facts |= from->facts;
}

#define FOR_EACH_VIEW(m, v) for (view *v = (m)->view; v < (m)->view + VIEWS; v++)

/* ---- facts ---- */

/* The thread does something that makes the fact known to it alone. */
static void only_known_to(memory *m, int t, uint32_t fact)
{
    FOR_EACH_VIEW(m, v)
        v->facts &= ~fact;
    m->view[t].facts |= fact;
}

/* Plain data, guarded by a lock: whoever uses it must know that the one before has done. */
static void use_plain(memory *m, int t, uint32_t fact)
{
    if (!(m->view[t].facts & fact))
        uerror("race: plain data is used while its last user is not known to have done");
    only_known_to(m, t, fact);
}

static void touch(memory *m, int t, int l)
{
    if (l >= SEGMENT_LOCATIONS)
        only_known_to(m, t, ACCESS(t, (l - SEGMENT_LOCATIONS) / LOCATIONS_A_SEGMENT + 1));
}

static uint32_t accesses(int s)
{
    return ((1u << THREADS) - 1) * ACCESS(0, s);
}

/* ---- loads, stores, swaps ---- */

static int newest(const memory *m, int l)
{
    return m->value[CELL(l, 0)];
}

/* A load may read any value from the newest to this one. */
static int oldest(const memory *m, int t, int l, int order)
{
    int n = lag(&m->view[t], l);
    if (order == SEQ_CST && lag(&m->view[TOTAL], l) < n)
        n = lag(&m->view[TOTAL], l);
    return n < KEPT(l) ? n : KEPT(l);
}

static int value_at(const memory *m, int l, int n)
{
    return n < KEPT(l) ? m->value[CELL(l, n)] : TOO_OLD;
}

static int load(memory *m, int t, int l, int n, int order)
{
    int value = value_at(m, l, n);
    if (value == STALE)
        uerror("stale: a segment is read that is free, spare, or whose initialisation is not visible");
    if (value == TOO_OLD)
        uerror("the model keeps too short a history");
    touch(m, t, l);
    set_lag(&m->view[t], l, n);
    if (order & ACQUIRE && n < WITH_VIEW(l))
        join(&m->view[t], &m->view[VIEW(l, n)]);
    return value;
}

static void append(memory *m, int t, int l, int value, const view *released, int order)
{
    memmove(&m->value[CELL(l, 1)], &m->value[CELL(l, 0)], (size_t)KEPT(l) - 1);
    memmove(&m->view[VIEW(l, 1)], &m->view[VIEW(l, 0)], ((size_t)WITH_VIEW(l) - 1) * sizeof(view));
    m->value[CELL(l, 0)] = (uint8_t)value;
    m->view[VIEW(l, 0)] = *released;
    FOR_EACH_VIEW(m, v) {
        int n = lag(v, l);
        if (n != NO_LAG)
            set_lag(v, l, n < KEPT(l) ? n + 1 : n);
    }
    set_lag(&m->view[t], l, 0);
    if (order == SEQ_CST)
        set_lag(&m->view[TOTAL], l, 0);
}

static void store(memory *m, int t, int l, int value, int order)
{
    view released;
    if (newest(m, l) == STALE)
        uerror("stale: a segment is written that is free or spare");
    touch(m, t, l);
    if (newest(m, l) == value && !(order & RELEASE)) {
        set_lag(&m->view[t], l, 0);
        return;
    }
    if (lag(&m->view[t], l) != 0)
        uerror("race: a store where the value before it is not visible");
    if (order & RELEASE)
        released = m->view[t];
    else
        know_nothing(&released);
    append(m, t, l, value, &released, order);
}

static void swap(memory *m, int t, int l, int value, int order)
{
    view released = m->view[VIEW(l, 0)];
    set_lag(&m->view[t], l, 0);
    if (order & ACQUIRE)
        join(&m->view[t], &released);
    if (order & RELEASE)
        join(&released, &m->view[t]);
    append(m, t, l, value, &released, order);
}

static int swap_word(memory *m, int t, int w, int value, int order)
{
    int before = m->word[w];
    if (order & ACQUIRE)
        join(&m->view[t], &m->view[PASSED_ON + w]);
    if (order & RELEASE)
        join(&m->view[PASSED_ON + w], &m->view[t]);
    m->word[w] = (uint8_t)value;
    return before;
}

static void store_word(memory *m, int t, int w, int value, int order)
{
    if (order & RELEASE)
        m->view[PASSED_ON + w] = m->view[t];
    else
        know_nothing(&m->view[PASSED_ON + w]);
    m->word[w] = (uint8_t)value;
}

/* ---- segments ---- */

static void own_alone(const memory *m, int t, int s)
{
    if ((m->view[t].facts & accesses(s)) != accesses(s))
        uerror("race: a segment is recycled or freed while an access is not known to be over");
}

/* All its values so far are of an earlier life. */
static void make_stale(memory *m, int s)
{
    for (int l = NEXT(s); l < NEXT(s + 1); l++) {
        memset(&m->value[CELL(l, 0)], 0, DEPTH);
        m->value[CELL(l, 0)] = STALE;
        know_nothing(&m->view[VIEW(l, 0)]);
        FOR_EACH_VIEW(m, v)
            set_lag(v, l, v < m->view + THREADS ? 0 : NO_LAG);
    }
}

/* The thread gives the segment away.  Whoever gets it must know that this is over; it implies all earlier accesses. */
static void retire(memory *m, int t, int s)
{
    own_alone(m, t, s);
    make_stale(m, s);
    FOR_EACH_VIEW(m, v)
        v->facts |= accesses(s);
    only_known_to(m, t, ACCESS(t, s));
}

/* malloc and free synchronise, so nothing is left to be known. */
static void free_segment(memory *m, int t, int s)
{
    own_alone(m, t, s);
    make_stale(m, s);
    FOR_EACH_VIEW(m, v)
        v->facts |= accesses(s);
    m->freed |= (uint8_t)(1 << s);
}

/* What malloc may return: any segment that was freed, or the next that it never gave. */
static int allocatable(const memory *m)
{
    return m->freed | (m->fresh & -m->fresh);
}

static int allocate(memory *m, int pick)
{
    int candidates = allocatable(m);
    while (pick--)
        candidates &= candidates - 1;
    if (!candidates)
        return 0;
    int s = __builtin_ctz((unsigned)candidates);
    m->freed &= (uint8_t)~(1 << s);
    m->fresh &= (uint8_t)~(1 << s);
    return s;
}

/* A new life begins: only the thread that stores the first values knows them. */
static void reset(memory *m, int t, int s)
{
    own_alone(m, t, s);
    for (int l = NEXT(s); l < NEXT(s + 1); l++) {
        if (DEPTH > 1)
            m->value[CELL(l, 1)] = STALE;
        m->value[CELL(l, 0)] = l == FIRST(s) ? UNKNOWN : 0;
        for (int u = 0; u < THREADS; u++)
            set_lag(&m->view[u], l, u != t);
        touch(m, t, l);
    }
}

/* ---- steps ---- */

static void start(memory *m, int first_tail, int credits)
{
    memset(m, 0, sizeof *m);
    FOR_EACH_VIEW(m, v)
        know_nothing(v);
    for (int t = 0; t < THREADS; t++)
        memset(m->view[t].lags, 0, sizeof m->view[t].lags);
    for (int t = 0; t < THREADS; t++)
        m->view[t].facts = ~0u << 8;
    for (int s = 1; s <= SEGMENTS; s++) {
        make_stale(m, s);
        m->fresh |= (uint8_t)(1 << s);
    }
    m->value[CELL(TAIL, 0)] = (uint8_t)first_tail;
    m->value[CELL(CREDITS, 0)] = (uint8_t)credits;
}

/* Nobody may look at a slot again that was read, nor learn of its message. */
static void consumed(memory *m, int l, int item)
{
    memset(&m->value[CELL(l, 0)], 0, DEPTH);
    m->value[CELL(l, 0)] = STALE;
    know_nothing(&m->view[VIEW(l, 0)]);
    FOR_EACH_VIEW(m, v) {
        set_lag(v, l, v < m->view + THREADS ? 0 : NO_LAG);
        v->facts &= ~CONTENTS(item);
    }
}

/* The largest lags of any thread from `from` on that still runs, and the facts that all those know. */
static void know_least(const memory *m, int from, view *least)
{
    memset(least->lags, 0, sizeof least->lags);
    least->facts = ~0u;
    for (int t = from; t < THREADS; t++)
        if (!(m->finished & 1 << t)) {
            for (int l = 0; l < LOCATIONS; l++)
                if (lag(&m->view[t], l) > lag(least, l))
                    set_lag(least, l, lag(&m->view[t], l));
            least->facts &= m->view[t].facts;
        }
}

/* What those who may read it know already, a view need not say. */
static void say_less(view *v, const view *least)
{
    for (int l = 0; l < LOCATIONS; l++)
        if (lag(v, l) >= lag(least, l))
            set_lag(v, l, NO_LAG);
    v->facts &= ~least->facts;
}

/* Producers come first among the threads, and load none of these. */
static int for_consumers(int l)
{
    return l == HEAD || (l >= SEGMENT_LOCATIONS && (l - SEGMENT_LOCATIONS) % LOCATIONS_A_SEGMENT != 1);
}

/* Forgets what no thread can read or learn. */
static void settle(memory *m)
{
#ifdef SEQUENTIAL
    FOR_EACH_VIEW(m, v) {
        memset(v->lags, 0, sizeof v->lags);
        v->facts = ~0u;
    }
    return;
#endif
    view all, consumers;
    know_least(m, PRODUCERS, &consumers);
    /* A producer's lag where it does not load matters only for what it passes on. */
    for (int t = 0; t < PRODUCERS; t++)
        for (int l = 0; l < LOCATIONS; l++)
            if (for_consumers(l) && lag(&m->view[t], l) >= lag(&consumers, l) && lag(&m->view[t], l) > 0)
                set_lag(&m->view[t], l, NO_LAG);
    know_least(m, 0, &all);
    for (int l = 0; l < LOCATIONS; l++) {
        const view *readers = for_consumers(l) ? &consumers : &all;
        for (int n = lag(readers, l) + 1; n < KEPT(l); n++) {
            m->value[CELL(l, n)] = 0;
            if (n < WITH_VIEW(l))
                know_nothing(&m->view[VIEW(l, n)]);
        }
        for (int n = 0; n < WITH_VIEW(l); n++)
            /* Of the tail, swaps read only the newest value, and only consumers acquire an older one. */
            say_less(&m->view[VIEW(l, n)], l == TAIL && n > 0 ? &consumers : readers);
    }
    say_less(&m->view[TOTAL], &all);
    for (int w = 0; w < WORDS; w++)
        say_less(&m->view[PASSED_ON + w], w == TOKEN ? &consumers : w >= PARKER ? &m->view[w - PARKER] : &all);
}

static void finish(memory *m, int t)
{
    m->finished |= (uint8_t)(1 << t);
    memset(&m->view[t], 0, sizeof(view));
    settle(m);
    /* At the end all segments are free, but for the last one of the chain and the spare. */
    if (m->finished == (1 << THREADS) - 1
        && __builtin_popcount(m->fresh | m->freed) + (m->word[SPARE] != 0) + (SEGMENT(newest(m, TAIL)) != 0) != SEGMENTS)
        uerror("leak: a segment is neither in the ring, nor its spare, nor freed");
}

/* For Promela's conditions, which take no calls. */
#define OLDEST oldest(&now.m, PThread->me, now.at, now.how)
#define LAST_CANDIDATE (__builtin_popcount((unsigned)allocatable(&now.m)) - 1)
#define NEWEST_HEAD newest(&now.m, HEAD)
#define NEWEST_NEXT newest(&now.m, NEXT(PThread->segment))
