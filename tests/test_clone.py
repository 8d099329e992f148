"""structured_clone, and what posting does to messages and transfer lists (HTML Standard, "Safe passing of structured
data" and "message port post message steps").
"""

import array
import builtins
import collections
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import os
import pickle
import queue
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
import types
import uuid
import zoneinfo
from typing import NamedTuple

import pytest

from ends import MessageChannel, eventually
from messagechannel import ChannelClosedError, DataCloneError, MessagePort, structured_clone


class Color(enum.Enum):
    RED = 1


class Flag(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Order:
    number: int
    items: list
    callback: object = None


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    first: object
    second: object


class Slotted:
    __slots__ = ("child", "value")

    def __init__(self, value, child=None):
        self.value, self.child = value, child


class Sub(list):
    pass


class OwnError(Exception):
    pass


class Linked:
    """Nested by an attribute that a reducer returns."""

    def __init__(self, child):
        self.child = child

    def __reduce__(self):
        return Linked, (self.child,)


class Raises:
    """Cannot be cloned, because its own method raises."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Calls:
    """Calls a function while it is cloned, as a getter of the web would."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        self.function()
        return (str, ("called",))


def module_function():
    pass


def by_post(value, transfer=()):
    with MessageChannel() as (port1, port2):
        port1.post_message(value, transfer)
        return port2.receive(0)


def by_send(value, transfer=()):
    with MessageChannel() as (port1, port2):
        port1.send(value, transfer)
        return port2.receive(0)


def by_clone(value, transfer=()):
    return structured_clone(value, transfer=transfer)


every_way = pytest.mark.parametrize("way", [by_clone, by_post, by_send])


# ---- what is passed by reference ----

IMMUTABLE = [
    None,
    True,
    False,
    0,
    -1,
    10**400,
    1.5,
    float("inf"),
    complex(1, 2),
    "text",
    "\ud800",
    b"bytes",
    (),
    (1, "a", (None,)),
    frozenset({1, "a", (2,)}),
    datetime.date(2020, 1, 1),
    datetime.datetime(2020, 1, 1),
    datetime.time(1),
    datetime.timedelta(1),
    datetime.timezone.utc,
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=7),
    range(3),
    Ellipsis,
    NotImplemented,
    Color.RED,
    module_function,
    Order,
    len,
    int,
    re.compile("a+"),
]


@every_way
@pytest.mark.parametrize("value", IMMUTABLE, ids=lambda value: repr(value)[:40])
def test_an_immutable_value_is_passed_by_reference(way, value):
    assert way(value) is value


@every_way
@pytest.mark.parametrize("value", IMMUTABLE, ids=lambda value: repr(value)[:40])
def test_an_immutable_value_inside_a_list_is_passed_by_reference(way, value):
    assert way([value])[0] is value


@every_way
def test_an_immutable_tuple_is_passed_by_reference_however_deep(way):
    value = ()
    for _ in range(500):
        value = (value,)
    assert way(value) is value


# ---- what is copied ----

MUTABLE = [
    [],
    [1, [2]],
    {},
    {"a": {"b": 1}},
    {1: "x", (1, 2): "y"},
    set(),
    {1, 2},
    bytearray(b"abc"),
    ([1],),
    frozenset(),
    collections.deque([1, 2], maxlen=3),
    collections.OrderedDict(b=1, a=2),
    collections.Counter("abca"),
    collections.defaultdict(list, a=[1]),
    Order(1, ["a"]),
    Point(1, 2),
    Pair([1], 2),
    array.array("d", [1.5]),
    Sub([1]),
    types.SimpleNamespace(a=[1]),
    Flag.A | Flag.B,
    float("nan") and [float("-0.0")],
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
]


@every_way
@pytest.mark.parametrize("value", MUTABLE, ids=repr)
def test_a_clone_equals_what_pickle_makes(way, value):
    clone, model = way(value), pickle.loads(pickle.dumps(value, 5))
    assert type(clone) is type(model)
    assert clone == model
    assert repr(clone) == repr(model)


@every_way
@pytest.mark.parametrize(
    "value",
    [[1], {"a": 1}, {1}, bytearray(b"abc"), collections.deque([1]), Order(1, []), array.array("i", [1]), ([1],), Sub()],
    ids=repr,
)
def test_a_mutable_value_is_copied(way, value):
    assert way(value) is not value


