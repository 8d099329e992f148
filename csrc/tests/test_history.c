/* The checker of histories: what it must refuse, what it must accept, and that it agrees with an exhaustive search. */
#include "history.h"

#include <stdbool.h>
#include <string.h>

#include "check.h"

#define EXPECT(verdict, ...)                                                                                           \
    do {                                                                                                               \
        const event events[] = {__VA_ARGS__};                                                                          \
        CHECK(history_check(events, sizeof events / sizeof *events) == (verdict));                                     \
    } while (0)

/* {fact, thread, value, invoked, returned} */

static void a_value_nobody_pushed(void)
{
    EXPECT(NEVER_PUSHED, {PUSHED, 0, 1, 0, 1}, {POPPED, 1, 2, 2, 3});
    EXPECT(NEVER_PUSHED, {POPPED, 1, 2, 2, 3});
}

static void a_value_whose_push_was_refused(void)
{
    EXPECT(NEVER_PUSHED, {CLOSED, 0, 0, 0, 1}, {REFUSED, 0, 0, 2, 3}, {POPPED, 1, 0, 4, 5});
}

static void a_value_popped_twice(void)
{
    EXPECT(POPPED_TWICE, {PUSHED, 0, 0, 0, 1}, {POPPED, 1, 0, 2, 4}, {POPPED, 2, 0, 3, 5});
}

static void a_value_popped_before_it_was_pushed(void)
{
    EXPECT(POPPED_BEFORE_PUSHED, {POPPED, 1, 0, 0, 1}, {PUSHED, 0, 0, 2, 3});
    EXPECT(LINEARISABLE, {POPPED, 1, 0, 0, 2}, {PUSHED, 0, 0, 1, 3});
}

static void values_of_one_sender_out_of_order(void)
{
    EXPECT(OUT_OF_ORDER, {PUSHED, 0, 0, 0, 1}, {PUSHED, 0, 1, 2, 3}, {POPPED, 1, 1, 4, 5}, {POPPED, 1, 0, 6, 7});
}

static void values_of_two_senders_out_of_order(void)
{
    EXPECT(OUT_OF_ORDER, {PUSHED, 0, 0, 0, 1}, {PUSHED, 1, 1, 2, 3}, {POPPED, 2, 1, 4, 5}, {POPPED, 3, 0, 6, 7});
    /* Pushes, or pops, that overlap may have happened in either order. */
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 2}, {PUSHED, 1, 1, 1, 3}, {POPPED, 2, 1, 4, 5}, {POPPED, 3, 0, 6, 7});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {PUSHED, 1, 1, 2, 3}, {POPPED, 2, 1, 4, 6}, {POPPED, 3, 0, 5, 7});
}

static void a_value_overtaken_for_ever(void)
{
    EXPECT(OUT_OF_ORDER, {PUSHED, 0, 0, 0, 1}, {PUSHED, 0, 1, 2, 3}, {POPPED, 1, 1, 4, 5});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {PUSHED, 0, 1, 2, 3}, {POPPED, 1, 0, 4, 5});
}

static void a_batch_out_of_order(void)
{
    EXPECT(OUT_OF_ORDER, {PUSHED, 0, 0, 0, 1}, {PUSHED, 0, 1, 0, 1}, {POPPED, 1, 1, 2, 3}, {POPPED, 1, 0, 4, 5});
    EXPECT(OUT_OF_ORDER, {PUSHED, 0, 0, 0, 1}, {PUSHED, 0, 1, 0, 1}, {POPPED, 1, 1, 2, 3}, {POPPED, 1, 0, 2, 3});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {PUSHED, 0, 1, 0, 1}, {POPPED, 1, 0, 2, 3}, {POPPED, 1, 1, 2, 3});
}

