"""Workers that are processes, by multiprocessing."""

from __future__ import annotations

import sys

from messagechannel._core import ChannelClosedError, entangled_ports
from messagechannel._events import ErrorEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from typing import Any

    from messagechannel._core import MessagePort

# What to wait for a process that was asked to terminate, before it is killed, at exit; seconds.
_LAST_PATIENCE = 1.0


class RemoteTraceback(Exception):  # noqa: N818 - it is no error, but what shows one
    """The traceback, as text, of an exception that another process raised; the ``__cause__`` of its copy here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class ProcessContext:
    """The process that runs a worker's target.

    :param tell: called with an ErrorEvent for an exception that left the target.
    """

    def __init__(
        self,
        target: Callable[..., object],
        port: MessagePort[Any],
        args: tuple[Any, ...],
        name: str,
        start_method: str | None,
        tell: Callable[[ErrorEvent], object],
    ) -> None:
        import multiprocessing

        from messagechannel._core import MessagePort

        # What can't be pickled is met before the ports, which depart as they are.
        context: Any = multiprocessing.get_context("spawn" if start_method is None else start_method)
        self._errors, errors = entangled_ports(MessagePort)
        self._process: BaseProcess = context.Process(target=_run, args=(target, args, port, errors), name=name)
        self._tell = tell
        self._errors.onmessage = self._hear

    def start(self) -> None:
        """Start the process."""
        try:
            self._process.start()
        except BaseException:
            self._errors.close()
            raise

    def _hear(self, event: Any) -> None:
        error, message, text = event.data
        error.__cause__ = RemoteTraceback(text)
        self._errors.close()
        self._tell(ErrorEvent("error", message=message, error=error))

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

    def join(self, timeout: float | None) -> None:
        """Wait until the process has ended."""
        self._process.join(timeout)

    def terminate(self) -> None:
        """End the process."""
        self._process.terminate()

    def finish(self, timeout: float) -> None:
        """Wait for the end of the process, and bring it about then."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_LAST_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(
    target: Callable[..., object], args: tuple[Any, ...], port: MessagePort[Any], errors: MessagePort[Any]
) -> None:
    """Be the process."""
    from multiprocessing.util import Finalize

    from messagechannel import _far, worker

    # The process of a worker may leave by os._exit, but not before it has run these.
    Finalize(None, worker.close_workers, exitpriority=20)
    Finalize(None, _far.flush, exitpriority=10)
    try:
        target(port, *args)
    except BaseException as error:
        if isinstance(error, SystemExit) or (isinstance(error, ChannelClosedError) and port.closed):
            if isinstance(error, SystemExit):
                raise
            return
        port.close()
        _report(errors, error)
        _far.flush()
        sys.exit(1)
    del port, args
    _far.linger()


def _report(errors: MessagePort[Any], error: BaseException) -> None:
    import traceback

    message = f"{type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    error.__traceback__ = None
    try:
        errors.post_message((error, message, text))
    except Exception:
        # One that can't be pickled.
        errors.post_message((RuntimeError(message), message, text))
