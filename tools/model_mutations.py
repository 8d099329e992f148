"""What tools/model --mutate changes: each of HARMFUL must be found, each of HARMLESS must break nothing.

A mutation is where it is searched, and what is replaced: (file of csrc/model, text that is there once, new text).
"""

from __future__ import annotations

Replacements = tuple[tuple[str, str, str], ...]
RING, CHANNEL, MODEL, BYTES = "ring.pml", "channel.pml", "model.pml", "bytes.pml"


def order(name: str, old: str, new: str) -> Replacements:
    """Give an access of csrc/model/orders.h another memory order."""
    return (("orders.h", f"#define {name} {old} ", f"#define {name} {new} "),)


HARMFUL: dict[str, tuple[tuple[str, ...], Replacements]] = {
    # -- memory orders: each that is not relaxed, made weaker --
    "swap tail, no acquire": (("producers",), order("SWAP_TAIL", "SEQ_CST", "RELEASE")),
    "swap tail, no release": (("recycle",), order("SWAP_TAIL", "SEQ_CST", "ACQUIRE")),
    "swap tail, no total order": (("announce",), order("SWAP_TAIL", "SEQ_CST", "ACQ_REL")),
    "take token": (("consumers",), order("TAKE_TOKEN", "ACQUIRE", "RELAXED")),
    "take token, slow": (("consumers",), order("TAKE_TOKEN_SLOW", "ACQUIRE", "RELAXED")),
    "drop token": (("consumers",), order("DROP_TOKEN", "RELEASE", "RELAXED")),
    "look for announce": (("announce",), order("OUTCOME_ANNOUNCE", "SEQ_CST", "ACQUIRE")),
    "set announce": (("announce",), order("ANNOUNCE_STORE", "SEQ_CST", "RELEASE")),
    "count after announce": (("announce",), order("NOW_TAIL", "SEQ_CST", "ACQUIRE")),
    "publish": (("recycle",), order("PUSH_SLOT", "RELEASE", "RELAXED")),
    "publish, last slot": (("recycle",), order("EDGE_SLOT", "RELEASE", "RELAXED")),
    "publish, after a retry": (("producers",), order("RETRIED_SLOT", "RELEASE", "RELAXED")),
    "publish, batch": (("batch-alone",), order("MANY_SLOT", "RELEASE", "RELAXED")),
    "publish head": (("recycle",), order("BEGIN_HEAD", "RELEASE", "RELAXED")),
    "get spare": (("recycle",), order("GET_SPARE", "ACQUIRE", "RELAXED")),
    "put spare, no release": (("recycle",), order("PUT_SPARE", "ACQ_REL", "ACQUIRE")),
    "put spare, no acquire": (("producers",), order("PUT_SPARE", "ACQ_REL", "RELEASE")),
    "pop, head": (("recycle",), order("POP_HEAD", "ACQUIRE", "RELAXED")),
    "look at tail": (("producers",), order("LOOK_TAIL", "ACQUIRE", "RELAXED")),
    "pop, slot": (("recycle",), order("POP_SLOT", "ACQUIRE", "RELAXED")),
    "pop many, head": (("batch-alone",), order("POP_MANY_HEAD", "ACQUIRE", "RELAXED")),
    "pop many, slot": (("batch-alone",), order("POP_MANY_SLOT", "ACQUIRE", "RELAXED")),
    "count, head": (("large-announce",), order("NOW_HEAD", "ACQUIRE", "RELAXED")),
    "popped, head": (("large-announce",), order("POPPED_HEAD", "ACQUIRE", "RELAXED")),
    "lock": (("sleep",), order("LOCK", "ACQUIRE", "RELAXED")),
    "unlock": (("sleep",), order("UNLOCK", "RELEASE", "RELAXED")),
    # -- the ring, a line changed --
    "claim keeps WAIT": (
        ("sleep",),
        (
            (
                RING,
                "swap_tail((tail + 1) & ~WAIT);\n                claim(item, 1);",
                "swap_tail(tail + 1);\n                claim(item, 1);",
            ),
        ),
    ),
    "push ignores SHUT": (
        ("close",),
        (
            (
                RING,
                ":: got & SHUT -> noted(); outcome = CLOSED\n"
                "            :: !(got & SHUT) && OFFSET(got) < LAST && pick == 0 ->",
                ":: OFFSET(got) < LAST && pick == 0 ->",
            ),
        ),
    ),
    "close stores": (
        ("producers",),
        (
            (RING, "c_code { now.got = newest(&now.m, TAIL); };", "glance(TAIL, RELAXED);"),
            (MODEL, "producing == 0 && everything_popped;", "true;"),
        ),
    ),
    "arm stores": (("sleep",), ((RING, "!(got & WAIT) && pick == 0 ->", "!(got & WAIT) ->"),)),
    "arm does not look": (
        ("sleep",),
        ((RING, "SEGMENT(got) != 0 && (SEGMENT(got) != segment || OFFSET(got) != offset) ->", "false ->"),),
    ),
    "drained when closed": (
        ("close",),
        ((RING, "SEGMENT(tail) == 0 || SEGMENT(tail) == segment && OFFSET(tail) == offset ->", "true ->"),),
    ),
    "last slot before link": (
        ("recycle",),
        (
            (
                RING,
                "        store(NEXT(old), new_segment, EDGE_NEXT);\n        store(SLOT(old, LAST), item, EDGE_SLOT)\n",
                "        store(SLOT(old, LAST), item, EDGE_SLOT);\n        store(NEXT(old), new_segment, EDGE_NEXT)\n",
            ),
        ),
    ),
    "no new life": (("recycle",), ((RING, "c_code { reset(&now.m, PThread->me, PThread->new_segment); }", "skip"),)),
    "recycled too early": (
        ("recycle",),
        (
            (
                RING,
                ":: offset == SLOTS -> ring_next_segment(segment); next = 0; offset = 0",
                ":: offset == SLOTS - 1 -> offset = 0",
            ),
        ),
    ),
    "looks too late": (
        ("close",),
        ((RING, "PThread->offset + 1 >= now.r.known", "PThread->offset >= now.r.known"),),
    ),
    "knows of the last segment": (("close",), ((RING, "c_code { now.r.known = 0; };", "skip;"),)),
    "retry keeps its segment": (
        ("producers",),
        (
            (
                RING,
                ":: new_segment -> atomic { segment_put(new_segment); new_segment = 0; end_step() }",
                ":: new_segment -> new_segment = 0",
            ),
        ),
    ),
    "successor not numbered": (
        ("producers",),
        ((RING, "    store(FIRST(next), first + 1, NUMBER_NEXT);\n    store(HEAD", "    store(HEAD"),),
    ),
    "wrong number": (
        ("recycle",),
        (
            (
                RING,
                "store(FIRST(new_segment), first + 1, EDGE_NEW_FIRST)",
                "store(FIRST(new_segment), first + 2, EDGE_NEW_FIRST)",
            ),
        ),
    ),
    "count, then announce": (
        ("announce",),
        (
            (
                RING,
                "    atomic { store(ANNOUNCE, 1, ANNOUNCE_STORE); end_step() };\n    ring_length()",
                "    ring_length();\n    atomic { store(ANNOUNCE, 1, ANNOUNCE_STORE); end_step() }",
            ),
        ),
    ),
    "no token": (
        ("consumers",),
        (
            (
                RING,
                "#define token_is_free c_expr { !now.m.word[TOKEN] }",
                "#define token_is_free c_expr { now.m.word[TOKEN] < 2 }",
            ),
        ),
    ),
    # -- waiting, a line changed --
    "push does not wake": (
        ("sleep",),
        (
            (
                MODEL,
                ":: woken -> woken = 0; endpoint_wake(RECEIVERS)\n            :: else",
                ":: woken -> woken = 0\n            :: else",
            ),
        ),
    ),
    "close does not wake": (("sleep",), ((CHANNEL, "    ring_close();\n    endpoint_wake_all()", "    ring_close()"),)),
    "no baton": (("sequential-baton",), ((CHANNEL, "        endpoint_pass_on();\n", ""),)),
    "baton does not wake": (
        ("sequential-baton",),
        ((CHANNEL, ":: outcome != ARMED -> endpoint_wake(RECEIVERS)", ":: outcome != ARMED"),),
    ),
    "baton does not arm": (
        ("sequential-baton",),
        ((CHANNEL, "        other = 0;\n        ring_arm();", "        other = 0; outcome = ARMED;"),),
    ),
    "arm before joining": (
        ("sleep",),
        (
            (
                CHANNEL,
                "            waiter_join(RECEIVERS);\n            ring_arm();",
                "            ring_arm();\n            waiter_join(RECEIVERS);",
            ),
        ),
    ),
    "sleep without arming": (
        ("sleep",),
        (
            (
                CHANNEL,
                "            waiter_join(RECEIVERS);\n            ring_arm();",
                "            waiter_join(RECEIVERS);\n            outcome = ARMED;",
            ),
        ),
    ),
    "leave stays in the list": (
        ("sequential-baton",),
        ((CHANNEL, "            waiter_leave();\n            if\n", "            if\n"),),
    ),
    "unpark leaves no token": (
        ("sleep",),
        ((CHANNEL, "            store_word(&now.m, PThread->me, PARKER + PThread->other, 1, UNPARK);\n", ""),),
    ),
    "unpark does not wake": (
        ("sleep",),
        (
            (
                CHANNEL,
                "check_parker(&now.r, PThread->other); now.r.asleep &= ~(1 << PThread->other);",
                "check_parker(&now.r, PThread->other);",
            ),
        ),
    ),
    "sleep without comparing": (
        ("sleep",),
        ((CHANNEL, ":: atomic { !my_token && !i_sleep ->", ":: atomic { !my_token && !i_sleep -> skip }; atomic {"),),
    ),
    "unpark after unlock": (
        ("sleepers",),
        (
            (
                CHANNEL,
                "    :: other != NOBODY -> atomic { futex_wake(); unlock(); end_step() }",
                "    :: other != NOBODY -> atomic { unlock(); end_step() }; atomic { futex_wake() }",
            ),
        ),
    ),
    "no lock": (
        ("sleep",),
        (
            (
                CHANNEL,
                "#define lock_is_free c_expr { !now.m.word[LOCKED] }",
                "#define lock_is_free c_expr { now.m.word[LOCKED] < 2 }",
            ),
        ),
    ),
    # -- room, a line changed --
    "room not offered": (
        ("sequential-room",),
        (
            (
                MODEL,
                "item = 0;\n#ifdef CAPACITY\n            ring_return_room(1);\n            endpoint_offer_room()",
                "item = 0;\n#ifdef CAPACITY\n            ring_return_room(1)",
            ),
        ),
    ),
    "no second look for room": (
        ("sequential-room",),
        (
            (
                CHANNEL,
                "        :: tail == 0 ->\n            ring_reserve();",
                "        :: tail == 0 ->\n            outcome = 0;",
            ),
        ),
    ),
    "sender has no baton": (
        ("sequential-hasty",),
        (
            (
                CHANNEL,
                "    tail = 0;\n    parker_destroy();\n    endpoint_offer_room()",
                "    tail = 0;\n    parker_destroy()",
            ),
        ),
    ),
    "room of no use not offered": (
        ("room-scarce",),
        (
            (
                MODEL,
                ":: outcome == NO_MEMORY -> ring_return_room(1); endpoint_offer_room()",
                ":: outcome == NO_MEMORY -> ring_return_room(1)",
            ),
        ),
    ),
    "credits are stored": (
        ("room",),
        (
            (CHANNEL, ":: got != 0 && pick == 0 ->", ":: got != 0 ->"),
            ("orders.h", "#define RESERVE_LOAD SEQ_CST ", "#define RESERVE_LOAD RELAXED "),
        ),
    ),
    # -- the byte ring --
    "bytes: publish": (("bytes",), order("BYTES_STORE", "RELEASE", "RELAXED")),
    "bytes: look at tail": (("bytes",), order("BYTES_TAIL", "ACQUIRE", "RELAXED")),
    "bytes: look at head": (("bytes",), order("BYTES_HEAD", "ACQUIRE", "RELAXED")),
    "bytes: old word not looked at": (
        ("bytes",),
        ((BYTES, "    owed = NEWEST(w).sleeps;\n", ""),),
    ),
    "bytes: store after a load": (
        ("bytes",),
        (
            (
                BYTES,
                "    atomic { byte_ring_store(TAIL, position, 0); published = position };\n    ring_bell(CONSUMER)",
                "    armed = NEWEST(TAIL).sleeps;\n"
                "    atomic { byte_ring_store(TAIL, position, 0); published = position; owed = armed };\n"
                "    ring_bell(CONSUMER)",
            ),
        ),
    ),
    "bytes: armed without comparing": (
        ("bytes",),
        ((BYTES, "armed = OLDEST(w).position == position_ && !OLDEST(w).closed", "armed = !OLDEST(w).closed"),),
    ),
    "bytes: armed when closed": (
        ("bytes-close",),
        (
            (
                BYTES,
                "armed = OLDEST(w).position == position_ && !OLDEST(w).closed",
                "armed = OLDEST(w).position == position_",
            ),
        ),
    ),
    "bytes: watched and seen": (
        ("bytes-watch",),
        (
            (
                BYTES,
                "            load(HEAD, BYTES_HEAD);\n            arm(HEAD, OLDEST(HEAD)",
                "            load(HEAD, BYTES_HEAD);\n            seen = OLDEST(HEAD).position;\n"
                "            arm(HEAD, OLDEST(HEAD)",
            ),
        ),
    ),
    "bytes: no bell for room": (
        ("bytes",),
        (
            (
                BYTES,
                "byte_ring_store(HEAD, position, 0) };\n    ring_bell(PRODUCER)",
                "byte_ring_store(HEAD, position, 0) }",
            ),
        ),
    ),
    "bytes: no bell for the end": (
        ("bytes",),
        (
            (
                BYTES,
                "byte_ring_store(TAIL, published, 1) };\n        ring_bell(CONSUMER)",
                "byte_ring_store(TAIL, published, 1) }",
            ),
        ),
    ),
    "bytes: asleep with room to give": (
        ("bytes",),
        ((BYTES, "                release();\n                atomic {\n", "                atomic {\n"),),
    ),
    "bytes: asleep with records to give": (
        ("bytes",),
        ((BYTES, "            publish();\n            watch_head();", "            watch_head();"),),
    ),
    "bytes: nothing read after a death": (
        ("bytes-death",),
        (
            (
                BYTES,
                "                :: armed -> sleep(CONSUMER, PRODUCER)\n                :: else\n                fi\n",
                "                :: armed -> sleep(CONSUMER, PRODUCER)\n                :: else\n                fi;\n"
                "                if\n                :: ended -> break\n                :: else\n                fi\n",
            ),
        ),
    ),
    "bytes: published before written": (
        ("bytes-death",),
        (
            (
                BYTES,
                "                write_record();\n                if\n                :: publish()\n",
                "                position++; publish(); position--; write_record();\n"
                "                if\n                :: publish()\n",
            ),
        ),
    ),
}

