"""Where listeners run and where tasks wait: an asyncio loop, trio, or the library's one dispatcher thread.

A *context* runs a callback soon, never inside the call that asks for it. :class:`LoopContext` is an asyncio loop,
:class:`Dispatcher` the thread for ports that were started where no loop runs. A context knows nothing of ports: what is
to be run there lies in its ``tasks``, which the module above puts there. A *wakeup* lets one task wait until any
thread notifies it.

Event loops are looked for in ``sys.modules`` alone: a program that uses neither asyncio nor trio imports neither. What
is found there may still be on its way in, imported by another thread; then nothing of it runs in this one.

What is made on first use is made by ``setdefault``, one step that neither another thread nor a signal handler divides.
"""

from __future__ import annotations

import _thread
import os
import sys
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from types import ModuleType
    from typing import Any

# Without the GIL, an object that one thread made and another dropped last goes only when its maker next runs Python
# (https://github.com/python/cpython/issues/157838). That may be a port, whose end its maker waits for. So, there, a
# thread that waits here runs some Python this often, in seconds.
SETTLE_SECONDS: float | None = 0.1 if "free-threading" in sys.version else None

# How long interpreter exit waits for the dispatcher thread to deliver what was posted before, in seconds; and how often
# it waits for what listeners have posted meanwhile.
EXIT_PATIENCE = 5.0
EXIT_ROUNDS = 100


def settle() -> None:
    """Be some Python that runs: see SETTLE_SECONDS."""


def threads_may_stay() -> bool:
    """Tell whether the interpreter may end while threads still run: the main one alone does, and stops the daemons."""
    if hasattr(_thread, "_is_main_interpreter"):
        main: bool = _thread._is_main_interpreter()
        return main
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

    return bool(interpreters.get_current() == interpreters.get_main())


def register_exit(function: Callable[[], object]) -> None:
    """Call `function` at interpreter exit, before that waits for threads which it may have to wait for."""
    if threads_may_stay():
        import atexit

        atexit.register(function)
    else:
        import threading

        threading._register_atexit(function)  # type: ignore[attr-defined]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the asyncio loop that runs in this thread, if any."""
    get_running_loop = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    return get_running_loop() if get_running_loop is not None else None


