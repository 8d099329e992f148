"""The other end is in another process: what DESIGN promises of every port, with a real process on the other side."""

import asyncio
import gc
import os
import queue
import sys
import threading
import time

import pytest

from ends import eventually
from loops import ALL_LOOPS, GUARD, Collector, run
from messagechannel import ChannelClosedError, DataCloneError, MessageChannel, wait
from puppet import Puppet


@pytest.fixture(scope="module")
def puppets():
    made = []
    yield made
    for puppet in made:
        puppet.end()


@pytest.fixture
def puppet(puppets):
    """A process that lasts for many tests, unless one leaves an order without an answer."""
    if not puppets or puppets[-1].owed:
        puppets.append(Puppet())
    return puppets[-1]


@pytest.fixture
def doomed_puppet(new_puppet):
    """A process for one test, which may end it."""
    return new_puppet()


class Unbuildable:
    """Can't be rebuilt where it arrives."""

    def __reduce__(self):
        return raise_lookup_error, ()


def raise_lookup_error():
    raise LookupError("as the test wants it")


# ---- order ----


def test_messages_come_in_order_in_both_directions(puppet):
    with puppet.far_end("a") as port:
        port.send_many(range(1000))
        port.post_message([1, {"two": (3, None, 4.5, b"five")}])
        assert puppet.receive_count("a", 1000) == list(range(1000))
        assert puppet.call("a", "receive", GUARD) == [1, {"two": (3, None, 4.5, b"five")}]
        puppet.post_range("a", 0, 1000)
        assert [port.receive(GUARD) for _ in range(1000)] == list(range(1000))


def test_what_waits_goes_along_and_what_follows_comes_after_it(puppet):
    here, there = MessageChannel()
    for i in range(50):
        here.post_message(i)
        there.post_message(-i)
    puppet.hold("a", transfer=[there])
    for i in range(50, 100):
        here.post_message(i)
    puppet.post_range("a", -100, -50)
    assert puppet.receive_count("a", 100) == list(range(100))
    assert [here.receive(GUARD) for _ in range(100)] == [*range(0, -50, -1), *range(-100, -50)]
    here.close()


def test_many_threads_on_both_sides_lose_nothing(puppet):
    port = puppet.far_end("a", 50)
    puppet.echo("a")
    each, threads = 1500, 4
    got = [[] for _ in range(threads)]

    def post(name):
        for i in range(each):
            port.send((name, i), timeout=GUARD)

    def receive(mine):
        while len(mine) < each:
            mine.append(port.receive(GUARD))

    runners = [threading.Thread(target=post, args=(name,)) for name in range(threads)]
    runners += [threading.Thread(target=receive, args=(mine,)) for mine in got]
    for thread in runners:
        thread.start()
    for thread in runners:
        thread.join(GUARD * 3)
    assert sorted(message for mine in got for message in mine) == [
        (name, i) for name in range(threads) for i in range(each)
    ]
    for mine in got:
        for name in range(threads):
            assert [i for n, i in mine if n == name] == sorted(i for n, i in mine if n == name)
    port.close()


# ---- bounds ----


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_bounded_channel_is_full_exactly_at_its_capacity(puppet, capacity):
    with puppet.far_end("a", capacity) as port:
        for _ in range(3):
            for i in range(capacity):
                port.post_message(i)
            with pytest.raises(queue.Full, match=f"{capacity} messages"):
                port.post_message("too many")
            with pytest.raises(TimeoutError):
                port.send("too many", timeout=0.01)
            assert puppet.receive_count("a", capacity) == list(range(capacity))
        assert puppet.length("a") == 0


