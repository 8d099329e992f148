"""Messages to another process, and what the other process and the way to it cost.

Every peer has its parent and its spawned child, as ours has (peers.py). Node's worker is a thread of the same process.
"""

import signal
import struct
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial

import peers
import pytest
from alone import alone
from child_targets import MEASURES, keep_ports, say_up

from messagechannel import MessageChannel, Worker

try:
    import numpy as np
except ImportError:
    np = None

BATCH = 256
# CPython keeps smaller ints ready-made.
FIRST = 1000
KIBIBYTE = bytes(range(256)) * 4
# Pickle writes one object only once, however often a list has it.
KIBIBYTES = [bytes([i]) + KIBIBYTE[1:] for i in range(BATCH)]
# 8 MiB, as one thing and as many.
LARGE = {"bytes": KIBIBYTE * 8192, "bytes in a list": [bytes([i]) + KIBIBYTE * 32 for i in range(256)]}
ROUND_TRIPS = 1_000
PAUSED_ROUND_TRIPS = 50
PAUSE = 0.001
IDLE_PAIRS = 32

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
PYTHON_PEERS = {
    "Pipe": peers.pipe,
    "Queue": peers.queues,
    "SimpleQueue": peers.simple_queues,
    # Its import would switch the GIL on, for the benchmarks after it too.
    "faster-fifo": peers.installed("faster_fifo", peers.faster_fifo) if GIL else None,
    "pyzmq": peers.installed("zmq", peers.pyzmq),
}
OURS = {
    "send / receive, 10,000 at most": peers.ours,
    "post_message / receive, unbounded": partial(peers.ours, None, "post_message"),
}
NODE = "Node's postMessage"
ALONE = "the byte ring alone, in C"
MADE = "the objects made of memory and dropped, as by any receiver"


