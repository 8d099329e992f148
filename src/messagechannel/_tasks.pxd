from messagechannel._csrc cimport ring, shared_number, visitproc
from messagechannel._events cimport EventTarget


cdef class Repeated:
    cdef EventTarget target
    cdef size_t left


cdef class TaskQueue:
    cdef ring _ring
    cdef readonly object context
    # What the last turn did not finish; `run` alone touches it.
    cdef Repeated _unfinished
    # The context refused to schedule, but is not closed: whoever claims this tries again, with the next task.
    cdef shared_number _refused

    cdef void forget(self) noexcept
    cpdef int put(self, task) except -1
    cdef int put_repeated(self, EventTarget target, size_t times) except -1
    cdef int _schedule(self) except -1
    cdef int _run(self, object task) except -1
    cdef int _step(self, Repeated repeated) except -1


cdef TaskQueue current_tasks()


# What ring_visit hands on to visit_item, for a tp_traverse.
cdef struct Visit:
    visitproc visit
    void *argument


cdef int visit_item(void *item, void *argument) noexcept
