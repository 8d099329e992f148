"""Transferables: bytearray, array.array, MessagePort, and what has ``__transfer__``."""

import array
import asyncio
import gc
import queue
import resource
import sys
import threading
import time

import pytest

from ends import MessageChannel, is_far
from messagechannel import ChannelClosedError, DataCloneError, structured_clone

STORAGES = {
    "bytearray": lambda: bytearray(range(200)),
    "bytearray that was cut at its start": lambda: cut(bytearray(range(200))),
    "empty bytearray": bytearray,
    **{
        f"array of {code}": (lambda code=code: array.array(code, [1, 2, 3]))
        for code in array.typecodes
        if code not in "uw"
    },
    "empty array": lambda: array.array("d"),
}


def cut(value):
    del value[:10]
    return value


every_storage = pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)


class Handle:
    """An object whose place is in one thread, or process."""

    log: list  # of what happened, set by each test

    def __init__(self, name, content=None):
        self.name, self.content = name, content

    def __transfer__(self):
        Handle.log.append(("detached", self.name, threading.current_thread()))
        content, self.content = self.content, "detached"
        return Handle.rebuild, (self.name, content)

    @staticmethod
    def rebuild(name, content):
        Handle.log.append(("rebuilt", name, threading.current_thread()))
        return Handle(name, content)


class Broken(Handle):
    """Can't be rebuilt."""

    def __transfer__(self):
        super().__transfer__()
        return Broken.rebuild, (self.name,)

    @staticmethod
    def rebuild(name):
        raise LookupError(name)


class Stubborn(Handle):
    """Can't be detached."""

    def __init__(self, error):
        self.error = error

    def __transfer__(self):
        raise self.error


class Answers(Handle):
    """Returns something else than it should."""

    def __init__(self, answer):
        self.answer = answer

    def __transfer__(self):
        return self.answer


class Slow:
    """Takes its time to be rebuilt."""

    entered: threading.Event
    leave: threading.Event

    def __transfer__(self):
        return Slow.rebuild, ()

    @staticmethod
    def rebuild():
        Slow.entered.set()
        Slow.leave.wait(5)
        return "rebuilt"


@pytest.fixture(autouse=True)
def log():
    Handle.log = []
    return Handle.log


# ---- storage ----


@every_storage
def test_the_storage_moves_and_the_source_is_empty(make):
    value, model = make(), make()
    clone = structured_clone([value, {"again": value}], transfer=[value])
    assert clone[0] == model
    assert type(clone[0]) is type(model)
    assert clone[1]["again"] is clone[0]
    assert len(value) == 0


@every_storage
def test_source_and_received_can_be_used_afterwards(make):
    value, model = make(), make()
    received = structured_clone(value, transfer=[value])
    item = model[0] if len(model) else (7 if isinstance(model, bytearray) else 1.5)
    for target in (value, received):
        for _ in range(1000):
            target.append(item)
        memoryview(target).release()
        del target[:500]
        target.extend(target[:10])
    assert received[: max(0, len(model) - 500)] == model[500:]
    assert len(value) == 510
    del value, received
    gc.collect()


