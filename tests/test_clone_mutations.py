"""Structured clone of values that methods, destructors, the garbage collector or other threads change meanwhile: there
is a clone or an exception, and no crash.
"""

import collections
import copyreg
import gc
import re
import sysconfig
import threading
import time
import weakref

import pytest

from messagechannel import DataCloneError, structured_clone
from reducers import Bag, Calls, Node, Reduced, Slot

# ---- what changes while it is walked ----


class Key:
    """A dict's key that is passed by reference, by a name; calls a function before that."""

    function = None

    def __reduce__(self):
        self.function()
        return "KEY"


KEY = Key()


@pytest.mark.parametrize(
    "text", ["[[1]]", "{'a': [1]}", "(1, [2])", "{1}", "bytearray(b'x')", "collections.deque([1])"]
)
def test_a_key_can_empty_the_dict_and_its_clone(text, monkeypatch):
    clones = []
    original = {}
    original["clone"] = Reduced(lambda: (Calls(clones.append), (original,)))
    original[KEY] = eval(text)

    def empty():
        for each in (original, *clones):
            each.clear()

    monkeypatch.setattr(KEY, "function", empty, raising=False)
    structured_clone(original)
    assert len(clones) == 1


class Hashed:
    """Calls a function whenever it is hashed or compared, and is a new object in each clone."""

    function = None

    def __hash__(self):
        if Hashed.function:
            Hashed.function()
        return 1

    def __eq__(self, other):
        if Hashed.function:
            Hashed.function()
        return self is other


class Finalized:
    """Calls a function in its destructor, but not for the original."""

    function = None
    original = True

    def __init__(self, original=True):
        self.original = original

    def __reduce__(self):
        # The clone is dropped at once: the list that takes it over forgets it.
        return Forgetful, (), None, iter([Finalized(original=False)])

    def __del__(self):
        if Finalized.function and not self.original:
            Finalized.function()


class Forgetful:
    def append(self, item):
        pass


def by_reducer(function):
    return Reduced(lambda: (Calls(lambda *clones: function(*clones)), ()))


def by_hash(function):
    Hashed.function = function
    return {Hashed(): 1, (Hashed(), 2): 2}


def by_set(function):
    Hashed.function = function
    return {Hashed(), Hashed()}


def by_destructor(function):
    Finalized.function = function
    return Finalized()


def by_state(function):
    return Reduced(lambda: (Forgetful, (), [1], None, None, Calls(lambda made, state: function())))


def by_weak_reference(function):
    def reduce():
        target = Forgetful()
        weak.append(weakref.ref(target, lambda _: function()))
        return Forgetful, (), None, iter([target])

    weak = []
    return Reduced(reduce)


def by_collector(function):
    def call(phase, info):
        if phase == "start":
            function()

    gc.callbacks.append(call)
    return Reduced(lambda: (gc.collect(0) and ()) or (list, ()))


@pytest.fixture
def end_of_sabotage():
    yield
    Hashed.function = Finalized.function = None
    del gc.callbacks[:]


TRIGGERS = [by_reducer, by_hash, by_set, by_destructor, by_state, by_weak_reference, by_collector]
VICTIMS = {
    "list": lambda items: items,
    "dict": lambda items: dict(enumerate(items)),
    "dict of str": lambda items: {str(index): item for index, item in enumerate(items)},
    "dict with keys that differ": lambda items: {(Node(1), index): item for index, item in enumerate(items)},
    "deque": collections.deque,
    "OrderedDict": lambda items: collections.OrderedDict(enumerate(items)),
    "object": lambda items: Bag(**{f"name{index}": item for index, item in enumerate(items)}),
    "list of objects": lambda items: [Bag(item=item) for item in items],
    "state": lambda items: Stateful(items),
}


class Stateful:
    def __init__(self, items):
        self.items = items

    def __getstate__(self):
        return {"items": self.items}


def empty(container):
    if isinstance(container, Stateful):
        container = container.__dict__.get("items", [])
    container = getattr(container, "__dict__", container)
    container.clear()


def grow(container):
    if isinstance(container, Stateful):
        container = container.__dict__.get("items", [])
    container = getattr(container, "__dict__", container)
    if isinstance(container, dict):
        container.update({f"more{number}": [number] for number in range(100)})
    else:
        container.extend([number] for number in range(100))


@pytest.mark.usefixtures("end_of_sabotage")
@pytest.mark.parametrize("harm", [empty, grow])
@pytest.mark.parametrize("victim", VICTIMS.values(), ids=VICTIMS)
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_what_is_walked_and_its_clone_can_change_meanwhile(trigger, victim, harm):
    """The clone is one of what was there before, or there is an exception; mostly this is for memory's sake."""
    calls, clones = [], []

    def strike(*_):
        calls.append(1)
        if len(calls) < 50:
            for each in (container, *clones):
                harm(each)

    def expose(clone):
        clones.append(clone)
        return []

    container = []
    saboteur = trigger(strike)
    before = [[1], Reduced(lambda: (Calls(expose), (container,))), [2], (3, [4])]
    calls.clear()
    container = victim([*before, saboteur, [5], {"six": [6]}, Node([7])])
    del saboteur, before
    calls.clear()
    try:
        clone = structured_clone(container)
    except RuntimeError as error:
        assert re.search("mutated|changed|nested", str(error))  # noqa: PT017  (each is fine)
    else:
        assert type(clone) is type(container)
    assert calls


