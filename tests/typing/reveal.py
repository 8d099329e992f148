"""Read by mypy alone: what a type checker makes of the public names."""

from typing_extensions import assert_type

from messagechannel import MessageChannel, MessageEvent, MessagePort, Worker, structured_clone, wait

channel = MessageChannel[str](capacity=3)
port1, port2 = channel
assert_type(port1, MessagePort[str])
assert_type(port1.receive(), str)
assert_type(port1.receive_many(), list[str])
assert_type(port1.receive_event(), MessageEvent[str])
assert_type(port1.receive_event().data, str)
assert_type(structured_clone([1]), list[int])
assert_type(wait([port1])[0].closed, bool)
assert_type(list(port2), list[str])


async def tasks(port: MessagePort[int]) -> None:
    """Awaitables and asynchronous iteration keep the message's type."""
    assert_type(await port.areceive(), int)
    assert_type(await port.areceive_many(3), list[int])
    assert_type([message async for message in port], list[int])


def target(port: MessagePort[bytes], times: int) -> None:
    """Run by a Worker."""


assert_type(Worker(target, 3).is_alive(), bool)