@pytest.fixture(autouse=True)
def patience():
    """Fail a test that waits for a message that doesn't come."""

    def expire(signum, frame):
        raise TimeoutError(f"not done after {peers.PATIENCE} seconds")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.alarm(peers.PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def connected():
    """Start the children of so many lines; return a function to call with each one's End, None for what is missing."""
    with ExitStack() as stack:

        def connect(lines, measure):
            ends = {name: line and stack.enter_context(line()) for name, line in lines.items()}
            return {name: end and partial(measure, end) for name, end in ends.items()}

        yield connect


def timed(end, task, count, produce, expected):
    """Have the child do its task while this side produces; return nanoseconds a message."""
    end.put((task, count))
    assert end.take() == "ready"
    begin = time.perf_counter_ns()
    produce()
    answer = end.take()
    elapsed = time.perf_counter_ns() - begin
    assert answer == expected
    return elapsed / count


def stream_of_ints(end):
    def produce():
        put = end.put
        for i in range(FIRST, FIRST + end.messages):
            put(i)

    return timed(end, "objects", end.messages, produce, FIRST + end.messages - 1)


def stream_of_bytes(end):
    def produce():
        put = end.put_bytes
        for _ in range(end.messages):
            put(KIBIBYTE)

    return timed(end, "bytes", end.messages, produce, KIBIBYTE)


def batches_of_ints(end):
    batches = end.messages // BATCH

    def produce():
        for i in range(FIRST, FIRST + batches * BATCH, BATCH):
            end.put_many(list(range(i, i + BATCH)))

    return timed(end, "batches", batches * BATCH, produce, FIRST + batches * BATCH - 1)


def batches_of_bytes(end):
    batches = end.messages // BATCH

    def produce():
        for _ in range(batches):
            end.put_many(KIBIBYTES)

    return timed(end, "batches", batches * BATCH, produce, KIBIBYTES[-1])


def bytes_made_and_dropped():
    """Return nanoseconds a message for what no way between processes can spare the receiver."""
    make_batch = struct.Struct(f"{len(KIBIBYTE)}s" * BATCH).unpack
    memory = b"".join(KIBIBYTES)
    batches = 400
    begin = time.perf_counter_ns()
    for _ in range(batches):
        batch = make_batch(memory)
    elapsed = time.perf_counter_ns() - begin
    assert batch == tuple(KIBIBYTES)
    return elapsed / (batches * BATCH)


def round_trips(end):
    end.put(("echo", ROUND_TRIPS))
    assert end.take() == "ready"
    put, take = end.put, end.take
    begin = time.perf_counter_ns()
    for i in range(FIRST, FIRST + ROUND_TRIPS):
        put(i)
        answer = take()
    elapsed = time.perf_counter_ns() - begin
    assert answer == FIRST + ROUND_TRIPS - 1
    assert take() == "echoed"
    return elapsed / ROUND_TRIPS


def round_trips_with_pauses(end):
    end.put(("echo", PAUSED_ROUND_TRIPS))
    assert end.take() == "ready"
    elapsed = 0
    for i in range(FIRST, FIRST + PAUSED_ROUND_TRIPS):
        time.sleep(PAUSE)
        begin = time.perf_counter_ns()
        end.put(i)
        answer = end.take()
        elapsed += time.perf_counter_ns() - begin
        assert answer == i
    assert end.take() == "echoed"
    return elapsed / PAUSED_ROUND_TRIPS


def large_round_trips(message, end):
    """Send it there and back; return the milliseconds of one way."""
    count = 4
    end.put(("echo", count))
    assert end.take() == "ready"
    begin = time.perf_counter_ns()
    for _ in range(count):
        end.put(message)
        answer = end.take()
    elapsed = time.perf_counter_ns() - begin
    assert len(answer) == len(message)
    assert end.take() == "echoed"
    return elapsed / (2 * count) / 1e6


def arrays(array, count, end):
    """Send one array so often, changed each time."""

    def produce():
        for i in range(count):
            array[0] = i
            end.put_array(array)

    expected = count * (array.size // peers.PAGE - 1) + sum(range(count))
    return timed(end, "arrays", count, produce, expected) / 1e6


def test_stream_of_ints(compare, connected):
    compare(
        "stream of ints to another process",
        connected(OURS | PYTHON_PEERS, stream_of_ints)
        | {NODE: peers.node("ints", 50_000), ALONE: alone("bench_byte_ring", "stream", 8, 1_000_000)},
        {"Pipe": 10, NODE: 1.0} | dict.fromkeys(["Queue", "SimpleQueue", "faster-fifo", "pyzmq"], 4),
        rounds=9,
    )


def test_stream_of_bytes(compare, connected):
    raw = {"Pipe, send_bytes": partial(peers.pipe, peers.raw_pipe_end)}
    compare(
        "stream of 1 KiB bytes to another process",
        connected(OURS | PYTHON_PEERS | raw, stream_of_bytes)
        | {
            NODE: peers.node("bytes", 10_000, len(KIBIBYTE)),
            ALONE: alone("bench_byte_ring", "stream", len(KIBIBYTE), 200_000),
        },
        {"Pipe": 10, NODE: 1.0} | dict.fromkeys([*raw, "Queue", "SimpleQueue", "faster-fifo", "pyzmq"], 4),
        rounds=9,
    )


@pytest.mark.parametrize(
    ("figure", "in_batches", "one_by_one", "bounds"),
    [
        ("ints", batches_of_ints, stream_of_ints, {}),
        ("1 KiB bytes", batches_of_bytes, stream_of_bytes, {MADE: bytes_made_and_dropped}),
    ],
)
def test_batches(compare, connected, figure, in_batches, one_by_one, bounds):
    batching = {
        "send_many / receive_many": peers.ours,
        "faster-fifo, put_many / get_many": PYTHON_PEERS["faster-fifo"],
        # Whole lists: one message that holds many.
        f"Pipe, a list of {BATCH}": peers.pipe,
        f"pyzmq, a list of {BATCH}": PYTHON_PEERS["pyzmq"],
    }
    compare(
        f"stream of {figure} in batches of {BATCH}",
        connected(batching, in_batches) | connected({"Pipe, one by one": peers.pipe}, one_by_one) | bounds,
        {"Pipe, one by one": 40},
        rounds=9,
    )


def test_round_trip(compare, connected):
    compare(
        "round trip to another process",
        connected({"send / receive, twice": peers.ours} | PYTHON_PEERS, round_trips)
        | {NODE: peers.node("round-trip", ROUND_TRIPS), ALONE: alone("bench_byte_ring", "ping_pong", 8, 100_000)},
        {"Pipe": 0.2},
        rounds=9,
        unit="ns a round trip",
    )


def test_round_trip_with_pauses(compare, connected):
    compare(
        "round trip to another process, with pauses of 1 ms",
        connected({"send / receive, twice": peers.ours} | PYTHON_PEERS, round_trips_with_pauses)
        | {NODE: peers.node("paused", PAUSED_ROUND_TRIPS)},
        {},
        rounds=9,
        unit="ns a round trip",
    )


@pytest.mark.parametrize("what", LARGE)
def test_large_messages(compare, connected, what):
    measured = {"send / receive": peers.ours} | {name: PYTHON_PEERS[name] for name in ("Pipe", "SimpleQueue", "pyzmq")}
    compare(
        f"8 MiB of {what} to another process",
        connected(measured, partial(large_round_trips, LARGE[what])),
        # Small parts are copied by pickle, whoever sends them.
        dict.fromkeys(["Pipe", "SimpleQueue"], 2 if what == "bytes" else 1.0),
        rounds=7,
        unit="ms",
    )


@pytest.mark.skipif(np is None, reason="numpy is not installed")
@pytest.mark.parametrize(("mebibytes", "count", "rounds"), [(8, 8, 7), (64, 2, 5)])
def test_arrays(compare, connected, mebibytes, count, rounds):
    size = mebibytes << 20
    array, other = np.ones(size, np.uint8), np.ones(size, np.uint8)
    fast = {
        "send / receive": peers.ours,
        "SharedMemory, one slot": partial(peers.slot, size),
        "pyzmq, copy=False": PYTHON_PEERS["pyzmq"],
    }
    slow = {
        "faster-fifo": PYTHON_PEERS["faster-fifo"] and partial(peers.faster_fifo, size),
        "Pipe": peers.pipe,
        "Queue": peers.queues,
        "SimpleQueue": peers.simple_queues,
    }

    def memcpy():
        begin = time.perf_counter_ns()
        for _ in range(count):
            np.copyto(other, array)
        return (time.perf_counter_ns() - begin) / count / 1e6

    node = peers.node("arrays", count, size)
    compare(
        f"numpy arrays of {mebibytes} MiB to another process",
        connected(fast, partial(arrays, array, count))
        | connected(slow, partial(arrays, array, count // 4 or 1))
        | {NODE: node and (lambda: node() / 1e6), "memcpy": memcpy},
        {"memcpy": 1 / 0.6} | dict.fromkeys([*fast, *slow], 2),
        rounds=rounds,
        unit="ms an array",
    )


def test_start(compare):
    def worker():
        begin = time.perf_counter()
        worker = Worker(say_up, kind="process")
        assert worker.receive() == "up"
        worker.join()
        return (time.perf_counter() - begin) * 1000

    def process():
        begin = time.perf_counter()
        here, there = peers.SPAWN.Pipe()
        process = peers.SPAWN.Process(target=say_up, args=(there,))
        process.start()
        assert here.recv() == "up"
        process.join()
        return (time.perf_counter() - begin) * 1000

    compare(
        "start a process, hear from it, join it",
        {"Worker": worker, "Process, spawned": process},
        {"Process, spawned": 1.1},
        unit="ms",
    )


@contextmanager
def keeper():
    """A Worker that keeps ports, and a function that asks it for a figure."""
    worker = Worker(keep_ports, kind="process")

    def ask(figure):
        worker.send(figure)
        return worker.receive()

    try:
        yield worker, ask
    finally:
        worker.terminate()
        worker.join()


def added_by_a_pair(figure):
    """Return by how much a pair raises the figure of a process, the one where that is more."""
    with keeper() as (worker, ask):
        before = [ask(figure), MEASURES[figure]()]
        kept = []
        for _ in range(IDLE_PAIRS):
            here, there = MessageChannel()
            worker.send("a port", transfer=[there])
            here.send("through it")
            assert here.receive() == "through it"
            kept.append(here)
        after = [ask(figure), MEASURES[figure]()]
        return max(b - a for a, b in zip(before, after, strict=True)) / IDLE_PAIRS


def cpu_time_of_waiting():
    """Return what a pair costs both processes while each waits for the other for a second."""
    with keeper() as (worker, ask):
        before = ask("CPU time") + time.process_time()
        with pytest.raises(TimeoutError):
            worker.receive(timeout=1)
        after = time.process_time() + ask("CPU time")
        return (after - before) * 1000


def test_idle_pair_descriptors(report):
    report("an idle pair, a side", partial(added_by_a_pair, "descriptors"), 2, "descriptors")


def test_idle_pair_memory(report):
    report("an idle pair's shared memory, resident", partial(added_by_a_pair, "shared memory"), 64, "KiB")


def test_idle_pair_cpu_time(report):
    # A main thread that waits looks for signals twenty times a second.
    report("two processes that wait for each other for a second", cpu_time_of_waiting, 5, "ms of CPU time")
