/* csrc/byte_ring.h and csrc/byte_ring.c: how one producer and one consumer sleep, ring bells, close and die.
 *
 *     RECORDS       that the producer sends; all take the same room
 *     ROOM          for so many of them
 *     CLOSE_EARLY   the consumer may close at any moment
 *     DEATHS        one of the two may die at any moment, or neither
 *     HASTY         sleeps that may end without a bell
 *     WATCHES       times that another thread of the producer's process asks for a bell, to wait for something else that
 *                   the consumer does (csrc/link.h, link_arm_credit)
 *
 * Memory: as in memory.h, but of two words.  A word has a history, from the value that its reader saw last to the newest.
 * A load reads any of these, a swap the newest.  With a value come the facts that a release stored with it: which records
 * are written (tail), which are read (head).
 *
 * Properties: records are read in order, each once, with their bytes visible; no bytes are overwritten that may still be
 * read; SLEEPS is set only while there is nothing to wake for; at the end all is read that was published, whoever dies;
 * and everybody comes to an end, hence no bell is lost.
 */
#include "orders.h"

#define KEPT 12
#define PRODUCER 0
#define CONSUMER 1
#define BIT(n) (1 << (n))

#define TAIL PRODUCER /* the word that it exchanges */
#define HEAD CONSUMER

typedef value { byte position; bool sleeps, closed; byte facts }
typedef history { value at[KEPT]; byte newest }
history word[2];
byte bytes[ROOM]; /* which record is there, from 1 on */
byte published;
bool bell[2], closed[2], killed[2], gone[2], closed_early;
byte hasty = HASTY, watches = WATCHES;
byte i;

#define OLDEST(w) word[w].at[0]
#define NEWEST(w) word[w].at[word[w].newest]

inline assign(to, position_, sleeps_, closed_, facts_)
{
    to.position = position_; to.sleeps = sleeps_; to.closed = closed_; to.facts = facts_
}

/* The reader has seen value n: it can't see older ones any more. */
inline saw(w, n)
{
    do
    :: n > 0 ->
        for (i : 0 .. word[w].newest - 1) {
            assign(word[w].at[i], word[w].at[i + 1].position, word[w].at[i + 1].sleeps, word[w].at[i + 1].closed,
                   word[w].at[i + 1].facts)
        }
        assign(NEWEST(w), 0, 0, 0, 0);
        word[w].newest--; n--
    :: else -> break
    od;
    i = 0
}

inline saw_all(w) { n = word[w].newest; saw(w, n) }

inline acquire(w, order)
{
    if
    :: order & ACQUIRE -> known = known | OLDEST(w).facts
    :: else
    fi
}

inline load(w, order)
{
    do
    :: n < word[w].newest -> n++
    :: break
    od;
    saw(w, n);
    acquire(w, order)
}

/* A swap passes on the facts that it finds. */
inline swap(w, position_, sleeps_, closed_)
{
    assert(word[w].newest + 1 < KEPT);
    assign(word[w].at[word[w].newest + 1], position_, sleeps_, closed_, NEWEST(w).facts);
    word[w].newest++
}

inline byte_ring_store(w, position_, closed_)
{
    owed = NEWEST(w).sleeps;
    swap(w, position_, 0, closed_);
    if
    :: BYTES_STORE & RELEASE -> NEWEST(w).facts = NEWEST(w).facts | done
    :: else
    fi
}

/* A compare-and-swap by the word's reader. */
inline arm(w, position_, order)
{
    saw_all(w);
    acquire(w, order);
    armed = OLDEST(w).position == position_ && !OLDEST(w).closed;
    if
    :: armed && !OLDEST(w).sleeps -> swap(w, position_, 1, 0); saw_all(w)
    :: else
    fi
}

/* In a step of its own. */
inline ring_bell(other)
{
    if
    :: owed -> atomic { bell[other] = 1; owed = 0 }
    :: else
    fi
}

/* The kernel orders what was done before a bell, or a death, before what is done after it.  ended: by a death. */
inline sleep(me, other)
{
    if
    :: atomic { bell[me] -> bell[me] = 0; saw_all(other) }
    :: atomic { !bell[me] && gone[other] -> ended = 1; saw_all(other) }
    :: atomic { hasty > 0 -> hasty-- }
    fi
}

