"""Sockets, connections and open files as transferables: their descriptor moves to a new object.

That is so in one process as between two. The sender's object is closed, or left without a descriptor, when the message
is posted. On its way the descriptor belongs to a ``Descriptor``, which closes it if nobody receives the message.

For each kind there are an obstacle, a departure and what makes the new object, and for files what has the descriptor
and what makes the next one; see ``register_departing``.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from messagechannel._transfer import register_departing
from messagechannel._wire import Descriptor

if TYPE_CHECKING:
    import socket
    from multiprocessing.connection import Connection

# What __transfer__ returns.
Rebuilder = tuple[Callable[..., object], tuple[object, ...]]
Buffered = io.BufferedReader | io.BufferedWriter | io.BufferedRandom

_CLOSED = "it is closed"
_NO_DESCRIPTOR = "it has no file descriptor"
_BUFFERED = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)


def register(cls: type[Any]) -> None:
    """Make one of the types that this module is about transferable."""
    obstacle, *how = _kinds[cls.__name__]
    register_departing(cls, obstacle if os.name == "posix" else _no_descriptors, *how)


def _no_descriptors(item: object, received: object) -> str:
    return "this platform has no POSIX file descriptors, which alone can be handed on"


# ---- sockets and connections ----


def _socket_obstacle(item: socket.socket, received: object) -> str | None:
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(item, ssl.SSLSocket):
        return "the state of its encryption can't leave this object"
    if item.fileno() < 0:
        return _CLOSED
    if getattr(item, "_io_refs", 0):
        return "a file that its makefile() returned is open; close that first"
    return None


def _depart_socket(item: socket.socket, prepared: None) -> Rebuilder:
    timeout = item.gettimeout()
    return _make_socket, (_owned(item.detach()), int(item.family), int(item.type), item.proto, timeout)


def _make_socket(descriptor: Descriptor, family: int, kind: int, proto: int, timeout: float | None) -> socket.socket:
    import socket

    made = socket.socket(family, kind, proto, descriptor.fd)
    descriptor.detach()
    made.settimeout(timeout)
    return made


def _connection_obstacle(item: Connection, received: object) -> str | None:
    return _CLOSED if item.closed else None


def _depart_connection(item: Any, prepared: None) -> Rebuilder:
    # There is no public way to take the descriptor without closing it.
    descriptor, item._handle = _owned(item._handle), None
    return _make_connection, (descriptor, item.readable, item.writable)


def _make_connection(descriptor: Descriptor, readable: bool, writable: bool) -> Connection:
    from multiprocessing.connection import Connection

    made = Connection(descriptor.fd, readable, writable)
    descriptor.detach()
    return made


def _owned(fd: int) -> Descriptor:
    os.set_inheritable(fd, False)
    return Descriptor(fd)


# ---- files ----


def _raw_file(item: io.FileIO | Buffered | io.TextIOWrapper) -> io.FileIO | None:
    """Return the file that has the descriptor, None where there is none.

    :raises ValueError: for a wrapper whose file was detached.
    """
    if isinstance(item, io.TextIOWrapper):
        buffer: Any = item.buffer
        return _raw_file(buffer) if isinstance(buffer, _BUFFERED) else None
    raw = item.raw if isinstance(item, _BUFFERED) else item
    return raw if isinstance(raw, io.FileIO) else None


def _file_obstacle(item: Any, received: object) -> str | None:
    try:
        raw = _raw_file(item)
    except ValueError as error:
        return str(error)
    if raw is None:
        return _NO_DESCRIPTOR
    if item.closed:
        return _CLOSED
    if isinstance(item, io.TextIOWrapper):
        reason = _text_obstacle(item)
        if reason is not None:
            return reason
    # What can't be written is an error before anything was detached.
    item.flush()
    return None


def _text_obstacle(item: io.TextIOWrapper) -> str | None:
    if item.seekable():
        try:
            item.tell()
        except OSError as error:
            return f"where it stands is not known ({error})"
    elif item.readable():
        try:
            # This is refused once something was read, and changes nothing.
            item.reconfigure(errors=item.errors)
        except io.UnsupportedOperation:
            return "text was read from it, and it can't seek"
    return None


def _duplicate(item: io.FileIO | Buffered | io.TextIOWrapper) -> Descriptor:
    # A FileIO can't let go of its own.
    return Descriptor(os.dup(item.fileno()))


def _depart_file(item: io.FileIO | Buffered | io.TextIOWrapper, descriptor: Descriptor) -> Rebuilder:
    raw = cast("io.FileIO", _raw_file(item))
    position = item.tell() if item.seekable() else None
    name = raw.name if isinstance(raw.name, (str, bytes)) else None
    how: tuple[object, ...] = raw.mode, name, position
    if isinstance(item, io.FileIO):
        item.close()
        return _make_file, (descriptor, *how)
    if isinstance(item, io.TextIOWrapper):
        text = _text_arguments(item, position)
        buffer = cast("Buffered", item.buffer)
        how = raw.mode, name, None
    else:
        text = None
        buffer = item
    ahead = _read_ahead(buffer) if position is None and isinstance(buffer, io.BufferedReader) else b""
    kind = next(cls.__name__ for cls in _BUFFERED if isinstance(buffer, cls))
    item.close()
    arguments = (descriptor, *how, kind, ahead)
    return (_make_buffered, arguments) if text is None else (_make_text, (arguments, *text))


def _read_ahead(reader: io.BufferedReader) -> bytes:
    """Return what was read from a pipe or terminal and not yet asked for."""
    # If that is nothing, peek() reads, and must not wait.
    blocking = os.get_blocking(reader.fileno())
    os.set_blocking(reader.fileno(), False)
    try:
        return reader.peek()
    finally:
        os.set_blocking(reader.fileno(), blocking)


class _Resumed(io.FileIO):
    """A pipe or terminal of which something was read by the former owner: the first read returns that."""

    ahead = b""

    def readinto(self, buffer: Any, /) -> int | None:
        if not self.ahead:
            return super().readinto(buffer)
        ahead, self.ahead = self.ahead, b""
        buffer[: len(ahead)] = ahead
        return len(ahead)


def _make_file(
    descriptor: Descriptor, mode: str, name: str | bytes | None, position: int | None, cls: type[io.FileIO] = io.FileIO
) -> io.FileIO:
    made = cls(descriptor.fd, mode)
    descriptor.detach()
    if name is not None:
        cast("Any", made).name = name
    if position is not None:
        # Opening a file to append to it has moved it.
        made.seek(position)
    return made


def _make_buffered(
    descriptor: Descriptor, mode: str, name: str | bytes | None, position: int | None, kind: str, ahead: bytes
) -> Buffered:
    if not ahead:
        raw = _make_file(descriptor, mode, name, position)
        return cast("Buffered", getattr(io, kind)(raw))
    resumed = cast("_Resumed", _make_file(descriptor, mode, name, position, _Resumed))
    resumed.ahead = ahead
    reader = io.BufferedReader(resumed, max(io.DEFAULT_BUFFER_SIZE, len(ahead)))
    # Now it is in the buffer.
    reader.peek()
    return cast("Buffered", reader)


def _text_arguments(item: io.TextIOWrapper, position: int | None) -> tuple[object, ...]:
    if position is not None:
        # So that it holds no text any more.
        item.seek(position)
    mode = item.__dict__.get("mode")
    return position, item.encoding, item.errors, _newline(item), item.line_buffering, item.write_through, mode


def _newline(item: io.TextIOWrapper) -> str | None:
    """Return what was said for `newline` when a file was opened, which it does not tell."""
    # Of the strings that it holds, one alone can be this.
    said = [held for held in gc.get_referents(item) if type(held) is str and held in ("", "\n", "\r", "\r\n")]
    return said[0] if said else None


def _make_text(
    arguments: tuple[Any, ...],
    position: int | None,
    encoding: str,
    errors: str,
    newline: str | None,
    line_buffering: bool,
    write_through: bool,
    mode: str | None,
) -> io.TextIOWrapper:
    buffer = _make_buffered(*arguments)
    try:
        made = io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering, write_through)
    except BaseException:
        # The receiver may have no such encoding.
        buffer.close()
        raise
    if mode is not None:
        cast("Any", made).mode = mode
    if position is not None:
        made.seek(position)
    return made


_files = _file_obstacle, _depart_file, _raw_file, _duplicate
_kinds: dict[str, tuple[Any, ...]] = {
    "socket": (_socket_obstacle, _depart_socket),
    "Connection": (_connection_obstacle, _depart_connection),
    "FileIO": _files,
    "BufferedReader": _files,
    "BufferedWriter": _files,
    "BufferedRandom": _files,
    "TextIOWrapper": _files,
}
