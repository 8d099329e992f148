/* csrc/ring.h and csrc/ring.c, call by call.
 *
 * A step (atomic) ends where another thread's step could make a difference.  Memory being a view machine (memory.h), a
 * load may be put off: the thread may still read what it could have read; and a store may be brought forward: the others
 * need not read it yet.  So only what reads the newest value - a swap, a sequentially consistent load - must keep its
 * place, and a step is any number of loads, at most one of those, then any number of stores.  What a lock guards stays
 * together, as nobody else can get between.
 *
 * A swap that fails changes nothing and is tried again, so a look at an old tail from which a swap would be tried is as if
 * it had not been.
 */

/* Scratch of one step. */
byte at, how, pick, got;

#define end_step() c_code { settle(&now.m); now.at = 0; now.how = 0; now.pick = 0; now.got = 0; }

/* got = one of the values that may be read; nothing is noted yet. */
inline glance(location, order)
{
    at = location; how = order; pick = 0;
    do
    :: c_expr { now.pick < OLDEST } -> pick++
    :: break
    od;
    c_code { now.got = value_at(&now.m, now.at, now.pick); }
}

/* The look counts: the view is that of who has read this. */
inline noted() { c_code { load(&now.m, PThread->me, now.at, now.pick, now.how); } }

inline load(location, order, result) { glance(location, order); noted(); result = got }

inline store(location, value, order)
{
    at = location; got = value; how = order;
    c_code { store(&now.m, PThread->me, now.at, now.got, now.how); }
}

/* ---- segments ---- */

inline segment_get()
{
    c_code { now.got = swap_word(&now.m, PThread->me, SPARE, 0, GET_SPARE); };
    if
    :: got -> skip
    :: else ->
        pick = 0;
        do
        :: c_expr { now.pick < LAST_CANDIDATE } -> pick++
        :: break
        od;
        c_code { now.got = allocate(&now.m, now.pick); }
    fi;
    if
    :: got -> new_segment = got; c_code { reset(&now.m, PThread->me, PThread->new_segment); }
    :: else -> outcome = NO_MEMORY
    fi
}

inline segment_put(s)
{
    got = s;
    c_code {
        retire(&now.m, PThread->me, now.got);
        now.got = swap_word(&now.m, PThread->me, SPARE, now.got, PUT_SPARE);
        if (now.got)
            free_segment(&now.m, PThread->me, now.got);
    }
}

/* ---- producers ---- */

inline swap_tail(wanted)
{
    tail = got; got = wanted;
    c_code { swap(&now.m, PThread->me, TAIL, now.got, SWAP_TAIL); }
}

inline claim(item, n)
{
    how = item; pick = n;
    c_code {
#ifdef ANNOUNCING
        PThread->position = now.r.claimed;
#endif
        claim(&now.r, now.how, now.pick, PThread->tail, now.got);
        while (now.pick--)
            now.m.view[PThread->me].facts |= CONTENTS(now.how + now.pick);
    }
}

inline publish_edge(old, item)
{
    if
    :: old ->
        load(FIRST(old), EDGE_OLD_FIRST, first);
        c_code { check_number(&now.r, SEGMENT(PThread->tail), PThread->first); };
        if
        :: first != UNKNOWN -> store(FIRST(new_segment), first + 1, EDGE_NEW_FIRST)
        :: else
        fi;
        store(NEXT(old), new_segment, EDGE_NEXT);
        store(SLOT(old, LAST), item, EDGE_SLOT)
    :: else ->
        store(FIRST(new_segment), 0, BEGIN_FIRST);
        store(SLOT(new_segment, 0), item, BEGIN_SLOT);
        store(HEAD, new_segment, BEGIN_HEAD)
    fi;
    first = 0
}

/* Also ring_push_edge.  The item's contents are written just before. */
inline ring_push(item)
{
    do
    ::  atomic {
            outcome = 0;
            glance(TAIL, PUSH_TAIL);
            if
            :: got & SHUT -> noted(); outcome = CLOSED
            :: !(got & SHUT) && OFFSET(got) < LAST && pick == 0 ->
                swap_tail((tail + 1) & ~WAIT);
                claim(item, 1);
                outcome = CLAIMED
            :: !(got & SHUT) && OFFSET(got) == LAST && new_segment == 0 -> noted(); segment_get()
            :: !(got & SHUT) && OFFSET(got) == LAST && new_segment != 0 && pick == 0 ->
                swap_tail(TAIL_OF(new_segment, (SEGMENT(tail) -> 0 : 1)));
                claim(item, 1);
                outcome = INSTALLED
            :: else
            fi;
            end_step();
            if
            :: outcome -> break
            :: else
            fi
        }
    od;
    if
    :: outcome == INSTALLED ->
        atomic {
            publish_edge(SEGMENT(tail), item);
            woken = woken | (tail & WAIT);
            tail = 0; new_segment = 0; outcome = PUSHED;
            end_step()
        }
    :: outcome == CLAIMED ->
        atomic {
            store(SLOT(SEGMENT(tail), OFFSET(tail)), item, (new_segment -> RETRIED_SLOT : PUSH_SLOT));
            woken = woken | (tail & WAIT);
            tail = 0; outcome = PUSHED;
            end_step()
        }
    :: else
    fi;
    if
    :: new_segment -> atomic { segment_put(new_segment); new_segment = 0; end_step() }
    :: else
    fi;
#ifdef ANNOUNCING
    /* ring_outcome */
    atomic {
        if
        :: outcome == PUSHED ->
            load(ANNOUNCE, OUTCOME_ANNOUNCE, first);
            c_code { now.r.announced |= PThread->first << PThread->position; };
            first = 0
        :: else
        fi;
        position = 0;
        end_step()
    }
#endif
}

