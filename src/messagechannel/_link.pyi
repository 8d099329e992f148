from collections.abc import Callable, Iterable
from typing import Any, final

from typing_extensions import disjoint_base

from messagechannel._transport import Envelope, Sealed, Transport
from messagechannel._wire import Descriptor

TAKING_SECONDS: float

@final
class Letter(Sealed):
    @staticmethod
    def make(tag: int, payload: bytes, descriptors: list[Descriptor]) -> Letter: ...
    def as_tuple(self) -> tuple[int, bytes, list[Descriptor]]: ...

@final
class Lent: ...

@final
class Dispatch: ...

@disjoint_base
class Link(Transport):
    def sent(self) -> int: ...

def set_travel(
    depart: Callable[[Any], tuple[bytes, list[Descriptor]]],
    arrive: Callable[[bytes, list[Descriptor]], Any],
    links_for: Callable[[object], int],
) -> None: ...
def letter_of(
    envelope: Envelope, depart: Callable[[Any], tuple[bytes, list[Descriptor]]]
) -> tuple[int, bytes, list[Descriptor]]: ...
def reserve_descriptors(count: int) -> list[Descriptor]: ...
def reserve_for(items: Iterable[object], more: int) -> list[Descriptor]: ...
