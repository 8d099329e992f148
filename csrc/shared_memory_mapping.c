/* mmap and file descriptors are POSIX. */
#define _POSIX_C_SOURCE 200809L

#include "shared_memory_mapping.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared_memory.h"

int shared_memory_new(size_t size)
{
    if (!size || size > PTRDIFF_MAX) {
        errno = EINVAL;
        return -1;
    }
    int fd = shared_memory_create();
    if (fd >= 0 && shared_memory_fix(fd, size)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int shared_memory_size(int fd, size_t *size)
{
    struct stat status;
    if (fstat(fd, &status))
        return -1;
    *size = (size_t)status.st_size;
    return 0;
}

void *shared_memory_map(int fd, size_t size)
{
    size_t actual;
    if (shared_memory_check(fd) || shared_memory_size(fd, &actual))
        return NULL;
    if (!size || actual < size) {
        errno = EINVAL;
        return NULL;
    }
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return address == MAP_FAILED ? NULL : address;
}

void shared_memory_unmap(void *address, size_t size)
{
    munmap(address, size);
}

void shared_memory_close(int fd)
{
    close(fd);
}
