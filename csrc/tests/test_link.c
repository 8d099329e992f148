/* Both sides of a link, in one process: who waits for what of the other side. */
#include "check.h"
#include "link.h"

#include <sys/socket.h>

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
    char bell;
    CHECK(recv(p.here->socket, &bell, 1, MSG_DONTWAIT) == 1 && recv(p.here->socket, &bell, 1, MSG_DONTWAIT) < 0);
    drop_pair(p);
}

int main(void)
{
    test_the_pump_does_not_sleep_on_room_that_a_waiting_sender_saw();
    test_a_full_ring_is_armed_for_the_pump_and_for_a_waiting_sender();
    return 0;
}
