"""The other process is killed, dies, exits, stops, at any moment: the survivor gets all that was written, then a close.

``MESSAGECHANNEL_STRESS_FACTOR`` multiplies the rounds: 34 make 1,000 kills at random moments.
"""

import contextlib
import itertools
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time
import warnings
from queue import Full

import pytest

from messagechannel import ChannelClosedError, MessageChannel, SharedBuffer, wait
from victims import (
    FACTOR,
    GRANTED,
    PATIENCE,
    assert_prompt,
    far_channel,
    fill_the_ring,
    fork,
    same_footprint,
    seconds_to_close,
    start,
    still_alive,
    until,
    victim,
)  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and fork")

# For each kind of message, as sender and as receiver: 30 kills, and 1,020 with a factor of 34.
KILLS = 3 * FACTOR
LONG = 300_000
BIG = 200_000


def pattern(number, size):
    """Return bytes that differ from one number to the next, and in which a hole would show."""
    unit = struct.pack("<q", number) * 512
    return (unit * (size // len(unit) + 1))[:size]


class Kind:
    """One kind of message: how number so-and-so is sent, and checked."""

    def __init__(self):
        self.kept = []

    def send(self, port, number):
        port.send(number)

    def check(self, event, number):
        assert event.data == number


class Documents(Kind):
    def send(self, port, number):
        port.send({"number": number, "text": "x" * (number % 500)})

    def check(self, event, number):
        assert event.data == {"number": number, "text": "x" * (number % 500)}


class Fragments(Kind):
    def send(self, port, number):
        port.send(pattern(number, LONG))

    def check(self, event, number):
        assert event.data == pattern(number, LONG)


class Segments(Kind):
    def send(self, port, number):
        port.send(buffer := bytearray(pattern(number, BIG)), [buffer])

    def check(self, event, number):
        assert event.data == pattern(number, BIG)
        # Some stay for a while, so that segments are lent when the end comes.
        self.kept = [*self.kept[-2:], event.data]


class Ports(Kind):
    def send(self, port, number):
        mine, yours = MessageChannel()
        mine.post_message(number)
        port.send(number, [yours])
        self.kept.append(mine)

    def check(self, event, number):
        assert event.data == number
        (came,) = event.ports
        assert came.receive(PATIENCE) == number
        self.kept.append(came)


KINDS = [Kind, Documents, Fragments, Segments, Ports]


def send_for_ever(port, kind, progress):
    with contextlib.suppress(ChannelClosedError):
        for number in itertools.count(1):
            kind.send(port, number)
            struct.pack_into("q", progress, 0, number)


def receive_for_ever(port, kind):
    for number in itertools.count(1):
        kind.check(port.receive_event(), number)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    return time.monotonic()


def receive_all(port, kind, number, since):
    """Receive what is left after a death. Returns the last number, and what the news took after the last message."""
    while True:
        try:
            event = port.receive_event(timeout=PATIENCE)
        except ChannelClosedError:
            return number, time.monotonic() - since
        number += 1
        kind.check(event, number)
        since = time.monotonic()


def kill_a_sender(kind, dice):
    """Kill a sender at a random moment, and return how long the news of it took."""
    progress = mmap.mmap(-1, 8)
    # Bounded to fewer than the ring has room for, so that what was sent is in the ring.
    here, there = MessageChannel(capacity=100)
    keeper = kind()
    with victim(send_for_ever, there, kind(), progress) as process:
        number = 0
        end = time.monotonic() + dice.choice([0, 0.002, 0.01, 0.05]) * dice.random()
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                event = here.receive_event(timeout=0.001)
                number += 1
                keeper.check(event, number)
        last, delay = receive_all(here, keeper, number, kill(process))
        sent = struct.unpack_from("q", progress)[0]
        # Fragments wait in the backlog, which dies with the sender.
        if kind is not Fragments:
            # The last one may have been written without having been told.
            assert sent <= last <= sent + 1
        assert here.closed
        for port in keeper.kept if kind is Ports else ():
            seconds_to_close(port)
    return delay


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [random.randrange(10**9)])
def test_a_killed_sender_leaves_what_it_has_written_and_then_a_close(kind, seed):
    dice = random.Random(seed)
    delays = []
    with same_footprint():
        for _ in range(KILLS):
            still_alive()
            delays.append(kill_a_sender(kind, dice))
    assert_prompt(delays)


def kill_a_receiver(kind, dice):
    """Kill a receiver at a random moment, and return how long the news of it took here, and at ports on their way."""
    here, there = MessageChannel(capacity=dice.choice([None, 5, 100]))
    keeper = kind()
    killed = []
    with victim(receive_for_ever, there, kind()) as process:
        timer = threading.Timer(dice.choice([0, 0.01, 0.05]) * dice.random(), lambda: killed.append(kill(process)))
        timer.start()
        with pytest.raises(ChannelClosedError):  # noqa: PT012 - whichever send it is
            for number in itertools.count(1):
                keeper.send(here, number)
        noticed = time.monotonic()
        timer.join()
        here.post_message("into the void")
        # A sender may learn of it a moment before the reactor closes the channel.
        until(lambda: here.closed, "the channel is closed", GRANTED)
        # Where ports were sent. Whether they were received is all the same.
        late = [seconds_to_close(port) for port in keeper.kept]
    return [noticed - killed[0], *late]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [random.randrange(10**9)])
