"""The other process writes what no port writes: it is refused, and nothing crashes, hangs or reads beyond its memory.

One end of a link is an ordinary port, the other is played by hand, over the link's own memory and socket. Each round is
a seed, in a process of its own, so that a crash is a failed test.
"""

import asyncio
import contextlib
import mmap
import os
import random
import resource
import socket
import struct
import sys
import threading
import time

import pytest

from messagechannel import ChannelClosedError, DataCloneError, MessageChannel, _far
from messagechannel._reactor import Reactor
from messagechannel._wire import Descriptor
from targets import RING_BYTES
from victims import FACTOR, PATIENCE, Footprint, apart, assert_idle, far_channel, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd and /proc")

ROUNDS = 400 * FACTOR

# Where things are: csrc/link.h and csrc/byte_ring.h.
HEADER = 4096
RINGS = 64  # of the first ring's words, in the header
TAIL, PUBLISHED, HEAD, TAKEN, PEAK = 0, 8, 64, 72, 80
RING_WORDS = 128
WHOLE, FIRST, FRAGMENT, LAST, DROP = 1, 2, 3, 4, 5
NONE, FALSE, TRUE, INT, FLOAT, BYTES, ASCII, UTF8, PICKLE, LETTER, ERROR = range(11)
CLOSED = 2
INLINE = 5
# Of the segments that were sent to side 1.
LENT_BYTES, TAKEN_BYTES = 360, 376


