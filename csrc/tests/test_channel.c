/* The channel: its two ends, who closed it, and those who wait at it. */
#include "channel.h"

#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "scarce_memory.h"
#include "shared.h"

/* Waiters that stand for tasks: woken ones are returned.  What a task is, is nobody's business here. */
enum { TASKS = 4 };

static int some_task;

static void init_tasks(waiter *tasks)
{
    for (int i = 0; i < TASKS; i++)
        waiter_init(&tasks[i], NULL, &some_task);
}

static void join_tasks(waiter *tasks, endpoint *e, waiter **list)
{
    init_tasks(tasks);
    for (int i = 0; i < TASKS; i++)
        waiter_join(&tasks[i], e, list);
}

static void leave_tasks(waiter *tasks, endpoint *e)
{
    for (int i = 0; i < TASKS; i++)
        waiter_leave(&tasks[i], e);
}

/* A bit for each of the tasks in a list that a call returned. */
static int members(waiter *list, waiter *tasks)
{
    int seen = 0;
    for (waiter *w = list; w; w = w->next) {
        int bit = 1 << (w - tasks);
        CHECK(!(seen & bit));
        seen |= bit;
    }
    return seen;
}

static bool has_token(parker *p)
{
    return parker_park(p, parker_now()) == PARKER_UNPARKED;
}

static void *take(endpoint *e)
{
    bool attention;
    return endpoint_take(e, &attention);
}

static void a_new_channel_is_open_empty_and_bounded_as_asked(void)
{
    channel *c = channel_new(3, true);
    CHECK(c->closed_by == CHANNEL_OPEN && c->by_reference);
    for (int i = 0; i < 2; i++) {
        endpoint *e = &c->side[i];
        CHECK(!ring_closed(&e->inbox) && ring_length(&e->inbox) == 0 && !e->receivers && !e->senders);
        CHECK(ring_reserve(&e->inbox, 9) == 3);
        CHECK(!c->side[i].close_told && !c->side[i].listening);
    }
    channel_decref(c);
    channel_decref(c);
}

static void no_memory_no_channel(void)
{
    memory_left = 0;
    CHECK(!channel_new(0, false));
    memory_left = MEMORY_ABOUNDS;
}

static void the_last_reference_frees(void)
{
    channel *c = channel_new(0, false);
    channel_incref(c);
    channel_decref(c);
    channel_decref(c);
    CHECK(c->references == 1);
    CHECK(ring_push(&c->side[0].inbox, c) == 0 && take(&c->side[0]) == c);
    channel_decref(c);
}

static void the_sides_are_independent_queues(void)
{
    channel *c = channel_new(0, false);
    int a, b;
    CHECK(ring_push(&c->side[0].inbox, &a) == 0 && ring_push(&c->side[1].inbox, &b) == 0);
    CHECK(take(&c->side[0]) == &a && take(&c->side[1]) == &b);
    channel_decref(c);
    channel_decref(c);
}

static void who_closes_first_closes_both_directions(void)
{
    for (int side = 0; side < 2; side++) {
        channel *c = channel_new(0, false);
        waiter *told;
        CHECK(channel_close(c, side, &told) && !told);
        CHECK(ring_closed(&c->side[0].inbox) && ring_closed(&c->side[1].inbox));
        CHECK(!channel_close(c, side, &told) && !told);
        CHECK(!channel_close(c, !side, &told) && !told);
        CHECK(c->closed_by == side);
        channel_decref(c);
        channel_decref(c);
    }
}

typedef struct closer {
    channel *c;
    int side;
    bool won;
} closer;

static void *close_side(void *argument)
{
    closer *me = argument;
    waiter *told;
    me->won = channel_close(me->c, me->side, &told);
    return NULL;
}

static void of_two_that_close_at_once_one_wins(void)
{
    for (int round = 0; round < 200; round++) {
        channel *c = channel_new(0, false);
        closer closers[2] = {{.c = c, .side = 0}, {.c = c, .side = 1}};
        pthread_t thread;
        CHECK(!pthread_create(&thread, NULL, close_side, &closers[1]));
        close_side(&closers[0]);
        CHECK(!pthread_join(thread, NULL));
        CHECK(closers[0].won != closers[1].won);
        CHECK(closers[c->closed_by].won);
        channel_decref(c);
        channel_decref(c);
    }
}

