"""What the extension modules use of csrc/, whose headers say what everything means, and of CPython's types."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t


cdef extern from "<stdbool.h>":
    ctypedef bint c_bool "bool"


cdef extern from "shared.h" nogil:
    enum: THREADS_AT_ONCE
    ctypedef uint32_t shared_number
    bint shared_claim(shared_number *n, uint32_t origin, uint32_t aim) noexcept


cdef extern from "shared_memory.h" nogil:
    int shared_memory_new(size_t size) noexcept
    void *shared_memory_map(int fd, size_t size) noexcept
    void shared_memory_unmap(void *address, size_t size) noexcept
    void shared_memory_close(int fd) noexcept


cdef extern from "lock.h" nogil:
    ctypedef uint32_t spin_lock
    void spin_acquire(spin_lock *l) noexcept
    void spin_release(spin_lock *l) noexcept


cdef extern from "parker.h" nogil:
    ctypedef struct parker:
        pass
    enum: PARKER_UNPARKED
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
    bint ring_close(ring *r) noexcept
    bint ring_closed(ring *r) noexcept
    uintptr_t ring_tail(ring *r) noexcept
    bint ring_disarm(ring *r) noexcept
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
    int ring_look_through(ring *r, int (*visit)(void *item, void *argument) noexcept, void *argument) noexcept


cdef extern from "channel.h" nogil:
    ctypedef struct transport:
        uint8_t far_side
        void *owner


cdef extern from "link.h" nogil:
    enum: LINK_OK, LINK_EMPTY, LINK_GONE, LINK_CORRUPT, LINK_TROUBLE
    enum: LINK_WHOLE, LINK_FIRST, LINK_FRAGMENT, LINK_LAST
    unsigned int LINK_SEGMENTS, LINK_ONCE, LINK_INLINE
    size_t LINK_BUDGET
    ctypedef struct link_figures:
        uint64_t published
        uint64_t taken
        uint64_t peak
    ctypedef struct link_segment:
        void *address
        size_t size
        int descriptor
    ctypedef struct far_link:
        uint32_t side
        uint64_t credited
        int socket
        transport transport
        unsigned char *partial
        uint64_t partial_size
        uint64_t partial_length
        bint assembled
        uint8_t partial_tag
        uint16_t partial_count
        int *descriptors
        size_t descriptor_count
        link_segment *incoming
        bint reserved
    ctypedef struct link_piece:
        const void *payload
        size_t length
        uint64_t value
        uint8_t tag
    ctypedef struct link_message:
        pass
    far_link *link_new(int far[2]) noexcept
    void link_set_figures(far_link *l, const link_figures *to_here, const link_figures *to_there) noexcept
    uint64_t link_written(far_link *l) noexcept
    far_link *link_attach(int socket, int memory, uint32_t side) noexcept
    void link_incref(far_link *l) noexcept
    void link_decref(far_link *l) noexcept
    bint link_end(far_link *l, int *fds) noexcept
    bint link_ended(const far_link *l) noexcept
    void link_abandon(far_link *l) noexcept
    bint link_is_distrusted(const far_link *l) noexcept
    uint64_t link_id(const far_link *l) noexcept
    size_t link_post_many(far_link *l, ring *backlog, const link_piece *pieces, size_t n, int *outcome) noexcept
    bint link_claim(far_link *l, ring *backlog) noexcept
    int64_t link_write(far_link *l, uint8_t kind, uint8_t tag, uint16_t count, const uint64_t *prefix,
                       const void *bytes, size_t length, bint ends) noexcept
    size_t link_longest(const far_link *l) noexcept
    size_t link_send_descriptors(far_link *l, const int *descriptors, size_t n) noexcept
    int link_arm(far_link *l) noexcept
    bint link_arm_room(far_link *l) noexcept
    bint link_arm_credit(far_link *l) noexcept
    uint64_t link_collect(far_link *l) noexcept
    void link_close_out(far_link *l) noexcept
    bint link_is_deaf(const far_link *l) noexcept
    int link_lend_segment(far_link *l, size_t size, void **address, int *descriptor) noexcept
    bint link_may_lend(far_link *l, size_t size) noexcept
    void link_recall_segment(far_link *l, int number, size_t size, bint is_new) noexcept
    bint link_is_reserved(const far_link *l) noexcept
    void link_drop_segments(far_link *l) noexcept
    bint link_trim(far_link *l, int64_t before) noexcept
    void link_begin(far_link *l) noexcept
    int link_next(far_link *l, link_message *m) noexcept
    void link_finish(far_link *l) noexcept
    void link_taken_before(far_link *l, uint64_t popped) noexcept
    void link_told_before(far_link *l, uint64_t pushed) noexcept
    bint link_is_armed(const far_link *l) noexcept
    bint link_has_news(const far_link *l) noexcept
    bint link_has_ended_there(const far_link *l) noexcept
    int link_hear(far_link *l) noexcept
    void link_close_in(far_link *l) noexcept
    bint link_reserve_in(far_link *l) noexcept
    void link_yield_in(far_link *l) noexcept
    uint64_t link_waiting(const far_link *l) noexcept
    void link_figures_in(const far_link *l, link_figures *f) noexcept
    void link_figures_out(const far_link *l, link_figures *f) noexcept
    bint link_restore(far_link *l, const link_segment *segments, const void *partial, uint64_t partial_length,
                      uint64_t partial_size, int assembled_tag, uint16_t assembled_count, const int *descriptors,
                      size_t n) noexcept


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
        transport *transport
    enum: CHANNEL_OPEN
    channel *channel_new(size_t capacity, bint by_reference) noexcept
    void channel_incref(channel *c) noexcept
    bint channel_decref(channel *c) noexcept
    c_bool channel_connect(channel *c, transport *t) noexcept
    bint channel_close(channel *c, int side, waiter **tasks) noexcept
    void waiter_init(waiter *w, parker *p, void *task) noexcept
    void waiter_join(waiter *w, endpoint *e, waiter **list) noexcept
    bint waiter_leave(waiter *w, endpoint *e) noexcept
    waiter *endpoint_wake(endpoint *e, waiter **list) noexcept
    waiter *endpoint_wake_all(endpoint *e, waiter *tasks) noexcept
    int endpoint_arm(endpoint *e) noexcept
    size_t endpoint_length(endpoint *e) noexcept
    waiter *endpoint_pass_on(endpoint *e) noexcept
    waiter *endpoint_offer_room(endpoint *e) noexcept
    bint endpoint_spin_for_message(endpoint *e, uintptr_t tail, size_t popped, int64_t deadline) noexcept
    bint endpoint_spin_for_room(endpoint *e, size_t popped, int64_t deadline) noexcept
    void *endpoint_take(endpoint *e, c_bool *attention) noexcept
    void *endpoint_take_claimed(endpoint *e, c_bool *shut) noexcept


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
