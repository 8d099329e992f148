/* MAP_SHARED is POSIX, getentropy is everybody's. */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__)
#define _GNU_SOURCE
#endif

#include "shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* The object has a name for the moment between the two calls, and nobody can guess it.  macOS takes 31 characters. */
static int create(void)
{
    uint64_t number;
    char name[32];
    int fd;
    do {
        if (getentropy(&number, sizeof number))
            return -1;
        snprintf(name, sizeof name, "/msgch-%016llx", (unsigned long long)number);
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
    } while (fd < 0 && errno == EEXIST);
    if (fd >= 0)
        shm_unlink(name);
    return fd;
}

int shared_memory_new(size_t size)
{
    if (!size || size > PTRDIFF_MAX) {
        errno = EINVAL;
        return -1;
    }
    int fd = create();
    /* POSIX lets shm_open close it in programs that are executed. */
    if (fd >= 0 && ftruncate(fd, (off_t)size)) {
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
    if (shared_memory_size(fd, &actual))
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

void shared_memory_discard(void *address, size_t size)
{
    (void)address;
    (void)size;
}

void shared_memory_close(int fd)
{
    close(fd);
}
