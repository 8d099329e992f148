"""References that a queue holds are dropped by other threads than those that made the object."""

import ctypes
import sys
import sysconfig
import threading
import weakref

import pytest

from messagechannel import MessageChannel

without_gil = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="with the GIL there is but one count of references"
)


class Header(ctypes.Structure):
    """What src/messagechannel/handover.h takes an object to begin with."""

    _fields_ = (
        ("ob_tid", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("ob_ref_local", ctypes.c_uint32),
        ("ob_ref_shared", ctypes.c_ssize_t),
        ("ob_type", ctypes.c_void_p),
    )


class Message:
    """Can be watched by a weak reference."""


@without_gil
@pytest.mark.parametrize("post", [lambda port, o: port.post_message(o), lambda port, o: port.send_many([o])])
def test_a_queue_counts_its_references_as_shared_ones(post):
    channel = MessageChannel(copy=False)
    message = Message()
    header = Header.from_address(id(message))
    assert header.ob_type == id(Message)
    before = header.ob_ref_local, header.ob_ref_shared >> 2
    for _ in range(3):
        post(channel.port1, message)
    assert (header.ob_ref_local, header.ob_ref_shared >> 2) == (before[0], before[1] + 3)
    assert sys.getrefcount(message) == sum(before) + 3 + 1
    del channel
    assert sys.getrefcount(message) == sum(before) + 1


@without_gil
def test_immortal_objects_are_not_counted():
    channel = MessageChannel()
    before = Header.from_address(id(None)).ob_ref_shared
    channel.port1.post_message(None)
    assert Header.from_address(id(None)).ob_ref_shared == before


def test_what_a_receiver_drops_last_is_freed_there_though_its_maker_sleeps():
    channel = MessageChannel(copy=False)
    dropped = threading.Event()
    alive = []

    def drop():
        message = channel.port2.receive()
        watched = weakref.ref(message)
        del message
        alive.append(watched())
        dropped.set()

    thread = threading.Thread(target=drop)
    message = Message()
    channel.port1.post_message(message)
    del message
    thread.start()
    # In one piece: nothing of this thread's is run meanwhile.
    assert dropped.wait(10)
    thread.join(10)
    assert alive == [None]
