"""A process that exits sends what waits there, and does not wait for ever for somebody who reads nothing."""

import multiprocessing
import os
import signal
import sys
import time
import warnings

import pytest

from messagechannel import MessageChannel, Worker
from victims import PATIENCE, seconds_to_close

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork")

# Several times of what a ring has room for.
MESSAGES = 300
LENGTH = 5000


def post_and_return(port, how="return"):
    for number in range(MESSAGES):
        port.post_message(number.to_bytes(4, "little") * (LENGTH // 4))
    if how == "sys.exit":
        sys.exit(3)
    if how == "close":
        port.close()


def assert_all_arrive(port):
    # Whoever exits is to wait for this.
    time.sleep(0.3)
    for number in range(MESSAGES):
        assert port.receive(PATIENCE) == number.to_bytes(4, "little") * (LENGTH // 4)
    seconds_to_close(port)


@pytest.mark.parametrize("how", ["return", "sys.exit", "close"])
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_what_a_process_has_posted_arrives_after_its_end(start_method, how):
    here, there = MessageChannel()
    process = multiprocessing.get_context(start_method).Process(target=post_and_return, args=(there, how))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    assert_all_arrive(here)
    process.join(PATIENCE)
    assert process.exitcode == (3 if how == "sys.exit" else 0)


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_what_a_worker_has_posted_arrives_after_its_end(start_method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        worker = Worker(post_and_return, kind="process", start_method=start_method)
    assert_all_arrive(worker)
    worker.join(PATIENCE)
    assert worker.exitcode == 0


def test_nothing_is_said_of_leaks_at_exit(run_python):
    done = run_python(
        """
        import sys
        sys.path.insert(0, "tests")
        from messagechannel import Worker
        from test_process_exits import post_and_return, MESSAGES
        if __name__ == "__main__":
            for _ in range(3):
                worker = Worker(post_and_return, kind="process")
                assert len([worker.receive() for _ in range(MESSAGES)]) == MESSAGES
                worker.join()
            worker = Worker(post_and_return, kind="process")
            worker.receive()
            print("ok")
        """.replace("\n        ", "\n"),
        timeout=PATIENCE * 2,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)


MAIN = """
import os, signal, sys, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, "tests")
from test_process_exits import post_and_return
from messagechannel import MessageChannel
import multiprocessing

def child(port):
    if {stopped}:
        print(os.getpid(), flush=True)
        signal.pause()
    time.sleep(0.5)
    print(len(list(port)), flush=True)

here, there = MessageChannel()
process = multiprocessing.get_context("fork").Process(target=child, args=(there,), daemon=False)
process.start()
post_and_return(here)
{ends}
"""


def test_what_the_main_process_has_posted_arrives_after_its_end(run_python):
    # Otherwise multiprocessing would wait for the child, which waits for the end of the channel.
    done = run_python(MAIN.format(stopped=False, ends="multiprocessing.process._children.clear()"))
    assert (done.stdout, done.stderr, done.returncode) == (f"{MESSAGES}\n", "", 0)


def test_an_exit_waits_five_seconds_for_who_reads_nothing(run_python, tmp_path):
    # The child has the pipes that run_python reads.
    reader = tmp_path / "reader"
    ends = "multiprocessing.process._children.clear(); import time; print(time.monotonic(), flush=True)"
    code = MAIN.format(stopped=True, ends=ends).replace(
        "print(os.getpid(), flush=True)",
        f"open({str(reader)!r}, 'w').write(str(os.getpid())); os.close(1); os.close(2)",
    )
    done = run_python(code, timeout=PATIENCE)
    took = time.monotonic() - float(done.stdout)
    os.kill(int(reader.read_text()), signal.SIGKILL)
    assert (done.stderr, done.returncode) == ("", 0)
    assert 4 < took < 9