def test_what_waited_when_the_port_left_takes_room_until_it_is_received(puppet):
    here, there = MessageChannel(capacity=2)
    here.post_message("first")
    there.post_message("mine")
    puppet.hold("a", transfer=[there])
    here.post_message("second")
    with pytest.raises(queue.Full):
        here.post_message("too many")
    assert puppet.call("a", "receive", GUARD) == "first"
    here.post_message("third")
    with pytest.raises(queue.Full):
        here.post_message("too many")
    assert puppet.receive_count("a", 2) == ["second", "third"]
    assert puppet.call("a", "post_message", "to you") is None
    assert puppet.call("a", "post_message", "too many") is queue.Full
    assert here.receive(GUARD) == "mine"
    assert puppet.call("a", "post_message", "again") is None
    assert [here.receive(GUARD), here.receive(GUARD)] == ["to you", "again"]
    here.close()


def test_room_that_the_other_process_makes_wakes_a_sender(puppet):
    with puppet.far_end("a", 1) as port:
        port.post_message(0)
        puppet.order("receive_count", "a", 21)
        for i in range(1, 21):
            port.send(i, timeout=GUARD)
        assert puppet.answer() == list(range(21))


@pytest.mark.parametrize("loop_name", ALL_LOOPS)
def test_room_that_the_other_process_makes_wakes_an_asend(puppet, loop_name):
    async def main(tasks):
        with puppet.far_end("a", 1) as port:
            port.post_message(0)
            sending = tasks.spawn(port.asend, "cancelled")
            await tasks.sleep(0.01)
            sending.cancel()
            await sending.result()
            puppet.order("receive_count", "a", 21)
            for i in range(1, 21):
                await tasks.guard(port.asend(i))
            assert await tasks.in_thread(puppet.answer) == list(range(21))

    run(loop_name, main)


# ---- back-pressure ----


def mapped_memory():
    """Return the bytes of shared memory that this process has mapped."""
    total = 0
    with open("/proc/self/smaps") as lines:
        shared = False
        for line in lines:
            if "-" in line.split(" ")[0]:
                shared = "memfd:" in line
            elif shared and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def test_posting_never_waits_however_much_the_other_side_leaves_lying(puppet):
    with puppet.far_end("a") as port:
        number = 200_000
        for i in range(number):
            port.post_message(i)
        assert port.statistics().posted == number
        if os.path.exists("/proc/self/smaps"):
            assert mapped_memory() < 64 << 20
        puppet.order("receive_count", "a", number)
        assert puppet.answer() == list(range(number))


def test_large_messages_wait_at_the_senders_side(puppet):
    with puppet.far_end("a") as port:
        for i in range(30):
            port.post_message(bytes([i]) * 1_000_000)
            port.post_message(bytearray([i]) * 1_000_000)
        if os.path.exists("/proc/self/smaps"):
            assert mapped_memory() < 64 << 20
        for i in range(30):
            assert puppet.call("a", "receive", GUARD) == bytes([i]) * 1_000_000
            assert puppet.call("a", "receive", GUARD) == bytearray([i]) * 1_000_000


def test_a_message_in_many_pieces_never_waits_for_room_that_is_there(puppet):
    """The room may come in the very moment in which the sender finds none."""
    port = puppet.far_end("a")
    puppet.echo("a")
    for i in range(300):
        message = bytes([i % 256]) * (150_000 + 37_003 * (i % 17))
        port.post_message(message)
        assert port.receive(GUARD) == message
    port.close()


def test_what_was_posted_is_not_changed_by_what_the_sender_does_to_it_later(puppet):
    with puppet.far_end("a") as port:
        message = [bytearray(300_000), bytearray(100), [1]]
        for i in range(40):
            message[0][:] = bytes([i]) * 300_000
            message[1][:] = bytes([i]) * 100
            message[2][0] = i
            port.post_message(message)
        message[0][:] = message[1][:] = b""
        for i in range(40):
            large, small, numbers = puppet.call("a", "receive", GUARD)
            assert (large, small, numbers) == (bytes([i]) * 300_000, bytes([i]) * 100, [i])


# ---- closing ----


@pytest.mark.parametrize("number", [3, 50_000])
def test_what_was_posted_before_a_close_arrives_and_then_the_end(puppet, number):
    port = puppet.far_end("a")
    port.send_many(range(number))
    port.close()
    assert port.closed
    assert puppet.drain("a") == list(range(number))
    assert puppet.call("a", "receive", 1) is ChannelClosedError
    assert puppet.is_closed("a")
    assert puppet.call("a", "send", 1) is ChannelClosedError


