"""Worker: another context that runs a function, and the port that leads to it."""

import os
from _thread import RLock
from itertools import count
from time import monotonic

# What makes ports travel where multiprocessing passes things.
import messagechannel._multiprocessing  # noqa: F401
from messagechannel._context import SETTLE_SECONDS, register_exit, settle, threads_may_stay
from messagechannel._core import ChannelClosedError, MessagePort, entangled_ports, queue_event, seconds_of, taken_over
from messagechannel._events import ErrorEvent, get_handler, set_handler

# How long interpreter exit waits for the workers, all together: after it has closed their channels, and for processes
# again after it has asked them to terminate; seconds.
EXIT_PATIENCE = 1.0
# How long join waits at once, in seconds: no platform can wait as long as it may be asked to.
JOIN_SECONDS = SETTLE_SECONDS or 3600.0
# What Worker(kind=...) may be.
KINDS = ("thread", "process")

_numbers = count(1)
# A worker's context -> weak reference to the Worker, while it runs.
_running = {}
# Held while a worker is entered there, and while what the exit needs is registered for it.
_entering = RLock()
_exit_prepared = False


def _forget_all():
    """Forget the parent's workers, which are no business of a forked child, and who was entering one."""
    global _entering
    _entering = RLock()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _forget_ended():
    """Forget the workers that have ended without a word: processes."""
    for context in list(_running):
        if context.has_ended():
            _running.pop(context, None)


def close_workers():
    """Close the channels of all workers, give them a moment to finish, and end the processes among them."""
    running = list(_running.items())
    for _, reference in running:
        worker = reference()
        if worker is not None:
            worker.close()
    _join_all([context for context, _ in running])
    # However many these are, they get the moment together.
    left = [context for context, _ in running if context.can_be_killed and context.is_alive()]
    for context in left:
        context.terminate()
    _join_all(left)
    for context in left:
        context.kill()
    for context in left:
        context.join()


def _join_all(contexts):
    end = monotonic() + EXIT_PATIENCE
    for context in contexts:
        context.join(max(0.0, end - monotonic()))


def _prepare_exit():
    global _exit_prepared
    if threads_may_stay():
        import atexit

        # What was registered last is called first: before the dispatcher thread has delivered.
        atexit.unregister(close_workers)
    elif _exit_prepared:
        return
    register_exit(close_workers)
    _exit_prepared = True


class _ThreadContext:
    """The thread that runs a worker's target; `tell` is called with an ErrorEvent for an exception that leaves it."""

    exitcode = None
    can_be_killed = False

    def __init__(self, target, port, args, name, tell):
        import threading

        self._thread = threading.Thread(
            target=self._run, args=(target, port, args, tell), name=name, daemon=threads_may_stay()
        )
        self.start = self._thread.start
        self.is_alive = self._thread.is_alive
        self.join = self._thread.join

    @property
    def name(self):
        return self._thread.name

    def _run(self, target, port, args, tell):
        try:
            # This thread's own, so that without the GIL it goes when the target drops it, whatever its maker waits for.
            port = taken_over(port)
            target(port, *args)
        except SystemExit:
            # As in any thread of Python's.
            return
        except BaseException as error:
            if isinstance(error, ChannelClosedError) and port.closed:
                # How a target that waits for its port ends when the Worker was closed.
                return
            port.close()
            from messagechannel.process import described

            message, text = described(error)
            tell(ErrorEvent("error", message=message, error=error, traceback=text))
        finally:
            # In a process that was forked it is not running.
            _running.pop(self, None)

    def has_ended(self):
        return False

    def terminate(self):
        """Do nothing: a thread can't be stopped."""


