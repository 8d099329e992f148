"""Ports that travel from process to process, with messages in flight: nothing is lost, duplicated or reordered."""

import array
import collections
import copy
import functools
import io
import multiprocessing
import multiprocessing.queues
import os
import pickle
import queue
import random
import socket
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

import pytest

import targets
from agents import PATIENCE, Agent, introduce, move
from loops import GUARD, Collector, Unraisable
from messagechannel import (
    ChannelClosedError,
    DataCloneError,
    MessageChannel,
    SharedBuffer,
    _far,
    structured_clone,
)
from victims import far_channel, same_footprint

pytestmark = [
    # Python's own warning, of 3.12 and later, about what fork is.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def agents():
    """Three processes and a thread of this one, each of which knows every other."""
    everybody = [Agent(f"agent {i}") for i in range(3)] + [Agent("agent here", "thread")]
    for i, one in enumerate(everybody):
        for other in everybody[:i]:
            introduce(one, other)
    yield everybody
    for agent in everybody:
        agent.leave()


@pytest.fixture
def lone():
    """A process of the test's own."""
    agent = Agent("lone")
    yield agent
    if agent.worker.is_alive() and not agent.worker.closed:
        agent.worker.close()
    agent.worker.join(GUARD)


def receive(port, count):
    got = []
    while len(got) < count:
        got += port.receive_many(count - len(got), timeout=PATIENCE)
    return got


def by_thread(messages):
    """Return the numbers that each thread posted, in the order in which they came."""
    streams = {}
    for who, number in messages:
        streams.setdefault(who, []).append(number)
    return streams


def far_pair(**options):
    """Return two ports of this process whose channel leads over a link, as if each were in a process of its own."""
    port1, port2 = MessageChannel(**options)
    return port1, _far.arrive(*_far.depart(port2))


# ---- from process to process ----


def test_a_port_travels_through_a_chain_of_processes_that_exit():
    count, posters = 2000, range(3)
    chain = [Agent(f"link {i}") for i in range(4)]
    for one, other in pairwise(chain):
        introduce(one, other)
    here, there = MessageChannel()
    streams = [
        threading.Thread(target=targets.post, args=(None, {"port": here}, (), "port", [(who, i) for i in range(count)]))
        for who in posters
    ]
    for stream in streams:
        stream.start()
    chain[0].do("hold", "port", ports=[there])
    received_there = []
    for step, (one, other) in enumerate(pairwise(chain)):
        one.do("post_by_threads", "port", [(step, who) for who in posters], count)
        received_there += one.do("receive_what_is_there", "port", 500)
        move("port", one, other)
    for agent in chain[:-1]:
        agent.leave()
    last = chain[-1]
    for stream in streams:
        stream.join()
    received_there += last.do("receive", "port", count * len(posters) - len(received_there))
    received_here = receive(here, 3 * count * len(posters))
    assert by_thread(received_there) == {who: list(range(count)) for who in posters}
    assert by_thread(received_here) == {(step, who): list(range(count)) for step in range(3) for who in posters}
    # Nobody is left between the two ends.
    last.do("post", "port", ["direct"])
    assert here.receive(GUARD) == "direct"
    assert [(p.posted, p.received, p.waiting) for p in [here.statistics()]] == [
        (count * len(posters), 3 * count * len(posters) + 1, 0)
    ]
    last.leave()
    with pytest.raises(ChannelClosedError):
        here.receive(GUARD)


@pytest.mark.parametrize("seed", range(3))
def test_both_ends_wander_at_random_while_messages_are_posted(agents, seed):
    steps = random.Random(seed)
    ends = {"left": "right", "right": "left"}
    channel = MessageChannel(capacity=steps.choice([None, 100_000]))
    names = {end: f"{end} {seed}" for end in ends}
    holder = dict(zip(ends, steps.sample(agents, 2), strict=True))
    holder["left"].do("hold", names["left"], ports=[channel.port1])
    holder["right"].do("hold", names["right"], ports=[channel.port2])
    posted = dict.fromkeys(ends, 0)
    received = {end: [] for end in ends}

    def message(number):
        size = (number * 7919) % 40
        return (number, bytes(size) if number % 50 else bytes(2000 * size))

    hops = 0
    while hops < 150:
        started = []
        for end in ends:
            action = steps.choice(["hop", "hop", "post", "receive"])
            agent = holder[end]
            if action == "hop":
                goal = steps.choice([other for other in agents if other is not agent])
                agent.begin("give", names[end], goal.name)
                goal.begin("take", names[end], agent.name)
                holder[end] = goal
                started += [("given", agent, end), ("taken", goal, end)]
                hops += 1
            elif action == "post":
                numbers = range(posted[end], posted[end] + steps.randrange(1, 60))
                agent.begin("post", names[end], [message(number) for number in numbers])
                posted[end] = numbers.stop
                started.append(("posted", agent, end))
            else:
                agent.begin("receive_what_is_there", names[end], steps.randrange(1, 100))
                started.append(("receive", agent, end))
        for what, agent, end in started:
            answer = agent.end().data
            if what == "receive":
                received[end] += answer
            else:
                assert answer == what
    for end, other in ends.items():
        received[end] += holder[end].do("receive", names[end], posted[other] - len(received[end]))
    for end, other in ends.items():
        assert received[end] == [message(number) for number in range(posted[other])]
    for end in ends:
        holder[end].give_back(names[end]).close()


def test_a_port_that_comes_back_leads_to_its_peer(agents):
    here, there = MessageChannel()
    here.post_message("before")
    agents[0].do("hold", "port", ports=[there])
    here.post_message("meanwhile")
    agents[0].do("post", "port", ["from there"])
    back = agents[0].give_back("port")
    assert [back.receive(GUARD), back.receive(GUARD)] == ["before", "meanwhile"]
    assert here.receive(GUARD) == "from there"
    back.post_message("home")
    here.post_message("again")
    assert (here.receive(GUARD), back.receive(GUARD)) == ("home", "again")
    back.close()
    with pytest.raises(ChannelClosedError):
        here.receive(GUARD)


def test_a_port_that_comes_back_can_leave_again_and_again(agents):
    here, traveller = MessageChannel()
    for number in range(20):
        here.post_message(number)
        agents[number % 3].do("hold", "port", ports=[traveller])
        assert agents[number % 3].do("receive", "port", 1) == [number]
        traveller = agents[number % 3].give_back("port")
    here.close()


@pytest.mark.parametrize("travelled", ["over a link", "through a process"])
def test_a_port_sent_through_its_own_other_end_goes_nowhere_and_the_channel_closes(agents, travelled):
    here, there = MessageChannel()
    if travelled == "over a link":
        there = _far.arrive(*_far.depart(there))
    else:
        agents[0].do("hold", "port", ports=[there])
        there = agents[0].give_back("port")
    here.post_message("x", [there])
    assert there.closed
    with pytest.raises(ChannelClosedError):
        here.receive(GUARD)


def test_a_port_can_not_be_sent_through_itself(agents):
    here, there = MessageChannel()
    agents[0].do("hold", "port", ports=[there])
    with pytest.raises(DataCloneError, match="itself"):
        here.post_message("x", [here])
    agents[0].do("post", "port", ["works"])
    assert here.receive(GUARD) == "works"


# ---- with messages that wait ----


def test_ports_in_queued_messages_travel_with_the_port_that_queues_them(agents):
    carrier, carried = MessageChannel()
    inner = [MessageChannel() for _ in range(5)]
    for number, channel in enumerate(inner):
        channel.port1.post_message(f"waits in {number}")
        carrier.post_message(number, [channel.port2])
    agents[0].do("hold", "carried", ports=[carried])
    move("carried", agents[0], agents[1])
    for channel in inner:
        channel.port1.post_message("later")
    carried = agents[1].give_back("carried")
    for number, channel in enumerate(inner):
        event = carried.receive_event(GUARD)
        assert event.data == number
        (port,) = event.ports
        assert receive(port, 2) == [f"waits in {number}", "later"]
        port.post_message("answer")
        assert channel.port1.receive(GUARD) == "answer"
    carrier.close()


def test_ports_in_ports_in_ports_travel(agents):
    innermost = MessageChannel()
    port, levels = innermost.port2, 6
    keep = []
    for level in range(levels):
        outer = MessageChannel()
        outer.port1.post_message(level, [port])
        keep.append(outer.port1)
        port = outer.port2
    agents[0].do("hold", "port", ports=[port])
    move("port", agents[0], agents[2])
    port = agents[2].give_back("port")
    for level in reversed(range(levels)):
        event = port.receive_event(GUARD)
        assert event.data == level
        (port,) = event.ports
    port.post_message("out")
    assert innermost.port1.receive(GUARD) == "out"


@pytest.mark.parametrize(
    ("count", "size"), [(100_000, None), (50, 5_000_000)], ids=["100,000 small messages", "50 of 5 MB"]
)
def test_a_large_backlog_travels(agents, count, size):
    here, there = MessageChannel()
    body = None if size is None else os.urandom(size)
    for number in range(count):
        here.post_message(number if body is None else (number, body))
    begin = time.monotonic()
    agents[0].do("hold", "port", ports=[there])
    move("port", agents[0], agents[1])
    back = agents[1].give_back("port")
    assert time.monotonic() - begin < PATIENCE
    for number in range(count):
        message = back.receive(PATIENCE)
        assert message == (number if body is None else (number, body))
    here.close()


def test_the_sender_leaves_while_a_message_is_half_sent(agents):
    here, there = MessageChannel()
    agents[0].do("hold", "there", ports=[there])
    body = os.urandom(30_000_000)
    here.post_message(["large", body])
    here.post_message("next")
    agents[1].do("hold", "here", ports=[here])
    agents[1].do("post", "here", ["after"])
    there = agents[0].give_back("there")
    assert receive(there, 3) == [["large", body], "next", "after"]
    agents[1].give_back("here").close()


def test_the_receiver_leaves_while_a_message_is_half_received(agents):
    here, there = MessageChannel()
    agents[0].do("hold", "there", ports=[there])
    body = os.urandom(30_000_000)
    here.post_message(["large", body])
    here.post_message("next")
    # Each look takes in what the shared memory holds.
    got = [agents[0].do("receive_what_is_there", "there", 10) for _ in range(3)]
    move("there", agents[0], agents[1])
    there = agents[1].give_back("there")
    got = [message for some in got for message in some]
    assert got + receive(there, 2 - len(got)) == [["large", body], "next"]
    here.close()


@pytest.mark.parametrize("also", [False, True], ids=["one end moves", "both ends move"])
def test_both_directions_are_full_when_an_end_moves(agents, also):
    here, there = MessageChannel()
    agents[0].do("hold", "there", ports=[there])
    body = b"x" * 100_000
    for number in range(100):
        here.post_message((number, body))
    agents[0].do("post", "there", [(number, body) for number in range(100)])
    move("there", agents[0], agents[1])
    if also:
        agents[2].do("hold", "here", ports=[here])
        here = agents[2].give_back("here")
    there = agents[1].give_back("there")
    assert receive(here, 100) == receive(there, 100) == [(number, body) for number in range(100)]
    here.close()


# ---- with somebody waiting ----


def in_background(function, *arguments):
    """Call a function in a thread; return a queue that gets what it returns or raises."""
    result = queue.Queue()

    def body():
        try:
            result.put(function(*arguments))
        except BaseException as error:
            result.put(error)

    threading.Thread(target=body, daemon=True).start()
    return result


def test_a_thread_that_waits_is_served_by_whoever_has_the_other_end(agents):
    here, there = MessageChannel()
    result = in_background(here.receive, PATIENCE)
    time.sleep(0.05)
    agents[0].do("hold", "port", ports=[there])
    time.sleep(0.05)
    move("port", agents[0], agents[1])
    time.sleep(0.05)
    agents[1].do("post", "port", ["x"])
    assert result.get(timeout=GUARD) == "x"
    result = in_background(here.receive, PATIENCE)
    time.sleep(0.05)
    agents[1].give_back("port").close()
    assert isinstance(result.get(timeout=GUARD), ChannelClosedError)


def test_a_thread_that_waits_at_a_port_that_leaves_is_told(agents):
    here, there = MessageChannel()
    result = in_background(there.receive, PATIENCE)
    time.sleep(0.1)
    agents[0].do("hold", "port", ports=[there])
    assert isinstance(result.get(timeout=GUARD), ChannelClosedError)
    here.post_message("x")
    assert agents[0].do("receive", "port", 1) == ["x"]
    here.close()


def test_a_listener_is_served_by_whoever_has_the_other_end(agents):
    here, there = MessageChannel()
    collector, closed = Collector(), Collector()
    here.onmessage = collector
    here.onclose = closed
    there.post_message(0)
    agents[0].do("hold", "port", ports=[there])
    agents[0].do("post", "port", [1, 2])
    move("port", agents[0], agents[1])
    agents[1].do("post", "port", [3])
    assert collector.wait_for(4) == [0, 1, 2, 3]
    assert closed.data == []
    agents[1].give_back("port").close()
    assert closed.wait_for(1) == ["close"]


def test_a_full_channel_stays_full_wherever_its_ends_go(agents):
    here, there = MessageChannel(capacity=3)
    for number in range(3):
        here.post_message(number)
    agents[0].do("hold", "port", ports=[there])
    with pytest.raises(queue.Full):
        here.post_message("too much")
    move("port", agents[0], agents[1])
    with pytest.raises(queue.Full):
        here.post_message("too much")
    assert agents[1].do("receive", "port", 1) == [0]
    here.send(3, timeout=GUARD)
    with pytest.raises(TimeoutError):
        here.send("too much", timeout=0.05)
    agents[2].do("hold", "here", ports=[here])
    here = agents[2].give_back("here")
    with pytest.raises(queue.Full):
        here.post_message("too much")
    sent = in_background(here.send, 4)
    assert agents[1].do("receive", "port", 4) == [1, 2, 3, 4]
    assert sent.get(timeout=GUARD) is None
    assert here.statistics().capacity == 3
    there = agents[1].give_back("port")
    assert there.statistics().capacity == 3
    for number in range(3):
        there.send(number, timeout=GUARD)
    with pytest.raises(queue.Full):
        there.post_message("too much")
    assert receive(here, 3) == [0, 1, 2]
    here.close()


# ---- transfer lists ----


def test_a_transfer_list_of_everything_at_once(lone):
    channels = [MessageChannel() for _ in range(3)]
    buffer, small = bytearray(os.urandom(300_000)), bytearray(b"small")
    numbers = array.array("q", range(100_000))
    shared = SharedBuffer(1_000_000)
    ports = [channel.port2 for channel in channels]
    expected = bytes(buffer), bytes(numbers)
    lone.worker.post_message(
        ("give_it_back", {"ports": ports[::-1], "of it": [buffer, numbers, small], "shared": [shared, shared]}),
        [*ports, buffer, small, numbers],
    )
    assert (len(buffer), len(small), len(numbers)) == (0, 0, 0)
    assert all(port.closed for port in ports)
    event = lone.worker.receive_event(PATIENCE)
    message = event.data
    assert list(message["ports"]) == list(event.ports)[::-1]
    assert (bytes(message["of it"][0]), bytes(message["of it"][1])) == expected
    assert type(message["of it"][0]) is bytearray
    assert message["of it"][1].typecode == "q"
    assert message["of it"][2] == b"small"
    assert message["shared"][0] is message["shared"][1]
    memoryview(message["shared"][0])[5] = 55
    assert memoryview(shared)[5] == 55
    for number, channel in enumerate(channels):
        channel.port1.post_message(number)
        assert event.ports[number].receive(GUARD) == number


def test_a_refused_transfer_list_leaves_everything_as_it_was(agents):
    here, there = MessageChannel()
    agents[0].do("hold", "port", ports=[there])
    fine, references, buffer = MessageChannel(), MessageChannel(copy=False), bytearray(b"x" * 100_000)
    with pytest.raises(DataCloneError, match=r"transfer\[2\].*copy=False") as caught:
        here.post_message("x", [fine.port2, buffer, references.port2])
    assert caught.value.path == "transfer[2]"
    assert len(buffer) == 100_000
    fine.port1.post_message(1)
    references.port1.post_message(2)
    assert (fine.port2.receive(0), references.port2.receive(0)) == (1, 2)
    here.post_message("works", [fine.port2, buffer])
    assert agents[0].do("receive", "port", 1) == ["works"]
    here.close()


def test_a_port_that_passes_references_waits_in_a_message_that_cannot_leave(agents):
    here, there = MessageChannel()
    references = MessageChannel(copy=False)
    here.post_message("with a port", [references.port2])
    here.post_message("next")
    agents[0].do("hold", "port", ports=[there])
    there = agents[0].give_back("port")
    with pytest.raises(DataCloneError, match="copy=False"):
        there.receive(GUARD)
    assert there.receive(GUARD) == "next"
    here.close()


# ---- multiprocessing ----


def nest_of_ports(depth):
    """Return a port in which a port waits, in which a port waits, and so on; and the other end of the innermost."""
    innermost, port = MessageChannel()
    for level in range(depth):
        here, outer = MessageChannel()
        here.post_message(level, [port])
        port = outer
    return port, innermost


def open_nest(port, depth):
    """Return the port that is so deep inside."""
    for level in reversed(range(depth)):
        event = port.receive_event(PATIENCE)
        assert event.data == level
        (port,) = event.ports
    return port


def test_a_thousand_ports_inside_one_another_travel_together():
    here, there = far_pair()
    port, innermost = nest_of_ports(1_000)
    here.post_message("nest", [port])
    here.post_message("next")
    port = open_nest(there.receive_event(PATIENCE).ports[0], 1_000)
    port.post_message("from the innermost")
    assert innermost.receive(PATIENCE) == "from the innermost"
    assert there.receive(PATIENCE) == "next"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_port_as_an_argument_of_a_process(method):
    context = multiprocessing.get_context(method)
    here, there = MessageChannel()
    here.post_message("waits")
    process = context.Process(target=targets.double_all, args=(there,), kwargs={"times": 3})
    process.start()
    assert there.closed
    assert here.receive(GUARD) == "waits" * 3
    here.post_message([1])
    assert here.receive(GUARD) == [1, 1, 1]
    here.close()
    process.join(GUARD)
    assert process.exitcode == 0


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_end_of_a_process_with_a_port_is_noticed(method):
    context = multiprocessing.get_context(method)
    here, there = MessageChannel()
    process = context.Process(target=targets.leave, args=(there, "kill"))
    process.start()
    assert list(here) == ["last words"]
    process.join(GUARD)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("way", ["Pipe", "Queue", "SimpleQueue"])
def test_a_port_through_a_pipe_or_queue(way, method):
    context = multiprocessing.get_context(method)
    if way == "Pipe":
        receiver, sender = context.Pipe(duplex=False)
    else:
        receiver = sender = getattr(context, way)()
    process = context.Process(target=targets.double_what_comes, args=(receiver,))
    process.start()
    for number in range(3):
        here, there = MessageChannel()
        here.post_message("x")
        getattr(sender, "send" if way == "Pipe" else "put")(("take this", there))
        assert here.receive(GUARD) == "xx"
        assert there.closed
        here.post_message(number)
        assert here.receive(GUARD) == 2 * number
        here.close()
    getattr(sender, "send" if way == "Pipe" else "put")(None)
    process.join(GUARD)
    assert process.exitcode == 0
    sender.close()
    receiver.close()


def test_a_port_for_the_initializer_of_an_executor():
    here, there = MessageChannel()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=targets.keep_port, initargs=(there,)) as executor:
        assert executor.submit(targets.post_to_kept_port, "x").result(GUARD) is None
        assert here.receive(GUARD) == "x"
        assert there.closed
    with pytest.raises(ChannelClosedError):
        here.receive(GUARD)


