"""However much is posted to a process that takes nothing, little of it is in shared memory."""

import os
import queue
import sys
import time

import pytest

from ends import FarChannel, eventually
from messagechannel import ChannelClosedError, _far
from puppet import GUARD
from targets import LINK_BYTES

MB = 1 << 20
# What may be on its way in one direction.
BUDGET = 64 * MB
LARGE = 10 * MB
# Less than one of the large messages: of the orders to a puppet, and what is rounded up to pages.
SLACK = 2 * MB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def puppet(new_puppet):
    return new_puppet()


@pytest.fixture
def other_puppet(new_puppet):
    return new_puppet()


def shared_memory(*puppets):
    """Return the bytes of shared memory, but for links, that this process and these have mapped or been sent."""
    pieces = {}
    for pid in [os.getpid(), *(puppet.pid() for puppet in puppets)]:
        directory = f"/proc/{pid}/fd"
        for fd in os.listdir(directory):
            path = f"{directory}/{fd}"
            try:
                if os.readlink(path).startswith("/memfd:messagechannel"):
                    status = os.stat(path)
                    pieces[status.st_ino] = status.st_size
            except FileNotFoundError:
                pass
        with open(f"/proc/{pid}/maps") as maps:
            for line in maps:
                addresses, *_, inode, path = [*line.split(maxsplit=5), ""][:6]
                if path.startswith("/memfd:messagechannel"):
                    begin, end = (int(address, 16) for address in addresses.split("-"))
                    pieces[int(inode)] = max(pieces.get(int(inode), 0), end - begin)
    return sum(size for size in pieces.values() if size != LINK_BYTES)


def as_bytes(number, nbytes=LARGE):
    return bytes([number]) * nbytes


def as_buffer(number, nbytes=LARGE):
    """Travels in memory of its own, which the receiver's alone has, if it is transferred."""
    return bytearray([number]) * nbytes


