cdef class Transfer:
    cdef readonly list items
    cdef readonly list received
    cdef list _hooks
    # id(item) -> index
    cdef dict _places

    cdef object refusal(self, Py_ssize_t index, str reason)
    cdef object place_of(self, object item)
