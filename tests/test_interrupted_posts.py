"""Posts to a far end that end in the middle, by a signal, for want of memory, by a death: what follows still goes."""

import contextlib
import gc
import os
import pickle
import queue
import resource
import signal
import socket
import sys
import sysconfig
import threading
import time

import pytest

from messagechannel import ChannelClosedError, MessageChannel, SharedBuffer, _far
from victims import FILLER, PATIENCE, apart, assert_idle, far_channel, fill_the_ring, post_what_a_ring_takes, until

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are what Linux makes of them"),
    # Python's own warning, of 3.12 and later, about what fork is.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

limits_memory = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, CPython's allocator has address space in reserve, so that no limit is reached",
)

LARGE = 60 << 20
# More than malloc may have in reserve for a thread.
HUGE = 80 << 20
# Seconds after which the signal comes: some of them while a large message is copied.
DELAYS = (0.001, 0.002, 0.004, 0.008, 0.016)


class LateError(Exception):
    """What a signal handler raises."""


class Content:
    """Travels as bytes, of which the sender makes no copy until it has to."""

    def __init__(self, size):
        self.content = bytearray(size)

    def __reduce_ex__(self, protocol):
        return bytes, (pickle.PickleBuffer(self.content),)


def address_space():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def little_memory(left=5 << 20):
    """Let this process have no more than so many bytes that it has not yet."""
    used = None
    # A thread that starts takes more for a moment.
    while used != (used := address_space()):
        time.sleep(0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def take(port, count):
    return [port.receive(PATIENCE) for _ in range(count)]


def assert_room_for(capacity, here, there):
    """Check that so many messages fit into a bounded channel that is empty now, and no more."""
    for number in range(capacity):
        here.send(number, timeout=PATIENCE)
    with pytest.raises(queue.Full):
        here.post_message("no room")
    assert take(there, capacity) == list(range(capacity))


# ---- signals ----


def interrupted(error, call, *args):
    """Call what sets a timer, and have the signal's handler raise an error; tell whether it came in time."""

    def handler(number, frame):
        raise error

    signal.signal(signal.SIGALRM, handler)
    try:
        call(*args)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except error:
        return True
    return False


def interrupt_posts(error, capacity, in_batches):
    for delay in DELAYS:
        here, there = far_channel(capacity)
        small = [bytes([i]) * 1000 for i in range(5)]
        counts = [sys.getrefcount(one) for one in small]
        large = bytes(LARGE)

        def messages(delay=delay, small=small, large=large):
            yield from small
            # What was yielded is sent, whatever comes.
            signal.setitimer(signal.ITIMER_REAL, delay)
            yield large

        def post(here=here, messages=messages):
            for message in messages():
                here.post_message(message)

        hit = interrupted(error, here.send_many, messages()) if in_batches else interrupted(error, post)
        del messages, post, large
        here.post_message("stop")
        got = [there.receive(PATIENCE)]
        while got[-1] != "stop":
            got.append(there.receive(PATIENCE))
        # Interrupted, the large one may have been posted or not; it is not changed into something else.
        assert [len(one) for one in got] in ([1000] * 5 + [LARGE, 4], [1000] * 5 + [4])
        assert hit or len(got) == 7
        del got
        assert [sys.getrefcount(one) for one in small] == counts
        here.post_message(bytes(10 << 20))
        assert len(there.receive(PATIENCE)) == 10 << 20
        if capacity is not None:
            assert_room_for(capacity, here, there)


@pytest.mark.parametrize("in_batches", [False, True], ids=["one by one", "batches"])
@pytest.mark.parametrize("capacity", [None, 8])
@pytest.mark.parametrize("error", [KeyboardInterrupt, LateError])
def test_a_signal_in_the_middle_of_a_post(error, capacity, in_batches):
    apart(interrupt_posts, error, capacity, in_batches)


# ---- memory ----


def post_without_memory():
    here, there = far_channel(capacity=3)
    content = Content(HUGE)
    here.post_message(content)
    with little_memory(), pytest.raises(MemoryError):
        here.post_message(content)
    assert len(there.receive(PATIENCE)) == HUGE
    assert_room_for(3, here, there)


@limits_memory
def test_after_a_post_without_memory_the_next_ones_go():
    apart(post_without_memory)


def send_a_batch_without_memory():
    here, there = far_channel(capacity=20)
    waiting = fill_the_ring(here)
    small = [bytes([i]) * 1000 for i in range(8)]
    counts = [sys.getrefcount(one) for one in small]
    content = Content(HUGE)
    with little_memory(), pytest.raises(MemoryError):
        here.send_many([*small, content, "never comes"])
    here.post_message("next")
    assert take(there, waiting + 9)[waiting:] == [*small, "next"]
    assert [sys.getrefcount(one) for one in small] == counts
    assert_room_for(20, here, there)


@limits_memory
def test_a_batch_without_memory_loses_the_rest_and_nothing_else():
    apart(send_a_batch_without_memory)


def transfer_without_memory():
    here, there = far_channel()
    waiting = fill_the_ring(here)
    peer, port = MessageChannel()
    with little_memory(), pytest.raises(MemoryError):
        here.post_message(Content(HUGE), transfer=[port])
    if port.closed:
        with pytest.raises(ChannelClosedError):
            peer.receive(PATIENCE)
    else:
        # It was not transferred yet.
        port.post_message("still here")
        assert peer.receive(PATIENCE) == "still here"
    here.post_message("next")
    assert take(there, waiting + 1)[-1] == "next"


@limits_memory
def test_a_port_that_is_lost_for_want_of_memory_is_closed():
    apart(transfer_without_memory)


# ---- what waits where a port leaves ----


def test_shared_memory_and_a_large_pickle_in_a_message_that_waits():
    here, there = MessageChannel()
    here.post_message([SharedBuffer(100), list(range(66_666))])
    moved = _far.arrive(*_far.depart(there))
    shared, numbers = moved.receive(PATIENCE)
    assert (len(shared), numbers) == (100, list(range(66_666)))


def depart_without_descriptors():
    there, here = MessageChannel()
    state = _far.depart(there)
    filled = post_what_a_ring_takes(here)
    here.post_message(["begun" * 20_000], transfer=[socket.socket() for _ in range(12)])
    carrier, other = far_channel()
    taken = []
    highest = os.dup(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    while (one := os.dup(0)) < highest + 1:
        taken.append(one)
    os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 9, hard))
    # Room for a link, but not for another twelve.
    carrier.post_message("take it", transfer=[here])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    there = _far.arrive(*state)
    assert take(there, filled) == [FILLER] * filled
    assert len(other.receive_event(PATIENCE).ports) == 1
    assert take(there, 1) == [["begun" * 20_000]]


