"""Ints as messages: without the GIL they lie in a queue by value, and it must not show."""

import enum
import gc
import sys
import sysconfig
import threading
import weakref

import pytest

import messagechannel
from ends import MessageChannel, eventually, local
from loops import ALL_LOOPS, GUARD, run
from messagechannel import ChannelClosedError, _far

WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

BOUNDS = sorted(
    {0, 1, -1, 256, 257, -5, -6}
    | {
        sign * 2**bits + step
        for bits in (15, 29, 30, 31, 32, 59, 60, 61, 62, 63, 64, 90, 1000)
        for sign in (1, -1)
        for step in (-1, 0, 1)
    }
)


class Int(int):
    """Not an exact int."""


class Colour(enum.IntEnum):
    RED = 10**6


OTHERS = [True, False, Int(10**6), Int(3), Colour.RED, 1e6, "1000000", None]


def same(messages, expected):
    return messages == expected and [type(message) for message in messages] == [type(message) for message in expected]


def post_all(port, messages):
    for message in messages:
        port.post_message(message)


def send_all(port, messages):
    for message in messages:
        port.send(message, timeout=GUARD)


SENDERS = {
    "post_message": post_all,
    "send": send_all,
    "send_many of a list": lambda port, messages: port.send_many(messages),
    "send_many of an iterator": lambda port, messages: port.send_many(iter(messages)),
    "a transfer list": lambda port, messages: [port.post_message(message, [bytearray()]) for message in messages],
}

RECEIVERS = {
    "receive": lambda port, n: [port.receive() for _ in range(n)],
    "receive with a timeout": lambda port, n: [port.receive(timeout=GUARD) for _ in range(n)],
    "receive_nowait": lambda port, n: [port.receive_nowait() for _ in range(n)],
    "receive_many": lambda port, n: port.receive_many(timeout=0),
    "receive_many, some": lambda port, n: [
        message for limit in (1, 2, n) if len(port) for message in port.receive_many(limit, timeout=0)
    ],
    "receive_event": lambda port, n: [port.receive_event(timeout=0).data for _ in range(n)],
    "iteration": lambda port, n: [message for _, message in zip(range(n), port, strict=False)],
}


@pytest.mark.parametrize("receive", RECEIVERS)
@pytest.mark.parametrize("send", SENDERS)
@pytest.mark.parametrize("capacity", [None, 1000])
def test_ints_of_every_size_arrive(send, receive, capacity):
    port1, port2 = MessageChannel(capacity=capacity)
    messages = [*BOUNDS, *OTHERS, *BOUNDS]
    SENDERS[send](port1, messages)
    eventually(lambda: len(port2) == len(messages))
    assert same(RECEIVERS[receive](port2, len(messages)), messages)
    assert len(port2) == 0


@pytest.mark.parametrize("loop_name", ALL_LOOPS)
@pytest.mark.parametrize("waits", [False, True])
def test_ints_of_every_size_are_awaited(loop_name, waits):
    port1, port2 = MessageChannel()
    messages = [*BOUNDS, *OTHERS]

    async def main(tasks):
        got = []

        async def receive_all():
            for _ in messages:
                got.append(await port2.areceive())
            while len(got) < 2 * len(messages):
                got.extend(await port2.areceive_many(2 * len(messages) - len(got)))
            async for message in port2:
                got.append(message)
                if len(got) == 3 * len(messages):
                    break
            return got

        if waits:
            receiving = tasks.spawn(receive_all)
            await tasks.turns()
        for _ in range(3):
            for message in messages:
                await port1.asend(message)
                if waits:
                    await tasks.turns(1)
        return await receiving.result() if waits else await tasks.guard(receive_all())

    assert same(run(loop_name, main), messages * 3)


def test_listeners_get_ints_of_every_size():
    port1, port2 = MessageChannel()
    messages = [*BOUNDS, *OTHERS]
    got = []
    port1.send_many(messages)
    port2.onmessage = lambda event: got.append(event.data)
    port1.send_many(messages)
    post_all(port1, messages)
    eventually(lambda: len(got) == 3 * len(messages))
    assert same(got, messages * 3)


@local("there is no copy=False")
def test_without_copies_ints_keep_their_identity():
    port1, port2 = MessageChannel(copy=False)
    messages = [10**6 + i for i in range(3)] + BOUNDS
    post_all(port1, messages)
    port1.send_many(messages)
    send_all(port1, messages)
    assert all(a is b for a, b in zip(port2.receive_many(), messages * 3, strict=True))


@local("there is no copy=False")
def test_without_copies_ints_keep_their_identity_in_a_bounded_channel():
    port1, port2 = MessageChannel(copy=False, capacity=2)
    message = 10**6 + len(sys.argv)
    port1.post_message(message)
    port1.send(message)
    assert [port2.receive() is message for _ in range(2)] == [True, True]


@pytest.mark.skipif(not WITHOUT_GIL, reason="with the GIL references are cheaper")
@local("nothing else could arrive from a far end")
@pytest.mark.parametrize("capacity", [None, 5])
@pytest.mark.parametrize("send", ["post_message", "send", "send_many of a list"])
def test_an_int_that_fits_is_made_anew_where_it_arrives(send, capacity):
    port1, port2 = MessageChannel(capacity=capacity)
    here, there = [2**61 - 1, -(2**61), 10**6], [2**61, -(2**61) - 1]
    SENDERS[send](port1, here + there)
    got = [port2.receive() for _ in here + there]
    assert [message is sent for message, sent in zip(got, here + there, strict=True)] == [False] * 3 + [True] * 2