def test_the_other_process_closes(puppet):
    port = puppet.far_end("a")
    puppet.post_range("a", 0, 5)
    puppet.call("a", "close")
    assert list(port) == [0, 1, 2, 3, 4]
    assert port.closed
    port.post_message("goes nowhere")
    with pytest.raises(ChannelClosedError):
        port.send("x")
    assert puppet.call("a", "receive_nowait") is ChannelClosedError


def test_what_had_arrived_before_a_close_stays_receivable_at_the_closed_port(puppet):
    port = puppet.far_end("a")
    port.send_many(range(5))
    puppet.order("length", "a")
    assert puppet.answer() == 5
    puppet.call("a", "close")
    puppet.length("a")
    port.post_message("too late")
    assert puppet.drain("a") == [0, 1, 2, 3, 4]


def test_what_a_sender_holds_back_does_not_arrive_at_a_port_that_is_closed(puppet):
    port = puppet.far_end("a")
    count = 20_000
    port.send_many(b"%200d" % i for i in range(count))
    puppet.call("a", "close")
    arrived = puppet.drain("a")
    # What had come is there, in order, and the sender learns of the end.
    assert 0 < len(arrived) < count
    assert [int(message) for message in arrived] == list(range(len(arrived)))
    assert eventually(lambda: port.closed)
    with pytest.raises(ChannelClosedError):
        port.send("x")


def test_dropping_the_last_reference_closes(puppet):
    port = puppet.far_end("a")
    puppet.post_range("a", 0, 3)
    puppet.drop("a")
    assert eventually(lambda port=port: port.closed)
    assert list(port) == [0, 1, 2]
    port = puppet.far_end("a")
    port.post_message("last")
    del port
    gc.collect()
    assert puppet.drain("a") == ["last"]


def test_a_close_wakes_whoever_waits(puppet):
    for call in ("receive", "send"):
        port = puppet.far_end("a", 1)
        port.post_message("fills it")
        outcome = []

        def block(port=port, call=call, outcome=outcome):
            try:
                outcome.append(port.receive(GUARD) if call == "receive" else port.send(1, timeout=GUARD))
            except ChannelClosedError:
                outcome.append("closed")

        thread = threading.Thread(target=block)
        thread.start()
        time.sleep(0.02)
        puppet.call("a", "close")
        thread.join(GUARD)
        assert outcome == ["closed"]


def test_a_send_that_waits_for_room_is_not_let_in_by_the_close(puppet):
    for _ in range(100):
        port = puppet.far_end("a", 1)
        port.post_message("fills it")
        puppet.order("call", "a", "close")
        with pytest.raises(ChannelClosedError):
            port.send("too late", timeout=GUARD)
        puppet.answer()


def test_a_death_drains_and_then_closes(doomed_puppet):
    port = doomed_puppet.far_end("a")
    doomed_puppet.post_range("a", 0, 3)
    doomed_puppet.order("die")
    assert list(port) == [0, 1, 2]
    assert port.closed


def test_an_exit_sends_what_waits(doomed_puppet):
    port = doomed_puppet.far_end("a")
    # Of 16 bytes each: more than a ring has room for.
    doomed_puppet.post_range("a", 0, 100_000)
    doomed_puppet.order("exit")
    assert list(port) == list(range(100_000))


# ---- listeners ----


def test_listeners_hear_the_messages_and_then_the_close_once(puppet):
    port = puppet.far_end("a")
    collector = Collector()
    port.onmessage = port.onclose = collector
    puppet.post_range("a", 0, 2000)
    puppet.call("a", "close")
    assert collector.wait_for(2001) == [*range(2000), "close"]
    assert len(set(collector.threads)) == 1


def test_listeners_of_the_other_process_hear_too(puppet):
    port = puppet.far_end("a")
    port.post_message("waited")
    puppet.listen("a")
    port.send_many(range(500))
    port.post_message(Unbuildable())
    port.post_message("after")
    port.close()
    eventually(lambda: len(puppet.what_was_heard("a")) == 504)
    assert puppet.what_was_heard("a") == ["waited", *range(500), "messageerror", "after", "close"]


