"""Sockets, connections and open files: transferred in one process, and packed for another."""
# ruff: noqa: SIM115 - files are opened here for others to close.

import array
import asyncio
import codecs
import contextlib
import fcntl
import gc
import io
import multiprocessing
import os
import socket
import ssl
import sys
import tempfile
import threading

import pytest

from messagechannel import DataCloneError, MessageChannel, structured_clone
from test_wire import sent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no descriptors")

CONTENT = b"".join(b"line %d\n" % number for number in range(5000))


def in_one_process(item):
    return structured_clone([item, {"again": item}], transfer=[item])


def between_two(item):
    return sent([item, {"again": item}], [item])


@pytest.fixture(params=[in_one_process, between_two], ids=["in one process", "between two"])
def move(request):
    """Transfer an object and return what takes over."""

    def move(item):
        received = request.param(item)
        assert received[0] is received[1]["again"]
        assert not os.get_inheritable(received[0].fileno())
        return received[0]

    return move


@pytest.fixture(autouse=True)
def _nothing_is_left_open():
    before = len(os.listdir("/dev/fd"))
    yield
    if len(os.listdir("/dev/fd")) > before:
        gc.collect()
        assert len(os.listdir("/dev/fd")) <= before


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def pipe(mode="rb", **keywords):
    """Return the reading end of a pipe as a file, and the writing end as a raw one."""
    ends = os.pipe()
    return open(ends[0], mode, **keywords), open(ends[1], "wb", buffering=0)


# ---- sockets ----


def test_a_socket_moves(move, pair):
    mine, other = pair
    with move(mine) as received:
        assert type(received) is socket.socket
        assert mine.fileno() == -1
        other.sendall(b"to")
        received.sendall(b"from")
        assert received.recv(10) == b"to"
        assert other.recv(10) == b"from"


@pytest.mark.parametrize("timeout", [None, 0.0, 1.5])
def test_a_socket_keeps_its_timeout(move, pair, timeout):
    pair[0].settimeout(timeout)
    socket.setdefaulttimeout(7)
    try:
        with move(pair[0]) as received:
            assert received.gettimeout() == timeout
            assert os.get_blocking(received.fileno()) == (timeout is None)
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_keeps_its_family_type_and_protocol(move, family, kind):
    try:
        made = socket.socket(family, kind)
    except OSError:
        pytest.skip("no such sockets here")
    facts = made.family, made.type, made.proto
    with move(made) as received:
        assert (received.family, received.type, received.proto) == facts
        assert type(received.family) is socket.AddressFamily


def test_a_listening_socket_goes_on_listening(move):
    with (
        move(socket.create_server(("127.0.0.1", 0))) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"


def test_a_socket_that_executed_programs_were_to_inherit_is_not_inherited_by_theirs(move, pair):
    pair[0].set_inheritable(True)
    move(pair[0]).close()


def test_a_subclass_of_a_socket_arrives_as_a_socket(move, pair):
    class Sub(socket.socket):
        pass

    item = Sub(fileno=pair[0].detach())
    with move(item) as received:
        assert type(received) is socket.socket


def test_a_subclass_that_has_a_transfer_method_is_asked(pair):
    class Sub(socket.socket):
        def __transfer__(self):
            self.close()
            return str, ("asked",)

    item = Sub(fileno=pair[0].detach())
    assert structured_clone(item, transfer=[item]) == "asked"


def test_a_socket_of_a_loop_may_move(move):
    async def main():
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            client = socket.socket()
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, server.sockets[0].getsockname())
            with move(client) as received:
                return await asyncio.get_running_loop().sock_recv(received, 10)

    assert asyncio.run(asyncio.wait_for(main(), 10)) == b""