/* The items from `item` on.  done: how many were pushed. */
inline ring_push_many(item, n)
{
    done = 0;
    do
    ::  atomic {
            outcome = 0;
            glance(TAIL, MANY_TAIL);
            if
            :: !(got & SHUT) && OFFSET(got) < LAST && n - done > 1 ->
                if
                :: pick == 0 ->
                    run_ = (LAST - OFFSET(got) < n - done -> LAST - OFFSET(got) : n - done);
                    swap_tail((tail + run_) & ~WAIT);
                    claim(item + done, run_);
                    woken = woken | (tail & WAIT);
                    do
                    :: run_ ->
                        store(SLOT(SEGMENT(tail), OFFSET(tail)), item + done, MANY_SLOT);
                        tail++; done++; run_--
                    :: else -> break
                    od;
                    tail = 0;
                    outcome = PUSHED
                :: else
                fi
            :: else -> outcome = ONE_BY_ONE
            fi;
            end_step()
        };
        if
        :: outcome == ONE_BY_ONE ->
            ring_push(item + done);
            if
            :: outcome == PUSHED -> done++
            :: else -> break
            fi
        :: else
        fi;
        if
        :: done == n -> break
        :: else
        fi
    od
}

inline ring_close()
{
    atomic {
        c_code { now.got = newest(&now.m, TAIL); };
        swap_tail((tail | SHUT) & ~WAIT);
        c_code { now.r.shut = 1; };
        woken = tail & WAIT; tail = 0;
        end_step()
    }
}

/* ---- consumers ---- */

#define token_is_free c_expr { !now.m.word[TOKEN] }
/* The first try and the later ones are two accesses; the step is only as strong as the weaker. */
#define take_token() c_code { swap_word(&now.m, PThread->me, TOKEN, 1, TAKE_TOKEN & TAKE_TOKEN_SLOW); use_plain(&now.m, PThread->me, CONSUMERS_FIELDS); }
#define drop_token() c_code { store_word(&now.m, PThread->me, TOKEN, 0, DROP_TOKEN); }

inline ring_waiting(s)
{
    load(FIRST(SEGMENT(tail)), CLAIMED_FIRST, first);
    c_code { check_number(&now.r, SEGMENT(PThread->tail), PThread->first); };
    load(FIRST(s), WAITING_FIRST, first);
    c_code { check_known(&now.r, PThread->segment, PThread->first); };
    first = 0
}

/* Leaves the tail in `tail`. */
inline ring_look_at_tail(s)
{
    load(TAIL, LOOK_TAIL, tail);
    c_code { now.r.known = (uint8_t)(SEGMENT(PThread->tail) == PThread->segment ? OFFSET(PThread->tail) : SLOTS); };
    if
    :: SEGMENT(tail) != s -> ring_waiting(s)
    :: else
    fi;
    c_code { check_length(&now.r, PThread->tail); }
}

/* Until the exchange of the spare, which is a step of its own. */
inline ring_next_segment(s)
{
    load(NEXT(s), LEAVE_NEXT, next);
    load(FIRST(s), NUMBER_OWN, first);
    c_code { check_known(&now.r, PThread->segment, PThread->first); };
    store(FIRST(next), first + 1, NUMBER_NEXT);
    store(HEAD, next, LEAVE_HEAD);
    c_code { now.r.known = 0; };
    first = 0
}

inline ring_pop()
{
    atomic {
        token_is_free;
        take_token();
        load(HEAD, POP_HEAD, segment);
        item = 0;
        if
        :: segment ->
            c_code { PThread->offset = now.r.offset; };
            if
            :: c_expr { PThread->offset + 1 >= now.r.known } -> ring_look_at_tail(segment)
            :: else
            fi;
            load(SLOT(segment, offset), POP_SLOT, item);
            if
            :: item ->
                c_code { check_popped(&now.r, &now.m, PThread->me, SLOT(PThread->segment, PThread->offset), PThread->item); };
                offset++;
                if
                :: offset == SLOTS -> ring_next_segment(segment); next = 0; offset = 0
                :: else -> segment = 0
                fi;
                c_code { now.r.offset = PThread->offset; check_told(&now.r, PThread->tail & SHUT); }
            :: else -> segment = 0
            fi;
            offset = 0
        :: else
        fi;
        tail = 0;
        if
        :: segment
        :: else -> drop_token()
        fi;
        end_step()
    };
    if
    :: segment -> atomic { segment_put(segment); drop_token(); segment = 0; end_step() }
    :: else
    fi
}

