# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil
"""Task queues: what is to be run in each context, in the order in which it was put there."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uintptr_t

from messagechannel._csrc cimport (
    RING_ARMED, RING_WAKE, TypeSlots, c_bool, inquiry, parker_now, ring_arm, ring_destroy, ring_init, ring_length,
    ring_pop, ring_push, ring_visit, shared_claim, steal, traverseproc, visitproc,
)
from messagechannel._events cimport EventTarget, write_unraisable

from messagechannel._context import current_context


cdef extern from "module_state.h":
    pass


cdef extern from "by_value.h":
    bint is_by_value(void *item) noexcept


cdef enum:
    # What one turn of a context does at most, so that a flood starves nobody.
    TURN_TASKS = 1000
    TURN_NANOSECONDS = 4000000


@cython.final
cdef class Repeated:
    """A task that is to be run many times: the messages that waited at a port when its listeners began to run."""

    def __cinit__(self, EventTarget target, size_t left):
        self.target = target
        self.left = left


@cython.final
cdef class TaskQueue:
    """What is to be run in one context, in order: a ring of tasks, woken once per burst.

    A task is an event target that has something to dispatch, a Repeated one, or any callable; the ring owns a reference
    to each. The ring is armed whenever ``run`` neither runs nor is scheduled. So ``run`` is scheduled once at a time,
    and runs in one thread at a time: a loop's own, or the dispatcher thread.
    """

    def __cinit__(self, context):
        ring_init(&self._ring, 0)
        ring_arm(&self._ring)
        self.context = context

    def __dealloc__(self):
        self.forget()
        ring_destroy(&self._ring)

    cdef void forget(self) noexcept:
        cdef c_bool shut
        cdef void *task
        while True:
            task = ring_pop(&self._ring, &shut)
            if task == NULL:
                break
            Py_DECREF(<object>task)

    cpdef int put(self, task) except -1:
        """Run `task` after everything that was put here before. In a closed context nothing runs any more."""
        cdef int outcome
        Py_INCREF(task)
        outcome = ring_push(&self._ring, <void *>task)
        if outcome < 0:
            Py_DECREF(task)
            raise MemoryError
        if self.context is None:
            # The garbage collector has found both the context and this, and whose task it is may not know yet.
            self.forget()
        elif outcome & RING_WAKE or shared_claim(&self._refused, True, False):
            self._schedule()
        elif self.context.is_closed():
            self.forget()
        return 0

    cdef int put_repeated(self, EventTarget target, size_t times) except -1:
        return self.put(Repeated(target, times))

    cdef int _schedule(self) except -1:
        try:
            self.context.schedule(self.run)
        except BaseException as error:
            # Whatever was raised, the next task tries again.
            self._refused = True
            if not isinstance(error, RuntimeError):
                raise
            # A closed loop, or an interpreter that starts no more threads. Messages wait at their ports.
            if self.context.is_closed():
                self.forget()
        return 0

    def is_idle(self):
        """Tell whether nothing waits to be run."""
        return self._unfinished is None and ring_length(&self._ring) == 0

    def run(self):
        """Run tasks until none is left or this turn is over; then ask for another turn."""
        cdef int64_t end = parker_now() + TURN_NANOSECONDS
        cdef int budget = TURN_TASKS
        cdef c_bool shut
        cdef void *item
        cdef bint finished = False
        try:
            while budget > 0 and parker_now() < end:
                budget -= 1
                if self._unfinished is not None:
                    self._step(self._unfinished)
                    continue
                item = ring_pop(&self._ring, &shut)
                if item == NULL:
                    if ring_arm(&self._ring) == RING_ARMED:
                        finished = True
                        break
                    continue
                self._run(steal(<PyObject *>item))
        except BaseException as error:
            # KeyboardInterrupt or SystemExit from a listener: a loop ends by it, the dispatcher thread does not.
            if not self.context.is_dispatcher:
                raise
            write_unraisable(error, self)
        finally:
            if not finished:
                self._schedule()

    cdef int _run(self, object task) except -1:
        if isinstance(task, EventTarget):
            (<EventTarget>task)._run_task(self)
        elif type(task) is Repeated:
            self._unfinished = <Repeated>task
        else:
            task()
        return 0

    cdef int _step(self, Repeated repeated) except -1:
        repeated.left -= 1
        if repeated.left == 0:
            self._unfinished = None
        if not repeated.target._run_task(self):
            self._unfinished = None
        return 0


cdef TaskQueue current_tasks():
    """Return the task queue of the context that runs here."""
    context = current_context()
    if context.tasks is None:
        # Whoever comes first: all threads without a loop share one context.
        context.__dict__.setdefault("tasks", TaskQueue(context))
    return context.tasks


# ---- garbage collection ----

cdef int visit_item(void *item, void *argument) noexcept:
    """Visit an object that a ring refers to; the low bit of its address is free for the ring's owner.

    An item may also be an int by value, which is no object.
    """
    cdef Visit *v = <Visit *>argument
    if is_by_value(item):
        return 0
    return v.visit(<PyObject *>(<uintptr_t>item & ~<uintptr_t>1), v.argument)


# Shared by all interpreters, each of which stores the same when it imports this module.
cdef extern from *:
    """
    static traverseproc traverse_fields;
    static inquiry clear_fields;
    """
    traverseproc traverse_fields
    inquiry clear_fields


cdef int traverse(PyObject *o, visitproc visit, void *argument) noexcept:
    cdef Visit v = Visit(visit, argument)
    cdef int answer = traverse_fields(o, visit, argument)
    return answer or ring_visit(&(<TaskQueue>o)._ring, visit_item, &v)


cdef int clear(PyObject *o) noexcept:
    (<TaskQueue>o).forget()
    return clear_fields(o)


# Cython has no way to visit what C structures hold, so the type's slots are replaced by ones that do.
traverse_fields = (<TypeSlots *>TaskQueue).tp_traverse
clear_fields = (<TypeSlots *>TaskQueue).tp_clear
(<TypeSlots *>TaskQueue).tp_traverse = traverse
(<TypeSlots *>TaskQueue).tp_clear = clear
