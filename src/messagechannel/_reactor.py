"""The one thread of a process that hears the bells of other processes.

It sleeps until a socket has something, and calls whoever registered it. It knows nothing of ports or links. Whoever
waits for a message of another process is woken by way of this thread, and so is a listener; who finds messages there
takes them without it.
"""

from __future__ import annotations

import sys
from _thread import RLock, allocate_lock
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from time import monotonic, sleep

from messagechannel._context import SETTLE_SECONDS, register_exit, settle, threads_may_stay

TYPE_CHECKING = False
if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable
    from typing import Any, Protocol

    class Source(Protocol):
        """What is called when its socket has something."""

        def heard(self) -> float | None:
            """Hear what there is; return after how many seconds to look again if some of it had to stay, or None."""

        def is_sending(self) -> bool:
            """Tell whether messages wait here to be sent."""

        def is_listening(self) -> bool:
            """Tell whether somebody listens for what comes there."""

        def sent(self) -> object:
            """Return something that changes with what is sent."""


# How long interpreter exit waits while no message at all can be sent on, in seconds.
EXIT_PATIENCE = 5.0

# How often a process that has nothing left to do looks whether somebody listens there, in seconds.
LINGER_SECONDS = 0.5


# How long a source is left alone after it has raised something, in seconds.
FAILURE_SECONDS = 0.1


def call(function: Callable[[], Any]) -> Any:
    """Call a function; what it raises is reported, and must not end the thread."""
    try:
        return function()
    except Exception as error:
        import threading

        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
        )
        return FAILURE_SECONDS