def test_a_killed_receiver_is_noticed_by_the_sender(kind, seed):
    dice = random.Random(seed)
    delays = []
    with same_footprint():
        for _ in range(KILLS):
            still_alive()
            delays += kill_a_receiver(kind, dice)
    assert_prompt(delays)


# ---- deaths at certain moments ----


def hold(port):
    """Do nothing, but have the port."""
    port.post_message("ready")
    signal.pause()


@pytest.mark.parametrize("how", ["receive", "wait", "event", "iteration"])
def test_the_death_of_an_idle_peer_is_noticed(how):
    delays = []
    for _ in range(5):
        here, there = MessageChannel()
        with victim(hold, there) as process:
            assert here.receive(PATIENCE) == "ready"
            closed = threading.Event()
            at = []

            def notice(here=here, closed=closed, at=at):
                if how == "receive":
                    with pytest.raises(ChannelClosedError):
                        here.receive(PATIENCE)
                elif how == "wait":
                    assert wait([here], PATIENCE) == [here]
                elif how == "iteration":
                    assert not list(here)
                at.append(time.monotonic())
                closed.set()

            if how == "event":
                here.onclose = lambda event, notice=notice: notice()
            else:
                threading.Thread(target=notice, daemon=True).start()
            time.sleep(0.05)
            killed = kill(process)
            assert closed.wait(PATIENCE)
            delays.append(at[0] - killed)
    assert_prompt(delays)


def test_a_sender_that_waits_for_room_is_woken_by_the_death_of_the_peer():
    delays = []
    for _ in range(5):
        here, there = MessageChannel(capacity=2)
        with victim(hold, there) as process:
            assert here.receive(PATIENCE) == "ready"
            here.send(1)
            here.send(2)
            with pytest.raises(Full):
                here.post_message(3)
            killed = []
            timer = threading.Timer(0.05, lambda process=process, killed=killed: killed.append(kill(process)))
            timer.start()
            with pytest.raises(ChannelClosedError):
                here.send(3, timeout=PATIENCE)
            noticed = time.monotonic()
            timer.join()
            delays.append(noticed - killed[0])
    assert_prompt(delays)


def block_in_send(port):
    port.post_message("ready")
    while True:
        port.send("x" * 1000)


def test_a_peer_that_dies_in_send_leaves_what_it_has_sent():
    here, there = MessageChannel(capacity=50)
    with victim(block_in_send, there) as process:
        assert here.receive(PATIENCE) == "ready"
        until(lambda: len(here) == 50, "the channel is full")
        kill(process)
        assert [here.receive(PATIENCE) for _ in range(50)] == ["x" * 1000] * 50
        seconds_to_close(here)


def kill_while_ports_are_on_their_way(behind_a_backlog):
    here, there = MessageChannel()
    kept = []
    with victim(hold, there) as process:
        assert here.receive(PATIENCE) == "ready"
        if behind_a_backlog:
            # What comes behind this stays in this process.
            fill_the_ring(here)
        for number in range(20):
            # Every other one leads from process to process already.
            mine, yours = far_channel() if number % 2 else MessageChannel()
            here.post_message(None, [yours])
            kept.append(mine)
        killed = kill(process)
        return [seconds_to_close(port, killed) for port in kept]


