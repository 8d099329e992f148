/* shared: small numbers that several threads read and write without a lock.
 *
 * Every access is sequentially consistent: a thread that stores one and then loads another, while a second thread does
 * so the other way round, is seen or sees.  With RING_SERIALISED (ring.h) they are plain numbers.
 */
#ifndef MESSAGECHANNEL_SHARED_H
#define MESSAGECHANNEL_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef RING_SERIALISED
#define THREADS_AT_ONCE 0
typedef uint32_t shared_number;
#else
#define THREADS_AT_ONCE 1
typedef _Atomic(uint32_t) shared_number;
#endif

/* From one value to another; false when it was a third, or another thread was faster. */
static inline bool shared_claim(shared_number *n, uint32_t from, uint32_t to)
{
    if (*n != from)
        return false;
#ifdef RING_SERIALISED
    *n = to;
    return true;
#else
    return atomic_compare_exchange_strong(n, &from, to);
#endif
}

#endif
