"""Listeners of ports that were started where no loop runs: one at a time, on the library's one dispatcher thread."""

import gc
import threading
import weakref

import pytest

from ends import MessageChannel, eventually, local
from loops import GUARD, Collector, Unraisable, in_thread
from messagechannel import MessageEvent


def settle():
    """Wait until the dispatcher thread has done what it was given before."""
    settled = Collector()
    with MessageChannel() as (a, b):
        b.onmessage = settled
        a.post_message(None)
        settled.wait_for(1)


def test_a_listener_gets_what_is_posted(channel):
    collector = Collector()
    channel.port2.onmessage = collector
    for i in range(100):
        channel.port1.post_message(i)
    assert collector.wait_for(100) == list(range(100))


def test_the_event_of_a_message(channel):
    collector = Collector()
    channel.port2.onmessage = collector
    channel.port1.post_message(["x"])
    collector.wait_for(1)
    event = collector.events[0]
    assert type(event) is MessageEvent
    assert (event.type, event.data, event.origin, event.last_event_id, event.source, event.ports) == (
        "message",
        ["x"],
        "",
        "",
        None,
        (),
    )
    assert event.is_trusted is True
    assert event.target is channel.port2


def test_the_current_target_is_the_port_while_the_listener_runs(channel):
    current = []
    collector = Collector()
    channel.port2.add_event_listener("message", lambda event: current.append(event.current_target))
    channel.port2.onmessage = collector
    channel.port1.post_message("x")
    collector.wait_for(1)
    assert current == [channel.port2]


def test_ports_come_with_the_event_in_the_order_of_the_transfer_list(channel):
    collector = Collector()
    channel.port2.onmessage = collector
    channels = [MessageChannel() for _ in range(5)]
    for i, other in enumerate(channels):
        other.port1.post_message(i)
    channel.port1.post_message("ports", [other.port2 for other in channels])
    collector.wait_for(1)
    assert [port.receive_nowait() for port in collector.events[0].ports] == list(range(5))


def test_all_listeners_run_on_one_thread_that_is_not_the_posters(channel):
    collector = Collector()
    with MessageChannel() as other:
        channel.port2.onmessage = collector
        in_thread(lambda: setattr(other.port2, "onmessage", collector))
        channel.port1.post_message(1)
        in_thread(other.port1.post_message, 2)
        collector.wait_for(2)
    assert len(set(collector.threads)) == 1
    assert collector.threads[0] is not threading.current_thread()


def test_the_dispatcher_thread_is_a_daemon(channel):
    collector = Collector()
    channel.port2.onmessage = collector
    channel.port1.post_message(1)
    collector.wait_for(1)
    assert collector.threads[0].daemon is True


