/* spin: looking again and again for a moment, before going to sleep.
 *
 * To sleep and to be woken takes tens of microseconds, most of them the waker's.  Where another processor is about to
 * bring what is waited for, it comes sooner than that.  So a thread looks for a moment, first soon, then less and less
 * often: each look takes a cache line from those who are at work on it.  A thread whose last spins all were in vain
 * stops spinning, but for a try now and then.
 *
 * In a stream, where messages come faster than DENSE_NANOSECONDS apart, it pays to let some gather: who takes each
 * message right behind its sender fights with it over every cache line.  So there the first look comes later each time.
 *
 *     spin s;
 *     if (spin_begin(&s, where, done, deadline))
 *         do
 *             if (it is there)
 *                 return spin_paid();
 *         while (spin_on(&s));
 */
#ifndef MESSAGECHANNEL_SPIN_H
#define MESSAGECHANNEL_SPIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct spin {
    int64_t end;
    unsigned pauses;
} spin;

/* False where it is not worth while: one processor for all threads, or it has not paid lately in this thread.  `where` is
   anything that tells one queue from another, and `done` how many messages have left it so far. */
bool spin_begin(spin *s, const void *where, size_t done, int64_t deadline);
/* A pause between two looks; false when the time is up. */
bool spin_on(spin *s);
/* Tells that what was waited for came in time.  True. */
bool spin_paid(void);

#endif
