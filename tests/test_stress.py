"""Threads and tasks do everything at once, at random: every message is accounted for, and nobody sleeps for ever.

Each message says which channel and side it is for, who sent it, and its number there. In the end what was received of
a sender must be what the sender knows: all of it, once, in order. Where the channel was severed it may end early; where
the receiving port was dropped, or travelled in a message that nobody received, too.

Every test is one seed, which its name tells. ``MESSAGECHANNEL_STRESS_FACTOR=100`` runs minutes instead of seconds,
``MESSAGECHANNEL_STRESS_SEED=...`` one seed again.
"""

import asyncio
import contextlib
import faulthandler
import gc
import os
import random
import threading
import time
from collections import defaultdict
from queue import Empty, Full
from typing import NamedTuple

import pytest

from ends import MessageChannel, is_far
from messagechannel import ChannelClosedError, DataCloneError, wait

pytestmark = pytest.mark.usefixtures("_many_switches")

FACTOR = int(os.environ.get("MESSAGECHANNEL_STRESS_FACTOR", "1"))
SEED = os.environ.get("MESSAGECHANNEL_STRESS_SEED")
SEEDS = [int(SEED)] * FACTOR if SEED else [random.randrange(10**9) for _ in range(3 * FACTOR)]

THREADS = 3
TASKS = 2
STEPS = 1000
CHANNELS = 5
MOMENT = 0.002
HANG_SECONDS = 60

# A message is (channel number, side, sender, number, luggage): luggage is None or what is known of a port that travels.
# A channel's side 0 stays where it is. Its side 1 travels, so nothing is posted there that would be dropped in silence.
HOME, TRAVELLER = 0, 1


class Attempt(NamedTuple):
    """`count` messages from `first` on: "sent" for sure, "posted" unless severed, "broken" off by an exception."""

    first: int
    count: int
    how: str


class Channel:
    """A channel, who may have which of its messages, and what excuses that some are missing."""

    def __init__(self, number, capacity, copy):
        self.number = number
        self.bounded = capacity is not None
        self.copy = copy
        self.ports = list(MessageChannel(capacity=capacity, copy=copy))
        self.severed = False
        self.reader_is_gone = [False, False]
        # Of a far end, what the sender's process still has when the receiver closes does not arrive.
        self.reader_closed = [False, False]


class World:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.channels = []
        self.everything = []
        self.lock = threading.Lock()
        # Ports in messages that nobody has received yet.
        self.travelling = {}
        # (channel, side, sender) -> attempts, in order.
        self.attempts = defaultdict(list)
        # One list of messages for each thread or task that receives, in order.
        self.received = defaultdict(list)
        for _ in range(CHANNELS):
            self.channels.append(self.new_channel(self.random))

    def new_channel(self, dice):
        capacity = dice.choice([None, None, 1, 3, 40])
        with self.lock:
            made = Channel(len(self.everything), capacity, dice.random() < 0.8)
            self.everything.append(made)
        return made

    def take(self, who, data, ports=()):
        """Account for a received message, and unpack the port that it brought."""
        self.received[who].append(data[:4])
        luggage = data[4]
        if luggage is not None:
            token, number, inside = luggage
            del self.travelling[token]
            arrived = ports[0] if ports else inside
            channel = self.everything[number]
            if arrived is None:
                # Nobody asked for the ports of this message.
                self.lose(channel, TRAVELLER)
            else:
                channel.ports[TRAVELLER] = arrived

    def lose(self, channel, side):
        channel.severed = channel.reader_is_gone[side] = True

    def hear(self, event):
        self.take(("listener", threading.get_ident()), event.data, event.ports)


