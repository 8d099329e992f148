"""structured_clone beside what copies objects today, and a posted document beside a queue with deepcopy."""

import copy
import dataclasses
import json
import marshal
import pickle
import time
from queue import SimpleQueue

import pytest

from messagechannel import MessageChannel, structured_clone

try:
    import copium
except ImportError:
    copium = None
try:
    import msgspec
except ImportError:
    msgspec = None
try:
    import orjson
except ImportError:
    orjson = None
try:
    import numpy as np
except ImportError:
    np = None


def order(number):
    """Make a document as a parser leaves it: 1 KB of JSON, 9 containers, 50 leaves."""
    document = {
        "id": 4711 + number,
        "number": f"2026-{number:06}",
        "state": "paid",
        "created": "2026-11-23T10:00:00Z",
        "express": False,
        "discount": None,
        "customer": {
            "id": 815 + number,
            "name": "Ada Lovelace",
            "email": f"ada{number}@example.org",
            "since": 2019,
            "newsletter": True,
            "address": {
                "street": "12 St James's Square",
                "city": "London",
                "zip": "SW1Y 4JH",
                "lat": 51.5,
                "lon": -0.1,
            },
        },
        "items": [
            {
                "sku": f"A-{number}-{item}",
                "name": f"Difference engine part {item}",
                "quantity": item,
                "price": 9.99 + item,
                "weight": 120.5 * item,
                "tags": ["brass", "spare"],
            }
            for item in range(1, 4)
        ],
        "totals": {"net": 1200.5 + number, "tax": 240.1, "shipping": 4.9, "gross": 1445.5, "currency": "GBP"},
        "history": ["created", "paid", "packed"],
        "note": f"Please ring twice, the bell at number {number} does not always work.",
    }
    text = json.dumps(document)
    assert 900 < len(text) < 1100
    return json.loads(text)


@dataclasses.dataclass
class Measurement:
    sensor: int
    name: str
    value: float


def round_trip(value):
    return pickle.loads(pickle.dumps(value, 5))


def marshal_round_trip(value):
    return marshal.loads(marshal.dumps(value))


def msgspec_round_trip(value):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


def orjson_round_trip(value):
    return orjson.loads(orjson.dumps(value))


COPIES = {
    "structured_clone": structured_clone,
    "copy.deepcopy": copy.deepcopy,
    "pickle 5 round trip": round_trip,
    "copium.deepcopy": copium and copium.deepcopy,
    "marshal round trip": marshal_round_trip,
    "msgspec round trip (MessagePack)": msgspec and msgspec_round_trip,
    "orjson round trip": orjson and orjson_round_trip,
}
GOALS = {"copy.deepcopy": 25, "pickle 5 round trip": 4, "copium.deepcopy": 1 / 1.3}
# What can't copy dataclasses to dataclasses.
PLAIN_DATA = ("marshal round trip", "msgspec round trip (MessagePack)", "orjson round trip")


def timed(copies, value, seconds=0.02):
    """Return a function that returns microseconds a copy of `value`, measured over that long."""
    begin = time.perf_counter()
    copies(value)
    rounds = range(max(1, int(seconds / (time.perf_counter() - begin))))

    def measure():
        begin = time.perf_counter_ns()
        for _ in rounds:
            copies(value)
        return (time.perf_counter_ns() - begin) / len(rounds) / 1000

    return measure


def contenders(value, without=()):
    return {name: copies and timed(copies, value) for name, copies in COPIES.items() if name not in without}


@pytest.mark.parametrize(
    ("figure", "value", "goals", "without"),
    [
        ("a document of 1 KB", order(17), GOALS, ()),
        ("a document of 100 KB", {"orders": [order(number) for number in range(100)]}, GOALS, ()),
        ("a list of 10,000 ints", list(range(1_000, 11_000)), GOALS, ()),
        ("a dict of 1,000 floats", {f"key {number}": number * 1.5 for number in range(1_000)}, GOALS, ()),
        (
            "1,000 dataclasses of 3 fields",
            [Measurement(number, f"sensor {number}", number * 1.5) for number in range(1_000)],
            {"copy.deepcopy": 8, "pickle 5 round trip": 4, "copium.deepcopy": 1 / 1.3},
            PLAIN_DATA,
        ),
        ("a tuple of 1,000 str", tuple(map(str, range(1_000))), {}, ()),
    ],
    ids=lambda parameter: parameter if isinstance(parameter, str) else "",
)
def test_values(compare, figure, value, goals, without):
    compare(f"clone {figure}", contenders(value, without), goals, unit="us a copy")


def test_bytearray(compare):
    value = bytearray(1 << 20)
    compare(
        "clone a bytearray of 1 MB",
        {
            "structured_clone": timed(structured_clone, value),
            "memcpy: bytes(value)": timed(bytes, value),
            "pickle 5 round trip": timed(round_trip, value),
            "copium.deepcopy": copium and timed(copium.deepcopy, value),
        },
        {"memcpy: bytes(value)": 1.15},
        unit="us a copy",
    )


@pytest.mark.skipif(np is None, reason="numpy is not installed")
def test_array(compare):
    value = np.arange(1 << 20, dtype=float)
    compare(
        "clone a numpy array of 8 MB",
        {
            "structured_clone": timed(structured_clone, value),
            "memcpy: bytes(value)": timed(lambda value: bytes(value.data), value),
            "array.copy()": timed(np.copy, value),
            "pickle 5 round trip": timed(round_trip, value),
            "copium.deepcopy": copium and timed(copium.deepcopy, value),
        },
        {"memcpy: bytes(value)": 1.15},
        unit="us a copy",
    )


def test_post_a_document(compare):
    document = order(17)
    port1, port2 = MessageChannel()
    queue = SimpleQueue()

    def post(value):
        port1.post_message(value)
        port2.receive_nowait()

    def put_copy(value):
        queue.put(copy.deepcopy(value))
        queue.get_nowait()

    compare(
        "hand over a document of 1 KB",
        {
            "post_message + receive_nowait": timed(post, document),
            "SimpleQueue with copy.deepcopy": timed(put_copy, document),
        },
        {"SimpleQueue with copy.deepcopy": 12},
        unit="us a message",
    )


@pytest.mark.parametrize("size", [1 << 10, 1 << 30], ids=["1 KB", "1 GB"])
def test_transfer_storage(report, size):
    port1, port2 = MessageChannel()

    def measure():
        value, times = bytearray(size), []
        for _ in range(101):
            begin = time.perf_counter_ns()
            port1.post_message(value, [value])
            value = port2.receive()
            times.append((time.perf_counter_ns() - begin) / 1000)
        assert len(value) == size
        return sorted(times)[50]

    report(f"transfer a bytearray of {size >> 10:,} KB", measure, 1_000, "us a message")