@pytest.mark.parametrize("loop_name", ALL_LOOPS)
def test_tasks_receive_and_iterate_to_the_end(puppet, loop_name):
    async def main(tasks):
        port = puppet.far_end("a")
        waiting = tasks.spawn(port.areceive)
        await tasks.turns()
        puppet.post_range("a", 0, 100)
        puppet.call("a", "close")
        assert await waiting.result() == 0
        assert [message async for message in port] == list(range(1, 100))

    run(loop_name, main)


def test_a_listener_on_a_loop(puppet):
    async def main():
        port = puppet.far_end("a")
        heard, done = [], asyncio.Event()
        port.onmessage = lambda event: heard.append((event.data, threading.current_thread()))
        port.onclose = lambda event: done.set()
        await asyncio.to_thread(puppet.post_range, "a", 0, 3000)
        await asyncio.to_thread(puppet.call, "a", "close")
        await asyncio.wait_for(done.wait(), GUARD)
        assert heard == [(i, threading.current_thread()) for i in range(3000)]

    asyncio.run(main())


def test_what_cant_be_rebuilt_raises_where_it_is_received(puppet):
    def bounce(message):
        port.post_message(message)
        return puppet.give_back("a")

    port = puppet.far_end("a")
    port.post_message("before")
    port.post_message(Unbuildable())
    port.post_message("after")
    port.close()
    back = puppet.give_back("a")
    assert back.receive(GUARD) == "before"
    with pytest.raises(LookupError, match="as the test wants it"):
        back.receive(GUARD)
    assert back.receive(GUARD) == "after"


# ---- wait ----


def test_wait_over_ports_that_lead_here_and_there(puppet):
    near = MessageChannel()
    far = [puppet.far_end(name) for name in "abc"]
    ports = [near.port2, *far]
    assert wait(ports, 0) == []
    assert wait(ports, 0.01) == []
    puppet.call("b", "post_message", "x")
    assert wait(ports, GUARD) == [far[1]]
    assert far[1].receive() == "x"
    timer = threading.Timer(0.02, near.port1.post_message, ["near"])
    timer.start()
    assert wait(ports, GUARD) == [near.port2]
    assert near.port2.receive() == "near"
    timer.join()
    puppet.call("c", "close")
    assert wait(ports, GUARD) == [far[2]]
    for port in far:
        port.close()


# ---- statistics ----


def test_statistics_agree_on_both_sides(puppet):
    here, there = MessageChannel(capacity=100)
    here.send_many(range(10))
    assert there.receive_many(4) == [0, 1, 2, 3]
    there.post_message("back")
    puppet.hold("a", transfer=[there])
    assert puppet.figures("a") == (1, 4, 6, 10, 100)
    here.send_many(range(5))
    figures = here.statistics()
    assert (figures.posted, figures.received, figures.waiting, figures.capacity) == (15, 0, 1, 100)
    assert puppet.figures("a")[:3] == (1, 4, 11)
    puppet.receive_count("a", 11)
    assert here.receive(GUARD) == "back"
    assert puppet.figures("a") == (1, 15, 0, 11, 100)
    back = puppet.give_back("a")
    back.post_message("more")
    figures = back.statistics()
    assert (figures.posted, figures.received, figures.waiting, figures.peak, figures.capacity) == (2, 15, 0, 11, 100)
    assert here.receive(GUARD) == "more"
    here.close()
    assert eventually(lambda: back.closed)
    assert (back.statistics().posted, back.statistics().received) == (2, 15)


# ---- transfer ----