class Hand:
    """Plays the end of a link that a port departed with."""

    def __init__(self, port):
        self.state, descriptors = _far.depart(port)
        self.socket = socket.socket(fileno=descriptors[0].detach())
        self.memory = mmap.mmap(descriptors[1].fd, 0)

    def close(self):
        self.socket.close()
        self.memory.close()

    def word(self, ring, which, value=None):
        """Read or write a word of the ring that leads to side 0 or 1."""
        offset = RINGS + ring * RING_WORDS + which
        if value is not None:
            struct.pack_into("<Q", self.memory, offset, value % 2**64)
        return struct.unpack_from("<Q", self.memory, offset)[0]

    def write(self, payload, kind=WHOLE, tag=BYTES, count=0, length=None):
        """Write one record, whatever it says, and publish it."""
        tail = self.word(0, TAIL) & ~7
        offset = HEADER + tail % RING_BYTES
        header = struct.pack("<IBBH", (len(payload) if length is None else length) % 2**32, kind, tag, count)
        self.memory[offset : offset + 8 + len(payload)] = header + payload
        self.word(0, PUBLISHED, self.word(0, PUBLISHED) + 1)
        self.word(0, TAIL, tail + 8 + (len(payload) + 7) // 8 * 8)
        self.ring()

    def ring(self, byte=b"b", descriptors=()):
        with contextlib.suppress(OSError):
            if descriptors:
                socket.send_fds(self.socket, [byte], descriptors)
            else:
                self.socket.send(byte)


@pytest.fixture
def hand():
    here, there = MessageChannel()
    played = Hand(there)
    played.port = here
    yield played
    played.close()


def test_the_tests_know_where_things_are(hand):
    hand.write(b"hello")
    hand.write(struct.pack("<q", 7), tag=INT)
    hand.write(struct.pack("<Q", 6) + b"abc", kind=FIRST)
    hand.write(b"def", kind=LAST, tag=ASCII)
    assert [hand.port.receive(PATIENCE) for _ in range(3)] == [b"hello", 7, "abcdef"]
    hand.port.post_message(b"there")
    assert hand.memory[HEADER + RING_BYTES + 8 :][:5] == b"there"
    assert (hand.word(1, PUBLISHED), hand.word(0, TAKEN)) == (1, 3)


def letter_head(segments=0, states=0, content=0):
    return struct.pack("<III", segments, states, content)


def one_segment(size, number, is_new, content=0):
    return letter_head(1, 0, content) + struct.pack("<QII", size, number, is_new)


BAD_RECORDS = {
    "a length beyond what was written": lambda hand: hand.write(b"x", length=1000),
    "the largest length": lambda hand: hand.write(b"x", length=2**32 - 1),
    "padding in the middle": lambda hand: hand.write(b"x" * 16, kind=0),
    "a kind that there is not": lambda hand: hand.write(b"x", kind=77),
    "a tag that there is not": lambda hand: hand.write(b"x", tag=77),
    "an int of nine bytes": lambda hand: hand.write(b"x" * 9, tag=INT),
    "a float without bytes": lambda hand: hand.write(b"", tag=FLOAT),
    "ASCII that is none": lambda hand: hand.write(b"\xff", tag=ASCII),
    "UTF-8 that is none": lambda hand: hand.write(b"\xff", tag=UTF8),
    "a fragment of nothing": lambda hand: hand.write(b"x", kind=FRAGMENT),
    "an end of nothing": lambda hand: hand.write(b"x", kind=LAST),
    "a beginning without a length": lambda hand: hand.write(b"x", kind=FIRST),
    "a beginning of more than memory": lambda hand: hand.write(struct.pack("<Q", 2**63 - 1), kind=FIRST),
    "a beginning of nothing": lambda hand: hand.write(struct.pack("<Q", 0), kind=FIRST),
    "two beginnings": lambda hand: [hand.write(struct.pack("<Q", 99) + b"x", kind=FIRST) for _ in range(2)],
    "more than was promised": lambda hand: hand.write(struct.pack("<Q", 2) + b"xyz", kind=FIRST),
    "a message inside of another": lambda hand: (
        hand.write(struct.pack("<Q", 9) + b"xyz", kind=FIRST),
        hand.write(b"x"),
    ),
    "an end that comes early": lambda hand: (
        hand.write(struct.pack("<Q", 9) + b"xyz", kind=FIRST),
        hand.write(b"x", kind=LAST),
    ),
    "a dropped segment that there is not": lambda hand: hand.write(b"", kind=DROP, tag=4),
    "descriptors that were not sent": lambda hand: hand.write(b"x", tag=LETTER, count=3),
    "a tail far ahead": lambda hand: (hand.word(0, TAIL, 2**40), hand.ring()),
    "a tail behind": lambda hand: (hand.word(0, TAIL, -8), hand.ring()),
    "a tail that is no position": lambda hand: (hand.word(0, TAIL, 4), hand.ring()),
    "a byte that says nothing": lambda hand: hand.ring(b"?"),
    "more descriptors than anybody sends": lambda hand: hand.ring(b"d", [0] * 200),
}


@pytest.mark.parametrize("what", BAD_RECORDS)
def test_what_no_port_writes_closes_the_channel_and_says_why(hand, what):
    hand.write(b"good")
    assert hand.port.receive(PATIENCE) == b"good"
    BAD_RECORDS[what](hand)
    with pytest.raises(ChannelClosedError, match=r"the channel is closed: ."):
        hand.port.receive(PATIENCE)
    assert hand.port.closed
    with pytest.raises(ChannelClosedError):
        hand.port.send(1)
    # The other end learns of it.
    hand.socket.settimeout(PATIENCE)
    with contextlib.suppress(ConnectionError):
        while hand.socket.recv(100):
            pass


@pytest.mark.parametrize("head", [-8, 2**40, 4])
@pytest.mark.parametrize("capacity", [None, 1000])
def test_a_head_that_can_not_be_closes_the_channel(head, capacity):
    here, there = MessageChannel(capacity=capacity)
    played = Hand(there)
    played.word(1, HEAD, head)
    end = time.monotonic() + PATIENCE
    with pytest.raises(ChannelClosedError):  # noqa: PT012 - whichever send it is
        while time.monotonic() < end:
            here.send(b"x" * 1000, timeout=PATIENCE)
    played.close()


def test_a_count_of_messages_taken_that_can_not_be_closes_the_channel():
    here, there = MessageChannel(capacity=1)
    played = Hand(there)
    here.send(1)
    played.word(1, TAKEN, 12345)
    with pytest.raises(ChannelClosedError):
        here.send(2, timeout=PATIENCE)
    played.close()


def test_a_count_of_bytes_taken_that_can_not_be_closes_the_channel():
    here, there = MessageChannel()
    played = Hand(there)
    here.send(b"x" * 1_000_000)
    assert struct.unpack_from("<QQQ", played.memory, LENT_BYTES) == (1_000_000, 0, 0)
    struct.pack_into("<Q", played.memory, TAKEN_BYTES, 1_000_001)
    end = time.monotonic() + PATIENCE
    with pytest.raises(ChannelClosedError):  # noqa: PT012 - whichever send it is
        while time.monotonic() < end:
            here.send(b"x" * 1_000_000)
    played.close()


def memory_of(size, seals=True):
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if seals:
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor


def pipe_end():
    end, other = os.pipe()
    os.close(other)
    return end


BAD_LETTERS = {
    "nothing": (b"", []),
    "a head that is cut off": (b"\0" * 7, []),
    "segments without end": (letter_head(2**32 - 1), []),
    "states beyond the end": (letter_head(0, 2**32 - 1) + b"x", []),
    "states that are none": (letter_head(0, 3) + b"xyz" + b"\x80\x05N.", []),
    "a state of more than memory": (letter_head(0, 8) + struct.pack("<Q", 2**63) + b"\x80\x05N.", []),
    "states without their descriptors": (letter_head(0, 24) + struct.pack("<QQQ", 8, 0, 2) + b"\x80\x05N.", []),
    "a segment that was never sent": (one_segment(70_000, 0, 0) + b"\x80\x05N.", []),
    "a segment number that there is not": (one_segment(70_000, 99, 1) + b"\x80\x05N.", [lambda: memory_of(70_000)]),
    "a segment without a descriptor": (one_segment(70_000, 0, 1) + b"\x80\x05N.", []),
    "a segment without a size": (one_segment(0, 0, 1) + b"\x80\x05N.", [lambda: memory_of(70_000)]),
    "a segment of more than memory": (one_segment(2**64 - 1, 0, 1) + b"\x80\x05N.", [lambda: memory_of(70_000)]),
    "a segment that is too small": (one_segment(70_000, 0, 1) + b"\x80\x05N.", [lambda: memory_of(4096)]),
    "a segment that may shrink": (one_segment(70_000, 0, 1) + b"\x80\x05N.", [lambda: memory_of(70_000, False)]),
    "a pipe for memory": (one_segment(70_000, 0, 1) + b"\x80\x05N.", [pipe_end]),
    "/dev/null for memory": (one_segment(70_000, 4, 1) + b"\x80\x05N.", [lambda: os.open("/dev/null", os.O_RDWR)]),
    "a descriptor too many": (letter_head() + b"\x80\x05N.", [lambda: os.open("/dev/null", os.O_RDWR)]),
    "no pickle": (letter_head() + b"garbage.", []),
    "bytes of a segment that are not there": (one_segment(5, INLINE, 0) + b"\x80\x05N.", []),
    "bytes of a segment that nothing refers to": (one_segment(4, INLINE, 0) + b"1234\x80\x05N.", []),
    "a content in a segment that is not there": (letter_head(0, 0, PICKLE), []),
    "a content that is none": (one_segment(4, INLINE, 0, LETTER) + b"1234", []),
    "a content that is no text": (one_segment(4, INLINE, 0, ASCII) + b"\xff\xff\xff\xff", []),
    "a content that is no pickle": (one_segment(70_000, 4, 1, PICKLE), [lambda: memory_of(70_000)]),
}


@pytest.mark.parametrize("what", BAD_LETTERS)
def test_a_letter_that_nobody_has_written_is_refused(hand, what):
    payload, made = BAD_LETTERS[what]
    before = Footprint()
    descriptors = [make() for make in made]
    if descriptors:
        hand.ring(b"d", descriptors)
    hand.write(payload, tag=LETTER, count=len(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    hand.write(b"after it")
    with pytest.raises((DataCloneError, ValueError, OSError, MemoryError)):
        hand.port.receive(PATIENCE)
    # It was one message; what it came with was given back.
    assert hand.port.receive(PATIENCE) == b"after it"
    before.assert_same()


# ---- ports that come ----


def parts():
    """Return the state and the descriptors of a port that departed."""
    here, there = MessageChannel()
    state, descriptors = _far.depart(there)
    return here, state, descriptors


def replaced(descriptors, index, new):
    descriptors[index] = Descriptor(new)
    return descriptors


def bare_socket(*kind):
    return socket.socket(*kind).detach()


def shrunk(descriptor):
    return memory_of(os.fstat(descriptor.fd).st_size - 4096)


BAD_DESCRIPTORS = {
    "a pipe for the memory": lambda d: replaced(d, 1, pipe_end()),
    "other memory": lambda d: replaced(d, 1, memory_of(HEADER + 2 * RING_BYTES)),
    "memory that may shrink": lambda d: replaced(d, 1, memory_of(HEADER + 2 * RING_BYTES, seals=False)),
    "memory that is too small": lambda d: replaced(d, 1, shrunk(d[1])),
    "a file for the socket": lambda d: replaced(d, 0, os.open("/dev/null", os.O_RDWR)),
    "a datagram socket": lambda d: replaced(d, 0, bare_socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
    "a network socket": lambda d: replaced(d, 0, bare_socket(socket.AF_INET, socket.SOCK_STREAM)),
    "the two exchanged": lambda d: d[::-1],
    "one too few": lambda d: d[:1],
    "one too many": lambda d: [*d, Descriptor(os.open("/dev/null", os.O_RDWR))],
    "none": lambda d: [],
}


@pytest.mark.parametrize("what", BAD_DESCRIPTORS)
def test_a_port_with_wrong_descriptors_does_not_arrive(what):
    before = Footprint()
    here, state, descriptors = parts()
    with pytest.raises((ValueError, OSError)):
        _far.arrive(state, BAD_DESCRIPTORS[what](descriptors))
    del descriptors
    with pytest.raises(ChannelClosedError):
        here.receive(PATIENCE)
    del here
    before.assert_same()


def mutate_state(dice, state):
    if dice.random() < 0.2:
        return state[: dice.randrange(len(state))] + dice.choice([b"", b"0", bytes(8), bytes(20)])
    words = list(struct.unpack(f"<{len(state) // 8}Q", state))
    odd = [0, 1, 2, 4, 5, 8, 255, 256, 65535, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
    if dice.random() < 0.5:
        words[dice.randrange(len(words))] = dice.choice(odd)
    else:
        words[dice.randrange(len(words)) :] = [dice.choice(odd[: dice.choice([3, len(odd)])]) for _ in range(12)]
    return struct.pack(f"<{len(words)}Q", *words)


def read_states_in_little_memory():
    _, state, _ = parts()
    resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
    for start in range(0, len(state), 8):
        for number in (2**20, 2**31, 2**40, 2**63 - 1):
            with pytest.raises((ValueError, OSError)):
                _far.arrive(state[:start] + struct.pack("<Q", number) + bytes(64), [])


def test_what_a_state_says_makes_nothing_that_is_larger_than_the_state():
    apart(read_states_in_little_memory)


def arrive_with_mutated_states(seed):
    for number in range(seed, seed + ROUNDS):
        dice = random.Random(number)
        here, state, descriptors = parts()
        try:
            port = _far.arrive(mutate_state(dice, state), descriptors)
        except (ValueError, OSError, MemoryError):
            continue
        # It may well be the state of a port.
        port.post_message(1)
        with contextlib.suppress(ChannelClosedError, TimeoutError, ValueError, DataCloneError, OSError, MemoryError):
            port.receive(timeout=0)
        with contextlib.suppress(ChannelClosedError, TimeoutError, ValueError, DataCloneError, OSError):
            here.receive(timeout=0.001)
        port.close()


@pytest.mark.parametrize("seed", [random.randrange(10**9)])
def test_mutated_states_make_no_port_or_one_that_can_be_closed(seed):
    apart(arrive_with_mutated_states, seed, seconds=60.0 * FACTOR)


# ---- fuzzing ----


def pickled(dice):
    # Nothing that could call anything: random bytes are a program to pickle.
    return dice.choice([b"\x80\x05N.", b"\x80\x05K\x07.", b"\x80\x05]q\x00.", b"garbage.", b"", b"\x80\x05"])


def random_payload(dice):
    what = dice.randrange(5)
    if what == 0:
        payload = dice.randbytes(dice.choice([0, 1, 7, 8, 9, 100, 4000, 60_000]))
        return payload, dice.choice([BYTES, INT, ASCII, UTF8, 77])
    if what == 1:
        head = letter_head(
            dice.choice([0, 1, 2, 2**31, 2**32 - 1]),
            dice.choice([0, 1, 5, 2**32 - 1]),
            dice.choice([0, 0, BYTES, INT, ASCII, UTF8, PICKLE, LETTER, 2**32 - 1]),
        )
        size = dice.choice([0, 1, 5, 70_000, 2**62, 2**64 - 1])
        segment = struct.pack("<QII", size, dice.randrange(7), dice.randrange(2))
        return head + segment + pickled(dice), LETTER
    if what == 2:
        words = [dice.choice([0, 1, 2, 3, 5, 8, 2**32, 2**63, 2**64 - 1]) for _ in range(dice.randrange(9))]
        return letter_head() + struct.pack(f"<{len(words)}Q", *words) + pickled(dice), LETTER
    if what == 3:
        return pickled(dice), PICKLE
    return dice.randbytes(20), ERROR


def misbehave(dice, hand):
    what = dice.randrange(10)
    if what == 0:
        payload, tag = random_payload(dice)
        # A pickle is a program: one that is put together of random bytes must not run.
        hand.write(payload, tag=tag, count=dice.choice([0, 0, 0, 1, 2, 65535]))
    elif what == 1:
        total = dice.choice([0, 1, 10, 100, 2**40, 2**63, 2**64 - 1])
        hand.write(struct.pack("<Q", total) + dice.randbytes(dice.randrange(30)), kind=FIRST)
    elif what == 2:
        hand.write(dice.randbytes(dice.randrange(50)), kind=dice.choice([FRAGMENT, LAST]), tag=BYTES)
    elif what == 3:
        hand.write(b"", kind=dice.choice([DROP, 0, 6, 255]), tag=dice.randrange(8))
    elif what == 4:
        hand.write(b"x" * dice.randrange(40), length=dice.choice([0, 1, 7, 9, 1000, 65_528, 65_529, 2**31, 2**32 - 1]))
    elif what == 5:
        which = dice.choice([TAIL, PUBLISHED, HEAD, TAKEN, PEAK])
        value = dice.choice(
            [0, 8, 4, 1, 2, 3, -8, RING_BYTES, RING_BYTES + 8, 2**63, hand.word(0, TAIL) + 8, dice.getrandbits(64)]
        )
        hand.word(dice.randrange(2), which, value)
    elif what == 6:
        hand.ring(dice.choice([b"b", b"d", b"?", b"bbbbbbbbbb", b"dddd"]))
    elif what == 7:
        made = [dice.choice([lambda: memory_of(70_000), lambda: os.open("/dev/null", os.O_RDWR)])()]
        hand.ring(b"d", made)
        os.close(made[0])
    elif what == 8:
        struct.pack_into("<Q", hand.memory, dice.choice([LENT_BYTES, TAKEN_BYTES]), dice.getrandbits(64))
    else:
        # Anything anywhere but in a pickle.
        offset = RINGS + dice.randrange(2 * RING_WORDS) // 8 * 8
        struct.pack_into("<Q", hand.memory, offset, dice.getrandbits(dice.choice([3, 17, 64])))
    if dice.random() < 0.5:
        hand.ring()


def fuzz_once(number):
    dice = random.Random(number)
    here, there = MessageChannel(capacity=dice.choice([None, 1, 20]))
    hand = Hand(there)
    if dice.random() < 0.3:
        here.onmessageerror = here.onmessage = lambda event: None
    for _ in range(dice.randint(1, 12)):
        misbehave(dice, hand)
        with contextlib.suppress(Exception):
            here.post_message(dice.choice([1, b"x" * 70_000, b"x" * 200_000, {"a": 1}]))
        with contextlib.suppress(ChannelClosedError, TimeoutError):
            here.send(1, timeout=0)
        with contextlib.suppress(Exception):
            here.receive(timeout=dice.choice([0, 0.001]))
        with contextlib.suppress(Exception):
            here.receive_many(timeout=0)
    assert len(here) >= 0
    assert here.statistics()
    hand.close()
    # Whatever it was, the end of the socket is the end.
    end = time.monotonic() + PATIENCE
    while True:
        try:
            here.receive(timeout=PATIENCE)
        except ChannelClosedError:
            break
        except (ValueError, DataCloneError, OSError, MemoryError, EOFError) as error:
            assert time.monotonic() < end, (number, error)  # noqa: PT017 - which of them it is does not matter


@pytest.mark.parametrize("before", [[], [b"good"]], ids=["first", "behind another"])
def test_a_letter_that_is_none_is_sent_on_as_an_error(hand, before):
    for payload in before:
        hand.write(payload)
    hand.write(b"xx", tag=LETTER)
    hand.write(b"after")
    hand.close()
    until(lambda: hand.port.closed, "it has ended")
    carrier, other = far_channel()
    carrier.post_message("take it", [hand.port])
    (port,) = other.receive_event(PATIENCE).ports
    assert [port.receive(PATIENCE) for _ in before] == before
    with pytest.raises(DataCloneError, match="a letter without a head"):
        port.receive(PATIENCE)
    assert port.receive(PATIENCE) == b"after"
    with pytest.raises(ChannelClosedError):
        port.receive(PATIENCE)
    assert_idle()


def test_an_interrupt_while_a_task_finds_the_end_is_raised_there(hand, monkeypatch):
    unregister = Reactor.unregister

    def interrupted(self, descriptor):
        unregister(self, descriptor)
        if threading.current_thread() is threading.main_thread():
            monkeypatch.setattr(Reactor, "unregister", unregister)
            raise KeyboardInterrupt

    async def receive():
        awaitable = hand.port.areceive()
        # Closed, and the bell was not heard yet.
        hand.word(0, TAIL, CLOSED)
        monkeypatch.setattr(Reactor, "unregister", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await awaitable
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await awaitable
        with pytest.raises(ChannelClosedError):
            await hand.port.areceive()

    asyncio.run(receive())


def fuzz(seed):
    # The threads that are there once they are needed.
    warm = far_channel()
    warm[0].onmessage = lambda event: None
    warm[1].send(1)
    time.sleep(0.1)
    before = Footprint()
    for number in range(seed, seed + ROUNDS):
        fuzz_once(number)
    before.assert_same()


@pytest.mark.parametrize("seed", [random.randrange(10**9)])
def test_nothing_that_another_process_writes_crashes_or_hangs_this_one(seed):
    apart(fuzz, seed, seconds=60.0 * FACTOR)
