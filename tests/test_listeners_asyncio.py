"""Listeners of ports that were started where an asyncio loop runs: on that loop, on asyncio's own and on uvloop."""

import asyncio
import gc
import itertools
import signal
import threading
import time
import weakref

import pytest

from ends import MessageChannel, local
from loops import ASYNCIO_LOOPS, GUARD, AsyncioTasks, Collector, Unraisable, in_thread, new_loop, run
from messagechannel import MessageEvent

pytestmark = pytest.mark.parametrize("loop_name", ASYNCIO_LOOPS)


def run_once(loop, main):
    return loop.run_until_complete(asyncio.wait_for(main(), GUARD))


async def settle():
    """Wait until the running loop has dispatched what was posted before."""
    settled = asyncio.Event()
    with MessageChannel() as (a, b):
        b.onmessage = lambda event: settled.set()
        a.post_message(None)
        await asyncio.wait_for(settled.wait(), GUARD)


def test_a_listener_runs_on_the_loop_that_ran_where_the_port_was_started(loop_name, channel):
    loops = []
    collector = Collector()

    def listener(event):
        loops.append(asyncio.get_running_loop())
        collector(event)

    async def main(tasks):
        channel.port2.onmessage = listener
        await tasks.in_thread(channel.port1.post_message, "from a thread")
        channel.port1.post_message("from the loop")
        await collector.turn_until(2, tasks)
        assert loops == [asyncio.get_running_loop()] * 2
        assert set(collector.threads) == {threading.current_thread()}
        assert collector.data == ["from a thread", "from the loop"]

    run(loop_name, main)


