"""Workers that are processes, by multiprocessing."""

from __future__ import annotations

import signal
import sys

from messagechannel._core import ChannelClosedError, entangled_ports
from messagechannel._events import ErrorEvent
from messagechannel._multiprocessing import require_links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from typing import Any

    from messagechannel._core import MessagePort

# The most that starting a process takes, for a moment: multiprocessing's pipes, and the links of a few ports.
_DESCRIPTORS = 40


class RemoteTraceback(Exception):  # noqa: N818 - it is no error, but what shows one
    """The traceback, as text, of an exception that another process raised; the ``__cause__`` of its copy here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def described(error: BaseException) -> tuple[str, str]:
    """Return an exception in one line, and its traceback as text."""
    import traceback

    try:
        text = str(error)
    except BaseException:
        # The words of the traceback.
        text = "<exception str() failed>"
    return f"{type(error).__name__}: {text}", "".join(traceback.format_exception(error))


class ProcessContext:
    """The process that runs a worker's target.

    :param tell: called with an ErrorEvent for an exception that left the target.
    """

    can_be_killed = True

    def __init__(
        self,
        target: Callable[..., object],
        port: MessagePort[Any],
        args: tuple[Any, ...],
        name: str,
        start_method: str | None,
        tell: Callable[[ErrorEvent], object],
    ) -> None:
        require_links()
        import multiprocessing.util

        from messagechannel._far import AsidePort

        context: Any = multiprocessing.get_context("spawn" if start_method is None else start_method)
        self._errors, errors = entangled_ports(AsidePort)
        # What can't be pickled is met before the ports, which depart as they are.
        self._process: BaseProcess = context.Process(target=_run, args=(target, [args, port], errors), name=name)
        self._tell = tell

    def start(self) -> None:
        """Start the process."""
        from messagechannel._far import call_later
        from messagechannel._link import reserve_descriptors

        try:
            # Before anything has departed; and multiprocessing leaves some open when it is short of others.
            reserve_descriptors(_DESCRIPTORS)
            self._process.start()
        except BaseException:
            self._errors.close()
            raise
        # In a thread that runs no event loop: one that runs here may end before the process does.
        call_later(0, self._listen)

    def _listen(self) -> None:
        self._errors.onmessage = self._hear

    def _hear(self, event: Any) -> None:
        pickled, message, text = event.data
        error = _unpickled(pickled)
        if error is None:
            error = RuntimeError(message)
        error.__cause__ = RemoteTraceback(text)
        self._errors.close()
        self._tell(ErrorEvent("error", message=message, error=error, traceback=text))

    @property
    def name(self) -> str:
        """The name of the process."""
        return self._process.name

    @property
    def exitcode(self) -> int | None:
        """What the process has exited with: minus the number of a signal that ended it, None while it runs."""
        return self._process.exitcode

    def is_alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.is_alive()

    def has_ended(self) -> bool:
        """Tell whether the process was started and has ended."""
        return self._process.exitcode is not None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended."""
        self._process.join(timeout)
        if self.has_ended():
            # An error of its target is on its way to the listeners now: this process may be about to exit.
            self._errors.look()

    def terminate(self) -> None:
        """End the process."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process without asking it."""
        self._process.kill()


def _run(target: Callable[..., object], given: list[Any], errors: MessagePort[Any]) -> None:
    """Be the process."""
    from multiprocessing.util import Finalize

    from messagechannel import _far, worker

    # The process of a worker may leave by os._exit, but not before it has run these.
    Finalize(None, worker.close_workers, exitpriority=20)
    Finalize(None, _far.flush, exitpriority=10)
    try:
        _work(target, given, errors)
    except KeyboardInterrupt:
        # Of the terminal, which has interrupted the parent as well.
        sys.exit(128 + signal.SIGINT)


def _work(target: Callable[..., object], given: list[Any], errors: MessagePort[Any]) -> None:
    from messagechannel import _far

    args, port = given
    # multiprocessing keeps the list.
    given.clear()
    try:
        target(port, *args)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, ChannelClosedError) and port.closed:
            return
        port.close()
        message, text = described(error)
        errors.post_message((_pickled(error), message, text))
        sys.exit(1)
    del port, args
    _far.linger()


def _pickled(error: BaseException) -> bytes | None:
    import pickle

    try:
        return pickle.dumps(error)
    except Exception:
        return None


def _unpickled(pickled: bytes | None) -> BaseException | None:
    import pickle

    try:
        error = None if pickled is None else pickle.loads(pickled)
    except Exception:
        # Its class is not known here, or can't be made of what pickle kept.
        return None
    return error if isinstance(error, BaseException) else None
