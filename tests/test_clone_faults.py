"""Structured clone of values that work against it: whatever their methods, other threads, destructors or the allocator
do, there is a clone or an exception, and no crash.
"""

import array
import collections
import gc
import itertools
import os
import pickle
import sys
import sysconfig
import weakref

import pytest

from fuzz.fuzz_clone import run
from messagechannel import DataCloneError, structured_clone
from reducers import Bag, Calls, Node, Reduced, Slot

# ---- the garbage collector's state ----


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        [[1]],
        collections.deque([collections.deque([[1]])]),
        {"a": collections.OrderedDict(a=collections.OrderedDict(b=1))},
        Reduced(lambda: (list, ([Reduced(lambda: (list, ()))],))),
    ],
    ids=["list", "deques", "OrderedDicts", "reducers"],
)
def test_the_collector_is_on_or_off_as_before(value, enabled):
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        structured_clone(value)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_a_reducer_finds_the_collector_on_also_after_another_one_inside_it():
    seen = []
    look = Calls(lambda *args: seen.append(gc.isenabled()))
    structured_clone(Reduced(lambda: (look, ([1], Reduced(lambda: (look, ()))))))
    assert seen == [True, True]


def test_a_reducer_can_turn_the_collector_off():
    assert gc.isenabled()
    try:
        structured_clone([Reduced(lambda: gc.disable() or (list, ())), [1]])
        assert not gc.isenabled()
    finally:
        gc.enable()


# ---- cycles through what can be remembered only when it is complete ----


class Set(set):
    pass


def cycles():
    for make in (lambda node: (node,), lambda node: (1, (node,)), lambda node: Exception(node)):
        node = Node(None)
        node.name = make(node)
        yield node.name
        value = make([])
        while type(value) is not list:
            outer, value = value, (value.args if isinstance(value, Exception) else value)[-1]
        value.append(outer)
        yield outer
    for make in (lambda node: frozenset([node]), lambda node: Set([(node,)])):
        node = Node(None)
        node.name = make(node)
        yield node.name


@pytest.mark.parametrize("number", range(8))
def test_a_cycle_through_what_is_remembered_late_is_kept(number):
    value = next(itertools.islice(cycles(), number, None))
    clone, model = structured_clone(value), pickle.loads(pickle.dumps(value, 5))
    steps = []
    for root in (clone, model):
        path, node = [], root
        while not any(node is each for each in path):
            path.append(node)
            node = node.name if isinstance(node, Node) else node.args if isinstance(node, Exception) else list(node)[-1]
        steps.append([type(each) for each in (*path, node)])
        assert node is root
    assert steps[0] == steps[1]


# ---- references that only reducers make ----


class Weak:
    """Holds weakly what its state holds."""

    def __init__(self, target=None):
        self.target = target and weakref.ref(target)

    def __getstate__(self):
        return {"target": self.target()}


class First:
    """Holds a list, and reduces to its first item."""

    def __init__(self, items):
        self.items = items

    def __reduce__(self):
        return list, ((self.items[0],),)


class Self:
    def __getstate__(self):
        return {"me": self}


class Guess:
    def __getattribute__(self, name):
        if name == "__reduce_ex__":
            return lambda protocol: (list, (self.items[:1],))
        return super().__getattribute__(name)


def inventions():
    """Yield names, values, and what tells of a clone whether everything is shared that should be."""
    node = Node([])
    yield "weak, after", [node, Weak(node)], lambda clone: clone[1].target is clone[0]
    node = Node([])
    yield "weak, before", [Weak(node), node], lambda clone: clone[0].target is clone[1]
    items = [[1], [2]]
    yield "item, after", {"a": items, "b": First(items)}, lambda clone: clone["b"][0] is clone["a"][0]
    yield "item, before", {"b": First(items), "a": items}, lambda clone: clone["b"][0] is clone["a"][0]
    yield "tuple", {"a": items, "b": (1, (First(items),))}, lambda clone: clone["b"][1][0][0] is clone["a"][0]
    yield "deque", [items, collections.deque([First(items)])], lambda clone: clone[1][0][0] is clone[0][0]
    guess = Guess()
    guess.items = items
    yield "getattr", [items, guess], lambda clone: clone[1][0] is clone[0][0]
    yield "self", [Self()], lambda clone: clone[0].me is clone[0]
    yield "selves", ({1}, {"a": [Self()]}), lambda clone: clone[1]["a"][0].me is clone[1]["a"][0]


@pytest.mark.parametrize(
    ("value", "is_shared"), [pytest.param(value, test, id=name) for name, value, test in inventions()]
)
def test_what_a_reducer_returns_is_shared_with_what_was_cloned_before(value, is_shared):
    assert is_shared(pickle.loads(pickle.dumps(value, 5)))
    assert is_shared(structured_clone(value))


def test_a_reducer_is_called_once():
    calls = []

    def reduce():
        calls.append(1)
        return list, ()

    structured_clone([[1], collections.deque([[2], Reduced(reduce)])])
    assert calls == [1]


# ---- what classes say of themselves ----