/* Whoever has closed lives on, and its end wakes nobody: the word and its bell must. */
inline leave(me, other)
{
    closed[me] = 1;
    closed[other] || gone[other];
    gone[me] = 1
}

/* ---- producer ---- */

inline publish()
{
    atomic { byte_ring_store(TAIL, position, 0); published = position };
    ring_bell(CONSUMER)
}

/* Whoever does it has the producer's lock. It leaves alone what the producer has seen. */
inline watch_head()
{
    do
    :: watches > 0 ->
        atomic {
            watches--;
            load(HEAD, BYTES_HEAD);
            arm(HEAD, OLDEST(HEAD).position, BYTES_ARM_HEAD & BYTES_ARM_HEAD_FAILURE)
        }
    :: break
    od
}

/* ended: nobody will give back room any more. */
inline wait_for_room()
{
    do
    :: ended || position - seen < ROOM -> break
    :: else ->
        atomic { load(HEAD, BYTES_HEAD); seen = OLDEST(HEAD).position };
        if
        :: position - seen < ROOM -> break
        :: else ->
            publish();
            watch_head();
            atomic { arm(HEAD, seen, BYTES_ARM_HEAD & BYTES_ARM_HEAD_FAILURE) };
            if
            :: armed -> sleep(PRODUCER, CONSUMER)
            :: else
            fi;
            atomic {
                if
                :: OLDEST(HEAD).closed -> ended = 1
                :: else
                fi
            }
        fi
    od
}

inline write_record()
{
    atomic {
        assert(position < ROOM || known & BIT(position - ROOM)); /* else somebody may be reading there */
        bytes[position % ROOM] = position + 1;
        done = done | BIT(position);
        position++
    }
}

proctype Producer()
{
    byte position, seen, done, known, n; /* done: records written */
    bool armed, owed, ended;
    {
        do
        :: position < RECORDS && !ended ->
            wait_for_room();
            if
            :: !ended ->
                write_record();
                if
                :: publish()
                :: position < RECORDS -> skip /* a batch */
                fi
            :: else
            fi
        :: else -> break
        od;
        atomic { byte_ring_store(TAIL, published, 1) };
        ring_bell(CONSUMER);
        leave(PRODUCER, CONSUMER)
    } unless {
        atomic { killed[PRODUCER] -> gone[PRODUCER] = 1 }
    }
}

/* ---- consumer ---- */

inline release()
{
    atomic { byte_ring_store(HEAD, position, 0) };
    ring_bell(PRODUCER)
}

/* shut: closed and nothing is left. */
inline peek()
{
    atomic {
        if
        :: position == seen ->
            load(TAIL, BYTES_TAIL);
            seen = OLDEST(TAIL).position;
            shut = OLDEST(TAIL).closed && seen == position
        :: else
        fi
    }
}

inline read_record()
{
    atomic {
        assert(known & BIT(position)); /* else its bytes may not be there yet */
        assert(bytes[position % ROOM] == position + 1);
        done = done | BIT(position);
        position++
    }
}

proctype Consumer()
{
    byte position, seen, done, known, n; /* done: records read */
    bool armed, owed, ended, shut;
    {
        do
        :: peek();
            if
            :: position < seen ->
                read_record();
                if
                :: release()
                :: skip /* a batch */
                fi
            :: shut -> break
            :: else ->
                if
                :: ended -> break
                :: else
                fi;
                release();
                atomic {
                    arm(TAIL, position, BYTES_ARM_TAIL & BYTES_ARM_TAIL_FAILURE);
                    assert(!armed || position == published)
                };
                if
                :: armed -> sleep(CONSUMER, PRODUCER)
                :: else
                fi
            fi
#ifdef CLOSE_EARLY
        :: closed_early = 1; break
#endif
        od;
        assert(closed_early || position == published);
        atomic { byte_ring_store(HEAD, position, 1) };
        ring_bell(PRODUCER);
        leave(CONSUMER, PRODUCER)
    } unless {
        atomic { killed[CONSUMER] -> gone[CONSUMER] = 1 }
    }
}

proctype Killer()
{
    if
    :: killed[PRODUCER] = 1
    :: killed[CONSUMER] = 1
    :: skip
    fi
}

init {
    atomic {
        run Producer();
        run Consumer();
#ifdef DEATHS
        run Killer()
#endif
    }
}
