"""Clones of object graphs that are built from bytes, against what pickle makes of them.

Alone, with random bytes:               python tests/fuzz/fuzz_clone.py --seconds 30 --seed 1
Guided by coverage (pip install atheris): python tests/fuzz/fuzz_clone.py --atheris [libFuzzer's options]

Half of the graphs keep still, and their clones must be what pickle makes. In the others reducers, hashes, comparisons
and destructors change the originals and the clones while those are made: there has to be a clone or an exception.
"""

import argparse
import array
import collections
import contextlib
import copyreg
import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import pickle
import random
import sys
import time
import types
import weakref
from typing import NamedTuple

from messagechannel import structured_clone

MOST_NODES = 60
MOST_STRIKES = 200


class Plain:
    def __init__(self, serial):
        self.serial = serial


class Slotted:
    __slots__ = ("__weakref__", "child", "other", "serial")

    def __init__(self, serial):
        self.serial = serial


class Both(Slotted):
    pass


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    serial: int
    child: object = None


class Pair(NamedTuple):
    first: object
    second: object


class ListWithAttributes(list):
    pass


class DictWithAttributes(dict):
    pass


class SetWithAttributes(set):
    pass


class Text(str):
    pass


class OwnError(Exception):
    pass


class Color(enum.Enum):
    RED = 1
    BLUE = (2, 3)


class Weak(Plain):
    """Has a strong reference in its state where it has a weak one itself."""

    def __getstate__(self):
        state = dict(self.__dict__)
        target = state.pop("weak", None)
        state["target"] = target and target()
        return state


class Selfish(Plain):
    def __getstate__(self):
        return {**self.__dict__, "me": self}


class Picky(Plain):
    """Reduces to the first of the items that another object holds."""

    def __reduce__(self):
        children = getattr(self, "children", None)
        return Plain, (self.serial,), {"first": children[0] if children else None, "children": children}


class Stated(Plain):
    def __getstate__(self):
        return [self.serial, getattr(self, "child", None)]

    def __setstate__(self, state):
        self.serial, self.child = state


class Stuffed(Plain):
    """Reduces to all that a reducer can return."""

    def __reduce__(self):
        items = list(getattr(self, "children", ()))
        pairs = [("pair", getattr(self, "child", None))]
        return Stuffed.make, (self.serial,), {"state": [1]}, iter(items), iter(pairs), set_state

    @staticmethod
    def make(serial):
        made = Stuffed(serial)
        made.children = []
        return made

    def append(self, item):
        self.children.append(item)

    def __setitem__(self, key, value):
        self.__dict__[key] = value


def set_state(made, state):
    made.__dict__.update(state)


class Registered(Plain):
    """Its reducer is in copyreg's table."""


def reduce_registered(value):
    return Registered, (value.serial,), dict(value.__dict__)


copyreg.pickle(Registered, reduce_registered)


def function():
    """Be found by name."""


OBJECTS = (Plain, Slotted, Both, Weak, Selfish, Picky, Stated, Stuffed, Registered)
CONSTANTS = (
    *(None, True, 0, -1, 10**30, 1.5, 2j, "text", "", b"bytes", b"", (), frozenset(), Ellipsis, NotImplemented),
    *(Color.RED, Color.BLUE, function, Plain, len, int, range(3), decimal.Decimal("1.5"), datetime.date(2020, 1, 2)),
    *(datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), datetime.timezone.utc),
)


