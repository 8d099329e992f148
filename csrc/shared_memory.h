/* shared_memory: pieces of memory that several processes map, each known by a file descriptor.
 *
 * A piece has no name: whoever is to share it gets its descriptor.  It is gone when no descriptor and no mapping is left,
 * however its processes ended.  Its pages are zero, and take memory only once they were touched.
 *
 * What a peer does to its descriptor can't hurt: where the system has seals (Linux), a piece can't be made smaller, and one
 * that could be is not mapped.  When the system has no page left, it ends the process that touches one, as with any memory;
 * it makes an error of that (ENOSPC, from shared_memory_new) where it counts pages strictly, which is the one case in
 * which Linux would raise SIGBUS.
 *
 * One of shared_memory_linux.c, _posix.c and _none.c is compiled, the first two with shared_memory_mapping.c; in the last
 * everything fails with ENOSYS. */
#ifndef MESSAGECHANNEL_SHARED_MEMORY_H
#define MESSAGECHANNEL_SHARED_MEMORY_H

#include <stddef.h>

/* The descriptor of a new piece of `size` > 0 zero bytes; it is closed in programs that are executed.  -1 with errno. */
int shared_memory_new(size_t size);
/* 0, or -1 with errno.  Some systems round up. */
int shared_memory_size(int fd, size_t *size);
/* The first `size` > 0 bytes, to be read and written; NULL with errno.  EINVAL when the piece is smaller, or could become so. */
void *shared_memory_map(int fd, size_t size);
void shared_memory_unmap(void *address, size_t size);
/* Gives pages of a mapping back to the system, if it can be told to: they are zero then, for everybody.  Else nothing. */
void shared_memory_discard(void *address, size_t size);
/* Closes any descriptor. */
void shared_memory_close(int fd);

#endif
