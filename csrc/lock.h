/* lock: a spin lock for a few instructions.
 *
 * Whoever holds one neither sleeps nor calls anything that could: no callback, no destructor, no Python.  That is also
 * what makes stopping the world safe: threads stop between two Python instructions or in a sleep, so that no lock is
 * held then, and what a lock protects is whole.
 *
 * With RING_SERIALISED (ring.h) one thread at a time is in any call, and there is nothing to do.
 */
#ifndef MESSAGECHANNEL_LOCK_H
#define MESSAGECHANNEL_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

#include "pause.h"

/* 1 while somebody holds it (exchange acquire, store release); starts at 0. */
typedef _Atomic(uint32_t) spin_lock;

static inline void spin_acquire(spin_lock *l)
{
#ifdef RING_SERIALISED
    (void)l;
#else
    for (unsigned spins = 0; atomic_exchange_explicit(l, 1, memory_order_acquire);)
        pause_backoff(&spins);
#endif
}

static inline void spin_release(spin_lock *l)
{
#ifdef RING_SERIALISED
    (void)l;
#else
    atomic_store_explicit(l, 0, memory_order_release);
#endif
}

#endif
