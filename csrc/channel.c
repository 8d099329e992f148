#include "channel.h"

#include <stdlib.h>

#include "pause.h"

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
        c->context[i] = c->listening[i] = NULL;
    }
    atomic_init(&c->references, 2);
    atomic_init(&c->closed_by, CHANNEL_OPEN);
    c->by_reference = by_reference;
    return c;
}

void channel_incref(channel *c)
{
    atomic_fetch_add_explicit(&c->references, 1, memory_order_relaxed);
}

void channel_decref(channel *c)
{
    if (atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) == 1) {
        ring_destroy(&c->side[0].inbox);
        ring_destroy(&c->side[1].inbox);
        free(c);
    }
}

static void lock(endpoint *e)
{
    for (unsigned spins = 0; atomic_exchange_explicit(&e->lock, 1, memory_order_acquire);)
        pause_backoff(&spins);
}

static void unlock(endpoint *e)
{
    atomic_store_explicit(&e->lock, 0, memory_order_release);
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
    lock(e);
    if (*list) {
        w->next = *list;
        w->previous = (*list)->previous;
        w->previous->next = w->next->previous = w;
    } else {
        *list = w->next = w->previous = w;
    }
    w->list = list;
    unlock(e);
}

bool waiter_leave(waiter *w, endpoint *e)
{
    lock(e);
    bool still_there = w->list != NULL;
    if (still_there)
        unlink_waiter(w);
    unlock(e);
    return still_there;
}

waiter *endpoint_wake(endpoint *e, waiter **list)
{
    lock(e);
    waiter *task = *list ? wake_first(list, NULL) : NULL;
    unlock(e);
    return task;
}

waiter *endpoint_wake_all(endpoint *e, waiter *tasks)
{
    lock(e);
    while (e->receivers)
        tasks = wake_first(&e->receivers, tasks);
    while (e->senders)
        tasks = wake_first(&e->senders, tasks);
    unlock(e);
    return tasks;
}

waiter *endpoint_pass_on(endpoint *e)
{
    lock(e);
    bool others = e->receivers != NULL;
    unlock(e);
    return others && ring_arm(&e->inbox) != RING_ARMED ? endpoint_wake(e, &e->receivers) : NULL;
}

waiter *endpoint_offer_room(endpoint *e)
{
    lock(e);
    waiter *task = NULL;
    /* Sequentially consistent with the sender that joined the list and then failed to reserve: one of us two sees
       the other. */
    if (e->senders && atomic_load_explicit(&e->inbox.credits, memory_order_seq_cst) > 0)
        task = wake_first(&e->senders, NULL);
    unlock(e);
    return task;
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
        bool wake;
        ring_close(&e->inbox, &wake);
        *tasks = endpoint_wake_all(e, *tasks);
    }
    return true;
}
