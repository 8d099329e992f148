"""SharedBuffer: memory that posting shares, in one process and between two."""

import functools
import gc
import multiprocessing
import os
import pickle
import re
import resource
import sys
import threading
import weakref

import pytest

from messagechannel import DataCloneError, MessageChannel, SharedBuffer, _far, structured_clone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared memory")


class Holder:
    """Rebuilt by the receiver."""

    def __init__(self, *args):
        self.args = args

    def __transfer__(self):
        return Holder, self.args


def mapped(shared):
    """How often the memory is mapped into this process."""
    memoryview(shared)  # it is there
    with open("/proc/self/maps") as maps:
        return sum("messagechannel" in line and "memfd" in line for line in maps)


linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is mapped")


# ---- the object ----


@pytest.mark.parametrize("nbytes", [1, 100, 4096, 1_000_001])
def test_it_is_so_many_zero_bytes(nbytes):
    shared = SharedBuffer(nbytes)
    assert len(shared) == shared.nbytes == nbytes
    assert bytes(shared) == bytes(nbytes)
    assert repr(shared) == f"<SharedBuffer of {nbytes} bytes>"
    assert shared


def test_it_is_a_writable_buffer_of_bytes():
    shared = SharedBuffer(16)
    view = memoryview(shared)
    assert (view.format, view.itemsize, view.ndim, view.readonly, view.obj) == ("B", 1, 1, False, shared)
    view[3:5] = b"ab"
    view.cast("I")[2] = 0x01020304
    assert bytes(shared)[:8] == b"\0\0\0ab\0\0\0"
    assert int.from_bytes(bytes(shared)[8:12], sys.byteorder) == 0x01020304


def test_numpy_reads_and_writes_it():
    numpy = pytest.importorskip("numpy")
    shared = SharedBuffer(80)
    numpy.frombuffer(shared, dtype="f8")[:] = numpy.arange(10)
    assert numpy.frombuffer(structured_clone(shared), dtype="f8").tolist() == list(range(10))


class Index:
    def __index__(self):
        return 12


@pytest.mark.parametrize("nbytes", [True, Index()])
def test_whatever_is_an_integer_says_how_large_it_is(nbytes):
    assert len(SharedBuffer(nbytes)) == nbytes.__index__()


@pytest.mark.parametrize("nbytes", [0, -1, -(2**70), 2**63, 2**64, 2**70])
def test_a_size_that_is_none_is_a_value_error_that_names_it(nbytes):
    with pytest.raises(ValueError, match=f"at least 1 and at most {sys.maxsize}, not {nbytes}$"):
        SharedBuffer(nbytes)


@pytest.mark.parametrize("nbytes", [1.0, "1", None, b"1", [1]])
def test_what_is_no_integer_is_a_type_error(nbytes):
    with pytest.raises(TypeError, match=f"an integer, not {type(nbytes).__name__}"):
        SharedBuffer(nbytes)


def test_its_size_may_be_given_by_name():
    assert SharedBuffer(nbytes=5).nbytes == 5


@pytest.mark.parametrize(
    ("arguments", "keywords", "shown"),
    [
        ((), {}, ""),
        ((1, "2"), {}, "int, str"),
        ((), {"size": 4}, "size=int"),
        ((1,), {"nbytes": 2}, "int, nbytes=int"),
        ((), {"nbytes": 1, "zero": True}, "nbytes=int, zero=bool"),
    ],
)
def test_what_is_not_its_one_argument_is_a_type_error_that_shows_it(arguments, keywords, shown):
    for make in (SharedBuffer, functools.partial(SharedBuffer.__new__, SharedBuffer)):
        with pytest.raises(TypeError, match=re.escape(f"SharedBuffer takes one argument, nbytes, not ({shown}); ")):
            make(*arguments, **keywords)


@pytest.mark.skipif(sys.maxsize < 2**32, reason="a size that is too large is another one")
def test_more_than_the_system_has_is_an_os_error():
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match="no shared memory of 4611686018427387904 bytes"):
        SharedBuffer(2**62)
    assert len(os.listdir("/dev/fd")) == before