def test_a_port_as_an_argument_of_a_task_of_an_executor():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as executor:
        here, there = MessageChannel()
        here.post_message("x")
        future = executor.submit(targets.double_one, there)
        assert here.receive(GUARD) == "xx"
        future.result(GUARD)


def test_a_port_to_a_manager_and_on():
    """The manager has the port, and gives it to the first who asks."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        shared = manager.list()
        here, there = MessageChannel()
        here.post_message("waits")
        shared.append(there)
        assert there.closed
        back = shared.pop()
        assert back.receive(GUARD) == "waits"
        back.post_message("answer")
        assert here.receive(GUARD) == "answer"
        here.close()


def test_a_port_in_a_list_that_contains_itself_passes_through_a_pipe():
    mine, yours = MessageChannel()
    cyclic = [yours]
    cyclic += [cyclic, {"again": cyclic}]
    sending, receiving = multiprocessing.Pipe()
    sending.send(cyclic)
    came = receiving.recv()
    assert came[1] is came
    assert came[2]["again"] is came
    came[0].post_message("hello")
    assert mine.receive(PATIENCE) == "hello"


@pytest.fixture
def feeder_errors(monkeypatch):
    """What the threads could not pickle that feed multiprocessing's Queues, as a queue."""
    errors = queue.Queue()
    monkeypatch.setattr(
        multiprocessing.queues.Queue, "_on_queue_feeder_error", staticmethod(lambda error, item: errors.put(error))
    )
    return errors


