"""Ports that were never transferred and were started in one context are dispatched in global posting order.

A port whose other end is far was transferred: there is no order over several of those, so the channels here are local.
"""

import asyncio
import random
import threading

import pytest

from loops import ASYNCIO_LOOPS, Collector, run
from messagechannel import MessageChannel


class Tagged:
    """A listener that notes the name of its port with each message."""

    def __init__(self, name, collector):
        self.name, self.collector = name, collector

    def __call__(self, event):
        self.collector.events.append(event)
        with self.collector._changed:
            self.collector.data.append((self.name, event.data))
            self.collector._changed.notify_all()


def dispatched(context, prepare, number):
    """Call `prepare(collector)` in the context, and return what `number` listener calls collected."""
    collector = Collector()
    if context == "dispatcher":
        prepare(collector)
        return collector.wait_for(number)

    async def main(tasks):
        prepare(collector)
        return await collector.turn_until(number, tasks)

    return run(context, main)


on_every_context = pytest.mark.parametrize("context", ["dispatcher", *ASYNCIO_LOOPS])


@on_every_context
def test_messages_on_two_ports_alternate_as_posted(context):
    one, two = MessageChannel(), MessageChannel()

    def prepare(collector):
        one.port2.onmessage = Tagged("one", collector)
        two.port2.onmessage = Tagged("two", collector)
        for i in range(100):
            one.port1.post_message(i)
            two.port1.post_message(i)

    assert dispatched(context, prepare, 200) == [(name, i) for i in range(100) for name in ("one", "two")]


@on_every_context
def test_messages_on_many_ports_come_in_the_order_of_posting(context):
    channels = [MessageChannel() for _ in range(20)]
    posted = [random.Random(7).randrange(20) for _ in range(3000)]

    def prepare(collector):
        for name, channel in enumerate(channels):
            channel.port2.onmessage = Tagged(name, collector)
        for i, name in enumerate(posted):
            channels[name].port1.post_message(i)

    assert dispatched(context, prepare, 3000) == [(name, i) for i, name in enumerate(posted)]


@on_every_context
def test_both_ports_of_one_channel_are_in_order_too(context, channel):
    def prepare(collector):
        channel.port1.onmessage = Tagged("port1", collector)
        channel.port2.onmessage = Tagged("port2", collector)
        for i in range(50):
            channel.port2.post_message(i)
            channel.port1.post_message(i)

    assert dispatched(context, prepare, 100) == [(name, i) for i in range(50) for name in ("port1", "port2")]


@on_every_context
def test_messages_that_waited_before_the_start_come_port_by_port_in_the_order_of_the_starts(context):
    one, two = MessageChannel(), MessageChannel()

    def prepare(collector):
        for i in range(3):
            one.port1.post_message(i)
            two.port1.post_message(i)
        one.port2.onmessage = Tagged("one", collector)
        two.port2.onmessage = Tagged("two", collector)

    if context == "dispatcher":
        # The dispatcher thread may run between the two starts; it must not here.
        one.port2.onmessage = print
        one.port2.onmessage = None
        blocked, go = threading.Event(), threading.Event()
        blocker = MessageChannel()
        blocker.port2.onmessage = lambda event: (blocked.set(), go.wait())
        blocker.port1.post_message(None)
        blocked.wait()
        inner = prepare

        def prepare(collector):
            inner(collector)
            go.set()

    assert dispatched(context, prepare, 6) == [(name, i) for name in ("one", "two") for i in range(3)]


@on_every_context
def test_messages_that_waited_come_before_those_posted_after_the_start(context):
    one, two = MessageChannel(), MessageChannel()

    def prepare(collector):
        two.port2.onmessage = Tagged("two", collector)
        one.port1.post_message(0)
        one.port1.post_message(1)
        one.port2.onmessage = Tagged("one", collector)
        two.port1.post_message(2)
        one.port1.post_message(3)

    assert dispatched(context, prepare, 4) == [("one", 0), ("one", 1), ("two", 2), ("one", 3)]


@on_every_context
def test_messages_posted_from_within_listeners_come_in_the_order_of_posting(context):
    beginning, one, two = MessageChannel(), MessageChannel(), MessageChannel()

    def prepare(collector):
        note = Tagged("one", collector)

        def begin(_event):
            # In the context itself, lest it deals with the first before the second is posted.
            one.port1.post_message(0)
            one.port1.post_message(10)

        def forward(event):
            note(event)
            two.port1.post_message(event.data)
            if event.data < 3:
                one.port1.post_message(event.data + 1)

        one.port2.onmessage = forward
        two.port2.onmessage = Tagged("two", collector)
        beginning.port2.onmessage = begin
        beginning.port1.post_message("go")

    assert dispatched(context, prepare, 10) == [
        ("one", 0),
        ("one", 10),
        ("two", 0),
        ("one", 1),
        ("two", 10),
        ("two", 1),
        ("one", 2),
        ("two", 2),
        ("one", 3),
        ("two", 3),
    ]


@on_every_context
def test_a_batch_keeps_its_place(context):
    one, two = MessageChannel(), MessageChannel()

    def prepare(collector):
        one.port2.onmessage = Tagged("one", collector)
        two.port2.onmessage = Tagged("two", collector)
        two.port1.post_message("before")
        one.port1.send_many(range(600))
        two.port1.post_message("after")

    assert dispatched(context, prepare, 602) == [("two", "before"), *(("one", i) for i in range(600)), ("two", "after")]


@on_every_context
def test_a_message_that_was_received_directly_leaves_the_order_of_the_others(context):
    one, two = MessageChannel(), MessageChannel()
    received = []

    def prepare(collector):
        blocker = MessageChannel()

        def in_context(event):
            # While this listener runs, no other does.
            one.port1.post_message(0)
            received.append(one.port2.receive_nowait())
            two.port1.post_message(1)
            one.port1.post_message(2)

        one.port2.onmessage = Tagged("one", collector)
        two.port2.onmessage = Tagged("two", collector)
        blocker.port2.onmessage = in_context
        blocker.port1.post_message(None)
        collector.keep = blocker

    assert dispatched(context, prepare, 2) == [("two", 1), ("one", 2)]
    assert received == [0]


@on_every_context
def test_order_holds_when_an_exception_is_raised_in_between(context, monkeypatch):
    one, two = MessageChannel(), MessageChannel()
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: None)

    def prepare(collector):
        if context != "dispatcher":
            asyncio.get_running_loop().set_exception_handler(lambda loop, details: None)
        note = Tagged("one", collector)

        def broken(event):
            note(event)
            raise ValueError

        one.port2.onmessage = broken
        two.port2.onmessage = Tagged("two", collector)
        for i in range(10):
            one.port1.post_message(i)
            two.port1.post_message(i)

    assert dispatched(context, prepare, 20) == [(name, i) for i in range(10) for name in ("one", "two")]


@on_every_context
def test_the_close_event_keeps_the_order_of_its_own_port(context):
    one, two = MessageChannel(), MessageChannel()

    def prepare(collector):
        one.port2.onmessage = collector
        one.port2.onclose = collector
        two.port2.onmessage = collector
        for i in range(5):
            one.port1.post_message(i)
        one.port1.close()
        two.port1.post_message("after")

    data = dispatched(context, prepare, 7)
    assert [item for item in data if item != "after"] == [0, 1, 2, 3, 4, "close"]
