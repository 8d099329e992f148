"""How a thread waits: it looks for a moment, then it sleeps, and what ends its wait is never missed."""

import contextlib
import os
import queue
import random
import signal
import threading
import time

import pytest

from ends import MessageChannel
from loops import Collector
from messagechannel import wait

FACTOR = int(os.environ.get("MESSAGECHANNEL_STRESS_FACTOR", "1"))


@pytest.mark.parametrize(
    "block",
    [
        lambda port: port.receive(timeout=0.3),
        lambda port: port.receive_many(timeout=0.3),
        lambda port: wait([port], timeout=0.3),
        lambda port: port.send("no room", timeout=0.3),
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
    # Whoever looks for so long has used as much.
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


# ---- what a wake-up was about may be gone when it comes ----


def asleep(*functions):
    """Start a thread for each function, and wait until they sleep, more or less; return them."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    time.sleep(0.003)
    return threads


def join_all(threads):
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a thread sleeps on"


@pytest.mark.parametrize("sleepers", [1, 3])
def test_a_message_that_was_taken_from_under_a_woken_receiver_costs_no_other_one(sleepers):
    for _ in range(30):
        with MessageChannel() as (port1, port2):
            threads = asleep(*[lambda port=port2: port.receive(20)] * sleepers)
            for i in range(3):
                port1.post_message(i)
                with contextlib.suppress(queue.Empty):
                    port2.receive_nowait()
            port1.send_many(range(sleepers))
            join_all(threads)


@pytest.mark.parametrize("sleepers", [1, 3])
def test_room_that_was_taken_from_under_a_woken_sender_costs_no_other_one(sleepers):
    for _ in range(30):
        with MessageChannel(capacity=1) as (port1, port2):
            port1.post_message("fills it")
            threads = asleep(*[lambda port=port1: port.send("late", timeout=20)] * sleepers)
            sent = sleepers + 1
            for _ in range(3):
                port2.receive(20)
                sent -= 1
                with contextlib.suppress(queue.Full):
                    port1.post_message("quick")
                    sent += 1
            for _ in range(sent):
                port2.receive(20)
            join_all(threads)


def test_a_message_that_was_taken_from_under_a_listener_costs_no_other_one():
    for _ in range(30):
        with MessageChannel() as (port1, port2):
            heard = Collector()
            port2.onmessage = heard
            time.sleep(0.001)
            port1.post_message("stolen")
            taken = 0
            with contextlib.suppress(queue.Empty):
                port2.receive_nowait()
                taken = 1
            time.sleep(0.001)
            port1.post_message("heard")
            assert heard.wait_for(2 - taken)[-1] == "heard"


def test_wait_sees_a_message_that_is_longer_than_what_is_shared():
    with MessageChannel() as (port1, port2):
        for size in (100, 60_000, 300_000, 3_000_000):
            port1.post_message(b"x" * size)
            assert wait([port2], 20) == [port2]
            assert len(port2) == 1
            assert wait([port2], 0) == [port2]
            assert port2.receive(20) == b"x" * size
            assert len(port2) == 0


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
