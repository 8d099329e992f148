"""Threads that exchange messages: freshly made ints, which CPython has to allocate and to free.

Beside them the ring alone, in C, between two threads that never sleep: what no message can be faster than. Every thread
makes its own bound methods, for one that another thread made costs an atomic operation a call without the GIL.
"""

import operator
import sys
import threading
import time
from collections import deque
from itertools import repeat
from queue import Queue, SimpleQueue

from alone import alone

from messagechannel import MessageChannel

BATCH = 256
# CPython keeps smaller ints ready-made.
FIRST = 1000
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
ALONE = "the ring alone, in C"
# What the interpreter takes for each side of a stream, whatever it calls, and no queue can take less.
CALLED = "a call that does nothing with each, one thread"
LISTED = "a list of each batch, one thread"


def together(messages, *runs):
    """Call each in a thread of its own, all at once; return nanoseconds a message."""
    start = threading.Barrier(len(runs))
    begins, ends = [], []

    def measured(run):
        start.wait()
        begins.append(time.perf_counter_ns())
        run()
        ends.append(time.perf_counter_ns())

    threads = [threading.Thread(target=measured, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (max(ends) - min(begins)) / messages


def produce(put, messages):
    for i in range(FIRST, FIRST + messages):
        put(i)


def consume(get, messages):
    for _ in repeat(None, messages):
        get()


def popleft(queue):
    """Return a ``get`` of a deque, which can't wait."""

    def get():
        while True:
            try:
                return queue.popleft()
            except IndexError:
                time.sleep(0)

    return get


def stream(messages, pairs, queue):
    """Stream from so many threads to so many others; `queue()` returns two functions that return put and get."""
    put, get = queue()
    each = messages // pairs
    senders = [lambda: produce(put(), each)] * pairs
    receivers = [lambda: consume(get(), each)] * pairs
    return together(messages, *senders, *receivers)


def ours():
    port1, port2 = MessageChannel()
    return lambda: port1.post_message, lambda: port2.receive


def simple_queue():
    queue = SimpleQueue()
    return lambda: queue.put, lambda: queue.get


def plain_queue():
    queue = Queue()
    return lambda: queue.put, lambda: queue.get


def plain_deque():
    queue = deque()
    return lambda: queue.append, lambda: popleft(queue)


def in_batches(messages):
    port1, port2 = MessageChannel()

    def send():
        for i in range(FIRST, FIRST + messages, BATCH):
            port1.send_many(range(i, i + BATCH))

    def receive():
        received = 0
        while received < messages:
            received += len(port2.receive_many())

    return together(messages, send, receive)


def called(messages):
    return together(messages, lambda: produce(operator.index, messages))


def listed(messages):
    def run():
        for i in range(FIRST, FIRST + messages, BATCH):
            list(range(i, i + BATCH))

    return together(messages, run)


def test_stream(compare):
    compare(
        "stream from one thread to another",
        {
            "post_message / receive": lambda: stream(1_000_000, 1, ours),
            "SimpleQueue": lambda: stream(1_000_000, 1, simple_queue),
            "queue.Queue": lambda: stream(10_000, 1, plain_queue),
            "deque, polled": lambda: stream(1_000_000, 1, plain_deque),
            CALLED: lambda: called(1_000_000),
            ALONE: alone("bench_ring", "stream", 1_000_000),
        },
        {"SimpleQueue": 1.0 if GIL else 2.5},
    )


def test_stream_in_batches(compare):
    compare(
        f"the same in batches of {BATCH}",
        {
            "send_many / receive_many": lambda: in_batches(4_000 * BATCH),
            "SimpleQueue, one by one": lambda: stream(1_000_000, 1, simple_queue),
            LISTED: lambda: listed(4_000 * BATCH),
            ALONE: alone("bench_ring", "batches", 4_000 * BATCH),
        },
        {"SimpleQueue, one by one": 1.0 if GIL else 5},
    )


def test_two_to_two(compare):
    compare(
        "two threads to two others",
        {
            "post_message / receive": lambda: stream(1_000_000, 2, ours),
            "SimpleQueue": lambda: stream(1_000_000, 2, simple_queue),
            "queue.Queue": lambda: stream(10_000, 2, plain_queue),
            "deque, polled": lambda: stream(1_000_000, 2, plain_deque),
        },
        {"SimpleQueue": 1.0 if GIL else 2},
    )


def test_two_channels(compare):
    def to_itself(messages):
        port1, port2 = MessageChannel()

        def run():
            for i in range(FIRST, FIRST + messages):
                port1.post_message(i)
                port2.receive()

        return run

    compare(
        "post and receive, in each of two threads with a channel of its own",
        {
            "two threads": lambda: together(1_000_000, to_itself(500_000), to_itself(500_000)),
            "one thread": lambda: together(500_000, to_itself(500_000)),
        },
        {} if GIL else {"one thread": 1 / 1.8},
    )


def test_round_trip(compare):
    def rally(rounds, there, back):
        (put, take), (answer, get) = there(), back()

        def serve():
            for i in range(FIRST, FIRST + rounds):
                put()(i)
                get()()

        def reply():
            for _ in repeat(None, rounds):
                answer()(take()())

        return together(rounds, serve, reply)

    def ours_both_ways(rounds):
        port1, port2 = MessageChannel()
        there = lambda: port1.post_message, lambda: port2.receive
        back = lambda: port2.post_message, lambda: port1.receive
        return rally(rounds, lambda: there, lambda: back)

    compare(
        "round trip between two threads",
        {
            "post_message / receive, twice": lambda: ours_both_ways(5_000),
            "two SimpleQueues": lambda: rally(1_000, simple_queue, simple_queue),
            "two queue.Queues": lambda: rally(1_000, plain_queue, plain_queue),
            ALONE: alone("bench_ring", "ping_pong", 100_000),
        },
        {"two SimpleQueues": 0.3},
        unit="ns a round trip",
    )
