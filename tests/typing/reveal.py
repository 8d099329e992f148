"""Read by mypy alone: what a type checker makes of the public names.

`type: ignore` marks what it refuses; one that is not needed is an error.
"""

from typing import Any

from typing_extensions import assert_type

from messagechannel import (
    ErrorEvent,
    Event,
    MessageChannel,
    MessageEvent,
    MessagePort,
    PortStatistics,
    SharedBuffer,
    Worker,
    structured_clone,
    wait,
)

channel = MessageChannel[str](capacity=3)
port1, port2 = channel
assert_type(channel.port1, MessagePort[str])
assert_type(port1, MessagePort[str])
assert_type(port1.receive(), str)
assert_type(port1.receive_nowait(), str)
assert_type(port1.receive_many(), list[str])
assert_type(port1.receive_event(), MessageEvent[str])
assert_type(port1.receive_event().data, str)
assert_type(port1.receive_event().ports, tuple[MessagePort[Any], ...])
assert_type(list(port2), list[str])
assert_type(port1.statistics(), PortStatistics)
assert_type(structured_clone([1]), list[int])
assert_type(structured_clone(SharedBuffer(10)), SharedBuffer)
assert_type(SharedBuffer(10).nbytes, int)
memoryview(SharedBuffer(10))
SharedBuffer("10")  # type: ignore[arg-type]
assert_type(wait([port1, port2], timeout=0.5), list[MessagePort[str]])
port1.post_message("text", transfer=(port for port in [port2]))
port1.post_message("text", transfer=None)
port1.post_message(b"bytes")  # type: ignore[arg-type]
port1.send_many([1, 2])  # type: ignore[list-item]
channel.port1 = port2  # type: ignore[misc]
MessageChannel(3)  # type: ignore[call-arg]

with port1 as entered:
    assert_type(entered, MessagePort[str])
with MessageChannel[int]() as pair:
    assert_type(pair, MessageChannel[int])

# Without an argument anything can be posted.
anything = MessageChannel()
assert_type(anything.port1.receive(), Any)

assert_type(MessageEvent("message").data, None)
assert_type(MessageEvent("message", data=3).data, int)


async def tasks(port: MessagePort[int]) -> None:
    """Awaitables and asynchronous iteration keep the message's type."""
    assert_type(await port.areceive(), int)
    assert_type(await port.areceive_many(3), list[int])
    assert_type([message async for message in port], list[int])
    await port.asend("text")  # type: ignore[arg-type]


def on_text(event: MessageEvent[str]) -> None:
    """Listen for messages that are texts."""


def on_number(event: MessageEvent[int]) -> None:
    """Listen for messages that are numbers."""


def on_event(event: Event) -> None:
    """Listen for any event."""


def on_error(event: ErrorEvent) -> None:
    """Listen for errors."""


port1.onmessage = on_text
port1.onmessage = on_event
port1.onmessage = lambda event: event.data.upper()
port1.onmessage = on_number  # type: ignore[assignment]
port1.onmessage = None
port1.onclose = on_event
port1.onclose = on_text  # type: ignore[assignment]
port1.add_event_listener("message", on_text, once=True)
port1.add_event_listener("message", lambda event: event.data.upper())
port1.add_event_listener("close", on_event)
port1.add_event_listener("close", print)
port1.add_event_listener("close", str.upper)  # type: ignore[type-var]


def target(port: MessagePort[bytes], times: int) -> None:
    """Run by a Worker."""


worker = Worker(target, 3, name="target")
assert_type(worker, Worker[bytes])
assert_type(worker.receive(), bytes)
assert_type(worker.port, MessagePort[bytes])
assert_type(worker.is_alive(), bool)
worker.onerror = on_error
worker.add_event_listener("error", on_error)
Worker(target, "three")  # type: ignore[arg-type]
Worker(target)  # type: ignore[arg-type]
Worker(target, 3, kind="fibre")  # type: ignore[arg-type]
