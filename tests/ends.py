"""The kinds of other end that a channel can have: the same tests run over each.

A test module that imports ``MessageChannel`` from here, instead of from the package, has each of its tests run once for
every kind in ``KINDS``. Under "far", the two ends of every channel that it makes talk by shared memory and a socket, as
two processes do, though both are in this one. A test about what only ends in one interpreter have is marked
``@local("why")``; it runs once.

What differs by nature where the other end is far, and what tests therefore must not expect:

* Immutable messages arrive equal, not identical, and ``copy=False`` does not exist.
* The close of the other side is known as soon as somebody receives, or else when the bell was heard: wait for it with
  :func:`eventually`.
* ``len(port)`` and ``wait`` count what has arrived. What was posted to a far end that has more than its shared memory
  full arrives as it is taken.
* What the sender's side holds back when the receiver closes its port does not arrive, though it was sent.
* Room that a receiver makes is known to a sender who tries again, or else when the bell was heard.
* There is no order over several ports, and a listener's task is put into its context when the bell was heard.
* A cycle through the queues of both ends can't be seen by the garbage collector.
"""

import time

import pytest

import messagechannel
from messagechannel import _far

KINDS = ["local", "far"]

# The kind that the running test is about.
_kind = "local"


def local(reason):
    """Mark a test that is about one interpreter by nature, and say why."""
    return pytest.mark.local(reason)


class FarChannel:
    """A channel whose second port has left this process and come back, so that a link leads to it."""

    def __init__(self, *, capacity=None):
        self.port1, here = messagechannel.MessageChannel(capacity=capacity)
        self.port2 = _far.arrive(*_far.depart(here))

    def __iter__(self):
        return iter((self.port1, self.port2))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.port1.close()
        self.port2.close()


def MessageChannel(*, capacity=None, copy=True):  # noqa: N802
    """Return a channel of the kind that the running test is about."""
    if _kind == "local" or not copy:
        return messagechannel.MessageChannel(capacity=capacity, copy=copy)
    return FarChannel(capacity=capacity)


def is_far():
    """Tell whether the running test is about a far end."""
    return _kind == "far"


def run_with(kind):
    """Have :func:`MessageChannel` make channels of this kind."""
    global _kind
    _kind = kind


def eventually(condition, seconds=20.0):
    """Wait until `condition()` holds; at once where that does not depend on another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.0005)
    return True
