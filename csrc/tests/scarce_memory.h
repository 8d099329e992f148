/* scarce_memory: lets a test choose how many more of the core's allocations succeed.
 * The core that the tests link calls these functions for malloc and aligned_alloc (CMakeLists.txt). */
#ifndef MESSAGECHANNEL_SCARCE_MEMORY_H
#define MESSAGECHANNEL_SCARCE_MEMORY_H

#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>

#define MEMORY_ABOUNDS LONG_MAX

/* Set by a test, MEMORY_ABOUNDS at first.  Counted down only while it is anything else. */
extern _Atomic(long) memory_left;

void *scarce_aligned_alloc(size_t alignment, size_t size);
void *scarce_malloc(size_t size);

#endif
