#include "channel.h"

#include <stdlib.h>

#include "pause.h"
#include "spin.h"

_Static_assert(sizeof(void *) != 8 || sizeof(endpoint) == 2 * RING_CACHE_LINE, "an endpoint is two cache lines");

channel *channel_new(size_t capacity, bool by_reference)
{
    /* Not aligned to a cache line, which would cost a third more memory: see the order of the ring's fields. */
    channel *c = malloc(sizeof *c);
    if (!c)
        return NULL;
    for (int i = 0; i < 2; i++) {
        ring_init(&c->side[i].inbox, capacity);
        atomic_init(&c->side[i].lock, 0);
        c->side[i].receivers = c->side[i].senders = NULL;
        c->side[i].close_told = false;
        c->side[i].side = (uint8_t)i;
        c->side[i].listening = NULL;
    }
    atomic_init(&c->references, 2);
    atomic_init(&c->closed_by, CHANNEL_OPEN);
    atomic_init(&c->transport, NULL);
    c->by_reference = by_reference;
    return c;
}

void channel_incref(channel *c)
{
    atomic_fetch_add_explicit(&c->references, 1, memory_order_relaxed);
}

bool channel_decref(channel *c)
{
    if (atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) != 1)
        return false;
    transport *t = atomic_load_explicit(&c->transport, memory_order_relaxed);
    if (t)
        t->calls->release(t);
    ring_destroy(&c->side[0].inbox);
    ring_destroy(&c->side[1].inbox);
    free(c);
    return true;
}

bool channel_connect(channel *c, transport *t)
{
    transport *none = NULL;
    return atomic_compare_exchange_strong_explicit(&c->transport, &none, t, memory_order_release, memory_order_relaxed);
}

/* ---- waiters; the lock is held ---- */

static void unlink_waiter(waiter *w)
{
    if (w->next == w) {
        *w->list = NULL;
    } else {
        w->next->previous = w->previous;
        w->previous->next = w->next;
        if (*w->list == w)
            *w->list = w->next;
    }
    w->list = NULL;
}

/* Takes the first waiter off the list.  A thread is unparked; a task is put before `tasks`. */
static waiter *wake_first(waiter **list, waiter *tasks)
{
    waiter *w = *list;
    unlink_waiter(w);
    if (!w->task) {
        parker_unpark(w->parker);
        return tasks;
    }
    w->next = tasks;
    return w;
}

/* ---- waiters ---- */

void waiter_init(waiter *w, parker *p, void *task)
{
    w->next = w->previous = NULL;
    w->list = NULL;
    w->parker = p;
    w->task = task;
}

void waiter_join(waiter *w, endpoint *e, waiter **list)
{
    spin_acquire(&e->lock);
    if (*list) {
        w->next = *list;
        w->previous = (*list)->previous;
        w->previous->next = w->next->previous = w;
    } else {
        *list = w->next = w->previous = w;
    }
    w->list = list;
    spin_release(&e->lock);
}

bool waiter_leave(waiter *w, endpoint *e)
{
    spin_acquire(&e->lock);
    bool still_there = w->list != NULL;
    if (still_there)
        unlink_waiter(w);
    spin_release(&e->lock);
    return still_there;
}

waiter *endpoint_wake(endpoint *e, waiter **list)
{
    spin_acquire(&e->lock);
    waiter *task = *list ? wake_first(list, NULL) : NULL;
    spin_release(&e->lock);
    return task;
}

waiter *endpoint_wake_all(endpoint *e, waiter *tasks)
{
    spin_acquire(&e->lock);
    while (e->receivers)
        tasks = wake_first(&e->receivers, tasks);
    while (e->senders)
        tasks = wake_first(&e->senders, tasks);
    spin_release(&e->lock);
    return tasks;
}

int endpoint_arm(endpoint *e)
{
    int found = ring_arm(&e->inbox);
    transport *t = found == RING_ARMED ? endpoint_transport(e) : NULL;
    return t ? t->calls->arm(t) : found;
}

size_t endpoint_length(endpoint *e)
{
    transport *t = endpoint_transport(e);
    int64_t length = t ? t->calls->length(t) : -1;
    /* What is on the way counts what is in the inbox before it, but an empty way tells nothing of that. */
    return length > 0 ? (size_t)length : ring_length(&e->inbox);
}

waiter *endpoint_pass_on(endpoint *e)
{
    spin_acquire(&e->lock);
    bool others = e->receivers != NULL;
    spin_release(&e->lock);
    return others && endpoint_arm(e) != RING_ARMED ? endpoint_wake(e, &e->receivers) : NULL;
}

/* True when a sender waits and there is no room for him. */
static bool offer_room(endpoint *e, waiter **task)
{
    *task = NULL;
    spin_acquire(&e->lock);
    bool waits = e->senders != NULL;
    /* A sender joins the list, under the lock, and then looks for room; we return the room and then take the lock.  So
       one of us two sees the other. */
    bool room = waits && atomic_load_explicit(&e->inbox.credits, memory_order_seq_cst) > 0;
    if (room)
        *task = wake_first(&e->senders, NULL);
    spin_release(&e->lock);
    return waits && !room;
}

waiter *endpoint_offer_room(endpoint *e)
{
    waiter *task;
    transport *t = endpoint_transport(e);
    if (!t || t->far_side != e->side) {
        offer_room(e, &task);
        return task;
    }
    for (bool armed = false;;) {
        size_t room = t->calls->collect(t);
        ring_return_room(&e->inbox, room);
        /* What was taken before it was armed has told nobody. */
        if (!offer_room(e, &task) || (armed && room == 0))
            return task;
        if (t->calls->is_deaf(t))
            return endpoint_wake_all(e, NULL);
        armed = t->calls->arm_room(t);
    }
}

bool endpoint_spin_for_message(endpoint *e, uintptr_t tail, size_t popped, int64_t deadline)
{
    spin s;
    const transport *t = endpoint_transport(e);
    if (spin_begin(&s, e, popped, deadline))
        do
            if (ring_tail(&e->inbox) != tail || (t && t->calls->has_news(t)))
                return spin_paid();
        while (spin_on(&s));
    return false;
}

bool endpoint_spin_for_room(endpoint *e, size_t popped, int64_t deadline)
{
    spin s;
    const transport *t = endpoint_transport(e);
    if (spin_begin(&s, e, popped, deadline))
        do
            if (ring_has_room(&e->inbox) || (t && t->calls->has_room(t)))
                return spin_paid();
        while (spin_on(&s));
    return false;
}

void *endpoint_take_claimed(endpoint *e, bool *shut)
{
    /* A sender that is held up between its claim and its store hides the messages behind it too, whose senders have
       long gone on: they must not be told that nothing is there. */
    void *item = NULL;
    for (unsigned spins = 0; ring_length(&e->inbox) && !(item = ring_pop(&e->inbox, shut));)
        pause_backoff(&spins);
    return item;
}

bool channel_close(channel *c, int side, waiter **tasks)
{
    *tasks = NULL;
    int32_t open = CHANNEL_OPEN;
    if (!atomic_compare_exchange_strong_explicit(&c->closed_by, &open, side, memory_order_acq_rel,
                                                 memory_order_acquire))
        return false;
    for (int i = 0; i < 2; i++) {
        endpoint *e = &c->side[i];
        ring_close(&e->inbox);
        *tasks = endpoint_wake_all(e, *tasks);
    }
    return true;
}
