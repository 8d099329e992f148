"""Memory is wanting at each allocation in turn while messages go over a link: none is lost unsaid, nothing leaks."""

import sys
import sysconfig
from collections import Counter

import pytest

from messagechannel import DataCloneError, MessageChannel, SharedBuffer, _far
from victims import FACTOR, PATIENCE, Footprint, apart, far_channel, until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        reason="CPython 3.13's own pickle hangs or crashes without the GIL where an allocation fails",
    ),
    pytest.mark.usefixtures("_test_capi"),
]

# The reactor's thread allocates, too, so that no two runs are the same.
stress_only = pytest.mark.skipif(FACTOR == 1, reason="another allocation fails each time: it is for `make stress`")
MB = 1 << 20
KINDS = ["pickle", "shared", "large"]


@pytest.fixture
def _test_capi():
    pytest.importorskip("_testcapi", reason="this Python comes without its own tests")


def short_of_memory(number, function, *args):
    """Return what a call returns whose allocation of this number fails, or the error for that."""
    import _testcapi

    _testcapi.set_nomemory(number, number + 1)
    try:
        return function(*args)
    except (MemoryError, DataCloneError) as error:
        # Pickle says of a module that it could not import that it has no such function.
        return error
    finally:
        _testcapi.remove_mem_hooks()


def content(message):
    return bytes(message[1])[:1] if type(message) is list else message


def fill(port, kind):
    """Post ten messages of a kind; return what they are told apart by."""
    told = [bytes([number]) for number in range(10)]
    for number in range(10):
        if kind == "pickle":
            port.post_message([None, told[number]])
        elif kind == "shared":
            shared = SharedBuffer(4096)
            memoryview(shared)[0] = number
            port.post_message([None, shared])
        else:
            port.post_message(told[number] * MB)
    return told


def receive_with_failures(kind):
    reported = []
    sys.unraisablehook = lambda report: reported.append(report.exc_value)
    far_channel()
    before = Footprint()
    outcomes = Counter()
    for number in range(150):
        here, there = far_channel()
        told = fill(here, kind)
        part = short_of_memory(number, there.receive_many)
        outcomes[type(part).__name__] += 1
        came = [] if isinstance(part, MemoryError) else part
        while len(came) + len(reported) < 10:
            try:
                came.append(there.receive(PATIENCE))
            except (DataCloneError, MemoryError) as error:
                reported.append(error)
        # In order, and whatever is missing was reported, once.
        came = [content(message)[:1] for message in came]
        assert came == [one for one in told if one in came]
        assert len(came) >= 9
        outcomes["reported"] += len(reported)
        reported.clear()
        here.close()
        there.close()
    del part, here, there
    before.assert_same()
    assert outcomes["list"] > 0
    assert outcomes["MemoryError"] + outcomes["reported"] > 0


@stress_only
@pytest.mark.parametrize("kind", KINDS)
def test_each_allocation_can_fail_while_a_batch_is_received(kind):
    apart(receive_with_failures, kind)


def send_with_failures(kind):
    here, there = far_channel()
    before = Footprint()
    for _ in fill(here, kind):
        there.receive(PATIENCE)
    failed = 0
    message = {"pickle": [None, b"m"], "shared": [None, SharedBuffer(4096)], "large": b"m" * MB}[kind]
    for number in range(300):
        outcome = short_of_memory(number, here.post_message, message)
        failed += outcome is not None
        here.post_message("marker")
        came = there.receive(PATIENCE)
        if came != "marker":
            assert outcome is None
            came = there.receive(PATIENCE)
        assert came == "marker"
    assert failed
    # All that may be lent is there to be lent.
    for _ in range(64 if kind == "large" else 1):
        here.post_message(message)
    here.post_message("last")
    while there.receive(PATIENCE) != "last":
        pass
    assert here.statistics().posted == there.statistics().received
    del message
    # Segments that nobody uses stay for some seconds.
    until(lambda: not before.excess(), "everything was given back")


@stress_only
@pytest.mark.parametrize("kind", KINDS)
def test_each_allocation_can_fail_while_a_message_is_posted(kind):
    apart(send_with_failures, kind)


def make_channels_with_failures():
    def resident():
        with open("/proc/self/statm") as figures:
            return int(figures.read().split()[1]) * 4096

    def make(times):
        for _ in range(times):
            for number in range(3):
                failed.append(isinstance(short_of_memory(number, MessageChannel), MemoryError))

    failed = []
    make(100)
    assert any(failed)
    failed.clear()
    before = resident()
    for _ in range(10):
        make(2000)
        failed.clear()
    assert resident() - before < MB


def test_a_channel_that_finds_no_memory_for_its_ports_leaves_nothing():
    apart(make_channels_with_failures)


def arrive_with_failures():
    far_channel()
    before = Footprint()
    outcomes = Counter()
    for number in range(120):
        here, there = MessageChannel()
        there.post_message("waits")
        state, descriptors = _far.depart(there)
        port = short_of_memory(number, _far.arrive, state, descriptors)
        outcomes[type(port).__name__] += 1
        if isinstance(port, MemoryError):
            # Nobody has it, of which the other side learns.
            port = None
            for _ in here:
                pass
        else:
            assert here.receive(PATIENCE) == "waits"
            port.post_message("back")
            assert here.receive(PATIENCE) == "back"
        here.close()
        del here, there, port, descriptors
    before.assert_same()
    assert outcomes["MemoryError"] > 0
    assert outcomes["MessagePort"] > 0


@stress_only
def test_each_allocation_can_fail_while_a_port_arrives():
    apart(arrive_with_failures)
