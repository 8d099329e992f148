/* The ring in one thread: what each call promises, at every position in a segment. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pool.h"
#include "ring.h"
#include "scarce_memory.h"

enum { SLOTS = (int)RING_SLOTS, MANY = 5 * SLOTS + 1 };

/* Message i is the address of cell[i]. */
static char cell[4 * MANY];

static void *message(size_t i)
{
    return &cell[i];
}

static void *pop(ring *r)
{
    bool shut;
    return ring_pop(r, &shut);
}

static void push(ring *r, size_t first, size_t n)
{
    for (size_t i = first; i < first + n; i++)
        CHECK(ring_push(r, message(i)) == 0);
}

static void expect(ring *r, size_t first, size_t n)
{
    for (size_t i = first; i < first + n; i++)
        CHECK(pop(r) == message(i));
}

/* A ring whose next slot is the `offset`-th of a segment, and which is empty. */
static void init_at(ring *r, size_t offset)
{
    ring_init(r, 0);
    push(r, 0, offset);
    expect(r, 0, offset);
}

static void drain_and_destroy(ring *r)
{
    while (pop(r))
        ;
    ring_destroy(r);
}

static void never_used(void)
{
    ring r;
    ring_init(&r, 0);
    CHECK(!pop(&r));
    CHECK(ring_length(&r) == 0 && ring_pushed(&r) == 0 && ring_peak(&r) == 0);
    CHECK(!ring_closed(&r) && !ring_drained(&r));
    ring_destroy(&r);
}

static void fifo_over_many_segments(void)
{
    ring r;
    ring_init(&r, 0);
    push(&r, 0, MANY);
    expect(&r, 0, MANY);
    CHECK(!pop(&r));
    ring_destroy(&r);
}

static void fifo_with_every_backlog(void)
{
    for (size_t backlog = 0; backlog <= 2 * SLOTS; backlog++) {
        ring r;
        ring_init(&r, 0);
        push(&r, 0, backlog);
        for (size_t i = 0; i < MANY; i++) {
            push(&r, backlog + i, 1);
            expect(&r, i, 1);
        }
        drain_and_destroy(&r);
    }
}

static void push_many_keeps_order_across_edges(void)
{
    for (size_t offset = 0; offset <= SLOTS; offset++) {
        for (size_t n = 0; n <= 3 * SLOTS; n++) {
            ring r;
            void *items[3 * SLOTS];
            int outcome;
            init_at(&r, offset);
            for (size_t i = 0; i < n; i++)
                items[i] = message(offset + i);
            CHECK(ring_push_many(&r, items, n, &outcome) == n && outcome == 0);
            CHECK(ring_length(&r) == n && ring_pushed(&r) == offset + n);
            push(&r, offset + n, 1);
            expect(&r, offset, n + 1);
            CHECK(!pop(&r));
            ring_destroy(&r);
        }
    }
}

static void pop_many_takes_what_is_there_up_to_the_limit(void)
{
    for (size_t offset = 0; offset <= SLOTS; offset++) {
        for (size_t limit = 0; limit <= 3 * SLOTS; limit++) {
            ring r;
            void *items[3 * SLOTS + 1];
            init_at(&r, offset);
            CHECK(ring_pop_many(&r, items, limit) == 0);
            push(&r, offset, 2 * SLOTS);
            size_t expected = limit < 2 * SLOTS ? limit : 2 * SLOTS;
            items[expected] = NULL;
            CHECK(ring_pop_many(&r, items, limit) == expected && !items[expected]);
            for (size_t i = 0; i < expected; i++)
                CHECK(items[i] == message(offset + i));
            expect(&r, offset + expected, 2 * SLOTS - expected);
            CHECK(!pop(&r));
            ring_destroy(&r);
        }
    }
}

static void pop_tells_whether_the_ring_was_closed(void)
{
    ring r;
    bool shut = true;
    ring_init(&r, 0);
    CHECK(!ring_pop(&r, &shut) && !shut);
    push(&r, 0, 2);
    CHECK(ring_pop(&r, &shut) == message(0) && !shut);
    ring_close(&r);
    CHECK(ring_pop(&r, &shut) == message(1) && shut);
    CHECK(!ring_pop(&r, &shut) && shut);
    ring_destroy(&r);
}

