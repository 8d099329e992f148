"""Messages on their way between processes: packed, sealed and unpacked here, without the way."""

import array
import contextlib
import copyreg
import gc
import os
import pickle
import random
import struct
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import COMPLETE, FILLED, IMMUTABLE, Plain, Reduced, assert_same_graph, build
from messagechannel import DataCloneError, MessageChannel, MessagePort, SharedBuffer, _wire, structured_clone
from messagechannel._clone import serialize
from messagechannel._transfer import Transfer
from test_clone_properties import graph, many, round_trip

LARGE = _wire.BIG


def packed(message, transfer=()):
    moved = Transfer(transfer) if transfer else None
    parcel = _wire.pack(message, moved)
    if moved is not None:
        moved.check()
        moved.detach()
        parcel.seal()
    return parcel


def duplicates(descriptors):
    return [_wire.Descriptor(os.dup(descriptor.fd)) for descriptor in descriptors]


def arrived(parcel):
    """Unpack a parcel from copies of everything, as if it had come from elsewhere."""
    parts = parcel.parts()
    payload = b"".join(parts)
    assert len(payload) == parcel.size
    big = []
    for buffer in parcel.big:
        view = memoryview(buffer)
        assert view.nbytes >= LARGE
        assert view.contiguous
        big.append(SharedBuffer(view.nbytes))
        memoryview(big[-1])[:] = view
    return _wire.unpack(payload, big, duplicates(parcel.descriptors), parcel.ports)


def sent(message, transfer=()):
    return arrived(packed(message, transfer))


def open_descriptors():
    gc.collect()
    return len(os.listdir("/dev/fd"))


class Handle:
    """Says what its rebuilder is to be called with."""

    def __init__(self, *args):
        self.args = args

    def __transfer__(self):
        args, self.args = self.args, "detached"
        return Handle, args


