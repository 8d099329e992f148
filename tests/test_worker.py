"""Worker: a thread or process that runs ``target(port, *args)``, and the port that leads to it.

What only processes have is in test_process_worker.py.
"""

import contextlib
import gc
import os
import queue
import threading
import time
import weakref

import pytest

import targets
from loops import ASYNCIO_LOOPS, GUARD, Collector, run
from messagechannel import ChannelClosedError, ErrorEvent, MessageChannel, MessagePort, Worker, wait


@pytest.fixture(params=["thread", "process"])
def kind(request):
    return request.param


@pytest.fixture
def worker(kind):
    worker = Worker(targets.echo, kind=kind)
    yield worker
    worker.close()
    worker.join(GUARD)


@pytest.fixture
def excepthook(monkeypatch):
    """What reaches threading.excepthook, as a queue."""
    errors = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: errors.put(arguments))
    return errors


def test_the_target_gets_a_port_and_the_arguments():
    results = queue.Queue()
    Worker(lambda port, *args: results.put((port, args)), 1, "two").join(GUARD)
    port, args = results.get(timeout=GUARD)
    assert isinstance(port, MessagePort)
    assert args == (1, "two")


def test_arguments_are_passed_as_they_are():
    results = queue.Queue()
    argument = [threading.Lock()]
    Worker(lambda port, given: results.put(given), argument).join(GUARD)
    assert results.get(timeout=GUARD) is argument


def test_the_target_runs_in_another_thread():
    results = queue.Queue()
    Worker(lambda port: results.put(threading.current_thread())).join(GUARD)
    assert results.get(timeout=GUARD) is not threading.current_thread()


def test_a_worker_is_a_port(worker):
    assert isinstance(worker, MessagePort)
    assert worker.port is worker


def test_a_worker_takes_and_gives_messages(worker):
    worker.post_message("x")
    assert worker.receive(GUARD) == "x"
    worker.send_many(range(500))
    got = []
    while len(got) < 500:
        got += worker.receive_many(timeout=GUARD)
    assert got == list(range(500))


def test_iteration_over_a_worker_ends_with_its_target(kind):
    worker = Worker(targets.send_five, kind=kind)
    assert list(worker) == list(range(5))


def test_onmessage_of_a_worker(worker):
    collector = Collector()
    worker.onmessage = collector
    worker.post_message("x")
    assert collector.wait_for(1) == ["x"]
    assert collector.events[0].target is worker


@pytest.mark.parametrize("loop_name", ASYNCIO_LOOPS)
def test_onmessage_of_a_worker_on_a_loop(loop_name, worker):
    collector = Collector()

    async def main(tasks):
        worker.onmessage = collector
        worker.post_message("x")
        await collector.turn_until(1, tasks)

    run(loop_name, main)
    assert collector.threads == [threading.current_thread()]


def test_a_port_can_be_transferred_to_a_worker(kind):
    worker = Worker(targets.use_a_port, kind=kind)
    port1, port2 = MessageChannel()
    worker.post_message("hello", transfer=[port2])
    assert port1.receive(GUARD) == "through the channel"
    worker.close()


def test_a_worker_keeps_its_target_reachable_through_a_transferred_port(worker):
    port1, port2 = MessageChannel()
    port1.post_message("moved", [worker])
    moved = port2.receive_event(0).ports[0]
    moved.post_message("x")
    assert moved.receive(GUARD) == "x"
    assert worker.closed
    moved.close()
    worker.join(GUARD)


@pytest.mark.parametrize("wrong", [None, 1, "target", object()])
def test_the_target_must_be_callable(wrong):
    with pytest.raises(TypeError, match="callable"):
        Worker(wrong)


def test_the_target_is_required():
    with pytest.raises(TypeError):
        Worker()


def test_an_unknown_kind_is_refused():
    before = threading.active_count()
    with pytest.raises(ValueError, match="kind"):
        Worker(targets.echo, kind="goblin")
    # Workers of other tests may end meanwhile.
    assert threading.active_count() <= before


def test_the_name_is_the_threads_name():
    names = queue.Queue()
    worker = Worker(lambda port: names.put(threading.current_thread().name), name="herbert")
    assert worker.name == "herbert"
    assert names.get(timeout=GUARD) == "herbert"


def test_workers_without_a_name_get_different_ones(kind):
    one, two = Worker(targets.echo, kind=kind), Worker(targets.echo, kind=kind)
    assert one.name != two.name
    one.close()
    two.close()


def test_is_alive_until_the_target_has_returned(kind):
    worker = Worker(targets.receive_one, kind=kind)
    assert worker.is_alive() is True
    worker.post_message("go")
    worker.join(GUARD)
    assert worker.is_alive() is False


def test_join_gives_up_after_its_timeout(worker):
    worker.join(0.01)
    assert worker.is_alive()


def test_close_ends_a_target_that_iterates(worker):
    worker.close()
    worker.join(GUARD)
    assert not worker.is_alive()


