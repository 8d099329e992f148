#include "history.h"

#include <limits.h>
#include <stdbool.h>
#include <string.h>

#define FOREVER UINT64_MAX

const char *const fact_names[] = {"PUSHED", "REFUSED", "POPPED",  "NOTHING", "EMPTY",      "OCCUPIED",
                                  "CLOSED", "SHUT",    "OPEN",    "DRAINED", "NOT_DRAINED"};
const char *const verdict_names[] = {
    "linearisable", "popped but never pushed", "popped twice", "popped before it was pushed", "out of order",
    "found nothing in spite of a message", "found a message in spite of there being none", "closed, but not for ever",
};

/* When an event's moment may be: what its call says, narrowed by what others say. */
typedef struct span {
    uint64_t invoked, returned;
    size_t position;
    unsigned thread;
} span;

typedef struct history {
    const event *events;
    size_t n;
    uint64_t pushed, popped;                     /* sets of values */
    span push[HISTORY_VALUES];                   /* of the claim */
    uint64_t published[HISTORY_VALUES];          /* the latest moment of that */
    span pop[HISTORY_VALUES];                    /* FOREVER where there was none */
    uint64_t ahead[HISTORY_VALUES];              /* the values that are ahead of this one in every order */
    uint64_t shut_after, shut_before;
} history;

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static bool has(uint64_t set, unsigned value)
{
    return set >> value & 1;
}

/* The moment of closing lies between what found the queue open and what found it shut. */
static verdict find_closing(history *h)
{
    const event *closing = NULL;
    uint64_t found_open = 0;
    h->shut_before = FOREVER;
    for (const event *e = h->events; e < h->events + h->n; e++) {
        if (e->fact == PUSHED || e->fact == OPEN)
            found_open = later(found_open, e->invoked);
        if (e->fact == REFUSED || e->fact == SHUT || e->fact == DRAINED || e->fact == CLOSED)
            h->shut_before = earlier(h->shut_before, e->returned);
        if (e->fact == CLOSED) {
            if (closing)
                return NOT_FINAL;
            closing = e;
        }
    }
    h->shut_after = closing ? later(closing->invoked, found_open) : FOREVER;
    return h->shut_before == FOREVER || h->shut_after < h->shut_before ? LINEARISABLE : NOT_FINAL;
}

static verdict collect(history *h)
{
    for (unsigned x = 0; x < HISTORY_VALUES; x++)
        h->pop[x] = (span){.invoked = FOREVER, .returned = FOREVER, .thread = UINT_MAX};
    for (size_t i = 0; i < h->n; i++) {
        const event *e = &h->events[i];
        span s = {e->invoked, e->returned, i, e->thread};
        if (e->fact == PUSHED) {
            h->pushed |= UINT64_C(1) << e->value;
            h->push[e->value] = s;
        } else if (e->fact == POPPED) {
            if (has(h->popped, e->value))
                return POPPED_TWICE;
            h->popped |= UINT64_C(1) << e->value;
            h->pop[e->value] = s;
        }
    }
    return h->popped & ~h->pushed ? NEVER_PUSHED : LINEARISABLE;
}

/* A value is pushed before it is popped, before the queue is shut, and popped before the queue is drained. */
static verdict narrow(history *h)
{
    uint64_t drained = FOREVER;
    for (size_t i = 0; i < h->n; i++)
        if (h->events[i].fact == DRAINED)
            drained = earlier(drained, h->events[i].returned);
    for (unsigned x = 0; x < HISTORY_VALUES; x++) {
        span *push = &h->push[x], *pop = &h->pop[x];
        if (!has(h->pushed, x))
            continue;
        if (pop->returned < push->invoked)
            return POPPED_BEFORE_PUSHED;
        pop->returned = earlier(pop->returned, drained);
        if (pop->returned < FOREVER && pop->invoked > pop->returned)
            return NOT_EMPTY;
        h->published[x] = earlier(push->returned, pop->returned);
        push->returned = earlier(h->published[x], h->shut_before);
        pop->invoked = later(pop->invoked, push->invoked);
    }
    return LINEARISABLE;
}

static bool precedes(const span *a, const span *b)
{
    return a->returned < b->invoked || (a->thread == b->thread && a->position < b->position);
}

/* Orders the values by their pushes and by their pops, of which those that never happened are the last. */
static verdict order(history *h)
{
    for (unsigned x = 0; x < HISTORY_VALUES; x++)
        for (unsigned y = 0; y < HISTORY_VALUES; y++)
            if (x != y && has(h->pushed, x) && has(h->pushed, y)
                && (precedes(&h->push[x], &h->push[y]) || precedes(&h->pop[x], &h->pop[y])))
                h->ahead[y] |= UINT64_C(1) << x;
    /* Warshall's transitive closure. */
    for (unsigned via = 0; via < HISTORY_VALUES; via++)
        for (unsigned y = 0; y < HISTORY_VALUES; y++)
            if (has(h->ahead[y], via))
                h->ahead[y] |= h->ahead[via];
    for (unsigned x = 0; x < HISTORY_VALUES; x++)
        if (has(h->ahead[x], x))
            return OUT_OF_ORDER;
    return LINEARISABLE;
}

/* Whether the queue may have looked so in the moment after the stamp `now`. */
static bool is_possible(const history *h, fact_kind seen, uint64_t now)
{
    uint64_t claimed = 0, published = 0, maybe_there = 0;
    for (unsigned x = 0; x < HISTORY_VALUES; x++) {
        if (!has(h->pushed, x))
            continue;
        uint64_t bit = UINT64_C(1) << x;
        if (now < h->pop[x].invoked) {
            claimed |= h->push[x].returned <= now ? bit : 0;
            published |= h->published[x] <= now ? bit : 0;
        }
        maybe_there |= h->push[x].invoked <= now && now < h->pop[x].returned ? bit : 0;
    }
    switch (seen) {
    case EMPTY:
        return !claimed;
    case NOTHING:
        for (unsigned x = 0; x < HISTORY_VALUES; x++)
            if (has(maybe_there, x) && now < h->published[x] && !(h->ahead[x] & published))
                return true;
        return !published;
    case NOT_DRAINED:
        return maybe_there || now < h->shut_before;
    default:
        return maybe_there;
    }
}

static verdict look(const history *h)
{
    for (const event *e = h->events; e < h->events + h->n; e++) {
        if (e->fact != EMPTY && e->fact != NOTHING && e->fact != OCCUPIED && e->fact != NOT_DRAINED)
            continue;
        uint64_t now = e->invoked;
        while (now < e->returned && !is_possible(h, e->fact, now))
            now++;
        if (now == e->returned)
            return e->fact == EMPTY || e->fact == NOTHING ? NOT_EMPTY : NOT_OCCUPIED;
    }
    return LINEARISABLE;
}

verdict history_check(const event *events, size_t n)
{
    history h;
    verdict found;
    memset(&h, 0, sizeof h);
    h.events = events;
    h.n = n;
    if ((found = find_closing(&h)) == LINEARISABLE && (found = collect(&h)) == LINEARISABLE
        && (found = narrow(&h)) == LINEARISABLE && (found = order(&h)) == LINEARISABLE)
        found = look(&h);
    return found;
}