@every_way
def test_a_clone_is_deep(way):
    value = {"list": [1, 2], "order": Order(1, ["a"])}
    clone = way(value)
    value["list"].append(3)
    value["order"].items.append("b")
    assert clone == {"list": [1, 2], "order": Order(1, ["a"])}


@every_way
def test_sharing_inside_a_message_is_kept(way):
    shared = [1]
    clone = way({"a": shared, "b": shared, "c": (shared,)})
    assert clone["a"] is clone["b"] is clone["c"][0]
    assert clone["a"] is not shared


@every_way
def test_a_cycle_is_kept(way):
    value = []
    value.append({"self": value})
    clone = way(value)
    assert clone[0]["self"] is clone
    assert clone is not value


@every_way
def test_a_tuple_that_contains_itself_is_one_tuple(way):
    inside = []
    value = (1, inside)
    inside.append(value)
    clone = way(value)
    assert clone[1][0] is clone
    clone = way([value, inside])
    assert clone[0][1] is clone[1]
    assert clone[1][0] is clone[0]


class Identity:
    """Hashable by identity, mutable."""


@every_way
@pytest.mark.parametrize(
    "close", [lambda value: (value,), lambda value: frozenset([value]), lambda value: Linked((value,))]
)
def test_a_cycle_that_nothing_else_refers_to_is_kept(way, close):
    inside = Identity()
    inside.outer = close(inside)
    value = [inside.outer]
    del inside
    (outer,) = way(value)
    (inside,) = [outer.child[0]] if isinstance(outer, Linked) else outer
    assert inside.outer is outer


@every_way
def test_a_frozenset_that_contains_itself_is_one_frozenset(way):
    inside = Identity()
    value = frozenset([inside])
    inside.outer = value
    clone = way(value)
    (inside,) = clone
    assert inside.outer is clone


HOLDERS = {
    "list": (lambda value: [value], lambda held: held[0]),
    "tuple": (lambda value: (value,), lambda held: held[0]),
    "dict": (lambda value: {"key": value}, lambda held: held["key"]),
    "dict of other keys": (lambda value: {1: value, Point(1, 2): 0}, lambda held: held[1]),
    "value of a key that is cloned": (lambda value: {Point(1, 2): value}, lambda held: held[Point(1, 2)]),
    "key": (lambda value: {value: 1}, lambda held: next(iter(held))),
    "set": (lambda value: {value}, lambda held: next(iter(held))),
    "frozenset": (lambda value: frozenset([value]), lambda held: next(iter(held))),
    "attribute": (lambda value: Order(1, value), lambda held: held.items),
    "slot": (Slotted, lambda held: held.value),
    "argument of a reducer": (Linked, lambda held: held.child),
    "deque": (lambda value: collections.deque([value]), lambda held: held[0]),
    "OrderedDict": (lambda value: collections.OrderedDict(key=value), lambda held: held["key"]),
    "list with attributes": (lambda value: Sub([value]), lambda held: held[0]),
}


@pytest.mark.parametrize("one", HOLDERS)
@pytest.mark.parametrize("other", HOLDERS)
def test_what_only_two_others_refer_to_stays_one_object(one, other):
    """A container that is referred to only once needs no look-up: the count must not be off by one anywhere."""

    def make():
        inside = Identity()
        return [HOLDERS[one][0](inside), HOLDERS[other][0](inside)]

    first, second = structured_clone(make())
    inside = HOLDERS[one][1](first)
    assert type(inside) is Identity
    assert inside is HOLDERS[other][1](second)


@every_way
@pytest.mark.parametrize("pair", [lambda value: (value, value), lambda value: frozenset([(1, value), (2, value)])])
def test_what_is_shared_at_every_level_is_walked_once(way, pair):
    value = (Identity(),)
    for _ in range(60):
        value = pair(value)
    clone = way(value)
    for _ in range(60):
        first, other = clone
        clone, again = (first[1], other[1]) if isinstance(clone, frozenset) else (first, other)
        assert clone is again
    assert type(clone[0]) is Identity


def test_memory_is_linear():
    def peak(number):
        value = [{"id": index, "tags": [str(index)]} for index in range(number)]
        value.append(value)
        tracemalloc.start()
        try:
            structured_clone(value)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(100_000) < 12 * peak(10_000)


def test_nothing_is_kept_of_what_was_cloned():
    shared = [object() for _ in range(1_000)]
    value = [shared, shared, {"objects": shared, "again": shared}]
    before = [sys.getrefcount(item) for item in (shared, value, *shared)]
    structured_clone(value)
    with pytest.raises(DataCloneError):
        structured_clone([value, threading.Lock()])
    assert [sys.getrefcount(item) for item in (shared, value, *shared)] == before