def test_close_ends_a_target_that_receives_without_an_error(kind, excepthook):
    worker = Worker(targets.receive_one, kind=kind)
    worker.close()
    worker.join(GUARD)
    assert not worker.is_alive()
    assert excepthook.empty()


def test_terminate_closes_the_channel(worker):
    worker.terminate()
    assert worker.closed
    worker.join(GUARD)
    assert not worker.is_alive()


def test_terminate_lets_the_target_have_what_was_posted_before():
    got = []
    gate = threading.Event()

    def target(port):
        gate.wait(GUARD)
        got.extend(port)

    worker = Worker(target)
    for i in range(10):
        worker.post_message(i)
    worker.terminate()
    gate.set()
    worker.join(GUARD)
    assert got == list(range(10))


def test_a_worker_is_a_context_manager(kind):
    with Worker(targets.echo, kind=kind) as worker:
        worker.post_message("x")
        assert worker.receive(GUARD) == "x"
    assert worker.closed


def test_forgetting_the_worker_ends_its_target():
    ended = threading.Event()

    def target(port):
        for _ in port:
            pass
        ended.set()

    Worker(target)
    gc.collect()
    assert ended.wait(GUARD)


def test_a_forgotten_worker_is_freed(kind):
    worker = Worker(targets.echo, kind=kind)
    reference = weakref.ref(worker)
    del worker
    gc.collect()
    assert reference() is None


def test_the_channel_closes_when_the_target_has_returned(kind):
    closed = Collector()
    worker = Worker(targets.say_last_words, kind=kind)
    worker.onclose = closed
    worker.onmessage = closed
    assert closed.wait_for(2) == ["last words", "close"]


def test_a_target_that_leaves_listeners_stays_reachable():
    def target(port):
        port.onmessage = lambda event: port.post_message(event.data * 2)

    worker = Worker(target)
    worker.join(GUARD)
    worker.post_message(21)
    assert worker.receive(GUARD) == 42
    worker.close()


# ---- errors ----


def error_event_of(worker):
    """Have a target that waits for a message go on, and return the event for the exception that leaves it."""
    worker.onerror = collector = Collector()
    worker.post_message("go")
    collector.wait_for(1)
    return collector.events[0]


def test_an_exception_in_the_target_becomes_an_error_event(kind, excepthook):
    worker = Worker(targets.fail, kind=kind)
    event = error_event_of(worker)
    assert type(event) is ErrorEvent
    assert (event.type, event.target, event.is_trusted) == ("error", worker, True)
    assert isinstance(event.error, ValueError)
    assert event.message == "ValueError: boom"
    assert "in fail\n" in event.traceback
    assert event.traceback.endswith("\nValueError: boom\n")
    worker.join(GUARD)
    assert excepthook.empty()


def test_an_exception_that_cannot_be_shown_becomes_an_error_event_that_names_it(kind, excepthook):
    worker = Worker(targets.fail_without_words, kind=kind)
    event = error_event_of(worker)
    assert isinstance(event.error, targets.SpeechlessError)
    assert event.message == "SpeechlessError: <exception str() failed>"
    assert "in fail_without_words\n" in event.traceback
    worker.join(GUARD)
    assert excepthook.empty()


@pytest.mark.parametrize("how", ["dropped", "collected"])
def test_a_worker_with_a_finalizer_of_its_own_closes_all_the_same(how):
    class Own(Worker):
        def __del__(self):
            finalized.append(True)

    finalized, ended = [], threading.Event()

    def target(port):
        port.post_message("waits here")
        with contextlib.suppress(ChannelClosedError):
            port.receive(GUARD)
        ended.set()

    worker = Own(target)
    wait([worker], GUARD)
    if how == "collected":
        worker.itself = worker
    del worker
    gc.collect()
    assert finalized == [True]
    assert ended.wait(GUARD)


def test_a_system_exit_ends_a_thread_without_an_error(excepthook):
    worker = Worker(targets.exit_with, 3)
    with pytest.raises(ChannelClosedError):
        worker.receive(GUARD)
    worker.join(GUARD)
    assert (worker.is_alive(), worker.exitcode) == (False, None)
    assert excepthook.empty()


def test_the_error_event_reaches_added_listeners(kind, excepthook):
    worker = Worker(targets.fail, kind=kind)
    collector = Collector()
    worker.add_event_listener("error", collector)
    worker.post_message("go")
    collector.wait_for(1)
    worker.join(GUARD)
    assert excepthook.empty()


def test_an_exception_in_the_target_closes_the_channel(kind, excepthook):
    worker = Worker(targets.fail, kind=kind)
    worker.post_message("go")
    with pytest.raises(ChannelClosedError):
        worker.receive(GUARD)
    assert isinstance(excepthook.get(timeout=GUARD).exc_value, ValueError)


def test_an_error_that_nobody_listens_for_goes_to_threading_excepthook(kind, excepthook):
    worker = Worker(targets.fail, kind=kind, name="herbert")
    worker.post_message("go")
    arguments = excepthook.get(timeout=GUARD)
    assert arguments.exc_type is ValueError
    assert arguments.exc_traceback is arguments.exc_value.__traceback__
    assert kind == "process" or arguments.thread.name == "herbert"
    worker.join(GUARD)


