"""Any number of threads on the same ports, listeners, events and awaitables, with an exact account of every message.

They run on every build. Where there is a GIL they meet few races; they are written for the builds without one.
"""

import asyncio
import functools
import gc
import queue
import random
import sys
import sysconfig
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import chain
from weakref import ref

import pytest

from loops import GUARD, Collector, Unraisable, let_the_dispatcher_finish
from messagechannel import (
    ChannelClosedError,
    DataCloneError,
    Event,
    EventTarget,
    MessageChannel,
    MessageEvent,
    Worker,
    _far,
    structured_clone,
    wait,
)
from targets import echo

pytestmark = pytest.mark.usefixtures("_many_switches")

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# How often a race is tried that one attempt seldom meets.
TRIES = 4000 if FREE_THREADED else 300


def run_threads(*functions):
    """Run each function in a thread of its own, all at once; return what they return, or raise what one raises."""
    start = threading.Barrier(len(functions))
    results = [None] * len(functions)
    errors = []

    def run(index):
        try:
            start.wait(GUARD)
            results[index] = functions[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 3 * GUARD
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return results


def race(prepare, *functions, tries=TRIES):
    """Call the functions at about the same moment, each in its thread, with what `prepare` made; again and again.

    Each sets out up to some microseconds late, so that what is long on the way meets what is there at once. Returns
    what was prepared and what the functions returned, for each try.
    """
    prepared = []
    arrived = [0] * len(functions)
    failed = []

    def run(index):
        results = []
        lateness = random.Random(index)
        try:
            for attempt in range(1, tries + 1):
                late = lateness.randrange(lateness.choice((1, 40, 800)))
                if index == 0:
                    prepared.append(prepare())
                arrived[index] = attempt
                looks = 0
                while min(arrived) < attempt and not failed:
                    looks += 1
                    if looks % 256 == 0:
                        time.sleep(0)
                for _ in range(late):
                    pass
                results.append(functions[index](*prepared[attempt - 1]))
        except BaseException:
            failed.append(index)
            raise
        return results

    results = run_threads(*[lambda index=index: run(index) for index in range(len(functions))])
    return [(made, *each) for made, *each in zip(prepared, *results, strict=True)]


def assert_each_once(received, sent):
    missing, surplus = Counter(sent) - Counter(received), Counter(received) - Counter(sent)
    assert not missing, f"{len(missing)} lost, such as {next(iter(missing))}"
    assert not surplus, f"{len(surplus)} out of nowhere, such as {next(iter(surplus))}"


def assert_in_order(messages):
    """Each sender's messages, which are pairs of a sender and a number, come in ascending order."""
    last = defaultdict(lambda: -1)
    for sender, number in messages:
        assert number > last[sender], f"{number} of sender {sender} came after {last[sender]}"
        last[sender] = number


def sender(name, port_now, number, send_one=None):
    """Return a function that sends pairs through whatever port is current, and returns those that were sent."""

    def run():
        sent = []
        for i in range(number):
            try:
                if send_one is None:
                    port_now().send((name, i), timeout=GUARD)
                else:
                    send_one(port_now(), (name, i))
                sent.append((name, i))
            except ChannelClosedError:
                pass
        return sent

    return run


# ---- the build ----


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has a GIL")
def test_importing_everything_leaves_the_gil_off(run_python):
    assert not sys._is_gil_enabled(), "something that the tests import has turned it on"
    result = run_python("""
import sys, messagechannel, messagechannel.worker, messagechannel.__main__
print(sys._is_gil_enabled())""")
    assert (result.stdout, result.stderr) == ("False\n", "")


# ---- one port, many threads ----


@pytest.mark.parametrize("capacity", [None, 3])
def test_many_senders_and_many_receivers(capacity):
    a, b = MessageChannel(capacity=capacity)
    number = 3000

    def receive_singly():
        return [*b]

    def receive_in_batches():
        received = []
        while True:
            try:
                received += b.receive_many(7)
            except ChannelClosedError:
                return received

    def send_all():
        sent = run_threads(
            sender("one", lambda: a, number),
            sender("two", lambda: a, number),
            lambda: a.send_many(("many", i) for i in range(number)) or [("many", i) for i in range(number)],
        )
        a.close()
        return [*chain(*sent)]

    sent, *received = run_threads(send_all, receive_singly, receive_singly, receive_in_batches)
    assert_each_once([*chain(*received)], sent)
    for each in received:
        assert_in_order(each)
    assert len(sent) == 3 * number


def test_whoever_has_posted_finds_a_message_to_take():
    # Each thread takes no more than all have posted before, so at no time is the queue empty for one that takes.
    a, b = MessageChannel()

    def post_and_take():
        for i in range(4 * TRIES):
            a.post_message(i)
            b.receive_nowait()

    run_threads(*[post_and_take] * 4)
    assert len(b) == 0


def test_a_close_lets_each_message_arrive_or_be_refused():
    for _ in range(TRIES // 10):
        a, b = MessageChannel()

        def close(port=b):
            time.sleep(0)
            port.close()

        def receive_all(port=b):
            return [*port]

        *sent, received, _ = run_threads(
            sender("one", lambda port=a: port, 40), sender("two", lambda port=a: port, 40), receive_all, close
        )
        assert_each_once(received, [*chain(*sent)])


def test_statistics_are_whole_at_any_time():
    a, b = MessageChannel()
    number = 10 * TRIES
    done = threading.Event()

    def post():
        for i in range(number):
            a.post_message(i)

    def take():
        taken = 0
        while taken < 2 * number:
            try:
                b.receive_nowait()
                taken += 1
            except queue.Empty:
                pass
        done.set()

    def look():
        received = 0
        while not done.is_set():
            figures = b.statistics()
            assert received <= figures.received <= 2 * number
            assert figures.waiting <= 2 * number
            assert figures.received <= a.statistics().posted
            received = figures.received

    run_threads(post, post, take, look, look)
    assert (a.statistics().posted, b.statistics().received, len(b)) == (2 * number, 2 * number, 0)


# ---- transfer ----


class Travelling:
    """A port that one thread transfers again and again while others use whatever handle is the current one."""

    def __init__(self, port):
        self.port = port
        self.going = True
        self.transfers = 0
        self._out, self._in = MessageChannel()

    def now(self):
        return self.port

    def travel(self):
        while self.going:
            self._out.post_message(None, [self.port])
            (self.port,) = self._in.receive_event().ports
            self.transfers += 1

    def while_travelling(self, *functions):
        def work():
            try:
                return run_threads(*functions)
            finally:
                self.going = False

        results, _ = run_threads(work, self.travel)
        assert self.transfers > 10
        return results


@pytest.mark.parametrize("capacity", [None, 2])
def test_a_port_that_is_transferred_meanwhile_loses_and_doubles_no_message(capacity):
    a, b = MessageChannel(capacity=capacity)
    traveller = Travelling(a)
    number = 2 * TRIES
    total = [0] * 2

    def receive_elsewhere(index):
        received = []
        while True:
            # Before it looks: what is sent meanwhile is found the next time.
            all_sent = total[0]
            try:
                received.append(b.receive(timeout=0.2))
            except TimeoutError:
                if all_sent:
                    return received

    def send_to_traveller():
        sent = sender("other", lambda: b, number)()
        total[1] = len(sent)
        return sent

    def receive_at_traveller():
        received = []
        while len(received) < (total[1] or number):
            with suppress(ChannelClosedError):
                received.append(traveller.now().receive(timeout=GUARD))
        return received

    def send_through_traveller():
        sent = run_threads(
            sender("one", traveller.now, number),
            sender("two", traveller.now, number),
            sender("three", traveller.now, number // 10, lambda port, message: port.send_many([message])),
        )
        total[0] = 1
        return [*chain(*sent)]

    received, there, sent, back = traveller.while_travelling(
        lambda: receive_elsewhere(0), receive_at_traveller, send_through_traveller, send_to_traveller
    )
    assert_each_once(received, sent)
    assert_in_order(received)
    assert_each_once(there, back)
    assert_in_order(there)


@pytest.mark.parametrize("capacity", [None, 3])
@pytest.mark.parametrize("kind", ["local", "far"])
def test_a_port_that_departs_meanwhile_loses_and_doubles_nothing(kind, capacity):
    """Messages of both directions, and the room for them, whether the port has a link already or gets one."""
    number = 20

    def prepare():
        a, b = MessageChannel(capacity=capacity)
        return a, _far.arrive(*_far.depart(b)) if kind == "far" else b, threading.Event()

    def send_all(a, b, ended):
        for i in range(number):
            a.send(i, timeout=GUARD)
        a.send("end", timeout=GUARD)

    def receive_all(a, b, ended):
        return [*iter(lambda: a.receive(GUARD), "end")]

    def send_until_it_goes(a, b, ended):
        sent = []
        with suppress(ChannelClosedError):
            for i in range(number):
                b.send(i, timeout=GUARD)
                sent.append(i)
        return sent

    def receive_until_it_goes(a, b, ended):
        received = []
        with suppress(ChannelClosedError):
            received += iter(lambda: b.receive(GUARD), "end")
            ended.set()
        return received

    def depart(a, b, ended):
        moved = _far.arrive(*_far.depart(b))
        moved.send("end", timeout=GUARD)
        received = []
        while not ended.is_set():
            with suppress(TimeoutError):
                received.append(moved.receive(timeout=0.05))
                if received[-1] == "end":
                    ended.set()
        return moved, [*filter(lambda message: message != "end", received)]

    functions = send_all, receive_all, send_until_it_goes, receive_until_it_goes, depart
    for (a, *_), _, back, sent_back, before, (moved, after) in race(prepare, *functions, tries=TRIES // 8):
        assert before + after == [*range(number)]
        assert back == sent_back
        if capacity:
            # All the room is there again, in both directions, and no more than that.
            for one, other in ((a, moved), (moved, a)):
                for i in range(capacity):
                    one.send(i, timeout=GUARD)
                with pytest.raises(queue.Full):
                    one.post_message("one too many")
                assert [other.receive(GUARD) for i in range(capacity)] == [*range(capacity)]


@pytest.fixture
def loop_elsewhere():
    """An event loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(GUARD)
    loop.close()


@pytest.mark.parametrize("waiting", [0, 3])
def test_both_ends_depart_at_once_and_lead_to_each_other_still(loop_elsewhere, waiting):
    """To wake tasks that wait lets other threads run, in the middle of a departure."""

    async def wait_at(port):
        with suppress(ChannelClosedError):
            await port.areceive()

    async def begin_to_wait(port):
        return [asyncio.ensure_future(wait_at(port)) for _ in range(waiting)]

    def prepare():
        a, b = MessageChannel()
        asyncio.run_coroutine_threadsafe(begin_to_wait(a), loop_elsewhere).result(GUARD)
        return a, b

    departed = race(prepare, lambda a, b: _far.depart(a), lambda a, b: _far.depart(b), tries=max(60, TRIES // 20))
    for _, *states in departed:
        a, b = (_far.arrive(*state) for state in states)
        a.post_message("to b")
        b.post_message("to a")
        assert (b.receive(GUARD), a.receive(GUARD)) == ("to b", "to a")
        a.close()


async def guarded(awaitable):
    return await asyncio.wait_for(awaitable, GUARD)


@pytest.mark.parametrize(
    ("tries", "waits"),
    [
        (TRIES, lambda port: port.receive(timeout=GUARD)),
        (TRIES, lambda port: port.send("more", timeout=GUARD)),
        (TRIES, lambda port: wait([port], timeout=GUARD)[0].receive_nowait()),
        (TRIES // 8, lambda port: asyncio.run(guarded(port.areceive()))),
        (TRIES // 8, lambda port: asyncio.run(guarded(port.asend("more")))),
    ],
    ids=["receive", "send", "wait", "areceive", "asend"],
)
def test_who_waits_at_a_handle_that_goes_finds_out(tries, waits):
    def prepare():
        a, b = MessageChannel(capacity=1)
        b.post_message("full")
        return a, b, *MessageChannel()

    def wait_there(a, b, out, arrival):
        with pytest.raises(ChannelClosedError):
            waits(b)
        return "gone"

    def transfer(a, b, out, arrival):
        out.post_message(None, [b])

    for (a, _, _, arrival), outcome, _ in race(prepare, wait_there, transfer, tries=tries):
        assert outcome == "gone"
        assert not arrival.receive_event().ports[0].closed
        assert a.receive_nowait() == "full"


def try_to_transfer(out, *ports):
    try:
        out.post_message(None, ports)
    except DataCloneError:
        return False
    return True


def test_ports_that_two_threads_transfer_go_to_one():
    def prepare():
        (a, b), (c, d), (out, arrival) = MessageChannel(), MessageChannel(), MessageChannel()
        return a, b, c, d, out, arrival

    for (a, _, _, d, _, arrival), *done in race(
        prepare,
        lambda a, b, c, d, out, arrival: try_to_transfer(out, b, c),
        lambda a, b, c, d, out, arrival: try_to_transfer(out, c, b),
    ):
        assert sorted(done) == [False, True]
        ports = arrival.receive_event().ports
        assert len(arrival) == 0
        assert not any(port.closed for port in (a, d, *ports))
        for mine, its in zip((a, d) if done[0] else (d, a), ports, strict=True):
            mine.post_message("through")
            assert its.receive_nowait() == "through"


def test_a_port_that_two_threads_clone_goes_to_one():
    def clone(a, b):
        try:
            return structured_clone(b, transfer=[b])
        except DataCloneError:
            return None

    # What cloning makes on first use is another matter.
    structured_clone([])
    for (a, _), *clones in race(MessageChannel, clone, clone, tries=TRIES // 4):
        (port,) = [each for each in clones if each is not None]
        a.post_message("through")
        assert port.receive_nowait() == "through"


def test_of_a_transfer_and_a_close_one_comes_first():
    def prepare():
        return *MessageChannel(), *MessageChannel()

    for (a, _, _, arrival), transferred, _ in race(
        prepare, lambda a, b, out, arrival: try_to_transfer(out, b), lambda a, b, out, arrival: b.close()
    ):
        assert a.closed == (not transferred)
        if transferred:
            assert not arrival.receive_event().ports[0].closed


# ---- listeners ----


def test_first_listeners_of_many_threads_share_one_dispatcher(run_python):
    # The first use of everything that is made on first use.
    code = """
import threading
from messagechannel import MessageChannel
N = 8
start, done, threads = threading.Barrier(N), threading.Semaphore(0), set()
def use(number):
    a, b = MessageChannel()
    keep.append(b)
    start.wait()
    def listener(event):
        threads.add(threading.current_thread())
        done.release()
    b.onmessage = listener
    for i in range(10):
        a.post_message(i)
keep = []
users = [threading.Thread(target=use, args=(number,)) for number in range(N)]
[user.start() for user in users]
[user.join() for user in users]
print(all(done.acquire(timeout=10) for _ in range(10 * N)), len(threads))
"""
    for _ in range(8):
        result = run_python(code)
        assert (result.stdout, result.stderr) == ("True 1\n", "")


@pytest.mark.parametrize("where", ["dispatcher", "asyncio"])
def test_listeners_that_come_and_go_under_fire_miss_nothing(where):
    a, b = MessageChannel()
    collector = Collector()
    number = 3 * TRIES
    going = True

    def change_listeners():
        def listener(event):
            collector(event)

        while going:
            b.add_event_listener("message", listener)
            b.remove_event_listener("message", listener)

    def change_handler():
        while going:
            b.onmessage = collector
            b.onmessage = None

    def take():
        taken = []
        while going:
            try:
                taken.append(b.receive_nowait())
            except queue.Empty:
                time.sleep(0.0001)
        return taken

    def post_all():
        nonlocal going
        run_threads(*[lambda name=name: [a.post_message((name, i)) for i in range(number)] for name in "xy"])
        going = False

    b.start()

    def work():
        _, _, taken, _ = run_threads(change_listeners, change_handler, take, post_all)
        return taken

    def all_came(taken):
        # Two listeners may have heard the same message.
        return len({*collector.data}) + len(taken) == 2 * number

    end = time.monotonic() + 2 * GUARD
    if where == "dispatcher":
        taken = work()
        b.onmessage = collector
        while not all_came(taken) and time.monotonic() < end:
            time.sleep(0.01)
    else:

        async def main():
            b.start()
            taken = await asyncio.to_thread(work)
            b.onmessage = collector
            while not all_came(taken) and time.monotonic() < end:
                await asyncio.sleep(0.01)
            return taken

        taken = asyncio.run(main())
    assert_each_once({*collector.data, *taken}, [(name, i) for name in "xy" for i in range(number)])
    assert not {*collector.data} & {*taken}


def test_a_started_port_hears_every_message_of_many_senders():
    a, b = MessageChannel()
    collector = Collector()
    number = 4 * TRIES

    def listener(event):
        # Posted from within, while others post.
        if event.data[0] == "x" and event.data[1] % 16 == 0:
            a.post_message(("echo", event.data[1]))
        collector(event)

    b.onmessage = listener
    run_threads(*[lambda name=name: [a.post_message((name, i)) for i in range(number)] for name in "xyz"])
    echoes = [("echo", i) for i in range(0, number, 16)]
    collector.wait_for(3 * number + len(echoes))
    assert_each_once(collector.data, [(name, i) for name in "xyz" for i in range(number)] + echoes)
    assert_in_order(collector.data)


def test_a_close_is_heard_once_and_after_every_message_that_was_sent():
    for _ in range(TRIES // 10):
        a, b = MessageChannel()
        heard = Collector()
        b.onmessage = heard
        b.onclose = heard

        *sent, _ = run_threads(
            sender("one", lambda a=a: a, 25),
            sender("two", lambda a=a: a, 25, lambda port, message: port.send_many([message])),
            lambda a=a: time.sleep(0) or a.close(),
        )
        expected = [*chain(*sent)]
        heard.wait_for(len(expected) + 1)
        assert heard.data[-1] == "close"
        assert_each_once(heard.data[:-1], expected)


def test_the_last_taker_of_a_closed_channel_lets_the_close_be_heard():
    # At a handle that is transferred just then, the last message is taken; the listener is at the new handle.
    def prepare():
        (a, b), (out, arrival) = MessageChannel(), MessageChannel()
        a.post_message("last")
        a.close()
        return b, out, arrival, Collector()

    def take(b, out, arrival, heard):
        try:
            return b.receive_nowait()
        except ChannelClosedError:
            return None

    def move(b, out, arrival, heard):
        out.post_message(None, [b])
        (moved,) = arrival.receive_event().ports
        moved.onclose = heard
        return moved

    for (_, _, _, heard), taken, moved in race(prepare, take, move):
        assert (taken or moved.receive_nowait()) == "last"
        heard.wait_for(1)


@pytest.mark.parametrize("closer", [0, 1])
def test_a_push_that_races_with_a_close_is_heard(closer):
    def prepare():
        a, b = MessageChannel()
        b.onmessage = b.onclose = heard = Collector()
        return a, b, heard

    def send(a, b, heard):
        sent = 0
        with suppress(ChannelClosedError):
            for i in range(20):
                a.send(i)
                sent = i + 1
        return sent

    for (_, b, heard), sent, _ in race(prepare, send, lambda *made: made[closer].close(), tries=TRIES // 2):
        # There is no close event on the side that closes.
        expected = [*range(sent), "close"] if closer == 0 else [*range(sent)]
        heard.wait_for(len(expected))
        assert heard.data == expected
        assert len(b) == 0


def test_messages_are_heard_on_a_handle_that_keeps_travelling():
    a, b = MessageChannel()
    collector = Collector()
    traveller = Travelling(b)

    def listen():
        while traveller.going:
            traveller.now().onmessage = collector
            time.sleep(0)

    def post():
        sent = []
        # Again, as long as the traveller has hardly had the processor.
        while traveller.transfers <= 10:
            names = [(name, len(sent)) for name in "xy"]
            sent += chain(*run_threads(*[sender(name, lambda: a, TRIES) for name in names]))
        traveller.going = False
        return sent

    sent, _ = traveller.while_travelling(post, listen)
    traveller.now().onmessage = collector
    collector.wait_for(len(sent))
    assert_each_once(collector.data, sent)


# ---- events ----


def test_an_event_is_dispatched_by_one_thread_at_a_time():
    inside = []
    overlaps = []
    targets = [EventTarget() for _ in range(2)]

    def listener(event):
        inside.append(event)
        if len(inside) > 1:
            overlaps.append(event.target)
        assert event.current_target is event.target
        inside.pop()

    for target in targets:
        target.add_event_listener("x", listener)
    event = Event("x", cancelable=True)
    refused = []

    def dispatch(target):
        for _ in range(2 * TRIES):
            try:
                target.dispatch_event(event)
            except RuntimeError:
                refused.append(1)

    run_threads(*[lambda target=target: dispatch(target) for target in targets * 2])
    assert not overlaps
    assert event.current_target is None
    assert event.target in targets


def test_what_an_event_holds_may_be_replaced_while_others_read_it():
    event = MessageEvent("x")
    target = EventTarget()
    going = True

    def replace():
        nonlocal going
        for i in range(4 * TRIES):
            MessageEvent.__init__(event, f"type {i}", data=[i], origin=f"from {i}", source=EventTarget())
        going = False

    def dispatch():
        while going:
            EventTarget().dispatch_event(event)

    def read():
        while going:
            assert isinstance(event.data, list | None)
            assert event.type.startswith(("x", "type"))
            assert isinstance(event.origin, str)
            assert isinstance(event.source, EventTarget | None)
            assert isinstance(event.target, EventTarget | None)
            assert repr(event).startswith("<MessageEvent ")

    run_threads(replace, dispatch, read, read)
    assert target is not event.target


def test_a_listener_for_one_event_is_called_once_by_many_threads():
    def prepare():
        target = EventTarget()
        calls = []
        target.add_event_listener("x", calls.append, once=True)
        return target, calls

    def dispatch(target, calls):
        target.dispatch_event(Event("x"))

    for (_, calls), *_ in race(prepare, dispatch, dispatch):
        assert len(calls) == 1


def test_listeners_that_many_threads_add_are_all_there_once():
    def prepare():
        target = EventTarget()
        calls = []
        return target, calls, lambda event: calls.append("shared")

    def add(name, target, calls, shared):
        target.add_event_listener("x", lambda event: calls.append(name))
        target.add_event_listener("x", shared)

    for (target, calls, _), *_ in race(prepare, *[lambda *made, name=name: add(name, *made) for name in "ab"]):
        target.dispatch_event(Event("x"))
        assert sorted(calls) == ["a", "b", "shared"]


def test_a_handler_that_is_replaced_while_it_is_called():
    a, b = MessageChannel()
    going = True

    class Handler:
        def __call__(self, event):
            self.called = True

    def replace():
        for _ in range(10 * TRIES):
            b.onmessageerror = Handler()
        nonlocal going
        going = False

    def call():
        while going:
            b.dispatch_event(Event("messageerror"))
            assert b.onmessageerror is None or isinstance(b.onmessageerror, Handler)

    run_threads(replace, call, call)
    a.close()


# ---- awaitables ----


def test_loops_in_many_threads_share_one_async_iterator():
    a, b = MessageChannel()
    shared = b.__aiter__()
    number = 4 * TRIES

    def iterate():
        async def main():
            return [message async for message in shared]

        return asyncio.run(main())

    def post():
        for i in range(number):
            a.post_message(i)
        a.close()

    _, *received = run_threads(post, *[iterate] * 3)
    assert_each_once([*chain(*received)], range(number))


def test_an_awaitable_that_two_threads_step_gives_its_message_to_one():
    a, b = MessageChannel()

    def step(awaitable):
        try:
            while True:
                # Now and then it gives way to other tasks.
                assert awaitable.send(None) is None
        except StopIteration as stop:
            return [stop.value]
        except RuntimeError:
            return []

    for i in range(TRIES):
        a.post_message(i)
    results = race(lambda: (b.areceive(),), step, step)
    assert_each_once(chain(*(one + other for _, one, other in results)), range(TRIES))


def test_tasks_of_many_loops_receive_and_send_through_a_travelling_port():
    a, b = MessageChannel(capacity=2)
    traveller = Travelling(b)
    number = TRIES // 3

    def in_loop(coroutine):
        return asyncio.run(asyncio.wait_for(coroutine(), 2 * GUARD))

    async def send():
        sent = []
        for i in range(number):
            try:
                await traveller.now().asend(("task", i))
                sent.append(("task", i))
            except ChannelClosedError:
                pass
        return sent

    async def receive():
        return [message async for message in a]

    def send_all():
        sent, more = run_threads(lambda: in_loop(send), sender("thread", traveller.now, number))
        traveller.going = False
        while True:
            try:
                traveller.now().send(("end", 0))
                break
            except ChannelClosedError:
                pass
        return sent + more

    async def receive_to_end():
        received = []
        while not received or received[-1][0] != "end":
            received.append(await a.areceive())
        return received[:-1]

    sent, received = traveller.while_travelling(send_all, lambda: in_loop(receive_to_end))
    assert_each_once(received, sent)
    assert_in_order(received)


# ---- life and death ----


def test_garbage_is_collected_while_others_post():
    made, gone = [], []
    going = True

    class Tracked:
        def __init__(self):
            made.append(1)

        def __del__(self):
            gone.append(1)

    def litter():
        for _ in range(number):
            a, b = MessageChannel(copy=False)
            tracked = Tracked()
            tracked.ports = a, b
            a.post_message(tracked)
            b.onclose = lambda event, a=a, tracked=tracked: None
            a.post_message([b])

    def collect():
        while going:
            gc.collect()
            time.sleep(0.0005)

    number = TRIES // 8
    a, b = MessageChannel(copy=False)
    heard = Collector()
    c, d = MessageChannel(copy=False)
    d.onmessage = heard

    def post():
        for i in range(number):
            a.post_message([i])
            c.post_message([i])

    def work():
        nonlocal going
        try:
            return run_threads(litter, litter, post, post)
        finally:
            going = False

    gc.collect()
    # What the test has not made is not looked at, so that many collections fit into it.
    gc.freeze()
    try:
        run_threads(work, collect)
        heard.wait_for(2 * number)
        assert_each_once([each[0] for each in b.receive_many()], [*range(number)] * 2)
        assert_each_once([each[0] for each in heard.data], [*range(number)] * 2)
        assert len(made) == 2 * number
        # What one thread made and another dropped goes when its maker has settled its count.
        end = time.monotonic() + GUARD
        while len(gone) < len(made) and time.monotonic() < end:
            gc.collect()
        assert len(gone) == len(made)
    finally:
        gc.unfreeze()


def test_ports_that_hear_the_close_of_each_other_are_collected_whole(monkeypatch):
    """The collector clears what a listener needs. So none may run by then, or all that it needs is to stay."""
    unraisable, heard = Unraisable(monkeypatch), []

    class Listener:
        def __init__(self):
            self.needed = [1]

        def __call__(self, event):
            assert event.target.closed
            assert [[] for _ in range(50)]
            heard.append(self.needed[0])

    for _ in range(TRIES // 200):
        gone = []
        for _ in range(50):
            a, b = MessageChannel()
            for port in (a, b):
                port.onmessage = lambda event: None
                port.onclose = listener = Listener()
                listener.port = port
                gone.append(ref(port))
        del a, b, port, listener
        end = time.monotonic() + GUARD
        while any(port() is not None for port in gone) and time.monotonic() < end:
            gc.collect()
        assert [port() for port in gone] == [None] * len(gone)
    let_the_dispatcher_finish()
    assert not unraisable.errors
    # One of each two, for the other has been finalized by then.
    assert heard


def close_heard_in_trio(port):
    trio = pytest.importorskip("trio")

    async def main():
        with trio.fail_after(GUARD):
            await port.areceive()

    trio.run(main)


@pytest.mark.parametrize(
    "waits",
    [
        lambda port: port.receive(timeout=GUARD),
        lambda port: port.send_many([None] * 2),
        lambda port: wait([port], timeout=GUARD)[0].receive_nowait(),
        lambda port: asyncio.run(guarded(port.areceive())),
        close_heard_in_trio,
    ],
    ids=["receive", "send_many", "wait", "areceive", "trio"],
)
def test_who_waits_learns_that_another_thread_has_forgotten_the_other_end(waits):
    # Without the GIL an object goes when the thread that made it says so, and that one waits here.
    for _ in range(3):
        a, b = MessageChannel(capacity=1)
        forgetful = threading.Thread(target=lambda port: time.sleep(0.01), args=(b,))
        forgetful.start()
        del b
        began = time.monotonic()
        with pytest.raises(ChannelClosedError):
            waits(a)
        assert time.monotonic() - began < GUARD / 2
        forgetful.join()


def test_a_listener_learns_that_another_thread_has_forgotten_the_other_end():
    # The dispatcher thread makes a channel, and then sleeps.
    heard = Collector()
    a, b = MessageChannel()
    kept = []

    def listener(event):
        mine, other = MessageChannel()
        mine.onclose = heard
        kept.append(mine)
        threading.Thread(target=lambda port: time.sleep(0.05), args=(other,)).start()

    b.onmessage = listener
    a.post_message(None)
    heard.wait_for(1, GUARD / 2)


def post_somewhere(transfer):
    here, _there = MessageChannel()
    here.post_message(None, transfer)


def clone_nothing(transfer):
    structured_clone(None, transfer=transfer)


@pytest.mark.parametrize("send", [post_somewhere, clone_nothing])
def test_who_loses_the_race_for_ports_keeps_his_storage(send):
    def transfer(ports, started):
        mine = bytearray(b"abc")
        started.wait(GUARD)
        try:
            send([mine, *ports])
        except DataCloneError:
            assert mine == b"abc"
            return "lost"
        assert mine == b""
        return "won"

    for _ in range(TRIES // 20):
        ports = list(MessageChannel())
        started = threading.Barrier(3)
        first = functools.partial(transfer, ports, started)
        second = functools.partial(transfer, ports[::-1], started)
        # All of the ports go to one of them.
        assert sorted(run_threads(first, second, first)) == ["lost", "lost", "won"]


def test_many_threads_start_workers():
    def use():
        for i in range(20):
            with Worker(echo) as worker:
                worker.post_message(i)
                assert worker.receive(timeout=GUARD) == i
            worker.join(GUARD)
            assert not worker.is_alive()

    run_threads(*[use] * 4)


def test_threads_import_asyncio_while_others_start_ports(run_python):
    code = """
import threading
from messagechannel import MessageChannel
start = threading.Barrier(5)
def use():
    a, b = MessageChannel()
    start.wait()
    for i in range(300):
        b.onmessage = print
        b.onmessage = None
def bring():
    start.wait()
    import asyncio
threads = [threading.Thread(target=each) for each in (bring, use, use, use, use)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("done")
"""
    for _ in range(5):
        result = run_python(code)
        assert (result.stdout, result.stderr) == ("done\n", "")
