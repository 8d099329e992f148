#include "pool.h"

#include <stdatomic.h>
#include <stddef.h>

/* NULL: a free place.  Each is filled by a compare-and-swap of NULL alone and emptied by an exchange: no ABA.  Whoever
   gets a segment sees what was done with it before it was put there (release, acquire). */
static _Alignas(64) _Atomic(void *) place[POOL_PLACES];

bool pool_put(void *segment)
{
    for (unsigned i = 0; i < POOL_PLACES; i++) {
        void *none = NULL;
        if (!atomic_load_explicit(&place[i], memory_order_relaxed)
            && atomic_compare_exchange_strong_explicit(&place[i], &none, segment, memory_order_release,
                                                       memory_order_relaxed))
            return true;
    }
    return false;
}

void *pool_get(void)
{
    for (unsigned i = 0; i < POOL_PLACES; i++) {
        void *segment = NULL;
        if (atomic_load_explicit(&place[i], memory_order_relaxed))
            segment = atomic_exchange_explicit(&place[i], NULL, memory_order_acquire);
        if (segment)
            return segment;
    }
    return NULL;
}