@every_way
def test_an_object_that_its_own_arguments_contain_is_one_object(way):
    inside = []
    value = Linked((1, inside))
    inside.append(value)
    clone = way(inside)
    assert clone[0].child[1] is clone


@every_way
def test_slots_are_cloned(way):
    clone = way(Slotted([1], Slotted(2)))
    assert (clone.value, clone.child.value) == ([1], 2)


def test_sharing_across_messages_is_not_kept(channel):
    value = [1]
    channel.port1.post_message(value)
    channel.port1.post_message(value)
    first, second = channel.port2.receive_many()
    assert first is not second


@every_way
def test_a_message_is_cloned_when_it_is_posted(way, channel):
    value = [1]
    channel.port1.post_message(value)
    value.append(2)
    assert channel.port2.receive_nowait() == [1]


@every_way
def test_an_exception_is_cloned(way):
    error = ValueError("boom", 3)
    clone = way(error)
    assert type(clone) is ValueError
    assert clone.args == ("boom", 3)
    assert clone is not error


def raised(error):
    try:
        raise error from LookupError("cause")
    except type(error) as caught:
        return caught


@every_way
def test_an_exception_keeps_its_attributes_and_loses_its_frames(way):
    error = raised(OwnError("boom", [1]))
    error.detail = error.args[1]
    error.__notes__ = ["a note"]
    clone = way(error)
    assert (type(clone), clone.args, clone.__notes__) == (OwnError, ("boom", [1]), ["a note"])
    assert clone.detail is clone.args[1]
    assert clone.detail is not error.detail
    assert (clone.__traceback__, clone.__cause__, clone.__context__) == (None, None, None)
    system_error = way(FileNotFoundError(2, "No such file", "name"))
    assert (system_error.errno, system_error.filename) == (2, "name")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
@every_way
def test_an_exception_group_is_cloned_with_its_exceptions(way):
    group_of = vars(builtins)["ExceptionGroup"]
    group = group_of("several", [raised(OwnError(1)), group_of("inner", [ValueError(2)])])
    clone = way(group)
    assert (clone.message, clone.exceptions[0].args, clone.exceptions[1].exceptions[0].args) == ("several", (1,), (2,))
    assert clone.exceptions[0] is not group.exceptions[0]
    assert clone.exceptions[0].__traceback__ is None


@every_way
def test_a_time_zone_with_a_name_is_passed_by_reference(way):
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    value = [datetime.datetime(2020, 1, 1, tzinfo=zone), datetime.time(1, tzinfo=zone), zone]
    clone = way(value)
    assert [one is other for one, other in zip(clone, value, strict=True)] == [True, True, True]


@every_way
def test_a_time_zone_of_ones_own_is_cloned(way):
    class_of = datetime.datetime(2020, 1, 1, tzinfo=OwnZone([1]))
    clone = way(class_of)
    assert clone == class_of
    assert clone.tzinfo.offsets == [1]
    assert clone.tzinfo is not class_of.tzinfo


class OwnZone(datetime.tzinfo):
    def __init__(self, offsets=()):
        self.offsets = offsets

    def utcoffset(self, when):
        return datetime.timedelta(hours=self.offsets[0])

    def dst(self, when):
        return None


@every_way
def test_an_instance_may_have_the_methods_that_pickle_calls(way):
    value = Identity()
    value.__reduce_ex__ = lambda protocol: (str, ("reduced",))
    assert way([value]) == ["reduced"]


@every_way
def test_attributes_whose_names_are_no_str_are_cloned(way):
    value = Identity()
    value.__dict__[1] = [2]
    assert way(value).__dict__ == {1: [2]}


class Answering:
    """Finds the methods that pickle looks for only when it is asked for them."""

    def __init__(self):
        self.set = []

    def __getattr__(self, name):
        if name == "__setstate__":
            return lambda state: self.__dict__.update(set=[*state["set"], "by __setstate__"])
        raise AttributeError(name)


@every_way
def test_methods_that_are_found_by_getattr_are_called(way):
    assert way(Answering()).set == ["by __setstate__"]


class Hiding:
    __slots__ = ("hidden",)


@every_way
def test_what_has_state_that_nobody_can_see_is_refused(way, monkeypatch):
    monkeypatch.setattr(Hiding, "__slotnames__", [], raising=False)
    with pytest.raises(DataCloneError, match="Hiding"):
        way(Hiding())