@pytest.mark.parametrize("names", [("a",), 5, "ab", {"a": 1}, object()], ids=repr)
def test_slot_names_that_are_no_list_are_refused_as_pickle_refuses_them(names):
    cls = type("Wrong", (), {"__slotnames__": names, "__module__": __name__})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.Wrong", cls, raising=False)
        with pytest.raises(TypeError) as model:
            pickle.dumps(cls(), 5)
        with pytest.raises(TypeError) as caught:
            structured_clone([cls()])
    assert str(caught.value) == str(model.value)


class ShortArray(array.array):
    """Says that its items are longer than they are."""

    typecode = "d"


def test_a_transferred_array_keeps_its_real_item_type():
    value = ShortArray("b", [1, 2, 3])
    assert structured_clone(value, transfer=[value]) == array.array("b", [1, 2, 3])


class UnprintableError(Exception):
    def __str__(self):
        raise KeyError("text")


class Unprintables:
    def __str__(self):
        raise KeyError("text")


@pytest.mark.parametrize("error", [UnprintableError(), TypeError(Unprintables()), TypeError(), ValueError(1)], ids=type)
def test_an_exception_that_can_not_be_printed_propagates_unchanged(error):
    def reduce():
        raise error

    with pytest.raises(type(error)) as caught:
        structured_clone([Reduced(reduce)])
    assert caught.value is error


@pytest.mark.parametrize("module", [None, 5])
def test_an_object_whose_class_has_no_proper_module_is_refused_all_the_same(module):
    def reduce():
        raise TypeError("cannot pickle this")

    cls = type("Lost", (Reduced,), {"__module__": module})
    with pytest.raises(DataCloneError) as caught:
        structured_clone([cls(reduce)])
    assert caught.value.path == "$[0]"


@pytest.mark.parametrize("make", [bytearray, lambda text: array.array("b", text)], ids=["bytearray", "array"])
def test_a_view_of_what_takes_over_is_an_obstacle_and_nothing_is_detached(make):
    first, second, views = make(b"first"), make(b"second"), []
    look = Calls(lambda received: views.append(memoryview(received)))
    with pytest.raises(DataCloneError) as caught:
        structured_clone(Reduced(lambda: (look, (second,))), transfer=[first, second])
    assert caught.value.path == "transfer[1]"
    assert (first, second) == (make(b"first"), make(b"second"))
    assert len(views) == 1


# ---- memory ----


def small_values():
    """Yield makers of values, one for each way through the walk."""
    yield "list", lambda: [[1], [object]]
    yield "dict", lambda: {"a": {"b": []}, (1, "k"): [2]}
    yield "dict with mutable keys", lambda: {(Bag(a=1), 2): [1], "b": [2]}
    yield "tuple", lambda: ([1], ([2],))
    yield "set", lambda: {(Bag(), 1), 2}
    yield "frozenset", lambda: frozenset([Bag(), 2])
    yield "bytearray", lambda: bytearray(b"abc")
    yield "object", lambda: Bag(a=[1], b=Bag())
    yield "slots", slotted
    yield "deque", lambda: collections.deque([[1]])
    yield "OrderedDict", lambda: collections.OrderedDict(a=[1])
    yield "reducer", lambda: Reduced(lambda: (list, ([1],)))
    yield "state", Self
    yield "error", lambda: ValueError([1])
    yield "many", lambda: [shared := [1], *([shared, [shared], each := [0], each] for _ in range(40))]


def slotted():
    made = Slot()
    made.child = [1]
    return made


def fail_each_allocation(name, rounds=25):
    """Clone a value again and again, while one allocation after the other fails, until all were through.

    Prints the number of those that failed, and the least number of blocks that a round has left behind.
    """
    import _testcapi

    value, blocks = dict(small_values())[name](), []
    structured_clone(value)
    for _ in range(rounds):
        failures = successes = number = 0
        gc.collect()
        blocks.append(sys.getallocatedblocks())
        # With the collector off it is the same allocation each time.
        gc.disable()
        # Some allocations CPython does without. Past the last one all succeed.
        while successes < 30:
            number += 1
            _testcapi.set_nomemory(number, number + 1)
            try:
                structured_clone(value)
            except MemoryError:
                failures += 1
                successes = 0
            else:
                successes += 1
            finally:
                _testcapi.remove_mem_hooks()
            assert not gc.isenabled()
        gc.enable()
    print(failures, min(after - before for before, after in itertools.pairwise(blocks)))


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, PyList_New of CPython 3.13 crashes where memory is short",
)
@pytest.mark.parametrize("name", dict(small_values()))
def test_each_allocation_can_fail(name, run_python):
    """In a process of its own, where nobody else allocates."""
    pytest.importorskip("_testcapi", reason="this Python comes without its own tests")
    tests = os.path.dirname(__file__)
    run = run_python(
        f"import sys; sys.path.insert(0, {tests!r}); import test_clone_faults as t; t.fail_each_allocation({name!r})"
    )
    # What CPython says when it fails to allocate the storage of a new bytearray.
    assert run.stderr.replace("SystemError: deallocated bytearray object has exported buffers\n", "") == ""
    failures, left = map(int, run.stdout.split())
    assert failures > 0
    # Each failure would have left something in each round; now and then CPython itself keeps something.
    assert left < max(failures, 3)


# ---- random graphs ----


@pytest.mark.parametrize("seed", [1, 2])
def test_random_graphs_are_cloned_as_pickle_does_and_survive_sabotage(seed):
    """`make fuzz` tries more of them."""
    assert run(seed, lambda number: number == 300) == 300