class Worker:
    """What a thread or a task does, one random step after the other."""

    def __init__(self, world, number):
        self.world = world
        self.number = number
        self.dice = random.Random(world.random.randrange(10**9))
        self.next = defaultdict(int)

    def pick(self):
        """Return a channel, one of its sides, and the port there; the port may be gone at any moment."""
        while True:
            index = self.dice.randrange(CHANNELS)
            channel = self.world.channels[index]
            side = self.dice.choice([HOME, TRAVELLER])
            port = channel.ports[side]
            if channel.severed and self.dice.random() < 0.3:
                self.replace(index)
            elif port is not None:
                return channel, side, port

    def replace(self, index):
        retired = self.world.channels[index]
        self.world.channels[index] = self.world.new_channel(self.dice)
        if self.dice.random() < 0.5:
            self.drop(retired, self.dice.choice([HOME, TRAVELLER]))

    def messages(self, channel, side, count, luggage=None):
        """Return `count` messages from `side` to the other."""
        first = self.next[channel.number, side]
        return [(channel.number, 1 - side, self.number, i, luggage) for i in range(first, first + count)]

    def note(self, channel, side, count, how):
        first = self.next[channel.number, side]
        self.next[channel.number, side] += count
        self.world.attempts[channel.number, 1 - side, self.number].append(Attempt(first, count, how))

    # -- steps --

    def post(self):
        channel, side, port = self.pick()
        if side == HOME:
            with contextlib.suppress(Full):
                port.post_message(*self.messages(channel, side, 1))
                self.note(channel, side, 1, "posted")

    def send(self):
        channel, side, port = self.pick()
        with contextlib.suppress(ChannelClosedError, TimeoutError):
            port.send(*self.messages(channel, side, 1), timeout=self.dice.choice([0, MOMENT]))
            self.note(channel, side, 1, "sent")

    def send_many(self):
        channel, side, port = self.pick()
        count = self.dice.choice([1, 2, 10, 70])
        if channel.bounded:
            # It would wait for room, perhaps for ever: everybody else may do the same.
            return
        try:
            port.send_many(self.messages(channel, side, count))
        except ChannelClosedError:
            self.note(channel, side, count, "broken")
        else:
            self.note(channel, side, count, "sent")

    def receive(self):
        _, _, port = self.pick()
        how = self.dice.randrange(4)
        ports, messages = (), []
        with contextlib.suppress(ChannelClosedError, TimeoutError, Empty):
            if how == 0:
                messages = [port.receive_nowait()]
            elif how == 1:
                messages = [port.receive(self.dice.choice([0, MOMENT]))]
            elif how == 2:
                messages = port.receive_many(self.dice.choice([None, 1, 3, 30]), timeout=0)
            else:
                event = port.receive_event(self.dice.choice([0, MOMENT]))
                messages, ports = [event.data], event.ports
        for message in messages:
            self.world.take(self.number, message, ports)

    def receive_much(self):
        for _ in range(3):
            self.receive()

    def wait(self):
        ports = [self.pick()[2] for _ in range(3)]
        for port in wait(ports, MOMENT):
            len(port)
            port.statistics()

    def listen(self):
        self.pick()[2].onmessage = self.world.hear

    def stop_listening(self):
        self.pick()[2].onmessage = None

    def transfer(self):
        moved = self.dice.choice(self.world.channels)
        port = moved.ports[TRAVELLER]
        channel, side, road = self.pick()
        if port is None or channel is moved:
            return
        # By reference, the message would hold the old handle.
        inside = port if channel.copy and self.dice.random() < 0.9 else None
        token = (self.number, self.dice.random())
        self.world.travelling[token] = moved
        (message,) = self.messages(channel, side, 1, (token, moved.number, inside))
        try:
            road.send(message, [port], timeout=0)
        except (DataCloneError, TimeoutError):
            del self.world.travelling[token]
        except ChannelClosedError:
            # A close in the very moment of the send takes the port along.
            if port.closed:
                self.world.lose(moved, TRAVELLER)
            del self.world.travelling[token]
        else:
            self.note(channel, side, 1, "sent")

    def close(self):
        channel, side, port = self.pick()
        channel.severed = channel.reader_closed[side] = True
        port.close()

    def drop(self, channel=None, side=None):
        if channel is None:
            channel, side, _ = self.pick()
        self.world.lose(channel, side)
        channel.ports[side] = None

    def collect(self):
        gc.collect(self.dice.randrange(3))

    STEPS = (
        (post, 20),
        (send, 20),
        (send_many, 8),
        (receive, 20),
        (receive_much, 30),
        (wait, 3),
        (listen, 4),
        (stop_listening, 4),
        (transfer, 8),
        (close, 0.2),
        (drop, 0.2),
        (collect, 0.5),
    )

    def work(self):
        steps, weights = zip(*self.STEPS, strict=True)
        for step in self.dice.choices(steps, weights, k=STEPS):
            step(self)


