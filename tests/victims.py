"""Processes that tests kill, stop and starve."""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import resource
import signal
import time
import traceback
import warnings
from multiprocessing import forkserver

import pytest

from messagechannel import ChannelClosedError, MessageChannel, _far
from targets import RING_BYTES

FACTOR = int(os.environ.get("MESSAGECHANNEL_STRESS_FACTOR", "1"))
# What a single step may take on a machine that is busy, before it counts as a hang.
PATIENCE = 30.0
# What is promised of the news of a death, in seconds, for the quicker ones of several, which others did not keep from
# the processor; what each gets on a busy machine.
PROMISED, GRANTED = 0.1, 3.0

# Less than what goes into memory of its own.
FILLER = "x" * 120_000

# Some tests keep ports by the hundred, of which each takes two.
_now, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
_enough = 20_000 if _most == resource.RLIM_INFINITY else min(_most, 20_000)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_now, _enough), _most))

# The cheapest way to a process of one's own. The other start methods are in test_process_exits.
fork = multiprocessing.get_context("fork")


def start(target, *args):
    """Start a forked process."""
    process = fork.Process(target=_run, args=(target, *args))
    with warnings.catch_warnings():
        # There are threads, which is what several tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def _run(target, *args):
    # Whatever becomes of the test, this ends some day.
    signal.alarm(600)
    # That of the parent, which an earlier test may have started, is no child of this process.
    forkserver._forkserver._forkserver_pid = None
    target(*args)


@contextlib.contextmanager
def victim(target, *args):
    """Have a forked process, and kill it in the end."""
    process = start(target, *args)
    try:
        yield process
    finally:
        process.kill()
        process.join(PATIENCE)
        process.close()


def apart(function, *args, seconds=60.0):
    """Call a function in a forked process. What it raises fails the test, and so do a crash and a hang."""
    faulthandler.dump_traceback_later(seconds + 2 * PATIENCE, exit=True)
    ours, theirs = fork.Pipe(False)
    process = start(_call_and_tell, theirs, seconds, function, args)
    theirs.close()
    try:
        text = ours.recv() if ours.poll(seconds + PATIENCE) else "it hangs"
    except EOFError:
        process.join(PATIENCE)
        text = f"it ended with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join(PATIENCE)
        ours.close()
    if text:
        pytest.fail(text, pytrace=False)


def _call_and_tell(pipe, seconds, function, args):
    # Not by dump_traceback_later, which waits for a thread of the parent's. The signal ends the process afterwards.
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(int(seconds))
    try:
        function(*args)
    except BaseException:
        pipe.send(traceback.format_exc())
    else:
        pipe.send("")


def still_alive():
    """Tell the guard against hangs that a long test goes on."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)


def far_channel(capacity=None):
    """Return two ports of this process that talk over a link, as if each were alone in a process."""
    here, there = MessageChannel(capacity=capacity)
    return here, _far.arrive(*_far.depart(there))


def post_what_a_ring_takes(port):
    """Post so many messages that the ring has room for the beginning of another one at most; return how many."""
    taken = RING_BYTES // (len(FILLER) + 8)
    for _ in range(taken):
        port.post_message(FILLER)
    return taken


def fill_the_ring(port):
    """Have what follows wait in the backlog; return how many messages to take first."""
    filled = post_what_a_ring_takes(port)
    port.post_message(FILLER)
    return filled + 1


def assert_idle():
    """Check that no thread of this process spins."""
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def until(condition, what, seconds=PATIENCE):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.001)


def seconds_to_close(port, since=None):
    """Return how long it took from `since`, or now, until a drained port told that the other side is gone."""
    since = time.monotonic() if since is None else since
    try:
        unexpected = port.receive(timeout=PATIENCE)
    except ChannelClosedError:
        return time.monotonic() - since
    pytest.fail(f"received {unexpected!r:.100} from a port that was to be closed")


def _hold_a_pipe(pipe):
    pipe.send("ready")
    signal.pause()


def seconds_of_a_death():
    """Return what the kernel's own news of a death takes now: the end of a pipe."""
    ours, theirs = fork.Pipe(False)
    with ours, victim(_hold_a_pipe, theirs) as process:
        theirs.close()
        ours.recv()
        process.kill()
        killed = time.monotonic()
        with contextlib.suppress(EOFError):
            ours.recv()
        return time.monotonic() - killed


def assert_prompt(delays):
    """Check what the news of deaths took, beyond what any takes on a machine that is busy."""
    quick = sorted(delays)[len(delays) // 4]
    if quick >= PROMISED:
        quick -= max(seconds_of_a_death() for _ in range(5))
    assert quick < PROMISED, sorted(delays)
    assert max(delays) < GRANTED, sorted(delays)


class Footprint:
    """What this process holds: descriptors, mappings, threads, sockets that the reactor hears, names in /dev/shm."""

    def __init__(self):
        gc.collect()
        self.descriptors = {}
        for name in os.listdir("/proc/self/fd"):
            # The one that lists them is gone again.
            with contextlib.suppress(OSError):
                self.descriptors[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        with open("/proc/self/maps") as maps:
            self.shared = sum("messagechannel" in line for line in maps)
        self.threads = len(os.listdir("/proc/self/task"))
        self.heard = len(_far._reactor._sources)
        # Other programs, and multiprocessing in them, may come and go.
        self.names = {name for name in os.listdir("/dev/shm") if not name.startswith(("sem.", "psm_"))}

    def excess(self):
        """Return what there is now and was not there then."""
        now = Footprint()
        excess = {
            "descriptors": {n: now.descriptors[n] for n in now.descriptors.keys() - self.descriptors.keys()},
            "shared mappings": max(0, now.shared - self.shared),
            "threads": max(0, now.threads - self.threads),
            "sockets heard": max(0, now.heard - self.heard),
            "names in /dev/shm": now.names - self.names,
        }
        return {what: amount for what, amount in excess.items() if amount}

    def assert_same(self):
        """Check that everything was given back. The reactor may need a moment for what it has just heard."""
        end = time.monotonic() + 5
        while (excess := self.excess()) and time.monotonic() < end:
            time.sleep(0.01)
        assert not excess, excess


@contextlib.contextmanager
def same_footprint():
    """Check that as much is held afterwards as before. The reactor's own things are there from the beginning."""
    far_channel()
    before = Footprint()
    yield
    before.assert_same()
