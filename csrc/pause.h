/* How a spinning thread behaves: a few polite spins, then the processor is given away.
 * The one place that knows the compiler's and the system's names for that. */
#ifndef MESSAGECHANNEL_PAUSE_H
#define MESSAGECHANNEL_PAUSE_H

#ifdef _WIN32
#include <intrin.h>
/* Its header has macros for names that others use, such as `far`. */
__declspec(dllimport) int __stdcall SwitchToThread(void);
#else
#include <sched.h>
#endif

static inline void pause_processor(void)
{
#if defined(_M_X64)
    _mm_pause();
#elif defined(__x86_64__) || defined(__i386__)
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
#ifdef _WIN32
        SwitchToThread();
#else
        sched_yield();
#endif
}

#endif
