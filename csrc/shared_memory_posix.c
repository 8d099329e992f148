/* shm_open is POSIX, getentropy is everybody's. */
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#elif defined(__linux__)
#define _GNU_SOURCE
#endif

#include "shared_memory_mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared_memory.h"

/* The object has a name for the moment between the two calls, and nobody can guess it.  macOS takes 31 characters.  POSIX
   lets shm_open close it in programs that are executed. */
int shared_memory_create(void)
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

int shared_memory_fix(int fd, size_t size)
{
    return ftruncate(fd, (off_t)size);
}

int shared_memory_check(int fd)
{
    /* Nothing can be fixed here. */
    (void)fd;
    return 0;
}

void shared_memory_discard(void *address, size_t size)
{
    (void)address;
    (void)size;
}
