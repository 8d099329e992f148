from collections.abc import Iterable
from typing import Any, TypeVar

from typing_extensions import disjoint_base

from messagechannel._transfer import Transfer

_T = TypeVar("_T")

@disjoint_base
class Serialized:
    @property
    def transfer(self) -> Transfer: ...
    def deserialize(self) -> Any: ...

def clone(value: _T, transfer: Transfer | None) -> _T: ...
def serialize(value: object, transfer: Transfer) -> Serialized: ...
def structured_clone(value: _T, *, transfer: Iterable[object] | None = ()) -> _T: ...
