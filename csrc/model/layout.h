/* What the Promela and the C of the models both need to know of the data. */

#define ITEMS (PRODUCERS * ITEMS_EACH)
#define THREADS (PRODUCERS + POLLERS + SLEEPERS + OWNERS + 1)

/* As in ring.h, but the numbers are small and a segment's name is its number, from 1. */
#ifndef SLOTS
#define SLOTS 2
#endif
#define LAST (SLOTS - 1)
#define WAIT 4
#define SHUT 8
#define OFFSET(tail) ((tail) & 3)
#define SEGMENT(tail) ((tail) >> 4)
#define TAIL_OF(s, offset) ((s) << 4 | (offset))
#define UNKNOWN 252

/* Not values of the program: a value of an earlier life of its segment; one that the history no longer keeps. */
#define STALE 254
#define TOO_OLD 253

/* Locations: words that are loaded. */
#define TAIL 0
#define HEAD 1
#define ANNOUNCE 2
#define CREDITS 3
#define SEGMENT_LOCATIONS 4
#define LOCATIONS_A_SEGMENT (2 + SLOTS)
#define NEXT(s) (SEGMENT_LOCATIONS + ((s) - 1) * LOCATIONS_A_SEGMENT)
#define FIRST(s) (NEXT(s) + 1)
#define SLOT(s, offset) (NEXT(s) + 2 + (offset))
#define LOCATIONS NEXT(SEGMENTS + 1)

/* Words that are swapped, or stored by their holder, so that nobody reads an old value. */
#define TOKEN 0
#define SPARE 1
#define LOCKED 2
#define PARKER 3 /* and one more for each further thread */
#define WORDS (PARKER + THREADS)

/* Lists of waiters. */
#define RECEIVERS 0
#define SENDERS 1
#define NOBODY 255

/* What calls report. */
#define PUSHED 1
#define INSTALLED 2
#define CLOSED 3
#define NO_MEMORY 4
#define ARMED 5
#define NOT_EMPTY 6
#define ONE_BY_ONE 7
#define CLAIMED 8

/* Roles of threads. */
#define PRODUCER 0
#define POLLER 1
#define SLEEPER 2
#define HASTY_SLEEPER 3
#define OWNER 4
#define CLOSER 5

/* How a wait ended that was not ended by a wake-up. */
#define INTERRUPTED 2