UNPICKLABLE = {
    "a function without a name": lambda: lambda: None,
    "a lock": threading.Lock,
    "a port that passes references": lambda: MessageChannel(copy=False).port1,
    "a port that is closed": lambda: closed_port(),
    "an endless list": lambda: endless(),
}


def closed_port():
    port = MessageChannel().port1
    port.close()
    return port


def endless():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize("way", ["Pipe", "Queue", "SimpleQueue"])
@pytest.mark.parametrize("wrong", UNPICKLABLE.values(), ids=UNPICKLABLE)
def test_what_cannot_be_pickled_behind_a_port_leaves_the_port_as_it_was(way, wrong, feeder_errors):
    context = multiprocessing.get_context("spawn")
    if way == "Pipe":
        receiver, sender = context.Pipe(duplex=False)
        put, get = sender.send, receiver.recv
    else:
        receiver = sender = getattr(context, way)()
        put, get = sender.put, receiver.get
    # What multiprocessing starts and opens once is there.
    put("warm")
    assert get() == "warm"
    bad = wrong()
    with same_footprint():
        here, there = MessageChannel()
        try:
            put([there, targets.Holder([there, bad])])
            error = feeder_errors.get(timeout=GUARD)
        except Exception as raised:
            error = raised
        assert isinstance(error, (TypeError, AttributeError, pickle.PicklingError, DataCloneError, RecursionError))
        del error
        assert not there.closed
        here.post_message("still here")
        assert there.receive(0) == "still here"
        del here, there
    sender.close()
    receiver.close()


