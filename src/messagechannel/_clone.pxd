from messagechannel._transfer cimport Transfer

cdef class Serialized:
    cdef bytes _pickle
    cdef list _references
    cdef readonly Transfer transfer

    cpdef object deserialize(self)

cpdef object clone(object value, Transfer transfer)
cpdef object serialize(object value, Transfer transfer)