static void closed_ring_refuses_pushes_but_drains(void)
{
    for (size_t n = 0; n <= 2 * SLOTS; n++) {
        ring r;
        void *items[] = {message(0), message(1), message(2)};
        int outcome;
        ring_init(&r, 0);
        push(&r, 0, n);
        CHECK(ring_close(&r));
        CHECK(ring_closed(&r));
        for (size_t left = n; left; left--) {
            CHECK(ring_push(&r, message(0)) == RING_CLOSED);
            CHECK(ring_push_many(&r, items, 3, &outcome) == 0 && outcome == RING_CLOSED);
            CHECK(!ring_drained(&r) && ring_arm(&r) == RING_NOT_EMPTY && ring_length(&r) == left);
            expect(&r, n - left, 1);
        }
        CHECK(ring_push(&r, message(0)) == RING_CLOSED);
        CHECK(ring_drained(&r) && ring_arm(&r) == RING_CLOSED && ring_pushed(&r) == n && !pop(&r));
        ring_destroy(&r);
    }
}

static void only_the_first_close_says_true(void)
{
    ring r;
    ring_init(&r, 0);
    CHECK(ring_close(&r));
    CHECK(!ring_close(&r));
    ring_destroy(&r);
}

static void an_open_ring_is_never_drained(void)
{
    ring r;
    ring_init(&r, 0);
    push(&r, 0, 1);
    expect(&r, 0, 1);
    CHECK(!ring_drained(&r));
    ring_destroy(&r);
}

static void an_armed_ring_owes_exactly_one_wake_up_for_a_push(void)
{
    ring r;
    ring_init(&r, 0);
    for (size_t i = 0; i < 2 * MANY; i += 2) {
        CHECK(ring_arm(&r) == RING_ARMED);
        CHECK(ring_arm(&r) == RING_ARMED);
        CHECK(!pop(&r) && ring_length(&r) == 0);
        CHECK(ring_push(&r, message(i)) == RING_WAKE);
        CHECK(ring_arm(&r) == RING_NOT_EMPTY);
        CHECK(ring_push(&r, message(i + 1)) == 0);
        expect(&r, i, 2);
    }
    ring_destroy(&r);
}

static void an_armed_ring_owes_exactly_one_wake_up_for_a_batch(void)
{
    for (size_t offset = 0; offset <= SLOTS; offset++) {
        for (size_t n = 1; n <= 2 * SLOTS; n++) {
            ring r;
            void *items[2 * SLOTS];
            int outcome;
            init_at(&r, offset);
            for (size_t i = 0; i < n; i++)
                items[i] = message(i);
            CHECK(ring_arm(&r) == RING_ARMED);
            CHECK(ring_push_many(&r, items, n, &outcome) == n && outcome == RING_WAKE);
            CHECK(ring_push_many(&r, items, n, &outcome) == n && outcome == 0);
            drain_and_destroy(&r);
        }
    }
}

static void a_close_disarms(void)
{
    for (size_t offset = 0; offset <= SLOTS; offset++) {
        ring r;
        init_at(&r, offset);
        CHECK(ring_arm(&r) == RING_ARMED && ring_is_armed(&r));
        CHECK(ring_close(&r) && !ring_is_armed(&r));
        CHECK(!ring_close(&r) && !ring_disarm(&r));
        CHECK(ring_push(&r, message(0)) == RING_CLOSED);
        CHECK(ring_arm(&r) == RING_CLOSED && ring_drained(&r));
        ring_destroy(&r);
    }
}

static void announce_flags_every_push_and_counts_what_waits(void)
{
    ring r;
    void *items[2 * SLOTS];
    int outcome;
    ring_init(&r, 0);
    for (size_t i = 0; i < 2 * SLOTS; i++)
        items[i] = message(i);
    CHECK(ring_announce(&r, true) == 0);
    for (int i = 0; i < SLOTS; i++)
        CHECK(ring_push(&r, message(0)) == RING_ANNOUNCE);
    CHECK(ring_push_many(&r, items, 2 * SLOTS, &outcome) == 2 * SLOTS && outcome == RING_ANNOUNCE);
    CHECK(ring_announce(&r, false) == 3 * SLOTS);
    CHECK(ring_push(&r, message(0)) == 0);
    CHECK(ring_announce(&r, true) == 3 * SLOTS + 1);
    while (pop(&r))
        ;
    CHECK(ring_arm(&r) == RING_ARMED);
    CHECK(ring_push(&r, message(0)) == (RING_WAKE | RING_ANNOUNCE));
    drain_and_destroy(&r);
}

static void length_pushed_and_peak(void)
{
    ring r;
    ring_init(&r, 0);
    for (size_t i = 0; i < MANY; i++) {
        CHECK(ring_length(&r) == i && ring_pushed(&r) == i && ring_peak(&r) == i);
        push(&r, i, 1);
    }
    for (size_t i = 0; i < MANY; i++) {
        CHECK(ring_length(&r) == MANY - i && ring_pushed(&r) == MANY && ring_peak(&r) == MANY);
        expect(&r, i, 1);
    }
    CHECK(ring_length(&r) == 0 && ring_pushed(&r) == MANY && ring_peak(&r) == MANY);
    ring_destroy(&r);
}

