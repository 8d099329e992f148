/* Threads at one endpoint.  tools/model sets:
 *
 *     PRODUCERS, ITEMS_EACH   threads that push so many messages each, numbered from 1 on
 *     CAPACITY                of a bounded ring: producers wait for room
 *     HASTY_SENDERS           of the producers, how many have a time-out there, and go when it has passed
 *     POLLERS                 threads that pop until the ring is closed and drained, and never sleep
 *     PUSH_MANY               producers push all at once
 *     POP_MANY                pollers pop up to so many at once
 *     SLEEPERS                threads that sleep while there is nothing, until the ring is closed and drained
 *     HASTY                   of these, how many have a time-out, and go when it has passed
 *     OWNERS                  threads that ask for announcements and count what waits; with them, ANNOUNCING
 *     CLOSE_EARLY             the one thread that closes does so at any moment; else when all was popped
 *     SEGMENTS, SLOTS         how many segments there is memory for, slots in each
 *     SEQUENTIAL              memory is sequentially consistent (memory.h)
 */
#include "layout.h"
#include "orders.h"

c_decl {
\#include "memory.h"
\#include "record.h"
}
c_state "memory m" "Global"
c_state "record r" "Global"

byte producing = PRODUCERS + OWNERS;

#include "ring.pml"
#include "channel.pml"

#define everything_popped c_expr { now.r.popped == now.r.claimed }
/* What a consumer that polls would find at last; until then it looks in vain, which changes nothing for anybody. */
#define worth_a_look c_expr { now.r.popped < now.r.claimed || now.r.shut }

#define end_thread() atomic { c_code { finish(&now.m, PThread->me); } }

proctype Thread(byte me; byte role)
{
    byte tail, segment, new_segment, offset, first, next, position, done, run_;
    byte item, outcome, woken, other, timed_out, i;
    if
    :: role == PRODUCER ->
#ifdef PUSH_MANY
        ring_push_many(me * ITEMS_EACH + 1, ITEMS_EACH);
        if
        :: woken -> woken = 0; endpoint_wake(RECEIVERS)
        :: else
        fi;
#else
        do
        :: i < ITEMS_EACH ->
#ifdef CAPACITY
            wait_for_room(me < HASTY_SENDERS);
            if
            :: outcome == PUSHED ->
                ring_push(me * ITEMS_EACH + i + 1);
                if
                :: outcome == NO_MEMORY -> ring_return_room(1); endpoint_offer_room()
                :: else
                fi
            :: else -> i = ITEMS_EACH - 1
            fi;
#else
            ring_push(me * ITEMS_EACH + i + 1);
#endif
            if
            :: woken -> woken = 0; endpoint_wake(RECEIVERS)
            :: else
            fi;
            i++
        :: else -> break
        od;
#endif
        atomic { producing--; c_code { finish(&now.m, PThread->me); } }
    :: role == POLLER ->
        do
        :: worth_a_look;
#ifdef POP_MANY
            ring_pop_many(POP_MANY);
            item = done;
#else
            ring_pop();
#endif
            if
            :: item == 0 ->
                ring_drained();
                if
                :: outcome == CLOSED -> break
                :: else
                fi
            :: else ->
#ifdef CAPACITY
                if
                :: done == 0 -> done = 1
                :: else
                fi;
                ring_return_room(done);
                endpoint_offer_room();
#endif
                item = 0; done = 0
            fi
        od;
        end_thread()
    :: role == SLEEPER || role == HASTY_SLEEPER ->
        do
        :: receive(role == HASTY_SLEEPER);
            if
            :: outcome == CLOSED || timed_out -> break
            :: else
            fi;
            item = 0;
#ifdef CAPACITY
            ring_return_room(1);
            endpoint_offer_room()
#endif
        od;
        end_thread()
    :: role == OWNER ->
        ring_announce();
        atomic { producing--; c_code { finish(&now.m, PThread->me); } }
    :: role == CLOSER ->
#ifndef CLOSE_EARLY
        producing == 0 && everything_popped;
#ifdef ANNOUNCING
        c_code { check_heard(&now.r); };
#endif
#endif
        channel_close();
        end_thread()
    fi
}

init {
    atomic {
        byte t;
        c_code { start(&now.m, TAIL_OF(0, LAST), CREDITS_AT_START); };
        for (t : 0 .. THREADS - 1) {
            run Thread(t, (t < PRODUCERS -> PRODUCER :
                           (t < PRODUCERS + POLLERS -> POLLER :
                            (t < PRODUCERS + POLLERS + HASTY -> HASTY_SLEEPER :
                             (t < PRODUCERS + POLLERS + SLEEPERS -> SLEEPER :
                             (t < THREADS - 1 -> OWNER : CLOSER))))))
        }
        t = 0
    }
}