/* Two batches pushed at the same time, 0 1 and 2 3; 3 was popped before 0 and 1 before 2.  No two values disagree. */
static void a_cycle_that_is_no_pair(void)
{
    EXPECT(OUT_OF_ORDER,
           {PUSHED, 0, 0, 0, 2}, {PUSHED, 0, 1, 0, 2}, {PUSHED, 1, 2, 1, 3}, {PUSHED, 1, 3, 1, 3},
           {POPPED, 2, 3, 4, 6}, {POPPED, 3, 1, 5, 7}, {POPPED, 2, 0, 8, 10}, {POPPED, 3, 2, 9, 11});
}

static void empty_in_spite_of_a_value(void)
{
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 1}, {EMPTY, 1, 0, 2, 3}, {POPPED, 2, 0, 4, 5});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 2}, {EMPTY, 1, 0, 1, 3}, {POPPED, 2, 0, 4, 5});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {EMPTY, 1, 0, 2, 4}, {POPPED, 2, 0, 3, 5});
}

static void empty_in_spite_of_values_that_relieve_each_other(void)
{
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 1}, {EMPTY, 1, 0, 2, 9}, {PUSHED, 0, 1, 3, 4}, {POPPED, 2, 0, 5, 6},
           {POPPED, 2, 1, 10, 11});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {EMPTY, 1, 0, 2, 9}, {PUSHED, 0, 1, 3, 5}, {POPPED, 2, 0, 4, 6},
           {POPPED, 2, 1, 10, 11});
}

static void a_lost_value(void)
{
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 1}, {EMPTY, 1, 0, 2, 3});
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 1}, {NOTHING, 1, 0, 2, 3});
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 1}, {CLOSED, 0, 0, 2, 3}, {DRAINED, 1, 0, 4, 5});
}

static void nothing_published_excuses_nothing_found(void)
{
    /* Value 1 has been published, but 0, which may be ahead of it, has not: nothing, but not empty. */
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 6}, {PUSHED, 1, 1, 1, 2}, {NOTHING, 2, 0, 3, 4}, {POPPED, 2, 0, 7, 8},
           {POPPED, 2, 1, 9, 10});
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 6}, {PUSHED, 1, 1, 1, 2}, {EMPTY, 2, 0, 3, 4}, {POPPED, 2, 0, 7, 8},
           {POPPED, 2, 1, 9, 10});
    /* As before, but 0 is behind 1: it came later, or was popped later. */
    EXPECT(NOT_EMPTY, {PUSHED, 1, 1, 0, 1}, {PUSHED, 0, 0, 2, 6}, {NOTHING, 2, 0, 3, 4}, {POPPED, 2, 1, 7, 8});
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 6}, {PUSHED, 1, 1, 1, 2}, {NOTHING, 2, 0, 3, 4}, {POPPED, 2, 1, 7, 8},
           {POPPED, 2, 0, 9, 10});
    /* What was popped had been published. */
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 10}, {PUSHED, 1, 1, 1, 2}, {POPPED, 2, 0, 3, 4}, {NOTHING, 2, 0, 5, 6},
           {POPPED, 2, 1, 7, 8});
}

static void something_where_nothing_can_be(void)
{
    EXPECT(NOT_OCCUPIED, {OCCUPIED, 0, 0, 0, 1});
    EXPECT(NOT_OCCUPIED, {PUSHED, 0, 0, 0, 1}, {POPPED, 0, 0, 2, 3}, {OCCUPIED, 0, 0, 4, 5});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {POPPED, 1, 0, 2, 4}, {OCCUPIED, 0, 0, 3, 5});
    EXPECT(NOT_OCCUPIED, {CLOSED, 0, 0, 0, 1}, {NOT_DRAINED, 0, 0, 2, 3});
    EXPECT(LINEARISABLE, {CLOSED, 0, 0, 0, 2}, {NOT_DRAINED, 1, 0, 1, 3});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {CLOSED, 0, 0, 2, 3}, {NOT_DRAINED, 1, 0, 4, 5}, {POPPED, 0, 0, 6, 7});
}