def test_a_listener_that_comes_late_still_gets_the_error_event_once(kind, excepthook):
    worker = Worker(targets.fail, kind=kind)
    worker.post_message("go")
    worker.join(GUARD)
    collector, later = Collector(), Collector()
    worker.onerror = collector
    worker.add_event_listener("error", later)
    collector.wait_for(1)
    with MessageChannel() as (port1, port2):
        settled = Collector()
        port2.onmessage = settled
        port1.post_message(None)
        settled.wait_for(1)
    assert len(collector.data) == 1


@pytest.mark.parametrize("loop_name", ASYNCIO_LOOPS)
def test_the_error_event_runs_on_the_loop_where_its_listener_was_set(loop_name, kind, excepthook):
    collector = Collector()

    async def main(tasks):
        worker = Worker(targets.fail, kind=kind)
        worker.onerror = collector
        worker.post_message("go")
        await collector.turn_until(1, tasks)
        await tasks.in_thread(worker.join)

    run(loop_name, main)
    assert collector.threads == [threading.current_thread()]


def test_messages_posted_before_the_error_are_received(kind, excepthook):
    worker = Worker(targets.post_and_fail, kind=kind)
    worker.join(GUARD)
    assert worker.receive(0) == "before"
    # In this test, not in the next one.
    excepthook.get(timeout=GUARD)


def test_onerror_returns_what_was_set(worker):
    assert worker.onerror is None
    worker.onerror = print
    assert worker.onerror is print
    worker.onerror = None
    assert worker.onerror is None


def test_onerror_must_be_callable_or_none(worker):
    with pytest.raises(TypeError, match="onerror"):
        worker.onerror = 1


def test_a_closed_error_of_another_channel_is_an_error(kind, excepthook):
    worker = Worker(targets.meet_a_closed_channel, kind=kind)
    worker.join(GUARD)
    assert isinstance(excepthook.get(timeout=GUARD).exc_value, ChannelClosedError)


def test_a_system_exit_in_the_target_ends_it_only(kind, excepthook):
    worker = Worker(targets.exit_with, 3, kind=kind)
    worker.join(GUARD)
    assert not worker.is_alive()
    with pytest.raises(ChannelClosedError):
        worker.receive(GUARD)


def test_a_port_that_the_target_has_dropped_closes_whatever_its_maker_waits_for():
    def target(port):
        time.sleep(0.05)
        port.post_message(1)

    worker = Worker(target)
    ended = threading.Lock()
    ended.acquire()
    got = []

    def read():
        got.extend(worker)
        ended.release()

    thread = threading.Thread(target=read)
    thread.start()
    # In one piece: nothing of this thread's is run meanwhile.
    assert ended.acquire(timeout=GUARD)
    thread.join(GUARD)
    assert got == [1]


@pytest.mark.parametrize("name", [5, b"w", ["x"]])
def test_a_name_that_is_no_text_is_refused_before_anything_starts(kind, name):
    threads = threading.active_count()
    with pytest.raises(TypeError, match=r"name must be a str or None, not "):
        Worker(targets.echo, kind=kind, name=name)
    assert threading.active_count() <= threads


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), ([], TypeError)]
)
def test_a_timeout_of_join_is_what_timeouts_are(worker, timeout, error):
    with pytest.raises(error, match="timeout must be"):
        worker.join(timeout)
    before = time.monotonic()
    worker.join(0.05)
    assert worker.is_alive()
    assert time.monotonic() - before >= 0.05
    worker.close()
    # Longer than a platform can wait.
    worker.join(1e300)
    assert not worker.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_that_a_target_forks_ends_without_a_word(run_python):
    result = run_python("""
import os, messagechannel
def target(port):
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1])
worker = messagechannel.Worker(target)
worker.join()
""")
    assert "Traceback" not in result.stderr
    assert result.stdout.strip() == "0"


def test_the_interpreter_exits_although_workers_wait(run_python):
    result = run_python("""
import messagechannel
def echo(port):
    for message in port:
        port.post_message(message)
workers = [messagechannel.Worker(echo) for _ in range(5)]
workers[0].post_message("x")
print(workers[0].receive())
""")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "x", "")


def test_at_interpreter_exit_the_targets_get_what_was_posted_and_a_moment_to_finish(run_python):
    result = run_python("""
import messagechannel
import messagechannel.worker
# Long enough for a machine that is busy; the exit waits no longer than the target takes.
messagechannel.worker.EXIT_PATIENCE = 20.0
def target(port):
    print(list(port), "finished", flush=True)
worker = messagechannel.Worker(target)
worker.send_many(range(3))
""")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "[0, 1, 2] finished", "")


def test_the_interpreter_exits_although_a_worker_never_looks_at_its_port(run_python):
    result = run_python("""
import messagechannel, time
def sleep(port):
    while True:
        time.sleep(0.01)
worker = messagechannel.Worker(sleep)
print("end")
""")
    assert (result.returncode, result.stdout.strip()) == (0, "end")