# Weaker orders only add behaviour, so that several which are harmless together are so alone.
HARMLESS: dict[str, tuple[tuple[str, ...], Replacements, str]] = {
    "first slot and links": (
        ("recycle", "producers"),
        order("BEGIN_SLOT", "RELEASE", "RELAXED")
        + order("EDGE_NEXT", "RELEASE", "RELAXED")
        + order("LEAVE_NEXT", "ACQUIRE", "RELAXED"),
        "`head` is released after the first slot, a last slot after `next`; both are acquired before",
    ),
    "count, link": (
        ("announce", "large-announce"),
        order("NOW_NEXT", "ACQUIRE", "RELAXED"),
        "the tail was acquired, and with it every segment up to it",
    ),
    "arm and drained": (
        ("close", "sleep-close", "sleepers"),
        order("EMPTY_HEAD", "ACQUIRE", "RELAXED")
        + order("ARM_TAIL", "ACQUIRE", "RELAXED")
        + order("DRAINED_TAIL", "ACQUIRE", "RELAXED"),
        "only compared; the lock sees to wake-ups",
    ),
    "room": (
        ("room",),
        order("CLOSED_TAIL", "SEQ_CST", "RELAXED")
        + order("RESERVE_LOAD", "SEQ_CST", "RELAXED")
        + order("RESERVE_SWAP", "SEQ_CST", "RELAXED")
        + order("RETURN_ROOM", "SEQ_CST", "RELAXED")
        + order("OFFER_CREDITS", "SEQ_CST", "RELAXED"),
        "the lock: of a sender that joins and a receiver that offers, or one that closes, the second sees the first",
    ),
    "parker": (
        ("sleep", "sleepers", "room"),
        order("PARK", "ACQUIRE", "RELAXED")
        + order("PARK_AT_DEADLINE", "ACQUIRE", "RELAXED")
        + order("UNPARK", "RELEASE", "RELAXED"),
        "the lock: who was woken takes it before anything else",
    ),
}
