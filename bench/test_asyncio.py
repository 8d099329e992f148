"""From a thread to an asyncio loop, and from task to task on one loop."""

import asyncio
import importlib.util
import threading
import time

from messagechannel import MessageChannel


def timed(messages, main):
    """Run a coroutine function and return nanoseconds a message."""

    async def measured():
        begin = time.perf_counter_ns()
        await main(messages)
        return (time.perf_counter_ns() - begin) / messages

    return asyncio.run(measured())


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


async def thread_to_async_for(messages):
    port1, port2 = MessageChannel()

    def produce():
        for i in range(messages):
            port1.post_message(i)
        port1.close()

    thread = in_thread(produce)
    expected = 0
    async for message in port2:
        assert message == expected
        expected += 1
    assert expected == messages
    thread.join()


async def thread_to_listener(messages):
    port1, port2 = MessageChannel()
    done = asyncio.get_running_loop().create_future()

    def hear(event):
        if event.data == messages - 1:
            done.set_result(None)

    port2.onmessage = hear

    def produce():
        for i in range(messages):
            port1.post_message(i)

    thread = in_thread(produce)
    await done
    thread.join()


def thread_to_peer(module):
    """Return a contender for a queue with a synchronous and an asynchronous face, or None without it."""
    if importlib.util.find_spec(module) is None:
        return None
    peer = importlib.import_module(module)

    async def main(messages):
        queue = peer.Queue()

        def produce():
            for i in range(messages):
                queue.sync_q.put(i)

        thread = in_thread(produce)
        for i in range(messages):
            assert await queue.async_q.get() == i
        thread.join()
        closing = queue.close()
        if closing is not None:
            await closing
        await queue.wait_closed()

    return lambda: timed(2_000, main)


async def thread_to_call_soon(messages):
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    def produce():
        for i in range(messages):
            loop.call_soon_threadsafe(queue.put_nowait, i)

    thread = in_thread(produce)
    for i in range(messages):
        assert await queue.get() == i
    thread.join()


def test_thread_to_asyncio(compare):
    compare(
        "stream of ints from a thread to a loop",
        {
            "async for": lambda: timed(50_000, thread_to_async_for),
            "onmessage": lambda: timed(50_000, thread_to_listener),
            "janus": thread_to_peer("janus"),
            "culsans": thread_to_peer("culsans"),
            "call_soon_threadsafe + asyncio.Queue": lambda: timed(5_000, thread_to_call_soon),
        },
        {"janus": 15, "call_soon_threadsafe + asyncio.Queue": 25},
    )


async def task_to_task(messages):
    port1, port2 = MessageChannel()

    async def produce():
        for i in range(messages):
            port1.post_message(i)
        port1.close()

    task = asyncio.create_task(produce())
    expected = 0
    async for message in port2:
        assert message == expected
        expected += 1
    assert expected == messages
    await task


async def task_to_task_queue(messages):
    queue = asyncio.Queue()

    async def produce():
        for i in range(messages):
            await queue.put(i)

    task = asyncio.create_task(produce())
    for i in range(messages):
        assert await queue.get() == i
    await task


def test_same_loop(compare):
    compare(
        "stream of ints from task to task on one loop",
        {
            "post_message / async for": lambda: timed(50_000, task_to_task),
            "asyncio.Queue": lambda: timed(20_000, task_to_task_queue),
        },
        {"asyncio.Queue": 5},
    )


async def bounded_task_to_task(messages):
    port1, port2 = MessageChannel(capacity=100)

    async def produce():
        for i in range(messages):
            await port1.asend(i)
        port1.close()

    task = asyncio.create_task(produce())
    expected = 0
    async for message in port2:
        assert message == expected
        expected += 1
    assert expected == messages
    await task


async def bounded_task_to_task_queue(messages):
    queue = asyncio.Queue(100)

    async def produce():
        for i in range(messages):
            await queue.put(i)

    task = asyncio.create_task(produce())
    for i in range(messages):
        assert await queue.get() == i
    await task


def test_same_loop_bounded(compare):
    compare(
        "the same, at most 100 waiting",
        {
            "asend / async for": lambda: timed(20_000, bounded_task_to_task),
            "asyncio.Queue(100)": lambda: timed(20_000, bounded_task_to_task_queue),
        },
        {},
    )
