"""Object graphs for the tests of the clone: the classes, and a comparison that sees types, sharing and cycles."""

import array
import collections
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import operator
import pathlib
import re
import types
import uuid
from typing import NamedTuple


class Plain:
    """Nothing but a ``__dict__``."""


@dataclasses.dataclass
class Data:
    first: object = None
    second: object = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    first: object = None
    second: object = None


class Slots:
    __slots__ = ("first", "second")


class SlotsAndDict(Slots):
    pass


class SlotsBelow(Slots):
    __slots__ = ("__weakref__", "third")


@dataclasses.dataclass(frozen=True)
class FrozenSlots:
    __slots__ = ("first", "second")
    first: object
    second: object

    def __getstate__(self):
        return [self.first, self.second]

    def __setstate__(self, state):
        for name, value in zip(self.__slots__, state, strict=True):
            object.__setattr__(self, name, value)


class State:
    """Keeps its state under other names than it says."""

    def __init__(self):
        self.kept = []

    def __getstate__(self):
        return {"said": self.kept}

    def __setstate__(self, state):
        self.kept = state["said"]


class FalseState(State):
    """Its state is false, and is set all the same."""

    def __init__(self):
        self.kept = [()]

    def __getstate__(self):
        return ()

    def __setstate__(self, state):
        self.kept = [state]


class Arguments:
    def __new__(cls, first, *, second):
        self = super().__new__(cls)
        self.first, self.second = first, second
        return self

    def __getnewargs_ex__(self):
        return (self.first,), {"second": self.second}


class Reduced:
    """Says everything that a reducer can say."""

    def __init__(self, label):
        self.label, self.items, self.pairs, self.state = label, [], {}, None

    def __reduce__(self):
        return Reduced, (self.label,), {"said": self.state}, iter(self.items), iter(self.pairs.items()), set_reduced

    def extend(self, items):
        self.items.extend(items)

    def __setitem__(self, key, value):
        self.pairs[key] = value


def set_reduced(reduced, state):
    reduced.state = state["said"]


class Singleton:
    def __reduce__(self):
        return "SINGLETON"


SINGLETON = Singleton()


class Registered:
    def __init__(self, content):
        self.content = content


def make_registered(content):
    return Registered(content)


copyreg.pickle(Registered, lambda value: (make_registered, (value.content,)))


class ListOf(list):
    pass


class DictOf(dict):
    pass


class SetOf(set):
    pass


class TupleOf(tuple):
    pass


class Text(str):
    __slots__ = ("note",)


class Number(int):
    pass


class Pair(NamedTuple):
    first: object
    second: object


class Color(enum.Enum):
    RED = bytearray(b"red")
    GREEN = 2


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class TroubleError(Exception):
    pass


class Names:
    """Has a property where others have attributes, and finds names by itself."""

    def __init__(self):
        self.__dict__["first"] = []

    @property
    def first(self):
        return "not this"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"found {name}"


class Outer:
    class Inner:
        def __init__(self):
            self.value = []

    def method(self):
        pass


def function():
    pass


IMMUTABLE = [
    None, True, 0, -(10**30), 1.5, float("nan"), -0.0, 1j, "text", "\ud800", b"bytes", "", (), frozenset(),
    ..., NotImplemented, range(3), datetime.date(2020, 1, 2), datetime.time(1, 2), datetime.timedelta(3),
    datetime.datetime(2020, 1, 2, fold=1), datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.timezone(datetime.timedelta(hours=1), "X"), decimal.Decimal("1.50"), fractions.Fraction(1, 3),
    uuid.UUID(int=5), pathlib.PurePosixPath("a/b"), pathlib.Path("c"), re.compile("a+", re.I),
    ipaddress.ip_address("127.0.0.1"), ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("::1/64"),
    Color.RED, Color.GREEN, Mode.READ | Mode.WRITE, SINGLETON, function, Outer, Outer.Inner, Outer.method, len, int,
    type(None), type(...), operator.itemgetter, datetime, (1, ("a", frozenset({2.5, ("b",)}))),
]  # fmt: skip
IMMUTABLE.remove(datetime)


# ---- making graphs ----


def some(children, number):
    """Return so many children, and zeros for those that are missing."""
    return [*children[:number], *[0] * (number - len(children))]