@pytest.mark.parametrize("make", [make for make in STORAGES.values() if make()])
def test_storage_is_not_copied(make):
    value = make()
    size = 10_000_000 // value.itemsize if isinstance(value, array.array) else 10_000_000
    value = value * (size // len(value))
    address = address_of(value)
    assert address_of(structured_clone(value, transfer=[value])) == address


def address_of(value):
    if isinstance(value, array.array):
        return value.buffer_info()[0]
    import ctypes

    view = (ctypes.c_char * len(value)).from_buffer(value)
    return ctypes.addressof(view)


@every_storage
def test_what_is_exported_is_refused_and_keeps_its_storage(make):
    value, model, other = make(), make(), bytearray(b"other")
    with memoryview(value), pytest.raises(DataCloneError, match="a memoryview or another view of it exists") as caught:
        structured_clone([value], transfer=[other, value])
    assert caught.value.path == "transfer[1]"
    assert (value, other) == (model, b"other")
    assert structured_clone(value, transfer=[value]) == model


def test_a_gigabyte_is_transferred_at_once_and_without_another_gigabyte(run_python):
    run = run_python(
        """
import resource, statistics, time
from messagechannel import MessageChannel

port1, port2 = MessageChannel()
value = bytearray(1 << 30)
value[-1] = 7
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for _ in range(9):
    start = time.perf_counter()
    port1.post_message(value, [value])
    value = port2.receive()
    times.append(time.perf_counter() - start)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(len(value) == 1 << 30, value[-1] == 7, grown < 1 << 24, statistics.median(times) < 1e-3)
""",
        timeout=120,
    )
    assert (run.stdout.split(), run.stderr) == (["True"] * 4, "")


def test_the_layout_of_arrays_is_the_one_that_is_known():
    """Another CPython could have other fields: what is swapped would then not be what an array says of itself."""
    one = array.array("i", range(1000))
    address, length = one.buffer_info()
    size = sys.getsizeof(one)
    other = structured_clone(one, transfer=[one])
    assert other.buffer_info() == (address, length)
    assert sys.getsizeof(other) == size
    assert one.buffer_info()[1] == 0
    assert sys.getsizeof(one) == sys.getsizeof(array.array("i"))


def test_a_subclass_arrives_as_what_it_is_made_of():
    class Special(bytearray):
        pass

    value = Special(b"abc")
    received = structured_clone([value], transfer=[value])[0]
    assert (type(received), received, value) == (bytearray, b"abc", b"")


def test_storage_moves_a_hundred_thousand_times_without_a_leak():
    port1, port2 = MessageChannel()
    value = array.array("d", range(1000))
    for rounds in (1_000, 10_000 if is_far() else 100_000):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(rounds):
            port1.post_message(value, [value])
            value = port2.receive_nowait()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096
    assert value == array.array("d", range(1000))


# ---- __transfer__ ----


def test_an_object_is_detached_by_the_sender_and_rebuilt_by_the_receiver(log):
    handle = Handle("h", [1, 2])
    port1, port2 = MessageChannel()
    port1.post_message({"handle": handle, "again": (handle,)}, [handle])
    assert log == [("detached", "h", threading.main_thread())]
    received = []
    receiver = threading.Thread(target=lambda: received.append(port2.receive(5)))
    receiver.start()
    receiver.join()
    assert log[1:] == [("rebuilt", "h", receiver)]
    message = received[0]
    assert message["handle"] is message["again"][0]
    assert (message["handle"].content, handle.content) == ([1, 2], "detached")


def test_structured_clone_rebuilds_too(log):
    handle = Handle("h", "content")
    clone = structured_clone([handle, [handle]], transfer=[handle])
    assert clone[0] is clone[1][0]
    assert (clone[0].content, handle.content) == ("content", "detached")
    assert [entry[0] for entry in log] == ["detached", "rebuilt"]


def test_a_listed_object_that_is_not_in_the_message_is_transferred_all_the_same(log):
    handle = Handle("h")
    assert structured_clone("text", transfer=[handle]) == "text"
    assert [entry[0] for entry in log] == ["detached", "rebuilt"]


def test_all_kinds_travel_together(log):
    port, other = MessageChannel()
    handle, buffer, numbers, plain = Handle("h"), bytearray(b"abc"), array.array("d", [1.5]), [1]
    port1, port2 = MessageChannel()
    port1.post_message([handle, port, buffer, numbers, plain, plain, len], [numbers, handle, port, buffer])
    event = port2.receive_event()
    assert event.data[1:4] == [event.ports[0], b"abc", array.array("d", [1.5])]
    assert event.data[4] == [1]
    assert event.data[4] is event.data[5]
    assert event.data[4] is not plain
    assert (buffer, len(numbers), handle.content) == (b"", 0, "detached")
    other.post_message("to the new port")
    assert event.data[1].receive() == "to the new port"


def test_immutable_values_beside_it_are_passed_by_reference():
    handle, text, number = Handle("h"), "a text" * 3, __import__("decimal").Decimal("1.5")
    clone = structured_clone([handle, text, number, len], transfer=[handle])
    assert clone[1] is text
    assert clone[2] is number


def test_an_object_with_transfer_that_is_not_listed_is_cloned():
    handle = Handle("h", [1])
    clone = structured_clone([handle])[0]
    assert (clone.name, clone.content) == ("h", [1])
    assert clone is not handle


@pytest.mark.parametrize("answer", [None, len, (len,), (len, [1]), ("len", ()), (len, (), 3)], ids=repr)
def test_a_wrong_answer_is_a_type_error_and_the_message_is_not_posted(answer):
    port1, port2 = MessageChannel()
    buffer = bytearray(b"abc")
    with pytest.raises(TypeError, match=r"Answers.__transfer__\(\) must return a tuple"):
        port1.post_message("x", [Answers(answer), buffer])
    assert len(port2) == 0
    assert buffer == b"abc"


@pytest.mark.parametrize("post", ["post_message", "send"])
def test_an_exception_of_transfer_propagates_and_nothing_is_posted_or_lost(post):
    port1, port2 = MessageChannel(capacity=1)
    buffer = bytearray(b"abc")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            getattr(port1, post)("x", [buffer, Stubborn(ZeroDivisionError())])
    assert buffer == b"abc"
    # The room that was reserved is there again.
    getattr(port1, post)("y")
    assert port2.receive() == "y"


def test_what_transfer_returned_and_cannot_be_sent_leaves_the_rest_of_the_list_as_it_was():
    port1, port2 = MessageChannel()
    mine, yours = MessageChannel()
    buffer, handle = bytearray(b"abc"), Handle("h", lambda: "called")
    if is_far():
        with pytest.raises(DataCloneError, match=r"transfer\[1\]: what its __transfer__ returned can't be sent"):
            port1.post_message([buffer, handle, yours], [buffer, handle, yours])
        assert buffer == b"abc"
        handle.content = None
    port1.post_message([buffer, handle, yours], [buffer, handle, yours])
    came = port2.receive_event(5)
    assert came.data[0] == b"abc"
    assert is_far() or came.data[1].content() == "called"
    mine.post_message("hello")
    assert came.ports[0].receive(5) == "hello"


def test_what_transfer_runs_can_export_a_buffer_that_is_listed_too():
    buffer = bytearray(b"abc")
    views = []

    class Exports:
        def __transfer__(self):
            views.append(memoryview(buffer))
            return list, ()

    with pytest.raises(DataCloneError, match="view of it exists"):
        structured_clone(None, transfer=[Exports(), buffer])
    assert buffer == b"abc"


def test_a_full_channel_detaches_nothing(log):
    port1, _port2 = MessageChannel(capacity=1)
    port1.post_message("first")
    with pytest.raises(queue.Full):
        port1.post_message("second", [Handle("h")])
    assert log == []


def test_a_refused_message_detaches_nothing_and_names_the_path(log):
    handle = Handle("h")
    with pytest.raises(DataCloneError) as caught:
        structured_clone({"a": [handle, threading.Lock()]}, transfer=[handle])
    assert caught.value.path == "$['a'][1]"
    assert log == []


def test_a_message_that_nobody_receives_is_dropped_unbuilt(log):
    port1, port2 = MessageChannel()
    port2.close()
    port1.post_message("x", [Handle("closed")])
    port1, port2 = MessageChannel()
    port1.post_message("x", [Handle("forgotten")])
    del port1, port2
    gc.collect()
    assert [entry[:2] for entry in log] == [("detached", "closed"), ("detached", "forgotten")]


# ---- what can't be rebuilt ----


def broken_then_good(port):
    port.post_message("before")
    port.post_message("lost", [Broken("b")])
    port.post_message("after")


def test_receive_raises_what_rebuilding_raised_and_goes_on():
    port1, port2 = MessageChannel()
    broken_then_good(port1)
    assert port2.receive() == "before"
    with pytest.raises(LookupError):
        port2.receive()
    assert port2.receive() == "after"
    for receive in (port2.receive_nowait, port2.receive_event, lambda: next(port2)):
        port1.post_message("lost", [Broken("b")])
        with pytest.raises(LookupError):
            receive()
    port1.close()
    with pytest.raises(ChannelClosedError):
        port2.receive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_receive_many_leaves_out_what_cant_be_rebuilt_and_reports_it(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_type))
    port1, port2 = MessageChannel()
    broken_then_good(port1)
    assert port2.receive_many() == ["before", "after"]
    port1.post_message("lost", [Broken("b")])
    threading.Timer(0.1, port1.post_message, ["late"]).start()
    assert port2.receive_many(timeout=5) == ["late"]
    assert reported == [LookupError, LookupError]


