"""Awaiting on a port: areceive, areceive_many, async for and asend, on asyncio, uvloop and trio."""

import asyncio
import signal
import threading

import pytest

from ends import MessageChannel
from loops import ALL_LOOPS, ASYNCIO_LOOPS, GUARD, Cancelled, in_thread, new_loop, run, trio
from messagechannel import ChannelClosedError

on_all_loops = pytest.mark.parametrize("loop_name", ALL_LOOPS)
on_asyncio = pytest.mark.parametrize("loop_name", ASYNCIO_LOOPS)


def drain(port):
    return port.receive_many(timeout=0) if len(port) else []


# ---- areceive ----


@on_all_loops
def test_areceive_returns_a_message_that_waits(loop_name, channel):
    channel.port1.post_message("x")

    async def main(tasks):
        return await tasks.guard(channel.port2.areceive())

    assert run(loop_name, main) == "x"


@on_all_loops
def test_areceive_waits_for_a_message_from_a_task(loop_name, channel):
    async def main(tasks):
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        channel.port1.post_message("x")
        return await waiting.result()

    assert run(loop_name, main) == "x"


@on_all_loops
def test_areceive_waits_for_a_message_from_a_thread(loop_name, channel):
    async def main(tasks):
        threading.Timer(0.05, channel.port1.post_message, ["x"]).start()
        return await tasks.guard(channel.port2.areceive())

    assert run(loop_name, main) == "x"


@on_all_loops
@pytest.mark.parametrize("message", [None, (), (1, 2), ("a",), [1], {"a": 1}, ValueError("boom"), True])
def test_areceive_returns_any_message_as_it_is(loop_name, channel, message):
    async def main(tasks):
        channel.port1.post_message(message)
        ready = await channel.port2.areceive()
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        channel.port1.post_message(message)
        return ready, await waiting.result()

    for received in run(loop_name, main):
        assert type(received) is type(message)
        assert repr(received) == repr(message)


@on_all_loops
@pytest.mark.parametrize("exception", [StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError])
def test_areceive_returns_an_exception_that_is_the_message(loop_name, exception):
    async def main(tasks):
        with MessageChannel(copy=False) as (port1, port2):
            message = exception("x")
            port1.post_message(message)
            assert await port2.areceive() is message

    run(loop_name, main)


@on_all_loops
def test_a_post_from_a_signal_handler_wakes_a_waiting_areceive(loop_name, channel):
    late = threading.Event()

    def watchdog():
        late.set()
        channel.port1.post_message("too late")

    async def main(tasks):
        guard = threading.Timer(10, watchdog)
        guard.start()
        threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), signal.SIGUSR1]).start()
        assert await channel.port2.areceive() == "signalled"
        guard.cancel()
        assert not late.is_set()

    previous = signal.signal(signal.SIGUSR1, lambda *_: channel.port1.post_message("signalled"))
    try:
        run(loop_name, main)
    finally:
        signal.signal(signal.SIGUSR1, previous)


@on_all_loops
def test_areceive_keeps_the_order(loop_name, channel):
    async def main(tasks):
        for i in range(2500):
            channel.port1.post_message(i)
        return [await channel.port2.areceive() for _ in range(2500)]

    assert run(loop_name, main) == list(range(2500))


@on_all_loops
def test_areceive_of_a_waiting_message_does_not_touch_the_loop(loop_name, channel):
    async def main(tasks):
        others = []

        async def other():
            others.append("ran")

        channel.port1.post_message("x")
        task = tasks.spawn(other)
        await channel.port2.areceive()
        assert others == []
        await task.result()

    run(loop_name, main)


def test_areceive_takes_nothing_before_it_is_awaited(channel):
    channel.port1.post_message("x")
    awaitable = channel.port2.areceive()
    assert len(channel.port2) == 1
    awaitable.close()
    del awaitable
    assert channel.port2.receive_nowait() == "x"


@on_all_loops
def test_areceive_cannot_be_awaited_twice(loop_name, channel):
    async def main(tasks):
        channel.port1.post_message("x")
        channel.port1.post_message("y")
        awaitable = channel.port2.areceive()
        assert await awaitable == "x"
        with pytest.raises(RuntimeError):
            await awaitable

    run(loop_name, main)
    assert drain(channel.port2) == ["y"]


