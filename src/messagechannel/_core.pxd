"""What _far.pyx needs of the module that knows ports."""

from libc.stdint cimport uint32_t

from messagechannel._csrc cimport channel, waiter

cdef void tell(waiter *tasks) noexcept
cdef void close_channel(channel *c, uint32_t side) noexcept
cdef void release_channel(channel *c) noexcept
cdef channel *channel_of(object item) noexcept
cdef channel *let_go(object handle, uint32_t *side) except NULL
cdef int take_back(object handle) except -1
cdef int leave_behind(object handle) except -1
cdef object take_hold(channel *c, uint32_t side)
cdef int rouse(object port) except -1