# ---- classes that change while their instances are walked ----


@pytest.fixture
def changing():
    """A class that can be changed, and is found by its name."""
    cls = type("Changing", (Slot,), {"__slots__": ("third",), "__module__": __name__})
    globals()["Changing"] = cls
    yield cls
    del globals()["Changing"]


def make_changing(cls):
    made = cls()
    made.child, made.third = [1], [3]
    return made


CLASS_CHANGES = {
    "reducer": lambda cls: setattr(cls, "__reduce__", lambda self: (list, ())),
    "state": lambda cls: setattr(cls, "__getstate__", lambda self: None),
    "constructor": lambda cls: setattr(cls, "__new__", lambda cls: object.__new__(cls)),
    "slot": lambda cls: delattr(cls, "third"),
    "slot names are fewer": lambda cls: copyreg._slotnames(cls).clear(),
    "slot names are more": lambda cls: copyreg._slotnames(cls).extend(["more", "child"] * 50),
    "slot names are no names": lambda cls: copyreg._slotnames(cls).extend([5, None]),
    "slot names are no list": lambda cls: setattr(cls, "__slotnames__", ("child",)),
    "name": lambda cls: globals().update(Changing=None),
    "getattr": lambda cls: setattr(cls, "__getattribute__", lambda self, name: gc.collect(0)),
}


@pytest.mark.parametrize("change", CLASS_CHANGES.values(), ids=CLASS_CHANGES)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "between"])
def test_a_class_can_change_while_its_instances_are_walked(changing, change, inside):
    value = [make_changing(changing) for _ in range(3)]
    saboteur = Reduced(lambda: change(changing) or (list, ()))
    if inside:
        value[1].child = saboteur
    else:
        value.insert(1, saboteur)
    # A type of its own between, lest it be judged only once.
    value += [Bag(), make_changing(changing) if "__getattribute__" not in changing.__dict__ else None]
    try:
        clone = structured_clone(value)
    except (DataCloneError, TypeError, AttributeError):
        pass
    else:
        assert len(clone) == len(value)


class Other(Slot):
    __slots__ = ("third",)


def test_an_object_can_change_its_class_while_it_is_walked():
    value = make_changing(Other)
    value.child = Reduced(lambda: setattr(value, "__class__", Another) or (list, ()))
    clone = structured_clone([value, [value]])
    assert type(clone[0]) in (Other, Another)
    assert clone[0] is clone[1][0]


class Another(Slot):
    __slots__ = ("third",)


# ---- other threads ----


def change_list(value):
    value[:] = [[number] for number in range(len(value) % 7 + 1)]


def change_dict(value):
    value.clear()
    value.update({str(number): [number] for number in range(50)})


def change_tuple_keys(value):
    value.clear()
    value.update({(number, "key"): [number] for number in range(50)})


def change_set(value):
    value.clear()
    value.update([(number, "item") for number in range(50)])


def change_deque(value):
    value.append([1])
    value.popleft()


def change_attributes(value):
    for number in range(20):
        setattr(value, f"name{number}", [number])
    value.__dict__.clear()


def change_slots(value):
    value.child = [1]
    del value.child


def change_bytes(value):
    value.extend(b"abc")
    del value[50:]


CHANGES = [
    (list, change_list),
    (dict, change_dict),
    (dict, change_tuple_keys),
    (set, change_set),
    (lambda: collections.deque([[1]] * 20), change_deque),
    (Bag, change_attributes),
    (Slot, change_slots),
    (bytearray, change_bytes),
    pytest.param(
        *(collections.OrderedDict, change_dict),
        marks=pytest.mark.skipif(
            bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            reason="without the GIL, the OrderedDict of CPython 3.13 breaks when two threads use it",
        ),
    ),
]


def list_of(items):
    return list, (list(items),)


@pytest.mark.usefixtures("_many_switches")
@pytest.mark.parametrize("_many_switches", [1e-6], indirect=True)
@pytest.mark.parametrize(("make", "change"), CHANGES, ids=lambda item: item.__name__)
def test_another_thread_changes_what_is_cloned(make, change):
    value, done = make(), threading.Event()

    def run():
        while not done.is_set():
            change(value)

    thread = threading.Thread(target=run)
    # Python code in the midst of a walk, so that threads take turns there.
    yielding = [value, Reduced(lambda: list_of(number for number in range(20))), value, [value]]
    clones, until = 0, time.monotonic() + 0.3
    thread.start()
    try:
        while time.monotonic() < until:
            try:
                clone = structured_clone(yielding)
            except RuntimeError as error:
                assert "mutated" in str(error) or "changed" in str(error)  # noqa: PT017  (either is fine)
            else:
                clones += 1
                assert type(clone[0]) is type(value)
                assert clone[0] is clone[2] is clone[3][0]
    finally:
        done.set()
        thread.join()
    assert clones > 0
