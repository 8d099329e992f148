/* parker: one thread sleeps until another wakes it, a time has passed or a signal came.
 *
 * A parker holds at most one token.  parker_unpark puts it there, parker_park takes it or sleeps until it is there,
 * so an unpark that comes first is not lost.  One thread at a time may park; any thread may unpark.
 */
#ifndef MESSAGECHANNEL_PARKER_H
#define MESSAGECHANNEL_PARKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Tests build the other one on Linux too. */
#ifndef PARKER_FUTEX
#if defined(__linux__)
#define PARKER_FUTEX 1
#else
#define PARKER_FUTEX 0
#endif
#endif

#if !PARKER_FUTEX && !defined(_WIN32)
#include <pthread.h>
#endif

typedef struct parker {
#if PARKER_FUTEX || defined(_WIN32)
    /* 1: the token is here.  Stored by unpark (release), taken by park (acquire). */
    _Atomic(uint32_t) token;
#else
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    int token;
#endif
} parker;

enum { PARKER_UNPARKED, PARKER_TIMED_OUT, PARKER_INTERRUPTED };

void parker_init(parker *p);
void parker_destroy(parker *p);
/* Nanoseconds of a clock that nobody sets, the one that deadlines count in. */
int64_t parker_now(void);
/* Whether the calling thread may be the one that handles the program's signals.  It had better park in slices: a signal
   that comes just before the sleep does not end it, and where there are no futexes none does. */
bool parker_handles_signals(void);
/* Sleeps until there is a token or the deadline has passed; INT64_MAX is no deadline. */
int parker_park(parker *p, int64_t deadline);
void parker_unpark(parker *p);

#endif