/* done: how many were popped. */
inline ring_pop_many(limit)
{
    atomic {
        token_is_free;
        take_token();
        done = 0;
        load(HEAD, POP_MANY_HEAD, segment);
        if
        :: segment ->
            c_code { PThread->offset = now.r.offset; };
            ring_look_at_tail(segment);
            tail = 0
        :: else -> drop_token()
        fi;
        end_step()
    };
    do
    :: atomic {
        segment != 0 && next == 0 ->
        do
        :: done < limit && next == 0 ->
            load(SLOT(segment, offset), POP_MANY_SLOT, item);
            if
            :: item ->
                c_code { check_popped(&now.r, &now.m, PThread->me, SLOT(PThread->segment, PThread->offset), PThread->item); };
                done++; offset++; item = 0;
                if
                :: offset == SLOTS -> ring_next_segment(segment); offset = 0
                :: else
                fi
            :: else -> break
            fi
        :: else -> break
        od;
        if
        :: next == 0 ->
            c_code { now.r.offset = PThread->offset; };
            segment = 0; offset = 0;
            drop_token()
        :: else
        fi;
        end_step()
       }
    :: atomic { next != 0 -> segment_put(segment); segment = next; next = 0; end_step() }
    :: segment == 0 -> break
    od
}

inline ring_arm()
{
    do
    ::  atomic {
            token_is_free;
            outcome = 0;
            take_token();
            load(HEAD, EMPTY_HEAD, segment);
            c_code { PThread->offset = now.r.offset; };
            glance(TAIL, ARM_TAIL);
            if
            :: SEGMENT(got) != 0 && (SEGMENT(got) != segment || OFFSET(got) != offset) -> noted(); outcome = NOT_EMPTY
            :: else ->
                if
                :: got & SHUT -> noted(); outcome = CLOSED; c_code { check_drained(&now.r); }
                :: !(got & SHUT) && (got & WAIT) -> noted(); outcome = ARMED
                :: !(got & SHUT) && !(got & WAIT) && pick == 0 ->
                    swap_tail(tail | WAIT);
                    c_code { check_armed(&now.r); };
                    outcome = ARMED
                :: else
                fi
            fi;
            tail = 0; segment = 0; offset = 0;
            drop_token();
            end_step();
            if
            :: outcome -> break
            :: else
            fi
        }
    od
}

/* outcome: CLOSED when the ring is closed and drained. */
inline ring_drained()
{
    atomic {
        token_is_free;
        outcome = 0;
        glance(TAIL, DRAINED_TAIL);
        if
        :: got & SHUT ->
            noted();
            tail = got;
            take_token();
            load(HEAD, EMPTY_HEAD, segment);
            c_code { PThread->offset = now.r.offset; };
            if
            :: SEGMENT(tail) == 0 || SEGMENT(tail) == segment && OFFSET(tail) == offset ->
                outcome = CLOSED;
                c_code { check_drained(&now.r); }
            :: else
            fi;
            tail = 0; segment = 0; offset = 0;
            drop_token()
        :: else -> noted()
        fi;
        end_step()
    }
}

/* Under the token; it waits for links that are about to be stored. */
inline ring_length()
{
    atomic {
        token_is_free;
        take_token();
        load(TAIL, NOW_TAIL, tail);
        c_code { now.r.seen = claims_at(&now.r, PThread->tail); };
        if
        :: SEGMENT(tail) -> load(FIRST(SEGMENT(tail)), CLAIMED_FIRST, first)
        :: else
        fi;
        end_step()
    };
    if
    :: first == UNKNOWN ->
        do
        :: atomic {
            segment == 0 && c_expr { now.m.word[TOKEN] && NEWEST_HEAD } -> load(HEAD, NOW_HEAD, segment); end_step()
           }
        :: atomic {
            segment != 0 && segment != SEGMENT(tail) && c_expr { now.m.word[TOKEN] && NEWEST_NEXT } ->
            load(NEXT(segment), NOW_NEXT, next);
            if
            :: next ->
                load(FIRST(segment), NUMBER_OWN, first);
                c_code { check_known(&now.r, PThread->segment, PThread->first); };
                store(FIRST(next), first + 1, NUMBER_NEXT);
                segment = next; next = 0; first = 0
            :: else
            fi;
            end_step()
           }
        :: segment != 0 && segment == SEGMENT(tail) -> break
        od
    :: else
    fi;
    atomic {
        if
        :: SEGMENT(tail) ->
            segment = SEGMENT(tail);
            load(FIRST(segment), CLAIMED_FIRST, first);
            c_code { check_known(&now.r, PThread->segment, PThread->first); };
            load(HEAD, POPPED_HEAD, segment);
            if
            :: segment ->
                load(FIRST(segment), POPPED_FIRST, first);
                c_code { check_known(&now.r, PThread->segment, PThread->first); check_length(&now.r, PThread->tail); }
            :: else
            fi;
            segment = 0
        :: else
        fi;
        tail = 0; first = 0;
        drop_token();
        end_step()
    }
}

inline ring_announce()
{
    atomic { store(ANNOUNCE, 1, ANNOUNCE_STORE); end_step() };
    ring_length()
}