def test_a_socket_that_speaks_tls_is_refused(pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with context.wrap_socket(pair[0], server_hostname="x", do_handshake_on_connect=False) as item:
        with pytest.raises(DataCloneError, match="this SSLSocket can't be transferred: the state of its encryption"):
            structured_clone(item, transfer=[item])
        assert item.fileno() >= 0


def test_a_socket_of_which_a_file_is_open_is_refused(pair, move):
    file = pair[0].makefile("rb")
    with pytest.raises(DataCloneError, match="makefile"):
        move(pair[0])
    file.close()
    move(pair[0]).close()


# ---- connections ----


@pytest.mark.parametrize("duplex", [True, False])
def test_a_connection_moves(move, duplex):
    reader, writer = multiprocessing.Pipe(duplex)
    writer.send("before")
    facts = reader.readable, reader.writable
    received = move(reader)
    assert reader.closed
    with received, writer:
        assert type(received) is type(writer)
        assert (received.readable, received.writable) == facts
        writer.send(["after"])
        assert (received.recv(), received.recv()) == ("before", ["after"])


# ---- files ----

OPENED = {
    "FileIO": {"mode": "rb", "buffering": 0},
    "BufferedReader": {"mode": "rb"},
    "BufferedRandom": {"mode": "rb+"},
    "TextIOWrapper": {"mode": "r", "encoding": "ascii"},
    "TextIOWrapper to be written, too": {"mode": "r+", "encoding": "ascii"},
}
every_reader = pytest.mark.parametrize("how", OPENED.values(), ids=OPENED)


@every_reader
@pytest.mark.parametrize("lines", [0, 1, 700])
def test_a_file_is_read_on_where_its_reader_stands(move, path, how, lines):
    with open(path, **how) as file, open(path, **how) as model:
        for _ in range(lines):
            file.readline()
            model.readline()
        with move(file) as received:
            assert type(received) is type(model)
            assert file.closed
            assert received.readline() == model.readline()
            assert received.tell() == model.tell()
            assert received.read() == model.read()
            received.seek(0)
            model.seek(0)
            assert received.readline() == model.readline()


@every_reader
def test_a_file_keeps_its_name_and_mode(move, path, how):
    with open(path, **how) as file:
        facts = file.name, file.mode
        with move(file) as received:
            assert (received.name, received.mode) == facts


def test_a_name_in_bytes_is_kept_and_a_number_is_not(move, path):
    with move(open(os.fsencode(path), "rb")) as received:
        assert received.name == os.fsencode(path)
    with move(open(os.open(path, os.O_RDONLY), "rb")) as received:
        assert received.name == received.fileno()


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("mode", ["wb", "wb+", "ab", "ab+", "xb", "rb+"])
def test_what_was_written_is_there_and_writing_goes_on(move, tmp_path, mode, buffering):
    path = tmp_path / "file"
    if "x" not in mode:
        path.write_bytes(b"0123456789")
    with open(path, mode, buffering=buffering) as file:
        file.write(b"abc")
        position = file.tell()
        with move(file) as received:
            assert received.mode == file.mode if buffering else received.mode
            assert received.tell() == position
            received.write(b"def")
    start = {"w": b"", "a": b"0123456789", "x": b"", "r": b""}[mode[0]]
    assert path.read_bytes() == start + b"abcdef" + (b"6789" if mode == "rb+" else b"")


def test_a_file_to_be_read_and_written_stands_where_it_stood(move, path):
    with open(path, "rb+") as file:
        file.readline()
        file.write(b"LINE")
        with move(file) as received:
            assert received.readline() == b" 1\n"
            received.write(b"Line")
            received.seek(0)
            assert [received.readline() for _ in range(3)] == [b"line 0\n", b"LINE 1\n", b"Line 2\n"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "latin-1", "shift_jis", "utf-7"])
@pytest.mark.parametrize("characters", [0, 1, 5, 9000])
def test_text_is_read_on_between_any_two_characters(move, tmp_path, encoding, characters):
    path = tmp_path / "file"
    text = "aあb漢\nc" * 4000 if encoding != "latin-1" else "aéb\nc" * 4000
    path.write_text(text, encoding=encoding)
    with open(path, encoding=encoding) as file:
        assert file.read(characters) == text[:characters]
        with move(file) as received:
            assert received.read() == text[characters:]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("mode", ["w", "a", "w+", "a+"])