class Builder:
    """Makes a graph; each byte decides something, and when there are no more, everything is 0."""

    def __init__(self, data):
        self.data = iter(data)
        self.nodes = []
        self.serial = 0

    def choose(self, number):
        return next(self.data, 0) % number

    def pick(self, choices):
        return choices[self.choose(len(choices))]

    def next_serial(self):
        self.serial += 1
        return self.serial

    def keep(self, node):
        self.nodes.append(node)
        return node

    def value(self, depth):
        """Return something old or new."""
        kind = self.choose(8)
        if kind == 0 or depth > 8 or len(self.nodes) >= MOST_NODES:
            return self.pick(CONSTANTS)
        if kind == 1 and self.nodes:
            return self.pick(self.nodes)
        return self.container(depth + 1)

    def values(self, depth, most=4):
        return [self.value(depth) for _ in range(self.choose(most))]

    def hashable(self, depth):
        """Return what can be told from all others when the clone's order is another one."""
        kind = self.choose(6)
        if kind == 0 and depth < 5:
            return (self.next_serial(), self.hashable(depth + 1))
        if kind == 1 and depth < 5:
            return frozenset([self.next_serial(), self.hashable(depth + 1)])
        if kind in (2, 3):
            return self.decorated(self.keep(self.pick(OBJECTS)(self.next_serial())), depth)
        return f"key {self.next_serial()}"

    def decorated(self, node, depth):
        """Give an object attributes."""
        node.child = self.value(depth + 1)
        if self.choose(3) == 0:
            node.other = self.value(depth + 1)
        if isinstance(node, (Picky, Stuffed)):
            node.children = [self.value(depth + 1) for _ in range(self.choose(3))]
        if isinstance(node, Weak):
            targets = [each for each in self.nodes if isinstance(each, Plain)]
            node.weak = weakref.ref(self.pick(targets))
        return node

    def container(self, depth):
        return self.pick(self.MAKERS)(self, depth)

    def make_list(self, depth):
        node = self.keep(self.pick((list, list, list, ListWithAttributes, collections.deque))())
        node.extend(self.values(depth, 6))
        return node

    def make_dict(self, depth):
        makers = (dict, dict, dict, DictWithAttributes, collections.OrderedDict, collections.Counter)
        node = self.keep(self.pick((*makers, functools.partial(collections.defaultdict, list)))())
        for _ in range(self.choose(6)):
            node[self.hashable(depth)] = self.value(depth)
        if self.choose(4) == 0 and node:
            # A gap among the entries, or an end without one.
            del node[self.pick(list(node))]
        return node

    def make_set(self, depth):
        node = self.keep(self.pick((set, set, SetWithAttributes))())
        for _ in range(self.choose(5)):
            node.add(self.hashable(depth))
        return node

    def make_attributes(self, depth):
        """Return a subclass of a builtin container, with attributes."""
        node = self.keep(self.pick((ListWithAttributes, DictWithAttributes, SetWithAttributes))())
        node.child = self.value(depth)
        return node

    def make_tuple(self, depth):
        return self.keep(tuple(self.values(depth, 6)))

    def make_frozenset(self, depth):
        return self.keep(frozenset([self.hashable(depth) for _ in range(self.choose(4))]))

    def make_pair(self, depth):
        return self.keep(Pair(self.value(depth), self.value(depth)))

    def make_frozen(self, depth):
        return self.keep(Frozen(self.next_serial(), self.value(depth)))

    def make_object(self, depth):
        return self.decorated(self.keep(self.pick(OBJECTS)(self.next_serial())), depth)

    def make_error(self, depth):
        node = self.keep(OwnError(*self.values(depth)))
        node.child = self.value(depth)
        return node

    def make_buffer(self, depth):
        size = self.choose(20)
        return self.keep(self.pick((bytearray(size), array.array("i", range(size)), Text("x" * size))))

    def make_namespace(self, depth):
        return self.keep(types.SimpleNamespace(a=self.value(depth), b=self.value(depth)))

    def make_partial(self, depth):
        return self.keep(functools.partial(function, *self.values(depth), key=self.value(depth)))

    MAKERS = (
        *(make_list, make_dict, make_set, make_attributes, make_tuple, make_frozenset, make_pair, make_frozen),
        *(make_object, make_object, make_error, make_buffer, make_namespace, make_partial),
    )

    def graph(self):
        root = self.keep([])
        root.extend(self.values(0, 8))
        for _ in range(self.choose(6)):
            # Cycles; a constant at the end, lest all ends be loops.
            node, target = self.pick(self.nodes), self.pick(self.nodes)
            if isinstance(node, (list, collections.deque)):
                node.append(target)
            elif isinstance(node, dict):
                node[f"cycle {self.next_serial()}"] = target
            elif type(node) in OBJECTS:
                node.child = target
        return root


# ---- graphs that keep still ----

ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), range, decimal.Decimal)
ATOMS += (datetime.date, datetime.datetime, datetime.timezone, enum.Enum, types.FunctionType, type, type(len))


def label(value):
    """Return what sorts the items of a set."""
    if isinstance(value, tuple):
        return f"({','.join(map(label, value))})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted(map(label, value)))}}}"
    return str(value.serial) if hasattr(value, "serial") else repr(value)


def parts(value):
    """Return what a value consists of, in an order that is the same for its clones."""
    found = []
    if isinstance(value, dict):
        for pair in value.items():
            found += pair
    elif isinstance(value, (set, frozenset)):
        found += sorted(value, key=label)
    elif isinstance(value, (list, tuple, collections.deque)):
        found += value
    elif isinstance(value, (bytearray, array.array)):
        found.append(repr(value))
    elif isinstance(value, functools.partial):
        found += [value.func, value.args, value.keywords]
    elif isinstance(value, BaseException):
        found.append(value.args)
    elif isinstance(value, Slotted):
        found += [getattr(value, name, "unset") for name in ("serial", "child", "other")]
    if isinstance(value, collections.defaultdict):
        found.append(value.default_factory)
    if hasattr(value, "__dict__"):
        for name, attribute in sorted(value.__dict__.items()):
            found += [name, attribute]
    return found