def test_listeners_run_one_at_a_time():
    running, overlaps = [0], []
    done = Collector()

    def listener(event):
        running[0] += 1
        overlaps.append(running[0])
        threading.Event().wait(0.0005)
        running[0] -= 1
        done(event)

    channels = [MessageChannel() for _ in range(8)]
    for channel in channels:
        channel.port2.onmessage = listener
    threads = [threading.Thread(target=lambda c=c: [c.port1.post_message(i) for i in range(10)]) for c in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.wait_for(80)
    assert set(overlaps) == {1}


def test_a_listener_never_runs_inside_post_message(channel):
    posting = threading.local()
    inside = []
    done = Collector()

    def listener(event):
        inside.append(getattr(posting, "now", False))
        if event.data:
            posting.now = True
            channel.port1.post_message(event.data - 1)
            posting.now = False
        done(event)

    channel.port2.onmessage = listener
    channel.port1.post_message(3)
    done.wait_for(4)
    assert inside == [False] * 4


# ---- starting ----


def test_setting_onmessage_starts_the_port(channel):
    channel.port1.post_message("waiting")
    collector = Collector()
    channel.port2.onmessage = collector
    assert collector.wait_for(1) == ["waiting"]


def test_add_event_listener_does_not_start_the_port(channel):
    collector = Collector()
    channel.port2.add_event_listener("message", collector)
    channel.port1.post_message("x")
    settle()
    assert collector.data == []
    assert len(channel.port2) == 1


def test_start_lets_added_listeners_have_the_messages(channel):
    collector = Collector()
    channel.port2.add_event_listener("message", collector)
    channel.port1.post_message("before")
    channel.port2.start()
    channel.port1.post_message("after")
    assert collector.wait_for(2) == ["before", "after"]


def test_start_again_delivers_nothing_twice(channel):
    collector = Collector()
    channel.port2.add_event_listener("message", collector)
    for i in range(5):
        channel.port1.post_message(i)
        channel.port2.start()
    collector.wait_for(5)
    settle()
    assert collector.data == list(range(5))


def test_a_started_port_without_a_message_listener_keeps_its_messages(channel):
    channel.port2.start()
    channel.port2.onclose = print
    channel.port1.post_message("x")
    settle()
    channel.port2.onclose = None
    assert channel.port2.receive_nowait() == "x"


def test_removing_the_last_listener_makes_messages_wait(channel):
    collector = Collector()
    channel.port2.onmessage = collector
    channel.port1.post_message(1)
    collector.wait_for(1)
    channel.port2.onmessage = None
    channel.port1.post_message(2)
    settle()
    assert collector.data == [1]
    assert channel.port2.receive_nowait() == 2


def test_removing_the_last_added_listener_makes_messages_wait(channel):
    collector = Collector()
    channel.port2.add_event_listener("message", collector)
    channel.port2.start()
    channel.port1.post_message(1)
    collector.wait_for(1)
    channel.port2.remove_event_listener("message", collector)
    channel.port1.post_message(2)
    settle()
    assert collector.data == [1]
    assert len(channel.port2) == 1


def test_removing_one_of_two_listeners_leaves_the_other(channel):
    gone, stays = Collector(), Collector()
    channel.port2.add_event_listener("message", gone)
    channel.port2.onmessage = stays
    channel.port2.remove_event_listener("message", gone)
    channel.port1.post_message("x")
    assert stays.wait_for(1) == ["x"]
    assert gone.data == []


def test_messages_that_waited_come_when_a_listener_is_added_again(channel):
    first, second = Collector(), Collector()
    channel.port2.onmessage = first
    channel.port2.onmessage = None
    for i in range(3):
        channel.port1.post_message(i)
    channel.port2.add_event_listener("message", second)
    channel.port1.post_message(3)
    assert second.wait_for(4) == [0, 1, 2, 3]
    assert first.data == []


def test_a_listener_that_removes_itself_leaves_the_rest_waiting(channel):
    collector = Collector()

    def listener(event):
        channel.port2.onmessage = None
        collector(event)

    for i in range(5):
        channel.port1.post_message(i)
    channel.port2.onmessage = listener
    collector.wait_for(1)
    settle()
    assert collector.data == [0]
    assert channel.port2.receive_many() == [1, 2, 3, 4]


def test_a_once_listener_takes_one_message(channel):
    collector = Collector()
    channel.port2.add_event_listener("message", collector, once=True)
    channel.port2.start()
    channel.port1.post_message(1)
    channel.port1.post_message(2)
    collector.wait_for(1)
    settle()
    assert collector.data == [1]
    assert channel.port2.receive_nowait() == 2


def test_replacing_onmessage_in_its_own_handler_does_not_redeliver(channel):
    old, new = Collector(), Collector()

    def handler(event):
        channel.port2.onmessage = new
        old(event)

    channel.port2.onmessage = handler
    for i in range(3):
        channel.port1.post_message(i)
    assert new.wait_for(2) == [1, 2]
    settle()
    assert (old.data, new.data) == ([0], [1, 2])


# ---- sharing ----


def test_every_message_goes_to_exactly_one_of_listener_and_receive(channel):
    total = 20_000
    received, enough = [], threading.Event()

    def count(extra=0):
        if len(received) + len(collector.data) >= total:
            enough.set()

    collector = Collector()

    def listener(event):
        collector(event)
        count()

    def receiver():
        while not enough.is_set():
            try:
                received.append(channel.port2.receive(0.02))
            except TimeoutError:
                continue
            count()

    channel.port2.onmessage = listener
    thread = threading.Thread(target=receiver)
    thread.start()
    for i in range(total):
        channel.port1.post_message(i)
    assert enough.wait(GUARD)
    thread.join()
    settle()
    assert sorted(received + collector.data) == list(range(total))
    assert received == sorted(received)
    assert collector.data == sorted(collector.data)


def test_many_posting_threads_each_stay_in_order(channel):
    collector = Collector()
    channel.port2.onmessage = collector

    def post(name):
        for i in range(2000):
            channel.port1.post_message((name, i))

    threads = [threading.Thread(target=post, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    collector.wait_for(8000)
    for thread in threads:
        thread.join()
    assert len(collector.data) == 8000
    for name in range(4):
        assert [i for n, i in collector.data if n == name] == list(range(2000))


# ---- listeners that misbehave ----


def test_an_exception_in_a_listener_is_reported_and_stops_neither_listeners_nor_queue(channel, monkeypatch):
    unraisable = Unraisable(monkeypatch)
    collector = Collector()

    def broken(event):
        raise ValueError(event.data)

    channel.port2.add_event_listener("message", broken)
    channel.port2.add_event_listener("message", collector)
    channel.port2.start()
    for i in range(3):
        channel.port1.post_message(i)
    assert collector.wait_for(3) == [0, 1, 2]
    assert [error.args for error in unraisable.wait_for(3)] == [(0,), (1,), (2,)]
    assert unraisable.objects == [broken] * 3


def test_a_listener_that_posts_to_its_own_port_without_end_does_not_stop_other_ports(channel):
    def listener(event):
        channel.port1.post_message(event.data + 1)

    channel.port2.onmessage = listener
    channel.port1.post_message(0)
    collector = Collector()
    with MessageChannel() as other:
        other.port2.onmessage = collector
        for i in range(10):
            other.port1.post_message(i)
            collector.wait_for(i + 1)
    channel.port2.onmessage = None


def test_a_listener_that_closes_its_port_still_gets_what_had_arrived(channel):
    collector = Collector()

    def listener(event):
        channel.port2.close()
        collector(event)

    for i in range(5):
        channel.port1.post_message(i)
    channel.port2.onmessage = listener
    assert collector.wait_for(5) == [0, 1, 2, 3, 4]


def test_a_listener_that_closes_its_port_gets_nothing_that_is_posted_later(channel):
    collector = Collector()

    def listener(event):
        channel.port2.close()
        channel.port1.post_message("too late")
        collector(event)

    channel.port2.onmessage = listener
    channel.port1.post_message("x")
    collector.wait_for(1)
    settle()
    assert collector.data == ["x"]


def test_a_transfer_in_the_middle_of_dispatch_moves_the_undelivered_rest_in_order(channel):
    carrier = MessageChannel()
    first, second = Collector(), Collector()

    def listener(event):
        first(event)
        if event.data == 2:
            carrier.port1.post_message("here", [channel.port2])

    for i in range(5):
        channel.port1.post_message(i)
    channel.port2.onmessage = listener
    moved = carrier.port2.receive_event(GUARD).ports[0]
    channel.port1.post_message(5)
    moved.onmessage = second
    assert second.wait_for(3) == [3, 4, 5]
    settle()
    assert first.data == [0, 1, 2]


def test_listeners_of_the_same_event_run_although_the_first_transfers_the_port(channel):
    carrier = MessageChannel()
    collector = Collector()
    channel.port2.add_event_listener("message", lambda event: carrier.port1.post_message(None, [channel.port2]))
    channel.port2.add_event_listener("message", collector)
    channel.port1.post_message("x")
    channel.port2.start()
    assert collector.wait_for(1) == ["x"]


def test_a_port_arrives_without_listeners_and_not_started(channel):
    collector = Collector()
    carrier = MessageChannel()
    channel.port2.onmessage = collector
    carrier.port1.post_message(None, [channel.port2])
    moved = carrier.port2.receive_event(0).ports[0]
    assert moved.onmessage is None
    moved.add_event_listener("message", collector)
    channel.port1.post_message("x")
    settle()
    assert collector.data == []
    moved.start()
    assert collector.wait_for(1) == ["x"]


# ---- the close event ----


def test_the_close_event_comes_after_every_message_posted_before(channel):
    collector = Collector()
    channel.port2.onclose = collector
    channel.port2.onmessage = collector
    for i in range(1000):
        channel.port1.post_message(i)
    channel.port1.close()
    assert collector.wait_for(1001) == [*range(1000), "close"]


def test_the_close_event_comes_after_the_messages_for_a_port_that_starts_late(channel):
    collector = Collector()
    channel.port1.post_message("x")
    channel.port1.close()
    channel.port2.onclose = collector
    settle()
    assert collector.data == []
    channel.port2.onmessage = collector
    assert collector.wait_for(2) == ["x", "close"]


def test_the_close_event_comes_when_receive_has_drained_the_queue(channel):
    collector = Collector()
    channel.port2.onclose = collector
    channel.port1.post_message("x")
    channel.port1.close()
    settle()
    assert collector.data == []
    channel.port2.receive(GUARD)
    assert collector.wait_for(1) == ["close"]


def test_the_close_event_comes_when_receive_many_has_drained_the_queue(channel):
    collector = Collector()
    channel.port2.onclose = collector
    channel.port1.send_many(range(1000))
    channel.port1.close()
    received = []
    # Another thread may just be bringing in what is left of a link that has ended.
    while len(received) < 1000:
        received += channel.port2.receive_many()
    assert collector.wait_for(1) == ["close"]


def test_the_close_event_needs_no_start(channel):
    collector = Collector()
    channel.port2.onclose = collector
    channel.port1.close()
    assert collector.wait_for(1) == ["close"]


def test_the_close_event_is_fired_once(channel):
    collector = Collector()
    channel.port2.onclose = collector
    channel.port2.onmessage = collector
    channel.port1.close()
    channel.port1.close()
    collector.wait_for(1)
    channel.port2.add_event_listener("close", Collector())
    channel.port2.start()
    channel.port2.close()
    settle()
    assert collector.data == ["close"]


def test_the_close_event_is_fired_at_the_other_port_only(channel):
    mine, others = Collector(), Collector()
    channel.port1.onclose = mine
    channel.port2.onclose = others
    channel.port1.close()
    others.wait_for(1)
    settle()
    assert mine.data == []


def test_the_close_event_comes_from_a_task_not_from_close(channel):
    collector = Collector()
    channel.port2.onclose = collector
    channel.port1.close()
    collector.wait_for(1)
    assert collector.threads[0] is not threading.current_thread()


def test_the_close_event_for_a_listener_added_after_the_close(channel):
    collector = Collector()
    channel.port1.close()
    channel.port2.add_event_listener("close", collector)
    assert collector.wait_for(1) == ["close"]


def test_the_close_event_has_its_target_and_is_trusted(channel):
    collector = Collector()
    channel.port2.onclose = collector
    channel.port1.close()
    collector.wait_for(1)
    event = collector.events[0]
    assert (event.type, event.target, event.is_trusted) == ("close", channel.port2, True)


def test_the_close_event_when_the_other_port_is_dropped():
    collector = Collector()
    port = MessageChannel().port2
    port.onclose = collector
    assert collector.wait_for(1) == ["close"]


def test_a_transfer_fires_no_close_event(channel):
    collector = Collector()
    carrier = MessageChannel()
    channel.port1.onclose = collector
    channel.port2.onclose = collector
    carrier.port1.post_message(None, [channel.port2])
    moved = carrier.port2.receive_event(0).ports[0]
    settle()
    assert collector.data == []
    moved.close()
    assert collector.wait_for(1) == ["close"]
    assert collector.events[0].target is channel.port1


def test_the_close_event_of_a_port_transferred_after_its_peer_closed(channel):
    collector = Collector()
    carrier = MessageChannel()
    channel.port1.post_message("x")
    channel.port1.close()
    carrier.port1.post_message(None, [channel.port2])
    moved = carrier.port2.receive_event(0).ports[0]
    moved.onclose = collector
    moved.onmessage = collector
    assert collector.wait_for(2) == ["x", "close"]
    assert collector.events[1].target is moved


def test_the_close_event_of_a_port_whose_peer_closed_while_it_was_in_flight(channel):
    collector = Collector()
    carrier = MessageChannel()
    carrier.port1.post_message(None, [channel.port2])
    channel.port1.post_message("x")
    channel.port1.close()
    moved = carrier.port2.receive_event(0).ports[0]
    moved.onclose = collector
    moved.onmessage = collector
    assert collector.wait_for(2) == ["x", "close"]


def test_a_close_listener_that_raises_is_reported(channel, monkeypatch):
    unraisable = Unraisable(monkeypatch)
    channel.port2.onclose = lambda event: 1 / 0
    channel.port1.close()
    assert isinstance(unraisable.wait_for(1)[0], ZeroDivisionError)


# ---- what listeners keep alive ----


def test_a_started_port_with_listeners_stays_alive_as_long_as_its_peer():
    collector = Collector()
    port1, port2 = MessageChannel()
    port2.onmessage = collector
    del port2
    gc.collect()
    port1.post_message("x")
    assert collector.wait_for(1) == ["x"]


def test_a_started_port_with_listeners_goes_when_its_peer_has_closed():
    port1, port2 = MessageChannel()
    port2.onmessage = print
    reference = weakref.ref(port2)
    del port2
    port1.close()
    settle()
    gc.collect()
    # A far end's reactor may be about to let go of it.
    assert eventually(lambda: reference() is None)


def test_a_port_goes_when_its_last_listener_is_removed():
    port1, port2 = MessageChannel()
    port2.onmessage = print
    port2.onmessage = None
    reference = weakref.ref(port2)
    del port2
    gc.collect()
    # A far end's reactor may be about to look at it.
    assert eventually(lambda: reference() is None)
    assert eventually(lambda: port1.closed)


@local("the garbage collector can't see both ends where they may be in two processes")
def test_two_unreachable_ports_that_listen_to_each_other_are_collected():
    port1, port2 = MessageChannel()
    port1.onmessage = port2.onmessage = print
    references = weakref.ref(port1), weakref.ref(port2)
    del port1, port2
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_message_lives_no_longer_than_its_dispatch():
    class Thing:
        pass

    with MessageChannel(copy=False) as (port1, port2):
        port2.add_event_listener("message", lambda event: None)
        port2.start()
        thing = Thing()
        reference = weakref.ref(thing)
        port1.post_message(thing)
        del thing
        settle()
        assert reference() is None


# ---- the end of the interpreter ----


def test_what_was_posted_is_delivered_before_the_interpreter_exits(run_python):
    result = run_python("""
import messagechannel, threading
channel = messagechannel.MessageChannel()
count = []
channel.port2.onmessage = lambda event: (count.append(event.data), event.data == 49_999 and print(len(count)))
for i in range(50_000):
    channel.port1.post_message(i)
""")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "50000", "")


def test_what_listeners_post_at_the_end_is_delivered_too(run_python):
    result = run_python("""
import messagechannel, sys, time
def target(port):
    port.onmessage = lambda event: port.post_message(event.data)
    port.post_message("ready")
worker = messagechannel.Worker(target)
worker.receive()
def listener(event):
    sys.stdout.write(f"<{event.data}")
    time.sleep(0.02)
    sys.stdout.write(">")
worker.onmessage = listener
worker.send_many(range(5))
""")
    assert (result.returncode, result.stdout, result.stderr) == (0, "<0><1><2><3><4>", "")


def test_a_listener_that_posts_to_itself_without_end_does_not_keep_the_interpreter_from_exiting(run_python):
    result = run_python("""
import messagechannel
channel = messagechannel.MessageChannel()
channel.port2.onmessage = lambda event: channel.port1.post_message(event.data)
channel.port1.post_message("x")
print("end")
""")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "end", "")


def test_no_thread_starts_before_a_listener_is_needed(run_python):
    result = run_python("""
import threading, messagechannel
channel = messagechannel.MessageChannel()
channel.port1.post_message("x")
channel.port2.receive()
print(threading.active_count())
""")
    assert result.stdout.strip() == "1"


@pytest.mark.parametrize("number", [1, 1000])
def test_messages_posted_from_within_a_listener_come_after_those_that_waited(channel, number):
    collector = Collector()

    def listener(event):
        if event.data < number:
            channel.port1.post_message(event.data + number)
        collector(event)

    for i in range(number):
        channel.port1.post_message(i)
    channel.port2.onmessage = listener
    assert collector.wait_for(2 * number) == list(range(2 * number))
