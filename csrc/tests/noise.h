/* noise: compiled before every source of a build (-include), it lets a thread lose its processor at any atomic access.
 *
 * That is noise injection (Edelstein and others, ConTest, 2002): what else takes many processors and luck, a thread
 * that is held up between two accesses, happens all the time.  It hooks the one thing that each access names, its memory
 * order.  That is no constant any more, so compilers take it for sequentially consistent: the builds with noise find
 * wrong algorithms, the builds without it find orders that are too weak.
 */
#ifndef MESSAGECHANNEL_NOISE_H
#define MESSAGECHANNEL_NOISE_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

static inline int noise(void)
{
    static _Thread_local uint32_t state;
    state = state * 1664525u + 1013904223u + (uint32_t)(uintptr_t)&state;
    if (state >> 28 == 0)
        sched_yield();
    return 0;
}

#define memory_order_relaxed (noise(), memory_order_relaxed)
#define memory_order_acquire (noise(), memory_order_acquire)
#define memory_order_release (noise(), memory_order_release)
#define memory_order_acq_rel (noise(), memory_order_acq_rel)
#define memory_order_seq_cst (noise(), memory_order_seq_cst)

#endif
