"""Numbers and bytes, one after the other: how a process tells another one of a port that comes.

A number is 8 bytes, and bytes have their length before them. Reading makes nothing larger than what it was given,
whatever that says.
"""

from __future__ import annotations

NUMBER = 8


class Fields:
    """What is being written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def numbers(self, *numbers: int) -> None:
        """Add numbers from 0 to 2**64 - 1."""
        self._parts += [number.to_bytes(NUMBER, "little") for number in numbers]

    def block(self, content: bytes) -> None:
        """Add bytes."""
        self.numbers(len(content))
        self._parts.append(content)

    def join(self) -> bytes:
        """Return all of it."""
        return b"".join(self._parts)


class Reader:
    """What is being read; a ValueError tells of what can't be."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._offset = 0

    def number(self, most: int) -> int:
        """Return the number that is next, which is to be from 0 to `most`."""
        number = int.from_bytes(self._bytes(NUMBER), "little")
        if number > most:
            raise ValueError(f"{number} should be a number from 0 to {most}")
        return number

    def block(self) -> bytes:
        """Return the bytes that are next."""
        return self._bytes(self.number(len(self._content)))

    def at_end(self) -> bool:
        """Tell whether all was read."""
        return self._offset == len(self._content)

    def _bytes(self, length: int) -> bytes:
        end = self._offset + length
        if end > len(self._content):
            raise ValueError("it was cut off")
        content = self._content[self._offset : end]
        self._offset = end
        return content
