"""No descriptors, no memory: a clear error, the message stays where it was, and goes on when there is some again."""

import contextlib
import errno
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from multiprocessing import resource_sharer
from multiprocessing.reduction import ForkingPickler

import pytest

import targets
from loops import let_the_dispatcher_finish
from messagechannel import ChannelClosedError, MessageChannel, SharedBuffer, Worker, _far
from messagechannel._reactor import Reactor
from victims import (
    FILLER,
    PATIENCE,
    Footprint,
    apart,
    assert_idle,
    far_channel,
    fill_the_ring,
    seconds_to_close,
    until,
    victim,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and limits as Linux has them")

BIG = 200_000


@contextlib.contextmanager
def limit(which, soft):
    """Lower a limit of this process, which is to be one of its own."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


@contextlib.contextmanager
def descriptors_left(number):
    """Have no more than so many descriptors to open."""
    with limit(resource.RLIMIT_NOFILE, 512):
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(number):
            os.close(taken.pop())
        try:
            yield
        finally:
            for descriptor in taken:
                os.close(descriptor)


def refused():
    """Expect an error that says what is to be done."""
    return pytest.raises(OSError, match=r"\[Errno 24\].* descriptors.*ulimit -n")


# ---- on the sending side ----


def transfer_without_descriptors(left):
    here, there = far_channel(capacity=3)
    mine, yours = MessageChannel()
    before = Footprint()
    with descriptors_left(left):
        for _ in range(5):
            with refused():
                here.post_message("with a port", [yours])
            with refused():
                here.send("with a port", [yours])
    before.assert_same()
    # It is the sender's as before.
    yours.post_message("before")
    assert mine.receive(PATIENCE) == "before"
    assert len(there) == 0
    # Nor has it taken room.
    for _ in range(2):
        here.send("filler", timeout=0)
    here.send("with a port", [yours], timeout=0)
    assert [there.receive(PATIENCE) for _ in range(2)] == ["filler"] * 2
    (came,) = there.receive_event(PATIENCE).ports
    came.post_message("after")
    assert mine.receive(PATIENCE) == "after"


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_port_is_not_transferred_without_descriptors(left):
    apart(transfer_without_descriptors, left)


def first_link_without_descriptors(left):
    # Nothing of the library's runs yet in this process.
    from messagechannel import _far

    mine, yours = MessageChannel()
    # Modules that Python needs for a thread may be what is missing.
    with descriptors_left(left), pytest.raises((OSError, ImportError)):
        _far.depart(yours)
    yours.post_message("still here")
    assert mine.receive(PATIENCE) == "still here"
    came = _far.arrive(*_far.depart(yours))
    came.post_message("and there")
    assert mine.receive(PATIENCE) == "and there"


@pytest.mark.parametrize("left", range(7))
def test_a_first_link_that_can_not_be_made_leaves_the_port(left):
    apart(first_link_without_descriptors, left)


def buffers_without_descriptors():
    here, there = far_channel()
    buffer = bytearray(BIG)
    with descriptors_left(0):
        with refused():
            here.post_message(buffer, [buffer])
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            SharedBuffer(BIG)
    assert len(buffer) == BIG
    here.post_message(buffer, [buffer])
    assert there.receive(PATIENCE) == bytes(BIG)
    shared = SharedBuffer(BIG)
    here.post_message(shared)
    assert there.receive(PATIENCE).nbytes == BIG


def large_messages_without_descriptors():
    here, there = far_channel()
    messages = [b"x" * BIG, "y" * BIG, [b"z" * BIG], 5]
    with descriptors_left(0):
        for message in messages:
            here.post_message(message)
        assert [there.receive(PATIENCE) for _ in messages] == messages


def test_large_messages_without_buffers_need_no_descriptors():
    apart(large_messages_without_descriptors)


def test_a_buffer_stays_with_the_sender_without_descriptors():
    apart(buffers_without_descriptors)


def answer(port, other=None):
    port.send("ready")
    if other is not None:
        other.send("ready, too")


def start_workers_without_descriptors(start_method, left):
    mine, yours = far_channel()
    # What Python and multiprocessing open once and for all is open, and the thread runs that hears a worker's end.
    with Worker(answer, kind="process", start_method=start_method) as warm:
        warm.join(PATIENCE)
    del warm
    let_the_dispatcher_finish()
    before = Footprint()
    with descriptors_left(left), refused():
        Worker(answer, yours, kind="process", start_method=start_method)
    before.assert_same()
    worker = Worker(answer, yours, kind="process", start_method=start_method)
    assert worker.receive(PATIENCE) == "ready"
    assert mine.receive(PATIENCE) == "ready, too"
    worker.join(PATIENCE)


@pytest.mark.parametrize("left", [0, 3, 10])
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_that_can_not_be_started_leaves_nothing(start_method, left):
    apart(start_workers_without_descriptors, start_method, left)


# ---- ports that depart with what waits in them ----


class Socket:
    """A message with a socket in it."""

    def __init__(self, number):
        self.number = number
        self.ours, self.data = socket.socketpair()
        self.transfer = [self.data]

    def assert_came(self, event):
        with event.data, self.ours:
            event.data.send(bytes([self.number]))
            assert self.ours.recv(2) == bytes([self.number])


class Shared:
    """A message with shared memory in it."""

    transfer = ()

    def __init__(self, number):
        self.data = SharedBuffer(BIG)
        self.number = number

    def assert_came(self, event):
        memoryview(self.data)[-1] = self.number
        assert memoryview(event.data)[-1] == self.number


class Large:
    """A message for which there is shared memory, where that can be had."""

    transfer = ()

    def __init__(self, number):
        self.data = self.content = bytes([number]) * BIG

    def assert_came(self, event):
        assert event.data == self.content


class Buffer(Large):
    """A buffer that travels in shared memory of its own."""

    def __init__(self, number):
        super().__init__(number)
        self.data = bytearray(self.content)
        self.transfer = [self.data]


class Port:
    """A message with a port in it, in which a message waits."""

    def __init__(self, number):
        self.data = number
        self.ours, theirs = MessageChannel()
        self.ours.post_message(number)
        self.transfer = [theirs]

    def assert_came(self, event):
        (port,) = event.ports
        assert (event.data, port.receive(PATIENCE)) == (self.data, self.data)
        port.post_message("back")
        assert self.ours.receive(PATIENCE) == "back"


class FarPort:
    """A message with a port in it that leads far, in which messages with ports wait in both directions."""

    def __init__(self, number):
        self.data = number
        self.ours, theirs = MessageChannel()
        self.there, self.back = Port(number), [Port(number), Port(number)]
        post(self.there, self.ours)
        self.ours = _far.arrive(*_far.depart(self.ours))
        self.filled = fill_the_ring(theirs)
        for one in self.back:
            post(one, theirs)
        self.transfer = [theirs]

    def assert_came(self, event):
        (port,) = event.ports
        self.there.assert_came(port.receive_event(PATIENCE))
        drain(self.ours, self.filled)
        for one in self.back:
            one.assert_came(self.ours.receive_event(PATIENCE))


def post(message, port):
    port.post_message(message.data, message.transfer)


def drain(port, filled):
    assert [port.receive(PATIENCE) for _ in range(filled)] == [FILLER] * filled


class Waiting:
    """A channel in whose ports messages wait, from before and from after it led far, and one of whose ports leaves."""

    def __init__(self, kind, far):
        self.kept, self.leaves = MessageChannel()
        self.to_there, self.to_here = [kind(1)], []
        post(self.to_there[0], self.kept)
        if far:
            self.kept = _far.arrive(*_far.depart(self.kept))
        self.filled = fill_the_ring(self.kept)
        fill_the_ring(self.leaves)
        for number in range(2, 5):
            self.to_there.append(kind(number))
            post(self.to_there[-1], self.kept)
            self.to_here.append(kind(number))
            post(self.to_here[-1], self.leaves)

    def assert_all_there(self, port):
        """Check that everything comes, once and in order, at the port that is kept and at the other one."""
        self.to_there[0].assert_came(port.receive_event(PATIENCE))
        drain(port, self.filled)
        drain(self.kept, self.filled)
        for message in self.to_there[1:]:
            message.assert_came(port.receive_event(PATIENCE))
        for message in self.to_here:
            message.assert_came(self.kept.receive_event(PATIENCE))
        for one, other in ((port, self.kept), (self.kept, port)):
            one.post_message("last")
            assert other.receive(PATIENCE) == "last"


class ByMessage:
    """Ports that go in a message."""

    def __init__(self):
        self.carrier, self.other = far_channel()

    def send(self, ports):
        self.carrier.post_message("take them", ports)

    def receive(self):
        return self.other.receive_event(PATIENCE).ports

    def close(self):
        self.carrier.close()


class ByPickle:
    """Ports that multiprocessing passes on, as its Connections do."""

    def send(self, ports):
        self.sent = ForkingPickler.dumps(ports)

    def receive(self):
        return ForkingPickler.loads(self.sent)

    def close(self):
        pass


class ByPickleOfAnObject(ByPickle):
    """Ports that are in an object that multiprocessing passes on."""

    def send(self, ports):
        super().send(targets.Holder(ports))

    def receive(self):
        return super().receive().held


def depart_with_few_descriptors(kind, far, way, number, left, then):
    """Try it once; tell whether it was refused."""
    channels = [Waiting(kind, far) for _ in range(number)]
    leaving = [channel.leaves for channel in channels]
    travel = way()
    refusal = None
    with descriptors_left(left):
        try:
            travel.send(leaving)
        except OSError as error:
            refusal = str(error)
    if refusal is not None:
        assert re.match(r"\[Errno 24\].* descriptors.*ulimit -n", refusal)
        if then == "goes":
            travel.send(leaving)
    if refusal is None or then == "goes":
        assert all(port.closed for port in leaving)
        leaving = travel.receive()
    for channel, port in zip(channels, leaving, strict=True):
        channel.assert_all_there(port)
    travel.close()
    return refusal is not None


def depart_with_ever_more_descriptors(kind, far, way, number):
    # What Python and multiprocessing open once and for all is open.
    depart_with_few_descriptors(Port, True, way, 1, 100, "goes")
    before = Footprint()
    left = 0
    # Ports in which ports wait need so many that not each number is tried.
    step = 3 * number if kind is FarPort else number
    while depart_with_few_descriptors(kind, far, way, number, left, "stays"):
        depart_with_few_descriptors(kind, far, way, number, left, "goes")
        # What multiprocessing's thread has yet to close would leave more than so many.
        before.assert_same()
        left += step
    # There was something to try.
    assert left >= 4 * number
    before.assert_same()
    assert not resource_sharer._resource_sharer._cache


@pytest.mark.parametrize(
    ("way", "number"), [(ByMessage, 1), (ByMessage, 2), (ByPickle, 1), (ByPickle, 2), (ByPickleOfAnObject, 2)]
)
@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("kind", [Socket, Shared, Large, Buffer, Port, FarPort])
def test_a_port_departs_with_all_that_waits_in_it_or_stays_as_it_was(kind, far, way, number):
    apart(depart_with_ever_more_descriptors, kind, far, way, number)


def take_back(how):
    here, there = far_channel(capacity=10)
    mine, yours = MessageChannel()
    here.post_message("before")
    filled = fill_the_ring(there)
    got, reservations = [], []

    def take():
        while len(got) < 3:
            # Unless it sleeps already, it may find the port detached for a moment.
            with contextlib.suppress(ChannelClosedError):
                got.append(there.receive(PATIENCE))

    taker = threading.Thread(target=take, daemon=True)
    if how == "listener":
        there.onmessage = lambda event: got.append(event.data)
    if how == "thread":
        taker.start()
    if how != "nobody":
        until(lambda: got == ["before"], "somebody is there")

    def reserve(count):
        """Stands for other threads, and for the lack of descriptors."""
        reservations.append(count)
        if len(reservations) == 1:
            there.post_message("posted meanwhile", [yours])
            return
        here.post_message("came meanwhile")
        time.sleep(0.05)
        raise OSError(errno.EMFILE, "now there are none")

    reserve_descriptors, _far.reserve_descriptors = _far.reserve_descriptors, reserve
    with pytest.raises(OSError, match="now there are none"):
        _far.depart(there)
    _far.reserve_descriptors = reserve_descriptors
    assert reservations == [4, 4]
    here.post_message("after")
    there.post_message("after")
    if how == "nobody":
        got += [there.receive(PATIENCE) for _ in range(3)]
    until(lambda: len(got) == 3, "all came")
    assert got == ["before", "came meanwhile", "after"]
    drain(here, filled)
    event = here.receive_event(PATIENCE)
    assert event.data == "posted meanwhile"
    event.ports[0].post_message("hello")
    assert mine.receive(PATIENCE) == "hello"
    assert here.receive(PATIENCE) == "after"
    there.onmessage = None
    came = _far.arrive(*_far.depart(there))
    for number in range(10):
        here.post_message(number)
    assert [came.receive(PATIENCE) for _ in range(10)] == list(range(10))
    here.close()
    seconds_to_close(came)


@pytest.mark.parametrize("how", ["nobody", "thread", "listener"])
def test_a_port_that_can_not_depart_after_all_goes_on(how):
    apart(take_back, how)


def start_processes_with_ever_more_descriptors(start_method):
    context = multiprocessing.get_context(start_method)
    # What Python and multiprocessing open once and for all is open.
    mine, yours = MessageChannel()
    context.Process(target=answer, args=(yours,)).start()
    assert mine.receive(PATIENCE) == "ready"
    left, started = 0, False
    while not started:
        channels = [far_channel(), MessageChannel()]
        for here, there in channels:
            here.post_message("waits there")
            there.post_message("waits here")
        process = context.Process(target=answer, args=[there for here, there in channels])
        with descriptors_left(left), contextlib.suppress(OSError):
            process.start()
        started = channels[0][1].closed
        for (here, there), answered in zip(channels, ("ready", "ready, too"), strict=True):
            assert there.closed == started
            assert here.receive(PATIENCE) == "waits here"
            if not started:
                assert there.receive(PATIENCE) == "waits there"
                there.post_message(answered)
            assert here.receive(PATIENCE) == answered
        if process.pid is not None:
            process.join(PATIENCE)
            assert process.exitcode == (0 if started else 1)
        left += 1
    assert left > 4


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_process_that_can_not_be_started_leaves_the_ports_that_it_was_to_have(start_method):
    apart(start_processes_with_ever_more_descriptors, start_method)


def depart_without_a_place():
    far_channel()
    here, there = MessageChannel()
    here.post_message("waits there")
    there.post_message("waits here")
    before = Footprint()

    def prepare(self, descriptor):
        raise OSError(errno.ENOSPC, "as many are heard as may be")

    prepare, Reactor.prepare = Reactor.prepare, prepare
    with pytest.raises(OSError, match="as many are heard as may be"):
        _far.depart(there)
    Reactor.prepare = prepare
    before.assert_same()
    assert not here.closed
    assert there.receive(PATIENCE) == "waits there"
    there.post_message("still there")
    came = _far.arrive(*_far.depart(there))
    came.post_message("from afar")
    assert [here.receive(PATIENCE) for _ in range(3)] == ["waits here", "still there", "from afar"]


def test_a_port_whose_link_the_system_will_not_listen_to_stays():
    apart(depart_without_a_place)


# ---- on the receiving side ----


def wait_for_descriptors():
    here, there = MessageChannel()
    go, gone = MessageChannel()
    with victim(send_ports_when_told, there, gone), descriptors_left(0):
        go.post_message("go")
        assert go.receive(PATIENCE) == "sent"
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.2
        with refused():
            while True:
                here.receive_event(PATIENCE)


def test_who_has_no_room_for_descriptors_does_not_spin():
    apart(wait_for_descriptors)


def send_a_port_between_others(port, go):
    go.receive(PATIENCE)
    port.send_many(["one", "two"])
    mine, yours = MessageChannel()
    port.post_message("with a port", [yours])
    port.post_message("last")
    go.post_message("sent")
    mine.post_message(mine.receive(PATIENCE))
    port.receive(PATIENCE)


def receive_many_without_descriptors(with_own):
    here, there = MessageChannel()
    there.send_many(range(with_own))
    go, gone = MessageChannel()
    with victim(send_a_port_between_others, there, gone):
        with descriptors_left(0):
            go.post_message("go")
            assert go.receive(PATIENCE) == "sent"
            until(lambda: len(here) >= with_own + 3, "they came")
            # What comes before the port is not lost, nor does the port come without what belongs to it.
            assert here.receive_many() == [*range(with_own), "one", "two"]
            for receive in (here.receive, here.receive_many):
                with refused():
                    receive()
        (port,) = here.receive_event(PATIENCE).ports
        port.post_message("back")
        assert port.receive(PATIENCE) == "back"
        assert here.receive_many() == ["last"]


@pytest.mark.parametrize("with_own", [0, 3], ids=["all by the link", "some before there was a link"])
def test_what_was_taken_before_a_message_that_has_no_room_is_returned(with_own):
    apart(receive_many_without_descriptors, with_own)


def receive_without_descriptors(how):
    here, there = far_channel()
    mine, yours = MessageChannel()
    here.post_message("first")
    here.post_message("with a port", [yours])
    here.post_message("last")
    assert there.receive(PATIENCE) == "first"
    with descriptors_left(0):
        # The reactor may have heard the descriptors before; if it has, there is nothing to miss.
        if how == "closed":
            here.close()
        for _ in range(3):
            with contextlib.suppress(OSError):
                until(lambda: len(there) == 2, "both wait")
                event = there.receive_event(PATIENCE)
                break
        else:
            event = None
    if event is None:
        event = there.receive_event(PATIENCE)
    assert event.data == "with a port"
    event.ports[0].post_message("hello")
    assert mine.receive(PATIENCE) == "hello"
    assert there.receive(PATIENCE) == "last"
    if how == "closed":
        seconds_to_close(there)


@pytest.mark.parametrize("how", ["open", "closed"])
def test_a_message_stays_until_there_are_descriptors(how):
    apart(receive_without_descriptors, how)


def send_ports_when_told(port, go):
    go.receive(PATIENCE)
    ports = []
    for number in range(20):
        mine, yours = MessageChannel()
        mine.post_message(number)
        ports.append(mine)
        port.post_message(number, [yours])
    port.post_message("last")
    go.post_message("sent")
    with contextlib.suppress(Exception):
        go.receive()


def hear_without_descriptors(then):
    here, there = MessageChannel()
    go, gone = MessageChannel()
    with victim(send_ports_when_told, there, gone) as process:
        with descriptors_left(0):
            go.post_message("go")
            assert go.receive(PATIENCE) == "sent"
            events = []
            if then == "killed":
                os.kill(process.pid, signal.SIGKILL)
            for _ in range(3):
                with refused():
                    while True:
                        events.append(here.receive_event(PATIENCE))
                time.sleep(0.05)
            # The end of the other channel gives some back.
            assert len(events) < 5
        events += [here.receive_event(PATIENCE) for _ in range(20 - len(events))]
        assert [event.data for event in events] == list(range(20))
        assert [event.ports[0].receive(PATIENCE) for event in events] == list(range(20))
        assert here.receive(PATIENCE) == "last"
        if then == "killed":
            seconds_to_close(here)


@pytest.mark.parametrize("then", ["alive", "killed"])
def test_descriptors_wait_in_the_socket(then):
    apart(hear_without_descriptors, then)


def listen_without_descriptors():
    here, there = MessageChannel()
    go, gone = MessageChannel()
    got, reported = [], []
    sys.unraisablehook = lambda report: reported.append(report.exc_value)
    here.onmessage = lambda event: got.append((event.data, event.ports))
    # The threads that this needs are there.
    warm = MessageChannel()
    warm.port2.onmessage = lambda event: got.append(event.data)
    warm.port1.post_message("warm")
    until(lambda: got == ["warm"], "the dispatcher runs")
    got.clear()
    with victim(send_ports_when_told, there, gone):
        with descriptors_left(0):
            go.post_message("go")
            assert go.receive(PATIENCE) == "sent"
            until(lambda: reported, "it was reported")
            assert not got
        until(lambda: len(got) == 21, "everything was delivered")
    assert [data for data, _ in got] == [*range(20), "last"]
    assert [ports[0].receive(PATIENCE) for _, ports in got[:20]] == list(range(20))
    assert all(error.errno == errno.EMFILE for error in reported)


def test_listeners_get_later_what_there_were_no_descriptors_for():
    apart(listen_without_descriptors)


class Troubled:
    """Has something in its socket that it can't take for a long time."""

    heard_so_often = 0

    def heard(self):
        self.heard_so_often += 1
        return 1000.0

    def is_sending(self):
        return False

    is_listening = is_sending


class Failing(Troubled):
    def heard(self):
        super().heard()
        raise LookupError("as the test wants it")


def hear_beside_trouble(troubled):
    failures = []
    threading.excepthook = lambda arguments: failures.append(arguments.exc_type)
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    source = troubled()
    _far._reactor.register(ours.fileno(), source)
    until(lambda: source.heard_so_often, "it was heard")
    got = []
    here, there = far_channel()
    there.onmessage = lambda event: got.append(event.data)
    here.post_message("hello")
    until(lambda: got == ["hello"], "the other one is heard")
    assert_idle()
    if troubled is Failing:
        until(lambda: source.heard_so_often > 1, "it is heard again")
        assert set(failures) == {LookupError}
    else:
        assert source.heard_so_often == 1
    _far._reactor.unregister(ours.fileno())


def hear_beside_timers():
    """Timers that ask for one another, and take as long as they ask for."""
    reactor = _far._reactor
    stop = []

    def again():
        time.sleep(0.01)
        if not stop:
            reactor.call_later(0.01, again)

    here, there = far_channel()
    reactor.call_later(0, again)
    reactor.call_later(0, again)
    got = []
    there.onmessage = lambda event: got.append(event.data)
    here.post_message("hello")
    until(lambda: got == ["hello"], "it is heard")
    stop.append(True)


def test_timers_without_end_keep_nobody_waiting():
    apart(hear_beside_timers)


@pytest.mark.parametrize("troubled", [Troubled, Failing])
def test_who_is_in_trouble_keeps_nobody_else_waiting(troubled):
    apart(hear_beside_trouble, troubled)


# ---- what is tried again ----


def timers():
    return len(_far._reactor._later)


def send_while_a_port_waits_for_descriptors():
    here, there = far_channel()
    filled = fill_the_ring(here)
    mine, yours = MessageChannel()
    here.post_message("with a port", [yours])
    before = timers()
    with descriptors_left(0):
        # Now there is room, but the port can't depart.
        for _ in range(filled):
            there.receive(PATIENCE)
        for number in range(64 * 100):
            here.post_message(number)
        time.sleep(0.1)
        assert timers() <= before + 1
    assert there.receive_event(PATIENCE).data == "with a port"
    assert [there.receive(PATIENCE) for _ in range(64 * 100)] == list(range(64 * 100))
    until(lambda: mine.closed, "nobody has the port")


def test_however_much_is_posted_one_timer_tries_again():
    apart(send_while_a_port_waits_for_descriptors)


# ---- memory ----


def no_memory_for_buffers():
    here, there = far_channel(capacity=2)
    buffer = bytearray(b"x") * (4 << 20)
    # What a memfd obeys.
    with limit(resource.RLIMIT_FSIZE, 1 << 20):
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            SharedBuffer(4 << 20)
        # What was transferred waits here until there is memory.
        here.post_message(buffer, [buffer])
        here.post_message("behind it")
        assert not buffer
        with pytest.raises(TimeoutError):
            there.receive(0.1)
    came = there.receive(PATIENCE)
    assert (len(came), bytes(came[:2])) == (4 << 20, b"xx")
    assert there.receive(PATIENCE) == "behind it"


def test_a_buffer_for_which_there_is_no_memory_waits():
    apart(no_memory_for_buffers)


def no_address_space():
    here, there = far_channel()
    buffer = bytearray(b"y") * (32 << 20)
    here.post_message(buffer, [buffer])
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[0])
    with limit(resource.RLIMIT_AS, pages * 4096 + (8 << 20)):
        for _ in range(3):
            with pytest.raises(MemoryError):
                there.receive(PATIENCE)
    came = there.receive(PATIENCE)
    assert (len(came), bytes(came[-2:])) == (32 << 20, b"yy")


def test_a_message_stays_until_there_is_memory_to_map_it():
    apart(no_address_space)


def no_memory_for_a_link():
    mine, yours = MessageChannel()
    from messagechannel import _far

    far_channel()
    with limit(resource.RLIMIT_FSIZE, 4096), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        _far.depart(yours)
    yours.post_message("still here")
    assert mine.receive(PATIENCE) == "still here"


def test_a_port_stays_where_there_is_no_memory_for_its_link():
    apart(no_memory_for_a_link)


def test_a_thread_goes_on_when_descriptors_are_there_again():
    def receive_when_it_can():
        here, there = far_channel()
        mine, yours = MessageChannel()
        got = []
        taker = threading.Thread(target=lambda: got.append(there.receive_event(PATIENCE)), daemon=True)
        taker.start()
        with descriptors_left(0), refused():
            here.send(None, [yours])
        here.send(None, [yours])
        taker.join(PATIENCE)
        got[0].ports[0].send("hello")
        assert mine.receive(PATIENCE) == "hello"

    apart(receive_when_it_can)
