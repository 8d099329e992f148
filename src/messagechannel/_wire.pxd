from messagechannel._transfer cimport Transfer


cdef class Memory:
    cdef void *_address
    cdef size_t _size
    cdef void (*_release)(void *) noexcept
    cdef void *_argument
    cdef object __weakref__

    @staticmethod
    cdef Memory adopt(void *address, size_t size, void (*release)(void *) noexcept, void *argument)


cdef class Descriptor:
    cdef readonly int fd

    cpdef int detach(self) except? -1


cdef class SharedBuffer:
    cdef Memory _memory
    cdef Descriptor _descriptor
    cdef object __weakref__


cdef class Parcel:
    cdef readonly list big
    cdef readonly list descriptors
    cdef readonly list ports
    # What has become of the first of them: pairs of a state and a list of Descriptors.
    cdef list departed
    cdef readonly size_t size
    cdef Transfer _transfer
    # What was pickled by whom the message waited for; None where it did not.
    cdef list _references
    # Chunks of bytes: the pickle of the message, and that of what its places stand for; None without places.
    cdef list _message
    cdef list _luggage
    # What the out-of-band buffers of each pickle are, in order; None for none.
    cdef list _message_entries
    cdef list _luggage_entries
    cdef bytes _head

    cpdef object rehearse(self)
    cpdef object seal(self)
    cpdef object snapshot(self)
    cpdef list parts(self)
    cdef object _pack_luggage(self, list contents)
    cdef object _content(self, Py_ssize_t index)
    cdef object _reason(self, list contents, object error)
    cdef bytes _make_head(self)


cpdef Parcel pack(object message, Transfer transfer)
cpdef object unpack(object payload, list big, list descriptors, list ports)
