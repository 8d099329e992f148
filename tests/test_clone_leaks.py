"""Structured clones leave nothing behind, whether they succeed or fail."""

import collections
import contextlib
import gc
import itertools
import sys

import pytest

from messagechannel import DataCloneError, structured_clone
from reducers import Bag, Reduced
from test_clone import IMMUTABLE, MUTABLE, Sub
from test_clone_faults import small_values


@pytest.fixture(autouse=True, scope="module")
def _nothing_but_the_clones_is_collected():
    """A collection that goes through all of pytest takes a hundred times as long as one of these tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def references(sentinels):
    return [sys.getrefcount(sentinel) for sentinel in sentinels]


class Refused:
    def __reduce__(self):
        raise TypeError("cannot pickle this")


class Raising:
    def __reduce__(self):
        raise ZeroDivisionError


class Unset:
    """Its clone can't be given its state."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return Unset, (None,), self.state

    def __setstate__(self, state):
        raise ZeroDivisionError


def hashable(items):
    return [item for item in items if not isinstance(item, (tuple, bytearray)) and item.__hash__]


ENDS = {"cloned": list, "refused": Refused, "raises": Raising, "raises late": lambda: Unset([1])}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda items: items,
        lambda items: {str(index): item for index, item in enumerate(items)},
        lambda items: {(index, "k"): item for index, item in enumerate(items)},
        lambda items: {(item, index) if item in hashable(items) else index: item for index, item in enumerate(items)},
        tuple,
        lambda items: {*hashable(items)},
        lambda items: frozenset(hashable(items)),
        collections.deque,
        lambda items: Bag(**{f"name{index}": item for index, item in enumerate(items)}),
        lambda items: collections.OrderedDict(enumerate(items)),
        lambda items: Sub(items),
        lambda items: ValueError(*items),
        lambda items: Unset(items),
        lambda items: Reduced(lambda: (list, (), None, iter(items))),
        lambda items: Reduced(lambda: (dict, (), None, None, iter(enumerate(items)))),
    ],
)
def test_a_clone_leaves_the_references_to_what_it_met_as_they_were(wrap, end):
    sentinels = [
        [1],
        {"a": 1},
        {1},
        Bag(a=[1]),
        Bag(),
        ("tuple", [1]),
        bytearray(b"x"),
        frozenset([Bag()]),
        2.5,
        "text",
    ]
    value = wrap([*sentinels, end()])
    sentinels += [value, type(value), Bag, object, Refused]
    before = after = None
    for _ in range(3):
        before = after
        with contextlib.suppress(DataCloneError, ZeroDivisionError):
            structured_clone([value, value])
        gc.collect()
        after = references(sentinels)
        assert before in (None, after)


@pytest.mark.skipif(not hasattr(sys, "gettotalrefcount"), reason="only a debug build of Python counts all references")
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in small_values()])
def test_no_reference_is_left(make):
    value, before = make(), 0
    for number in range(200):
        if number == 100:
            before = sys.gettotalrefcount()
        structured_clone(value)
    assert abs(sys.gettotalrefcount() - before) < 20


LEAK_VALUES = [(f"{index} {value!r}"[:40], value) for index, value in enumerate((*IMMUTABLE, *MUTABLE))]
LEAK_VALUES += [(name, make()) for name, make in small_values()]


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in LEAK_VALUES])
def test_no_memory_is_left(value):
    def clone(times):
        for _ in range(times):
            structured_clone(value)
        gc.collect()

    blocks = []
    for _ in range(8):
        clone(200)
        blocks.append(sys.getallocatedblocks())
    # CPython itself keeps something now and then; a clone would in each round.
    assert min(after - before for before, after in itertools.pairwise(blocks)) < 50