class Buffered:
    """What has one large buffer, as arrays do."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __reduce_ex__(self, protocol):
        return Buffered, (pickle.PickleBuffer(self.buffer),)


class Raising:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


# ---- what arrives is what pickle makes ----


@pytest.mark.parametrize("value", [pytest.param(value, id=repr(value)[:40]) for value in IMMUTABLE])
def test_an_immutable_value_arrives(value):
    assert_same_graph([value], sent([value]))


@pytest.mark.parametrize("kind", [*COMPLETE, *FILLED])
def test_every_kind_of_object_arrives(kind):
    made = build([("list", [0]), ("plain", [0, 1, 2]), (kind, [0, 1, 1])])
    assert_same_graph(pickle.loads(pickle.dumps(made, 5)), sent(made))


@settings(many, max_examples=300)
@given(graph)
def test_any_graph_arrives(nodes):
    value = build(nodes)[::-1]
    model = round_trip(value)
    if model is not None:
        assert_same_graph(sent(value), model)


@settings(many, max_examples=300)
@given(graph, st.integers(0, 40))
def test_any_graph_arrives_with_what_is_transferred_wherever_it_is(nodes, place):
    value = build(nodes)
    storage = bytearray(b"moved")
    value.insert(place % len(value), storage)
    value.append({"again": (storage,)})
    model = round_trip(value)
    if model is not None:
        result = sent(value, [storage])
        assert storage == b""
        assert_same_graph(result, model)


def test_a_message_without_anything_beside_it_is_a_pickle():
    value = {"a": [1, 2.5, None], "b": ("text", b"bytes")}
    assert b"".join(packed(value).parts()) == pickle.dumps(value, 5)


@pytest.mark.parametrize("size", [1, LARGE - 1, LARGE, 10 * LARGE])
def test_large_bytes_are_not_copied_before_they_are_sent(size):
    content = os.urandom(size)
    parcel = packed([content, "text"])
    assert any(part is content for part in parcel.parts()) == (size >= 65536)
    assert arrived(parcel) == [content, "text"]


@pytest.mark.parametrize("make", [bytearray, lambda data: data.decode("latin-1"), lambda data: array.array("B", data)])
def test_what_is_changed_after_packing_arrives_as_it_was(make):
    value = make(bytes(range(256)) * 1000)
    parcel = packed([value])
    if isinstance(value, bytearray):
        value[:] = b""
    assert arrived(parcel) == [make(bytes(range(256)) * 1000)]


# ---- buffers ----


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, 3 * LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_buffer_arrives_and_can_be_written_if_it_could(kind, size):
    parcel = packed(Buffered(kind(os.urandom(size))))
    assert len(parcel.big) == (size >= LARGE)
    view = memoryview(arrived(parcel).buffer)
    assert bytes(view) == bytes(parcel.big[0] if parcel.big else view)
    assert view.readonly == (kind is bytes)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_small_buffer_arrives_as_what_pickle_makes_of_it(kind):
    assert type(sent(Buffered(kind(10))).buffer) is kind


def test_a_large_buffer_is_not_copied_by_packing():
    storage = bytearray(LARGE)
    parcel = packed(Buffered(storage))
    storage[5] = 7
    assert memoryview(arrived(parcel).buffer)[5] == 7


def test_a_snapshot_has_nothing_of_the_sender_s():
    storage = bytearray(LARGE)
    parcel = packed(Buffered(storage))
    parcel.snapshot()
    # A view would prevent it.
    storage.append(1)
    storage[5] = 7
    assert memoryview(arrived(parcel).buffer)[5] == 0


def test_a_snapshot_leaves_what_was_transferred_where_it_is():
    storage = bytearray(os.urandom(LARGE))
    content = bytes(storage)
    parcel = packed(storage, [storage])
    before = memoryview(parcel.big[0])
    parcel.snapshot()
    assert memoryview(parcel.big[0]).obj is before.obj
    assert arrived(parcel) == content


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_buffer_that_occurs_twice_arrives_as_one(size):
    buffer = pickle.PickleBuffer(bytearray(size))
    first, second = sent([buffer, buffer])
    assert first is second


def test_a_buffer_that_is_not_contiguous_is_refused():
    with pytest.raises(DataCloneError, match="not contiguous"):
        packed([Buffered(memoryview(bytearray(4 * LARGE))[::2])])


def test_arrays_of_numpy_arrive_in_memory_of_their_own():
    numpy = pytest.importorskip("numpy")
    small, large = numpy.arange(10), numpy.arange(LARGE, dtype="f8").reshape(4, -1)
    fortran, strided = numpy.asfortranarray(large), large[:, ::2]
    frozen = large.copy()
    frozen.flags.writeable = False
    message = {"arrays": [small, large, fortran, strided, frozen], "again": large}
    parcel = packed(message)
    assert len(parcel.big) == 3 + (strided.nbytes >= LARGE) * 0
    result = arrived(parcel)
    for sent_array, received in zip(message["arrays"], result["arrays"], strict=True):
        numpy.testing.assert_array_equal(sent_array, received)
        assert received.dtype == sent_array.dtype
        assert received.flags.writeable == sent_array.flags.writeable
    assert result["again"] is result["arrays"][1]
    assert result["arrays"][2].flags.f_contiguous


# ---- what is transferred ----


@pytest.mark.parametrize("size", [0, 100, LARGE, 3 * LARGE])
@pytest.mark.parametrize("make", [bytearray, lambda data: array.array("H", data[: len(data) & ~7])])
def test_storage_moves(make, size):
    storage = make(os.urandom(size))
    content = storage[:]
    parcel = packed({"a": storage, "b": [storage]}, [storage])
    assert len(storage) == 0
    assert len(parcel.big) == (size >= LARGE)
    result = arrived(parcel)
    assert result["a"] == content
    assert type(result["a"]) is type(content)
    assert result["b"][0] is result["a"]
    result["a"].append(1)


def test_ports_are_left_to_who_sends_the_parcel():
    channels = [MessageChannel() for _ in range(3)]
    ports = [channel.port2 for channel in channels]
    storage = bytearray(b"x")
    parcel = packed([ports[2], storage, ports[0]], [ports[0], storage, *ports[1:]])
    assert [type(port) for port in parcel.ports] == [MessagePort] * 3
    assert not any(port is ours for port, ours in zip(parcel.ports, ports, strict=True))
    result = arrived(parcel)
    assert result[0] is parcel.ports[2]
    assert result[2] is parcel.ports[0]
    channels[2].port1.post_message("hello")
    assert result[0].receive(timeout=1) == "hello"


def test_the_message_may_be_a_port_itself():
    channel = MessageChannel()
    parcel = packed(channel.port2, [channel.port2])
    assert arrived(parcel) is parcel.ports[0]


def test_a_transfer_method_says_what_is_made_by_the_receiver():
    handle = Handle("content", [1, 2])
    result = sent({"handle": handle, "list": [handle]}, [handle])
    assert type(result["handle"]) is Handle
    assert result["handle"].args == ("content", [1, 2])
    assert result["list"][0] is result["handle"]
    assert handle.args == "detached"


def test_the_arguments_of_a_rebuilder_may_hold_shared_memory_and_large_buffers():
    shared = SharedBuffer(10)
    handle = Handle(shared, Buffered(bytearray(LARGE)))
    result = sent([Buffered(bytes(LARGE)), handle, shared], [handle])
    memoryview(shared)[3] = 7
    assert bytes(result[1].args[0])[3] == 7
    assert len(result[1].args[1].buffer) == LARGE


@pytest.mark.parametrize("position", [0, 1])
def test_arguments_that_cannot_be_pickled_are_refused_by_sealing(position):
    handles = [Handle("fine", SharedBuffer(1)), Handle(["fine"])]
    handles[position].args = ([lambda: None],)
    moved = Transfer(handles)
    parcel = _wire.pack(handles, moved)
    moved.check()
    moved.detach()
    with pytest.raises(DataCloneError, match=f"transfer.{position}.: what its __transfer__ returned.*lambda") as caught:
        parcel.seal()
    assert caught.value.path == f"transfer[{position}]"


def test_what_the_arguments_of_a_rebuilder_raise_is_raised_by_sealing():
    handle = Handle(Raising(LookupError("mine")))
    moved = Transfer([handle])
    parcel = _wire.pack(handle, moved)
    moved.detach()
    with pytest.raises(LookupError, match="mine"):
        parcel.seal()


def test_a_rebuilder_that_raises_loses_the_message():
    handle = Handle()
    handle.__class__ = type("Broken", (Handle,), {"__transfer__": lambda self: (int, ("x",))})
    with pytest.raises(ValueError, match="invalid literal"):
        sent(handle, [handle])


# ---- messages that waited ----


def waited(message, transfer):
    moved = Transfer(transfer)
    serialized = serialize(message, moved)
    moved.check()
    moved.detach()
    parcel = _wire.Parcel.of_serialized(serialized)
    parcel.seal()
    return parcel


def test_a_message_that_waited_in_a_queue_arrives_like_any_other():
    handle, storage, channel, shared = Handle("x"), bytearray(b"moved"), MessageChannel(), SharedBuffer(5)
    immutable = [value for value in IMMUTABLE if value == value]
    message = [handle, immutable, storage, channel.port2, handle, shared, shared, Buffered(bytes(10))]
    result = arrived(waited(message, [handle, storage, channel.port2]))
    assert result[0].args == ("x",)
    assert result[0] is result[4]
    assert_same_graph(immutable, result[1])
    assert result[2] == b"moved"
    assert type(result[3]) is MessagePort
    assert result[5] is result[6]
    memoryview(shared)[4] = 9
    assert bytes(result[5]) == b"\0\0\0\0\t"
    assert result[7].buffer == bytes(10)


# ---- what is refused ----


class Local:
    def method(self):
        return lambda: None


REFUSED = {
    "$['x'][0]": lambda: {"x": [lambda: None]},
    "$[1].a": lambda: [0, with_attribute(sys)],
    "$['port']": lambda: {"port": MessageChannel().port1},
    "$[0][0]": lambda: [[threading.Lock()]],
    "$": lambda: (value for value in ()),
}


def with_attribute(value):
    made = Plain()
    made.a = value
    return made


@pytest.mark.parametrize("listed", [False, True], ids=["nothing listed", "something listed"])
@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_cloned_is_refused_as_it_is_in_one_process(path, listed):
    storage = bytearray(b"stays")
    transfer = [storage] if listed else []
    message = REFUSED[path]()
    with pytest.raises(DataCloneError) as expected:
        structured_clone(message, transfer=transfer)
    with pytest.raises(DataCloneError) as caught:
        packed(message, transfer)
    assert caught.value.path == expected.value.path == path
    assert str(caught.value) == str(expected.value)
    assert storage == b"stays"
    assert sent([1]) == [1]


@pytest.mark.parametrize("listed", [False, True], ids=["nothing listed", "something listed"])
@pytest.mark.parametrize("error", [LookupError("mine"), KeyboardInterrupt(), pickle.PickleError("mine")], ids=repr)
def test_what_a_method_of_the_message_raises_is_raised_as_it_is(error, listed):
    transfer = [bytearray()] if listed else []
    with pytest.raises(type(error)) as caught:
        packed([Raising(error)], transfer)
    assert caught.value is error
    assert sent([1]) == [1]


def test_what_is_nested_too_deeply_is_a_recursion_error():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        packed(deep)
    # Else it is destroyed as deeply as it is nested.
    while deep:
        deep = deep[0]
    assert sent([1]) == [1]


def test_an_item_that_is_listed_and_does_not_occur_is_transferred_all_the_same():
    storage = bytearray(b"moved")
    assert sent("nothing of it", [storage]) == "nothing of it"
    assert storage == b""


# ---- picklers that are used again ----


def test_a_message_may_be_packed_while_another_is():
    inner = []
    message = Reduced("outer")
    message.items = [1]
    message.__class__ = type(
        "Packing", (Reduced,), {"__reduce__": lambda self: (inner.append(sent([1, 2])), (list, ()))[1]}
    )
    assert sent([message, message, "end"]) == [[], [], "end"]
    assert inner == [[1, 2]]


def test_what_was_packed_is_not_kept():
    class Local:
        pass

    value = Plain()
    sent([value])
    before = sys.getrefcount(value)
    for size in (1, 200_000):
        packed([value, bytes(size)])
        assert sys.getrefcount(value) == before


def test_a_reducer_that_is_registered_or_removed_counts_from_the_next_message_on():
    assert isinstance(sent(Plain()), Plain)
    copyreg.pickle(Plain, lambda value: (str, ("registered",)))
    try:
        assert sent(Plain()) == "registered"
        copyreg.pickle(Plain, lambda value: (str, ("again",)))
        assert sent(Plain()) == "again"
    finally:
        del copyreg.dispatch_table[Plain]
    # One less and one more.
    copyreg.pickle(Reduced, lambda value: (str, ("another",)))
    try:
        assert isinstance(sent(Plain()), Plain)
        assert sent(Reduced("label")) == "another"
    finally:
        del copyreg.dispatch_table[Reduced]
    assert isinstance(sent(Reduced("label")), Reduced)


def test_a_registered_reducer_does_not_take_the_memory_from_a_shared_buffer():
    shared = SharedBuffer(1)
    copyreg.pickle(SharedBuffer, lambda value: (str, ("registered",)))
    try:
        for _ in range(2):
            assert isinstance(sent(shared), SharedBuffer)
    finally:
        del copyreg.dispatch_table[SharedBuffer]


def test_many_threads_pack_at_once():
    errors = []

    def work(number):
        try:
            for turn in range(300):
                value = [number, {"turn": turn}, "x" * (turn % 7), Buffered(bytearray([number])), Plain()]
                assert sent(value)[:3] == value[:3]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# ---- what no parcel can be ----


@pytest.fixture
def rich():
    """A parcel with everything."""
    handle, storage, channel = Handle(SharedBuffer(7)), bytearray(LARGE), MessageChannel()
    buffer = pickle.PickleBuffer(bytearray(LARGE))
    message = [buffer, buffer, SharedBuffer(5), handle, storage, channel.port2]
    return packed(message, [handle, storage, channel.port2])


def attempt(payload, big, descriptors, ports):
    """Unpack what may be malformed; True if it was found to be."""
    try:
        _wire.unpack(payload, big, duplicates(descriptors), ports)
    except ValueError as error:
        return str(error).startswith("malformed message: ")
    return False


def test_nothing_is_left_open_by_what_arrives(rich):
    arrived(rich)
    before = open_descriptors()
    for _ in range(10):
        arrived(rich)
    assert open_descriptors() == before


@pytest.mark.parametrize("change", ["less", "more"])
@pytest.mark.parametrize("what", ["big", "descriptors", "ports"])
def test_what_came_beside_the_message_must_be_what_belongs_to_it(rich, what, change):
    beside = {name: list(getattr(rich, name)) for name in ("big", "descriptors", "ports")}
    beside[what] = beside[what][:-1] if change == "less" else [*beside[what], beside[what][0]]
    before = open_descriptors()
    assert attempt(b"".join(rich.parts()), **beside)
    assert open_descriptors() == before


def test_a_plain_message_has_nothing_beside_it(rich):
    payload = pickle.dumps([1], 5)
    assert attempt(payload, rich.big, [], [])
    assert attempt(payload, [], rich.descriptors, [])
    assert attempt(payload, [], [], rich.ports)


def test_a_large_buffer_must_have_its_size(rich):
    payload = b"".join(rich.parts())
    assert attempt(payload, [bytearray(LARGE), bytearray(LARGE + 1)], rich.descriptors, rich.ports)
    assert attempt(payload, [bytearray(LARGE - 1), bytearray(LARGE)], rich.descriptors, rich.ports)


def test_a_descriptor_must_be_shared_memory_that_is_large_enough(rich):
    payload = b"".join(rich.parts())
    ends = [_wire.Descriptor(end) for end in os.pipe()]
    before = open_descriptors()
    assert attempt(payload, rich.big, [ends[0], rich.descriptors[1]], rich.ports)
    assert attempt(payload, rich.big, [packed(SharedBuffer(1)).descriptors[0], *rich.descriptors[1:]], rich.ports) in (
        True,
        # A piece of memory is whole pages on some systems.
        sys.platform == "darwin",
    )
    assert open_descriptors() == before


@pytest.mark.parametrize("end", [0, 1, 7, 39, 40, 41, -1])
def test_a_payload_that_is_cut_off_is_malformed(rich, end):
    assert attempt(b"".join(rich.parts())[:end], rich.big, rich.descriptors, rich.ports)
    assert attempt(pickle.dumps(["some", "text"], 5)[: min(end, 20)], [], [], [])


@pytest.mark.parametrize("seed", range(8))
def test_no_change_of_the_head_is_overlooked_or_does_harm(rich, seed):
    rng = random.Random(seed)
    payload = b"".join(rich.parts())
    words = 5 + sum(struct.unpack_from("QQ", payload, 24))
    before = open_descriptors()
    for _ in range(200):
        head = list(struct.unpack_from(f"{words}Q", payload))
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(words)
            head[place] = (
                rng.choice(
                    [
                        0,
                        1,
                        2**64 - 1,
                        2**63,
                        rng.getrandbits(64),
                        head[place] ^ (1 << rng.randrange(64)),
                        head[place] + 1,
                    ]
                )
                % 2**64
            )
        changed = struct.pack(f"{words}Q", *head) + payload[words * 8 :]
        if changed == payload:
            continue
        # Without being malformed, an entry may have come to stand for another one's object.
        with contextlib.suppress(TypeError, AttributeError):
            attempt(changed, rich.big, rich.descriptors, rich.ports)
    assert open_descriptors() == before