def test_the_event_of_a_message(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onmessage = collector
        channel.port1.post_message(["x"])
        await collector.turn_until(1, tasks)

    run(loop_name, main)
    event = collector.events[0]
    assert type(event) is MessageEvent
    assert (event.type, event.data, event.ports, event.is_trusted) == ("message", ["x"], (), True)
    assert event.target is channel.port2


def test_a_listener_never_runs_inside_post_message(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onmessage = collector
        channel.port1.post_message("x")
        assert collector.data == []
        assert await collector.turn_until(1, tasks) == ["x"]

    run(loop_name, main)


def test_messages_that_waited_before_the_start_come_first(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        for i in range(5):
            channel.port1.post_message(i)
        channel.port2.onmessage = collector
        for i in range(5, 10):
            channel.port1.post_message(i)
        await collector.turn_until(10, tasks)

    run(loop_name, main)
    assert collector.data == list(range(10))


def test_add_event_listener_does_not_start_the_port(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.add_event_listener("message", collector)
        channel.port1.post_message("x")
        await settle()
        assert collector.data == []
        channel.port2.start()
        await collector.turn_until(1, tasks)

    run(loop_name, main)


def test_messages_posted_from_within_a_listener_come_after_those_that_waited(loop_name, channel):
    collector = Collector()

    def listener(event):
        if event.data < 10:
            channel.port1.post_message(event.data + 10)
        collector(event)

    async def main(tasks):
        channel.port2.onmessage = listener
        for i in range(10):
            channel.port1.post_message(i)
        await collector.turn_until(20, tasks)

    run(loop_name, main)
    assert collector.data == list(range(20))


# ---- waking the loop ----


def count_wakeups(loop):
    """Count other threads' calls of the loop's call_soon_threadsafe; a long turn asks for the next one by it too."""
    calls = []
    original = loop.call_soon_threadsafe
    here = threading.current_thread()

    def counting(*args, **keywords):
        if threading.current_thread() is not here:
            calls.append(args)
        return original(*args, **keywords)

    loop.call_soon_threadsafe = counting
    return calls


@local("far messages are announced when their bell is heard, which may be while the burst still goes on")
def test_a_burst_wakes_the_loop_once(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        calls = count_wakeups(asyncio.get_running_loop())
        channel.port2.onmessage = collector
        # The loop does not turn meanwhile.
        in_thread(lambda: [channel.port1.post_message(i) for i in range(500)])
        assert len(calls) == 1
        await collector.turn_until(500, tasks)
        assert len(calls) == 1
        in_thread(lambda: [channel.port1.post_message(i) for i in range(500)])
        await collector.turn_until(1000, tasks)
        assert len(calls) == 2

    run(loop_name, main)


@local("far messages are announced when their bell is heard, which may be while the burst still goes on")
def test_a_burst_over_many_ports_wakes_the_loop_once(loop_name):
    collector = Collector()
    channels = [MessageChannel() for _ in range(50)]

    async def main(tasks):
        calls = count_wakeups(asyncio.get_running_loop())
        for channel in channels:
            channel.port2.onmessage = collector
        in_thread(lambda: [channel.port1.post_message(i) for i in range(10) for channel in channels])
        assert len(calls) == 1
        await collector.turn_until(500, tasks)

    run(loop_name, main)


def test_a_post_from_a_thread_wakes_a_sleeping_loop(loop_name, channel):
    async def main(tasks):
        arrived = asyncio.Event()
        channel.port2.onmessage = lambda event: arrived.set()
        threading.Timer(0.05, channel.port1.post_message, ["x"]).start()
        # Nothing else would wake the loop before the guard does.
        await tasks.guard(arrived.wait())

    run(loop_name, main)


def test_a_post_wakes_a_loop_that_meanwhile_runs_in_another_thread(loop_name, channel):
    # Set up by run_until_complete here, then run_forever in a thread of its own: the poster is in the thread where the
    # loop ran when the port was started.
    loop = new_loop(loop_name)
    collector = Collector()

    async def set_up():
        channel.port2.onmessage = collector

    run_once(loop, set_up)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        # Long enough for the loop to fall asleep.
        time.sleep(0.05)
        channel.port1.post_message("x")
        assert collector.wait_for(1, 10) == ["x"]
        assert collector.threads == [thread]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_post_from_a_signal_handler_wakes_a_sleeping_loop(loop_name, channel):
    previous = signal.signal(signal.SIGUSR1, lambda *_: channel.port1.post_message("signalled"))
    late = threading.Event()
    came_late = []

    async def main(tasks):
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()

        def watchdog():
            late.set()
            loop.call_soon_threadsafe(arrived.set)

        def listener(event):
            came_late.append(late.is_set())
            arrived.set()

        channel.port2.onmessage = listener
        await tasks.turns()
        guard = threading.Timer(10, watchdog)
        guard.start()
        threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), signal.SIGUSR1]).start()
        await arrived.wait()
        guard.cancel()
        await settle()

    try:
        run(loop_name, main)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert came_late == [False]


# ---- fairness ----


def test_a_listener_that_posts_to_itself_without_end_starves_no_task(loop_name, channel):
    async def main(tasks):
        channel.port2.onmessage = lambda event: channel.port1.post_message(event.data)
        channel.port1.post_message("x")
        await tasks.turns(20)
        channel.port2.onmessage = None

    run(loop_name, main)


def test_a_flood_of_waiting_messages_leaves_turns_to_other_tasks(loop_name, channel):
    total = 50_000
    seen = []

    async def main(tasks):
        collector = []
        for i in range(total):
            channel.port1.post_message(i)
        channel.port2.onmessage = lambda event: collector.append(event.data)
        while len(collector) < total:
            seen.append(len(collector))
            await asyncio.sleep(0)
        assert collector == list(range(total))

    run(loop_name, main)
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(steps) <= 1000


def test_slow_listeners_leave_turns_to_other_tasks(loop_name, channel):
    done = []

    async def main(tasks):
        channel.port2.onmessage = lambda event: (time.sleep(0.005), done.append(event.data))
        for i in range(40):
            channel.port1.post_message(i)
        at_turn = []
        for _ in range(4):
            await asyncio.sleep(0)
            at_turn.append(len(done))
        # A turn ends after a few milliseconds, however few messages it dispatched.
        assert at_turn[-1] < 20
        channel.port2.onmessage = None

    run(loop_name, main)


# ---- listeners that misbehave ----


def test_an_exception_goes_to_the_loops_exception_handler_and_stops_neither_listeners_nor_queue(loop_name, channel):
    collector = Collector()
    contexts = []

    def broken(event):
        raise ValueError(event.data)

    async def main(tasks):
        channel.port2.add_event_listener("message", broken)
        channel.port2.add_event_listener("message", collector)
        channel.port2.start()
        for i in range(3):
            channel.port1.post_message(i)
        await collector.turn_until(3, tasks)

    run(loop_name, main, errors=contexts)
    assert collector.data == [0, 1, 2]
    assert [context["exception"].args for context in contexts] == [(0,), (1,), (2,)]


def test_an_exception_in_a_close_listener_goes_to_the_loops_exception_handler(loop_name, channel):
    contexts = []
    collector = Collector()

    def listener(event):
        collector(event)
        raise ZeroDivisionError

    async def main(tasks):
        channel.port2.onclose = listener
        channel.port1.close()
        await collector.turn_until(1, tasks)

    run(loop_name, main, errors=contexts)
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]


def test_after_a_keyboard_interrupt_in_a_listener_the_loop_can_run_on(loop_name, channel):
    loop = new_loop(loop_name)
    collector = Collector()

    def listener(event):
        if event.data == 1:
            raise KeyboardInterrupt
        collector(event)

    async def main():
        channel.port2.onmessage = listener
        for i in range(4):
            channel.port1.post_message(i)
        await asyncio.sleep(GUARD)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    run_once(loop, settle)
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    assert collector.data == [0, 2, 3]


def test_a_listener_that_closes_its_port_still_gets_what_had_arrived(loop_name, channel):
    collector = Collector()

    def listener(event):
        channel.port2.close()
        channel.port1.post_message("too late")
        collector(event)

    async def main(tasks):
        for i in range(5):
            channel.port1.post_message(i)
        channel.port2.onmessage = listener
        await collector.turn_until(5, tasks)
        await settle()

    run(loop_name, main)
    assert collector.data == list(range(5))


def test_a_transfer_in_the_middle_of_dispatch_moves_the_undelivered_rest_in_order(loop_name, channel):
    carrier = MessageChannel()
    first, second = Collector(), Collector()

    def listener(event):
        first(event)
        if event.data == 2:
            carrier.port1.post_message("here", [channel.port2])

    def take_over(event):
        event.ports[0].onmessage = second

    async def main(tasks):
        carrier.port2.onmessage = take_over
        channel.port2.onmessage = listener
        for i in range(5):
            channel.port1.post_message(i)
        await second.turn_until(2, tasks)
        channel.port1.post_message(5)
        await second.turn_until(3, tasks)

    run(loop_name, main)
    assert (first.data, second.data) == ([0, 1, 2], [3, 4, 5])


def test_a_transfer_to_another_loop_takes_waiting_messages_along(loop_name, channel):
    carrier = MessageChannel()
    first, second = Collector(), Collector()
    other = threading.Thread(target=lambda: run(loop_name, receiver))

    async def receiver(tasks):
        event = await tasks.in_thread(carrier.port2.receive_event, GUARD)
        event.ports[0].onmessage = second
        await second.turn_until(3, tasks)

    async def main(tasks):
        channel.port2.onmessage = first
        for i in range(2):
            channel.port1.post_message(i)
        carrier.port1.post_message(None, [channel.port2])
        channel.port1.post_message(2)
        await tasks.in_thread(other.join)

    other.start()
    run(loop_name, main)
    assert (first.data, second.data) == ([], [0, 1, 2])


def test_removing_the_last_listener_makes_messages_wait(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onmessage = collector
        channel.port1.post_message(1)
        await collector.turn_until(1, tasks)
        channel.port1.post_message(2)
        channel.port2.onmessage = None
        channel.port1.post_message(3)
        await settle()
        assert collector.data == [1]
        assert channel.port2.receive_many(timeout=0) == [2, 3]

    run(loop_name, main)


def test_messages_that_waited_come_when_a_listener_is_added_again(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onmessage = print
        channel.port2.onmessage = None
        for i in range(3):
            channel.port1.post_message(i)
        await settle()
        channel.port2.add_event_listener("message", collector)
        channel.port1.post_message(3)
        await collector.turn_until(4, tasks)

    run(loop_name, main)
    assert collector.data == [0, 1, 2, 3]


# ---- sharing ----


def test_every_message_goes_to_exactly_one_of_listener_and_areceive(loop_name, channel):
    total = 20_000
    received, listened = [], []

    async def receiver():
        async for message in channel.port2:
            received.append(message)
            if message % 7 == 0:
                await asyncio.sleep(0)

    async def main(tasks):
        receiving = tasks.spawn(receiver)
        channel.port2.onmessage = lambda event: listened.append(event.data)
        poster = threading.Thread(target=lambda: [channel.port1.post_message(i) for i in range(total)])
        poster.start()
        while len(received) + len(listened) < total:
            await asyncio.sleep(0.001)
        await tasks.in_thread(poster.join)
        await settle()
        receiving.cancel()
        await receiving.result()

    run(loop_name, main)
    assert sorted(received + listened) == list(range(total))


def test_a_waiting_areceive_and_a_listener_share_a_port(loop_name, channel):
    listened = []

    async def main(tasks):
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        channel.port2.onmessage = lambda event: listened.append(event.data)
        for i in range(10):
            channel.port1.post_message(i)
        # Far messages come one by one, and others in between; the task may have one of them.
        while len(listened) + waiting.task.done() < 10:
            await asyncio.sleep(0.001)
        await settle()
        waiting.cancel()
        result = await waiting.result()
        taken = [] if not isinstance(result, int) else [result]
        assert sorted(listened + taken) == list(range(10))

    run(loop_name, main)


def test_many_posting_threads_to_one_loop_with_exact_account(loop_name, channel):
    producers, each = 8, 2500
    collector = []

    def post(name):
        for i in range(each):
            channel.port1.post_message((name, i))

    async def main(tasks):
        channel.port2.onmessage = lambda event: collector.append(event.data)
        threads = [threading.Thread(target=post, args=(name,)) for name in range(producers)]
        for thread in threads:
            thread.start()
        while len(collector) < producers * each:
            await asyncio.sleep(0.001)
        for thread in threads:
            await tasks.in_thread(thread.join)
        await settle()

    run(loop_name, main)
    assert len(collector) == producers * each
    for name in range(producers):
        assert [i for n, i in collector if n == name] == list(range(each))
    figures = channel.port2.statistics()
    assert (figures.received, figures.waiting) == (producers * each, 0)


# ---- the loop's end, and moving to another ----


def test_a_loop_that_is_closed_leaves_the_messages_waiting_and_receive_gets_them(loop_name, channel):
    loop = new_loop(loop_name)
    collector = Collector()

    async def main():
        channel.port2.onmessage = collector
        channel.port1.post_message("before the close")

    run_once(loop, main)
    loop.close()
    delivered = list(collector.data)
    channel.port1.post_message("here")
    in_thread(channel.port1.post_message, "from a thread")
    assert channel.port2.receive_many(timeout=0) == ["before the close", "here", "from a thread"][len(delivered) :]


def test_start_on_another_loop_moves_listeners_off_a_closed_loop(loop_name, channel):
    collector = Collector()
    loop = new_loop(loop_name)

    async def first():
        channel.port2.onmessage = collector

    run_once(loop, first)
    loop.close()
    for i in range(3):
        channel.port1.post_message(i)

    async def second(tasks):
        channel.port2.start()
        channel.port1.post_message(3)
        await collector.turn_until(4, tasks)

    run(loop_name, second)
    assert collector.data == [0, 1, 2, 3]


def test_start_where_no_loop_runs_moves_listeners_off_a_closed_loop(loop_name, channel):
    collector = Collector()
    loop = new_loop(loop_name)

    async def first():
        channel.port2.onmessage = collector

    run_once(loop, first)
    loop.close()
    for i in range(3):
        channel.port1.post_message(i)
    channel.port2.start()
    assert collector.wait_for(3) == [0, 1, 2]


def test_start_where_another_loop_runs_moves_the_listeners_there(loop_name, channel):
    collector = Collector()
    done, moved = threading.Event(), threading.Event()

    async def first(tasks):
        channel.port2.onmessage = collector
        channel.port1.post_message("first loop")
        await collector.turn_until(1, tasks)
        moved.set()
        while not done.is_set():
            await tasks.sleep(0.001)

    async def second(tasks):
        channel.port2.start()
        channel.port1.post_message("second loop")
        await collector.turn_until(2, tasks)

    thread = threading.Thread(target=lambda: run(loop_name, first))
    thread.start()
    assert moved.wait(GUARD)
    run(loop_name, second)
    done.set()
    thread.join()
    assert collector.data == ["first loop", "second loop"]
    assert collector.threads == [thread, threading.current_thread()]


def test_start_on_a_loop_moves_listeners_off_the_dispatcher_thread(loop_name, channel):
    collector = Collector()
    channel.port2.onmessage = collector
    channel.port1.post_message(1)
    collector.wait_for(1)

    async def main(tasks):
        channel.port2.start()
        channel.port1.post_message(2)
        await collector.turn_until(2, tasks)

    run(loop_name, main)
    assert collector.threads[0] is not threading.current_thread()
    assert collector.threads[1] is threading.current_thread()


def test_moving_takes_along_what_was_posted_but_not_dispatched(loop_name, channel):
    collector = Collector()
    loop = new_loop(loop_name)

    async def first():
        channel.port2.onmessage = collector
        for i in range(20_000):
            channel.port1.post_message(i)

    run_once(loop, first)
    before = len(collector.data)

    async def second(tasks):
        channel.port2.start()
        await collector.turn_until(20_000, tasks)

    run(loop_name, second)
    assert before < 20_000
    assert collector.data == list(range(20_000))
    run_once(loop, settle)
    loop.close()
    assert len(collector.data) == 20_000


def test_a_loop_that_only_paused_goes_on_where_it_was(loop_name, channel):
    collector = Collector()
    loop = new_loop(loop_name)

    async def start():
        channel.port2.onmessage = collector

    run_once(loop, start)
    channel.port1.post_message(1)
    in_thread(channel.port1.post_message, 2)
    assert collector.data == []

    async def go_on():
        await collector.turn_until(2, AsyncioTasks())

    run_once(loop, go_on)
    loop.close()
    assert collector.data == [1, 2]


def test_a_closed_loop_is_not_kept_alive(loop_name):
    async def main(tasks):
        channel = MessageChannel()
        channel.port2.onmessage = print
        channel.port1.onclose = print
        return weakref.ref(asyncio.get_running_loop())

    reference = run(loop_name, main)
    gc.collect()
    assert reference() is None


def test_posting_while_the_loop_closes_loses_nothing(loop_name):
    for _ in range(20):
        with MessageChannel() as (port1, port2):
            collector = []
            loop = new_loop(loop_name)
            thread = threading.Thread(target=lambda port=port1: [port.post_message(i) for i in range(2000)])

            async def main(port2=port2, thread=thread, collector=collector):
                port2.onmessage = lambda event: collector.append(event.data)
                thread.start()
                await asyncio.sleep(0.0005)

            run_once(loop, main)
            loop.close()
            thread.join()
            rest = port2.receive_many(timeout=0) if len(port2) else []
            assert collector + rest == list(range(2000))


# ---- the close event ----


def test_the_close_event_comes_after_every_message_posted_before(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onclose = collector
        channel.port2.onmessage = collector
        await tasks.in_thread(lambda: [channel.port1.post_message(i) for i in range(3000)])
        channel.port1.close()
        await collector.turn_until(3001, tasks)

    run(loop_name, main)
    assert collector.data == [*range(3000), "close"]


def test_the_close_event_comes_from_a_task_of_the_loop(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onclose = collector
        channel.port1.close()
        assert collector.data == []
        await collector.turn_until(1, tasks)

    run(loop_name, main)
    assert collector.threads == [threading.current_thread()]


def test_the_close_event_when_a_thread_closes_the_other_port(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onclose = collector
        await tasks.in_thread(channel.port1.close)
        await collector.turn_until(1, tasks)

    run(loop_name, main)
    assert collector.threads == [threading.current_thread()]


def test_the_close_event_of_a_port_transferred_after_its_peer_closed(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        carrier = MessageChannel()
        channel.port1.post_message("x")
        channel.port1.close()
        carrier.port1.post_message(None, [channel.port2])
        moved = carrier.port2.receive_event(0).ports[0]
        moved.onclose = collector
        moved.onmessage = collector
        await collector.turn_until(2, tasks)
        await settle()
        assert collector.events[1].target is moved

    run(loop_name, main)
    assert collector.data == ["x", "close"]


def test_the_close_event_comes_after_async_for_has_drained_the_queue(loop_name, channel):
    collector = Collector()

    async def main(tasks):
        channel.port2.onclose = collector
        for i in range(5):
            channel.port1.post_message(i)
        channel.port1.close()
        await settle()
        assert collector.data == []
        assert [message async for message in channel.port2] == list(range(5))
        await collector.turn_until(1, tasks)

    run(loop_name, main)


def test_errors_do_not_reach_the_unraisable_hook(loop_name, channel, monkeypatch):
    unraisable = Unraisable(monkeypatch)
    contexts = []
    collector = Collector()

    def listener(event):
        collector(event)
        raise ZeroDivisionError

    async def main(tasks):
        channel.port2.onmessage = listener
        channel.port1.post_message("x")
        await collector.turn_until(1, tasks)

    run(loop_name, main, errors=contexts)
    assert len(contexts) == 1
    assert unraisable.errors == []
