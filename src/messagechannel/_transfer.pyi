from collections.abc import Callable, Iterable
from typing import Any, TypeVar, final

_T = TypeVar("_T")

class DataCloneError(ValueError):
    path: str
    def __init__(self, message: str, path: str = "$") -> None: ...

@final
class Transfer:
    @property
    def items(self) -> list[Any]: ...
    @property
    def received(self) -> list[Any]: ...
    @property
    def deferred(self) -> bool: ...
    def __init__(self, transfer: Iterable[object], source: object = None) -> None: ...
    def place_of(self, item: object) -> int | None: ...
    def check(self) -> None: ...
    def detach(self) -> None: ...

@final
class Kind: ...

def register_storage(
    cls: type[_T],
    receiver: Callable[[_T], _T],
    obstacle: Callable[[_T, _T], str | None],
    swap: Callable[[_T, _T], None],
) -> None: ...
def register_handles(
    cls: type[_T],
    receiver: Callable[[_T], _T],
    obstacle: Callable[[_T, _T], str | None],
    hand_over: Callable[[list[Any], list[Any]], bool],
    settle: Callable[[_T, _T], None],
) -> None: ...
def register_departing(
    cls: type[_T],
    obstacle: Callable[[_T, _T], str | None],
    depart: Callable[[_T, Any], tuple[Callable[..., object], tuple[object, ...]]],
    holder: Callable[[_T], object] | None = None,
    prepare: Callable[[_T], object] | None = None,
) -> None: ...
