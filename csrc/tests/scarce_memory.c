#include "scarce_memory.h"

#include <stdbool.h>
#include <stdlib.h>

_Atomic(long) memory_left = MEMORY_ABOUNDS;

static bool is_spent(void)
{
    /* Relaxed: the stress tests, which never set it, must not be ordered by it. */
    return atomic_load_explicit(&memory_left, memory_order_relaxed) != MEMORY_ABOUNDS
           && atomic_fetch_sub_explicit(&memory_left, 1, memory_order_relaxed) <= 0;
}

void *scarce_aligned_alloc(size_t alignment, size_t size)
{
    return is_spent() ? NULL : aligned_alloc(alignment, size);
}

void *scarce_malloc(size_t size)
{
    return is_spent() ? NULL : malloc(size);
}