def test_awaiting_raises_what_rebuilding_raised_and_goes_on():
    async def run():
        port1, port2 = MessageChannel()
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        broken_then_good(port1)
        assert await port2.areceive() == "before"
        with pytest.raises(LookupError):
            await port2.areceive()
        assert await port2.areceive() == "after"
        asyncio.get_running_loop().call_later(0.01, broken_then_good, port1)
        assert await port2.areceive() == "before"
        with pytest.raises(LookupError):
            await port2.areceive()
        broken_then_good(port1)
        assert await port2.areceive_many() == ["after", "before", "after"]
        port1.post_message("lost", [Broken("b")])
        asyncio.get_running_loop().call_later(0.01, port1.post_message, "late")
        assert await port2.areceive_many() == ["late"]
        asyncio.get_running_loop().call_later(0.01, broken_then_good, port1)
        await asyncio.sleep(0.05)
        messages = aiter(port2)
        assert await anext(messages) == "before"
        with pytest.raises(LookupError):
            await anext(messages)
        handle = Handle("h", 1)
        port1.post_message(handle, [handle])
        assert await port2.areceive() == "after"
        assert (await port2.areceive()).content == 1
        assert [type(error) for error in reported] == [LookupError, LookupError]

    asyncio.run(run())


@pytest.mark.parametrize("listens", [True, False], ids=["with onmessageerror", "without"])
def test_listeners_get_messageerror(listens, monkeypatch):
    reported, events, done = [], [], threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_type))
    port1, port2 = MessageChannel()
    if listens:
        port2.onmessageerror = lambda event: events.append((event.type, event.data, event.ports))
    port2.onmessage = lambda event: events.append((event.type, event.data)) or (event.data == "after" and done.set())
    broken_then_good(port1)
    assert done.wait(5)
    error = [("messageerror", None, ())] if listens else []
    assert events == [("message", "before"), *error, ("message", "after")]
    assert reported == ([] if listens else [LookupError])


def test_a_receiver_that_is_rebuilding_does_not_hold_up_the_sender():
    port1, port2 = MessageChannel()
    entered, leave = Slow.entered, Slow.leave = threading.Event(), threading.Event()
    slow = Slow()
    port1.post_message("first", [slow])
    receiver = threading.Thread(target=port2.receive)
    receiver.start()
    assert entered.wait(5)
    start = time.monotonic()
    port1.post_message("second")
    assert port2.receive(5) == "second"
    assert time.monotonic() - start < 4
    leave.set()
    receiver.join()