CARRIERS = {
    "attribute": (targets.Holder, lambda carrier: carrier.held),
    "bound method": (lambda port: targets.Holder(port).double_one, lambda carrier: carrier.__self__.held),
    "partial": (
        lambda port: functools.partial(targets.double_all, port, times=3),
        lambda carrier: carrier.args[0],
    ),
    "key of a dict": (lambda port: {port: 1}, lambda carrier: next(iter(carrier))),
    "set": (lambda port: {port}, lambda carrier: carrier.pop()),
    "deque": (lambda port: collections.deque([port]), lambda carrier: carrier.pop()),
    "subclass of list": (lambda port: targets.Ports([port]), lambda carrier: carrier[0]),
}


@pytest.mark.parametrize(("carry", "find"), CARRIERS.values(), ids=CARRIERS)
def test_a_port_in_any_object_passes_through_a_pipe(carry, find):
    here, there = MessageChannel()
    other, another = MessageChannel()
    sending, receiving = multiprocessing.Pipe()
    sending.send([there, carry(another)])
    came, carrier = receiving.recv()
    came.post_message("plain")
    find(carrier).post_message("carried")
    assert (here.receive(GUARD), other.receive(GUARD)) == ("plain", "carried")
    sending.close()
    receiving.close()


def test_beside_ports_everything_is_pickled_twice_however_many_they_are(monkeypatch):
    monkeypatch.setattr(targets.PicklesCounted, "pickled", 0)
    channels = [MessageChannel() for _ in range(5)]
    sending, receiving = multiprocessing.Pipe()
    for attempt in (1, 2):
        message = [channels[0].port2, targets.PicklesCounted(5), *(channel.port2 for channel in channels[1:])]
        sending.send(message)
        assert targets.PicklesCounted.pickled == 2 * attempt
        came, _, *rest = receiving.recv()
        for channel, port in zip(channels, [came, *rest], strict=True):
            port.post_message("came")
            assert channel.port1.receive(GUARD) == "came"
        channels = [MessageChannel() for _ in range(5)]
    sending.close()
    receiving.close()


