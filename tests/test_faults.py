"""Threads, destructors, the garbage collector, signals, forks and exits: where messages could get lost."""

import asyncio
import gc
import os
import sys
import threading
import time
import weakref

import pytest

from ends import MessageChannel, eventually, is_far, local
from messagechannel import ChannelClosedError


def run_threads(*targets):
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"


# ---- threads ----


@pytest.mark.usefixtures("_many_switches")
@pytest.mark.parametrize("capacity", [None, 1, 7])
@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "batches"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_message_arrives_once_and_in_its_senders_order(threads, batches, capacity):
    port1, port2 = MessageChannel(capacity=capacity)
    messages = 2000
    received = [[] for _ in range(threads)]

    def produce(me):
        if batches:
            for start in range(0, messages, 100):
                port1.send_many([(me, i) for i in range(start, start + 100)])
        else:
            for i in range(messages):
                port1.send((me, i), timeout=30)

    def consume(mine):
        try:
            while True:
                mine += port2.receive_many(50, timeout=30) if batches else [port2.receive(timeout=30)]
        except ChannelClosedError:
            pass

    def produce_all():
        run_threads(*(lambda me=me: produce(me) for me in range(threads)))
        port1.close()

    run_threads(produce_all, *(lambda mine=mine: consume(mine) for mine in received))
    everything = [message for mine in received for message in mine]
    assert sorted(everything) == [(me, i) for me in range(threads) for i in range(messages)]
    for mine in received:
        for me in range(threads):
            of_one_sender = [i for sender, i in mine if sender == me]
            assert of_one_sender == sorted(of_one_sender)


@pytest.mark.usefixtures("_many_switches")
@pytest.mark.parametrize("closer", [0, 1])
def test_a_close_that_races_with_posts_loses_only_what_came_after_it(closer):
    for _ in range(500):
        ports = tuple(MessageChannel())

        def post(port=ports[0]):
            for i in range(50):
                port.post_message(i)

        thread = threading.Thread(target=post)
        thread.start()
        ports[closer].close()
        thread.join()
        received = list(ports[1])
        assert received == list(range(len(received)))


@pytest.mark.usefixtures("_many_switches")
def test_a_port_that_travels_while_it_is_posted_to_misses_nothing():
    port1, traveller = MessageChannel()
    road1, road2 = MessageChannel()
    received = []

    def post():
        for i in range(20_000):
            port1.post_message(i)
        port1.close()

    thread = threading.Thread(target=post)
    thread.start()
    while True:
        try:
            received += traveller.receive_many(20, timeout=30)
        except ChannelClosedError:
            break
        road1.post_message(None, transfer=[traveller])
        (traveller,) = road2.receive_event().ports
    thread.join()
    assert received == list(range(20_000))


@pytest.mark.parametrize("method", ["receive", "receive_many", "receive_event", "__next__"])
def test_a_transfer_wakes_who_is_blocked_on_the_old_port(channel, method):
    port1, port2 = MessageChannel()
    outcome = []

    def block():
        try:
            outcome.append(getattr(port2, method)())
        except (ChannelClosedError, StopIteration) as error:
            outcome.append(type(error))

    thread = threading.Thread(target=block)
    thread.start()
    time.sleep(0.02)
    channel.port1.post_message(None, transfer=[port2])
    thread.join(10)
    assert outcome[0] in (ChannelClosedError, StopIteration)
    port1.post_message("for the new one")
    assert channel.port2.receive_event().ports[0].receive() == "for the new one"


def test_a_close_wakes_a_sender_that_waits_for_room():
    for closer in (0, 1):
        ports = tuple(MessageChannel(capacity=1))
        ports[0].post_message(1)
        outcome = []

        def block(port=ports[0], outcome=outcome):
            try:
                port.send(2)
            except ChannelClosedError:
                outcome.append("closed")

        thread = threading.Thread(target=block)
        thread.start()
        time.sleep(0.02)
        ports[closer].close()
        thread.join(10)
        assert outcome == ["closed"]


# ---- destructors and the garbage collector ----