def test_the_garbage_collector_passes_ints_that_wait():
    port1, port2 = MessageChannel()
    messages = [10**6, [1], -(10**6), {"a": 1}, 2**61]
    for _ in range(50):
        port1.send_many(messages)
    gc.collect()
    assert port2.receive_many(250) == messages * 50


@local("the garbage collector can't see through processes")
def test_ports_that_only_wait_in_each_others_queues_are_collected_with_their_ints():
    port1, port2 = MessageChannel()
    carried, kept = MessageChannel()
    watched = weakref.ref(port2)
    port1.send_many([1, 10**6])
    carried.post_message(10**6, [port1])
    kept.onmessageerror = lambda event, keep=port2: None
    port2.onmessage = lambda event, keep=kept: None
    del port1, port2, carried, kept
    eventually(lambda: gc.collect() >= 0 and watched() is None)


def test_ints_that_nobody_takes_are_dropped():
    blocks = sys.getallocatedblocks()
    for _ in range(100):
        port1, port2 = MessageChannel()
        port1.send_many(range(10**6, 10**6 + 100))
        port1.close()
        del port1, port2
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 5_000


def test_statistics_count_ints():
    port1, port2 = MessageChannel()
    port1.send_many(range(10**6, 10**6 + 70))
    port2.receive_many(20)
    eventually(lambda: len(port2) == 50)
    assert port1.statistics().posted == 70
    assert (port2.statistics().received, port2.statistics().waiting) == (20, 50)


def test_a_port_that_is_transferred_takes_its_ints_along():
    road1, road2 = MessageChannel()
    port1, traveller = MessageChannel()
    expected = []
    for _ in range(5):
        port1.send_many(BOUNDS)
        expected += BOUNDS
        road1.post_message("here it is", [traveller])
        (traveller,) = road2.receive_event(timeout=GUARD).ports
    eventually(lambda: len(traveller) == len(expected))
    assert same(traveller.receive_many(timeout=GUARD), expected)


@local("it makes far ends itself")
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("messages", [BOUNDS, [*BOUNDS, *OTHERS, [1]], list(range(10**6, 10**6 + 20_000))])
def test_ints_that_wait_go_to_another_process(messages, closes):
    near, leaving = messagechannel.MessageChannel()
    near.send_many(messages)
    leaving.send_many(messages)
    if closes:
        leaving.post_message("the last")
        messages_back = [*messages, "the last"]
    else:
        messages_back = messages
    there = _far.arrive(*_far.depart(leaving))
    near.send_many(messages)
    if closes:
        near.close()
    got = []
    while len(got) < 2 * len(messages):
        got += there.receive_many(timeout=GUARD)
    assert same(got, messages * 2)
    if closes:
        with pytest.raises(ChannelClosedError):
            there.receive(timeout=GUARD)
    back = []
    while len(back) < len(messages_back):
        back += near.receive_many(timeout=GUARD)
    assert same(back, messages_back)


@local("it makes far ends itself")
def test_a_post_that_races_with_a_departure_arrives():
    for _ in range(50):
        near, leaving = messagechannel.MessageChannel()
        begun = threading.Event()

        def post(near=near, begun=begun):
            for i in range(10**6, 10**6 + 300):
                near.post_message(i)
                begun.set()
                near.send_many([i] * 2)

        thread = threading.Thread(target=post)
        thread.start()
        begun.wait(GUARD)
        there = _far.arrive(*_far.depart(leaving))
        thread.join(GUARD)
        got = []
        while len(got) < 900:
            got += there.receive_many(timeout=GUARD)
        assert got == [i for i in range(10**6, 10**6 + 300) for _ in range(3)]


@local("another process would have the memory")
@pytest.mark.skipif(not WITHOUT_GIL, reason="with the GIL receiving an int takes no memory")
def test_a_want_of_memory_is_told_and_what_comes_next_arrives(run_python):
    pytest.importorskip("_testcapi", reason="this Python comes without its own tests")
    result = run_python("""
import _testcapi
from messagechannel import MessageChannel

def short(call):
    # The first allocation of the call fails, and no other.
    _testcapi.set_nomemory(0, 1)
    try:
        call()
    except MemoryError:
        return True
    finally:
        _testcapi.remove_mem_hooks()
    return False

port1, port2 = MessageChannel()
port1.send_many(range(10**6, 10**6 + 4))
assert short(port2.receive)
assert short(port2.receive_nowait)
assert short(port2.__next__)
assert port2.receive_many() == [10**6 + 3]

# Which allocation of an await is the int's depends on the interpreter.
gone = 0
for number in range(5):
    port1.post_message(10**6)
    awaitable = port2.areceive()
    _testcapi.set_nomemory(number, number + 1)
    try:
        next(awaitable)
    except MemoryError:
        gone += len(port2) == 0
    except StopIteration as stop:
        assert stop.value == 10**6
    finally:
        _testcapi.remove_mem_hooks()
    while len(port2):
        assert port2.receive() == 10**6
assert gone

# A batch tries once more.
port1.send_many(range(10**6, 10**6 + 1000))
for failing in range(100, 900, 100):
    got = []
    _testcapi.set_nomemory(failing, failing + 1)
    try:
        got += port2.receive_many()
    finally:
        _testcapi.remove_mem_hooks()
    assert got == list(range(10**6, 10**6 + 1000)), (failing, len(got))
    port1.send_many(got)
print("all told")
""")
    assert result.stdout.strip() == "all told", result.stderr