@on_all_loops
def test_areceive_drains_a_closed_channel_then_raises(loop_name, channel):
    async def main(tasks):
        channel.port1.post_message("x")
        channel.port1.close()
        assert await channel.port2.areceive() == "x"
        with pytest.raises(ChannelClosedError):
            await channel.port2.areceive()

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("side", ["port1", "port2"])
def test_close_ends_a_waiting_areceive(loop_name, channel, side):
    async def main(tasks):
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        getattr(channel, side).close()
        with pytest.raises(ChannelClosedError):
            await waiting.result()

    run(loop_name, main)


@on_all_loops
def test_close_by_a_thread_ends_every_waiting_areceive(loop_name, channel):
    async def main(tasks):
        waiting = [tasks.spawn(channel.port2.areceive) for _ in range(5)]
        await tasks.turns()
        await tasks.in_thread(channel.port1.close)
        for task in waiting:
            with pytest.raises(ChannelClosedError):
                await task.result()

    run(loop_name, main)


@on_all_loops
def test_a_transfer_ends_a_waiting_areceive(loop_name, channel):
    async def main(tasks):
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        carrier = MessageChannel()
        carrier.port1.post_message(None, [channel.port2])
        with pytest.raises(ChannelClosedError, match="transferred"):
            await waiting.result()
        moved = carrier.port2.receive_event(0).ports[0]
        channel.port1.post_message("x")
        assert await tasks.guard(moved.areceive()) == "x"

    run(loop_name, main)


@on_all_loops
def test_waiting_areceives_are_served_one_message_each_in_order(loop_name, channel):
    async def main(tasks):
        waiting = []
        for _ in range(5):
            waiting.append(tasks.spawn(channel.port2.areceive))
            await tasks.turns()
        for i in range(5):
            channel.port1.post_message(i)
        return [await task.result() for task in waiting]

    assert sorted(run(loop_name, main)) == list(range(5))


@on_all_loops
def test_a_burst_from_a_thread_serves_every_waiting_areceive(loop_name, channel):
    async def main(tasks):
        waiting = [tasks.spawn(channel.port2.areceive) for _ in range(20)]
        await tasks.turns()
        in_thread(lambda: [channel.port1.post_message(i) for i in range(20)])
        return [await task.result() for task in waiting]

    assert sorted(run(loop_name, main)) == list(range(20))


@on_asyncio
def test_a_burst_wakes_a_waiting_areceive_once(loop_name, channel):
    async def main(tasks):
        loop = asyncio.get_running_loop()
        calls, original = [], loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args, **keywords: (calls.append(args), original(*args, **keywords))[1]
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        in_thread(lambda: [channel.port1.post_message(i) for i in range(500)])
        assert await waiting.result() == 0
        assert [await channel.port2.areceive() for _ in range(499)] == list(range(1, 500))
        assert len(calls) == 1

    run(loop_name, main)


@on_all_loops
def test_many_threads_to_one_task_with_exact_account(loop_name, channel):
    producers, each = 6, 3000

    def post(name):
        for i in range(each):
            channel.port1.post_message((name, i))

    async def main(tasks):
        threads = [threading.Thread(target=post, args=(name,)) for name in range(producers)]
        for thread in threads:
            thread.start()
        received = [await tasks.guard(channel.port2.areceive()) for _ in range(100)]
        received += [await channel.port2.areceive() for _ in range(producers * each - 100)]
        for thread in threads:
            await tasks.in_thread(thread.join)
        return received

    received = run(loop_name, main)
    assert len(channel.port2) == 0
    for name in range(producers):
        assert [i for n, i in received if n == name] == list(range(each))


@on_asyncio
def test_areceive_works_with_gather(loop_name, channel):
    async def main(tasks):
        threading.Timer(0.02, channel.port1.send_many, [range(3)]).start()
        return await tasks.guard(asyncio.gather(*(channel.port2.areceive() for _ in range(3))))

    assert sorted(run(loop_name, main)) == [0, 1, 2]


@on_asyncio
def test_areceive_works_with_create_task(loop_name, channel):
    async def main(tasks):
        task = asyncio.create_task(channel.port2.areceive())
        assert "Task" in repr(task)
        await tasks.turns()
        channel.port1.post_message("x")
        return await tasks.guard(task)

    assert run(loop_name, main) == "x"


