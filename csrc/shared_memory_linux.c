/* memfd_create, seals and fallocate are not POSIX. */
#define _GNU_SOURCE

#include "shared_memory_mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared_memory.h"

/* Linux 6.3 has it, and may be told to refuse memory that could be executed. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

static const char name[] = "messagechannel";

int shared_memory_create(void)
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

int shared_memory_fix(int fd, size_t size)
{
    if (ftruncate(fd, (off_t)size) || fchmod(fd, S_IRUSR | S_IWUSR)
        || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return -1;
    return is_counted_strictly() ? fallocate(fd, 0, 0, (off_t)size) : 0;
}

int shared_memory_check(int fd)
{
    /* What is not a memfd has no seals, which is an error of its own. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return -1;
    if (seals & F_SEAL_SHRINK)
        return 0;
    errno = EINVAL;
    return -1;
}

void shared_memory_discard(void *address, size_t size)
{
    madvise(address, size, MADV_REMOVE);
}
