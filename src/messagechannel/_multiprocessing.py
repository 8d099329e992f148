"""Ports where multiprocessing passes its Connections: arguments of processes, Pipes, Queues.

There a port is transferred, as in a transfer list: the other process has it afterwards, and here it is detached. Its
pickles are for multiprocessing's own pickler alone: they are good for one reading, by a process of this machine.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from _weakref import ref

from messagechannel._core import MessagePort, set_reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from types import FrameType
    from typing import Any

# How often, in seconds, and for how long to look whether a process that was given descriptors has been started.
_LOOK_SECONDS = 0.002
_PATIENCE_SECONDS = 60.0


def _reduce(port: MessagePort[Any]) -> tuple[Any, ...]:
    """Return what multiprocessing's pickler pickles in place of a port, which is detached."""
    from multiprocessing import context, reduction

    from messagechannel._far import depart

    state, descriptors = depart(port)
    try:
        duplicates = [reduction.DupFd(descriptor) for descriptor in descriptors]
    except BaseException:
        # Nobody will have the port, of which its peer learns so.
        close_all(descriptors)
        raise
    spawning = context.get_spawning_popen()
    if spawning is None:
        # DupFd has made duplicates of its own.
        close_all(descriptors)
    else:
        # It has made a note of their numbers, and passes them to the process that is being started.
        _close_when_started(ref(spawning), descriptors, _PATIENCE_SECONDS)
    return _arrive, (state, duplicates)


def _arrive(state: bytes, duplicates: list[Any]) -> MessagePort[Any]:
    from messagechannel._far import arrive

    return arrive(state, [duplicate.detach() for duplicate in duplicates])


def close_all(descriptors: list[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def _close_when_started(spawning: ref[Any], descriptors: list[int], patience: float) -> None:
    # As long as they are open here, the death of the process that gets them is not noticed.
    from messagechannel._far import call_later

    popen = spawning()
    if popen is None or hasattr(popen, "pid") or patience <= 0:
        close_all(descriptors)
    else:
        call_later(_LOOK_SECONDS, lambda: _close_when_started(spawning, descriptors, patience - _LOOK_SECONDS))


# ---- processes that are forked ----

# Nothing is pickled for those: they get the very objects that were given to them. So ports among these depart before
# the fork, and arrive in the child in their places.
# By thread, because several may fork at once.
_departed: dict[int, tuple[BaseProcess, dict[int, tuple[bytes, list[int]]]]] = {}


def _find_ports(value: object, found: dict[int, MessagePort[Any]]) -> None:
    if type(value) is MessagePort:
        found[id(value)] = value
    elif type(value) in (tuple, list):
        for item in value:  # type: ignore[attr-defined]
            _find_ports(item, found)
    elif type(value) is dict:
        for item in value.values():
            _find_ports(item, found)


def _replaced(value: Any, ports: dict[int, MessagePort[Any]]) -> Any:
    if type(value) is MessagePort:
        return ports.get(id(value), value)
    if type(value) in (tuple, list):
        return type(value)(_replaced(item, ports) for item in value)
    if type(value) is dict:
        return {key: _replaced(item, ports) for key, item in value.items()}
    return value


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
    process: Any = _forking_process()
    found: dict[int, MessagePort[Any]] = {}
    if process is None:
        return
    _find_ports((getattr(process, "_args", ()), getattr(process, "_kwargs", {})), found)
    if found:
        from messagechannel._far import depart

        states: dict[int, tuple[bytes, list[int]]] = {}
        _departed[get_ident()] = process, states
        for key, port in found.items():
            if not port.closed:
                states[key] = depart(port)


def _after_fork_in_parent() -> None:
    _, states = _departed.pop(get_ident(), (None, {}))
    for _, descriptors in states.values():
        close_all(descriptors)


def _after_fork_in_child() -> None:
    process: Any
    process, states = _departed.pop(get_ident(), (None, {}))
    # What other threads were about to give to other processes.
    for _, others in _departed.values():
        for _, descriptors in others.values():
            close_all(descriptors)
    _departed.clear()
    if states:
        from messagechannel._far import arrive

        ports = {key: arrive(*state) for key, state in states.items()}
        process._args = _replaced(process._args, ports)
        process._kwargs = _replaced(process._kwargs, ports)


def after_fork_in_child(forget: Callable[[], object]) -> None:
    """Have `forget` called in forked children, before the ports arrive there that were given to them."""
    _forgetters.append(forget)


_forgetters: list[Callable[[], object]] = []


def _in_child() -> None:
    for forget in _forgetters:
        forget()
    _after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_in_child)

set_reduction(_reduce)