def test_descriptors_of_a_message_that_is_being_sent_are_not_needed_twice_where_its_port_departs():
    apart(depart_without_descriptors)


def take_while_it_arrives():
    """The garbage collector stands for the other process, which may take messages at any moment."""
    here, there = far_channel(capacity=100)
    for number in range(100):
        here.post_message(number)
    state = _far.depart(here)
    taken = []
    # In the reactor's thread it might be about to note what it has taken when everything is counted.
    here_alone = threading.current_thread()

    def receive(phase, info):
        if phase == "start" and threading.current_thread() is here_alone and len(there):
            taken.append(there.receive(0))

    gc.callbacks.append(receive)
    gc.set_threshold(1)
    here = _far.arrive(*state)
    gc.set_threshold(700)
    gc.callbacks.clear()
    taken += take(there, 100 - len(taken))
    assert taken == list(range(100))
    until(lambda: here.statistics().posted == 100, "all were posted")
    posted = 0
    with contextlib.suppress(queue.Full):
        for _ in range(200):
            here.post_message(posted)
            posted += 1
    assert posted == 100


def test_the_capacity_is_the_same_after_messages_were_taken_while_the_port_arrived():
    apart(take_while_it_arrives)


# ---- deaths ----


def die_with_descriptors_on_their_way():
    here, there = MessageChannel()
    departed = _far.depart(there)
    fill_the_ring(here)
    _peer, port = MessageChannel()
    here.post_message(None, transfer=[port])
    here.close()
    del departed
    time.sleep(0.2)
    assert_idle()


def test_nobody_spins_for_a_dead_peer_that_was_owed_descriptors():
    apart(die_with_descriptors_on_their_way)


def fork_with_a_port_on_its_way():
    here, there = MessageChannel()
    state, descriptors = _far.depart(there)
    filled = post_what_a_ring_takes(here)
    peer, port = MessageChannel()
    here.post_message(["y" * 100_000], transfer=[port])
    child = os.fork()
    if child == 0:
        time.sleep(PATIENCE)
        os._exit(0)
    try:
        there = _far.arrive(state, descriptors)
        take(there, filled)
        (moved,) = there.receive_event(PATIENCE).ports
        # The process that has it dies.
        _far.depart(moved)
        with pytest.raises(ChannelClosedError):
            peer.receive(PATIENCE / 2)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_child_keeps_no_port_alive_that_was_being_sent():
    apart(fork_with_a_port_on_its_way)


# ---- closes ----


def close_interrupted():
    here, there = MessageChannel()
    departed = _far.depart(there)

    def interrupt(frame, event, argument):
        if event == "call" and frame.f_code.co_name == "unregister":
            sys.setprofile(None)
            raise KeyboardInterrupt

    reported = []
    sys.unraisablehook = lambda unraisable: reported.append(unraisable.exc_type)
    sys.setprofile(interrupt)
    here.close()
    assert reported == [KeyboardInterrupt]
    del departed
    assert not _far._reactor._sources
    assert_idle()


def test_a_close_that_is_interrupted_ends_the_link():
    apart(close_interrupted)


def test_links_that_end_at_once_while_the_process_lingers():
    reactor = _far.Reactor()
    failed = []

    def end_links():
        end = time.monotonic() + 1
        try:
            while time.monotonic() < end and not failed:
                reactor.unregister(-1)
        except RuntimeError as error:
            failed.append(error)

    threads = [threading.Thread(target=end_links) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        # What linger does.
        reactor._lingers.acquire(timeout=0.001)
    assert failed == []
