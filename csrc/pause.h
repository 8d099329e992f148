/* How a spinning thread behaves: a few polite spins, then the processor is given away.
 * The one place that knows the compiler's and the system's names for that. */
#ifndef MESSAGECHANNEL_PAUSE_H
#define MESSAGECHANNEL_PAUSE_H

#include <sched.h>

static inline void pause_processor(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* It will be read soon. */
static inline void prefetch(const void *address)
{
#if defined(__GNUC__)
    __builtin_prefetch(address);
#else
    (void)address;
#endif
}

/* Call it once per failed look; `*spins` starts at 0. */
static inline void pause_backoff(unsigned *spins)
{
    if (++*spins % 64)
        pause_processor();
    else
        sched_yield();
}

#endif