class Reactor:
    """Calls ``source.heard()`` when the socket that it is registered with has something."""

    def __init__(self) -> None:
        # Held while a source comes, or goes with its descriptor. Reentrant: the garbage collector may end one at any
        # moment.
        self.lock = RLock()
        self._sources: dict[int, Source] = {}
        # What the selector has.
        self._placed: set[int] = set()
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._selector: selectors.BaseSelector | None = None
        # Released when a source goes.
        self._lingers = allocate_lock()
        self._ended = False
        # What had been sent when flush gave up: several who see to a process's exit call it.
        self._given_up: list[object] | None = None
        self._exit_registered = False
        self._fork_registered = False

    def start(self) -> None:
        """Start the thread, unless it runs: register will need nothing then that could be missing.

        :raises OSError: when there are no descriptors or no memory for that.
        :raises RuntimeError: when no thread can be started any more.
        """
        with self.lock:
            if self._selector is None:
                self._start()

    def prepare(self, descriptor: int) -> None:
        """Have a place for a socket that is silent yet, so that register will not fail for it.

        :raises OSError: when there are no descriptors or no memory for that.
        :raises RuntimeError: when no thread can be started any more.
        """
        with self.lock:
            selector = self._selector or self._start()
            import selectors

            self._placed.add(descriptor)
            try:
                selector.register(descriptor, selectors.EVENT_READ)
            except BaseException:
                # It may have been interrupted half-way.
                self._displace(descriptor)
                raise

    def register(self, descriptor: int, source: Source) -> None:
        """Call ``source.heard()`` in the reactor's thread, now and whenever the socket has something.

        Errors are those of :meth:`prepare`, where that was not called before.
        """
        with self.lock:
            if descriptor not in self._placed:
                self.prepare(descriptor)
            self._sources[descriptor] = source

    def unregister(self, descriptor: int) -> None:
        """Forget a socket, before it is closed."""
        with self.lock:
            self._sources.pop(descriptor, None)
            self._displace(descriptor)
        if self._lingers.locked():
            # Another thread may have released it just now.
            with suppress(RuntimeError):
                self._lingers.release()

    def _displace(self, descriptor: int) -> None:
        if self._selector is not None and descriptor in self._placed:
            # In this order, so that who is interrupted can do it again.
            with suppress(KeyError):
                self._selector.unregister(descriptor)
            self._placed.discard(descriptor)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call `callback` in the reactor's thread, once so many seconds have passed."""
        with self.lock:
            if self._selector is None:
                self._start()
            heappush(self._later, (monotonic() + seconds, next(self._numbers), callback))
        self._ring()

    def flush(self) -> None:
        """Wait until all messages were sent that wait for room; give up after EXIT_PATIENCE without one."""
        end = monotonic() + EXIT_PATIENCE
        before: list[object] | None = None
        while monotonic() < end:
            with self.lock:
                sending = [source for source in self._sources.values() if source.is_sending()]
            if not sending:
                return
            progress = [source.sent() for source in sending]
            if progress == self._given_up:
                return
            if progress != before:
                before = progress
                end = monotonic() + EXIT_PATIENCE
            sleep(0.002)
        self._given_up = before

    def linger(self) -> None:
        """Wait until nobody listens for anything any more."""
        while any(source.is_listening() for source in list(self._sources.values())):
            # Somebody may also just have stopped listening, of which nobody tells.
            self._lingers.acquire(timeout=LINGER_SECONDS)

    def _start(self) -> selectors.BaseSelector:
        import selectors
        import socket
        import threading

        selector = selectors.DefaultSelector()
        self._bell, self._hears = socket.socketpair()
        self._bell.setblocking(False)
        self._hears.setblocking(False)
        selector.register(self._hears, selectors.EVENT_READ)
        daemon = threads_may_stay()
        self._selector = selector
        try:
            if not self._exit_registered:
                register_exit(self.flush if daemon else self._end)
                self._exit_registered = True
                self._flush_at_exit_of_processes()
            threading.Thread(target=self._run, args=(selector,), name="messagechannel-reactor", daemon=daemon).start()
        except BaseException:
            self._selector = None
            selector.close()
            self._bell.close()
            self._hears.close()
            raise
        return selector

    def _flush_at_exit_of_processes(self) -> None:
        # Those of multiprocessing leave by os._exit, and forget what was registered before they were forked.
        util: Any = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, self.flush, exitpriority=10)
            if not self._fork_registered:
                util.register_after_fork(self, Reactor._flush_at_exit_of_processes)
                self._fork_registered = True

    def _run(self, selector: selectors.BaseSelector) -> None:
        turn = partial(self._turn, selector)
        while not self._ended:
            if call(turn) is not None:
                # For want of memory.
                sleep(FAILURE_SECONDS)
            settle()

    def _turn(self, selector: selectors.BaseSelector) -> None:
        # A function of its own, so that nothing here refers to a source that has gone while this thread sleeps again.
        for key, _ in selector.select(self._timeout()):
            if key.fileobj is self._hears:
                self._hush()
            else:
                self._hear(key.fd)
        # Not what these ask for in turn: the sockets would wait for ever.
        now = monotonic()
        while (callback := self._next_due(now)) is not None:
            call(callback)

    def _hear(self, descriptor: int) -> None:
        source = self._sources.get(descriptor)
        if source is None:
            return
        again = call(source.heard)
        if again is not None:
            # What had to stay keeps the socket ready: it is left alone for a while, and nobody waits for it meanwhile.
            with self.lock:
                if self._sources.get(descriptor) is source:
                    self.call_later(again, partial(self._hear_again, descriptor, source))
                    self._displace(descriptor)

    def _hear_again(self, descriptor: int, source: Source) -> None:
        with self.lock:
            if self._sources.get(descriptor) is source and descriptor not in self._placed:
                # In case this fails; else it finds that there is nothing to do.
                self.call_later(FAILURE_SECONDS, partial(self._hear_again, descriptor, source))
                with suppress(MemoryError, OSError):
                    self.register(descriptor, source)

    def _timeout(self) -> float | None:
        with self.lock:
            until = self._later[0][0] - monotonic() if self._later else None
        if SETTLE_SECONDS is None:
            return until
        return SETTLE_SECONDS if until is None else min(until, SETTLE_SECONDS)

    def _next_due(self, now: float) -> Callable[[], object] | None:
        with self.lock:
            if self._later and self._later[0][0] <= now:
                return heappop(self._later)[2]
        return None

    def _ring(self) -> None:
        # Where it is full, it is heard anyway.
        with suppress(OSError):
            self._bell.send(b"b")

    def _hush(self) -> None:
        with suppress(OSError):
            while self._hears.recv(4096):
                pass

    def _end(self) -> None:
        self.flush()
        self._ended = True
        self._ring()

    def forget(self) -> list[Source]:
        """In a forked child: drop everything, which is the parent's; return the sources."""
        sources = list(self._sources.values())
        selector = self._selector
        if selector is not None:
            selector.close()
            self._bell.close()
            self._hears.close()
        registered = self._exit_registered, self._fork_registered
        self.__init__()  # type: ignore[misc]
        self._exit_registered, self._fork_registered = registered
        # The parent may have had no multiprocessing yet when its reactor was started.
        self._flush_at_exit_of_processes()
        return sources
