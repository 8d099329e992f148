from collections.abc import Callable, Iterable
from types import GenericAlias
from typing import Any, Generic, overload

from typing_extensions import TypeVar, disjoint_base

from messagechannel._core import MessagePort

_T = TypeVar("_T", default=Any)
_E = TypeVar("_E", bound=Event)

@disjoint_base
class Event:
    def __init__(self, type: str, *, cancelable: bool = False) -> None: ...
    @property
    def type(self) -> str: ...
    @property
    def target(self) -> EventTarget | None: ...
    @property
    def current_target(self) -> EventTarget | None: ...
    @property
    def is_trusted(self) -> bool: ...
    @property
    def cancelable(self) -> bool: ...
    @property
    def default_prevented(self) -> bool: ...
    def prevent_default(self) -> None: ...
    def stop_immediate_propagation(self) -> None: ...

@disjoint_base
class MessageEvent(Event, Generic[_T]):
    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...
    @overload
    def __init__(
        self: MessageEvent[None],
        type: str,
        *,
        data: None = None,
        origin: str = "",
        last_event_id: str = "",
        source: EventTarget | None = None,
        ports: Iterable[EventTarget] = (),
    ) -> None: ...
    @overload
    def __init__(
        self,
        type: str,
        *,
        data: _T,
        origin: str = "",
        last_event_id: str = "",
        source: EventTarget | None = None,
        ports: Iterable[EventTarget] = (),
    ) -> None: ...
    @property
    def data(self) -> _T: ...
    @property
    def origin(self) -> str: ...
    @property
    def last_event_id(self) -> str: ...
    @property
    def source(self) -> EventTarget | None: ...
    @property
    def ports(self) -> tuple[MessagePort[Any], ...]: ...

class ErrorEvent(Event):
    message: str
    error: BaseException | None
    traceback: str
    def __init__(
        self, type: str, *, message: str = "", error: BaseException | None = None, traceback: str = ""
    ) -> None: ...

@disjoint_base
class EventTarget:
    def add_event_listener(self, type: str, listener: Callable[[_E], object], *, once: bool = False) -> None: ...
    def remove_event_listener(self, type: str, listener: Callable[[Any], object]) -> None: ...
    def dispatch_event(self, event: Event, /) -> bool: ...

def get_handler(target: EventTarget, type: str) -> Callable[[Any], object] | None: ...
def set_handler(target: EventTarget, type: str, handler: Callable[[Any], object] | None) -> None: ...
