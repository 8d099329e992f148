"""Ports where multiprocessing passes its Connections: arguments of processes, Pipes, Queues.

There a port is transferred, as in a transfer list: the other process has it afterwards, and here it is detached. Its
pickles are for multiprocessing's own pickler alone: they are good for one reading, by a process of this machine.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from _weakref import ref

from messagechannel._core import MessagePort, revive, set_reduction
from messagechannel._transfer import DataCloneError
from messagechannel._wire import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from types import FrameType
    from typing import Any

# How often, in seconds, and for how long to look whether a process that was given descriptors has been started.
_LOOK_SECONDS = 0.002
_PATIENCE_SECONDS = 60.0
# The most that multiprocessing opens to start a process, once what it passes was pickled.
_STARTING = 16
# Among the variables of a call of multiprocessing's pickler: the ports that it is yet to pickle.
_FOLLOWING = "ports of messagechannel that follow"


def require_links() -> None:
    """Make sure that ports can go to other processes.

    :raises NotImplementedError: where the modules for that were not built, because the system is none that they know.
    """
    try:
        import messagechannel._far  # noqa: F401
    except ModuleNotFoundError as error:
        raise NotImplementedError(
            "channels to other processes need POSIX sockets and shared memory, and this library knows of none here"
        ) from error


def _reduce(port: MessagePort[Any]) -> tuple[Any, ...]:
    """Return what multiprocessing's pickler pickles in place of a port, which is detached."""
    require_links()
    from multiprocessing import context

    from messagechannel._far import arrive, depart
    from messagechannel._given import ports_at_hand, rehearsed, sharer
    from messagechannel._link import reserve_for

    spawning = context.get_spawning_popen()
    lent: list[Descriptor] = []
    pickling = sys._getframe(1).f_locals
    if _FOLLOWING not in pickling:
        # Before the first of them departs. What is pickled for a process that is being started may lend descriptors to
        # it, and does so once.
        pickling[_FOLLOWING] = (rehearsed if spawning is None else ports_at_hand)(pickling.get("obj"))
    following: dict[int, MessagePort[Any]] = pickling[_FOLLOWING]
    following.pop(id(port), None)
    # Nothing that may be missing is needed once a port has departed: no duplicates either.
    number = _lend(lent) if spawning is None else None
    try:
        # What is pickled after this one, and then the start of the process, find room, or nothing departs.
        room = reserve_for(following.values(), 0 if spawning is None else _STARTING)
        state, descriptors = depart(port)
    except BaseException:
        if number is not None:
            sharer()._cache.pop(number[1], None)
        raise
    del room
    if spawning is None:
        lent += descriptors
        return _fetch, (state, number, len(lent))
    # Their numbers are noted as they are pickled, and passed to the process that is being started.
    _keep_until_started(ref(spawning), descriptors, _PATIENCE_SECONDS)
    return arrive, (state, descriptors)


def _lend(descriptors: list[Descriptor]) -> Any:
    """Have another process fetch what is in the list by then; return what it asks by: an address and a number."""
    from multiprocessing import reduction

    from messagechannel._given import sharer

    def send(connection: Any, pid: int) -> None:
        for descriptor in descriptors:
            reduction.send_handle(connection, descriptor.fd, pid)

    return sharer().register(send, descriptors.clear)


def _fetch(state: bytes, number: object, count: int) -> MessagePort[Any]:
    from multiprocessing import reduction

    from messagechannel._far import arrive
    from messagechannel._given import sharer

    with sharer().get_connection(number) as connection:
        descriptors = [Descriptor(reduction.recv_handle(connection)) for _ in range(count)]
    for descriptor in descriptors:
        os.set_inheritable(descriptor.fd, False)
    return arrive(state, descriptors)


def _keep_until_started(spawning: ref[Any], descriptors: list[Descriptor], patience: float) -> None:
    # As long as they are open here, the death of the process that gets them is not noticed.
    from messagechannel._far import call_later

    popen = spawning()
    if popen is not None and not hasattr(popen, "pid") and patience > 0:
        call_later(_LOOK_SECONDS, lambda: _keep_until_started(spawning, descriptors, patience - _LOOK_SECONDS))


# ---- processes that are forked ----

# Nothing is pickled for those: they get the very objects that were given to them. So the ports in these depart before
# the fork, and in the child the same objects take over from what arrives.
# By thread, because several may fork at once.
_departed: dict[int, list[tuple[MessagePort[Any], bytes, list[Descriptor]]]] = {}


def _forking_process() -> BaseProcess | None:
    """Return the multiprocessing.Process for which this thread is about to fork."""
    # Who has called os.fork, and nobody further out: a process that was forked runs inside of such a call for ever.
    frame: FrameType = sys._getframe(2)
    if frame.f_globals.get("__name__") == "multiprocessing.popen_fork" and "process_obj" in frame.f_locals:
        process: BaseProcess = frame.f_locals["process_obj"]
        return process
    return None


def _before_fork() -> None:
    if "multiprocessing.popen_fork" not in sys.modules:
        return
    process = _forking_process()
    if process is None:
        return
    from messagechannel._given import ports_of_process

    found = ports_of_process(process)
    if found:
        from messagechannel._far import depart
        from messagechannel._link import reserve_for

        # For all at once, so that either all of them depart or none.
        reserve_for(found.values(), 0)
        departed: list[tuple[MessagePort[Any], bytes, list[Descriptor]]] = []
        _departed[get_ident()] = departed
        trouble = None
        for port in found.values():
            try:
                departed.append((port, *depart(port)))
            except DataCloneError as error:
                # One that passes references keeps no other from departing.
                trouble = error
        if trouble is not None:
            raise trouble


def _after_fork_in_parent() -> None:
    # The descriptors of what has departed are the child's alone from here on.
    _departed.pop(get_ident(), None)


def _after_fork_in_child() -> None:
    # What arrives has links that are not to be forgotten. Another thread may have been importing the module.
    forget = getattr(sys.modules.get("messagechannel._far"), "forget_the_parents_links", None)
    if forget is not None:
        forget()
    departed = _departed.pop(get_ident(), [])
    # With what other threads were about to give to other processes.
    _departed.clear()
    if departed:
        from messagechannel._far import arrive

        for port, state, descriptors in departed:
            revive(port, arrive(state, descriptors))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

set_reduction(_reduce)