@on_asyncio
def test_areceive_works_in_debug_mode(loop_name, channel):
    async def main(tasks):
        asyncio.get_running_loop().set_debug(True)
        threading.Timer(0.02, channel.port1.post_message, ["y"]).start()
        return await asyncio.wait_for(asyncio.create_task(channel.port2.areceive()), GUARD)

    assert run(loop_name, main) == "y"


# ---- where no loop runs ----


def test_areceive_where_no_loop_runs_raises_when_it_has_to_wait(channel):
    with pytest.raises(RuntimeError, match="asyncio or trio"):
        channel.port2.areceive().send(None)
    channel.port1.post_message("x")
    assert channel.port2.receive_nowait() == "x"


def test_areceive_where_no_loop_runs_hands_over_what_waits(channel):
    channel.port1.post_message("x")
    with pytest.raises(StopIteration) as caught:
        channel.port2.areceive().send(None)
    assert caught.value.value == "x"


def test_areceive_many_where_no_loop_runs_raises_when_it_has_to_wait(channel):
    with pytest.raises(RuntimeError, match="asyncio or trio"):
        channel.port2.areceive_many().send(None)


def test_asend_where_no_loop_runs_raises_when_it_has_to_wait():
    with MessageChannel(capacity=1) as (port1, port2):
        port1.post_message("full")
        with pytest.raises(RuntimeError, match="asyncio or trio"):
            port1.asend("x").send(None)
        assert drain(port2) == ["full"]


# ---- cancellation ----


@on_all_loops
def test_areceive_cancelled_before_its_first_step_takes_nothing(loop_name, channel):
    async def main(tasks):
        channel.port1.post_message("x")
        task = tasks.spawn(channel.port2.areceive)
        task.cancel()
        result = await task.result()
        # Trio lets a task run up to its first checkpoint, and there is none where a message waits.
        assert ([] if result is Cancelled else [result]) + drain(channel.port2) == ["x"]

    run(loop_name, main)


@on_all_loops
def test_areceive_cancelled_while_it_waits_takes_nothing(loop_name, channel):
    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        task.cancel()
        assert await task.result() is Cancelled
        channel.port1.post_message("x")
        assert drain(channel.port2) == ["x"]

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("poster", ["loop", "thread"])
def test_areceive_cancelled_after_it_was_woken_loses_nothing(loop_name, channel, poster):
    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        if poster == "thread":
            in_thread(channel.port1.post_message, "x")
        else:
            channel.port1.post_message("x")
        task.cancel()
        result = await task.result()
        assert ([] if result is Cancelled else [result]) + drain(channel.port2) == ["x"]

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("turns", range(6))
def test_areceive_cancelled_any_number_of_turns_after_the_post_loses_nothing(loop_name, channel, turns):
    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        in_thread(channel.port1.post_message, "x")
        await tasks.turns(turns)
        task.cancel()
        result = await task.result()
        assert ([] if result is Cancelled else [result]) + drain(channel.port2) == ["x"]

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("poster", ["loop", "thread"])
def test_when_a_woken_task_is_cancelled_another_gets_the_message(loop_name, channel, poster):
    async def main(tasks):
        first = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        second = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        if poster == "thread":
            in_thread(channel.port1.post_message, "x")
        else:
            channel.port1.post_message("x")
        first.cancel()
        result = await first.result()
        if result is Cancelled:
            assert await second.result() == "x"
        else:
            # The message had been handed over when the cancellation came.
            assert result == "x"
            second.cancel()
            assert await second.result() is Cancelled

    run(loop_name, main)


@on_asyncio
def test_when_a_woken_task_is_cancelled_a_waiting_thread_gets_the_message(loop_name, channel):
    received = []
    thread = threading.Thread(target=lambda: received.append(channel.port2.receive(GUARD)))

    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        thread.start()
        await tasks.sleep(0.05)
        channel.port1.post_message("x")
        task.cancel()
        result = await task.result()
        if result == "x":
            received.append(result)
            channel.port1.post_message("y")
        await tasks.in_thread(thread.join)

    run(loop_name, main)
    assert received[0] == "x"


@on_asyncio
def test_when_a_woken_task_is_cancelled_a_once_idle_listener_loses_nothing(loop_name, channel):
    listened = []

    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        channel.port1.post_message("x")
        task.cancel()
        result = await task.result()
        channel.port2.onmessage = lambda event: listened.append(event.data)
        await tasks.turns()
        assert ([] if result is Cancelled else [result]) + listened == ["x"]

    run(loop_name, main)


