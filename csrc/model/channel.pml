/* csrc/channel.c, csrc/parker.c, and how a thread sleeps: the steps that csrc/channel.h shows. */

#define lock_is_free c_expr { !now.m.word[LOCKED] }
#define lock() c_code { swap_word(&now.m, PThread->me, LOCKED, 1, LOCK); use_plain(&now.m, PThread->me, WAITERS); }
#define unlock() c_code { store_word(&now.m, PThread->me, LOCKED, 0, UNLOCK); }

/* ---- the parker; the kernel compares the token and puts to sleep in one step ---- */

#define parker_init() c_code { now.m.word[PARKER + PThread->me] = 0; now.r.parker |= 1 << PThread->me; }
#define parker_destroy() c_code { now.r.parker &= ~(1 << PThread->me); }
#define my_token c_expr { now.m.word[PARKER + PThread->me] }
#define i_sleep c_expr { now.r.asleep & 1 << PThread->me }

/* timed_out: 1 when the time was up; INTERRUPTED by a signal, after which the thread goes without another look. */
inline parker_park(may_time_out)
{
    do
    :: atomic {
        my_token -> c_code { swap_word(&now.m, PThread->me, PARKER + PThread->me, 0, PARK); };
        end_step();
        break
       }
    :: atomic { !my_token && !i_sleep -> c_code { now.r.asleep |= 1 << PThread->me; } };
        if
        :: atomic { !i_sleep -> skip }
        :: atomic {
            may_time_out -> c_code { now.r.asleep &= ~(1 << PThread->me); };
            if
            :: timed_out = 1;
                if
                :: my_token -> c_code { swap_word(&now.m, PThread->me, PARKER + PThread->me, 0, PARK_AT_DEADLINE); }
                :: else
                fi
            :: timed_out = INTERRUPTED
            fi;
            end_step();
            break
           }
        fi
    od
}

/* ---- waiters ---- */

inline waiter_join(list)
{
    atomic { lock_is_free; lock(); got = list; c_code { join_list(&now.r, now.got, PThread->me); }; unlock(); end_step() }
}

inline waiter_leave()
{
    atomic { lock_is_free; lock(); c_code { leave_list(&now.r, PThread->me); }; unlock(); end_step() }
}

/* Under the lock: the first waiter is taken off the list and unparked. */
inline wake_first(list)
{
    got = list;
    c_code {
        PThread->other = take_first(&now.r, now.got);
        if (PThread->other != NOBODY) {
            check_parker(&now.r, PThread->other);
            store_word(&now.m, PThread->me, PARKER + PThread->other, 1, UNPARK);
        }
    }
}

#define futex_wake() c_code { check_parker(&now.r, PThread->other); now.r.asleep &= ~(1 << PThread->other); }

inline endpoint_wake(list)
{
    atomic {
        lock_is_free;
        lock();
        wake_first(list);
        if
        :: other == NOBODY -> unlock()
        :: else
        fi;
        end_step()
    };
    if
    :: other != NOBODY -> atomic { futex_wake(); unlock(); end_step() }
    :: else
    fi;
    other = 0
}

inline endpoint_wake_all()
{
    atomic { lock_is_free; lock(); wake_first(RECEIVERS); end_step() };
    do
    :: other != NOBODY -> atomic { futex_wake(); end_step() }; atomic { wake_first(RECEIVERS); end_step() }
    :: else -> break
    od;
    atomic { wake_first(SENDERS); end_step() };
    do
    :: other != NOBODY -> atomic { futex_wake(); end_step() }; atomic { wake_first(SENDERS); end_step() }
    :: else -> break
    od;
    other = 0;
    atomic { unlock(); end_step() }
}

inline endpoint_pass_on()
{
    atomic {
        lock_is_free;
        lock();
        c_code { PThread->other = now.r.list[RECEIVERS].count != 0; };
        unlock();
        end_step()
    };
    if
    :: other ->
        other = 0;
        ring_arm();
        if
        :: outcome != ARMED -> endpoint_wake(RECEIVERS)
        :: else
        fi
    :: else
    fi
}

inline endpoint_offer_room()
{
    atomic {
        lock_is_free;
        lock();
        other = 0;
        if
        :: c_expr { now.r.list[SENDERS].count } -> load(CREDITS, OFFER_CREDITS, other)
        :: else
        fi;
        if
        :: other
        :: else -> unlock()
        fi;
        end_step()
    };
    if
    :: other ->
        atomic { wake_first(SENDERS); end_step() };
        atomic { futex_wake(); unlock(); end_step() }
    :: else
    fi;
    other = 0
}

inline channel_close()
{
    ring_close();
    endpoint_wake_all();
    /* ring_drained, by which whoever closes learns what no later pop will tell. */
    atomic { token_is_free; take_token(); c_code { now.r.close_looked = 1; }; drop_token(); end_step() }
}

/* ---- what a thread does that has to wait ---- */

/* item: 0 when the ring is closed and drained, or time was up. */
inline receive(may_time_out)
{
    ring_pop();
    if
    :: item == 0 ->
        parker_init();
        do
        :: ring_drained();
            if
            :: outcome == CLOSED || timed_out -> break
            :: else
            fi;
            waiter_join(RECEIVERS);
            ring_arm();
            if
            :: outcome == ARMED -> parker_park(may_time_out)
            :: else
            fi;
            waiter_leave();
            if
            :: timed_out == INTERRUPTED -> break
            :: else
            fi;
            ring_pop();
            if
            :: item -> break
            :: else
            fi
        od;
        parker_destroy();
        first = outcome == CLOSED && item == 0;
        endpoint_pass_on();
        outcome = (first -> CLOSED : 0); first = 0
    :: else -> outcome = 0
    fi
}

/* outcome: PUSHED when a credit was got, 0 when there is none. */
inline ring_reserve()
{
    outcome = NOT_EMPTY;
    do
    :: outcome == NOT_EMPTY ->
        atomic {
            glance(CREDITS, RESERVE_LOAD);
            if
            :: got == 0 -> noted(); outcome = 0
            :: got != 0 && pick == 0 ->
                how = got - 1;
                c_code { swap(&now.m, PThread->me, CREDITS, now.how, RESERVE_SWAP); };
                outcome = PUSHED
            :: else
            fi;
            end_step()
        }
    :: else -> break
    od
}

inline ring_return_room(n)
{
    atomic {
        got = n;
        c_code { swap(&now.m, PThread->me, CREDITS, newest(&now.m, CREDITS) + now.got, RETURN_ROOM); };
        end_step()
    }
}

inline ring_closed(result)
{
    atomic { load(TAIL, CLOSED_TAIL, result); result = result & SHUT; end_step() }
}

/* outcome: PUSHED when there is room for a message; CLOSED; 0 when time was up. */
inline wait_for_room(may_time_out)
{
    parker_init();
    do
    :: ring_closed(tail);
        if
        :: tail -> outcome = CLOSED; break
        :: else
        fi;
        ring_reserve();
        if
        :: outcome == PUSHED || timed_out -> break
        :: else
        fi;
        waiter_join(SENDERS);
        ring_closed(tail);
        if
        :: tail == 0 ->
            ring_reserve();
            if
            :: outcome == PUSHED -> waiter_leave(); break
            :: else -> parker_park(may_time_out)
            fi
        :: else
        fi;
        waiter_leave();
        if
        :: timed_out == INTERRUPTED -> outcome = 0; break
        :: else
        fi
    od;
    tail = 0;
    parker_destroy();
    endpoint_offer_room()
}
