from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from messagechannel._csrc cimport far_link, ring, shared_number
from messagechannel._transport cimport Envelope, Sealed, Transport, taken


cdef enum:
    # A pair of sockets and a piece of memory, twice.
    DESCRIPTORS_OF_A_PORT = 4


cdef class Letter(Sealed):
    cdef uint8_t tag
    cdef bytes payload
    # Those that came with it.
    cdef list descriptors
    # Objects over the segments that came with it, None for those whose bytes are in the payload.
    cdef list memories

    cdef tuple open(self)
    cdef tuple take_apart(self)


cdef class Dispatch:
    cdef uint8_t tag
    # What is left of the payload, beginning with byte `offset` of the first part; and its whole length.
    cdef list parts
    cdef Py_ssize_t offset
    cdef uint64_t length
    cdef uint64_t done
    # Descriptors that are still to be sent, and how many there were.
    cdef list descriptors
    cdef uint32_t count
    # The far side takes nothing any more.
    cdef bint dropped

    cdef int fill(self, uint8_t tag, list parts, list descriptors) except -1
    cdef bytes rest(self)


cdef class Link(Transport):
    cdef far_link *_link
    # The far side's inbox.
    cdef ring *_backlog
    # The pump's: what it is sending, or what it could not begin with: for want of memory or descriptors, or because the
    # far side is to take what is under way first.
    cdef Dispatch _dispatch
    cdef Envelope _held
    # The pump waits for room; whoever claims this goes on.
    cdef shared_number _stalled
    # Messages that went to the backlog since somebody last tried to go on, more or less.
    cdef shared_number _behind
    # The channel was closed: the pump ends the link when all is sent.
    cdef shared_number _closing

    cdef int pump(self) except -1
    cdef int resume(self) except -1
    cdef size_t take_letters(self, void **items, size_t limit, bint reserved, int *outcome) except? 0
    cdef size_t _take(self, taken *messages, size_t limit, bint reserved, int *outcome, int *error) noexcept
    cdef object _trouble(self, int *outcome, int error)
    cdef bint has_unsent(self) noexcept
    cdef int _all_sent(self) except -1
    cdef int _try_again(self) except -1
    cdef int _lent(self) except -1
    cdef int _dropped(self) except -1
    cdef bint trim(self, int64_t before) except -1
    cdef bint _send_descriptors(self) except -1
    cdef bint _wait_for_room(self) noexcept
    cdef int _leave_the_pump(self) except -1
    cdef int _send_backlog(self) except -1
    cdef bint _wait_until_taken(self) except -1
    cdef int _go_on(self) except? -100
    cdef bint _push(self, PyObject *item) except -1
    cdef Dispatch _write_down(self, Envelope envelope)
    cdef bint _send_now(self, Envelope envelope) except -1


cdef Dispatch dispatch_of(uint8_t tag, list parts, list descriptors)
cdef Envelope enveloped(PyObject *item)
cdef PyObject *letter_item(Letter letter) except NULL
