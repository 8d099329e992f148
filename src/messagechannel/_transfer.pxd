from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t


cdef inline object identity(object item):
    """What id() returns; Cython would keep the function of one interpreter for all of them."""
    return <uintptr_t><PyObject *>item


cdef class Transfer:
    cdef readonly list items
    cdef readonly list received
    cdef readonly bint deferred
    cdef list _hooks
    # address of an item -> index
    cdef dict _places
    # For items that are rebuilt by the receiver: what __transfer__ returned, or the like.
    cdef dict _rebuilders

    cdef object refusal(self, Py_ssize_t index, str reason)
    cpdef object place_of(self, object item)
    # What registered items need to depart.
    cdef list _prepared

    # The steps of detach.
    cdef int call_methods(self) except -1
    cdef int depart(self) except -1
    cdef int move_storage(self) except -1
    cdef int move_storage_back(self, Py_ssize_t end) except -1
    cdef int _swap(self, Py_ssize_t index) except -1
    cdef int move_rest(self) except -1
    cdef object rebuilder(self, Py_ssize_t index)
    cdef int receive(self) except -1

cdef bint is_transferable(object value)