@on_all_loops
def test_a_time_limit_on_areceive_loses_nothing(loop_name, channel):
    total = 300

    def post():
        for i in range(total):
            channel.port1.post_message(i)
            if i % 3 == 0:
                threading.Event().wait(0.0007)

    async def main(tasks):
        received = []
        thread = threading.Thread(target=post)
        thread.start()
        seconds = 0.0
        while len(received) < total:
            got = await tasks.give_up_after(seconds, channel.port2.areceive())
            if got is not Cancelled:
                received.append(got)
            seconds = (seconds + 0.0001) % 0.0015
        await tasks.in_thread(thread.join)
        assert received == list(range(total))

    run(loop_name, main)


@pytest.mark.skipif(not hasattr(asyncio, "timeout"), reason="needs asyncio.timeout")
@on_asyncio
def test_asyncio_timeout_on_areceive_loses_nothing(loop_name, channel):
    total = 300

    def post():
        for i in range(total):
            channel.port1.post_message(i)
            threading.Event().wait(0.0003)

    async def main(tasks):
        received = []
        thread = threading.Thread(target=post)
        thread.start()
        seconds = 0.0
        while len(received) < total:
            seconds = (seconds + 0.0001) % 0.0015
            try:
                async with asyncio.timeout(seconds):
                    received.append(await channel.port2.areceive())
            except TimeoutError:
                pass
        await tasks.in_thread(thread.join)
        assert received == list(range(total))

    run(loop_name, main)


@on_all_loops
def test_a_time_limit_ends_a_wait(loop_name, channel):
    async def main(tasks):
        assert await tasks.give_up_after(0.02, channel.port2.areceive()) is Cancelled

    run(loop_name, main)


@on_all_loops
def test_cancelled_areceives_leave_nothing_behind(loop_name, channel):
    async def main(tasks):
        for _ in range(50):
            task = tasks.spawn(channel.port2.areceive)
            await tasks.turns(3)
            task.cancel()
            await task.result()
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        channel.port1.post_message("x")
        assert await waiting.result() == "x"

    run(loop_name, main)


@on_all_loops
def test_cancelling_at_random_moments_loses_nothing(loop_name, channel):
    total = 3000

    async def main(tasks):
        received = []

        async def receiver():
            while True:
                received.append(await channel.port2.areceive())

        thread = threading.Thread(target=lambda: [channel.port1.post_message(i) for i in range(total)])
        thread.start()
        round = 0
        while len(received) < total:
            round += 1
            pair = [tasks.spawn(receiver) for _ in range(2)]
            await tasks.turns(round % 4)
            for task in pair:
                task.cancel()
            for task in pair:
                await task.result()
            if round % 8 == 0:
                await tasks.sleep(0.0005)
            assert round < 100_000
        await tasks.in_thread(thread.join)
        assert sorted(received) == list(range(total))

    run(loop_name, main)


@on_asyncio
def test_a_task_whose_loop_was_closed_passes_its_turn_on(loop_name, channel):
    loop = new_loop(loop_name)

    async def wait_a_moment():
        task = asyncio.ensure_future(channel.port2.areceive())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # The loop's end, with the task still waiting, would be reported.
        task._log_destroy_pending = False
        return task

    task = loop.run_until_complete(wait_a_moment())
    loop.close()

    async def main(tasks):
        waiting = tasks.spawn(channel.port2.areceive)
        await tasks.turns()
        in_thread(channel.port1.post_message, "x")
        return await waiting.result()

    assert run(loop_name, main) == "x"
    del task


# ---- async for ----


@on_all_loops
def test_async_for_ends_when_the_other_side_has_closed_and_the_queue_is_drained(loop_name, channel):
    async def main(tasks):
        for i in range(5):
            channel.port1.post_message(i)
        channel.port1.close()
        return [message async for message in channel.port2]

    assert run(loop_name, main) == list(range(5))


@on_all_loops
def test_async_for_waits_for_messages_and_for_the_close(loop_name, channel):
    def post():
        for i in range(50):
            channel.port1.post_message(i)
            threading.Event().wait(0.0005)
        channel.port1.close()

    async def collect():
        return [message async for message in channel.port2]

    async def main(tasks):
        thread = threading.Thread(target=post)
        thread.start()
        result = await tasks.guard(collect())
        await tasks.in_thread(thread.join)
        return result

    assert run(loop_name, main) == list(range(50))