def test_without_a_descriptor_it_is_an_os_error():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="no shared memory of 10 bytes: Too many open files"):
            SharedBuffer(10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_has_no_subclasses_and_no_attributes():
    with pytest.raises(TypeError):
        type("Sub", (SharedBuffer,), {})
    with pytest.raises(AttributeError):
        SharedBuffer(1).name = "x"
    with pytest.raises(TypeError):
        SharedBuffer.name = "x"


# ---- cloning and posting ----


def test_a_clone_is_another_object_for_the_same_memory():
    shared = SharedBuffer(10)
    clone = structured_clone(shared)
    assert type(clone) is SharedBuffer
    assert clone is not shared
    memoryview(shared)[0] = 1
    memoryview(clone)[1] = 2
    assert bytes(shared) == bytes(clone) == b"\1\2" + bytes(8)


def test_it_may_be_anywhere_in_a_message_and_is_one_object_there():
    shared = SharedBuffer(10)
    clone = structured_clone({"a": [shared, (shared,)], "b": {"c": shared}})
    assert clone["a"][0] is clone["a"][1][0] is clone["b"]["c"] is not shared


def test_posting_shares_it():
    shared = SharedBuffer(10)
    with MessageChannel() as (port1, port2):
        port1.post_message(["work", shared])
        received = port2.receive(timeout=1)[1]
    memoryview(received)[9] = 9
    assert bytes(shared)[9] == 9


def test_it_is_shared_beside_what_the_receiver_rebuilds():
    shared, holder = SharedBuffer(10), Holder("x")
    with MessageChannel() as (port1, port2):
        port1.post_message([shared, holder, shared], transfer=[holder])
        received = port2.receive(timeout=1)
    memoryview(received[0])[9] = 9
    assert bytes(shared)[9] == 9
    assert received[0] is received[2] is not shared


def test_it_cannot_be_transferred():
    shared = SharedBuffer(10)
    with pytest.raises(DataCloneError, match="a SharedBuffer can't be transferred"):
        structured_clone(shared, transfer=[shared])


def test_a_view_of_it_cannot_be_posted():
    with pytest.raises(DataCloneError):
        structured_clone(memoryview(SharedBuffer(10)))


# ---- how long the memory lives ----


@linux
def test_a_clone_maps_nothing_anew():
    shared = SharedBuffer(10)
    before = mapped(shared)
    clones = structured_clone([shared, [shared]]), structured_clone(shared)
    assert mapped(shared) == before
    del clones


@linux
def test_the_memory_lives_as_long_as_an_object_or_view_for_it():
    gc.collect()
    witness = SharedBuffer(1)
    before, descriptors = mapped(witness), len(os.listdir("/dev/fd"))
    shared = SharedBuffer(10)
    clone = structured_clone(shared)
    memoryview(shared)[0] = 7
    del shared
    assert memoryview(clone)[0] == 7
    view = memoryview(clone)
    del clone
    assert view[0] == 7
    assert mapped(witness) == before + 1
    view.release()
    assert mapped(witness) == before
    assert len(os.listdir("/dev/fd")) == descriptors


def test_it_can_be_referred_to_weakly():
    shared = SharedBuffer(10)
    reference = weakref.ref(shared)
    assert reference() is shared
    del shared
    gc.collect()
    assert reference() is None


def test_many_threads_clone_and_drop_it():
    shared = SharedBuffer(8)
    failed = []

    def work(place):
        try:
            for number in range(500):
                clone = structured_clone([shared, {}])[0]
                view = memoryview(clone)
                del clone
                view[place] = number % 256
                assert memoryview(shared)[place] == number % 256
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# ---- other processes ----


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_shares_it():
    shared = SharedBuffer(10)
    child = os.fork()
    if not child:
        memoryview(structured_clone(shared))[4] = 44
        os._exit(0)
    os.waitpid(child, 0)
    assert bytes(shared)[4] == 44


def fill(shared, value):
    memoryview(shared)[:] = bytes([value]) * len(shared)


def fill_nested(message, value):
    fill(message["list"][0], value)
    assert message["list"][0] is message["again"]


def fill_from(queue):
    fill(*queue.get(timeout=20))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_passes_it_as_an_argument(method):
    shared = SharedBuffer(10)
    process = multiprocessing.get_context(method).Process(
        target=fill_nested, args=({"list": [shared], "again": shared}, 5)
    )
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert bytes(shared) == b"\5" * 10


def drop_one(one, other):
    """Have a second object close the descriptor, if it does."""
    del one
    gc.collect()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    fill(structured_clone(other), 7)
    del other
    gc.collect()
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_passes_several_that_are_the_same_memory(method):
    shared = SharedBuffer(10)
    clone = structured_clone(shared)
    process = multiprocessing.get_context(method).Process(target=drop_one, args=(shared, clone))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert bytes(shared) == b"\7" * 10


def fill_what_waits(port, shared):
    drop_one(*port.receive(20))
    assert bytes(shared) == b"\7" * 10
    fill(shared, 8)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_passes_it_with_a_port_in_which_it_waits(method):
    shared = SharedBuffer(10)
    here, there = MessageChannel()
    here.post_message([shared, structured_clone(shared)])
    here = _far.arrive(*_far.depart(here))
    process = multiprocessing.get_context(method).Process(target=fill_what_waits, args=(there, shared))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert bytes(shared) == b"\10" * 10
    fill(structured_clone(shared), 9)


def test_multiprocessing_passes_it_through_a_queue():
    shared = SharedBuffer(10)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=fill_from, args=(queue,))
    process.start()
    queue.put((shared, 6))
    process.join(30)
    queue.close()
    queue.join_thread()
    assert process.exitcode == 0
    assert bytes(shared) == b"\6" * 10


@pytest.mark.parametrize(
    "dumps", [pickle.dumps, lambda value: pickle._dumps(value), lambda value: pickle.dumps([value])]
)
def test_pickle_cannot_keep_it(dumps):
    with pytest.raises(TypeError, match="cannot pickle a SharedBuffer: a pickle can't keep memory; post it"):
        dumps(SharedBuffer(1))