def test_destructors_may_post():
    class Posts:
        def __init__(self, port):
            self.port = port

        def __del__(self):
            self.port.post_message("deleted")

    report1, report2 = MessageChannel()
    port1, port2 = MessageChannel(copy=False)
    for _ in range(1000):
        port1.post_message(Posts(report1))
    del port2
    assert report2.receive_many() == ["deleted"] * 1000


@local("copy=False")
def test_a_cycle_through_a_queue_is_collected():
    class Node:
        pass

    channel = MessageChannel(copy=False)
    node = Node()
    node.channel = channel
    channel.port1.post_message(node)
    reference = weakref.ref(node)
    del channel, node
    gc.collect()
    assert reference() is None


@local("the garbage collector can't see both ends where they may be in two processes")
def test_two_ports_that_only_listen_to_each_other_are_collected():
    channel = MessageChannel()
    channel.port1.onmessage = lambda event, keep=channel: None
    channel.port2.onmessage = lambda event, keep=channel: None
    references = [weakref.ref(port) for port in channel]
    del channel
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_listening_port_lives_as_long_as_its_peer():
    got = threading.Semaphore(0)
    channel = MessageChannel()
    channel.port1.onmessage = lambda event: got.release()
    reference, peer = weakref.ref(channel.port1), channel.port2
    del channel
    gc.collect()
    peer.post_message("heard")
    assert got.acquire(timeout=10)
    del peer
    deadline = time.monotonic() + 10
    while reference() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert reference() is None


def test_a_task_that_is_forgotten_with_its_loop_does_not_hold_its_port():
    port1, port2 = MessageChannel()
    loop = asyncio.new_event_loop()

    async def wait_for_ever(port):
        await port.areceive()

    task = loop.create_task(wait_for_ever(port2))
    task._log_destroy_pending = False
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    del task, port2
    gc.collect()
    gc.collect()
    assert eventually(lambda: port1.closed)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts descriptors in /proc")
def test_a_port_in_a_message_that_is_garbage_in_a_cycle_is_closed():
    """The garbage collector must not take apart what has descriptors to close."""

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(10):
        port1, port2 = MessageChannel()
        peer, port = MessageChannel()
        port1.post_message(None, transfer=[port])
        port1.close()
        assert eventually(lambda port2=port2: port2.closed)
        # The port is younger than its messages, so that these are seen to first.
        near, far = MessageChannel()
        near.post_message(None, transfer=[port2])
        moved = far.receive_event().ports[0]
        cycle = [moved]
        cycle.append(cycle)
        del port1, port2, peer, port, near, far, moved, cycle
        gc.collect()
    assert eventually(lambda: descriptors() <= before + 4)


@local("each would need two descriptors")
def test_a_hundred_thousand_ports_inside_one_another_are_dropped():
    port1, port2 = MessageChannel()
    for _ in range(100_000):
        outer = MessageChannel()
        outer.port1.post_message(None, transfer=[port1, port2])
        port1, port2 = outer.port1, outer.port2
    del outer, port1, port2
    gc.collect()


@local("each would need two descriptors")
def test_a_hundred_thousand_channels_work_at_once():
    channels = [MessageChannel() for _ in range(100_000)]
    for i, channel in enumerate(channels):
        channel.port1.post_message(i)
    assert [channel.port2.receive(0) for channel in channels] == list(range(100_000))


class Interrupts:
    """Where it is rebuilt, a signal is handled."""

    def __transfer__(self):
        return interrupt, ()


def interrupt():
    raise KeyboardInterrupt


def test_an_interrupt_in_the_middle_of_a_batch_gives_all_its_room_back():
    port1, port2 = MessageChannel(capacity=4)
    payload = b"x" * 1000
    before = sys.getrefcount(payload)
    interrupts = Interrupts()
    port1.post_message(interrupts, [interrupts])
    for _ in range(3):
        port1.post_message(payload)
    eventually(lambda: len(port2) == 4)
    with pytest.raises(KeyboardInterrupt):
        port2.receive_many()
    assert len(port2) == 0
    assert sys.getrefcount(payload) == before
    for number in range(4):
        port1.send(number, timeout=20)
    eventually(lambda: len(port2) == 4)
    assert port2.receive_many() == [0, 1, 2, 3]


