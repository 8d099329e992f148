#include "shared_memory.h"

#include <errno.h>

int shared_memory_new(size_t size)
{
    (void)size;
    errno = ENOSYS;
    return -1;
}

int shared_memory_size(int fd, size_t *size)
{
    (void)fd;
    (void)size;
    errno = ENOSYS;
    return -1;
}

void *shared_memory_map(int fd, size_t size)
{
    (void)fd;
    (void)size;
    errno = ENOSYS;
    return NULL;
}

void shared_memory_unmap(void *address, size_t size)
{
    (void)address;
    (void)size;
}

void shared_memory_discard(void *address, size_t size)
{
    (void)address;
    (void)size;
}

void shared_memory_close(int fd)
{
    (void)fd;
}
