"""Which ports are in what multiprocessing gives to another process."""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Iterable
from functools import partial
from itertools import chain
from multiprocessing import resource_sharer
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import CellType, FunctionType, MethodDescriptorType, MethodType, WrapperDescriptorType
from typing import Any

from messagechannel._core import MessagePort, check_departure, may_depart
from messagechannel._wire import Descriptor, SharedBuffer

_PROTOCOL = 5
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, type})
_COLLECTIONS = frozenset({tuple, list, set, frozenset})
# What the pickler of multiprocessing has reducers for that lend nothing to anybody.
_REFERENCES = frozenset({MethodType, MethodDescriptorType, WrapperDescriptorType, partial})
# Where there are no descriptors, there is no such class.
_DupFd = getattr(resource_sharer, "DupFd", None)


def sharer() -> Any:
    """Return what fetches of multiprocessing's descriptors are served by."""
    module: Any = resource_sharer
    return module._resource_sharer


def _reducers() -> dict[type, Any]:
    """Return multiprocessing's own reducers, by type: most of them lend descriptors."""
    pickler: Any = ForkingPickler
    reducers: dict[type, Any] = pickler._extra_reducers
    return reducers


# ---- what is pickled ----


def rehearsed(value: object) -> dict[int, MessagePort[Any]]:
    """Return the ports that depart when multiprocessing pickles an object, by their ids; nothing has changed then.

    :raises DataCloneError: for a port that can't depart.
    :raises Exception: whatever else pickling the object raises.
    """
    rehearsal = _Rehearsal()
    rehearsal.dump(value)
    return rehearsal.ports


class _Nowhere:
    def write(self, data: object) -> None:
        """Keep nothing."""


class _Rehearsal(pickle.Pickler):
    """Does what multiprocessing's pickler does, but detaches no port and lends no descriptor."""

    # In place of what is not looked into.
    _NOTHING: tuple[Any, ...] = (int, ())

    def __init__(self) -> None:
        # Buffers are kept out of the pickle, and so are not copied.
        super().__init__(_Nowhere(), _PROTOCOL, buffer_callback=lambda buffer: False)
        self.ports: dict[int, MessagePort[Any]] = {}
        self._lent_before = sharer()._key

    def reducer_override(self, obj: Any) -> Any:
        """Say what is pickled in place of an object."""
        kind = type(obj)
        if kind is MessagePort:
            check_departure(obj)
            self.ports[id(obj)] = obj
            return self._NOTHING
        if kind is _DupFd:
            self._take_back(obj)
            return self._NOTHING
        # These look at who pickles them.
        if kind is SharedBuffer or kind is Descriptor:
            return self._NOTHING
        reducer = _reducers().get(kind)
        if reducer is None:
            return NotImplemented
        return reducer(obj) if kind in _REFERENCES else self._NOTHING

    def _take_back(self, lent: Any) -> None:
        """Close a descriptor that a reducer has lent for this pickle, which nobody reads."""
        key = lent._id[1]
        if key > self._lent_before:
            _, close = sharer()._cache.pop(key)
            close()


# ---- what is not ----


def ports_of_process(process: BaseProcess) -> dict[int, MessagePort[Any]]:
    """Return the ports that are to be a forked process's own, by their ids: those to which its attributes lead.

    They lead as far as pickle would go, past what it can't pickle, and into what functions close over.
    """
    return _ports_in(vars(process), True)


def ports_at_hand(value: object) -> dict[int, MessagePort[Any]]:
    """Return the ports in collections inside one another, or in those of a process, by their ids.

    No code of any object's is run.
    """
    return _ports_in(vars(value) if isinstance(value, BaseProcess) else value, False)


def _ports_in(value: object, reduces: bool) -> dict[int, MessagePort[Any]]:
    found: dict[int, MessagePort[Any]] = {}
    # By id. They stay alive, so that these are theirs.
    seen: dict[int, object] = {}
    # With how many objects that were reduced are around them.
    left: list[tuple[Any, int]] = [(value, 0)]
    deepest = sys.getrecursionlimit() if reduces else 0
    while left:
        one, depth = left.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        kind = type(one)
        items: Iterable[Any] = ()
        if kind is MessagePort:
            if may_depart(one):
                found[id(one)] = one
        elif kind in _COLLECTIONS:
            items = tuple(one)
        elif kind is dict:
            items = chain(tuple(one), tuple(one.values()))
        elif depth < deepest:
            items = _inside(one)
            depth += 1
        else:
            # Objects that make others whenever they are reduced have no end.
            deepest = 0
        left += [(item, depth) for item in items if type(item) not in _ATOMS]
    return found


def _inside(one: Any) -> list[Any]:
    """Return what would be pickled with an object; nothing, where it can't be pickled."""
    kind = type(one)
    if kind is FunctionType:
        # No pickle has these.
        return [one.__defaults__, one.__kwdefaults__, *(_content(cell) for cell in one.__closure__ or ())]
    if kind is MethodType:
        return [one.__self__, one.__func__]
    if issubclass(kind, type) or (kind in _reducers() and kind not in _REFERENCES):
        return []
    reduce: object = kind.__reduce_ex__
    if reduce is not object.__reduce_ex__ and not isinstance(reduce, FunctionType):
        # Arrays, which would be copied.
        return []
    try:
        reducer = copyreg.dispatch_table.get(kind)
        reduction: Any = one.__reduce_ex__(_PROTOCOL) if reducer is None else reducer(one)
        if isinstance(reduction, str):
            return []
        # What is called, with which arguments; the state; and iterators over items.
        return [reduction[0], *reduction[1], *reduction[2:3], *(list(items) for items in reduction[3:5] if items)]
    except Exception:
        return []


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        # Nothing was assigned yet.
        return None