# What is complete when it is made: a function of the children.
COMPLETE = {
    "tuple": lambda children: tuple(children),
    "pair": lambda children: Pair(*some(children, 2)),
    "frozen": lambda children: Frozen(*some(children, 2)),
    "frozen slots": lambda children: FrozenSlots(*some(children, 2)),
    "arguments": lambda children: Arguments(*some(children, 1), second=children[1:]),
    "registered": lambda children: Registered(children),
    "partial": lambda children: functools.partial(function, *children, last=children),
    "items": lambda children: collections.ChainMap({"x": children}, {}),
    "slice": lambda children: slice(*some(children, 3)),
    "number": lambda children: Number(len(children)),
    "frozenset": lambda children: frozenset(child for child in children if is_hashable(child)),
}


def set_attributes(*names):
    """Return a function that gives an object one attribute a child, as far as the names go."""

    def fill(made, children):
        for name, child in zip(names, children, strict=False):
            setattr(made, name, child)

    return fill


def fill_names(made, children):
    made.__dict__["first"].extend(children)


def fill_pairs(*keys):
    return lambda made, children: made.update(zip(keys, children, strict=False))


def fill_subclass(made, children):
    fill_pairs("a", "b")(made, children) if isinstance(made, dict) else made.extend(children)
    made.note, made.itself = children, made


def fill_reduced(made, children):
    made.items.extend(children)
    made.pairs.update(enumerate(children))
    made.state = children


def fill_trouble(made, children):
    made.args, made.__notes__, made.x = tuple(children), ["note"], children


def fill_hashable(made, children):
    made.update(child for child in children if is_hashable(child))


def nothing(made, children):
    pass


# What is filled afterwards, so that it can contain itself: a maker, and a function of the thing and its children.
FILLED = {
    "list": (list, list.extend),
    "dict": (dict, lambda made, children: made.update(enumerate(children))),
    "names to values": (dict, fill_pairs("a", "b", "c", "d")),
    "keys": (dict, lambda made, children: made.update((key, [key]) for key in children if is_hashable(key))),
    "set": (set, fill_hashable),
    "deque": (lambda: collections.deque(maxlen=3), collections.deque.extend),
    "ordered": (collections.OrderedDict, fill_pairs("z", "y", "x")),
    "default": (lambda: collections.defaultdict(list), lambda made, children: made.update(enumerate(children))),
    "counter": (collections.Counter, lambda made, children: made.update({"a": 3, len(children): 4})),
    "list of": (ListOf, fill_subclass),
    "dict of": (DictOf, fill_subclass),
    "set of": (SetOf, set_attributes("note")),
    "tuple of": (lambda: TupleOf((1, 2)), set_attributes("note", "other")),
    "text": (lambda: Text("text"), set_attributes("note")),
    "plain": (Plain, set_attributes("a", "b", "c")),
    "data": (Data, set_attributes("first", "second", "third")),
    "slots": (Slots, set_attributes("first", "second")),
    "slots and dict": (SlotsAndDict, set_attributes("first", "other", "second")),
    "slots below": (SlotsBelow, set_attributes("third", "first")),
    "state": (State, lambda made, children: made.kept.extend(children)),
    "false state": (FalseState, nothing),
    "reduced": (lambda: Reduced("label"), fill_reduced),
    "namespace": (types.SimpleNamespace, set_attributes("a", "b", "c")),
    "trouble": (lambda: TroubleError("message", 1), fill_trouble),
    "names": (Names, fill_names),
    "inner": (Outer.Inner, lambda made, children: made.value.extend(children)),
    "bytearray": (lambda: bytearray(b"abc"), lambda made, children: made.append(len(children))),
    "array": (lambda: array.array("d", [1.5]), lambda made, children: made.append(len(children))),
    "object": (object, nothing),
}


def is_hashable(value):
    """Whether equality, and not identity, decides what else a value is in a set."""
    if type(value) in (tuple, Pair, Frozen, FrozenSlots):
        return all(is_hashable(part) for part in parts_of(value))
    return is_immutable(value) or isinstance(value, (frozenset, Text, Number))


