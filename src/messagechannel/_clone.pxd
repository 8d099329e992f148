from messagechannel._transfer cimport Transfer

cdef class Serialized:
    cdef bytes _pickle
    # What is immutable, or stays shared, by reference: places -1, -2 ... in the pickle.
    cdef list _references
    cdef readonly Transfer transfer

    cpdef object deserialize(self)

cpdef object clone(object value, Transfer transfer)
cpdef object serialize(object value, Transfer transfer)
cdef object unpickled(object data, list buffers, list received, list references)
cdef object explain(object value, Transfer transfer, object error)