static void wakes_come_in_the_order_of_joining(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    waiter tasks[TASKS];
    join_tasks(tasks, e, &e->receivers);
    for (int i = 0; i < TASKS; i++)
        CHECK(endpoint_wake(e, &e->receivers) == &tasks[i]);
    CHECK(!endpoint_wake(e, &e->receivers));
    channel_decref(c);
    channel_decref(c);
}

static void who_leaves_is_skipped_and_joins_at_the_end(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    for (int leaver = 0; leaver < TASKS; leaver++) {
        waiter tasks[TASKS];
        join_tasks(tasks, e, &e->receivers);
        CHECK(waiter_leave(&tasks[leaver], e));
        waiter_join(&tasks[leaver], e, &e->receivers);
        for (int i = 0; i < TASKS; i++)
            if (i != leaver)
                CHECK(endpoint_wake(e, &e->receivers) == &tasks[i]);
        CHECK(endpoint_wake(e, &e->receivers) == &tasks[leaver]);
        CHECK(!e->receivers);
    }
    channel_decref(c);
    channel_decref(c);
}

static void leaving_tells_whether_one_was_woken(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    waiter w;
    waiter_init(&w, NULL, &some_task);
    CHECK(!waiter_leave(&w, e));
    waiter_join(&w, e, &e->receivers);
    CHECK(waiter_leave(&w, e) && !e->receivers);
    CHECK(!waiter_leave(&w, e));
    waiter_join(&w, e, &e->receivers);
    CHECK(endpoint_wake(e, &e->receivers) == &w);
    CHECK(!waiter_leave(&w, e));
    channel_decref(c);
    channel_decref(c);
}

static void a_thread_is_unparked_and_a_task_returned(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    parker p;
    waiter thread, task;
    parker_init(&p);
    waiter_init(&thread, &p, NULL);
    waiter_init(&task, &p, &some_task);
    waiter_join(&thread, e, &e->receivers);
    waiter_join(&task, e, &e->receivers);
    CHECK(!endpoint_wake(e, &e->receivers) && has_token(&p));
    CHECK(endpoint_wake(e, &e->receivers) == &task && !task.next && !has_token(&p));
    parker_destroy(&p);
    channel_decref(c);
    channel_decref(c);
}

static void receivers_and_senders_are_woken_apart(void)
{
    channel *c = channel_new(1, false);
    endpoint *e = &c->side[0];
    waiter receiver, sender;
    waiter_init(&receiver, NULL, &some_task);
    waiter_init(&sender, NULL, &some_task);
    waiter_join(&receiver, e, &e->receivers);
    waiter_join(&sender, e, &e->senders);
    CHECK(endpoint_wake(e, &e->senders) == &sender && !endpoint_wake(e, &e->senders));
    CHECK(endpoint_wake(e, &e->receivers) == &receiver && !endpoint_wake(e, &e->receivers));
    channel_decref(c);
    channel_decref(c);
}

static void wake_all_wakes_both_lists_and_keeps_the_tasks_it_was_given(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    parker p;
    waiter tasks[TASKS], thread;
    init_tasks(tasks);
    parker_init(&p);
    waiter_init(&thread, &p, NULL);
    waiter_join(&tasks[0], e, &e->receivers);
    waiter_join(&thread, e, &e->receivers);
    waiter_join(&tasks[1], e, &e->receivers);
    waiter_join(&tasks[2], e, &e->senders);
    CHECK(members(endpoint_wake_all(e, &tasks[3]), tasks) == 15);
    CHECK(has_token(&p) && !e->receivers && !e->senders);
    CHECK(endpoint_wake_all(e, NULL) == NULL);
    parker_destroy(&p);
    channel_decref(c);
    channel_decref(c);
}

