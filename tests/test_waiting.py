"""How a thread waits: it looks for a moment, then it sleeps, and what ends its wait is never missed."""

import contextlib
import os
import random
import signal
import threading
import time

import pytest

from ends import MessageChannel
from messagechannel import wait

FACTOR = int(os.environ.get("MESSAGECHANNEL_STRESS_FACTOR", "1"))


@pytest.mark.parametrize(
    "block",
    [
        lambda port: port.receive(timeout=1),
        lambda port: port.receive_many(timeout=1),
        lambda port: wait([port], timeout=1),
        lambda port: port.send("no room", timeout=1),
    ],
    ids=["receive", "receive_many", "wait", "send"],
)
@pytest.mark.parametrize("main", [True, False], ids=["main", "thread"])
def test_who_waits_uses_no_processor(block, main):
    channel = MessageChannel(capacity=1)
    channel.port1.post_message("all the room there is")
    used = []

    def run():
        before = time.thread_time()
        with contextlib.suppress(TimeoutError):
            block(channel.port1)
        used.append(time.thread_time() - before)

    if main:
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)
    # A second of looking would be a second.
    assert used[0] < 0.05


def rally(rounds, pauses):
    """Two threads wake each other; `pauses` returns how long one dawdles before its turn, in seconds."""
    channel = MessageChannel()
    counts = []

    def answer():
        for i, message in enumerate(channel.port2):
            assert message == i
            pauses()
            channel.port2.post_message(i)
        counts.append(i + 1)

    thread = threading.Thread(target=answer)
    thread.start()
    for i in range(rounds):
        channel.port1.post_message(i)
        assert channel.port1.receive(timeout=60) == i
        pauses()
    channel.port1.close()
    thread.join(60)
    assert counts == [rounds]


def test_no_wake_up_is_lost_at_full_speed():
    rally(50_000 * FACTOR, lambda: None)


def test_no_wake_up_is_lost_whether_a_thread_still_looks_or_sleeps_already():
    seed = random.randrange(10**9)
    print("seed", seed)
    chance = random.Random(seed)

    def dawdle():
        # About as long as a thread looks: now this, now that thread has just gone to sleep, or is about to.
        end = time.perf_counter() + chance.random() * 60e-6
        while time.perf_counter() < end:
            pass

    rally(5_000 * FACTOR, dawdle)


def test_no_wake_up_is_lost_where_all_share_one_processor(run_python):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no way to ask for one processor")
    done = run_python(f"""
import os, sys
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_waiting import rally
rally({5_000 * FACTOR}, lambda: None)
print("done")
""")
    assert done.stdout == "done\n", done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the platform has no interval timers")
@pytest.mark.parametrize(
    "call", ["port2.receive(5)", "port2.receive_many(None, 5)", "full.send(2, timeout=5)", "wait([port2], 5)"]
)
def test_a_signal_at_any_moment_is_handled_within_a_tenth_of_a_second(run_python, call):
    """Before the call, while it looks, on its way to sleep, asleep: a handler's exception ends it."""
    done = run_python(f"""
import random, signal, time
from messagechannel import MessageChannel, wait
port1, port2 = MessageChannel()
full, end = MessageChannel(capacity=1)
full.post_message(1)
class Alarm(Exception):
    pass
def ring(number, frame):
    raise Alarm
signal.signal(signal.SIGALRM, ring)
late = []
for i in range(500):
    try:
        begin = time.monotonic()
        moment = random.randrange(1, 150) / 1e6
        signal.setitimer(signal.ITIMER_REAL, moment)
        {call}
        print("missed")
    except Alarm:
        late.append(time.monotonic() - begin - moment)
late.sort()
print(late[-5:]) if late[-5] > 0.1 else print("in time")
""")
    assert done.stdout == "in time\n", done.stdout + done.stderr