def test_nothing_leaks():
    def work():
        # The far ones make three links each.
        for i in range(200 if is_far() else 2000):
            port1, port2 = MessageChannel(capacity=5)
            port1.post_message([i])
            port1.send_many("ab")
            port2.receive()
            port1.post_message(None, transfer=[MessageChannel().port1])
            port2.onclose = print
            del port2, port1

    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc to read the resident memory from")
    for _ in range(5):
        work()
    before = resident()
    for _ in range(10):
        work()
    assert eventually(lambda: resident() - before < 2_000_000)


def test_a_listener_added_while_the_message_is_rebuilt_hears_everything(channel):
    class Holder:
        def __init__(self, port):
            self.port = port

        def __setstate__(self, state):
            self.__dict__.update(state)
            self.port.onmessage = lambda event: heard.put(event.data)
            self.port.onclose = lambda event: heard.put("close")

    import queue

    heard = queue.SimpleQueue()
    globals()["Holder"] = Holder
    Holder.__qualname__ = "Holder"
    port1, port2 = MessageChannel()
    port1.post_message("before")
    channel.port1.post_message(Holder(port2), transfer=[port2])
    holder = channel.port2.receive()
    port1.post_message("after")
    port1.close()
    assert [heard.get(timeout=10) for _ in range(3)] == ["before", "after", "close"]
    assert holder.port.closed


# ---- signals ----


@pytest.mark.parametrize(
    "call", ["port2.receive()", "next(port2)", "port2.receive_many()", "wait([port2])", "full.send(2)"]
)
def test_ctrl_c_ends_a_blocked_call_and_loses_nothing(run_python, call):
    done = run_python(f"""
import os, signal, threading
from messagechannel import MessageChannel, wait
# Where tests run in the background, the signal may be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
port1, port2 = MessageChannel()
full, end = MessageChannel(capacity=1)
full.post_message(1)
try:
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    {call}
except KeyboardInterrupt:
    port1.post_message("later")
    full_messages = end.receive_many()
    print(port2.receive(), full_messages)
""")
    assert done.stdout == "later [1]\n", done.stderr


# ---- forks ----


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_in_a_forked_child_inherited_ports_are_closed_and_new_ones_work(run_python):
    done = run_python("""
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
from messagechannel import ChannelClosedError, MessageChannel
port1, port2 = MessageChannel()
port1.post_message("the parent's")
blocked1, blocked2 = MessageChannel()
threading.Thread(target=lambda: list(blocked2)).start()
heard = []
listening = MessageChannel()
listening.port1.onmessage = lambda event: heard.append(event.data)
listening.port2.post_message("before")
time.sleep(0.05)
child = os.fork()
if child == 0:
    assert port2.closed and len(port2) == 0
    for method in (port2.receive, port2.receive_nowait, lambda: port1.send(1)):
        try:
            method()
        except ChannelClosedError as error:
            assert "parent" in str(error)
        else:
            raise AssertionError("stolen")
    port1.post_message("from the child")
    blocked1.close()
    new1, new2 = MessageChannel()
    delivered = threading.Event()
    new2.onmessage = lambda event: delivered.set()
    new1.post_message(1)
    assert delivered.wait(10)
    del port1, port2, blocked1, blocked2, listening
    sys.exit(0)
begin = time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert time.monotonic() - begin < 4
assert port2.receive_many() == ["the parent's"]
blocked1.close()
assert heard == ["before"]
print("fine")
""")
    assert done.stdout == "fine\n", done.stderr


# ---- the end of the interpreter ----