class Registered:
    kept = 1


@every_way
def test_what_copyreg_has_for_a_class_is_called(way, monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda value: (str, ("registered",)))
    assert way([Registered()]) == ["registered"]


@every_way
def test_a_name_that_leads_to_something_else_is_refused(way, monkeypatch):
    function, instance = module_function, Identity()
    monkeypatch.setitem(globals(), "module_function", len)
    monkeypatch.setitem(globals(), "Identity", int)
    for value in (function, instance, type(instance)):
        with pytest.raises(DataCloneError, match="define it at module level"):
            way(value)


class Extends:
    """Tells how it was extended."""

    def __init__(self):
        self.batches = []

    def __reduce__(self):
        return Extends, (), None, iter(range(2_500))

    def extend(self, items):
        self.batches.append(len(items))


def test_items_of_a_reducer_come_in_batches_as_with_pickle():
    assert structured_clone(Extends()).batches == pickle.loads(pickle.dumps(Extends(), 5)).batches == [1000, 1000, 500]


def test_a_class_may_change_between_messages():
    assert structured_clone(Changing()).kept == 1
    Changing.__getstate__ = lambda self: {"kept": 2}
    assert structured_clone(Changing()).kept == 2
    Changing.__reduce__ = lambda self: (Changing, (3,))
    assert structured_clone(Changing()).kept == 3
    copyreg.pickle(Changing, lambda value: (Changing, (4,)))
    assert structured_clone(Changing()).kept == 4


class Changing:
    def __init__(self, kept=1):
        self.kept = kept


NESTS = {
    "list": lambda child: [child],
    "dict": lambda child: {"child": child},
    "tuple": lambda child: (child,),
    "frozenset": lambda child: frozenset([child]),
    "object": Order,
    "slots": Slotted,
    "reducer": Linked,
    "OrderedDict": lambda child: collections.OrderedDict(child=child),
    "deque": lambda child: collections.deque([child]),
}


def nested(nest, depth):
    value = 0
    for number in range(depth):
        value = nest(value) if nest is not Order else Order(number, value)
    return value


def too_deep(nest):
    # CPython 3.13 without the GIL overruns the stack by itself when it frees 100,000 nested deques.
    return 20_000 if nest is NESTS["deque"] else 100_000


@every_way
@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_a_value_nested_too_deeply_raises_and_does_not_crash(way, nest):
    with pytest.raises(RecursionError):
        way(nested(nest, too_deep(nest)))