static void closing_wakes_all_on_both_sides(void)
{
    channel *c = channel_new(1, false);
    parker parkers[2];
    waiter tasks[TASKS], threads[2], *told;
    init_tasks(tasks);
    for (int i = 0; i < 2; i++) {
        endpoint *e = &c->side[i];
        parker_init(&parkers[i]);
        waiter_init(&threads[i], &parkers[i], NULL);
        waiter_join(&tasks[2 * i], e, &e->receivers);
        waiter_join(&threads[i], e, i ? &e->senders : &e->receivers);
        waiter_join(&tasks[2 * i + 1], e, &e->senders);
    }
    CHECK(channel_close(c, 1, &told));
    CHECK(members(told, tasks) == 15);
    for (int i = 0; i < 2; i++) {
        CHECK(has_token(&parkers[i]) && !waiter_leave(&threads[i], &c->side[i]));
        parker_destroy(&parkers[i]);
    }
    channel_decref(c);
    channel_decref(c);
}

static void passing_on_does_nothing_when_nobody_waits(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    CHECK(!endpoint_pass_on(e));
    /* Not armed: nobody would answer the wake-up. */
    CHECK(ring_push(&e->inbox, c) == 0);
    CHECK(!endpoint_pass_on(e));
    CHECK(take(e) == c);
    channel_decref(c);
    channel_decref(c);
}

static void passing_on_arms_an_empty_queue_for_those_who_stay(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    waiter tasks[TASKS];
    join_tasks(tasks, e, &e->receivers);
    CHECK(!endpoint_pass_on(e));
    CHECK(ring_push(&e->inbox, c) == RING_WAKE);
    CHECK(take(e) == c);
    leave_tasks(tasks, e);
    channel_decref(c);
    channel_decref(c);
}

static void passing_on_wakes_the_next_when_there_is_work(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    waiter tasks[TASKS];
    join_tasks(tasks, e, &e->receivers);
    CHECK(ring_push(&e->inbox, c) == 0);
    CHECK(endpoint_pass_on(e) == &tasks[0]);
    CHECK(endpoint_pass_on(e) == &tasks[1]);
    CHECK(take(e) == c);
    CHECK(!endpoint_pass_on(e));
    leave_tasks(tasks, e);
    channel_decref(c);
    channel_decref(c);
}

static void passing_on_wakes_the_next_when_the_queue_has_ended(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    waiter tasks[TASKS], *told;
    channel_close(c, 0, &told);
    join_tasks(tasks, e, &e->receivers);
    for (int i = 0; i < TASKS; i++)
        CHECK(endpoint_pass_on(e) == &tasks[i]);
    channel_decref(c);
    channel_decref(c);
}

static void room_is_offered_to_one_sender_and_only_when_there_is_some(void)
{
    channel *c = channel_new(2, false);
    endpoint *e = &c->side[0];
    waiter tasks[TASKS];
    CHECK(!endpoint_offer_room(e));
    CHECK(ring_reserve(&e->inbox, 2) == 2);
    join_tasks(tasks, e, &e->senders);
    CHECK(!endpoint_offer_room(e));
    ring_return_room(&e->inbox, 1);
    CHECK(endpoint_offer_room(e) == &tasks[0]);
    CHECK(ring_reserve(&e->inbox, 1) == 1);
    CHECK(!endpoint_offer_room(e));
    leave_tasks(tasks, e);
    channel_decref(c);
    channel_decref(c);
}

static void taking_returns_room_and_asks_for_attention(void)
{
    channel *c = channel_new(1, false);
    endpoint *e = &c->side[0];
    bool attention = true;
    CHECK(!endpoint_take(e, &attention) && !attention);
    CHECK(ring_reserve(&e->inbox, 1) == 1 && ring_push(&e->inbox, c) == 0);
    CHECK(ring_reserve(&e->inbox, 1) == 0);
    CHECK(endpoint_take(e, &attention) == c && attention);
    CHECK(ring_reserve(&e->inbox, 2) == 1);
    channel_decref(c);
    channel_decref(c);
}