def test_what_goes_beside_a_port_is_lent_once():
    sending, receiving = multiprocessing.Pipe()
    # Fetching runs a thread.
    sending.send(receiving)
    receiving.recv().close()
    with same_footprint():
        ends = multiprocessing.Pipe()
        pair = socket.socketpair()
        shared = SharedBuffer(100)
        lends = targets.Lends(os.open(os.devnull, os.O_RDONLY))
        here, there = MessageChannel()
        sending.send([there, ends[0], pair[0], shared, lends])
        came = receiving.recv()
        came[0].post_message("port")
        came[1].send("connection")
        came[2].sendall(b"socket")
        memoryview(came[3])[0] = 5
        assert os.read(came[4].descriptor, 1) == b""
        assert (here.receive(GUARD), ends[1].recv(), pair[1].recv(10), shared.nbytes) == (
            "port",
            "connection",
            b"socket",
            100,
        )
        assert memoryview(shared)[0] == 5
        for descriptor in (lends.descriptor, came[4].descriptor):
            os.close(descriptor)
        for one in (*ends, *pair, here, came[0], came[1], came[2]):
            one.close()
        del came, shared, there, here
    sending.close()
    receiving.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_port_goes_to_a_process_beside_whatever_multiprocessing_passes(method, monkeypatch):
    monkeypatch.setattr(targets.PicklesCounted, "pickled", 0)
    context = multiprocessing.get_context(method)
    mine, yours = context.Pipe()
    numbers, shared = context.Queue(), SharedBuffer(10)
    here, there = MessageChannel()
    inner, counted = MessageChannel()
    counted = targets.PicklesCounted(counted)
    process = context.Process(
        target=targets.use_all_that_multiprocessing_passes, args=(there, numbers, yours, shared, counted)
    )
    process.start()
    assert targets.PicklesCounted.pickled == 1
    numbers.put("by the queue")
    assert here.receive(GUARD) == "by the queue"
    assert inner.receive(GUARD) == "from the inside"
    assert mine.recv() == "by the connection"
    assert memoryview(shared)[0] == 7
    process.join(GUARD)
    assert process.exitcode == 0
    for one in (mine, yours, numbers):
        one.close()


