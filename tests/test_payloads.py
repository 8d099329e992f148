"""Large and odd messages between real processes."""

import array
import hashlib
import multiprocessing
import os
import socket
import threading
import time

import pytest

import targets
from agents import PATIENCE, Agent
from messagechannel import MessageChannel, SharedBuffer

KB, MB = 1024, 1024 * 1024
# From so many bytes on a buffer is mapped.
THRESHOLD = 64 * KB


@pytest.fixture(scope="module")
def agent():
    agent = Agent("agent")
    yield agent
    agent.leave()


def digest(value):
    return hashlib.sha256(value).digest()


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what should have happened did not"
        time.sleep(0.02)


# ---- numpy arrays ----


@pytest.fixture
def np():
    return pytest.importorskip("numpy", reason="numpy is not installed: make pytest-arrays")


def random_array(np, nbytes):
    return np.frombuffer(bytearray(os.urandom(min(nbytes, MB)) * (nbytes // MB or 1)), dtype=np.uint8)


SIZES = {"1 KB": KB, "below the threshold": THRESHOLD - 1, "at it": THRESHOLD, "1 MB": MB, "64 MB": 64 * MB}
every_size = pytest.mark.parametrize("nbytes", SIZES.values(), ids=SIZES)


@every_size
def test_an_array_arrives_writable_and_is_the_receivers_alone(agent, np, nbytes):
    mine = random_array(np, nbytes)
    before = digest(mine)
    facts = agent.do("keep", "array", mine)
    assert facts == {"mapped": nbytes >= THRESHOLD, "writable": True}
    mine[:] = 0
    assert agent.do("content", "array") == before
    agent.do("overwrite", "array", 7)
    assert not mine.any()
    assert agent.do("content", "array") == digest(b"\7" * nbytes)
    agent.do("drop", "array")


@every_size
def test_an_array_comes_back_the_same_way(agent, np, nbytes):
    mine = random_array(np, nbytes)
    back = agent.do("send_back", mine)
    assert (back == mine).all()
    assert back.flags.writeable
    assert targets.lies_in_shared_memory(memoryview(back)) == (nbytes >= THRESHOLD)
    back[0] ^= 255
    assert back[0] != mine[0]


def test_an_array_keeps_its_type_shape_and_order(agent, np):
    for mine in (
        np.arange(120_000, dtype=">f4").reshape(300, 400),
        np.asfortranarray(np.arange(120_000.0).reshape(300, 400)),
        np.arange(120_000.0).reshape(300, 400)[::2, ::3],
        np.zeros(20_000, dtype=[("a", "i4"), ("b", "f8")]),
        np.array([["text", "x" * 100]] * 2000),
    ):
        back = agent.do("send_back", mine)
        assert (back.dtype, back.shape) == (mine.dtype, mine.shape)
        assert (back == mine).all()
        assert back.flags.f_contiguous == mine.flags.f_contiguous


def test_two_names_of_one_array_arrive_as_one(agent, np):
    mine = np.zeros(MB, dtype=np.uint8)
    one, two = agent.do("send_back", [mine, mine])
    assert one is two


def test_arrays_that_the_receiver_keeps_are_not_overwritten_by_later_ones(agent, np):
    expected = {}
    for number in range(12):
        mine = random_array(np, MB)
        expected[f"array {number}"] = digest(mine)
        assert agent.do("keep", f"array {number}", mine)["mapped"]
    assert {name: agent.do("content", name) for name in expected} == expected
    agent.do("drop", *expected)


def test_a_view_keeps_the_memory_of_its_array(agent, np):
    mine = random_array(np, 2 * MB)
    agent.do("keep", "array", mine)
    agent.do("keep_part", "array", MB)
    for _ in range(8):
        agent.do("keep", "other", random_array(np, 2 * MB))
    assert agent.do("content", "array") == digest(mine[MB:])
    agent.do("drop", "array", "other")


def test_the_memory_is_given_back_when_the_last_array_over_it_is_gone(agent, np):
    agent.do("drop")
    wait_until(lambda: agent.do("shared_bytes") < 4 * MB and targets.mapped_bytes() < 4 * MB)
    mine = random_array(np, 8 * MB)
    names = [f"array {number}" for number in range(8)]
    for name in names:
        agent.do("keep", name, mine)
    assert agent.do("shared_bytes") >= 8 * 8 * MB
    agent.do("drop", *names[1:])
    agent.do("drop")
    wait_until(lambda: agent.do("shared_bytes") < 12 * MB)
    assert agent.do("content", names[0]) == digest(mine)
    agent.do("drop", names[0])
    wait_until(lambda: agent.do("shared_bytes") < 4 * MB and targets.mapped_bytes() < 4 * MB)


def test_the_memory_is_given_back_by_a_receiver_that_takes_nothing_more(agent):
    wait_until(lambda: targets.mapped_bytes() < 4 * MB)
    came = agent.do("send_back", b"x" * (8 * MB))
    assert len(came) == 8 * MB
    wait_until(lambda: targets.mapped_bytes() < 4 * MB)


def test_arrays_stream_both_ways(agent, np):
    here, there = MessageChannel()
    agent.do("hold", "port", ports=[there])
    mine = [random_array(np, MB) for _ in range(5)]
    agent.begin("bounce", "port", 60)
    for number in range(60):
        here.post_message((number, mine[number % 5]))
    for number in range(60):
        got, back = here.receive(PATIENCE)
        assert got == number
        assert (back == mine[number % 5]).all()
        del back
    assert agent.end().data == "bounced"
    here.close()


def test_a_shared_buffer_is_one_memory_for_numpy_in_both(agent, np):
    shared = SharedBuffer(MB)
    mine = np.frombuffer(shared, dtype=np.int64)
    mine[:] = range(len(mine))
    agent.do("keep", "shared", shared)
    assert agent.do("content", "shared") == digest(shared)
    agent.do("overwrite", "shared", 1)
    assert (mine == 0x0101010101010101).all()
    mine[0] = 5
    assert agent.do("content", "shared") == digest(mine)
    agent.do("drop", "shared")


def test_a_shared_buffer_outlives_the_one_who_made_it(agent):
    maker = Agent("maker")
    shared = maker.do("make_shared", 100_000)
    maker.leave()
    agent.do("keep", "shared", shared)
    memoryview(shared)[:5] = b"after"
    assert agent.do("content", "shared") == digest(bytes(memoryview(shared)))
    assert bytes(memoryview(shared)[:5]) == b"after"
    agent.do("drop", "shared")


# ---- bytes and text ----


def test_bytes_of_100_mb(agent):
    body = os.urandom(MB) * 100
    agent.do("keep", "bytes", body)
    assert agent.do("content", "bytes") == digest(body)
    assert agent.do("send_back", body) == body
    agent.do("drop", "bytes")


@pytest.mark.parametrize("kind", [bytearray, lambda body: array.array("B", body)], ids=["bytearray", "array.array"])
@pytest.mark.parametrize("nbytes", [0, 1, 1000, THRESHOLD, 10 * MB])
def test_storage_is_transferred_to_another_process(agent, kind, nbytes):
    body = os.urandom(nbytes)
    item = kind(body)
    agent.begin("keep", "item", item, ports=[item])
    assert len(item) == 0
    assert agent.end().data["writable"]
    assert agent.do("content", "item") == digest(body)
    agent.do("drop", "item")


def test_large_messages_of_many_threads_through_a_full_channel(agent):
    """Those who wait for room in the memory and those who wait for messages to be taken look at the same word."""
    here, there = MessageChannel(capacity=2)
    agent.do("hold", "port", ports=[there])
    senders, count, body = 4, 100, b"x" * 300_000
    threads = [
        threading.Thread(
            target=lambda who=who: [here.send((who, number, body), timeout=PATIENCE) for number in range(count)],
            daemon=True,
        )
        for who in range(senders)
    ]
    agent.begin("count", "port", senders * count)
    for thread in threads:
        thread.start()
    assert agent.end().data == {who: list(range(count)) for who in range(senders)}
    for thread in threads:
        thread.join(PATIENCE)
    here.close()


TEXTS = {
    "empty": "",
    "ASCII": "plain text",
    "Latin-1": "naïve café",
    "two bytes": "日本語 Ωμέγα",
    "four bytes": "😀 🏳️‍🌈 \U0010ffff",
    "lone surrogates": "\ud800 \udcff",
    "zeros": "a\0b\0",
    "long ASCII": "x" * 10_000_000,
    "long Latin-1": "é" * 10_000_000,
    "long of two bytes": "日本語" * 1_000_000,
    "long of four bytes": "😀x" * 1_000_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_of_every_kind(agent, text):
    assert agent.do("send_back", text) == text
    assert agent.do("send_back", [text, {text: text}]) == [text, {text: text}]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**63,
        10**400,
        0.0,
        -0.0,
        1e308,
        float("inf"),
        1j,
        b"",
        b"\0" * 9,
        (),
    ],
    ids=repr,
)
def test_atoms_of_every_kind(agent, value):
    back = agent.do("send_back", value)
    assert (type(back), repr(back)) == (type(value), repr(value))


# ---- descriptors ----


def test_a_socket_moves_to_another_process(agent):
    mine, theirs = socket.socketpair()
    with mine:
        agent.begin("use_descriptor", theirs, ports=[theirs])
        assert theirs.fileno() == -1
        mine.settimeout(PATIENCE)
        assert mine.recv(100) == b"from there"
        mine.sendall(b"from here")
        assert agent.end().data == b"from here"


def test_a_connection_moves_to_another_process(agent):
    mine, theirs = multiprocessing.Pipe()
    with mine:
        agent.begin("use_descriptor", theirs, ports=[theirs])
        assert theirs.closed
        assert mine.poll(PATIENCE)
        assert mine.recv_bytes() == b"from there"
        mine.send_bytes(b"from here")
        assert agent.end().data == b"from here"


def test_a_file_moves_to_another_process(agent, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    reader = open(path, "rb")  # noqa: SIM115
    assert reader.read(3) == b"012"
    agent.begin("use_descriptor", reader, ports=[reader])
    assert agent.end().data == b"3456789"
    assert reader.closed
    writer = open(path, "wb")  # noqa: SIM115
    writer.write(b"from here, ")
    agent.do("use_descriptor", writer, ports=[writer])
    assert path.read_bytes() == b"from here, from there"


def test_descriptors_wait_in_a_backlog_and_travel_on(agent):
    carrier, carried = MessageChannel()
    pairs = [socket.socketpair() for _ in range(20)]
    for number, (_, theirs) in enumerate(pairs):
        carrier.post_message((number, theirs), [theirs])
    agent.do("hold", "carried", ports=[carried])
    carried = agent.give_back("carried")
    for number, (mine, _) in enumerate(pairs):
        got, theirs = carried.receive(PATIENCE)
        assert got == number
        theirs.sendall(b"%d" % number)
        mine.settimeout(PATIENCE)
        assert mine.recv(10) == b"%d" % number
        mine.close()
        theirs.close()
    carrier.close()
