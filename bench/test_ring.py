"""Threads that exchange messages, beside the ring alone: the same queue without Python, and never asleep."""

import os
import subprocess
import threading

from test_threads import BATCH, stream, stream_in_batches, timed

from messagechannel import MessageChannel

RING = os.environ.get("MESSAGECHANNEL_BENCH_RING")
ALONE = "the ring alone, in C"


def ring_alone(figure, messages):
    """Return a contender that runs bench/ring.c, None where that was not built."""

    def run():
        command = [RING, figure, str(messages)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return RING and run


def stream_one_by_one():
    port1, port2 = MessageChannel()
    return stream(50_000, port1.post_message, port2.receive)


def round_trips():
    port1, port2 = MessageChannel()

    def echo():
        for message in port2:
            port2.post_message(message)

    def run():
        thread = threading.Thread(target=echo)
        thread.start()
        for i in range(5_000):
            port1.post_message(i)
            assert port1.receive() == i
        port1.close()
        thread.join()

    return timed(5_000, run)


def test_stream(compare):
    compare(
        "stream from one thread to another",
        {"post_message / receive": stream_one_by_one, ALONE: ring_alone("stream", 1_000_000)},
        {},
    )


def test_stream_in_batches(compare):
    compare(
        f"the same in batches of {BATCH}",
        {
            "send_many / receive_many": lambda: stream_in_batches(200 * BATCH),
            ALONE: ring_alone("batches", 4_000 * BATCH),
        },
        {},
    )


def test_round_trip(compare):
    compare(
        "round trip between two threads",
        {"post_message / receive, twice": round_trips, ALONE: ring_alone("ping_pong", 100_000)},
        {},
        unit="ns a round trip",
    )