class Worker(MessagePort):
    """Runs ``target(port, *args)`` in a new context, and is itself the port at the other end (HTML, "Workers").

    So a Worker has everything that a port has: ``post_message``, ``onmessage``, ``receive``, iteration. The channel
    closes when the Worker is closed or forgotten; `target` notices by the end of its iteration, by ChannelClosedError
    (which may leave it then), or by the ``close`` event. When `target` has returned, its port goes the way of every
    port: it stays while it has listeners, and closes otherwise. At interpreter exit the channels of all workers that
    still run are closed, and they get a moment to finish; processes are terminated after that.

    An exception that leaves `target` closes the channel and becomes an ``error`` event here, an :class:`ErrorEvent`,
    in the context of this port. Where nobody listens for that yet, it goes to ``threading.excepthook``, and a listener
    that comes later still gets the event. The exception of a process arrives as a copy whose ``__cause__`` shows the
    traceback; that is in the event's ``traceback`` too. SystemExit is no error: it ends the thread or process.

    :param target: a callable; it gets a MessagePort and `args`. A process has to find it by its name.
    :param args: passed on to `target`: to a thread as they are, without cloning; to a process as multiprocessing
        does it, so that there may be ports among them.
    :param kind: ``"thread"`` or ``"process"``.
    :param name: the name of the thread or process; one is made up otherwise.
    :param start_method: how multiprocessing starts a process: ``"spawn"``, which is what None stands for,
        ``"forkserver"`` or ``"fork"``.
    :ivar port: the port that leads to the target: the Worker itself.
    :raises TypeError: for a target that is not callable, or a name that is not a str.
    :raises ValueError: for an unknown kind or start method, or a start method for a thread.
    :raises NotImplementedError: for a process, on a platform without the memory and sockets to share with one.
    """

    __module__ = "messagechannel"

    def __new__(cls, target, /, *args, kind="thread", name=None, start_method=None):
        """Make the channel and start the target."""
        if not callable(target):
            raise TypeError(f"target must be callable, not {type(target).__name__}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, not {name!r}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, not {kind!r}")
        if start_method is not None and kind != "process":
            raise ValueError(f"start_method is for kind='process'; a {kind} has none, but {start_method!r} was given")
        from weakref import ref

        self, port = entangled_ports(cls)
        self._error_event = None
        self._error_lock = RLock()
        tell = _Teller(ref(self))
        name = name or f"Worker-{next(_numbers)}"
        if kind == "thread":
            context = _ThreadContext(target, port, args, name, tell)
        else:
            from messagechannel.process import ProcessContext

            context = ProcessContext(target, port, args, name, start_method, tell)
        self._context = context
        _forget_ended()
        with _entering:
            # At exit multiprocessing waits for processes, for which it has registered by now: channels close before.
            if not _running or kind == "process":
                _prepare_exit()
            _running[context] = ref(self)
        # A process that is forked keeps what is named here, and this port is to close when its target has forgotten it.
        del port
        try:
            context.start()
        except BaseException:
            _running.pop(context, None)
            self.close()
            raise
        return self

    def __init__(self, target, /, *args, kind="thread", name=None, start_method=None):
        """Do nothing more: everything was done when the object was made."""

    @property
    def port(self):
        """The port that leads to the target: the Worker itself."""
        return self

    @property
    def name(self):
        """The name of the thread or process."""
        return self._context.name

    @property
    def exitcode(self):
        """What a process has exited with: minus the number of a signal that ended it. None while it runs."""
        return self._context.exitcode

    @property
    def onerror(self):
        """The listener for the ``error`` event: an exception that left the target."""
        return get_handler(self, "error")

    @onerror.setter
    def onerror(self, listener):
        set_handler(self, "error", listener)
        self._offer_error_event()

    def add_event_listener(self, type, listener, *, once=False):
        """Call `listener` with every event of `type`; see :meth:`EventTarget.add_event_listener`."""
        super().add_event_listener(type, listener, once=once)
        self._offer_error_event()

    def _offer_error_event(self):
        # Called by whoever has got the exception and by whoever adds a listener: one of them delivers, once.
        with self._error_lock:
            event = self._error_event
            if event is None or not queue_event(self, event):
                return False
            self._error_event = None
            return True

    def is_alive(self):
        """Tell whether the target still runs."""
        return self._context.is_alive()

    def join(self, timeout=None):
        """Wait until the target has returned, at most `timeout` seconds; None waits for ever.

        An error of a process that has ended is on its way to the listeners then, which an exit of this one waits for.

        :raises TypeError: for a timeout that is not a number.
        :raises ValueError: for one that is negative or NaN.
        """
        end = monotonic() + seconds_of(timeout)
        while True:
            left = end - monotonic()
            self._context.join(max(0.0, min(left, JOIN_SECONDS)))
            if left <= JOIN_SECONDS or not self.is_alive():
                break
            settle()
        _forget_ended()

    def terminate(self):
        """Stop the target: a process is ended, whatever it does, and the channel with it.

        A thread can't be stopped from outside, so for one the channel is closed: a target that computes goes on until
        it next waits for its port. Then it gets what was posted before, and after that ChannelClosedError.
        """
        self._context.terminate()
        self.close()


class _Teller:
    """Tells a Worker of an exception that left its target, or everybody, where there is nobody to listen."""

    def __init__(self, reference):
        self._reference = reference

    def __call__(self, event):
        import threading

        worker = self._reference()
        if worker is not None:
            worker._error_event = event
        if worker is None or not worker._offer_error_event():
            error = event.error
            threading.excepthook(
                threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
            )
