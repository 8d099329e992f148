#ifdef __linux__
#define _GNU_SOURCE /* sched_getaffinity */
#endif

#include "spin.h"

#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "parker.h"
#include "pause.h"

enum {
    SPIN_NANOSECONDS = 20000,
    FIRST_PAUSES = 8,
    MOST_PAUSES = 256,
    /* So many spins in a row may be in vain before a thread stops, and then it tries again once in so many waits. */
    CREDIT = 8,
    TRY_AGAIN = 32
};

static _Thread_local int credit = CREDIT;
static _Thread_local int waits_without;

static int usable_processors(void)
{
#ifdef __linux__
    cpu_set_t usable;
    /* More than fit into the set do not fail to be several. */
    return sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : CPU_SETSIZE;
#else
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

bool spin_begin(spin *s, int64_t deadline)
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
    s->end = parker_now() + SPIN_NANOSECONDS;
    if (deadline < s->end)
        s->end = deadline;
    s->pauses = FIRST_PAUSES;
    return true;
}

bool spin_on(spin *s)
{
    for (unsigned i = 0; i < s->pauses; i++)
        pause_processor();
    if (s->pauses < MOST_PAUSES)
        s->pauses *= 2;
    if (parker_now() < s->end)
        return true;
    if (credit > 0)
        credit--;
    return false;
}

bool spin_paid(void)
{
    credit = CREDIT;
    return true;
}