@on_all_loops
def test_async_for_can_be_left_and_taken_up_again(loop_name, channel):
    async def main(tasks):
        for i in range(6):
            channel.port1.post_message(i)
        channel.port1.close()
        first = []
        async for message in channel.port2:
            first.append(message)
            if message == 2:
                break
        return first, [message async for message in channel.port2]

    assert run(loop_name, main) == ([0, 1, 2], [3, 4, 5])


@on_all_loops
def test_two_tasks_iterate_over_one_port_and_share_the_messages(loop_name, channel):
    async def collect():
        return [message async for message in channel.port2]

    async def main(tasks):
        both = [tasks.spawn(collect) for _ in range(2)]
        await tasks.turns()
        for i in range(5000):
            channel.port1.post_message(i)
            if i % 100 == 0:
                await tasks.turns(1)
        channel.port1.close()
        return [await task.result() for task in both]

    first, second = run(loop_name, main)
    assert sorted(first + second) == list(range(5000))
    assert first == sorted(first)
    assert second == sorted(second)


@on_all_loops
def test_anext_with_a_default(loop_name, channel):
    async def main(tasks):
        channel.port1.post_message("x")
        channel.port1.close()
        iterator = aiter(channel.port2)
        return [await anext(iterator, "end"), await anext(iterator, "end"), await anext(iterator, "end")]

    assert run(loop_name, main) == ["x", "end", "end"]


@on_all_loops
def test_two_awaitables_of_one_iterator_are_independent(loop_name, channel):
    async def main(tasks):
        iterator = aiter(channel.port2)
        one, two = anext(iterator), anext(iterator)
        channel.port1.post_message("a")
        channel.port1.post_message("b")
        return await two, await one

    assert run(loop_name, main) == ("a", "b")


@on_all_loops
def test_async_for_cancelled_loses_nothing(loop_name, channel):
    async def main(tasks):
        received = []

        async def collect():
            async for message in channel.port2:
                received.append(message)

        task = tasks.spawn(collect)
        await tasks.turns()
        channel.port1.post_message("x")
        task.cancel()
        await task.result()
        channel.port1.post_message("y")
        assert received + drain(channel.port2) == ["x", "y"]

    run(loop_name, main)


@on_all_loops
def test_an_always_ready_async_for_starves_no_task(loop_name, channel):
    async def main(tasks):
        async def echo():
            async for message in channel.port2:
                channel.port1.post_message(message)

        channel.port1.post_message("x")
        task = tasks.spawn(echo)
        await tasks.turns(20)
        task.cancel()
        assert await task.result() is Cancelled

    run_with_watchdog(loop_name, main, channel)


@on_all_loops
def test_an_always_ready_areceive_starves_no_task(loop_name, channel):
    async def main(tasks):
        async def echo():
            while True:
                channel.port1.post_message(await channel.port2.areceive())

        channel.port1.post_message("x")
        task = tasks.spawn(echo)
        await tasks.turns(20)
        task.cancel()
        assert await task.result() is Cancelled

    run_with_watchdog(loop_name, main, channel)


@on_all_loops
def test_an_always_ready_areceive_many_starves_no_task(loop_name, channel):
    async def main(tasks):
        async def echo():
            while True:
                for message in await channel.port2.areceive_many():
                    channel.port1.post_message(message)

        channel.port1.post_message("x")
        task = tasks.spawn(echo)
        await tasks.turns(20)
        task.cancel()
        assert await task.result() is Cancelled

    run_with_watchdog(loop_name, main, channel)


def run_with_watchdog(loop_name, main, channel):
    """Run `main`; close the channel when that takes too long, because a starved loop ends by no time limit."""
    watchdog = threading.Timer(10, channel.port2.close)
    watchdog.start()
    try:
        run(loop_name, main)
    finally:
        watchdog.cancel()
    assert not channel.port2.closed, "other tasks starved"


# ---- areceive_many ----


@on_all_loops
def test_areceive_many_returns_what_waits(loop_name, channel):
    async def main(tasks):
        channel.port1.send_many(range(1000))
        return await channel.port2.areceive_many()

    assert run(loop_name, main) == list(range(1000))


@on_all_loops
def test_areceive_many_waits_for_the_first_message(loop_name, channel):
    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive_many)
        await tasks.turns()
        in_thread(channel.port1.send_many, range(5))
        return await task.result()

    assert run(loop_name, main) == list(range(5))