class AsyncWorker(Worker):
    """The same from a task, and waits that are cancelled."""

    async def asend(self):
        channel, side, port = self.pick()
        with contextlib.suppress(ChannelClosedError, TimeoutError):
            await port.asend(*self.messages(channel, side, 1), timeout=self.dice.choice([0, MOMENT]))
            self.note(channel, side, 1, "sent")

    async def areceive(self):
        _, _, port = self.pick()
        with contextlib.suppress(ChannelClosedError, asyncio.TimeoutError):
            self.world.take(self.number, await asyncio.wait_for(port.areceive(), MOMENT))

    async def areceive_many(self):
        _, _, port = self.pick()
        with contextlib.suppress(ChannelClosedError, asyncio.TimeoutError):
            for message in await asyncio.wait_for(port.areceive_many(), MOMENT):
                self.world.take(self.number, message)

    ASYNC_STEPS = ((asend, 20), (areceive, 20), (areceive_many, 10))

    async def awork(self):
        steps, weights = zip(*self.STEPS, *self.ASYNC_STEPS, strict=True)
        for step in self.dice.choices(steps, weights, k=STEPS):
            waits = step(self)
            if waits is not None:
                await waits
            elif self.dice.random() < 0.2:
                await asyncio.sleep(0)


async def run_tasks(world):
    await asyncio.gather(*(AsyncWorker(world, THREADS + i).awork() for i in range(TASKS)))


def hangs(what):
    faulthandler.dump_traceback(all_threads=True)
    pytest.fail(what)