def test_a_port_that_nobody_unpickles_closes_its_channel():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    here, there = MessageChannel()
    sender.send(there)
    assert there.closed
    sender.close()
    receiver.close()
    here.close()


@pytest.mark.parametrize(
    "attempt",
    [pickle.dumps, copy.copy, copy.deepcopy, lambda port: pickle.Pickler(io.BytesIO()).dump(port)],
    ids=["pickle.dumps", "copy", "deepcopy", "a file"],
)
def test_elsewhere_a_port_is_not_pickled_and_the_error_says_how_it_travels(attempt):
    here, there = MessageChannel()
    with pytest.raises(TypeError, match=r"transfer=\[port\].*multiprocessing"):
        attempt(there)
    here.post_message("still here")
    assert there.receive(0) == "still here"


def test_a_clone_of_a_port_says_how_it_travels():
    with pytest.raises(DataCloneError, match="transfer"):
        structured_clone(MessageChannel().port1)


def test_a_port_that_passes_references_does_not_go_by_multiprocessing():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    here, there = MessageChannel(copy=False)
    with pytest.raises(DataCloneError, match="copy=False"):
        sender.send(there)
    here.post_message("still here")
    assert there.receive(0) == "still here"
    sender.close()
    receiver.close()


@pytest.mark.parametrize("how", ["closed", "detached"])
def test_a_port_that_is_none_any_more_does_not_go_by_multiprocessing(how):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    _here, there = MessageChannel()
    if how == "closed":
        there.close()
    else:
        structured_clone(there, transfer=[there])
    with pytest.raises(DataCloneError, match=how if how == "closed" else "transferred|detached"):
        sender.send(there)
    sender.close()
    receiver.close()