@on_all_loops
@pytest.mark.parametrize("limit", [1, 3])
def test_areceive_many_returns_no_more_than_its_limit(loop_name, channel, limit):
    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive_many, limit)
        await tasks.turns()
        in_thread(channel.port1.send_many, range(5))
        return [await task.result(), await channel.port2.areceive_many(1)]

    assert run(loop_name, main) == [list(range(limit)), [limit]]


@on_all_loops
@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_areceive_many_refuses_a_wrong_limit(loop_name, channel, limit, error):
    async def main(tasks):
        with pytest.raises(error, match="limit"):
            await channel.port2.areceive_many(limit)

    run(loop_name, main)


@on_all_loops
def test_areceive_many_of_a_closed_channel_raises(loop_name, channel):
    async def main(tasks):
        channel.port1.post_message("x")
        channel.port1.close()
        assert await channel.port2.areceive_many() == ["x"]
        with pytest.raises(ChannelClosedError):
            await channel.port2.areceive_many()

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("turns", range(4))
def test_areceive_many_cancelled_loses_nothing(loop_name, channel, turns):
    async def main(tasks):
        task = tasks.spawn(channel.port2.areceive_many)
        await tasks.turns()
        in_thread(channel.port1.send_many, range(10))
        await tasks.turns(turns)
        task.cancel()
        result = await task.result()
        assert ([] if result is Cancelled else result) + drain(channel.port2) == list(range(10))

    run(loop_name, main)


# ---- asend ----


@on_all_loops
def test_asend_sends(loop_name, channel):
    async def main(tasks):
        await channel.port1.asend(["x"])

    run(loop_name, main)
    assert drain(channel.port2) == [["x"]]


@on_all_loops
def test_asend_transfers(loop_name, channel):
    other = MessageChannel()

    async def main(tasks):
        await channel.port1.asend("port", [other.port2])

    run(loop_name, main)
    other.port1.post_message("x")
    assert channel.port2.receive_event(0).ports[0].receive_nowait() == "x"


@on_all_loops
def test_asend_waits_for_room(loop_name):
    async def main(tasks):
        with MessageChannel(capacity=2) as (port1, port2):
            await port1.asend(0)
            await port1.asend(1)
            task = tasks.spawn(port1.asend, 2)
            await tasks.turns()
            assert len(port2) == 2
            assert port2.receive_nowait() == 0
            await task.result()
            assert drain(port2) == [1, 2]

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("taker", ["receive_nowait", "receive_many", "areceive", "async for", "listener"])
def test_whoever_takes_a_message_makes_room_for_asend(loop_name, taker):
    async def main(tasks):
        with MessageChannel(capacity=1) as (port1, port2):
            await port1.asend("a")
            task = tasks.spawn(port1.asend, "b")
            await tasks.turns()
            if taker == "listener":
                port2.onmessage = lambda event: None
            elif taker == "areceive":
                await port2.areceive()
            elif taker == "async for":
                async for _ in port2:
                    break
            else:
                getattr(port2, taker)()
            assert await task.result() is None

    run(loop_name, main)