@pytest.mark.parametrize("nest", [NESTS["list"], NESTS["dict"], NESTS["tuple"], NESTS["object"]])
def test_five_thousand_levels_are_cloned(nest):
    clone, levels = structured_clone(nested(nest, 5_000)), 0
    while clone != 0:
        levels += 1
        (clone,) = [clone.items] if isinstance(clone, Order) else clone.values() if type(clone) is dict else clone
    assert levels == 5_000


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_a_small_stack_is_not_overrun(nest):
    """threading.stack_size is for the process, and an overrun would end it: hence a process of its own."""
    script = f"""
import sys, threading
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_clone
from messagechannel import structured_clone

nest = test_clone.NESTS[{next(name for name in NESTS if NESTS[name] is nest)!r}]
value = test_clone.nested(nest, test_clone.too_deep(nest))

def run(size):
    print(f"{{size}} KB:", end=" ", flush=True)
    try:
        structured_clone(value)
    except RecursionError:
        print("refused")

for size in (64, 256, 1024, 8192):
    threading.stack_size(size * 1024)
    thread = threading.Thread(target=run, args=(size,))
    thread.start()
    thread.join()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    refusals = "".join(f"{size} KB: refused\n" for size in (64, 256, 1024, 8192))
    assert (run.stdout, run.stderr, run.returncode) == (refusals, "", 0)


def test_copy_false_hands_messages_over_by_reference():
    with MessageChannel(copy=False) as (port1, port2):
        value = [lambda: None]
        for deliver in (port1.post_message, port1.send, lambda message: port1.send_many([message])):
            deliver(value)
            assert port2.receive_nowait() is value


def test_copy_false_still_transfers():
    with MessageChannel(copy=False) as (port1, port2):
        other = MessageChannel()
        buffer = bytearray(b"abc")
        value = [lambda: None]
        port1.post_message(value, [other.port2, buffer])
        event = port2.receive_event(0)
        assert event.data is value
        assert buffer == b""
        other.port1.post_message("x")
        assert event.ports[0].receive_nowait() == "x"


def test_copy_false_shares_a_port_that_is_not_listed():
    with MessageChannel(copy=False) as (port1, port2):
        other = MessageChannel()
        port1.post_message([other.port1])
        assert port2.receive_nowait()[0] is other.port1
        assert not other.port1.closed


# ---- DataCloneError ----


def generator():
    yield


REFUSED = [
    (lambda: lambda: None, "function"),
    (generator, "generator"),
    (threading.Lock, "lock"),
    (lambda: io.TextIOWrapper(io.BytesIO()), "TextIOWrapper"),
    (socket.socket, "socket"),
    (lambda: sys, "module"),
    (sys._getframe, "frame"),
    (lambda: memoryview(b"x"), "memoryview"),
    (lambda: MessageChannel().port1, "MessagePort"),
    (threading.current_thread, None),
    (lambda: type("Local", (), {}), "Local"),
    (lambda: type("Local", (), {})(), "Local"),
    (threading.Condition, None),
]


@every_way
@pytest.mark.parametrize(("make", "name"), REFUSED)
def test_what_pickle_refuses_is_a_data_clone_error(way, make, name):
    value = make()
    try:
        with pytest.raises(DataCloneError) as caught:
            way(value)
    finally:
        if hasattr(value, "close"):
            value.close()
    assert caught.value.path.startswith("$")
    if name is not None:
        assert caught.value.path == "$"
        assert name in str(caught.value)


def test_data_clone_error_is_a_value_error():
    assert issubclass(DataCloneError, ValueError)


@every_way
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda bad: [1, bad], "$[1]"),
        (lambda bad: {"orders": [0, 1, {"callback": bad}]}, "$['orders'][2]['callback']"),
        (lambda bad: (1, (2, bad)), "$[1][1]"),
        (lambda bad: [Pair(1, [bad])], "$[0][1][0]"),
        (lambda bad: (Pair(bad, 1), 2), "$[0][0]"),
        (lambda bad: Order(1, [], bad), "$.callback"),
        (lambda bad: {"x": Order(1, [bad])}, "$['x'].items[0]"),
        (lambda bad: Slotted(1, Slotted(bad)), "$.child.value"),
        (lambda bad: {(1,): [bad]}, "$[(1,)][0]"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_the_error_names_the_path_and_the_type(way, wrap, path):
    with pytest.raises(DataCloneError) as caught:
        way(wrap(threading.Lock()))
    assert caught.value.path == path
    assert path in str(caught.value)
    assert "lock" in str(caught.value)


@every_way
def test_the_error_names_the_path_to_a_key(way):
    with pytest.raises(DataCloneError) as caught:
        way({"a": {len: 1, threading.Lock(): 2}})
    assert caught.value.path.startswith("$['a']")
    assert caught.value.path != "$['a']"


def test_the_error_in_a_cycle_is_found(channel):
    value = [1]
    value.append(value)
    value.append(threading.Lock())
    with pytest.raises(DataCloneError) as caught:
        channel.port1.post_message(value)
    assert caught.value.path == "$[2]"


def test_a_data_clone_error_can_be_cloned():
    with pytest.raises(DataCloneError) as caught:
        structured_clone([threading.Lock()])
    clone = structured_clone(caught.value)
    assert (type(clone), str(clone), clone.path) == (DataCloneError, str(caught.value), "$[0]")


@every_way
def test_a_refused_message_transfers_nothing_and_posts_nothing(way, channel):
    other = MessageChannel()
    buffer = bytearray(b"abc")
    with pytest.raises(DataCloneError):
        way([threading.Lock()], [other.port1, buffer])
    assert buffer == b"abc"
    other.port2.post_message("x")
    assert other.port1.receive_nowait() == "x"


def test_a_refused_message_is_not_posted(channel):
    for deliver in (channel.port1.post_message, channel.port1.send):
        with pytest.raises(DataCloneError):
            deliver([threading.Lock()])
    assert len(channel.port2) == 0


def test_send_many_sends_what_came_before_the_refused_message(channel):
    with pytest.raises(DataCloneError):
        channel.port1.send_many([[1], [2], threading.Lock(), [3]])
    assert channel.port2.receive_many() == [[1], [2]]


# ---- user exceptions ----


@every_way
@pytest.mark.parametrize(
    "error",
    [
        OwnError("mine"),
        TypeError("mine"),
        ValueError("mine"),
        AttributeError("mine"),
        KeyError("mine"),
        KeyboardInterrupt("mine"),
        RecursionError("mine"),
    ],
    ids=repr,
)
def test_an_exception_of_the_values_own_methods_propagates_unchanged(way, error):
    other = MessageChannel()
    buffer = bytearray(b"abc")
    with pytest.raises(BaseException) as caught:  # noqa: PT011  (which one is the parameter)
        way([1, {"x": Raises(error)}], [other.port1, buffer])
    assert caught.value is error
    assert buffer == b"abc"
    assert not other.port1.closed


def test_an_exception_while_a_message_is_cloned_posts_nothing(channel):
    with pytest.raises(OwnError):
        channel.port1.post_message([Raises(OwnError())])
    assert len(channel.port2) == 0


@every_way
def test_an_exception_of_the_transfer_iterable_propagates_unchanged(way):
    buffer = bytearray(b"abc")
    called = []

    def items():
        yield buffer
        raise OwnError("mine")

    with pytest.raises(OwnError, match="mine"):
        way([Calls(lambda: called.append(1))], items())
    assert buffer == b"abc"
    assert called == []


# ---- the transfer list: its form ----


@every_way
@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "abc",
        b"",
        b"abc",
        {},
        {"a": 1},
        collections.OrderedDict(),
        1,
        1.5,
        True,
        object(),
        collections.UserDict(),
        types.MappingProxyType({}),
    ],
    ids=repr,
)
def test_a_transfer_list_of_the_wrong_type_is_a_type_error_before_anything_happens(way, wrong):
    called = []
    with pytest.raises(TypeError):
        way([Calls(lambda: called.append(1))], wrong)
    assert called == []


@every_way
def test_a_port_as_the_transfer_list_is_a_type_error(way):
    # A port is an iterable of its messages: the easy mistake of leaving out the brackets must not drain it.
    other = MessageChannel()
    other.port2.post_message(MessageChannel)
    other.port2.close()
    with pytest.raises(TypeError, match="transfer"):
        way("x", other.port1)
    assert len(other.port1) == 1


@every_way
@pytest.mark.parametrize("item", [None, 1, 1.5, True, "a", b"a"], ids=repr)
def test_a_primitive_in_the_transfer_list_is_a_type_error(way, item):
    called = []
    buffer = bytearray(b"abc")
    with pytest.raises(TypeError):
        way([Calls(lambda: called.append(1))], [buffer, item])
    assert called == []
    assert buffer == b"abc"


@every_way
@pytest.mark.parametrize(
    "make",
    [
        lambda item: [item],
        lambda item: (item,),
        lambda item: iter([item]),
        lambda item: (each for each in [item]),
        lambda item: collections.deque([item]),
    ],
)
def test_any_iterable_is_a_transfer_list(way, make):
    buffer = bytearray(b"abc")
    assert way(buffer, make(buffer)) == b"abc"
    assert buffer == b""


@every_way
@pytest.mark.parametrize("none", [None, (), [], iter(())], ids=repr)
def test_none_and_empty_transfer_lists_transfer_nothing(way, none):
    buffer = bytearray(b"abc")
    assert way(buffer, none) == b"abc"
    assert buffer == b"abc"


def test_transfer_can_be_given_by_keyword(channel):
    buffer = bytearray(b"abc")
    channel.port1.post_message(1, transfer=[buffer])
    channel.port1.send(1, transfer=[MessageChannel().port1])
    assert buffer == b""


def test_transfer_of_structured_clone_is_keyword_only():
    with pytest.raises(TypeError):
        structured_clone(1, [])


# ---- the transfer list: order of checks, one by one ----


def test_step_1_the_source_port_is_refused_before_anything_is_cloned(channel):
    called = []
    buffer = bytearray(b"abc")
    for post in (channel.port1.post_message, channel.port1.send):
        with pytest.raises(DataCloneError) as caught:
            post([Calls(lambda: called.append(1))], [buffer, channel.port1])
        assert caught.value.path == "transfer[1]"
    assert called == []
    assert buffer == b"abc"
    channel.port1.post_message("still usable")
    assert channel.port2.receive_nowait() == "still usable"


def test_step_1_the_source_port_is_refused_before_an_item_that_is_not_transferable(channel):
    with pytest.raises(DataCloneError) as caught:
        channel.port1.post_message(1, [object(), channel.port1])
    assert caught.value.path == "transfer[1]"


def test_step_2_a_doomed_message_is_cloned_and_its_list_transferred_but_it_goes_nowhere(channel):
    called = []
    buffer = bytearray(b"abc")
    channel.port1.post_message([Calls(lambda: called.append(1))], [buffer, channel.port2])
    assert called == [1]
    assert buffer == b""
    assert channel.port2.closed
    assert len(channel.port2) == 0
    # The port that took over went with the message that nobody will ever get, and closed the channel by that.
    assert eventually(lambda: channel.port1.closed)


def test_step_2_a_doomed_message_still_raises_what_another_would(channel):
    with pytest.raises(DataCloneError):
        channel.port1.post_message(threading.Lock(), [channel.port2])
    channel.port1.post_message("still usable")
    assert channel.port2.receive_nowait() == "still usable"


@every_way
@pytest.mark.parametrize("item", [object(), [], (), {}, Order(1, []), lambda: None, memoryview(b"a"), 2 + 1j], ids=repr)
def test_step_3_an_item_that_is_not_transferable_is_refused_before_anything_is_cloned(way, item):
    called = []
    buffer = bytearray(b"abc")
    with pytest.raises((DataCloneError, TypeError) if isinstance(item, complex) else DataCloneError):
        way([Calls(lambda: called.append(1))], [buffer, item])
    assert called == []
    assert buffer == b"abc"


@every_way
@pytest.mark.parametrize("make", [lambda: bytearray(b"abc"), lambda: MessageChannel().port1])
def test_step_3_an_item_listed_twice_is_refused_before_anything_is_cloned(way, make):
    called = []
    item = make()
    with pytest.raises(DataCloneError, match="twice") as caught:
        way([Calls(lambda: called.append(1))], [item, item])
    assert caught.value.path == "transfer[1]"
    assert called == []
    if isinstance(item, bytearray):
        assert item == b"abc"


@every_way
def test_step_3_items_are_compared_by_identity(way):
    one, two = bytearray(b"same"), bytearray(b"same")
    assert way((one, two), [one, two]) == (b"same", b"same")
    assert (one, two) == (b"", b"")


@every_way
def test_step_4_a_port_in_the_message_that_is_not_listed_is_refused(way):
    one, two = MessageChannel(), MessageChannel()
    with pytest.raises(DataCloneError, match="transfer") as caught:
        way({"p": [one.port1, two.port1]}, [one.port1])
    assert caught.value.path == "$['p'][1]"
    assert not one.port1.closed


@every_way
def test_step_4_an_exception_while_cloning_wins_over_a_detached_item(way):
    other = MessageChannel()
    other.port1.close()
    with pytest.raises(OwnError):
        way([Raises(OwnError())], [other.port1])


@every_way
def test_step_5_a_closed_port_is_refused_after_cloning_and_nothing_is_detached(way):
    called = []
    buffer = bytearray(b"abc")
    other = MessageChannel()
    other.port1.close()
    with pytest.raises(DataCloneError) as caught:
        way([Calls(lambda: called.append(1))], [buffer, other.port1])
    assert caught.value.path == "transfer[1]"
    assert called == [1]
    assert buffer == b"abc"


@every_way
def test_step_5_a_transferred_port_is_refused_after_cloning_and_nothing_is_detached(way):
    called = []
    buffer = bytearray(b"abc")
    other, carrier = MessageChannel(), MessageChannel()
    carrier.port1.post_message(None, [other.port1])
    with pytest.raises(DataCloneError):
        way([Calls(lambda: called.append(1))], [buffer, other.port1])
    assert called == [1]
    assert buffer == b"abc"


@every_way
def test_step_5_a_port_that_is_detached_while_the_message_is_cloned_is_refused(way):
    buffer = bytearray(b"abc")
    other, carrier = MessageChannel(), MessageChannel()
    with pytest.raises(DataCloneError):
        way([Calls(lambda: carrier.port1.post_message(None, [other.port1]))], [buffer, other.port1])
    assert buffer == b"abc"
    assert carrier.port2.receive_event(0).ports[0].closed is False


@every_way
def test_step_5_a_buffer_that_is_exported_is_refused_and_nothing_is_detached(way):
    first, second = bytearray(b"abc"), bytearray(b"def")
    other = MessageChannel()
    with memoryview(second), pytest.raises(DataCloneError, match="view"):
        way(1, [first, other.port1, second])
    assert (first, second) == (b"abc", b"def")
    assert not other.port1.closed
    assert way(second, [second]) == b"def"


@every_way
def test_step_5_a_buffer_that_becomes_exported_while_the_message_is_cloned_is_refused(way):
    first, second, views = bytearray(b"abc"), bytearray(b"def"), []
    with pytest.raises(DataCloneError):
        way([Calls(lambda: views.append(memoryview(second)))], [first, second])
    assert (first, second) == (b"abc", b"def")


@every_way
def test_step_5_a_port_whose_other_side_has_closed_can_be_transferred(way):
    other = MessageChannel()
    other.port2.post_message("waiting")
    other.port2.close()
    moved = way({"port": other.port1}, [other.port1])["port"]
    assert moved.receive(timeout=20) == "waiting"


# ---- transferring ----


@every_way
def test_a_transferred_bytearray_moves_its_storage(way):
    buffer = bytearray(b"x" * 1000)
    clone = way({"b": buffer}, [buffer])["b"]
    assert type(clone) is bytearray
    assert clone == b"x" * 1000
    assert buffer == b""
    buffer += b"usable again"
    clone += b"!"
    assert (buffer, len(clone)) == (b"usable again", 1001)


@every_way
def test_a_transferred_item_that_occurs_twice_in_the_message_is_one_object_there(way):
    buffer = bytearray(b"abc")
    clone = way([buffer, {"again": buffer}], [buffer])
    assert clone[0] is clone[1]["again"]


@every_way
def test_a_listed_item_that_is_not_in_the_message_is_transferred_all_the_same(way):
    buffer = bytearray(b"abc")
    way("no buffer here", [buffer])
    assert buffer == b""


def test_a_listed_port_arrives_in_the_event_and_in_the_message_as_one_object(channel):
    other = MessageChannel()
    channel.port1.post_message({"p": other.port2}, [other.port2])
    event = channel.port2.receive_event(0)
    assert event.ports == (event.data["p"],)
    assert event.ports[0] is event.data["p"]
    assert event.ports[0] is not other.port2
    assert type(event.ports[0]) is MessagePort


def test_only_ports_are_in_the_events_ports_in_the_order_of_the_list(channel):
    one, two = MessageChannel(), MessageChannel()
    channel.port1.post_message("x", [two.port2, bytearray(b"abc"), one.port2])
    ports = channel.port2.receive_event(0).ports
    two.port1.post_message("two")
    one.port1.post_message("one")
    assert [port.receive_nowait() for port in ports] == ["two", "one"]


def test_structured_clone_transfers_a_port():
    port1, port2 = MessageChannel()
    moved = structured_clone({"p": port2}, transfer=[port2])["p"]
    port1.post_message("x")
    assert moved.receive_nowait() == "x"
    assert port2.closed
    assert len(port2) == 0


@pytest.mark.parametrize("severed", ["closed here", "closed there", "transferred"])
def test_posting_on_a_severed_port_clones_and_transfers_and_drops_in_silence(channel, severed):
    if severed == "closed here":
        channel.port1.close()
    elif severed == "closed there":
        channel.port2.close()
    else:
        MessageChannel().port1.post_message(None, [channel.port1])
    called = []
    buffer = bytearray(b"abc")
    channel.port1.post_message([Calls(lambda: called.append(1))], [buffer])
    assert called == [1]
    assert buffer == b""
    with pytest.raises(DataCloneError):
        channel.port1.post_message(threading.Lock())
    with pytest.raises(TypeError):
        channel.port1.post_message(1, 1)


@pytest.mark.parametrize("severed", ["closed here", "closed there"])
def test_send_on_a_severed_port_raises_and_transfers_nothing(channel, severed):
    (channel.port1 if severed == "closed here" else channel.port2).close()
    buffer = bytearray(b"abc")
    with pytest.raises(ChannelClosedError):
        channel.port1.send("x", [buffer])
    assert buffer == b"abc"


def test_a_full_channel_transfers_nothing():
    with MessageChannel(capacity=1) as (port1, port2):
        other = MessageChannel()
        buffer = bytearray(b"abc")
        port1.post_message("full")
        with pytest.raises(queue.Full):
            port1.post_message(1, [buffer, other.port1])
        with pytest.raises(TimeoutError):
            port1.send(1, [buffer, other.port1], timeout=0)
        assert buffer == b"abc"
        assert not other.port1.closed
        assert port2.receive_many() == ["full"]


def test_a_closed_port_met_in_a_message_is_refused_too(channel):
    other = MessageChannel()
    other.port1.close()
    with pytest.raises(DataCloneError):
        channel.port1.post_message([other.port1])
