"""One small vocabulary for tests that run on asyncio, on uvloop and on trio.

A test's coroutine function takes a ``Tasks`` and runs by :func:`run`. Every wait has a guard, so that a lost wake-up
fails a test instead of hanging the whole run.
"""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from messagechannel import MessageChannel

try:
    import uvloop
except ImportError:
    uvloop = None
try:
    import trio
except ImportError:
    trio = None

# What no wait of a test ever comes near, unless something is broken.
GUARD = 20.0

_needs_uvloop = pytest.mark.skipif(uvloop is None, reason="needs uvloop")
_needs_trio = pytest.mark.skipif(trio is None, reason="needs trio")
ASYNCIO_LOOPS = ["asyncio", pytest.param("uvloop", marks=_needs_uvloop)]
ALL_LOOPS = [*ASYNCIO_LOOPS, pytest.param("trio", marks=_needs_trio)]


class Cancelled:
    """The result of a task that was cancelled."""


class AsyncioTask:
    def __init__(self, coroutine):
        self.task = asyncio.ensure_future(coroutine)

    def cancel(self):
        self.task.cancel()

    async def result(self):
        """Return what the task returned, or Cancelled."""
        await asyncio.wait([self.task], timeout=GUARD)
        assert self.task.done(), "the task hangs"
        return Cancelled if self.task.cancelled() else self.task.result()


class AsyncioTasks:
    backend = "asyncio"

    def spawn(self, function, *args):
        return AsyncioTask(function(*args))

    async def turns(self, number=10):
        """Let the other tasks run for some turns of the loop."""
        for _ in range(number):
            await asyncio.sleep(0)

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)

    async def in_thread(self, function, *args):
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, function, *args), GUARD)

    async def guard(self, awaitable):
        return await asyncio.wait_for(awaitable, GUARD)

    async def give_up_after(self, seconds, awaitable):
        """Return what is awaited, or Cancelled when that took longer."""
        try:
            return await asyncio.wait_for(awaitable, seconds)
        except asyncio.TimeoutError:
            return Cancelled


class TrioTask:
    def __init__(self, nursery, function, args):
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.value = Cancelled
        self.error = None
        nursery.start_soon(self._run, function, args)

    async def _run(self, function, args):
        with self.scope:
            try:
                self.value = await function(*args)
            except Exception as error:
                self.error = error
        self.done.set()

    def cancel(self):
        self.scope.cancel()

    async def result(self):
        with trio.move_on_after(GUARD):
            await self.done.wait()
        assert self.done.is_set(), "the task hangs"
        if self.error is not None:
            raise self.error
        return self.value


class TrioTasks:
    backend = "trio"

    def __init__(self, nursery):
        self.nursery = nursery

    def spawn(self, function, *args):
        return TrioTask(self.nursery, function, args)

    async def turns(self, number=10):
        for _ in range(number):
            await trio.lowlevel.checkpoint()

    async def sleep(self, seconds):
        await trio.sleep(seconds)

    async def in_thread(self, function, *args):
        with trio.fail_after(GUARD):
            return await trio.to_thread.run_sync(function, *args)

    async def guard(self, awaitable):
        with trio.fail_after(GUARD):
            return await awaitable

    async def give_up_after(self, seconds, awaitable):
        with trio.move_on_after(seconds):
            return await awaitable
        return Cancelled


def new_loop(name):
    return uvloop.new_event_loop() if name == "uvloop" else asyncio.new_event_loop()


def run(name, main, *, errors=None):
    """Run ``main(tasks)`` on the named loop and return its result.

    What reaches the loop's exception handler is appended to `errors`, or else fails the test.
    """
    if name == "trio":
        return _run_trio(main)
    loop = new_loop(name)
    reported = [] if errors is None else errors
    loop.set_exception_handler(lambda _, context: reported.append(context))
    try:
        result = loop.run_until_complete(asyncio.wait_for(main(AsyncioTasks()), 2 * GUARD))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    if errors is None:
        assert not reported
    return result


def _run_trio(main):
    async def entry():
        async with trio.open_nursery() as nursery:
            with trio.fail_after(2 * GUARD):
                result = await main(TrioTasks(nursery))
            nursery.cancel_scope.cancel()
        return result

    try:
        return trio.run(entry)
    except BaseException as error:
        # A nursery wraps what leaves it.
        while type(error).__name__ in ("ExceptionGroup", "BaseExceptionGroup") and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


def in_thread(function, *args):
    """Run `function` in another thread, wait for it, and return its result or raise its exception."""
    outcome = []

    def body():
        try:
            outcome.append((function(*args), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(GUARD)
    assert outcome, "the thread hangs"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


class Collector:
    """A listener that keeps what it was called with, and lets a thread wait until it has enough."""

    def __init__(self):
        self.data = []
        self.events = []
        self.threads = []
        self._changed = threading.Condition()

    def __call__(self, event):
        with self._changed:
            self.events.append(event)
            self.data.append(getattr(event, "data", event.type))
            self.threads.append(threading.current_thread())
            self._changed.notify_all()

    def wait_for(self, number, seconds=GUARD):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.data) >= number, seconds), f"only {self.data!r:.300} came"
        return self.data

    async def turn_until(self, number, tasks):
        for _ in range(int(GUARD * 200)):
            if len(self.data) >= number:
                return self.data
            await tasks.sleep(0.001 if len(self.data) else 0.005)
        raise AssertionError(f"only {self.data!r:.300} came")


def let_the_dispatcher_finish():
    """Return when the dispatcher thread, which runs from here on if it did not, has done what it had to do by now."""
    here, there = MessageChannel()
    there.onmessage = last = Collector()
    here.post_message("last")
    last.wait_for(1)


class Unraisable:
    """Stands in for ``sys.unraisablehook`` and keeps what is reported."""

    def __init__(self, monkeypatch):
        self.errors = []
        self.objects = []
        self._changed = threading.Condition()
        monkeypatch.setattr(sys, "unraisablehook", self)

    def __call__(self, unraisable):
        with self._changed:
            self.errors.append(unraisable.exc_value)
            self.objects.append(unraisable.object)
            self._changed.notify_all()

    def wait_for(self, number):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.errors) >= number, GUARD), "nothing was reported"
        return self.errors