# ---- processes that are forked ----


class Carries(multiprocessing.get_context("fork").Process):
    """A process with a port as an attribute."""

    def __init__(self, port):
        super().__init__()
        self.port = port

    def run(self):
        targets.double_one(self.port)


class OfItsOwn:
    """Says itself what pickle keeps of it."""

    def __init__(self, port):
        self.port = port

    def __reduce__(self):
        return OfItsOwn, (self.port,)


class Slotted:
    __slots__ = ("port",)

    def __init__(self, port):
        self.port = port


def closing_over(port):
    def double_one():
        targets.double_one(port)

    return double_one


def defaulting_to(port):
    def double_one(port=port):
        targets.double_one(port)

    return double_one


def naming(port):
    def double_one(*, port=port):
        targets.double_one(port)

    return double_one


def method_closing_over(port):
    class Local:
        def double_one(self):
            targets.double_one(port)

    return Local().double_one


def forked(target, *args):
    return multiprocessing.get_context("fork").Process(target=target, args=args)


FORKED = {
    "attribute of the process": Carries,
    "bound method": lambda port: forked(targets.Holder(port).double_one),
    "method of a port": lambda port: forked(port.post_message, "hello" * 2),
    "method that closes over it": lambda port: forked(method_closing_over(port)),
    "partial": lambda port: forked(functools.partial(targets.double_one, port)),
    "closure": lambda port: forked(closing_over(port)),
    "lambda": lambda port: forked(lambda: targets.double_one(port)),
    "default": lambda port: forked(defaulting_to(port)),
    "default of a keyword": lambda port: forked(naming(port)),
    "attribute": lambda port: forked(lambda holder: holder.double_one(), targets.Holder(port)),
    "attribute of an attribute": lambda port: forked(
        lambda holder: holder.held.double_one(), targets.Holder(targets.Holder(port))
    ),
    "slot": lambda port: forked(lambda holder: targets.double_one(holder.port), Slotted(port)),
    "object that reduces itself": lambda port: forked(lambda own: targets.double_one(own.port), OfItsOwn(port)),
    "deque": lambda port: forked(lambda ports: targets.double_one(ports[0]), collections.deque([port])),
    "key of a dict": lambda port: forked(lambda ports: targets.double_one(*ports), {port: 1}),
    "set": lambda port: forked(lambda ports: targets.double_one(*ports), {port}),
    "beside what can't be pickled": lambda port: forked(
        lambda held, *others: targets.double_one(held[3]),
        [threading.Lock(), (n for n in "a"), os, port, type("Local", (), {})()],
        targets.Holder([threading.Lock(), io.BytesIO().getbuffer()]),
    ),
    "before a long chain of objects": lambda port: forked(
        lambda port, chain: targets.double_one(port), port, chain_of_objects(5_000)
    ),
    "in a long chain of lists": lambda port: forked(lambda nest: targets.double_one(innermost(nest)), nest_of(port)),
    "beside objects that make others without an end": lambda port: forked(
        lambda port, more: targets.double_one(port), port, [Endless(), Endless()]
    ),
}


class Endless:
    """Has another one inside whenever it is asked."""

    def __reduce__(self):
        return Endless, (Endless(), Endless())


def chain_of_objects(length):
    chain = None
    for _ in range(length):
        chain = targets.Holder(chain)
    return chain


