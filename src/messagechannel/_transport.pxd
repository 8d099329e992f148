from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t

from messagechannel._csrc cimport steal
from messagechannel._transfer cimport Transfer


cdef extern from "by_value.h":
    bint is_by_value(PyObject *item) noexcept
    PyObject *item_by_value(PyObject *message) noexcept
    object int_by_value(PyObject *item)


cdef extern from "taken_message.h":
    ctypedef struct loan:
        void *address
        size_t size
    ctypedef struct taken:
        PyObject *object
        int *descriptors
        loan **loans
        uint32_t count
        uint32_t loan_count
        int outcome
        int error
        uint8_t tag


cdef class Sealed:
    cdef tuple open(self)


cdef class Envelope:
    # The message; or a Serialized or Sealed one that it is to be rebuilt from.
    cdef object data
    cdef tuple ports

    cdef object open(self)


cdef inline bint is_envelope(PyObject *item) noexcept:
    return <uintptr_t>item & 1


cdef inline Envelope envelope_of(PyObject *item):
    return <Envelope>(<PyObject *>(<uintptr_t>item & ~<uintptr_t>1))


cdef void discard(PyObject *item) noexcept
cdef object open_envelope(PyObject *item)
cdef Envelope unopened(PyObject *item)
cdef PyObject *owned_item(object message) noexcept


cdef inline object open_item(PyObject *item):
    """Return the message in an owned queue item; rebuilding it may raise anything."""
    if is_by_value(item):
        return int_by_value(item)
    return open_envelope(item) if is_envelope(item) else steal(item)


# Messages that were ever posted into one direction and taken out of it, and the most that waited.
cdef struct Figures:
    uint64_t posted
    uint64_t taken
    uint64_t peak


cdef class Transport:
    # Why the far side is not believed any more; None while it is.
    cdef readonly str mischief

    cdef object pack(self, object message, Transfer transfer)
    cdef bint post(self, PyObject *item) except -1
    cdef int post_many(self, void **items, size_t n, size_t *gone) except -1
    cdef int pump(self) except -1
    cdef int rehearse(self, Envelope envelope) except -1
    cdef int seal(self, Envelope envelope) except -1
    cdef bint is_other_end(self, Transport other) noexcept
    cdef size_t take_many(self, void **items, size_t limit) except? 0
    cdef bint take_raw(self, taken *message) noexcept
    cdef PyObject *item_of(self, taken *message) except? NULL
    cdef bint settle(self) except -1
    cdef void wait_for_rest(self) noexcept
    cdef int look_later(self) except -1
    cdef void taken_before(self, size_t popped) noexcept
    cdef size_t collect(self) noexcept
    cdef bint arm_room(self) noexcept
    cdef bint is_deaf(self) noexcept
    cdef void figures(self, Figures *incoming, Figures *outgoing) noexcept
    cdef int close(self) except -1
