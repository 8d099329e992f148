"""One thread to itself, and one thread to another."""

import threading
import time
from collections import deque
from queue import Queue, SimpleQueue

from messagechannel import MessageChannel

BATCH = 256


def timed(messages, run):
    """Return nanoseconds a message."""
    begin = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - begin) / messages


def test_one_thread_pair(compare):
    port1, port2 = MessageChannel()
    simple, queue, double_ended = SimpleQueue(), Queue(), deque()

    def ours():
        for i in range(50_000):
            port1.post_message(i)
            port2.receive_nowait()

    def simple_queue():
        for i in range(50_000):
            simple.put(i)
            simple.get_nowait()

    def plain_queue():
        for i in range(5_000):
            queue.put(i)
            queue.get_nowait()

    def plain_deque():
        for i in range(50_000):
            double_ended.append(i)
            double_ended.popleft()

    compare(
        "put and get an int in one thread",
        {
            "post_message + receive_nowait": lambda: timed(50_000, ours),
            "SimpleQueue": lambda: timed(50_000, simple_queue),
            "queue.Queue": lambda: timed(5_000, plain_queue),
            "deque": lambda: timed(50_000, plain_deque),
        },
        {"SimpleQueue": 1.1, "queue.Queue": 20},
    )


def test_batch(compare):
    port1, port2 = MessageChannel()
    simple = SimpleQueue()
    batch = list(range(BATCH))

    def ours():
        for _ in range(200):
            port1.send_many(batch)
            assert len(port2.receive_many()) == BATCH

    def loop():
        for _ in range(200):
            for i in batch:
                simple.put(i)
            for _ in range(BATCH):
                simple.get_nowait()

    compare(
        f"batches of {BATCH} ints in one thread",
        {
            "send_many + receive_many": lambda: timed(200 * BATCH, ours),
            "SimpleQueue, one by one": lambda: timed(200 * BATCH, loop),
        },
        {"SimpleQueue, one by one": 0.4},
    )


def stream(messages, put, get):
    """Stream ints from one thread to this one and check every one."""

    def produce():
        for i in range(messages):
            put(i)

    def run():
        thread = threading.Thread(target=produce)
        thread.start()
        for i in range(messages):
            assert get() == i
        thread.join()

    return timed(messages, run)


def stream_in_batches(messages):
    port1, port2 = MessageChannel()

    def produce():
        for i in range(0, messages, BATCH):
            port1.send_many(range(i, i + BATCH))

    def run():
        thread = threading.Thread(target=produce)
        thread.start()
        received = 0
        while received < messages:
            batch = port2.receive_many(BATCH)
            assert batch[0] == received
            received += len(batch)
        thread.join()

    return timed(messages, run)


def test_two_threads(compare):
    def ours():
        port1, port2 = MessageChannel()
        return stream(50_000, port1.post_message, port2.receive)

    def simple_queue():
        simple = SimpleQueue()
        return stream(50_000, simple.put, simple.get)

    def plain_queue():
        queue = Queue()
        return stream(5_000, queue.put, queue.get)

    compare(
        "stream of ints from one thread to another",
        {
            "post_message / receive": ours,
            "in batches": lambda: stream_in_batches(200 * BATCH),
            "SimpleQueue": simple_queue,
            "queue.Queue": plain_queue,
        },
        {},
    )