def test_text_is_written_on(move, tmp_path, encoding, mode):
    path = tmp_path / "file"
    with open(path, mode, encoding=encoding) as file:
        file.write("eins é\n")
        with move(file) as received:
            received.write("zwei é\n")
    assert path.read_text(encoding=encoding) == "eins é\nzwei é\n"


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
def test_text_keeps_what_ends_a_line(move, tmp_path, newline):
    path = tmp_path / "file"
    path.write_bytes(b"one\r\ntwo\rthree\nfour\r\n\r\n\n\r" * 1000)
    with open(path, "r+", newline=newline) as file, open(path, "r+", newline=newline) as model:
        for _ in range(3):
            assert file.readline() == model.readline()
        with move(file) as received:
            assert received.readlines() == model.readlines()
            received.seek(0, io.SEEK_END)
            model.seek(0, io.SEEK_END)
            start = received.tell()
            received.write("a\nb")
            received.flush()
            written = path.read_bytes()[start:]
            model.write("a\nb")
            model.flush()
            assert path.read_bytes()[start:] == written


def test_text_keeps_how_it_treats_errors_and_when_it_writes(move, path):
    path.write_bytes(b"a\xff")
    raw = open(path, "rb+")
    file = io.TextIOWrapper(raw, "ascii", "surrogateescape", line_buffering=True, write_through=True)
    with move(file) as received:
        assert (received.encoding, received.errors) == ("ascii", "surrogateescape")
        assert received.line_buffering
        assert received.write_through
        assert received.read() == "a\udcff"
    assert raw.closed


def test_an_encoding_that_is_none_any_more_is_an_error_of_the_receiver(move, path):
    def search(name):
        return codecs.lookup("ascii") if name == "passing" else None

    codecs.register(search)
    file = open(path, encoding="passing")
    codecs.unregister(search)
    with pytest.raises(LookupError, match="passing"):
        move(file)


