/* parker: one thread sleeps until another wakes it, a time has passed or a signal came.
 *
 * A parker holds at most one token.  parker_unpark puts it there, parker_park takes it or sleeps until it is there,
 * so an unpark that comes first is not lost.  One thread at a time may park; any thread may unpark.
 */
#ifndef MESSAGECHANNEL_PARKER_H
#define MESSAGECHANNEL_PARKER_H

#include <stdatomic.h>
#include <stdint.h>

/* Tests build the other one on Linux too. */
#ifndef PARKER_FUTEX
#if defined(__linux__)
#define PARKER_FUTEX 1
#else
#define PARKER_FUTEX 0
#endif
#endif

#if !PARKER_FUTEX
#include <pthread.h>
#endif

/* Whether a signal's handler ends a park at once.  Where it does not, who must see signals parks in slices. */
#define PARKER_SEES_SIGNALS PARKER_FUTEX

typedef struct parker {
#if PARKER_FUTEX
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
/* Sleeps until there is a token or the deadline has passed; INT64_MAX is no deadline. */
int parker_park(parker *p, int64_t deadline);
void parker_unpark(parker *p);

#endif
