/* memfd_create, to make what shared_memory_map must refuse. */
#define _GNU_SOURCE

#include "check.h"
#include "shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE ((size_t)3 * 4096 + 5)

#if !SHARED_MEMORY_NONE

static void test_two_mappings_are_one_memory(void)
{
    int fd = shared_memory_new(SIZE);
    unsigned char *one = shared_memory_map(fd, SIZE), *other = shared_memory_map(fd, 10);
    CHECK(one && other && one != other);
    for (size_t i = 0; i < SIZE; i++)
        CHECK(one[i] == 0);
    one[9] = 7;
    CHECK(other[9] == 7);
    shared_memory_close(fd);
    /* A mapping needs no descriptor. */
    other[0] = 8;
    CHECK(one[0] == 8);
    shared_memory_unmap(other, 10);
    shared_memory_unmap(one, SIZE);
}

static void test_another_process_shares_it(void)
{
    int fd = shared_memory_new(SIZE), status;
    unsigned char *mine = shared_memory_map(fd, SIZE);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        unsigned char *its = shared_memory_map(fd, SIZE);
        its[SIZE - 1] = 42;
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(mine[SIZE - 1] == 42);
    shared_memory_unmap(mine, SIZE);
    shared_memory_close(fd);
}

static void test_only_its_owner_may_open_it_and_executed_programs_lose_it(void)
{
    struct stat status;
    size_t size;
    int fd = shared_memory_new(SIZE);
    CHECK(fstat(fd, &status) == 0 && (status.st_mode & 0777) == 0600);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(shared_memory_size(fd, &size) == 0 && size >= SIZE && size < SIZE + 65536);
    shared_memory_close(fd);
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
    CHECK(shared_memory_size(fd, &size) == -1 && errno == EBADF);
}

static void test_wrong_sizes_are_refused(void)
{
    CHECK(shared_memory_new(0) == -1 && errno == EINVAL);
    CHECK(shared_memory_new(SIZE_MAX) == -1 && errno == EINVAL);
    int fd = shared_memory_new(SIZE);
    CHECK(!shared_memory_map(fd, 0) && errno == EINVAL);
    CHECK(!shared_memory_map(fd, SIZE + 65536) && errno == EINVAL);
    shared_memory_close(fd);
    CHECK(!shared_memory_map(fd, SIZE) && errno == EBADF);
}

static void test_running_out_of_descriptors_or_address_space_is_an_error(void)
{
    struct rlimit limit, former;
    size_t huge = (size_t)1 << 50;
    CHECK(getrlimit(RLIMIT_NOFILE, &former) == 0);
    limit = former;
    limit.rlim_cur = 3;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(shared_memory_new(SIZE) == -1 && errno == EMFILE);
    CHECK(setrlimit(RLIMIT_NOFILE, &former) == 0);
    /* Making it costs nothing; that much can't be mapped. */
    int fd = shared_memory_new(huge);
    if (fd >= 0) {
        CHECK(!shared_memory_map(fd, huge) && errno == ENOMEM);
        shared_memory_close(fd);
    }
}

#if SHARED_MEMORY_LINUX

static void test_nobody_can_change_its_size(void)
{
    int fd = shared_memory_new(SIZE);
    CHECK(ftruncate(fd, 1) == -1 && errno == EPERM);
    CHECK(ftruncate(fd, (off_t)SIZE * 2) == -1 && errno == EPERM);
    /* Nor keep others from writing it. */
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == -1 && errno == EPERM);
    shared_memory_close(fd);
}

static void test_what_could_become_smaller_is_not_mapped(void)
{
    int fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING), ends[2];
    CHECK(ftruncate(fd, (off_t)SIZE) == 0);
    CHECK(!shared_memory_map(fd, SIZE) && errno == EINVAL);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    void *address = shared_memory_map(fd, SIZE);
    CHECK(address);
    shared_memory_unmap(address, SIZE);
    close(fd);
    CHECK(pipe(ends) == 0);
    CHECK(!shared_memory_map(ends[0], SIZE) && errno == EINVAL);
    close(ends[0]);
    close(ends[1]);
}

static void test_pages_are_taken_when_touched_and_can_be_given_back(void)
{
    struct stat status;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 16 * page;
    int fd = shared_memory_new(size);
    unsigned char *address = shared_memory_map(fd, size);
    memset(address, 1, size);
    CHECK(fstat(fd, &status) == 0 && (size_t)status.st_blocks * 512 == size);
    shared_memory_discard(address + page, 2 * page);
    CHECK(fstat(fd, &status) == 0 && (size_t)status.st_blocks * 512 == size - 2 * page);
    CHECK(address[page - 1] == 1 && address[page] == 0 && address[3 * page - 1] == 0 && address[3 * page] == 1);
    shared_memory_unmap(address, size);
    shared_memory_close(fd);
}

#endif

int main(void)
{
    test_two_mappings_are_one_memory();
    test_another_process_shares_it();
    test_only_its_owner_may_open_it_and_executed_programs_lose_it();
    test_wrong_sizes_are_refused();
    test_running_out_of_descriptors_or_address_space_is_an_error();
#if SHARED_MEMORY_LINUX
    test_nobody_can_change_its_size();
    test_what_could_become_smaller_is_not_mapped();
    test_pages_are_taken_when_touched_and_can_be_given_back();
#endif
    return 0;
}

#else

static void test_nothing_is_there(void)
{
    size_t size;
    CHECK(shared_memory_new(SIZE) == -1 && errno == ENOSYS);
    errno = 0;
    CHECK(!shared_memory_map(0, SIZE) && errno == ENOSYS);
    errno = 0;
    CHECK(shared_memory_size(0, &size) == -1 && errno == ENOSYS);
}

int main(void)
{
    test_nothing_is_there();
    return 0;
}

#endif