@pytest.mark.parametrize("behind_a_backlog", [False, True])
def test_a_port_on_its_way_to_a_dead_process_is_closed(behind_a_backlog):
    with same_footprint():
        assert_prompt([delay for _ in range(3) for delay in kill_while_ports_are_on_their_way(behind_a_backlog)])


def forward(port, ours):
    """Receive a port, and send it on to where nobody reads."""
    event = port.receive_event()
    ours.post_message(None, [event.ports[0]])
    port.post_message("sent on")
    signal.pause()


def test_a_port_that_was_sent_on_is_closed_with_its_last_holder():
    here, there = MessageChannel()
    out, into = MessageChannel()
    mine, yours = MessageChannel()
    with victim(hold, into) as reader:
        assert out.receive(PATIENCE) == "ready"
        with victim(forward, there, out) as middle:
            here.post_message(None, [yours])
            assert here.receive(PATIENCE) == "sent on"
            kill(middle)
            seconds_to_close(here)
            # It sits unread in the other process's memory, and lives.
            with pytest.raises(TimeoutError):
                mine.receive(timeout=0.1)
            mine.post_message("still there?")
            assert not mine.closed
            kill(reader)
            seconds_to_close(mine)


def hold_memory(port):
    kept = [port.receive() for _ in range(10)]
    port.post_message("ready")
    signal.pause()
    print(kept)


def kill_a_borrower():
    here, there = MessageChannel()
    with victim(hold_memory, there) as process:
        for number in range(9):
            buffer = bytearray(pattern(number, BIG))
            here.post_message(buffer, [buffer])
        here.post_message(SharedBuffer(BIG))
        assert here.receive(PATIENCE) == "ready"
        kill(process)
        seconds_to_close(here)


def test_what_is_lent_to_a_process_that_dies_is_given_back():
    with same_footprint():
        for _ in range(5 * FACTOR):
            kill_a_borrower()


def lend_and_leave(port, how):
    for number in range(9):
        buffer = bytearray(pattern(number, BIG))
        port.post_message(buffer, [buffer])
    if how == "os._exit":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(3)
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def outlive(how):
    here, there = MessageChannel()
    with victim(lend_and_leave, there, how) as process:
        buffers = [here.receive(PATIENCE) for _ in range(9)]
        seconds_to_close(here)
        process.join(PATIENCE)
        assert process.exitcode == {"return": 0, "killed": -signal.SIGKILL}.get(how, 3)
    # The memory is here, whoever has written it.
    assert all(buffer == pattern(number, BIG) for number, buffer in enumerate(buffers))
    buffers[0][:5] = b"mine!"


@pytest.mark.parametrize("how", ["os._exit", "sys.exit", "return", "killed"])
def test_a_peer_that_leaves_without_closing_has_closed(how):
    with same_footprint():
        outlive(how)


# ---- a process that is stopped ----


def test_nobody_waits_for_a_stopped_process_but_who_wants_to():
    here, there = MessageChannel(capacity=100)
    with victim(echo, there) as process:
        assert here.receive(PATIENCE) == "ready"
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        began = time.monotonic()
        with pytest.raises(Full):  # noqa: PT012 - whichever post it is
            for number in range(200):
                here.post_message(number)
        assert time.monotonic() - began < GRANTED
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            here.send("more", timeout=0.2)
        assert 0.2 <= time.monotonic() - began < GRANTED
        os.kill(process.pid, signal.SIGCONT)
        here.send("the end", timeout=PATIENCE)
        assert [here.receive(PATIENCE) for _ in range(101)] == [*range(100), "the end"]


def echo(port):
    port.post_message("ready")
    for message in port:
        port.send(message)


@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
def test_hundreds_of_ports_wait_for_a_stopped_process(then):
    here, there = MessageChannel()
    with victim(receive_for_ever_from_ports, there) as process:
        assert here.receive(PATIENCE) == "ready"
        os.kill(process.pid, signal.SIGSTOP)
        kept = []
        for number in range(300):
            mine, yours = MessageChannel()
            kept.append(mine)
            here.post_message(number, [yours])
            here.post_message(b"x" * 2000)
        os.kill(process.pid, then)
        if then == signal.SIGCONT:
            assert [mine.receive(PATIENCE) for mine in kept] == list(range(300))
        else:
            for mine in kept:
                seconds_to_close(mine)


