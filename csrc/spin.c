#ifdef __linux__
#define _GNU_SOURCE /* sched_getaffinity */
#endif

#include "spin.h"

#include <stdatomic.h>
#ifdef _WIN32
/* Without the sockets, whose header defines TRY_AGAIN. */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <sched.h>
#include <unistd.h>
#endif

#include "parker.h"
#include "pause.h"

enum {
    /* From the first look on. */
    SPIN_NANOSECONDS = 20000,
    /* A pause takes some 25 ns where docs/lock-free.md was measured, and less or more elsewhere. */
    FIRST_PAUSES = 8,
    MOST_PAUSES = 256,
    STREAM_PAUSES = 2048,
    DENSE_NANOSECONDS = 300,
    /* So many spins in a row may be in vain before a thread stops, and then it tries again once in so many waits. */
    CREDIT = 8,
    TRY_AGAIN = 32
};

static _Thread_local int credit = CREDIT;
static _Thread_local int waits_without;

/* This thread's last spin. */
static _Thread_local struct {
    const void *where;
    size_t done;
    int64_t begin;
    unsigned pauses;
} last;

static int usable_processors(void)
{
#ifdef __linux__
    cpu_set_t usable;
    /* More than fit into the set do not fail to be several. */
    return sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : CPU_SETSIZE;
#elif defined(_WIN32)
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    return (int)system.dwNumberOfProcessors;
#else
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

static unsigned patience(const void *where, size_t done, int64_t now)
{
    size_t came = done - last.done;
    bool dense = where == last.where && came > 1 && (size_t)(now - last.begin) / came < DENSE_NANOSECONDS;
    unsigned pauses = dense ? last.pauses * 2 : last.pauses / 2;
    return pauses < FIRST_PAUSES ? FIRST_PAUSES : pauses < STREAM_PAUSES ? pauses : STREAM_PAUSES;
}

static void pause_often(unsigned pauses)
{
    for (unsigned i = 0; i < pauses; i++)
        pause_processor();
}

bool spin_begin(spin *s, const void *where, size_t done, int64_t deadline)
{
    static _Atomic(int) processors;
    int usable = atomic_load_explicit(&processors, memory_order_relaxed);
    if (usable == 0) {
        usable = usable_processors();
        atomic_store_explicit(&processors, usable, memory_order_relaxed);
    }
    if (usable == 1 || (credit == 0 && ++waits_without < TRY_AGAIN))
        return false;
    waits_without = 0;
    int64_t now = parker_now();
    last.pauses = patience(where, done, now);
    last.where = where;
    last.done = done;
    last.begin = now;
    pause_often(last.pauses);
    s->pauses = FIRST_PAUSES;
    s->end = parker_now() + SPIN_NANOSECONDS;
    if (deadline < s->end)
        s->end = deadline;
    return true;
}

bool spin_on(spin *s)
{
    if (parker_now() < s->end) {
        pause_often(s->pauses);
        if (s->pauses < MOST_PAUSES)
            s->pauses *= 2;
        return true;
    }
    if (credit > 0)
        credit--;
    return false;
}

bool spin_paid(void)
{
    credit = CREDIT;
    return true;
}