def test_ports_come_with_the_event_and_inside_of_the_message(puppet):
    port = puppet.far_end("a")
    channels = [MessageChannel() for _ in range(5)]
    port.post_message({"ports": [c.port2 for c in channels]}, [c.port2 for c in channels])
    for c in channels:
        assert c.port2.closed
        assert not c.port1.closed
    back = puppet.give_back("a")
    event = back.receive_event(GUARD)
    assert event.data["ports"] == list(event.ports)
    for i, (c, arrived) in enumerate(zip(channels, event.ports, strict=True)):
        c.port1.post_message(i)
        assert arrived.receive(GUARD) == i
        arrived.post_message(-i)
        assert c.port1.receive(GUARD) == -i


def test_a_port_goes_to_a_second_process_and_back_with_messages_in_flight(puppet, doomed_puppet):
    here = puppet.far_end("a")
    road1 = puppet.far_end("road")
    expected = []
    for i in range(5):
        here.send_many(range(100 * i, 100 * i + 50))
        traveller = puppet.give_back("a")
        here.send_many(range(100 * i + 50, 100 * i + 100))
        expected += range(100 * i, 100 * i + 100)
        doomed_puppet.hold("a", transfer=[traveller])
        doomed_puppet.post_range("a", 10 * i, 10 * i + 5)
        traveller = doomed_puppet.give_back("a")
        puppet.hold("a", transfer=[traveller])
        puppet.post_range("a", 10 * i + 5, 10 * i + 10)
    # The process in the middle is not needed any more.
    doomed_puppet.end()
    assert puppet.receive_count("a", 500) == expected
    assert [here.receive(GUARD) for _ in range(50)] == list(range(50))
    road1.close()
    here.close()


def test_the_peer_closes_while_the_port_is_in_flight(puppet):
    port = puppet.far_end("a")
    here, there = MessageChannel()
    port.post_message(None, [there])
    here.post_message("before the close")
    here.close()
    puppet.take_port("a", "b")
    assert puppet.drain("b") == ["before the close"]
    port.close()


def test_a_message_that_nobody_receives_closes_the_port_in_it(puppet):
    port = puppet.far_end("a")
    here, there = MessageChannel()
    port.post_message(None, [there])
    puppet.drop("a")
    assert eventually(lambda: here.closed)
    port.close()


def test_a_transfer_is_refused_before_anything_happened(puppet):
    with puppet.far_end("a", 1) as port:
        here, there = MessageChannel()
        with pytest.raises(DataCloneError):
            port.post_message(threading.Lock(), [there])
        with pytest.raises(DataCloneError, match="itself"):
            port.post_message(None, [port])
        port.post_message("fills it")
        with pytest.raises(queue.Full):
            port.post_message(None, [there])
        with pytest.raises(TimeoutError):
            port.send(None, [there], timeout=0)
        here.post_message("still")
        assert there.receive(0) == "still"
        assert not here.closed


# ---- re-entrancy ----


def test_a_post_from_a_reducer_or_a_destructor(puppet):
    class Posts:
        def __init__(self, port):
            self.port = port

        def __reduce__(self):
            self.port.post_message("from the reducer")
            return (str, ("the message",))

        def __del__(self):
            self.port.post_message("from the destructor")

    with puppet.far_end("a") as port:
        for _ in range(20):
            port.post_message([Posts(port), b"x" * 50_000])
        for _ in range(20):
            got = [puppet.call("a", "receive", GUARD) for _ in range(3)]
            assert got == ["from the reducer", ["the message", b"x" * 50_000], "from the destructor"]
        # With a backlog.
        for _ in range(20):
            port.post_message([Posts(port), b"x" * 500_000])
        got = [puppet.call("a", "receive", GUARD) for _ in range(60)]
        assert [message for message in got if isinstance(message, list)] == [["the message", b"x" * 500_000]] * 20
        assert got.count("from the destructor") == got.count("from the reducer") == 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs setitimer")
def test_posts_from_signal_handlers(puppet):
    import signal

    with puppet.far_end("a") as port:
        handled = []

        def handler(number, frame):
            handled.append(None)
            port.post_message("signal")

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for i in range(20_000):
                port.post_message(i)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        got = puppet.receive_count("a", 20_000 + len(handled))
        assert [message for message in got if message != "signal"] == list(range(20_000))
        assert got.count("signal") == len(handled) > 0