def test_the_interpreter_exits_with_blocked_receivers_and_undelivered_messages(run_python):
    done = run_python("""
import threading, time
from messagechannel import MessageChannel, Worker
threading.excepthook = lambda args: None
port1, port2 = MessageChannel()
for seconds in (None, 0.01, 0.05, 1):
    threading.Thread(target=lambda: port2.receive(seconds), daemon=True).start()
MessageChannel().port1.post_message("undelivered")
kept = MessageChannel()
kept.port1.post_message(["undelivered"])
Worker(lambda port: port.receive())
blocked = Worker(lambda port: list(port))
slow = MessageChannel()
slow.port2.onmessage = lambda event: (time.sleep(0.005), print(event.data, flush=True))
for i in range(5):
    slow.port1.post_message(i)
endless = MessageChannel()
endless.port2.onmessage = lambda event: endless.port1.post_message(None)
endless.port1.post_message(None)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]
    assert done.stderr == ""


# ---- contexts that fail ----


@local("the other end wakes it from a thread of its own")
def test_a_context_that_could_not_be_woken_once_is_woken_by_the_next_post():
    async def main():
        loop = asyncio.get_running_loop()
        heard = []
        channels = MessageChannel(), MessageChannel()
        for channel in channels:
            channel.port2.onmessage = lambda event: heard.append(event.data)
        call_soon, loop.call_soon = loop.call_soon, lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                channels[0].port1.post_message(1)
        finally:
            loop.call_soon = call_soon
        channels[1].port1.post_message(2)
        await asyncio.sleep(0.01)
        return heard

    assert asyncio.run(main()) == [1, 2]


def test_a_port_that_is_transferred_while_its_context_is_woken_leaves_no_stale_reference():
    # Other threads run while the wake-up does; here one thread shows what that can mean.
    road1, road2 = MessageChannel()
    port1, port2 = MessageChannel()
    port1.post_message("waits")

    class Loop(asyncio.SelectorEventLoop):
        armed = False

        def call_soon(self, *args, **kwargs):
            if self.armed:
                self.armed = False
                road1.post_message(None, [port2])
            return super().call_soon(*args, **kwargs)

    async def listen(loop):
        loop.armed = True
        port2.onmessage = print
        assert not loop.armed

    loop = Loop()
    loop.run_until_complete(listen(loop))
    loop.close()
    (moved,) = road2.receive_event().ports
    references = sys.getrefcount(moved)
    moved.close()
    assert sys.getrefcount(moved) == references
    assert list(moved) == ["waits"]


class WakesSenders(asyncio.SelectorEventLoop):
    """Runs code in the moment in which a message that is taken makes room, and a sender is woken."""

    meanwhile = None

    def call_soon_threadsafe(self, *args, **kwargs):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().call_soon_threadsafe(*args, **kwargs)


@local("a sender at a far end is woken a moment after the message was taken")
@pytest.mark.parametrize("listeners", [1, 2])
def test_a_message_that_was_taken_for_a_listener_reaches_it_though_it_is_removed_meanwhile(listeners):
    port1, port2 = MessageChannel(capacity=1)
    heard = []
    loop = WakesSenders()

    async def run():
        port1.post_message("first")
        sending = asyncio.ensure_future(port1.asend("second"))
        await asyncio.sleep(0.01)
        if listeners == 2:
            port2.add_event_listener("message", lambda event: heard.append(event.data))
        port2.onmessage = lambda event: heard.append("removed" if listeners == 2 else event.data)
        loop.meanwhile = lambda: setattr(port2, "onmessage", None)
        await asyncio.sleep(0.05)
        await sending
        await asyncio.sleep(0.05)

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    port1.close()
    assert heard + list(port2) == ["first", "second"]
    assert loop.meanwhile is None


@pytest.mark.parametrize("waits", ["asend", "areceive"])
@pytest.mark.parametrize("event", ["close", "transfer"])
def test_a_port_that_is_closed_or_transferred_while_a_task_begins_to_wait_ends_the_wait(waits, event, monkeypatch):
    """To begin to wait runs code of the event loop's, and so other threads."""
    port1, port2 = MessageChannel(capacity=1)
    port = port1 if waits == "asend" else port2
    carrier = MessageChannel()

    def meanwhile():
        if event == "close":
            port.close()
        else:
            carrier.port1.post_message(None, [port])

    async def run():
        loop = asyncio.get_running_loop()
        create_future = loop.create_future

        def create_and_meet():
            monkeypatch.setattr(loop, "create_future", create_future)
            meanwhile()
            return create_future()

        async def wait():
            monkeypatch.setattr(loop, "create_future", create_and_meet)
            await (port1.asend("second") if waits == "asend" else port2.areceive())

        if waits == "asend":
            port1.post_message("fills it")
        with pytest.raises(ChannelClosedError):
            await asyncio.wait_for(loop.create_task(wait()), 5)

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