def build(nodes):
    """Make a list of objects; each node is a pair of its kind, or the number of an immutable value, and its children.

    Children of what is complete when it is made come before it; the others may be any.
    """
    made = []
    for kind, children in nodes:
        if isinstance(kind, int):
            made.append(IMMUTABLE[kind % len(IMMUTABLE)])
        elif kind in FILLED:
            made.append(FILLED[kind][0]())
        else:
            made.append(COMPLETE[kind]([made[child % len(made)] for child in children] if made else []))
    for (kind, children), value in zip(nodes, made, strict=True):
        if kind in FILLED:
            FILLED[kind][1](value, [made[child % len(made)] for child in children])
    return made


# ---- comparing graphs ----


def is_immutable(value):
    """Whether a value is to be passed by reference."""
    if type(value) in (tuple, frozenset):
        return all(is_immutable(item) for item in value)
    return any(value is immutable for immutable in IMMUTABLE) or type(value) in (int, str, float, bytes, bool, complex)


def parts_of(value):
    """What a value consists of, in an order that does not depend on identities."""
    parts = []
    if isinstance(value, (list, tuple, collections.deque)):
        parts += list(value)
    elif isinstance(value, dict):
        parts += [part for item in dict.items(value) for part in item]
    elif isinstance(value, collections.ChainMap):
        parts += value.maps
    elif isinstance(value, functools.partial):
        parts += [value.func, value.args, value.keywords]
    elif isinstance(value, slice):
        parts += [value.start, value.stop, value.step]
    elif isinstance(value, BaseException):
        parts.append(value.args)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        parts += [part for item in attributes.items() for part in item]
    for cls in type(value).__mro__:
        for name in cls.__dict__.get("__slots__", ()):
            if not name.startswith("__"):
                parts.append(hasattr(value, name))
                parts.append(getattr(value, name, None))
    return parts


LEAVES = (str, int, float, complex, bytes, bytearray, array.array, set, frozenset, collections.defaultdict)


def assert_same_graph(one, other):
    """Assert that two graphs consist of the same types and values, and are shared and closed in the same way."""
    there, back, pending = {}, {}, [(one, other)]
    while pending:
        a, b = pending.pop()
        assert type(a) is type(b)
        if is_immutable(a):
            assert a is b or canonical(a) == canonical(b)
            continue
        assert (id(a) in there) == (id(b) in back)
        if id(a) in there:
            assert there[id(a)] is b
            continue
        # Both keep what they map alive, so that no id is used twice.
        there[id(a)], back[id(b)] = b, a
        if isinstance(a, LEAVES):
            assert_same_leaf(a, b)
        parts_a, parts_b = parts_of(a), parts_of(b)
        assert len(parts_a) == len(parts_b)
        pending.extend(zip(parts_a, parts_b, strict=True))


def assert_same_leaf(a, b):
    if isinstance(a, (set, frozenset)):
        assert canonical(a) == canonical(b)
    elif isinstance(a, collections.defaultdict):
        assert a.default_factory is b.default_factory
    elif isinstance(a, array.array):
        assert (a.typecode, a.tolist()) == (b.typecode, b.tolist())
    elif isinstance(a, bytearray):
        assert bytes(a) == bytes(b)
    elif isinstance(a, str):
        assert str.__str__(a) == str.__str__(b)
    else:
        assert repr(a) == repr(b)


def canonical(value):
    """Describe a hashable value: two sets are the same when their descriptions are."""
    if isinstance(value, (set, frozenset)):
        return (type(value), sorted(repr(canonical(item)) for item in value))
    if type(value) in (tuple, Pair, Frozen, FrozenSlots):
        return (type(value), [canonical(part) for part in parts_of(value)])
    return (type(value), "".join(value) if isinstance(value, str) else repr(value))


def assert_nothing_shared(original, clone):
    """Assert that a clone has nothing mutable of the original, and everything immutable."""
    pending, seen = [(original, clone)], set()
    while pending:
        a, b = pending.pop()
        if is_immutable(a):
            # Names of attributes are interned, as pickle does.
            assert a is b or type(a) is str
        elif id(a) not in seen:
            seen.add(id(a))
            assert a is not b
            pending.extend(zip(parts_of(a), parts_of(b), strict=True))
