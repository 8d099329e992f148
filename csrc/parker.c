/* syscall() and the futex numbers are not ISO C. */
#define _GNU_SOURCE

#include "parker.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>
#ifdef _WIN32
#include <windows.h>
#endif

#define NANOSECONDS 1000000000

int64_t parker_now(void)
{
#ifdef _WIN32
    LARGE_INTEGER now, second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&second);
    return now.QuadPart / second.QuadPart * NANOSECONDS
           + now.QuadPart % second.QuadPart * NANOSECONDS / second.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NANOSECONDS + now.tv_nsec;
#endif
}

#if PARKER_FUTEX || defined(_WIN32)

void parker_init(parker *p)
{
    atomic_init(&p->token, 0);
}

void parker_destroy(parker *p)
{
    (void)p;
}

#endif

#if PARKER_FUTEX

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

bool parker_handles_signals(void)
{
    return syscall(SYS_gettid) == getpid();
}

int parker_park(parker *p, int64_t deadline)
{
    /* The kernel refuses a negative time. */
    int64_t end = deadline < 0 ? 0 : deadline;
    struct timespec until = {.tv_sec = (time_t)(end / NANOSECONDS), .tv_nsec = (long)(end % NANOSECONDS)};
    for (;;) {
        if (atomic_exchange_explicit(&p->token, 0, memory_order_acquire))
            return PARKER_UNPARKED;
        /* WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC, so an early return costs no arithmetic. */
        long failed = syscall(SYS_futex, &p->token, FUTEX_WAIT_BITSET_PRIVATE, 0,
                              deadline == INT64_MAX ? NULL : &until, NULL, FUTEX_BITSET_MATCH_ANY);
        if (failed && errno == ETIMEDOUT)
            return atomic_exchange_explicit(&p->token, 0, memory_order_acquire) ? PARKER_UNPARKED : PARKER_TIMED_OUT;
        if (failed && errno == EINTR)
            return PARKER_INTERRUPTED;
    }
}

void parker_unpark(parker *p)
{
    atomic_store_explicit(&p->token, 1, memory_order_release);
    syscall(SYS_futex, &p->token, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

#elif defined(_WIN32)

bool parker_handles_signals(void)
{
    return true;
}

int parker_park(parker *p, int64_t deadline)
{
    uint32_t none = 0;
    while (!atomic_exchange_explicit(&p->token, 0, memory_order_acquire)) {
        int64_t now = parker_now();
        if (deadline <= now)
            return PARKER_TIMED_OUT;
        /* Milliseconds, rounded up; whoever is woken too early goes to sleep again. */
        int64_t left = (deadline - now - 1) / 1000000 + 1;
        WaitOnAddress((volatile VOID *)&p->token, &none, sizeof none, left < INFINITE ? (DWORD)left : INFINITE - 1);
    }
    return PARKER_UNPARKED;
}

void parker_unpark(parker *p)
{
    atomic_store_explicit(&p->token, 1, memory_order_release);
    WakeByAddressSingle((VOID *)&p->token);
}

#else

/* POSIX threads.  Their condition variables count in the wall clock where they can't be told otherwise, so the
   deadline is turned into one of that clock for each sleep, and checked against ours after it. */

bool parker_handles_signals(void)
{
    return true;
}

void parker_init(parker *p)
{
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->condition, NULL);
    p->token = 0;
}

void parker_destroy(parker *p)
{
    pthread_cond_destroy(&p->condition);
    pthread_mutex_destroy(&p->mutex);
}

int parker_park(parker *p, int64_t deadline)
{
    int result = PARKER_UNPARKED;
    if (deadline < 0)
        deadline = 0;
    pthread_mutex_lock(&p->mutex);
    while (!p->token) {
        if (deadline == INT64_MAX) {
            pthread_cond_wait(&p->condition, &p->mutex);
            continue;
        }
        int64_t left = deadline - parker_now();
        if (left <= 0) {
            result = PARKER_TIMED_OUT;
            break;
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        int64_t nanoseconds = until.tv_nsec + left % NANOSECONDS;
        until.tv_sec += (time_t)(left / NANOSECONDS + nanoseconds / NANOSECONDS);
        until.tv_nsec = (long)(nanoseconds % NANOSECONDS);
        pthread_cond_timedwait(&p->condition, &p->mutex, &until);
    }
    if (result == PARKER_UNPARKED)
        p->token = 0;
    pthread_mutex_unlock(&p->mutex);
    return result;
}

void parker_unpark(parker *p)
{
    pthread_mutex_lock(&p->mutex);
    p->token = 1;
    pthread_cond_signal(&p->condition);
    pthread_mutex_unlock(&p->mutex);
}

#endif
