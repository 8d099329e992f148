from typing_extensions import disjoint_base

@disjoint_base
class Sealed: ...

@disjoint_base
class Envelope: ...

@disjoint_base
class Transport:
    @property
    def mischief(self) -> str | None: ...