def test_a_lock_on_an_open_file_is_kept(move, path):
    with open(path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with move(file), open(path, "rb+") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(path, "rb+") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---- pipes ----


@pytest.mark.parametrize("buffering", [0, -1, 3, 100_000])
def test_what_was_read_ahead_from_a_pipe_is_read_by_the_receiver(move, buffering):
    reader, writer = pipe(buffering=buffering)
    with writer:
        writer.write(b"first\nsecond\nthi")
        assert reader.readline() == b"first\n"
        for _ in range(2):
            reader = move(reader)
        writer.write(b"rd\nend")
    with reader:
        assert os.get_blocking(reader.fileno())
        assert [reader.readline(), reader.readline(), reader.read()] == [b"second\n", b"third\n", b"end"]


def test_a_pipe_that_was_not_read_moves_without_waiting(move):
    reader, writer = pipe()
    with writer, move(reader) as received:
        writer.write(b"x")
        assert received.read(1) == b"x"


def test_a_pipe_at_its_end_moves(move):
    reader, writer = pipe()
    writer.write(b"rest")
    writer.close()
    reader.peek()
    with move(reader) as received:
        assert received.read() == b"rest"
    reader, writer = pipe()
    writer.close()
    with move(reader) as received:
        assert received.read() == b""


def test_the_writing_end_of_a_pipe_moves(move):
    ends = os.pipe()
    with open(ends[0], "rb") as reader:
        writer = open(ends[1], "w", encoding="ascii")
        writer.write("before ")
        with move(writer) as received:
            received.write("after")
        assert reader.read() == b"before after"


def test_text_of_a_pipe_moves_before_it_is_read(move):
    reader, writer = pipe("r", encoding="ascii", newline="\r\n")
    with writer, move(reader) as received:
        writer.write(b"a\nb\r\nc")
        assert received.readline() == "a\nb\r\n"


def test_text_of_a_pipe_that_was_read_is_refused(move):
    reader, writer = pipe("r")
    with reader, writer:
        writer.write(b"a\nb\n")
        assert reader.readline() == "a\n"
        with pytest.raises(DataCloneError, match="text was read from it, and it can't seek"):
            move(reader)
        assert reader.readline() == "b\n"


# ---- what is refused ----


def closed(made):
    made.close()
    return made


def detached(wrapper, made):
    wrapper.detach().close() if made is None else wrapper.detach()
    return wrapper


OBSTACLES = {
    "closed socket": (lambda: closed(socket.socket()), "this socket can't be transferred: it is closed"),
    "closed connection": (lambda: closed_connection(), "this Connection can't be transferred: it is closed"),
    "closed raw file": (lambda: closed(open(os.devnull, "rb", buffering=0)), "it is closed"),
    "closed file": (lambda: closed(open(os.devnull, "rb")), "it is closed"),
    "closed text": (lambda: closed(open(os.devnull)), "it is closed"),
    "detached file": (lambda: detached(open(os.devnull, "rb"), None), "this BufferedReader can't be transferred: "),
    "detached text": (lambda: detached(open(os.devnull), None), "this TextIOWrapper can't be transferred: "),
    "text in memory": (lambda: io.TextIOWrapper(io.BytesIO()), "it has no file descriptor"),
    "reader of memory": (lambda: io.BufferedReader(io.BytesIO()), "it has no file descriptor"),
    "bytes in memory": (io.BytesIO, "a BytesIO can't be transferred, only"),
    "string in memory": (io.StringIO, "a StringIO can't be transferred, only"),
}


def closed_connection():
    ends = multiprocessing.Pipe()
    ends[1].close()
    return closed(ends[0])


@pytest.mark.parametrize(("make", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_has_no_descriptor_is_refused_before_anything_is_detached(pair, make, reason):
    storage = bytearray(b"stays")
    with pytest.raises(DataCloneError, match=reason) as caught:
        structured_clone("message", transfer=[storage, pair[0], make()])
    assert caught.value.path == "transfer[2]"
    assert storage == b"stays"
    assert pair[0].fileno() >= 0


def test_text_that_is_iterated_over_is_refused(path):
    with open(path) as file:
        next(file)
        with pytest.raises(DataCloneError, match=r"where it stands is not known .*next"):
            structured_clone(file, transfer=[file])
        assert file.readline() == "line 1\n"


def test_what_cannot_be_written_is_raised_before_anything_is_detached(pair):
    full = open("/dev/full", "wb")
    full.write(b"x")
    with pytest.raises(OSError, match="No space left"):
        structured_clone(full, transfer=[pair[0], full])
    assert not full.closed
    assert pair[0].fileno() >= 0
    with contextlib.suppress(OSError):
        full.close()


class Stubborn:
    def __transfer__(self):
        raise LookupError("no")


ALIASES = {
    "text and its buffer": (lambda path: open(path), lambda file: file.buffer),
    "text and its raw file": (lambda path: open(path), lambda file: file.buffer.raw),
    "a buffer and its raw file": (lambda path: open(path, "rb"), lambda file: file.raw),
    "two buffers of a raw file": (lambda path: open(path, "rb"), lambda file: io.BufferedReader(file.raw)),
}


@pytest.mark.parametrize(("make", "other"), ALIASES.values(), ids=ALIASES)
@pytest.mark.parametrize("turned", [False, True], ids=["outer first", "inner first"])
def test_the_same_file_twice_is_refused_before_anything_is_detached(pair, path, make, other, turned):
    storage, channel = bytearray(b"stays"), MessageChannel()
    with make(path) as file:
        twice = [file, other(file)][:: -1 if turned else 1]
        with pytest.raises(DataCloneError, match=r"can't be .*: it is the same file as transfer\[1\]; list") as caught:
            channel.port1.post_message("m", transfer=[pair[0], twice[0], storage, twice[1]])
        assert caught.value.path == "transfer[3]"
        assert type(twice[1]).__name__ in str(caught.value)
        assert (storage, len(channel.port2)) == (b"stays", 0)
        assert not any(item.closed for item in twice)
        assert pair[0].fileno() >= 0
        assert file.read(4) in ("line", b"line")


def test_what_transfer_raises_leaves_sockets_connections_and_files_as_they_were(pair, path):
    ends = multiprocessing.Pipe()
    with open(path) as text, open(path, "rb") as file, ends[0], ends[1]:
        with pytest.raises(LookupError):
            structured_clone("m", transfer=[pair[0], ends[0], text, file, Stubborn()])
        assert text.readline() == "line 0\n"
        assert file.readline() == b"line 0\n"
        ends[0].send("still here")
        assert ends[1].recv() == "still here"
        pair[0].sendall(b"too")
        assert pair[1].recv(10) == b"too"


def test_what_transfer_runs_can_close_a_file_that_is_listed_too(pair, path):
    class Closes:
        def __transfer__(self):
            file.close()
            return list, ()

    file = open(path)
    with pytest.raises(DataCloneError, match="it is closed") as caught:
        structured_clone(None, transfer=[pair[0], file, Closes()])
    assert caught.value.path == "transfer[1]"
    assert pair[0].fileno() >= 0


def test_the_order_of_what_is_received_is_that_of_the_list(pair, path):
    class Handle:
        def __transfer__(self):
            return str, ()

    items = [pair[0], Handle(), open(path)]
    received = structured_clone(items, transfer=items)
    assert [type(item).__name__ for item in received] == ["socket", "str", "TextIOWrapper"]
    received[0].close()
    received[2].close()


@pytest.mark.parametrize("make", [socket.socket, lambda: open(os.devnull), lambda: open(os.devnull, "rb")])
def test_the_error_for_what_is_not_listed_says_what_to_do(make):
    with make() as item, pytest.raises(DataCloneError, match="list it in transfer") as caught:
        structured_clone({"a": [item]})
    assert caught.value.path == "$['a'][0]"


def test_a_file_is_no_transfer_list(path):
    with open(path) as file, pytest.raises(TypeError, match=r"write transfer=\[port\]"):
        structured_clone(1, transfer=file)


# ---- on the way ----


def test_a_message_closes_its_descriptors_if_nobody_receives_it(path):
    ends = socket.socketpair()
    channel = MessageChannel()
    channel.port1.post_message("message", transfer=[ends[0], open(path)])
    with ends[1]:
        ends[1].settimeout(10)
        del channel
        gc.collect()
        assert ends[1].recv(1) == b""


def test_a_received_socket_is_used_by_another_thread(pair):
    channel = MessageChannel()

    def work():
        received, storage = channel.port2.receive(timeout=10)
        with received:
            received.sendall(storage)

    thread = threading.Thread(target=work)
    thread.start()
    data = array.array("B", b"hello")
    channel.port1.post_message((pair[0], data), transfer=[data, pair[0]])
    pair[1].settimeout(10)
    assert pair[1].recv(10) == b"hello"
    thread.join()


def test_no_descriptor_to_spare_is_an_error_and_leaves_the_file_open(path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(path, "rb") as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                structured_clone(file, transfer=[file])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert file.readline() == b"line 0\n"


def test_a_descriptor_too_few_leaves_everything_as_it_was(pair, path):
    import resource

    class Handle:
        def __transfer__(self):
            asked.append(self)
            return list, ()

    asked = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(path) as one, open(path) as other:
        # There is room for one more.
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                structured_clone("m", transfer=[pair[0], Handle(), one, other])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (one.readline(), other.readline(), pair[0].fileno() >= 0, asked) == ("line 0\n", "line 0\n", True, [])


def test_importing_the_package_imports_neither_socket_nor_multiprocessing(run_python):
    code = """
import sys, messagechannel
messagechannel.structured_clone(bytearray(), transfer=[bytearray()])
print([name for name in ("socket", "multiprocessing", "pickle", "messagechannel._descriptors") if name in sys.modules])
"""
    assert run_python(code).stdout.strip() == "[]"


def test_a_temporary_file_moves_by_the_file_that_it_wraps(move):
    with contextlib.closing(tempfile.TemporaryFile()) as file:
        file.write(b"x")
        with move(file) as received:
            received.seek(0)
            assert received.read() == b"x"
