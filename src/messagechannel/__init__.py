"""The web's Channel Messaging API for Python: message channels with transferable ports, on a lock-free ring in C."""

from messagechannel._clone import structured_clone
from messagechannel._core import ChannelClosedError, MessageChannel, MessagePort, PortStatistics, wait
from messagechannel._events import ErrorEvent, Event, EventTarget, MessageEvent
from messagechannel._transfer import DataCloneError
from messagechannel._wire import SharedBuffer
from messagechannel.worker import Worker

__all__ = [
    "ChannelClosedError",
    "DataCloneError",
    "ErrorEvent",
    "Event",
    "EventTarget",
    "MessageChannel",
    "MessageEvent",
    "MessagePort",
    "PortStatistics",
    "SharedBuffer",
    "Worker",
    "structured_clone",
    "wait",
]

structured_clone.__module__ = wait.__module__ = __name__