def compare(clone, model):
    """Make sure that two graphs are one: the same types and values, and the same things shared."""
    clones, models = {}, {}
    pending = [(clone, model, "$")]
    while pending:
        one, other, path = pending.pop()
        assert type(one) is type(other), (path, one, other)
        if isinstance(one, ATOMS):
            assert repr(one) == repr(other), (path, one, other)
            continue
        if one in ((), frozenset()):
            continue
        known = clones.setdefault(id(one), other) is other and models.setdefault(id(other), one) is one
        assert known, (path, "is shared in one of them only", one, other)
        if (id(one), id(other)) in clones:
            continue
        clones[id(one), id(other)] = True
        ones, others = parts(one), parts(other)
        assert len(ones) == len(others), (path, ones, others)
        pending += [(a, b, f"{path}/{index}") for index, (a, b) in enumerate(zip(ones, others, strict=True))]


def outcome(function, value):
    try:
        return function(value), None
    except Exception as error:
        return None, error


def fuzz_still(builder):
    value = builder.graph()
    # What more than its parent refers to is remembered, and can't be cloned twice.
    builder.nodes.clear()
    # A collection between the two would take what there are only weak references to.
    gc.disable()
    model, refusal = outcome(lambda value: pickle.loads(pickle.dumps(value, 5)), value)
    clone, error = outcome(structured_clone, value)
    gc.enable()
    assert (error is None) is (refusal is None), (error, refusal)
    if error is None:
        compare(clone, model)


# ---- graphs that do not ----


class Saboteur(Plain):
    """Strikes whenever one of its methods is called, and in its destructor."""

    plan = None

    def __reduce__(self):
        plan = Saboteur.plan
        plan.strike()
        kind = plan.builder.choose(6)
        if kind == 0:
            return remember, (self.serial, plan.builder.pick(plan.builder.nodes))
        if kind == 1:
            return remember, (self.serial,), None, iter(plan.targets()), iter([(self, plan.targets())])
        if kind == 2:
            return Saboteur, (self.serial,), plan.builder.pick(plan.builder.nodes)
        if kind == 3:
            return "SABOTEUR"
        return Saboteur, (self.serial,), self.__dict__

    def __hash__(self):
        if Saboteur.plan:
            Saboteur.plan.strike()
        return self.__dict__.get("serial", 0) % 3

    def __eq__(self, other):
        if Saboteur.plan:
            Saboteur.plan.strike()
        return self is other

    def __setstate__(self, state):
        Saboteur.plan.clones.append(state)
        Saboteur.plan.strike()

    def append(self, item):
        Saboteur.plan.clones.append(item)
        Saboteur.plan.strike()

    def __setitem__(self, key, value):
        Saboteur.plan.clones.append(value)
        Saboteur.plan.strike()

    def __del__(self):
        # At the interpreter's end the class may be gone before the last of its instances.
        if Saboteur is not None and Saboteur.plan:
            outcome(Plan.strike, Saboteur.plan)


SABOTEUR = Saboteur(0)


class Shifty(Plain):
    """A plain object to the eye; see Plan.strike for what happens to its class."""


def remember(serial, *clones):
    """Be what a reducer names, and get hold of clones that are not complete."""
    Saboteur.plan.clones.extend(clones)
    Saboteur.plan.strike()
    return Saboteur(serial)


