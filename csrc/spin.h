/* spin: looking again and again for a moment, before going to sleep.
 *
 * To sleep and to be woken takes tens of microseconds, most of them the waker's.  Where another processor is about to
 * bring what is waited for, it comes sooner than that.  So a thread looks for SPIN_NANOSECONDS at most, first soon, then
 * less and less often: each look takes a cache line from those who are at work on it, and whoever comes late finds more
 * than one message.  A thread whose last spins all were in vain stops spinning, but for a try now and then.
 *
 *     spin s;
 *     if (spin_begin(&s, deadline))
 *         while (spin_on(&s))
 *             if (it is there)
 *                 return spin_paid();
 */
#ifndef MESSAGECHANNEL_SPIN_H
#define MESSAGECHANNEL_SPIN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct spin {
    int64_t end;
    unsigned pauses;
} spin;

/* False where it is not worth while: one processor for all threads, or it has not paid lately in this thread. */
bool spin_begin(spin *s, int64_t deadline);
/* A pause; false when the time is up. */
bool spin_on(spin *s);
/* Tells that what was waited for came in time.  True. */
bool spin_paid(void);

#endif
