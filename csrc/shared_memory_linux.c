/* memfd_create, seals and fallocate are not POSIX. */
#define _GNU_SOURCE

#include "shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Linux 6.3 has it, and may be told to refuse memory that could be executed. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

static const char name[] = "messagechannel";

static int create(void)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    return fd < 0 && errno == EINVAL ? memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING) : fd;
}

/* Whether the system promises no more memory than it has (vm.overcommit_memory = 2).  It counts a page of this kind when
   it is touched, and SIGBUS is all that it can say then.  In other modes allocating pages at once would gain nothing, and
   take memory that is perhaps never used. */
static bool is_counted_strictly(void)
{
    char mode = '0';
    int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!read(fd, &mode, 1);
        close(fd);
    }
    return mode == '2';
}

static int prepare(int fd, size_t size)
{
    if (ftruncate(fd, (off_t)size) || fchmod(fd, S_IRUSR | S_IWUSR)
        || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return -1;
    return is_counted_strictly() ? fallocate(fd, 0, 0, (off_t)size) : 0;
}

int shared_memory_new(size_t size)
{
    if (!size || size > PTRDIFF_MAX) {
        errno = EINVAL;
        return -1;
    }
    int fd = create();
    if (fd < 0)
        return -1;
    if (prepare(fd, size)) {
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
    /* What is not a memfd has no seals, which is an error of its own. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || shared_memory_size(fd, &actual))
        return NULL;
    if (!(seals & F_SEAL_SHRINK) || !size || actual < size) {
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
    madvise(address, size, MADV_REMOVE);
}

void shared_memory_close(int fd)
{
    close(fd);
}
