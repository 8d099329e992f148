"""What the extension modules use of csrc/, whose headers say what everything means, and of CPython's types."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uintptr_t


cdef extern from "<stdbool.h>":
    ctypedef bint c_bool "bool"


cdef extern from "shared.h" nogil:
    enum: THREADS_AT_ONCE
    ctypedef uint32_t shared_number
    bint shared_claim(shared_number *n, uint32_t origin, uint32_t aim) noexcept


cdef extern from "shared_memory.h" nogil:
    int shared_memory_new(size_t size) noexcept
    int shared_memory_size(int fd, size_t *size) noexcept
    void *shared_memory_map(int fd, size_t size) noexcept
    void shared_memory_unmap(void *address, size_t size) noexcept
    void shared_memory_discard(void *address, size_t size) noexcept
    void shared_memory_close(int fd) noexcept


cdef extern from "lock.h" nogil:
    ctypedef uint32_t spin_lock
    void spin_acquire(spin_lock *l) noexcept
    void spin_release(spin_lock *l) noexcept


cdef extern from "parker.h" nogil:
    ctypedef struct parker:
        pass
    enum: PARKER_UNPARKED, PARKER_TIMED_OUT, PARKER_INTERRUPTED
    void parker_init(parker *p) noexcept
    void parker_destroy(parker *p) noexcept
    int64_t parker_now() noexcept
    c_bool parker_handles_signals() noexcept
    int parker_park(parker *p, int64_t deadline) noexcept


cdef extern from "ring.h" nogil:
    ctypedef struct ring:
        bint bounded
        size_t capacity
    enum: RING_WAKE, RING_ANNOUNCE, RING_CLOSED, RING_NO_MEMORY, RING_ARMED, RING_NOT_EMPTY
    void ring_init(ring *r, size_t capacity) noexcept
    void ring_destroy(ring *r) noexcept
    int ring_push(ring *r, void *item) noexcept
    size_t ring_push_many(ring *r, void **items, size_t n, int *outcome) noexcept
    void *ring_pop(ring *r, c_bool *shut) noexcept
    size_t ring_pop_many(ring *r, void **items, size_t limit) noexcept
    int ring_arm(ring *r) noexcept
    bint ring_close(ring *r, c_bool *wake) noexcept
    bint ring_closed(ring *r) noexcept
    uintptr_t ring_tail(ring *r) noexcept
    bint ring_drained(ring *r) noexcept
    size_t ring_announce(ring *r, bint on) noexcept
    size_t ring_length(ring *r) noexcept
    size_t ring_pushed(ring *r) noexcept
    size_t ring_popped(ring *r) noexcept
    size_t ring_peak(ring *r) noexcept
    size_t ring_reserve(ring *r, size_t wanted) noexcept
    void ring_return_room(ring *r, size_t n) noexcept


cdef extern from "ring.h":
    int ring_visit(ring *r, int (*visit)(void *item, void *argument) noexcept, void *argument) noexcept


cdef extern from "channel.h" nogil:
    ctypedef struct waiter:
        waiter *next
        void *task
    ctypedef struct endpoint:
        ring inbox
        spin_lock lock
        bint close_told
        waiter *receivers
        waiter *senders
        void *listening
    ctypedef struct channel:
        endpoint side[2]
        int closed_by
        bint by_reference
    enum: CHANNEL_OPEN
    channel *channel_new(size_t capacity, bint by_reference) noexcept
    void channel_incref(channel *c) noexcept
    void channel_decref(channel *c) noexcept
    bint channel_close(channel *c, int side, waiter **tasks) noexcept
    void waiter_init(waiter *w, parker *p, void *task) noexcept
    void waiter_join(waiter *w, endpoint *e, waiter **list) noexcept
    bint waiter_leave(waiter *w, endpoint *e) noexcept
    waiter *endpoint_wake(endpoint *e, waiter **list) noexcept
    waiter *endpoint_wake_all(endpoint *e, waiter *tasks) noexcept
    waiter *endpoint_pass_on(endpoint *e) noexcept
    waiter *endpoint_offer_room(endpoint *e) noexcept
    bint endpoint_spin_for_message(endpoint *e, uintptr_t tail, size_t popped, int64_t deadline) noexcept
    bint endpoint_spin_for_room(endpoint *e, size_t popped, int64_t deadline) noexcept
    void *endpoint_take(endpoint *e, c_bool *attention) noexcept


cdef extern from *:
    """
    /* Hands an owned reference over to Cython, which would take another one for <object>. */
    static inline PyObject *steal(PyObject *owned) { return owned; }
    """
    object steal(PyObject *owned)


cdef extern from "type_home.h":
    int bring_home(type type, const char *package, const char *name) except -1


cdef extern from "Python.h":
    object Py_GenericAlias(object origin, object arguments)
    ctypedef int (*visitproc)(PyObject *o, void *argument) noexcept
    ctypedef int (*traverseproc)(PyObject *o, visitproc visit, void *argument) noexcept
    ctypedef int (*inquiry)(PyObject *o) noexcept
    ctypedef object (*newfunc)(type cls, PyObject *args, PyObject *keywords)
    ctypedef struct TypeSlots "PyTypeObject":
        traverseproc tp_traverse
        inquiry tp_clear
        newfunc tp_new