class Plan:
    """What the methods do while a graph is cloned."""

    def __init__(self, builder):
        self.builder, self.clones, self.strikes = builder, [], 0

    def targets(self):
        return [self.builder.pick(self.clones or self.builder.nodes) for _ in range(self.builder.choose(3))]

    def strike(self):
        builder = self.builder
        self.strikes += 1
        if self.strikes > MOST_STRIKES:
            return
        kind = builder.choose(12)
        if kind == 0:
            gc.collect(builder.choose(2))
        elif kind == 1 and builder.choose(6) == 0:
            raise OwnError
        elif kind == 2:
            Shifty.__reduce__ = lambda self: (Plain, (1,))
        elif kind == 3 and "__reduce__" in Shifty.__dict__:
            del Shifty.__reduce__
        elif kind == 4:
            copyreg._slotnames(Both).append("child")
        elif kind == 5:
            del copyreg._slotnames(Both)[:]
        elif kind == 6:
            del builder.nodes[1:], self.clones[:]
        else:
            self.spoil(builder.pick(builder.nodes if builder.choose(2) or not self.clones else self.clones))

    def spoil(self, target):
        builder = self.builder
        kind = builder.choose(4)
        if kind == 0 and hasattr(target, "clear"):
            target.clear()
        elif kind == 1 and hasattr(target, "__dict__"):
            # CPython 3.13.0 crashes some time after __dict__.clear().
            for name in list(target.__dict__):
                target.__dict__.pop(name, None)
        elif kind == 2 and type(target) is Plain:
            target.__class__ = Shifty
        elif isinstance(target, (bytearray, array.array)):
            target.extend(bytes(100))
        elif isinstance(target, (list, collections.deque)):
            target.extend([[], builder.pick(builder.nodes)] * builder.choose(9))
        elif isinstance(target, dict):
            target.update({("new", number): [] for number in range(builder.choose(20))})
        elif isinstance(target, set):
            target.update(range(builder.choose(20)))
        elif isinstance(target, (Plain, Slotted)):
            target.child = [builder.pick(builder.nodes)]


def ignore_own_errors(unraisable):
    """Say nothing of the exceptions that CPython has to ignore."""
    if not isinstance(unraisable.exc_value, OwnError):
        sys.__unraisablehook__(unraisable)


def fuzz_sabotaged(builder):
    value = builder.graph()
    hook, sys.unraisablehook = sys.unraisablehook, ignore_own_errors
    Saboteur.plan = plan = Plan(builder)
    for _ in range(1 + builder.choose(4)):
        saboteur, target = Saboteur(builder.next_serial()), builder.pick(builder.nodes)
        if isinstance(target, list):
            target.insert(builder.choose(3), saboteur)
        elif isinstance(target, dict):
            outcome(target.update, [(saboteur if builder.choose(2) else "evil", saboteur)])
        elif isinstance(target, set):
            outcome(target.add, saboteur)
        elif isinstance(target, (Plain, Slotted)):
            target.child = saboteur
        else:
            value.append(saboteur)
    # What only the graph refers to can go at a strike.
    del saboteur, target, builder.nodes[1 :: 1 + builder.choose(4)]
    _, error = outcome(structured_clone, value)
    Saboteur.plan = None
    plan.clones.clear()
    sys.unraisablehook = hook
    assert not isinstance(error, SystemError), error
    copyreg._slotnames(Both)[:] = ["child", "other", "serial"]
    if "__reduce__" in Shifty.__dict__:
        del Shifty.__reduce__


def test_one_input(data):
    """Try one graph."""
    builder = Builder(data)
    (fuzz_sabotaged if builder.choose(2) else fuzz_still)(builder)
    assert gc.isenabled()


def run(seed, until):
    """Try random graphs until `until(number of those tried)`; return their number."""
    with swallowed_errors_unreported():
        return try_graphs(seed, until)


@contextlib.contextmanager
def swallowed_errors_unreported():
    """Say nothing of what __hash__ and __eq__ raise in C code of CPython that goes on all the same.

    Since version 3.13 it reports such exceptions.
    """
    former = sys.unraisablehook

    def report(unraisable):
        if not str(unraisable.err_msg).startswith("Exception ignored in PyDict_GetItem()"):
            former(unraisable)

    sys.unraisablehook = report
    try:
        yield
    finally:
        sys.unraisablehook = former


def try_graphs(seed, until):
    number = 0
    while not until(number):
        source = random.Random(f"{seed} {number}")
        data = source.randbytes(source.choice((30, 100, 300, 1000)))
        try:
            test_one_input(data)
        except BaseException:
            print(f"graph {number} of seed {seed}: {data.hex()}", file=sys.stderr)
            raise
        number += 1
        if number % 500 == 0:
            check_for_leaks()
    check_for_leaks()
    return number


def check_for_leaks():
    """Make sure that nothing that was ever cloned is still there, nor any clone."""
    gc.collect()
    left = [each for each in gc.get_objects() if isinstance(each, (Plain, Slotted, Frozen)) and each is not SABOTEUR]
    assert not left, left[:3]


def main():
    if sys.argv[1:2] == ["--atheris"]:
        import atheris

        atheris.Setup(sys.argv[:1] + sys.argv[2:], test_one_input)
        atheris.Fuzz()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    number = run(arguments.seed, lambda _: time.monotonic() > end)
    print(f"{number} graphs of seed {arguments.seed}: no difference, no crash, no leak")


if __name__ == "__main__":
    main()
