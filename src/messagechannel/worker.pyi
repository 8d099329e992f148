from collections.abc import Callable
from typing import Any, Literal

from typing_extensions import Self, TypeVar, TypeVarTuple, Unpack

from messagechannel._core import MessagePort
from messagechannel._events import ErrorEvent

EXIT_PATIENCE: float
JOIN_SECONDS: float
KINDS: tuple[str, ...]

_T = TypeVar("_T", default=Any)
_Arguments = TypeVarTuple("_Arguments")

class Worker(MessagePort[_T]):
    onerror: Callable[[ErrorEvent], object] | None
    def __new__(
        cls,
        target: Callable[[MessagePort[_T], Unpack[_Arguments]], object],
        /,
        *args: Unpack[_Arguments],
        kind: Literal["thread", "process"] = "thread",
        name: str | None = None,
        start_method: Literal["spawn", "forkserver", "fork"] | None = None,
    ) -> Self: ...
    def __init__(
        self,
        target: Callable[[MessagePort[_T], Unpack[_Arguments]], object],
        /,
        *args: Unpack[_Arguments],
        kind: Literal["thread", "process"] = "thread",
        name: str | None = None,
        start_method: Literal["spawn", "forkserver", "fork"] | None = None,
    ) -> None: ...
    @property
    def port(self) -> MessagePort[_T]: ...
    @property
    def name(self) -> str: ...
    @property
    def exitcode(self) -> int | None: ...
    def is_alive(self) -> bool: ...
    def join(self, timeout: float | None = None) -> None: ...
    def terminate(self) -> None: ...

def close_workers() -> None: ...
