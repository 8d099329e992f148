from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t


cdef inline object identity(object item):
    """What id() returns; Cython would keep the function of one interpreter for all of them."""
    return <uintptr_t><PyObject *>item


cdef class Transfer:
    cdef readonly list items
    cdef readonly list received
    cdef readonly bint deferred
    # For each item its Kind, None where it has a __transfer__.
    cdef list _kinds
    # address of an item -> index
    cdef dict _places
    # For items that are rebuilt by the receiver: what __transfer__ returned, or the like.
    cdef dict _rebuilders
    # What registered items need to depart.
    cdef list _prepared

    cdef object refusal(self, Py_ssize_t index, str reason)
    cpdef object place_of(self, object item)

    # The steps of detach.
    cdef int call_methods(self) except -1
    cdef int move(self) except -1
    cdef int _swap(self, Py_ssize_t index) except -1
    cdef int _depart(self) except -1
    cdef int _hand_over(self) except -1
    cdef int _settle(self) except -1

    cdef object rebuilder(self, Py_ssize_t index)
    cdef int receive(self) except -1

cdef bint is_transferable(object value)
