"""One thread to itself: what the calls cost."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from queue import Queue, SimpleQueue

import pytest

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


# Loops whose instructions valgrind counts; the argument is how many pairs.
PAIRS = {
    "nothing": "for i in range(n): pass",
    "ours": "for i in range(n): a.post_message(i); b.receive()",
    "SimpleQueue": "for i in range(n): a.put(i); a.get()",
    "deque": "for i in range(n): a.append(i); a.popleft()",
}
ENDS = {
    "nothing": "a = b = None",
    "ours": "import messagechannel; a, b = messagechannel.MessageChannel()",
    "SimpleQueue": "import queue; a = b = queue.SimpleQueue()",
    "deque": "import collections; a = b = collections.deque()",
}


def instructions(name, pairs):
    """Run so many pairs under callgrind, and return how many instructions the process took."""
    code = f"{ENDS[name]}\ndef run(a, b, n):\n    {PAIRS[name]}\nrun(a, b, {pairs})"
    # The order of a dict's keys, and so the instructions, depend on the hashes of strings.
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_of_a_pair(compare):
    def above_an_empty_loop(name):
        def count(which):
            return (instructions(which, 60_000) - instructions(which, 10_000)) / 50_000

        return count(name) - count("nothing")

    compare(
        "the same in instructions, above an empty loop",
        {
            "post_message + receive": lambda: above_an_empty_loop("ours"),
            "SimpleQueue": lambda: above_an_empty_loop("SimpleQueue"),
            "deque": lambda: above_an_empty_loop("deque"),
        },
        {"SimpleQueue": 0.85},
        rounds=1,
        unit="instructions a pair",
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
