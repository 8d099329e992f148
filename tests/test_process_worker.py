"""Worker(kind="process"): what only processes have. What all kinds share is in test_worker.py."""

import contextlib
import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import targets
from loops import GUARD, Collector
from messagechannel import ChannelClosedError, DataCloneError, MessageChannel, Worker
from messagechannel.worker import _running

START_METHODS = ["spawn", "forkserver", "fork"]

pytestmark = [
    # Python's own warning, of 3.12 and later, about what fork is.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def wait_until(condition, seconds=GUARD):
    """Wait until a condition holds, and fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what should have happened did not"
        time.sleep(0.005)


def is_running(pid):
    """Tell whether a process, a child or any other, has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def links():
    """Return the descriptors of this process that lead to other processes, or to memory shared with them."""
    gc.collect()
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:") or "memfd:" in target:
            found.append((number, target))
    return found


@pytest.fixture
def excepthook(monkeypatch):
    """What reaches threading.excepthook, as a queue."""
    errors = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", errors.put)
    return errors


# ---- starting ----


@pytest.mark.parametrize("method", [None, *START_METHODS])
def test_the_target_runs_in_another_process_of_that_name(method):
    worker = Worker(targets.tell_about_itself, 1, "two", kind="process", name="herbert", start_method=method)
    pid, name, _, args = worker.receive(GUARD)
    assert pid != os.getpid()
    assert (name, args, worker.name) == ("herbert", (1, "two"), "herbert")
    worker.join(GUARD)
    assert worker.exitcode == 0


def test_spawn_is_the_default():
    with Worker(targets.sleep_until_closed, kind="process") as worker:
        assert b"spawn_main" in Path(f"/proc/{worker.receive(GUARD)}/cmdline").read_bytes()
    worker.join(GUARD)


@pytest.mark.parametrize("method", START_METHODS)
def test_a_process_of_any_start_method_takes_and_gives(method):
    with Worker(targets.echo, kind="process", start_method=method) as worker:
        worker.send_many(range(1000))
        got = []
        while len(got) < 1000:
            got += worker.receive_many(timeout=GUARD)
        assert got == list(range(1000))
    worker.join(GUARD)
    assert worker.exitcode == 0


def test_fork_needs_no_name_for_the_target():
    worker = Worker(lambda port, value: port.post_message(value), [1], kind="process", start_method="fork")
    assert worker.receive(GUARD) == [1]
    worker.join(GUARD)


@pytest.mark.parametrize("method", START_METHODS)
def test_ports_may_be_among_the_arguments(method):
    one, two = MessageChannel(), MessageChannel()
    worker = Worker(targets.use_what_was_given, [one.port2], {"second": two.port2}, kind="process", start_method=method)
    assert one.port1.receive(GUARD) == "first"
    assert two.port1.receive(GUARD) == "second"
    assert one.port2.closed
    assert two.port2.closed
    worker.close()
    worker.join(GUARD)


def assert_closed_but_kept_by(port, worker):
    """Check that a target's port has closed, and that its process stays while this one leads to an echo there."""
    with pytest.raises(ChannelClosedError):
        worker.receive(GUARD)
    port.post_message("still there")
    assert port.receive(GUARD) == "still there"
    assert worker.is_alive()
    port.close()
    worker.join(GUARD)
    assert worker.exitcode == 0


@pytest.mark.parametrize("method", START_METHODS)
def test_the_port_of_a_target_that_has_returned_closes_though_its_process_stays(method):
    here, there = MessageChannel()
    worker = Worker(targets.answer_by_another_port_for_ever, there, kind="process", start_method=method)
    assert_closed_but_kept_by(here, worker)


def test_a_start_method_is_for_processes():
    with pytest.raises(ValueError, match="start_method"):
        Worker(targets.echo, start_method="spawn")


def test_an_unknown_start_method_is_refused():
    with pytest.raises(ValueError, match="teleport"):
        Worker(targets.echo, kind="process", start_method="teleport")


def test_where_the_modules_for_other_processes_were_not_built_the_error_says_so(run_python):
    finished = run_python("""
import sys
from multiprocessing.reduction import ForkingPickler
sys.modules["messagechannel._far"] = sys.modules["messagechannel._link"] = None
from messagechannel import MessageChannel, Worker

def refusal(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except NotImplementedError as error:
        return str(error)

reason = refusal(Worker, print, kind="process")
print(reason)
here, there = MessageChannel()
assert refusal(ForkingPickler.dumps, there) == reason
here.post_message("still entangled")
print(there.receive())
with Worker(print) as worker:
    worker.join()
""")
    assert finished.stderr == ""
    reason, message, thread = finished.stdout.splitlines()
    assert "POSIX sockets and shared memory" in reason
    assert message == "still entangled"
    assert "MessagePort" in thread


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("wrong", ["target", "argument", "argument after a port"])
def test_what_cannot_be_pickled_is_an_error_and_leaves_nothing_behind(method, wrong, excepthook):
    # What the first process of a kind leaves running: the reactor, the resource tracker, the fork server.
    with Worker(targets.echo, kind="process", start_method=method) as warm:
        warm.post_message(1)
        assert warm.receive(GUARD) == 1
    warm.join(GUARD)
    wait_until(lambda: warm.closed)
    given = MessageChannel()
    time.sleep(0.2)
    before = len(links()), set(children())
    arguments = {
        "target": (lambda port: None,),
        "argument": (targets.echo, threading.Lock()),
        "argument after a port": (targets.echo, given.port2, threading.Lock()),
    }[wrong]
    with pytest.raises(Exception, match=r"pickle") as caught:
        Worker(*arguments, kind="process", start_method=method)
    assert type(caught.value).__name__ in ("PicklingError", "AttributeError", "TypeError")
    del caught
    if wrong == "argument after a port":
        # It had been transferred to a process that never was.
        wait_until(lambda: given.port1.closed)
    # What was about to end then may have ended.
    wait_until(lambda: len(links()) <= before[0] and set(children()) <= before[1])
    assert excepthook.empty()


def children():
    """Return the numbers of this process's children."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            found += Path(f"/proc/self/task/{task}/children").read_text().split()
    return found


# ---- the end ----


def test_terminate_ends_a_process_whatever_it_does():
    worker = Worker(targets.sleep_for_ever, kind="process")
    pid = worker.receive(GUARD)
    worker.terminate()
    worker.join(GUARD)
    assert worker.exitcode == -signal.SIGTERM
    assert worker.closed
    assert not worker.is_alive()
    assert not is_running(pid)


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("kill", -signal.SIGKILL)])
def test_a_process_that_is_gone_closes_the_channel_after_its_last_words(how, code):
    closed = Collector()
    worker = Worker(targets.leave, how, kind="process")
    worker.onclose = closed
    assert list(worker) == ["last words"]
    closed.wait_for(1)
    worker.join(GUARD)
    assert worker.exitcode == code
    with pytest.raises(ChannelClosedError):
        worker.send("x")


def test_a_target_that_only_sends_ends_without_an_error_when_the_worker_is_closed(excepthook):
    for _ in range(5):
        worker = Worker(targets.send_for_ever, kind="process")
        assert worker.receive(GUARD) == b"x" * 1000
        worker.close()
        worker.join(GUARD)
        assert worker.exitcode == 0
    assert excepthook.empty()


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (3, 3)])
def test_a_system_exit_gives_the_exit_code_and_no_error(code, expected, excepthook):
    worker = Worker(targets.exit_with, code, kind="process")
    worker.join(GUARD)
    assert worker.exitcode == expected
    with pytest.raises(ChannelClosedError):
        worker.receive(GUARD)
    assert excepthook.empty()


def test_the_exit_code_is_none_while_it_runs():
    with Worker(targets.echo, kind="process") as worker:
        assert worker.exitcode is None
    worker.join(GUARD)
    assert worker.exitcode == 0


def test_forgetting_the_worker_ends_its_process():
    worker = Worker(targets.sleep_until_closed, kind="process")
    pid = worker.receive(GUARD)
    del worker
    gc.collect()
    wait_until(lambda: not is_running(pid))


def test_a_target_that_leaves_listeners_keeps_its_process_until_the_channel_closes():
    worker = Worker(targets.answer_by_a_listener, kind="process")
    worker.post_message(1)
    _, doubled = worker.receive(GUARD)
    assert doubled == 2
    worker.join(0.3)
    assert worker.is_alive()
    worker.close()
    worker.join(GUARD)
    assert worker.exitcode == 0


def test_the_port_of_a_target_that_has_returned_closes_although_another_port_keeps_the_process():
    worker = Worker(targets.leave_a_listener_elsewhere, kind="process")
    here, there = MessageChannel()
    worker.post_message(None, [there])
    assert_closed_but_kept_by(here, worker)


def test_what_was_posted_arrives_although_the_target_returns_at_once():
    worker = Worker(targets.post_and_return, 20_000, kind="process")
    time.sleep(0.2)
    assert [number for number, _ in worker] == list(range(20_000))
    worker.join(GUARD)
    assert worker.exitcode == 0


# ---- errors ----


def error_event(worker):
    collector = Collector()
    worker.onerror = collector
    worker.post_message("go")
    collector.wait_for(1)
    worker.join(GUARD)
    return collector.events[0]


def test_an_exception_arrives_with_the_traceback_of_its_process(excepthook):
    worker = Worker(targets.raise_one, "LookupError", kind="process")
    event = error_event(worker)
    assert (type(event.error), event.message) == (LookupError, "LookupError: boom")
    assert "in raise_one" in event.traceback
    assert event.traceback.endswith("LookupError: boom\n")
    assert "in raise_one" in str(event.error.__cause__)
    assert worker.exitcode == 1
    assert excepthook.empty()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("UnpicklableError", "UnpicklableError: boom"),
        ("UnreadableError", "UnreadableError: this and that"),
        ("known here only", "Hidden: boom"),
    ],
)
def test_an_exception_that_cannot_come_here_arrives_as_a_runtime_error(name, message, excepthook):
    event = error_event(Worker(targets.raise_one, name, kind="process"))
    assert type(event.error) is RuntimeError
    assert str(event.error) == event.message == message
    assert "in raise_one" in event.traceback


FAILS = """
from messagechannel import Worker

def fail(port):
    port.receive()
    raise LookupError("boom")
"""


def test_an_error_of_a_process_prints_its_traceback_where_nobody_listens(run_file):
    finished = run_file(f"""{FAILS}
if __name__ == "__main__":
    worker = Worker(fail, kind="process")
    worker.post_message("go")
    worker.join()
    print(worker.exitcode)
""")
    assert finished.stdout.split() == ["1"]
    assert finished.stderr.count("in fail\n") == 1
    assert finished.stderr.count("LookupError: boom") == 2  # of the other process, and here


def test_an_error_is_not_lost_where_the_process_that_made_the_worker_ends_at_once(run_file):
    finished = run_file(f"""{FAILS}
if __name__ == "__main__":
    import time
    from messagechannel._reactor import Reactor

    worker = Worker(fail, kind="process")
    worker.onerror = lambda event: print(event.message)
    hear = Reactor._hear
    Reactor._hear = lambda *args: (time.sleep(0.5), hear(*args))
    worker.post_message("go")
    worker.join()
""")
    assert finished.stdout == "LookupError: boom\n"


# ---- processes in processes ----


def test_a_worker_may_have_workers():
    with Worker(targets.start_another, kind="process") as worker:
        worker.post_message("x")
        assert worker.receive(GUARD) == "x"
    worker.join(GUARD)
    assert worker.exitcode == 0


def test_a_process_ends_although_it_keeps_a_worker_that_waits():
    worker = Worker(targets.keep_another, kind="process")
    pid = worker.receive(GUARD)
    worker.join(GUARD)
    assert worker.exitcode == 0
    wait_until(lambda: not is_running(pid))


def test_a_worker_can_be_transferred_as_the_port_that_it_is():
    worker = Worker(targets.hand_over_another, kind="process")
    event = worker.receive_event(GUARD)
    assert event.ports[0].receive(GUARD)[1].startswith("Worker-")
    worker.close()
    worker.join(GUARD)


# ---- this process ends ----


@pytest.fixture
def run_file(tmp_path):
    """Run a program from a file, as a spawned process needs it."""

    def run(code, *arguments, timeout=60):
        file = tmp_path / "program.py"
        file.write_text(code)
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", file, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


PARENT = """
import os, signal, sys, time
from messagechannel import Worker

def target(port):
    port.post_message(os.getpid())
    for message in port:
        pass

if __name__ == "__main__":
    worker = Worker(target, kind="process", start_method=sys.argv[2])
    print(worker.receive(), flush=True)
    if sys.argv[1] == "os._exit":
        os._exit(0)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "raise":
        raise SystemExit(0)
"""


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("how", ["return", "raise", "os._exit", "kill"])
def test_a_process_ends_when_its_parent_has(how, method, run_file):
    finished = run_file(PARENT, how, method)
    assert finished.returncode == (-signal.SIGKILL if how == "kill" else 0)
    assert "Error" not in finished.stderr
    wait_until(lambda: not is_running(int(finished.stdout)))


def test_a_process_that_computes_is_terminated_at_exit(run_file):
    begin = time.monotonic()
    finished = run_file("""
import os, time
from messagechannel import Worker

def target(port):
    port.post_message(os.getpid())
    while True:
        time.sleep(1)

if __name__ == "__main__":
    worker = Worker(target, kind="process")
    print(worker.receive())
""")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert not is_running(int(finished.stdout))
    assert time.monotonic() - begin < GUARD


def test_processes_that_do_not_terminate_are_killed_together(run_file):
    finished = run_file("""
import os, signal, time
from messagechannel import Worker
from messagechannel.worker import close_workers

def target(port):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    port.post_message(os.getpid())
    while True:
        time.sleep(1)

if __name__ == "__main__":
    workers = [Worker(target, kind="process", start_method="fork") for _ in range(8)]
    print(*[worker.receive() for worker in workers])
    begin = time.monotonic()
    close_workers()
    # A second until they are asked, and one until they are killed; one after the other it would be nine.
    assert 1.5 < time.monotonic() - begin < 6
""")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert not any(is_running(int(pid)) for pid in finished.stdout.split())


def test_nothing_is_printed_that_the_program_did_not_print(run_file):
    finished = run_file("""
from messagechannel import MessageChannel, Worker

def target(port):
    ports = port.receive_event().ports
    ports[0].post_message("x", [ports[1]])

if __name__ == "__main__":
    workers = [Worker(target, kind="process") for _ in range(3)]
    for worker in workers:
        one, two = MessageChannel(), MessageChannel()
        worker.post_message(bytes(1_000_000), [one.port2, two.port2])
        assert one.port1.receive() == "x"
    workers[0].join()
""")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


INTERRUPTED = """
import os, signal, sys, time
from messagechannel import Worker

# Where tests run in the background, the signal may be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def target(port):
    port.post_message(os.getpid())
    if sys.argv[1] == "waits":
        port.receive()
    time.sleep(100)

if __name__ == "__main__":
    worker = Worker(target, kind="process")
    print(worker.receive(), flush=True)
    print("ready", flush=True)
    try:
        worker.receive()
    except BaseException as error:
        print(type(error).__name__, flush=True)
        raise
"""


@pytest.mark.parametrize("what", ["waits", "sleeps"])
def test_an_interrupt_at_the_terminal_ends_both_and_the_process_in_silence(what, tmp_path):
    file = tmp_path / "program.py"
    file.write_text(INTERRUPTED)
    program = subprocess.Popen(
        [sys.executable, file, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pid = int(program.stdout.readline())
    assert program.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=GUARD)
    assert program.returncode != 0
    # Either end may be the first to notice.
    assert out in ("KeyboardInterrupt\n", "ChannelClosedError\n", "")
    assert "in target" not in err
    assert "Exception in thread" not in err
    wait_until(lambda: not is_running(pid))


# ---- what must not go there ----


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_port_that_passes_references_is_refused_as_an_argument(method):
    channel = MessageChannel(copy=False)
    with pytest.raises(DataCloneError, match="copy=False"):
        Worker(targets.echo, channel.port2, kind="process", start_method=method)
    channel.port2.post_message("still here")
    assert channel.port1.receive(0) == "still here"


# ---- many ----


def test_finished_workers_leave_nothing():
    def round():
        workers = [Worker(targets.tell_about_itself, kind="process") for _ in range(3)]
        for worker in workers:
            worker.receive(GUARD)
            worker.join(GUARD)

    round()
    assert not _running
    before = len(links())
    for _ in range(3):
        round()
    assert not _running
    wait_until(lambda: len(links()) <= before)
