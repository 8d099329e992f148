# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""What a port needs of the way to a port that is elsewhere, and what lies in queues.

A queue of a channel holds owned references: to the message itself or, with the lowest bit set, to an :class:`Envelope`.
Without the GIL it also holds ints that are no objects (by_value.h).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uintptr_t

from messagechannel._clone cimport Serialized
from messagechannel._transfer cimport Transfer


cdef extern from "module_state.h":
    pass


cdef class Sealed:
    """A message in the form that it had on its way, which is opened where it is received."""

    cdef tuple open(self):
        """Return the message and the tuple of ports that came with it; once only. May raise anything."""
        raise NotImplementedError


cdef class Envelope:
    """A message that is more than its data, while it is in a queue."""

    cdef object open(self):
        """Return the message; rebuilding it may raise anything."""
        cdef object data = self.data
        if type(data) is Serialized:
            return (<Serialized>data).deserialize()
        if isinstance(data, Sealed):
            message, self.ports = (<Sealed>data).open()
            return message
        return data


cdef void discard(PyObject *item) noexcept:
    """Drop an owned queue item."""
    if is_by_value(item):
        return
    Py_DECREF(<object>(<PyObject *>(<uintptr_t>item & ~<uintptr_t>1)))


cdef object open_envelope(PyObject *item):
    """Return the message in the Envelope that is an owned queue item; rebuilding it may raise anything."""
    return unopened(item).open()


cdef Envelope unopened(PyObject *item):
    """Return the Envelope that is an owned queue item."""
    cdef Envelope envelope = envelope_of(item)
    discard(item)
    return envelope


cdef PyObject *owned_item(object message) noexcept:
    """Return the owned queue item for a message or an Envelope."""
    Py_INCREF(message)
    return <PyObject *>(<uintptr_t><PyObject *>message | (type(message) is Envelope))


cdef class Transport:
    """The way from a channel to its far side, which is in another process.

    The channel's own queues stay: the near side's inbox has what came before there was a transport, or was left when it
    ended, and the far side's inbox, the *backlog*, what could not be sent at once. The backlog is armed (csrc/ring.h)
    whenever nobody pumps it: whoever pushes there and is told to wake somebody calls :meth:`pump`.

    Whoever waits uses the calls in csrc/channel.h; this is the rest of what a port needs.
    """

    cdef object pack(self, object message, Transfer transfer):
        """Return a message in a form that can be sent, for an Envelope; nothing is detached.

        :raises DataCloneError: for what can't be cloned or transferred.
        :raises OSError: when what is to be transferred needs more descriptors than there are.
        """
        raise NotImplementedError

    cdef bint post(self, PyObject *item) except -1:
        """Send an owned queue item, now or later, without waiting; False when it goes nowhere.

        It raises for a message that is dropped for want of memory, whose room it has returned then; and what a signal
        handler raises, whatever has become of the message.
        """
        raise NotImplementedError

    cdef int post_many(self, void **items, size_t n, size_t *gone) except -1:
        """Send owned items, from the front as many as go at once, and drop them; *gone gets how many. The one for which
        it raises is dropped, too."""
        raise NotImplementedError

    cdef int pump(self) except -1:
        """Send what is in the backlog, as far as there is room."""
        raise NotImplementedError

    cdef int rehearse(self, Envelope envelope) except -1:
        """What has a ``__transfer__`` has been detached, and nothing else: see that :meth:`seal` will not fail for it.

        :raises DataCloneError: for what can't be sent.
        """
        raise NotImplementedError

    cdef int seal(self, Envelope envelope) except -1:
        """What was packed has been detached: write down what is left of it."""
        raise NotImplementedError

    cdef bint is_other_end(self, Transport other) noexcept:
        """Tell whether the far side of the one is the near side of the other."""
        return False

    cdef size_t take_many(self, void **items, size_t limit) except? 0:
        """Take up to `limit` items, owned then, that have come here.

        :raises MemoryError: when there is none for the first of them, which stays.
        :raises OSError: likewise for what came with it.
        """
        raise NotImplementedError

    cdef bint take_raw(self, taken *message) noexcept:
        """Take one message that has come here, without making any object that the garbage collector knows.

        This may be called under a lock, and :meth:`item_of` afterwards without one. False: there is nothing.
        """
        return False

    cdef PyObject *item_of(self, taken *message) except? NULL:
        """Return the owned item of what :meth:`take_raw` took; NULL where that is no message.

        Errors are those of :meth:`take_many`.
        """
        raise NotImplementedError

    cdef bint settle(self) except -1:
        """If the far side has closed or is dead, bring what is left into the inbox and close the channel; True then."""
        return False

    cdef void wait_for_rest(self) noexcept:
        """While another thread brings what is left into the inbox, wait, lest it seem that there is nothing."""

    cdef int look_later(self) except -1:
        """Look again in a moment at what could not be taken."""
        return 0

    cdef void taken_before(self, size_t popped) noexcept:
        """Messages were taken which came before there was a transport, so that `popped` were ever taken out of the near
        inbox: tell the far side."""

    cdef size_t collect(self) noexcept:
        """Return how many messages the far side has taken since the last call: there is room for as many."""
        return 0

    cdef bint arm_room(self) noexcept:
        """True: when the far side takes a message, somebody here is told. False: it just has."""
        return False

    cdef bint is_deaf(self) noexcept:
        """Tell whether the far side takes nothing any more: it has closed, though messages of it may still come."""
        return False

    cdef void figures(self, Figures *incoming, Figures *outgoing) noexcept:
        """Tell what the far side and this one have counted, without what is in the backlog."""

    cdef int close(self) except -1:
        """The channel was closed here: bring what has come into the inbox, send what is in the backlog, end."""
        raise NotImplementedError