static void pops_note_the_peak(void)
{
    for (int many = 0; many < 2; many++) {
        ring r;
        void *items[MANY];
        ring_init(&r, 0);
        push(&r, 0, MANY);
        if (many)
            CHECK(ring_pop_many(&r, items, MANY) == MANY);
        else
            expect(&r, 0, MANY);
        CHECK(ring_peak(&r) == MANY);
        ring_destroy(&r);
    }
}

/* A ring with `n` messages in which the thread that installed the second segment is held up before it could say how many
   messages came before, so that later segments do not know it either. */
static void init_with_gap(ring *r, size_t n)
{
    ring_init(r, 0);
    push(r, 0, SLOTS);
    atomic_store(&RING_SEGMENT(atomic_load(&r->tail))->first, RING_UNKNOWN);
    push(r, SLOTS, n - SLOTS);
    CHECK(atomic_load(&RING_SEGMENT(atomic_load(&r->tail))->first) == RING_UNKNOWN);
}

static void counts_are_right_in_spite_of_a_gap(void)
{
    for (size_t n = SLOTS; n <= MANY; n++) {
        ring r;
        init_with_gap(&r, n);
        CHECK(ring_length(&r) == n && ring_pushed(&r) == n && ring_peak(&r) == n);
        expect(&r, 0, n);
        CHECK(ring_length(&r) == 0 && ring_pushed(&r) == n);
        ring_destroy(&r);
    }
}

static void pops_fill_the_gap(void)
{
    ring r;
    init_with_gap(&r, MANY);
    expect(&r, 0, MANY);
    CHECK(ring_pushed(&r) == MANY && ring_length(&r) == 0);
    CHECK(atomic_load(&RING_SEGMENT(atomic_load(&r.tail))->first) == MANY / SLOTS * SLOTS);
    ring_destroy(&r);
}

/* Else every later count walks the backlog again, with the consumers kept waiting. */
static void counting_fills_the_gap(void)
{
    ring r;
    init_with_gap(&r, MANY);
    CHECK(ring_length(&r) == MANY);
    CHECK(atomic_load(&RING_SEGMENT(atomic_load(&r.tail))->first) == MANY / SLOTS * SLOTS);
    drain_and_destroy(&r);
}

static void room_is_bounded_by_the_capacity(void)
{
    ring r;
    ring_init(&r, 5);
    CHECK(ring_reserve(&r, 2) == 2);
    CHECK(ring_reserve(&r, 9) == 3);
    CHECK(ring_reserve(&r, 1) == 0);
    ring_return_room(&r, 4);
    CHECK(ring_reserve(&r, 1) == 1);
    CHECK(ring_reserve(&r, 0) == 0);
    CHECK(ring_reserve(&r, 9) == 3);
    ring_destroy(&r);
}

static void an_unbounded_ring_always_has_room(void)
{
    ring r;
    ring_init(&r, 0);
    CHECK(ring_reserve(&r, 1) == 1);
    CHECK(ring_reserve(&r, SIZE_MAX) == SIZE_MAX);
    ring_return_room(&r, 1);
    CHECK(ring_reserve(&r, SIZE_MAX) == SIZE_MAX);
    ring_destroy(&r);
}

typedef struct visitor {
    size_t next;
    size_t end;
} visitor;

static int visit_in_order(void *item, void *argument)
{
    visitor *v = argument;
    CHECK(item == message(v->next));
    return ++v->next == v->end ? 7 : 0;
}

static void visit_sees_every_waiting_message_in_order(void)
{
    ring r;
    visitor v = {.next = 0, .end = SIZE_MAX};
    ring_init(&r, 0);
    CHECK(ring_visit(&r, visit_in_order, &v) == 0 && v.next == 0);
    push(&r, 0, MANY);
    for (size_t popped = 0; popped <= MANY; popped++) {
        v.next = popped;
        CHECK(ring_visit(&r, visit_in_order, &v) == 0 && v.next == MANY);
        if (popped < MANY)
            expect(&r, popped, 1);
    }
    ring_destroy(&r);
}

static void visit_ends_with_the_first_answer_that_is_not_zero(void)
{
    ring r;
    ring_init(&r, 0);
    push(&r, 0, MANY);
    for (size_t end = 1; end <= MANY; end++) {
        visitor v = {.next = 0, .end = end};
        CHECK(ring_visit(&r, visit_in_order, &v) == 7 && v.next == end);
    }
    drain_and_destroy(&r);
}