static void taking_from_an_unbounded_queue_asks_for_attention_once_it_is_closed(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    waiter *told;
    bool attention = true;
    CHECK(ring_push(&e->inbox, c) == 0 && ring_push(&e->inbox, c) == 0);
    CHECK(endpoint_take(e, &attention) == c && !attention);
    channel_close(c, 0, &told);
    CHECK(endpoint_take(e, &attention) == c && attention);
    CHECK(!endpoint_take(e, &attention) && attention);
    channel_decref(c);
    channel_decref(c);
}

static void *publish_late(void *slot)
{
    static int message;
    parker p;
    parker_init(&p);
    CHECK(parker_park(&p, parker_now() + 20000000) == PARKER_TIMED_OUT);
    parker_destroy(&p);
    atomic_store_explicit((_Atomic(void *) *)slot, &message, memory_order_release);
    return NULL;
}

static void taking_waits_for_a_message_that_is_claimed_but_not_published(void)
{
    channel *c = channel_new(0, false);
    endpoint *e = &c->side[0];
    int first, behind;
    pthread_t sender;
    CHECK(ring_push(&e->inbox, &first) == 0);
    CHECK(take(e) == &first);
    /* What a sender has done when it is held up between the two steps of ring_push. */
    uintptr_t tail = atomic_fetch_add(&e->inbox.tail, 1);
    CHECK(ring_push(&e->inbox, &behind) == 0);
    CHECK(!pthread_create(&sender, NULL, publish_late, (void *)&RING_SEGMENT(tail)->slot[tail & RING_OFFSET]));
    void *held_up = take(e);
    CHECK(held_up && held_up != &behind);
    CHECK(take(e) == &behind);
    CHECK(!take(e));
    CHECK(!pthread_join(sender, NULL));
    channel_decref(c);
    channel_decref(c);
}

enum { ROUNDS = 20000, THREADS = 2 };

static struct {
    spin_lock lock;
    volatile long guarded;
    shared_number claimed[ROUNDS];
    _Atomic(long) claims, arrivals;
} contended;

static void *contend(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        /* All set out on each round together. */
        unsigned spins = 0;
        for (contended.arrivals++; contended.arrivals < (long)THREADS * (i + 1);)
            pause_backoff(&spins);
        contended.claims += shared_claim(&contended.claimed[i], 0, 1);
        spin_acquire(&contended.lock);
        long seen = contended.guarded;
        sched_yield();
        contended.guarded = seen + 1;
        spin_release(&contended.lock);
    }
    return unused;
}

static void one_thread_holds_a_lock_and_one_claims_a_number(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, contend, NULL));
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(contended.guarded == THREADS * ROUNDS);
    CHECK(contended.claims == ROUNDS);
}

int main(void)
{
    /* The watchdog: SIGALRM ends a test that hangs, and a test that a signal ended has failed. */
    alarm(30);
    a_new_channel_is_open_empty_and_bounded_as_asked();
    no_memory_no_channel();
    the_last_reference_frees();
    the_sides_are_independent_queues();
    who_closes_first_closes_both_directions();
    of_two_that_close_at_once_one_wins();
    wakes_come_in_the_order_of_joining();
    who_leaves_is_skipped_and_joins_at_the_end();
    leaving_tells_whether_one_was_woken();
    a_thread_is_unparked_and_a_task_returned();
    receivers_and_senders_are_woken_apart();
    wake_all_wakes_both_lists_and_keeps_the_tasks_it_was_given();
    closing_wakes_all_on_both_sides();
    passing_on_does_nothing_when_nobody_waits();
    passing_on_arms_an_empty_queue_for_those_who_stay();
    passing_on_wakes_the_next_when_there_is_work();
    passing_on_wakes_the_next_when_the_queue_has_ended();
    room_is_offered_to_one_sender_and_only_when_there_is_some();
    taking_returns_room_and_asks_for_attention();
    taking_from_an_unbounded_queue_asks_for_attention_once_it_is_closed();
    taking_waits_for_a_message_that_is_claimed_but_not_published();
    one_thread_holds_a_lock_and_one_claims_a_number();
    return 0;
}