@on_all_loops
def test_back_pressure_bounds_what_waits_and_keeps_the_account(loop_name):
    total, capacity = 2000, 7

    async def main(tasks):
        with MessageChannel(capacity=capacity) as (port1, port2):

            async def produce(name):
                for i in range(total // 4):
                    await port1.asend((name, i))

            producers = [tasks.spawn(produce, name) for name in range(4)]
            received = [await tasks.guard(port2.areceive()) for _ in range(total)]
            for task in producers:
                await task.result()
            assert port2.statistics().peak <= capacity
            for name in range(4):
                assert [i for n, i in received if n == name] == list(range(total // 4))

    run(loop_name, main)


@on_all_loops
def test_back_pressure_between_a_loop_and_a_thread(loop_name):
    total = 3000
    received = []

    async def main(tasks):
        with MessageChannel(capacity=3) as (port1, port2):
            thread = threading.Thread(target=lambda: received.extend(port2))
            thread.start()
            for i in range(total):
                await port1.asend(i)
            port1.close()
            await tasks.in_thread(thread.join)

    run(loop_name, main)
    assert received == list(range(total))


@on_all_loops
@pytest.mark.parametrize("turns", [0, 1, 5])
def test_asend_cancelled_while_it_waits_posts_nothing(loop_name, turns):
    async def main(tasks):
        with MessageChannel(capacity=1) as (port1, port2):
            await port1.asend("a")
            task = tasks.spawn(port1.asend, "b")
            await tasks.turns(turns)
            task.cancel()
            assert await task.result() is Cancelled
            assert drain(port2) == ["a"]
            # The room was not lost either.
            await tasks.guard(port1.asend("c"))
            assert drain(port2) == ["c"]

    run(loop_name, main)


@on_all_loops
def test_asend_cancelled_transfers_nothing(loop_name):
    async def main(tasks):
        with MessageChannel(capacity=1) as (port1, _):
            other = MessageChannel()
            buffer = bytearray(b"abc")
            await port1.asend("a")
            task = tasks.spawn(port1.asend, "b", [other.port1, buffer])
            await tasks.turns()
            task.cancel()
            await task.result()
            assert not other.port1.closed
            assert buffer == b"abc"

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("taker", ["loop", "thread"])
def test_when_a_woken_asend_is_cancelled_another_gets_the_room(loop_name, taker):
    async def main(tasks):
        with MessageChannel(capacity=1) as (port1, port2):
            await port1.asend("a")
            first = tasks.spawn(port1.asend, "b")
            await tasks.turns()
            second = tasks.spawn(port1.asend, "c")
            await tasks.turns()
            assert (in_thread(port2.receive_nowait) if taker == "thread" else port2.receive_nowait()) == "a"
            first.cancel()
            if await first.result() is Cancelled:
                await second.result()
                assert drain(port2) == ["c"]
            else:
                assert drain(port2) == ["b"]
                await second.result()
                assert drain(port2) == ["c"]

    run(loop_name, main)


@on_all_loops
def test_close_ends_a_waiting_asend(loop_name):
    async def main(tasks):
        port1, port2 = MessageChannel(capacity=1)
        await port1.asend("a")
        task = tasks.spawn(port1.asend, "b")
        await tasks.turns()
        await tasks.in_thread(port2.close)
        with pytest.raises(ChannelClosedError):
            await task.result()

    run(loop_name, main)


@on_all_loops
def test_asend_on_a_closed_channel_raises(loop_name, channel):
    async def main(tasks):
        channel.port2.close()
        with pytest.raises(ChannelClosedError):
            await channel.port1.asend("x")
        with pytest.raises(ChannelClosedError):
            await channel.port1.asend(["x"])

    run(loop_name, main)


@on_all_loops
def test_asend_on_a_transferred_port_raises(loop_name, channel):
    carrier = MessageChannel()
    carrier.port1.post_message(None, [channel.port1])

    async def main(tasks):
        with pytest.raises(ChannelClosedError):
            await channel.port1.asend("x")

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize("timeout", [0, 0.02])
def test_asend_gives_up_after_its_timeout(loop_name, timeout):
    async def main(tasks):
        with MessageChannel(capacity=1) as (port1, port2):
            await port1.asend("a", timeout=timeout)
            with pytest.raises(TimeoutError):
                await tasks.guard(port1.asend("b", timeout=timeout))
            assert drain(port2) == ["a"]

    run(loop_name, main)


@on_all_loops
@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_asend_refuses_a_wrong_timeout(loop_name, channel, timeout, error):
    async def main(tasks):
        with pytest.raises(error, match="timeout"):
            await channel.port1.asend("x", timeout=timeout)

    run(loop_name, main)
    assert len(channel.port2) == 0


@on_all_loops
def test_a_waiting_asend_has_cloned_its_message_already(loop_name):
    async def main(tasks):
        with MessageChannel(capacity=1) as (port1, port2):
            await port1.asend("a")
            message = [1]
            task = tasks.spawn(port1.asend, message)
            await tasks.turns()
            message.append(2)
            assert port2.receive_nowait() == "a"
            await task.result()
            assert port2.receive_nowait() == [1]

    run(loop_name, main)


def test_trio_listeners_run_on_the_dispatcher_thread(channel):
    if trio is None:
        pytest.skip("needs trio")
    threads = []

    async def main(tasks):
        channel.port2.onmessage = lambda event: threads.append(threading.current_thread())
        channel.port1.post_message("x")
        while not threads:
            await tasks.sleep(0.001)

    run("trio", main)
    assert threads[0] is not threading.current_thread()
