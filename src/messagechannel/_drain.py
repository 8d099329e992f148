"""The other end of the demo's measurement; processes do not import ``__main__`` of a package, so it is not there."""

from __future__ import annotations

from messagechannel import MessagePort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def drain(port: MessagePort[Any]) -> None:
    """Receive numbers in order by the port that comes first, and tell how many there were."""
    channel_port = port.receive_event().ports[0]
    expected = 0
    for number in channel_port:
        assert number == expected, f"message {number} arrived where {expected} was due"
        expected += 1
    port.post_message(expected)