static void a_close_that_is_not_final(void)
{
    EXPECT(NOT_FINAL, {CLOSED, 0, 0, 0, 1}, {PUSHED, 0, 0, 2, 3});
    EXPECT(LINEARISABLE, {CLOSED, 0, 0, 0, 2}, {PUSHED, 1, 0, 1, 3});
    EXPECT(NOT_FINAL, {CLOSED, 0, 0, 0, 5}, {REFUSED, 1, 0, 1, 2}, {PUSHED, 1, 0, 3, 4});
    EXPECT(NOT_FINAL, {CLOSED, 0, 0, 0, 1}, {OPEN, 1, 0, 2, 3});
    EXPECT(NOT_FINAL, {CLOSED, 0, 0, 0, 2}, {CLOSED, 1, 0, 1, 3});
}

static void shut_though_nobody_closed(void)
{
    EXPECT(NOT_FINAL, {REFUSED, 0, 0, 0, 1});
    EXPECT(NOT_FINAL, {SHUT, 0, 0, 0, 1}, {CLOSED, 1, 0, 2, 3});
    EXPECT(NOT_FINAL, {DRAINED, 0, 0, 0, 1});
    EXPECT(LINEARISABLE, {SHUT, 0, 0, 0, 2}, {CLOSED, 1, 0, 1, 3});
}

static void drained_too_early(void)
{
    EXPECT(NOT_EMPTY, {PUSHED, 0, 0, 0, 1}, {CLOSED, 0, 0, 2, 3}, {DRAINED, 1, 0, 4, 5}, {POPPED, 0, 0, 6, 7});
    EXPECT(LINEARISABLE, {PUSHED, 0, 0, 0, 1}, {CLOSED, 0, 0, 2, 3}, {POPPED, 0, 0, 4, 6}, {DRAINED, 1, 0, 5, 7});
}

/* ---- the exhaustive search of Wing and Gong (1993), for histories of a few events ---- */

enum { FEW = 9, ROUNDS = 5000 };

typedef struct search {
    const event *events;
    size_t n;
    bool claimed[FEW], done[FEW];
    unsigned queue[FEW]; /* positions of the pushes */
    size_t first, end;
    bool shut;
} search;

static bool may_be_next(const search *s, size_t i)
{
    const event *e = &s->events[i];
    if (s->done[i])
        return false;
    for (size_t k = 0; k < s->n; k++) {
        const event *other = &s->events[k];
        bool same_batch = k < i && other->thread == e->thread && other->fact == e->fact
                          && (e->fact == PUSHED || e->fact == POPPED);
        if (!s->done[k] && other->returned < e->invoked)
            return false;
        if (same_batch && !(s->done[k] || s->claimed[k]))
            return false;
    }
    return true;
}

static bool step(search *s, size_t i)
{
    const event *e = &s->events[i];
    bool empty = s->first == s->end;
    bool was_shut = s->shut, nothing = empty || !s->done[s->queue[s->first]];
    s->done[i] = true;
    switch (e->fact) {
    case PUSHED:
        if (s->claimed[i])
            return true;
        s->claimed[i] = true;
        s->done[i] = false;
        s->queue[s->end++] = (unsigned)i;
        return !s->shut;
    case POPPED:
        return !nothing && s->events[s->queue[s->first++]].value == e->value;
    case CLOSED:
        s->shut = true;
        return !was_shut;
    case NOTHING:
        return nothing;
    case EMPTY:
        return empty;
    case OCCUPIED:
        return !empty;
    case DRAINED:
        return s->shut && empty;
    case NOT_DRAINED:
        return !s->shut || !empty;
    case OPEN:
        return !s->shut;
    default:
        return s->shut;
    }
}

static bool has_order(const search *s)
{
    bool all_done = true;
    for (size_t i = 0; i < s->n; i++) {
        search next = *s;
        all_done = all_done && s->done[i];
        if (may_be_next(s, i) && step(&next, i) && has_order(&next))
            return true;
    }
    return all_done;
}

