/* Both sides of a link, in one process: who waits for what of the other side. */
#include "check.h"
#include "link.h"

#include <sys/socket.h>

#include "shared_memory.h"

static unsigned char body[LINK_RING_BYTES];

typedef struct pair {
    far_link *here, *there;
} pair;

static pair new_pair(void)
{
    int far[2];
    pair p = {.here = link_new(far)};
    CHECK(p.here);
    p.there = link_attach(far[0], far[1], 1);
    CHECK(p.there);
    return p;
}

static void drop_pair(pair p)
{
    link_decref(p.here);
    link_decref(p.there);
}

static bool take_one(far_link *l)
{
    link_message m;
    link_begin(l);
    bool some = link_next(l, &m) == LINK_OK;
    if (some)
        link_take(l, &m, NULL);
    link_finish(l);
    return some;
}

static void write_one(far_link *l, size_t length)
{
    CHECK(link_write(l, LINK_WHOLE, 0, 0, NULL, body, length, true) == (int64_t)length);
}

static bool has_bell(far_link *l)
{
    char bell;
    return recv(l->socket, &bell, 1, MSG_DONTWAIT) == 1;
}

/* What endpoint_offer_room does for a sender who waits until messages are taken. */
static bool arm_for_credit(far_link *l)
{
    for (bool armed = false;;) {
        if (l->transport.calls->collect(&l->transport) > 0)
            return false;
        if (armed)
            return true;
        armed = l->transport.calls->arm_room(&l->transport);
    }
}

static void test_the_pump_does_not_sleep_on_room_that_a_waiting_sender_saw(void)
{
    pair p = new_pair();
    size_t half = link_longest(p.here);
    write_one(p.here, half);
    write_one(p.here, half);
    CHECK(link_write(p.here, LINK_WHOLE, 0, 0, NULL, body, half, true) == LINK_FULL);
    /* Everything is taken, so that no release will follow, and somebody waits for more to be taken. */
    CHECK(take_one(p.there) && take_one(p.there) && !take_one(p.there));
    CHECK(!arm_for_credit(p.here) && arm_for_credit(p.here));
    CHECK(!link_arm_room(p.here));
    write_one(p.here, half);
    /* The other way round: the room was the pump's before it was taken. */
    write_one(p.here, half);
    CHECK(link_write(p.here, LINK_WHOLE, 0, 0, NULL, body, half, true) == LINK_FULL);
    CHECK(link_arm_room(p.here) && arm_for_credit(p.here));
    CHECK(take_one(p.there));
    CHECK(!link_arm_room(p.here));
    drop_pair(p);
}

static void test_a_full_ring_is_armed_for_the_pump_and_for_a_waiting_sender(void)
{
    pair p = new_pair();
    size_t half = link_longest(p.here);
    write_one(p.here, half);
    write_one(p.here, half);
    CHECK(arm_for_credit(p.here));
    CHECK(link_write(p.here, LINK_WHOLE, 0, 0, NULL, body, half, true) == LINK_FULL);
    CHECK(link_arm_room(p.here));
    CHECK(take_one(p.there));
    CHECK(has_bell(p.here) && !has_bell(p.here));
    drop_pair(p);
}

/* Returns the segment's number. */
static int lend(far_link *l, size_t size)
{
    void *address;
    int descriptor, number = link_lend_segment(l, size, &address, &descriptor);
    CHECK(number >= 0);
    if (number == LINK_ONCE)
        shared_memory_unmap(address, size);
    if (descriptor >= 0)
        shared_memory_close(descriptor);
    return number;
}

static void give_back(far_link *l, int number)
{
    link_incref(l);
    link_return_segment(l, (unsigned)number, NULL, 0);
}

static void test_no_more_is_under_way_than_may_be(void)
{
    const size_t quarter = LINK_BUDGET / 4;
    pair p = new_pair();
    CHECK(link_may_lend(p.here, 3 * LINK_BUDGET));
    lend(p.here, 3 * quarter);
    CHECK(link_may_lend(p.here, quarter) && !link_may_lend(p.here, quarter + 1));
    lend(p.here, quarter);
    CHECK(link_may_lend(p.here, 0) && !link_may_lend(p.here, 1));
    write_one(p.here, 10);
    CHECK(link_arm_credit(p.here) && !link_may_lend(p.here, 1));
    link_message m;
    link_begin(p.there);
    CHECK(link_next(p.there, &m) == LINK_OK);
    link_take(p.there, &m, NULL);
    link_count_borrowed(p.there, 3 * quarter);
    link_finish(p.there);
    CHECK(has_bell(p.here) && link_may_lend(p.here, 3 * quarter) && !link_may_lend(p.here, 3 * quarter + 1));
    link_recall_segment(p.here, LINK_ONCE, quarter, true);
    CHECK(link_may_lend(p.here, 3 * LINK_BUDGET));
    /* Who says that it took more than there was is not believed, and nobody waits for it. */
    link_count_borrowed(p.there, 1);
    link_may_lend(p.here, 1);
    CHECK(link_is_distrusted(p.here) && link_may_lend(p.here, 3 * LINK_BUDGET));
    drop_pair(p);
}

static void test_no_more_is_kept_for_reuse_than_may_be(void)
{
    const size_t half = LINK_KEPT / 2;
    pair p = new_pair();
    int one = lend(p.here, half), two = lend(p.here, half);
    CHECK(one != LINK_ONCE && two != LINK_ONCE && one != two);
    CHECK(lend(p.here, 4096) == LINK_ONCE);
    /* Where one is given back, it is used again, for what fits and is not much smaller; or it makes room. */
    give_back(p.there, two);
    CHECK(lend(p.here, half - 1) == two && lend(p.here, half - 1) == LINK_ONCE);
    give_back(p.there, two);
    CHECK(lend(p.here, LINK_KEPT) == LINK_ONCE);
    drop_pair(p);
}

static void test_each_message_from_before_the_link_is_told_of_once(void)
{
    int far[2];
    pair p = {.here = link_new(far)};
    CHECK(p.here);
    /* 10 were posted to this side, of which 2 had been taken. */
    link_set_figures(p.here, &(link_figures){.published = 10, .taken = 2}, &(link_figures){0});
    p.there = link_attach(far[0], far[1], 1);
    CHECK(p.there);
    link_taken_before(p.here, 5);
    CHECK(link_collect(p.there) == 3);
    /* Two threads have each taken one, and tell in the other order. */
    link_taken_before(p.here, 7);
    link_taken_before(p.here, 6);
    CHECK(link_collect(p.there) == 2);
    /* The rest was told of in another way. */
    link_told_before(p.here, 10);
    link_taken_before(p.here, 9);
    CHECK(link_collect(p.there) == 0);
    drop_pair(p);
}

int main(void)
{
    test_the_pump_does_not_sleep_on_room_that_a_waiting_sender_saw();
    test_a_full_ring_is_armed_for_the_pump_and_for_a_waiting_sender();
    test_no_more_is_under_way_than_may_be();
    test_no_more_is_kept_for_reuse_than_may_be();
    test_each_message_from_before_the_link_is_told_of_once();
    return 0;
}