def _in_task(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a task of `loop` runs here.

    Only then may the loop be told without waking it: a signal handler runs in the loop's thread too, while the loop
    sleeps, and so does a callback, which can't be told from that.
    """
    return running_loop() is loop and sys.modules["asyncio"].current_task(loop) is not None


def report_on_running_loop(error: BaseException, listener: object) -> bool:
    """Hand a listener's exception to the running loop's exception handler; False where no loop runs."""
    loop = running_loop()
    if loop is None:
        return False
    loop.call_exception_handler({"message": f"Exception in listener {listener!r}", "exception": error})
    return True


class LoopContext:
    """An asyncio loop as a place where listeners run. It does not keep the loop alive."""

    __slots__ = ("__dict__", "_loop")
    is_dispatcher = False
    tasks: Any = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from weakref import ref

        self._loop = ref(loop)

    def schedule(self, callback: Callable[[], object]) -> None:
        """Run `callback` in a later turn of the loop.

        :raises RuntimeError: when the loop is closed.
        """
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is gone")
        if _in_task(loop):
            loop.call_soon(callback)
        else:
            loop.call_soon_threadsafe(callback)

    def is_closed(self) -> bool:
        """Tell whether nothing can run here any more."""
        loop = self._loop()
        return loop is None or loop.is_closed()


class Dispatcher:
    """The thread that runs listeners of ports that were started where no loop runs.

    It starts with the first callback, and at interpreter exit delivers what was posted until then. In the main
    interpreter it is a daemon; elsewhere it ends then, and the exit waits for that.
    """

    __slots__ = ("__dict__", "_callback", "_ended", "_starting", "_wake")
    is_dispatcher = True
    tasks: Any = None

    def __init__(self) -> None:
        self._callback: Callable[[], object] | None = None
        self._ended = False
        self._wake = allocate_lock()
        self._wake.acquire()
        self._starting = allocate_lock()

    def schedule(self, callback: Callable[[], object]) -> None:
        """Run `callback` in the dispatcher thread; one callback at a time may be scheduled.

        :raises RuntimeError: when the thread can't be started any more.
        """
        if self._callback is None:
            with self._starting:
                if self._callback is None:
                    self._start(callback)
        self._wake.release()

    def _start(self, callback: Callable[[], object]) -> None:
        import threading

        daemon = threads_may_stay()
        self._callback = callback
        try:
            if not daemon:
                # Refused when the exit has begun, and then there must be no thread to wait for.
                register_exit(self._end)
            threading.Thread(target=self._run, name="messagechannel-dispatcher", daemon=daemon).start()
        except BaseException:
            self._callback = None
            raise
        if daemon:
            register_exit(self._finish)

    def _run(self) -> None:
        while not self._ended:
            while not self._wake.acquire(timeout=SETTLE_SECONDS or -1):
                settle()
            callback = self._callback
            assert callback is not None
            callback()

    def _finish(self) -> None:
        # What lies in front of a task was posted before it; a listener that posts to itself without end therefore ends
        # here after some rounds, and one that never returns is given up on.
        from time import monotonic

        end = monotonic() + EXIT_PATIENCE
        delivered = allocate_lock()
        delivered.acquire()
        idle = False

        def pass_by() -> None:
            nonlocal idle
            idle = self.tasks.is_idle()
            delivered.release()

        for _ in range(EXIT_ROUNDS):
            self.tasks.put(pass_by)
            if not delivered.acquire(timeout=max(0.0, end - monotonic())) or idle:
                return

    def _end(self) -> None:
        # A task as any other: what lies in front of it was posted before.
        self.tasks.put(self._note_end)

    def _note_end(self) -> None:
        self._ended = True

    def forget_exit(self) -> None:
        """Do nothing at interpreter exit: the thread belongs to the parent process."""
        if self._callback is not None:
            import atexit

            atexit.unregister(self._finish)

    def is_closed(self) -> bool:
        """Tell whether nothing can run here any more: never."""
        return False


_dispatcher = Dispatcher()
# Once a loop was met, at "loops" a weak dictionary: loop -> its LoopContext.
_contexts: dict[str, Any] = {}


def _forget_the_parents_threads() -> None:
    global _dispatcher
    _dispatcher.forget_exit()
    _dispatcher = Dispatcher()
    _contexts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents_threads)


def current_context() -> LoopContext | Dispatcher:
    """Return the context of the asyncio loop that runs in this thread, or else the dispatcher thread."""
    loop = running_loop()
    if loop is None:
        return _dispatcher
    loops = _contexts.get("loops")
    if loops is None:
        from weakref import WeakKeyDictionary

        loops = _contexts.setdefault("loops", WeakKeyDictionary())
    context: LoopContext | None = loops.get(loop)
    return loops.setdefault(loop, LoopContext(loop)) if context is None else context


class AsyncioWakeup:
    """Lets one asyncio task wait until any thread calls :meth:`notify`."""

    __slots__ = ("_future", "_loop", "_ticker")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] = loop.create_future()
        self._ticker: asyncio.TimerHandle | None = None

    def notify(self) -> None:
        """End the wait.

        :raises RuntimeError: when the loop is closed, so that nobody will wake.
        """
        if _in_task(self._loop):
            self._set()
        else:
            self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout: float | None) -> None:
        """Wait until notified, or until `timeout` seconds have passed."""
        timer = None if timeout is None else self._loop.call_later(timeout, self._set)
        if SETTLE_SECONDS is not None:
            self._tick(SETTLE_SECONDS)
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()
            if self._ticker is not None:
                self._ticker.cancel()

    def _tick(self, seconds: float) -> None:
        self._ticker = self._loop.call_later(seconds, self._tick, seconds)


class TrioWakeup:
    """Lets one trio task wait until any thread calls :meth:`notify`."""

    __slots__ = ("_event", "_token", "_trio")

    def __init__(self, trio: ModuleType) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def notify(self) -> None:
        """End the wait.

        :raises RuntimeError: when the trio run has ended, so that nobody will wake.
        """
        self._token.run_sync_soon(self._event.set)

    async def wait(self, timeout: float | None) -> None:
        """Wait until notified, or until `timeout` seconds have passed."""
        with self._trio.move_on_after(float("inf") if timeout is None else timeout):
            while not self._event.is_set():
                with self._trio.move_on_after(SETTLE_SECONDS or float("inf")):
                    await self._event.wait()


def _running_trio() -> ModuleType | None:
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)
    return trio if lowlevel is not None and lowlevel.in_trio_run() else None


def new_wakeup() -> AsyncioWakeup | TrioWakeup:
    """Return a wakeup for the task that runs now.

    :raises RuntimeError: where neither asyncio nor trio runs.
    """
    trio = _running_trio()
    if trio is not None:
        return TrioWakeup(trio)
    loop = running_loop()
    if loop is not None:
        return AsyncioWakeup(loop)
    raise RuntimeError("no event loop runs here: await this in asyncio or trio, or call the waiting method")


class _NextTurn:
    """Awaited on asyncio, gives the loop one turn."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


async def give_way() -> None:
    """Let the other tasks of the running loop have a turn."""
    trio = _running_trio()
    if trio is not None:
        await trio.lowlevel.checkpoint()
    else:
        await _NextTurn()
