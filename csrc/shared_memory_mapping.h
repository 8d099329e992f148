/* shared_memory_mapping: what is the same of shared memory (shared_memory.h) wherever descriptors are mapped, and here what
 * each system does its own way, for shared_memory_mapping.c alone. */
#ifndef MESSAGECHANNEL_SHARED_MEMORY_MAPPING_H
#define MESSAGECHANNEL_SHARED_MEMORY_MAPPING_H

#include <stddef.h>

/* The descriptor of a new piece without a size, closed in programs that are executed; -1 with errno. */
int shared_memory_create(void);
/* Gives a new piece its size, for good where the system can say so.  0, or -1 with errno. */
int shared_memory_fix(int fd, size_t size);
/* Whether a piece that came from elsewhere keeps its size, as far as the system can tell.  0, or -1 with errno, which is
   EINVAL for one that may become smaller. */
int shared_memory_check(int fd);

#endif
