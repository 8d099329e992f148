"""Worker: another context that runs a function, and the port that leads to it."""

from _thread import RLock
from itertools import count

from messagechannel._context import register_exit, threads_may_stay
from messagechannel._core import ChannelClosedError, MessagePort, entangled_ports, queue_event
from messagechannel._events import ErrorEvent, get_handler, set_handler

# How long interpreter exit waits for the workers' threads, all together, after it has closed their channels; seconds.
EXIT_PATIENCE = 1.0

_numbers = count(1)
# Thread -> weak reference to its Worker, while the thread runs.
_running = {}
# Held while a worker is entered there, or takes a name.
_entering = RLock()
_exit_prepared = False


def _close_workers_at_exit():
    from time import monotonic

    end = monotonic() + EXIT_PATIENCE
    running = list(_running.items())
    for _, reference in running:
        worker = reference()
        if worker is not None:
            worker.close()
    for thread, _ in running:
        thread.join(max(0.0, end - monotonic()))


def _prepare_exit():
    global _exit_prepared
    if threads_may_stay():
        import atexit

        # What was registered last is called first: before the dispatcher thread has delivered.
        atexit.unregister(_close_workers_at_exit)
    elif _exit_prepared:
        return
    register_exit(_close_workers_at_exit)
    _exit_prepared = True


class Worker(MessagePort):
    """Runs ``target(port, *args)`` in a new context, and is itself the port at the other end (HTML, "Workers").

    So a Worker has everything that a port has: ``post_message``, ``onmessage``, ``receive``, iteration. The channel
    closes when the Worker is closed or forgotten; `target` notices by the end of its iteration, by ChannelClosedError
    (which may leave it then), or by the ``close`` event. When `target` has returned, its port goes the way of every
    port: it stays while it has listeners, and closes otherwise. At interpreter exit the channels of all workers are
    closed, and their threads get a moment to finish.

    An exception that leaves `target` closes the channel and becomes an ``error`` event here, an :class:`ErrorEvent`,
    in the context of this port. Where nobody listens for that yet, it goes to ``threading.excepthook``, and a listener
    that comes later still gets the event.

    :param target: a callable; it gets a MessagePort and `args`.
    :param args: passed on to `target` as they are, without cloning.
    :param kind: ``"thread"``, the one kind there is in this version.
    :param name: the thread's name; one is made up otherwise.
    :ivar port: the port that leads to the target: the Worker itself.
    :raises TypeError: for a target that is not callable.
    :raises ValueError: for an unknown kind.
    """

    __module__ = "messagechannel"

    def __new__(cls, target, /, *args, kind="thread", name=None):
        """Make the channel and start the target."""
        if not callable(target):
            raise TypeError(f"target must be callable, not {type(target).__name__}")
        if kind != "thread":
            raise ValueError(f"kind must be 'thread', not {kind!r}; other kinds are not built yet")
        import threading
        from weakref import ref

        self, port = entangled_ports(cls)
        self._error_event = None
        self._error_lock = threading.RLock()
        with _entering:
            self._thread = threading.Thread(
                target=_run,
                args=(target, port, args, ref(self)),
                name=name or f"Worker-{next(_numbers)}",
                daemon=threads_may_stay(),
            )
            if not _running:
                _prepare_exit()
            _running[self._thread] = ref(self)
        try:
            self._thread.start()
        except BaseException:
            del _running[self._thread]
            raise
        return self

    def __init__(self, target, /, *args, kind="thread", name=None):
        """Do nothing more: everything was done when the object was made."""

    @property
    def port(self):
        """The port that leads to the target: the Worker itself."""
        return self

    @property
    def name(self):
        """The thread's name."""
        return self._thread.name

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
        # Called by the target's thread and by whoever adds a listener: one of them delivers, once.
        with self._error_lock:
            event = self._error_event
            if event is None or not queue_event(self, event):
                return False
            self._error_event = None
            return True

    def is_alive(self):
        """Tell whether the target still runs."""
        return self._thread.is_alive()

    def join(self, timeout=None):
        """Wait until the target has returned, at most `timeout` seconds; None waits for ever."""
        self._thread.join(timeout)

    def terminate(self):
        """Close the channel.

        A thread can't be stopped from outside: a target that computes goes on until it next waits for its port. Then
        it gets what was posted before, and after that ChannelClosedError.
        """
        self.close()


def _run(target, port, args, reference):
    import threading

    thread = threading.current_thread()
    try:
        target(port, *args)
    except BaseException as error:
        if isinstance(error, ChannelClosedError) and port.closed:
            # How a target that waits for its port ends when the Worker was closed.
            return
        port.close()
        worker = reference()
        if worker is not None:
            worker._error_event = ErrorEvent("error", message=f"{type(error).__name__}: {error}", error=error)
        if worker is None or not worker._offer_error_event():
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))
    finally:
        del _running[thread]