def start(runs):
    """Start each in a thread of its own, daemons so that a hang ends with the run."""
    threads = [threading.Thread(target=run, daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    deadline = time.monotonic() + HANG_SECONDS
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
        if thread.is_alive():
            hangs(f"{thread.name} hangs")


def run_world(world):
    join(start([*(Worker(world, i).work for i in range(THREADS)), lambda: asyncio.run(run_tasks(world))]))


def silence(world):
    """Take the listeners off and wait until the dispatcher thread is done with what it has begun."""
    for channel in world.everything:
        for port in channel.ports:
            if port is not None:
                port.onmessage = None
    done = threading.Event()
    with MessageChannel() as last:
        last.port1.onmessage = lambda event: done.set()
        last.port2.post_message(None)
        assert done.wait(HANG_SECONDS), "the dispatcher thread hangs"


def drain(world):
    """Receive all that waits at ports, and at ports that come with it."""
    mine, before = world.received["the last"], -1
    while before != len(mine):
        before = len(mine)
        for channel in world.everything:
            for port in channel.ports:
                with contextlib.suppress(Empty, ChannelClosedError, TimeoutError):
                    while port is not None:
                        event = port.receive_event(0)
                        world.take("the last", event.data, event.ports)
    # What nobody can reach any more: in the queues of ports that travel in circles, or were dropped.
    for channel in world.travelling.values():
        world.lose(channel, TRAVELLER)


def check(world):
    arrived = defaultdict(list)
    # A copy: a dropped port that its peer keeps alive may still hear.
    for who, messages in dict(world.received).items():
        last = defaultdict(lambda: -1)
        for *stream, number in messages:
            stream = tuple(stream)
            assert number > last[stream], f"{who} received {stream} {number} after {last[stream]}"
            last[stream] = number
            arrived[stream].append(number)
    total = missing = 0
    for stream, attempts in world.attempts.items():
        channel, side = world.everything[stream[0]], stream[1]
        numbers = sorted(arrived.pop(stream, []))
        received = set(numbers)
        assert len(received) == len(numbers), f"received twice: {stream} {numbers}"
        ended = None
        for attempt in attempts:
            expected = range(attempt.first, attempt.first + attempt.count)
            here = [number for number in expected if number in received]
            assert here == list(expected[: len(here)]), f"{stream}: a gap in {attempt}: {here}"
            assert not (ended and here), f"{stream}: {attempt} arrived, {ended} did not"
            total += attempt.count
            if len(here) < attempt.count and attempt.how != "broken":
                excused = (
                    channel.reader_is_gone[side]
                    or (attempt.how == "posted" and channel.severed)
                    or (is_far() and channel.reader_closed[side])
                )
                assert excused, f"{stream}: lost of {attempt}: all but {here}"
                missing += attempt.count - len(here)
                ended = attempt
        assert numbers == [] or numbers[-1] < attempts[-1].first + attempts[-1].count, f"{stream}: {numbers[-1]}"
    assert not arrived, f"received, but never sent: {dict(arrived)}"
    return total, missing


def close_all(world):
    """Close what listeners of dropped ports keep alive where the garbage collector can't see both ends."""
    for channel in world.everything:
        for port in channel.ports:
            if port is not None:
                port.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_message_is_accounted_for(seed):
    world = World(seed)
    run_world(world)
    silence(world)
    drain(world)
    total, missing = check(world)
    close_all(world)
    # Excuses must be the exception, lest this test can't fail.
    assert missing < total / 2


# ---- tokens that go round: a wake-up that is lost leaves them lying ----

HOPS = 1500


class Station:
    """A channel from whose second port two receive, in every way there is, and send on what they got."""

    def __init__(self, capacity=None):
        self.entrance, self.exit = MessageChannel(capacity=capacity)
        self.break_room = threading.Lock()


class Tour:
    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.tokens = self.dice.choice([1, 2])
        # Bounded ones only where two wait: of two tokens, one is always with somebody who is free to make room.
        self.by_threads = [Station(self.dice.choice([None, 1])) for _ in range(2)]
        self.by_tasks = Station(self.dice.choice([None, 1]))
        self.by_dispatcher, self.by_loop = Station(), Station()
        self.stations = [*self.by_threads, self.by_tasks, self.by_dispatcher, self.by_loop]
        self.moves = 0
        self.arrivals = threading.Semaphore(0)
        self.over = False

    def next_entrance(self, hops):
        self.moves += 1
        if hops == 0:
            self.arrivals.release()
            return None
        return self.dice.choice(self.stations).entrance

    def forward(self, hops):
        entrance = self.next_entrance(hops)
        if entrance is not None:
            entrance.send(hops - 1)

    def rest(self, station, dice):
        """Now and then, take a break of some moves: whoever was passed over and sleeps on is missed now."""
        if dice.random() < 0.3 and self.tokens == 1 and station.break_room.acquire(blocking=False):
            until = self.moves + 5
            while self.moves < until and not self.over:
                yield
            station.break_room.release()

    def receive(self, station, dice):
        port = station.exit

        def after_waiting():
            wait([port, self.by_loop.entrance], 1e-4)
            return port.receive_nowait()

        ways = [
            port.receive,
            lambda: port.receive(1e-4),
            lambda: port.receive_event().data,
            lambda: port.receive_many(1)[0],
            after_waiting,
        ]
        with contextlib.suppress(ChannelClosedError):
            while True:
                with contextlib.suppress(TimeoutError, Empty):
                    self.forward(dice.choice(ways)())
                    for _ in self.rest(station, dice):
                        time.sleep(1e-4)

    async def areceive(self, station, dice):
        async def of_many():
            return (await station.exit.areceive_many(1))[0]

        ways = [station.exit.areceive, lambda: asyncio.wait_for(station.exit.areceive(), 1e-4), of_many]
        with contextlib.suppress(ChannelClosedError):
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    hops = await dice.choice(ways)()
                    entrance = self.next_entrance(hops)
                    if entrance is not None:
                        await entrance.asend(hops - 1)
                    for _ in self.rest(station, dice):
                        await asyncio.sleep(1e-4)

    async def tasks(self):
        self.by_loop.exit.onmessage = lambda event: self.hear(event.data)
        await asyncio.gather(*(self.areceive(self.by_tasks, random.Random(i)) for i in range(2)))

    def hear(self, hops):
        # A listener that waited for room would keep the tasks of its loop from making it.
        entrance = self.next_entrance(hops)
        if entrance is not None:
            try:
                entrance.post_message(hops - 1)
            except Full:
                asyncio.get_running_loop().call_later(1e-4, self.hear, hops)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_wake_up_is_lost(seed):
    tour = Tour(seed)
    tour.by_dispatcher.exit.onmessage = lambda event: tour.forward(event.data)
    runs = [lambda s=s, i=i: tour.receive(s, random.Random(i)) for s in tour.by_threads for i in range(2)]
    threads = start([*runs, lambda: asyncio.run(tour.tasks())])
    for _ in range(tour.tokens):
        tour.forward(HOPS)
    for _ in range(tour.tokens):
        if not tour.arrivals.acquire(timeout=HANG_SECONDS):
            hangs(f"a token lies at one of {[station.exit for station in tour.stations]}")
    tour.over = True
    for station in tour.stations:
        station.entrance.close()
    join(threads)