static void a_short_queue_uses_two_segments_for_ever(void)
{
    ring r;
    ring_segment *seen[2] = {NULL, NULL};
    ring_init(&r, 0);
    for (size_t i = 0; i < 3 * MANY; i++) {
        push(&r, i, 1);
        expect(&r, i, 1);
        ring_segment *s = RING_SEGMENT(atomic_load(&r.tail));
        int known = 0;
        while (known < 2 && seen[known] && seen[known] != s)
            known++;
        CHECK(known < 2);
        seen[known] = s;
    }
    CHECK(seen[1]);
    ring_destroy(&r);
}

static size_t empty_pool(void)
{
    size_t n = 0;
    for (void *segment; (segment = pool_get()); n++)
        free(segment);
    return n;
}

static void segments_that_one_ring_leaves_serve_another(void)
{
    ring r, other;
    size_t kept = POOL_PLACES * SLOTS;
    empty_pool();
    ring_init(&r, 0);
    ring_init(&other, 0);
    for (size_t i = 0; i < 2 * kept; i++)
        CHECK(ring_push(&r, message(i % MANY)) == 0);
    for (size_t i = 0; i < 2 * kept; i++)
        CHECK(pop(&r) == message(i % MANY));
    memory_left = 0;
    for (size_t i = 0; i < kept - 1; i++)
        CHECK(ring_push(&other, message(i % MANY)) == 0);
    CHECK(ring_push(&other, message(0)) == RING_NO_MEMORY);
    memory_left = MEMORY_ABOUNDS;
    for (size_t i = 0; i < kept - 1; i++)
        CHECK(pop(&other) == message(i % MANY));
    CHECK(empty_pool() == POOL_PLACES - 2);
    ring_destroy(&other);
    ring_destroy(&r);
}

static void out_of_memory_pushes_nothing_and_harms_nothing(void)
{
    ring r;
    empty_pool();
    ring_init(&r, 0);
    memory_left = 0;
    CHECK(ring_push(&r, message(0)) == RING_NO_MEMORY);
    CHECK(ring_length(&r) == 0 && ring_arm(&r) == RING_ARMED);
    memory_left = 1;
    CHECK(ring_push(&r, message(0)) == RING_WAKE);
    push(&r, 1, SLOTS - 2);
    CHECK(ring_push(&r, message(SLOTS)) == RING_NO_MEMORY);
    memory_left = MEMORY_ABOUNDS;
    push(&r, SLOTS - 1, 2);
    expect(&r, 0, SLOTS + 1);
    CHECK(!pop(&r));
    ring_destroy(&r);
}

static void a_batch_cut_short_by_memory_still_owes_its_wake_up(void)
{
    ring r;
    void *items[2 * SLOTS];
    int outcome;
    empty_pool();
    ring_init(&r, 0);
    for (size_t i = 0; i < 2 * SLOTS; i++)
        items[i] = message(i);
    CHECK(ring_arm(&r) == RING_ARMED);
    memory_left = 1;
    CHECK(ring_push_many(&r, items, 2 * SLOTS, &outcome) == SLOTS - 1 && outcome == RING_WAKE);
    CHECK(ring_push_many(&r, items, 2 * SLOTS, &outcome) == 0 && outcome == RING_NO_MEMORY);
    memory_left = MEMORY_ABOUNDS;
    expect(&r, 0, SLOTS - 1);
    CHECK(!pop(&r));
    ring_destroy(&r);
}

int main(void)
{
    never_used();
    fifo_over_many_segments();
    fifo_with_every_backlog();
    push_many_keeps_order_across_edges();
    pop_many_takes_what_is_there_up_to_the_limit();
    pop_tells_whether_the_ring_was_closed();
    closed_ring_refuses_pushes_but_drains();
    only_the_first_close_says_true();
    an_open_ring_is_never_drained();
    an_armed_ring_owes_exactly_one_wake_up_for_a_push();
    an_armed_ring_owes_exactly_one_wake_up_for_a_batch();
    a_close_disarms();
    announce_flags_every_push_and_counts_what_waits();
    length_pushed_and_peak();
    pops_note_the_peak();
    counts_are_right_in_spite_of_a_gap();
    pops_fill_the_gap();
    counting_fills_the_gap();
    room_is_bounded_by_the_capacity();
    an_unbounded_ring_always_has_room();
    visit_sees_every_waiting_message_in_order();
    visit_ends_with_the_first_answer_that_is_not_zero();
    a_short_queue_uses_two_segments_for_ever();
    segments_that_one_ring_leaves_serve_another();
    out_of_memory_pushes_nothing_and_harms_nothing();
    a_batch_cut_short_by_memory_still_owes_its_wake_up();
    return 0;
}