def as_pickle(number, nbytes=LARGE):
    return {number: [bytes([number + part]) * (nbytes // 4) for part in range(4)]}


def as_text(number, nbytes=LARGE):
    return chr(number) * nbytes


def post(port, *message):
    """Post one thing or a list of them, with what can be transferred."""
    port.post_message(
        message[0] if len(message) == 1 else list(message), [part for part in message if type(part) is bytearray]
    )


KINDS = [as_bytes, as_buffer, as_pickle, as_text]
every_kind = pytest.mark.parametrize("make", KINDS, ids=["bytes", "bytearray", "pickle", "text"])


@every_kind
def test_what_nobody_takes_stays_out_of_shared_memory(puppet, make):
    with puppet.far_end("a") as port:
        for number in range(20):
            post(port, make(number))
        assert port.statistics().posted == 20
        # All that was sent has come, as far as descriptors go.
        assert BUDGET - 2 * LARGE <= shared_memory(puppet) <= BUDGET + SLACK
        for number in range(20):
            assert puppet.call("a", "receive", GUARD) == make(number)
            if number % 4 == 0:
                # One message is with the receiver, and is sent back.
                assert shared_memory(puppet) <= 2 * BUDGET + 2 * LARGE + SLACK
        assert puppet.call("a", "receive", 0.01) is TimeoutError
        eventually(lambda: shared_memory(puppet) <= SLACK)


def mappings():
    with open("/proc/self/maps") as maps:
        return sum("/memfd:messagechannel" in line for line in maps)


def test_a_link_that_has_ended_is_not_kept_until_its_segments_would_be_given_back(monkeypatch):
    monkeypatch.setattr(_far, "SEGMENT_SECONDS", 1000.0)
    before = mappings()
    with FarChannel() as (here, there):
        post(here, as_buffer(1))
        assert there.receive(GUARD) == as_buffer(1)
    del here, there
    eventually(lambda: mappings() <= before)


def test_what_is_larger_than_all_that_may_be_under_way_goes_alone(puppet):
    with puppet.far_end("a") as port:
        for number in range(4):
            post(port, as_buffer(number, 100 * MB))
            port.post_message(number)
        assert 100 * MB <= shared_memory(puppet) <= 100 * MB + SLACK
        for number in range(4):
            assert puppet.call("a", "receive", GUARD) == as_buffer(number, 100 * MB)
            assert puppet.call("a", "receive", GUARD) == number


def test_bytes_that_are_larger_than_that_need_no_more_memory(puppet):
    with puppet.far_end("a") as port:
        port.post_message(as_bytes(1, 100 * MB))
        port.post_message(as_pickle(2, 100 * MB))
        assert shared_memory(puppet) <= SLACK
        assert puppet.call("a", "receive", GUARD) == as_bytes(1, 100 * MB)
        assert puppet.call("a", "receive", GUARD) == as_pickle(2, 100 * MB)


def test_what_was_posted_is_not_changed_while_it_is_held_back(puppet):
    with puppet.far_end("a") as port:
        mine = bytearray(LARGE)
        for number in range(12):
            mine[:] = as_bytes(number)
            port.post_message([number, mine])
        mine[:] = as_bytes(100)
        for number in range(12):
            assert puppet.call("a", "receive", GUARD) == [number, as_buffer(number)]


def test_small_messages_stay_behind_large_ones_that_are_held_back(puppet):
    with puppet.far_end("a") as port:
        for number in range(20):
            post(port, as_buffer(number))
            port.post_message(number)
        for number in range(20):
            assert puppet.call("a", "receive", GUARD) == as_buffer(number)
            assert puppet.call("a", "receive", GUARD) == number


def test_held_messages_arrive_after_a_close(puppet):
    port = puppet.far_end("a")
    for number in range(20):
        post(port, as_buffer(number))
    port.close()
    for number in range(20):
        assert puppet.call("a", "receive", GUARD) == as_buffer(number)
    assert puppet.call("a", "receive", GUARD) is ChannelClosedError


def test_the_receiver_is_killed_while_messages_are_held_back(puppet, other_puppet):
    before = shared_memory(other_puppet)
    port = puppet.far_end("a")
    for number in range(30):
        post(port, as_buffer(number))
    for number in range(3):
        assert puppet.call("a", "receive", GUARD) == as_buffer(number)
    puppet.order("die")
    assert eventually(lambda: port.closed)
    # What is left is dropped: another process gets all that there is.
    with other_puppet.far_end("a") as another:
        post(another, as_buffer(5))
        assert other_puppet.call("a", "receive", GUARD) == as_buffer(5)
    eventually(lambda: shared_memory(other_puppet) <= before + SLACK)


def test_a_bounded_channel_is_full_and_not_stuck(puppet):
    with puppet.far_end("a", 20) as port:
        for number in range(20):
            post(port, as_buffer(number))
        with pytest.raises(queue.Full):
            port.post_message("too many")
        assert shared_memory(puppet) <= BUDGET + SLACK
        for number in range(20):
            assert puppet.call("a", "receive", GUARD) == as_buffer(number)
            mine = as_buffer(20 + number)
            port.send(mine, [mine], timeout=GUARD)
        for number in range(20, 40):
            assert puppet.call("a", "receive", GUARD) == as_buffer(number)


@pytest.mark.parametrize("count", [1, 8, 30])
def test_the_senders_port_moves_on_while_messages_are_held_back(puppet, other_puppet, count):
    port = puppet.far_end("a")
    for number in range(count):
        post(port, number, KINDS[number % 4](number))
    other_puppet.hold("b", transfer=[port])
    other_puppet.call("b", "post_message", "last")
    assert shared_memory(puppet, other_puppet) <= 2 * BUDGET + SLACK
    for number in range(count):
        assert puppet.call("a", "receive", GUARD) == [number, KINDS[number % 4](number)]
    assert puppet.call("a", "receive", GUARD) == "last"
    other_puppet.call("b", "close")


def test_the_receivers_port_moves_on_while_messages_are_held_back(puppet, other_puppet):
    port = puppet.far_end("a")
    for number in range(20):
        post(port, number, KINDS[number % 4](number))
    assert puppet.call("a", "receive", GUARD) == [0, KINDS[0](0)]
    back = puppet.give_back("a")
    for number in range(1, 4):
        assert back.receive(GUARD) == [number, KINDS[number % 4](number)]
    other_puppet.hold("b", transfer=[back])
    for number in range(4, 20):
        assert other_puppet.call("b", "receive", GUARD) == [number, KINDS[number % 4](number)]
    port.close()


@every_kind
def test_large_messages_that_came_before_the_end_move_on(puppet, other_puppet, make):
    """They have come, with their segments, when the port that they wait at leaves."""
    port = puppet.far_end("a")
    for number in range(3):
        puppet.post("a", make(number))
    puppet.call("a", "close")
    assert eventually(lambda: port.closed)
    other_puppet.hold("b", transfer=[port])
    for number in range(3):
        assert other_puppet.call("b", "receive", GUARD) == make(number)
    assert other_puppet.call("b", "receive", GUARD) is ChannelClosedError


def test_a_sender_that_exits_sends_what_it_holds_back(puppet):
    port = puppet.far_end("a")
    for number in range(12):
        puppet.post("a", as_buffer(number))
    puppet.order("exit")
    time.sleep(0.1)
    for number in range(12):
        assert port.receive(GUARD) == as_buffer(number)
    with pytest.raises(ChannelClosedError):
        port.receive(GUARD)
