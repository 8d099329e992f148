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
    # The two steps of detach.
    cdef int depart(self) except -1
    cdef int move(self) except -1
    cdef object rebuilder(self, Py_ssize_t index)
    cdef int receive(self) except -1

cdef bint is_transferable(object value)