static uint64_t random_state = 88172645463325252u;

static unsigned pick(unsigned below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % below;
}

/* Random facts with random intervals, some of them in batches.  Pops begin after as many pushes and mostly keep their
   order, lest almost all histories be refused for that. */
static size_t invent(event *events, const fact_kind *facts, unsigned kinds, unsigned width)
{
    size_t n = 3 + pick(FEW - 2);
    unsigned pushed = 0, popped = 0, to_pop[FEW];
    for (size_t i = 0; i < n; i++) {
        event *e = &events[i];
        e->fact = facts[pick(kinds)];
        e->thread = (unsigned)i;
        e->value = 0;
        e->invoked = 100 * i + 2 * pick(width) * 50 + 2 * i;
        e->returned = e->invoked + 1 + 2 * pick(width) * 50;
        if (e->fact == POPPED && popped == pushed)
            e->fact = PUSHED;
        if (e->fact == PUSHED) {
            unsigned place = pick(pushed + 1);
            e->value = pushed;
                if (pick(3) || place < popped)
                place = pushed;
            memmove(to_pop + place + 1, to_pop + place, (pushed - place) * sizeof *to_pop);
            to_pop[place] = pushed++;
        } else if (e->fact == POPPED) {
            e->value = to_pop[popped++];
        }
        if (i && (e->fact == PUSHED || e->fact == POPPED) && events[i - 1].fact == e->fact && pick(3) == 0) {
            e->thread = events[i - 1].thread;
            e->invoked = events[i - 1].invoked;
            e->returned = events[i - 1].returned;
        }
    }
    return n;
}

static void agrees_with_exhaustive_search(const fact_kind *facts, unsigned kinds, bool exactly)
{
    unsigned accepted = 0, refused = 0, too_lenient = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        event events[FEW];
        size_t n = invent(events, facts, kinds, 2 + round % 4);
        search s = {.events = events, .n = n};
        bool legal = has_order(&s), accepts = history_check(events, n) == LINEARISABLE;
        CHECK(accepts || !legal);
        too_lenient += accepts && !legal;
        *(legal ? &accepted : &refused) += 1;
    }
    CHECK(accepted > ROUNDS / 10 && refused > ROUNDS / 10);
    CHECK(exactly ? !too_lenient : too_lenient * 50 < refused);
}

int main(void)
{
    a_value_nobody_pushed();
    a_value_whose_push_was_refused();
    a_value_popped_twice();
    a_value_popped_before_it_was_pushed();
    values_of_one_sender_out_of_order();
    values_of_two_senders_out_of_order();
    a_value_overtaken_for_ever();
    a_batch_out_of_order();
    a_cycle_that_is_no_pair();
    empty_in_spite_of_a_value();
    empty_in_spite_of_values_that_relieve_each_other();
    a_lost_value();
    nothing_published_excuses_nothing_found();
    something_where_nothing_can_be();
    a_close_that_is_not_final();
    shut_though_nobody_closed();
    drained_too_early();
    agrees_with_exhaustive_search((const fact_kind[]){PUSHED, PUSHED, POPPED, POPPED, EMPTY}, 5, true);
    agrees_with_exhaustive_search((const fact_kind[]){PUSHED, PUSHED, POPPED, POPPED, EMPTY, OCCUPIED}, 6, false);
    agrees_with_exhaustive_search((const fact_kind[]){PUSHED, PUSHED, PUSHED, POPPED, POPPED, NOTHING}, 6, false);
    agrees_with_exhaustive_search((const fact_kind[]){PUSHED, PUSHED, PUSHED, POPPED, POPPED, EMPTY, CLOSED, REFUSED,
                                                      SHUT, OPEN, DRAINED, NOT_DRAINED}, 12, false);
    return 0;
}