def receive_for_ever_from_ports(port):
    port.post_message("ready")
    while True:
        event = port.receive_event()
        for came in event.ports:
            came.send(event.data)


# ---- forks that have nothing to do with us ----


def look_at_inherited(port):
    """What a forked child makes of a port that is its parent's; returns an exit code."""
    try:
        assert port.closed
        port.post_message("nobody hears this")
        for use in (lambda: port.send(1), lambda: port.receive(0), port.receive_nowait):
            with pytest.raises(ChannelClosedError, match="parent process"):
                use()
        one, two = far_channel()
        one.send("works")
        assert two.receive(PATIENCE) == "works"
    except BaseException:
        return 1
    return 0


@pytest.mark.parametrize("how", ["exit", "kill", "multiprocessing"])
def test_a_fork_disturbs_nobody(how):
    here, there = MessageChannel()
    with victim(echo, there):
        assert here.receive(PATIENCE) == "ready"
        done = threading.Event()
        trouble = []

        def use():
            try:
                for number in itertools.count():
                    if done.is_set():
                        return
                    here.send(number)
                    assert here.receive(PATIENCE) == number
            except BaseException as error:
                trouble.append(error)

        user = threading.Thread(target=use, daemon=True)
        user.start()
        for _ in range(5 * FACTOR):
            still_alive()
            if how == "multiprocessing":
                process = start(time.sleep, 0)
                process.join(PATIENCE)
                assert process.exitcode == 0
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                code = look_at_inherited(here)
                if how == "kill" and code == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(code)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == (0 if how == "exit" else -signal.SIGKILL)
        done.set()
        user.join(PATIENCE)
        assert not trouble


def fork_and_tell(port):
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        # Its copies of the links are closed by now.
        os.write(theirs, b"x")
        signal.pause()
    os.read(ours, 1)
    port.send(child)
    signal.pause()


def test_the_death_of_a_process_is_noticed_although_its_child_lives_on():
    delays = []
    for _ in range(3):
        here, there = MessageChannel()
        with victim(fork_and_tell, there) as process:
            grandchild = here.receive(PATIENCE)
            try:
                delays.append(seconds_to_close(here, kill(process)))
            finally:
                os.kill(grandchild, signal.SIGKILL)
    assert_prompt(delays)


# ---- leaks ----


def answer_and_leave(port):
    port.send(port.receive())


def test_many_processes_leave_nothing_behind():
    with same_footprint():
        for number in range(25 * FACTOR):
            still_alive()
            here, there = MessageChannel()
            process = start(answer_and_leave, there)
            here.send(number)
            assert here.receive(PATIENCE) == number
            process.join(PATIENCE)
            process.close()
        del here, there


def test_many_transfers_leave_nothing_behind():
    def transfer():
        mine, yours = MessageChannel()
        here.post_message(None, [yours])
        (came,) = there.receive_event(PATIENCE).ports
        came.post_message("hello")
        assert mine.receive(PATIENCE) == "hello"

    here, there = far_channel()
    with same_footprint():
        for _ in range(250 * FACTOR):
            still_alive()
            transfer()


# ---- who may see the memory ----


def open_as_nobody(pid, paths, pipe):
    os.setgid(65534)
    os.setuid(65534)
    opened = []
    for path in paths:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR))
            opened.append(path)
    pipe.send(opened)


@pytest.mark.skipif(sys.platform == "linux" and os.getuid() != 0, reason="only root can become somebody else")
def test_no_other_user_can_open_the_memory():
    _here, _there = far_channel()
    shared = SharedBuffer(BIG)
    paths = []
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/{os.getpid()}/fd/{name}"
        with contextlib.suppress(OSError):
            if "messagechannel" in os.readlink(path):
                paths.append(path)
                assert os.stat(path).st_mode & 0o777 == 0o600
    assert len(paths) >= 3
    ours, theirs = fork.Pipe(False)
    with victim(open_as_nobody, os.getpid(), paths, theirs):
        assert ours.poll(PATIENCE)
        assert ours.recv() == []
    ours.close()
    theirs.close()
    del shared
