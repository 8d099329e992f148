/* history: decides whether what threads saw of a ring is linearisable (Herlihy and Wing, 1990), that is, whether every
 * call can be given one moment between its invocation and its return such that a sequential queue, asked in the order
 * of these moments, would have given the same answers.
 *
 * The sequential queue is a list of messages, each published or not, and whether the queue is shut:
 *
 *     PUSHED x     not shut, and x is appended; published by a second step, which is also before the return
 *     REFUSED      shut: a push got RING_CLOSED, or a batch ended early
 *     POPPED x     x is the first and is published; it is removed
 *     NOTHING      there is no first, or it is not published
 *     EMPTY        there is no first
 *     OCCUPIED     there is a first, published or not
 *     CLOSED       not shut, and now it is, for ever
 *     SHUT, OPEN   shut, not shut
 *     DRAINED      shut, and there is no first
 *     NOT_DRAINED  not shut, or there is a first
 *
 * NOTHING is weaker than EMPTY because a ring claims first and publishes then: a message whose push has returned may
 * wait behind one whose push has not, and until that has published, pops find nothing (csrc/ring.h, I2).  So NOTHING
 * promises only this: no push that may come first has returned.
 *
 * A call that tells several things is as many events; the messages of one batch are pushed, and popped, in their order.
 * An event precedes another when it returned before the other was invoked.
 *
 * Algorithm: Bouajjani, Emmi, Enea and Hamza, "On reducing linearizability to state reachability" (ICALP 2015), after
 * Henzinger, Sezgin and Vafeiadis, "Aspect-oriented linearizability proofs" (CONCUR 2013).  A history of a queue whose
 * values are distinct is linearisable if and only if it shows none of a few bad patterns, each found in polynomial
 * time.  Theirs are NEVER_PUSHED to NOT_EMPTY below.  OUT_OF_ORDER is a cycle of values here instead of a pair, because
 * the order within a batch is one more constraint than those of intervals.  Closing adds NOT_FINAL: one moment has to
 * lie after the beginning of all that found the queue open and before the end of all that found it shut.
 *
 * It never refuses a linearisable history.  It refuses every other one of pushes, pops and EMPTY; of the other looks
 * each is judged by itself, so that two which exclude each other may pass (test_history.c compares with an exhaustive
 * search).
 */
#ifndef MESSAGECHANNEL_HISTORY_H
#define MESSAGECHANNEL_HISTORY_H

#include <stddef.h>
#include <stdint.h>

enum { HISTORY_VALUES = 64 };

typedef enum fact_kind {
    PUSHED, REFUSED, POPPED, NOTHING, EMPTY, OCCUPIED, CLOSED, SHUT, OPEN, DRAINED, NOT_DRAINED
} fact_kind;

typedef struct event {
    fact_kind fact;
    unsigned thread;
    /* Of PUSHED and POPPED: below HISTORY_VALUES, and each pushed once at most. */
    unsigned value;
    /* No two calls share a stamp. */
    uint64_t invoked, returned;
} event;

typedef enum verdict {
    LINEARISABLE,
    NEVER_PUSHED,        /* a value was popped that no push had accepted */
    POPPED_TWICE,
    POPPED_BEFORE_PUSHED,
    OUT_OF_ORDER,        /* values that were pushed one after the other were popped the other way round */
    NOT_EMPTY,           /* nothing was found though a value was there all the while; a lost value shows as this */
    NOT_OCCUPIED,        /* something was found though nothing can have been there */
    NOT_FINAL            /* found shut before it was closed, open after it, or closed twice */
} verdict;

extern const char *const fact_names[], *const verdict_names[];

/* The events of each thread stand in the order in which it saw them. */
verdict history_check(const event *events, size_t n);

#endif