def nest_of(port):
    for _ in range(10_000):
        port = [port]
    return port


def innermost(nest):
    while isinstance(nest, list):
        (nest,) = nest
    return nest


@pytest.mark.parametrize("make", FORKED.values(), ids=FORKED)
def test_a_port_goes_to_a_forked_process_wherever_it_is(make):
    here, there = MessageChannel()
    here.post_message("hello")
    process = make(there)
    process.start()
    assert there.closed
    assert here.receive(GUARD) == "hellohello"
    with pytest.raises(ChannelClosedError):
        here.receive(GUARD)
    process.join(GUARD)
    assert process.exitcode == 0


def test_what_a_forked_process_is_given_is_what_it_was():
    here, there = MessageChannel()
    shared = [1]
    cyclic = [there]
    cyclic += [cyclic, {"again": cyclic}]
    holder = targets.Holder(there)

    def tell(*args, **keywords):
        port, first, second, came, held = args
        port.post_message(
            [
                first is second is shared,
                came is came[1] is came[2]["again"] is cyclic,
                came[0] is port is held.held is keywords["port"] is there,
                process._args == args,
            ]
        )

    process = multiprocessing.get_context("fork").Process(
        target=tell, args=(there, shared, shared, cyclic, holder), kwargs={"port": there}
    )
    process.start()
    assert here.receive(GUARD) == [True] * 4
    process.join(GUARD)
    assert process.exitcode == 0


def test_a_port_arrives_in_a_forked_process_without_the_listeners_that_it_had():
    here, there = MessageChannel()
    collector = Collector()
    there.onmessage = collector
    there.onclose = collector
    here.post_message("before")
    assert collector.wait_for(1) == ["before"]

    def work(port):
        port.post_message((port.onmessage, port.onclose, port.statistics().waiting, port.receive(GUARD)))
        messages = queue.Queue()
        port.onmessage = lambda event: messages.put(event.data)
        message = messages.get(timeout=GUARD)
        port.onmessage = None
        port.post_message(message)
        port.post_message(port.receive(GUARD))

    process = forked(work, there)
    process.start()
    here.post_message("one")
    assert here.receive(GUARD)[::3] == (None, "one")
    here.post_message("two")
    assert here.receive(GUARD) == "two"
    here.post_message("three")
    assert here.receive(GUARD) == "three"
    process.join(GUARD)
    assert process.exitcode == 0
    assert collector.data == ["before"]


def test_a_port_whose_channel_was_closed_goes_to_a_forked_process_with_what_waits():
    here, there = MessageChannel()
    mine, yours = MessageChannel()
    here.post_message("waits")
    here.close()
    process = forked(lambda port, answers: answers.post_message(list(port)), there, yours)
    process.start()
    assert mine.receive(GUARD) == ["waits"]
    process.join(GUARD)
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_that_cannot_leave_keeps_no_other_from_going_to_a_forked_process(monkeypatch):
    unraisable = Unraisable(monkeypatch)
    references, stays = MessageChannel(copy=False)
    here, there = MessageChannel()
    process = forked(lambda held, port: targets.double_one(port), targets.Holder([stays, stays]), there)
    process.start()
    here.post_message("hello")
    assert here.receive(GUARD) == "hellohello"
    process.join(GUARD)
    assert process.exitcode == 0
    assert [type(error) for error in unraisable.errors] == [DataCloneError]
    references.post_message("still here")
    assert stays.receive(0) == "still here"


class ReducesTo:
    """Does something when it is reduced, as an argument of what ``__transfer__`` returned."""

    def __init__(self, effect):
        self.effect = effect

    def __transfer__(self):
        return list, ([ReducesTo(self.effect)],)

    def __reduce__(self):
        self.effect()
        return int, ()


@pytest.mark.parametrize("which", ["storage", "port", "socket"])
def test_what_is_pickled_for_a_transfer_can_detach_what_is_listed_too(which):
    here, _there = far_channel()
    ours, theirs = socket.socketpair()
    other, _other = socket.socketpair()
    storage = bytearray(b"abc")
    port, peer = MessageChannel()
    views = []
    effects = {"storage": lambda: views.append(memoryview(storage)), "port": port.close, "socket": other.close}
    item = ReducesTo(effects[which])
    with pytest.raises(DataCloneError, match=r"transfer\["):
        here.post_message(None, [ours, other, storage, port, item])
    assert storage == b"abc"
    ours.send(b"still here")
    assert theirs.recv(100) == b"still here"
    if which != "port":
        port.post_message("still here")
        assert peer.receive(PATIENCE) == "still here"
    for each in (ours, theirs, other, _other):
        each.close()
