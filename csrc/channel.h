/* channel: two entangled endpoints, each a port message queue and those who wait at it.
 *
 * An endpoint is what travels when a port is transferred: the queue with its messages, its bound and its sleepers
 * stay here, in one allocation that never moves; what changes hands is the right to use a side of it.  Therefore a
 * transfer is O(1), and a post that races with one finds the queue where it always was.
 *
 * Waiting is register, look again, sleep (the order that loses no wake-up); before that a thread may spin, which nobody
 * else needs to know of:
 *
 *     endpoint_spin_for_...       what comes at once is taken without disturbing those who bring it
 *     waiter_join(...)            now a wake-up can find us
 *     ring_arm(...) == RING_ARMED exactly empty; the next push or close owes a wake-up (RING_WAKE)
 *     parker_park(...)            or, for a task of an event loop, give the loop its turn
 *     waiter_leave(...)           tells whether we were woken
 *     endpoint_pass_on(...)       the baton: one flag wakes one sleeper, so whoever leaves, for whatever reason, arms
 *                                 the flag for those who stay, or wakes the next because there is work for him
 *
 * Waiters are of two kinds.  A thread (task == NULL) is unparked here, under the lock, so that its waiter may live on its
 * stack.  A task (task != NULL) is taken off the list and returned to the caller, who tells its event loop; that may run
 * any code, so no lock is held then.
 */
#ifndef MESSAGECHANNEL_CHANNEL_H
#define MESSAGECHANNEL_CHANNEL_H

#include "lock.h"
#include "parker.h"
#include "ring.h"

typedef struct waiter {
    /* A ring of waiters; under the lock of the endpoint. */
    struct waiter *next, *previous;
    /* The list that this waiter is in, NULL when it was taken off. */
    struct waiter **list;
    parker *parker;
    void *task;
} waiter;

struct transport;
/* What waiting needs of the way to a far side. None of them waits or calls back. */
typedef struct transport_calls {
    /* As ring_arm. */
    int (*arm)(struct transport *t);
    /* Whether arm would find something. May be called by any thread at any moment. */
    bool (*has_news)(const struct transport *t);
    bool (*has_room)(const struct transport *t);
    /* How many messages the far side has taken since the last call: there is room for as many. */
    size_t (*collect)(struct transport *t);
    /* True: when the far side takes a message, or closes, somebody here calls endpoint_offer_room. False: look again. */
    bool (*arm_room)(struct transport *t);
    /* Whether the far side takes nothing any more. */
    bool (*is_deaf)(const struct transport *t);
    /* Messages that wait on the way and in the inbox before it; 0 or less when none is on the way. */
    int64_t (*length)(const struct transport *t);
    /* The channel's reference ends. */
    void (*release)(struct transport *t);
} transport_calls;

/* The way to a side that is in another process; a link (link.h) is one. */
typedef struct transport {
    const transport_calls *calls;
    /* Which side of the channel is far. */
    uint8_t far_side;
    /* The language binding's. */
    void *owner;
} transport;

typedef struct endpoint {
    ring inbox;
    /* For all that follows, and for what the language binding says; held at most for one unpark.  Taken before the
       ring's token, never after it. */
    spin_lock lock;
    /* The language binding's: the side's close event was fired. */
    bool close_told;
    /* Which side of its channel this is. */
    uint8_t side;
    waiter *receivers;
    waiter *senders;
    /* The language binding's: what the side's peer keeps alive. */
    void *listening;
} endpoint;

typedef struct channel {
    endpoint side[2];
    /* Handles and messages in flight that refer to this channel. */
    _Atomic(size_t) references;
    /* Which side closed the channel, or CHANNEL_OPEN.  Swapped once. */
    _Atomic(int32_t) closed_by;
    /* Messages pass by reference instead of as clones. */
    bool by_reference;
    /* Where one side is in another process: the way to it, set once. That side's inbox here is the backlog of what
       could not be sent at once; the other's has what came before there was a transport, or was left when it ended. */
    _Atomic(transport *) transport;
} channel;

enum { CHANNEL_OPEN = -1 };

/* One reference for each side; NULL when memory ran out.  capacity 0 is unbounded. */
channel *channel_new(size_t capacity, bool by_reference);
void channel_incref(channel *c);
/* Frees the channel with its last reference, and with it its reference to the transport; both queues must be drained by
   then. True when it did. */
bool channel_decref(channel *c);
/* From here on one side of the channel is far. True for the one call that did it, whose reference to the transport becomes
   the channel's. */
bool channel_connect(channel *c, transport *t);
/* Ends both directions.  True for the one call that did it.  Wakes every thread; *tasks gets the tasks to be
   told, linked by `next` and ended by NULL. */
bool channel_close(channel *c, int side, waiter **tasks);

void waiter_init(waiter *w, parker *p, void *task);
/* `list` is &e->receivers or &e->senders.  A waiter is in at most one list. */
void waiter_join(waiter *w, endpoint *e, waiter **list);
/* False when the waiter had been taken off the list, that is, woken.  Afterwards nobody refers to it, but for the
   task that a waker has taken and is about to tell. */
bool waiter_leave(waiter *w, endpoint *e);

/* Takes the longest waiting off `list` and wakes it; a task is returned, to be told by the caller. */
waiter *endpoint_wake(endpoint *e, waiter **list);
/* Wakes all who wait in both lists; returns the tasks to be told, linked by `next` and followed by `tasks`. */
waiter *endpoint_wake_all(endpoint *e, waiter *tasks);
/* ring_arm, for whoever waits for messages, wherever they come from. */
int endpoint_arm(endpoint *e);
/* Messages waiting, wherever they are. */
size_t endpoint_length(endpoint *e);
/* The baton for receivers: see above. */
waiter *endpoint_pass_on(endpoint *e);
/* After room was returned, and the baton for senders: wakes the next one, if there is room and one waits. Where the room is
   a far side's, and one waits but there is none, the far side is to tell of it. */
waiter *endpoint_offer_room(endpoint *e);

/* Look for a moment (spin.h) whether something is pushed, or the ring closed, after the tail was `tail`; or whether
   there is room.  True when it came: it may be gone again by the time that the caller gets there.  `popped` is
   ring_popped's. A word of the ring is looked at, and what the transport says to anybody at any moment, so a thread may
   spin where it must not call the ring. */
bool endpoint_spin_for_message(endpoint *e, uintptr_t tail, size_t popped, int64_t deadline);
bool endpoint_spin_for_room(endpoint *e, size_t popped, int64_t deadline);

/* Waits until the oldest message is published, and takes it; NULL when none is claimed. */
void *endpoint_take_claimed(endpoint *e, bool *shut);

/* NULL while both sides are in this process. */
static inline transport *endpoint_transport(endpoint *e)
{
    channel *c = (channel *)(void *)((char *)(e - e->side) - offsetof(channel, side));
    return atomic_load_explicit(&c->transport, memory_order_acquire);
}

/* Takes the oldest message that is here and returns its room.  *attention is set when somebody must be looked after:
   senders wait for the room, or the queue was closed. */
static inline void *endpoint_take(endpoint *e, bool *attention)
{
    void *item = ring_pop(&e->inbox, attention);
#ifndef RING_SERIALISED
    if (!item)
        item = endpoint_take_claimed(e, attention);
#endif
    if (item && e->inbox.returns_room) {
        ring_return_room(&e->inbox, 1);
        *attention = true;
    }
    return item;
}

#endif
