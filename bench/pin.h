/* pin: a processor of its own for each side. */
#ifndef MESSAGECHANNEL_BENCH_PIN_H
#define MESSAGECHANNEL_BENCH_PIN_H

#include <sched.h>
#include <stddef.h>

/* The calling thread stays on the n-th processor that it may use.  Needs _GNU_SOURCE.  Does nothing where there is no n-th,
   or no such call. */
static inline void pin_to_processor(int n)
{
#ifdef __linux__
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    for (size_t processor = 0; processor < CPU_SETSIZE; processor++) {
        if (CPU_ISSET(processor, &allowed) && n-- == 0) {
            CPU_SET(processor, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
    }
#else
    (void)n;
#endif
}

#endif
