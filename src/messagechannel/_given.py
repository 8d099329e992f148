"""Which ports are in what multiprocessing gives to another process."""

from __future__ import annotations

import copyreg
import sys
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import CellType, FunctionType, MethodDescriptorType, MethodType, WrapperDescriptorType
from typing import Any

from messagechannel._core import MessagePort, may_depart

_PROTOCOL = 5
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
_COLLECTIONS = frozenset({tuple, list, set, frozenset})
# What the pickler of multiprocessing has reducers for that lend nothing to anybody.
_REFERENCES = frozenset({MethodType, MethodDescriptorType, WrapperDescriptorType, partial})


def _reducers() -> dict[type, Any]:
    """Return multiprocessing's own reducers, by type: most of them lend descriptors."""
    pickler: Any = ForkingPickler
    reducers: dict[type, Any] = pickler._extra_reducers
    return reducers


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
        kind = type(one)
        if kind in _ATOMS or id(one) in seen:
            continue
        seen[id(one)] = one
        if kind is MessagePort:
            if may_depart(one):
                found[id(one)] = one
        elif kind in _COLLECTIONS:
            left += [(item, depth) for item in tuple(one)]
        elif kind is dict:
            left += [(item, depth) for pair in list(one.items()) for item in pair]
        elif depth < deepest:
            left += [(item, depth + 1) for item in _inside(one)]
        else:
            # Objects that make others whenever they are reduced have no end.
            deepest = 0
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
        parts = [] if isinstance(reduction, str) else list(reduction)
        # Behind the state there are iterators over items.
        return [*parts[:3], *(list(items or ()) for items in parts[3:5])]
    except Exception:
        return []


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        # Nothing was assigned yet.
        return None
