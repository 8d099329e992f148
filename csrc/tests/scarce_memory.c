#include "scarce_memory.h"

#include <stdlib.h>

_Atomic(long) memory_left = MEMORY_ABOUNDS;

void *scarce_aligned_alloc(size_t alignment, size_t size)
{
    /* Relaxed: the stress tests, which never set it, must not be ordered by it. */
    if (atomic_load_explicit(&memory_left, memory_order_relaxed) != MEMORY_ABOUNDS
        && atomic_fetch_sub_explicit(&memory_left, 1, memory_order_relaxed) <= 0)
        return NULL;
    return aligned_alloc(alignment, size);
}
