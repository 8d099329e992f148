# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""MessageChannel and MessagePort: a thin layer over the channel in csrc/.

Ownership.  A ``channel`` (csrc/channel.h) has two sides; each side is held by at most one *attached* MessagePort.
Transferring a port makes another handle the attached one, in O(1), and leaves the old one detached. Where the other
side is in another process, the channel has a transport (_transport.pyx).

An endpoint's ``listening`` is a strong reference to its attached port while that has listeners that a post of the peer
can reach: the standard's "as if by a strong reference from its peer". Hence the peer visits it for the garbage
collector.

Threads. Any thread may call any method of any port, with or without a GIL. What keeps that safe:

* ``_channel`` and ``_side`` are set once, before ``_posting`` and ``_attached`` say so, and the handle keeps the
  channel until it is deallocated. So a thread that has seen ``_posting`` or ``_attached`` may use the rings even while
  another one closes or transfers the port: the queue is where it was, and the message went, or came, just before.
* ``_posting`` and ``_attached`` change under the lock ``handles``, all ports of a transfer list at once. Of transfers
  and a close that race, each is decided before the next.
* The endpoint's lock guards what hangs on the attached port: ``listening``, ``close_told``, and the port's ``_tasks``,
  ``_announced`` and ``_next_task``. Whoever changes them looks at ``_attached`` under that lock; whoever uses what they
  refer to takes a reference under it. Order of locks: ``handles``, an endpoint's, a ring's token.
* Under a lock nothing is called that could run Python code, and no reference is dropped that could be the last one:
  destructors, callbacks of event loops and listeners all run after it was given back.
* Whoever is about to sleep joins the list of waiters first and looks again after that, at the handle as at the queue.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetObject
from cpython.list cimport PyList_New
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uintptr_t

import os
import sys
from _weakref import ref

from messagechannel._context import SETTLE_SECONDS as _SETTLE_SECONDS
from messagechannel._context import give_way, new_wakeup, settle
from messagechannel._transfer import DataCloneError, register_handles

from messagechannel._clone cimport Serialized, clone, serialize
from messagechannel._csrc cimport (
    CHANNEL_OPEN, PARKER_UNPARKED, RING_ANNOUNCE, RING_ARMED, RING_NOT_EMPTY, RING_NO_MEMORY, RING_WAKE,
    THREADS_AT_ONCE, Py_GenericAlias, TypeSlots, bring_home, c_bool, channel, channel_close, channel_decref,
    channel_incref, channel_new, endpoint, endpoint_arm, endpoint_length, endpoint_offer_room, endpoint_pass_on,
    endpoint_spin_for_message, endpoint_spin_for_room, endpoint_take, endpoint_wake, endpoint_wake_all, inquiry,
    newfunc, parker, parker_destroy, parker_handles_signals, parker_init, parker_now, parker_park, ring, ring_announce,
    ring_close, ring_closed, ring_drained, ring_length, ring_peak, ring_pop, ring_pop_many, ring_popped, ring_push,
    ring_push_many, ring_pushed, ring_reserve, ring_return_room, ring_tail, ring_visit, shared_claim, shared_number,
    spin_acquire, spin_lock, spin_release, steal, traverseproc, visitproc, waiter, waiter_init, waiter_join,
    waiter_leave,
)
from messagechannel._events cimport (
    HEARS_CLOSE, HEARS_ERROR, HEARS_MESSAGE, Event, EventTarget, message_event, report, trusted_event, write_unraisable,
)
from messagechannel._tasks cimport TaskQueue, Visit, current_tasks, visit_item
from messagechannel._transfer cimport Transfer
from messagechannel._transport cimport (
    Envelope, Figures, Sealed, Transport, discard, is_by_value, is_envelope, item_by_value, open_item, owned_item,
    taken, unopened,
)


cdef extern from "module_state.h":
    pass


cdef extern from "walk.h":
    bint is_atom(PyObject *value) noexcept


cdef extern from "by_value.h":
    # For callers in C: an exception stays set.
    PyObject *new_int "int_by_value"(PyObject *item) noexcept


cdef extern from "fill.h":
    size_t fill_slots(list messages, size_t filled, void **items, size_t n) noexcept
    void cut_slots(list messages, size_t filled) noexcept


cdef extern from "handover.h":
    void incref_shared(PyObject *o) noexcept


cdef extern from "direct_call.h":
    object none()
    ctypedef object (*wrapper)(object self, PyObject *const *arguments, Py_ssize_t number, PyObject *names)
    int call_directly(type type, const char *name, wrapper direct, wrapper *former) except -1


cdef extern from *:
    """
    static inline int is_finalizing(void)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        return Py_IsFinalizing();
    #else
        return _Py_IsFinalizing();
    #endif
    }

    /* How Receive hands a message to `await`, in C because a StopIteration that Cython raises costs a traceback.
       `fast` takes a message without waiting, or fails with an exception; `slow` does everything else. */
    static int (*receive_fast)(PyObject *self, PyObject **message);
    static PyObject *(*receive_slow)(PyObject *self, PyObject *value);
    static PyObject *(*receive_stop)(PyObject *self);

    static PyObject *receive_iternext(PyObject *self)
    {
        PyObject *message;
        if (!receive_fast(self, &message))
            return receive_slow(self, Py_None);
        if (!message)
            return NULL;
        /* Making an exception for each message would cost more than all the rest.  Its value is set, not its argument,
           so that a tuple arrives as such. */
        PyObject *stop = receive_stop(self);
        if (!stop) {
            Py_DECREF(message);
            return PyErr_NoMemory();
        }
        Py_XSETREF(((PyStopIterationObject *)stop)->value, message);
    #if PY_VERSION_HEX >= 0x030C0000
        PyErr_SetRaisedException(stop);
    #else
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    #endif
        return NULL;
    }

    /* What the interpreter prefers to tp_iternext where it can use it, up to CPython 3.11. */
    static PySendResult receive_send(PyObject *self, PyObject *value, PyObject **result)
    {
        PyObject *type, *stop, *traceback;
        if (receive_fast(self, result))
            return *result ? PYGEN_RETURN : PYGEN_ERROR;
        *result = receive_slow(self, value);
        if (*result)
            return PYGEN_NEXT;
        if (!PyErr_ExceptionMatches(PyExc_StopIteration))
            return PYGEN_ERROR;
        PyErr_Fetch(&type, &stop, &traceback);
        PyErr_NormalizeException(&type, &stop, &traceback);
        *result = Py_NewRef(((PyStopIterationObject *)stop)->value);
        Py_XDECREF(type);
        Py_XDECREF(stop);
        Py_XDECREF(traceback);
        return PYGEN_RETURN;
    }

    static void install_receive(PyTypeObject *type)
    {
        type->tp_iternext = receive_iternext;
    #if PY_VERSION_HEX < 0x030C0000
        type->tp_as_async->am_send = receive_send;
    #else
        (void)receive_send;
    #endif
    }
    """
    bint is_finalizing() noexcept
    Py_ssize_t Py_REFCNT(PyObject *o) noexcept
    int (*receive_fast)(object self, PyObject **message) noexcept
    object (*receive_slow)(object self, object value)
    PyObject *(*receive_stop)(object self) noexcept
    void install_receive(TypeSlots *type) noexcept


# What all interpreters share: no Python object. Each of them stores the same into the pointers when it imports this
# module, before it uses them, and nothing ever changes the value.
cdef extern from *:
    """
    /* Grows with every fork. A port belongs to the process whose number it carries: in a forked child, inherited ports
       are closed, without a look at their locks or queues. */
    static uint32_t process_number = 1;
    /* See SETTLE_SECONDS. */
    static int64_t settle_nanoseconds;
    /* Held while the `_posting` or `_attached` of any port changes. */
    static spin_lock handles;
    /* MessagePort's own tp_new; the public one refuses. */
    static newfunc construct_port;
    /* What Cython makes, where the types have something else; and what EventTarget, its base, has. */
    static traverseproc traverse_fields_of_port, traverse_target;
    static inquiry clear_fields_of_port, clear_target;
    static wrapper post_message_wrapper, receive_wrapper;
    """
    uint32_t process_number
    int64_t settle_nanoseconds
    spin_lock handles
    newfunc construct_port
    traverseproc traverse_fields_of_port, traverse_target
    inquiry clear_fields_of_port, clear_target
    wrapper post_message_wrapper, receive_wrapper


class ChannelClosedError(Exception):
    """The channel was closed, or the port transferred away, and no message is left to receive."""

    __module__ = "messagechannel"


_PASSES_REFERENCES = ("a port of a channel that passes references (copy=False) can't go to another process; "
                      "make the channel without copy=False")

# See set_reduction.
_reduce_for_multiprocessing = None


def set_reduction(reduction):
    """Have `reduction` called for what multiprocessing's pickler is to pickle in place of a port."""
    global _reduce_for_multiprocessing
    _reduce_for_multiprocessing = reduction


def _count_fork():
    global process_number
    process_number += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)

settle_nanoseconds = <int64_t>((_SETTLE_SECONDS or 0) * 1000000000)

cdef enum:
    # Messages that a batch moves at once.
    CHUNK = 256
    # Times that a receiver is told of news and finds none before it asks to be woken.
    SPINS = 100
    # Messages that one task receives without waiting before its event loop gets a turn.
    TASK_MESSAGES = 1000
    # A signal need not end a sleep: whoever handles them looks this often.
    SIGNAL_SLICE_NANOSECONDS = 50000000
    # What a Receive is: to be stepped, being stepped by a thread, or finished.
    READY = 0
    STEPPING = 1
    FINISHED = 2
    # What _push_atom returns instead of what ring_push does.
    NOT_AN_ATOM = -100
    NANOSECONDS = 1000000000


cdef int64_t deadline_of(object timeout) except -1:
    """Return the time of parker_now() when `timeout` seconds from now have passed, INT64_MAX for never."""
    cdef double seconds
    if timeout is None:
        return INT64_MAX
    if isinstance(timeout, (str, bytes)) or not hasattr(timeout, "__float__") and not hasattr(timeout, "__index__"):
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
    try:
        seconds = timeout
    except OverflowError:
        if timeout > 0:
            return INT64_MAX
        raise ValueError("timeout must not be negative; 0 tries once") from None
    if not seconds >= 0:
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}; None waits for ever")
    cdef int64_t now = parker_now()
    # 292 years of nanoseconds fit into 64 bits; nobody will notice that the wait does not end then.
    return INT64_MAX if seconds >= <double>(INT64_MAX - now) / NANOSECONDS else now + <int64_t>(seconds * NANOSECONDS)


def seconds_of(timeout):
    """Return a timeout as a float, infinity for None.

    :raises TypeError: for what is not a number.
    :raises ValueError: for a negative number or NaN.
    """
    if deadline_of(timeout) == INT64_MAX:
        return float("inf")
    return float(timeout)


# ---- waiting ----

@cython.final
@cython.no_gc_clear
cdef class TaskWaiter:
    """A task of an event loop that waits at an endpoint.

    The list that it is in owns a reference, which the port visits for the garbage collector. It is not cleared by that,
    because it has to leave the list first; the coroutine that holds it does so when it is closed.
    """

    cdef waiter _waiter
    cdef object _wakeup
    # Keeps the endpoint alive.
    cdef MessagePort _port
    cdef endpoint *_endpoint
    cdef bint _receives

    @staticmethod
    cdef TaskWaiter join(MessagePort port, bint receives):
        cdef TaskWaiter self = TaskWaiter.__new__(TaskWaiter)
        self._wakeup = new_wakeup()
        self._port = port
        self._endpoint = port.inbox() if receives else port.outbox()
        self._receives = receives
        waiter_init(&self._waiter, NULL, <void *>self)
        Py_INCREF(self)
        waiter_join(&self._waiter, self._endpoint,
                    &self._endpoint.receivers if receives else &self._endpoint.senders)
        return self

    cdef int leave(self) except -1:
        if waiter_leave(&self._waiter, self._endpoint):
            Py_DECREF(self)
        return 0


cdef void tell(waiter *tasks) noexcept:
    """Wake tasks that were taken off a list. One whose event loop is gone passes its turn on to the next."""
    cdef TaskWaiter task
    cdef waiter *following
    while tasks != NULL:
        following = tasks.next
        task = <TaskWaiter>tasks.task
        # The list's reference is ours now, and ends with this one.
        Py_DECREF(task)
        try:
            task._wakeup.notify()
        except BaseException as error:
            if not isinstance(error, RuntimeError):
                write_unraisable(error, task._wakeup)
            tell(endpoint_pass_on(task._endpoint) if task._receives else endpoint_offer_room(task._endpoint))
        tasks = following


cdef int park(parker *p, int64_t deadline) except -1:
    """Sleep without the GIL until woken, until the deadline, or until a signal was handled."""
    cdef int64_t until = deadline
    cdef int parked
    if parker_handles_signals():
        until = min(deadline, parker_now() + SIGNAL_SLICE_NANOSECONDS)
    elif THREADS_AT_ONCE:
        until = min(deadline, parker_now() + settle_nanoseconds)
    with nogil:
        parked = parker_park(p, until)
    if parked != PARKER_UNPARKED:
        PyErr_CheckSignals()
        if THREADS_AT_ONCE:
            settle()
    return 0


# ---- ports ----

@cython.final
cdef class PortStatistics:
    """Figures of one port, as :meth:`MessagePort.statistics` read them.

    :ivar posted: messages that this port has posted into its peer's queue.
    :ivar received: messages that were taken from this port's queue, by listeners or by receiving.
    :ivar waiting: messages in this port's queue.
    :ivar peak: the most messages that have been in this port's queue at once.
    :ivar capacity: the most that may wait there, None for no limit.
    """

    cdef readonly size_t posted
    cdef readonly size_t received
    cdef readonly size_t waiting
    cdef readonly size_t peak
    cdef readonly object capacity

    def __init__(self, *args, **kwargs):
        raise TypeError("PortStatistics can't be constructed; call port.statistics()")

    cdef tuple _astuple(self):
        return (self.posted, self.received, self.waiting, self.peak, self.capacity)

    def __eq__(self, other):
        if type(other) is not PortStatistics:
            return NotImplemented
        return self._astuple() == (<PortStatistics>other)._astuple()

    def __hash__(self):
        return hash(self._astuple())

    def __repr__(self):
        return (f"PortStatistics(posted={self.posted}, received={self.received}, waiting={self.waiting}, "
                f"peak={self.peak}, capacity={self.capacity})")


@cython.final
cdef class Outgoing:
    """A message on its way out: checked and cloned, its transferables not yet detached."""

    # The clone, or a Serialized; what the transport made of it, if there is one.
    cdef object data
    # It is to arrive as this very object.
    cdef bint by_reference
    cdef Transfer transfer
    cdef Transport transport
    # The target is in the transfer list: the message goes nowhere (HTML Standard, message port post message steps).
    cdef bint doomed

    cdef bint transfers(self, object message) except -1:
        """Tell whether the message itself is a listed item, of which the receiver gets another object in any case."""
        return self.transfer is not None and self.transfer.place_of(message) is not None

    cdef PyObject *item(self) except NULL:
        """Detach what is transferred and return an owned queue item. The caller has called ``transfer.check``.

        What a ``__transfer__`` raises, or what it returned that can't be sent, leaves the rest of the list as it was.
        """
        cdef Envelope envelope
        cdef PyObject *item
        if self.transfer is None:
            item = NULL if self.by_reference else item_by_value(<PyObject *>self.data)
            return item if item != NULL else owned_item(self.data)
        self.transfer.call_methods()
        if self.transport is not None:
            self.transport.rehearse(self.data)
            # What ran for that may have detached or exported items.
            self.transfer.check()
        self.transfer.move()
        ports = tuple([port for port in self.transfer.received if isinstance(port, MessagePort)])
        if self.transport is not None:
            self.transport.seal(self.data)
            return owned_item(self.data)
        if not ports and type(self.data) is not Serialized:
            Py_INCREF(self.data)
            return <PyObject *>self.data
        envelope = Envelope.__new__(Envelope)
        envelope.data = self.data
        envelope.ports = ports
        return owned_item(envelope)


@cython.trashcan(True)
cdef class MessagePort(EventTarget):
    """One end of a channel: what is posted here arrives at the other end (HTML Standard, "Message ports").

    Ports come in pairs, from :class:`MessageChannel`, or in messages; they can't be constructed.

    A port has two faces on one queue. The standard's: :meth:`post_message`, ``onmessage``, ``add_event_listener``,
    :meth:`start`, :meth:`close`. Python's: :meth:`send`, :meth:`receive`, iteration and their awaitable twins. Both may
    be used together; each message goes to exactly one taker. Every method may be called from any thread.

    ``len(port)`` is the number of messages that wait; a port is true even when none does.
    """

    cdef channel *_channel
    cdef uint32_t _side
    # process_number while this handle may post: until close or transfer.
    cdef shared_number _posting
    # process_number while this is the side's attached handle: until transfer.
    cdef shared_number _attached
    # Messages that tasks received or sent in a row without waiting, more or less.
    cdef shared_number _without_waiting
    cdef shared_number _started
    # A task in the context is about what comes by the transport; whoever claims this puts it there.
    cdef shared_number _roused
    # The three below: under the endpoint's lock.
    cdef bint _announced
    # The number of the message that the next task in the context is about: the tasks there and this number are together
    # at least the number of messages ever pushed. A task whose message was taken already does nothing, lest
    # it takes a later message before its time.
    cdef size_t _next_task
    # Where events are dispatched.
    cdef TaskQueue _tasks
    # A weak reference to the handle that took over from this one. Under the endpoint's lock; without the GIL only.
    cdef object _heir
    cdef object __weakref__

    # -- life --

    @staticmethod
    cdef MessagePort make(type cls, channel *c, uint32_t side):
        """Make the attached handle of a side; takes over a reference to the channel, whatever is raised."""
        cdef MessagePort self
        try:
            self = construct_port(cls, <PyObject *>(), NULL)
        except BaseException:
            release_channel(c)
            raise
        self._bind(c, side)
        return self

    cdef void _bind(self, channel *c, uint32_t side) noexcept:
        self._channel = c
        self._side = side
        self._posting = process_number
        self._attached = process_number

    def __del__(self):
        # Before the garbage collector clears anything: the peer, which may be garbage too, is told of the close. If it
        # has a listener, it is put into a task queue, where the collector finds it again and lets it be (PEP 442).
        if self._channel != NULL and self.attached():
            self._posting = 0
            self.sever()

    def __dealloc__(self):
        if self._channel != NULL:
            if self.attached():
                # Again: a subclass may have a __del__ of its own.
                self.sever()
                self.discard_messages()
            release_channel(self._channel)

    def __reduce__(self):
        # multiprocessing's own pickler, of which no trace but its caller's frame can be seen from here.
        if type(self) is MessagePort and sys._getframe().f_globals.get("__name__") == "multiprocessing.reduction":
            return _reduce_for_multiprocessing(self)
        raise TypeError(f"cannot pickle {type(self).__name__!r} object: a port travels in a transfer list, "
                        "post_message(..., transfer=[port]), or where multiprocessing passes its connections")

    @classmethod
    def __class_getitem__(cls, item):
        return Py_GenericAlias(cls, item)

    cdef inline endpoint *inbox(self) noexcept:
        return &self._channel.side[self._side]

    cdef inline endpoint *outbox(self) noexcept:
        return &self._channel.side[self._side ^ 1]

    cdef inline Transport transport(self):
        """Return the way to the other side, None while that is in this process."""
        return <Transport>self._channel.transport.owner if self._channel.transport != NULL else None

    cdef inline bint attached(self) noexcept:
        return self._attached == process_number

    cdef inline bint is_of_this_process(self) noexcept:
        return self._attached == process_number or self._attached == 0

    cdef inline bint may_send(self) noexcept:
        return self._posting == process_number and not ring_closed(&self.outbox().inbox) and (
            self._channel.transport == NULL or not self.transport().is_deaf())

    cdef void discard_messages(self) noexcept:
        cdef c_bool shut
        cdef PyObject *item
        while not ring_drained(&self.inbox().inbox):
            item = <PyObject *>ring_pop(&self.inbox().inbox, &shut)
            if item != NULL:
                discard(item)

    cdef void sever(self) noexcept:
        cdef Transport transport = self.transport()
        if transport is None or is_finalizing():
            close_channel(self._channel, self._side)
            return
        try:
            transport.close()
        except BaseException as error:
            write_unraisable(error, self)

    def close(self):
        """Sever the channel; nothing that is posted on either side after this arrives.

        Messages that arrived before stay receivable, here and at the other port; there, a ``close`` event follows the
        last of them. Closing a closed port does nothing, and neither does closing one that was transferred away.
        """
        cdef bint ours
        spin_acquire(&handles)
        ours = self.attached()
        if ours:
            self._posting = 0
        spin_release(&handles)
        if ours:
            self.sever()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    @property
    def closed(self):
        """Whether the channel is severed here: closed on either side, or this port transferred away.

        Messages may still wait.
        """
        return not self.attached() or self._channel.closed_by != CHANNEL_OPEN or (
            self._channel.transport != NULL and self.transport().is_deaf())

    def __len__(self):
        if not self.attached():
            return 0
        if self._channel.transport != NULL:
            self.transport().wait_for_rest()
        return endpoint_length(self.inbox())

    def __bool__(self):
        return True

    def __repr__(self):
        state = "transferred" if not self.attached() else "closed" if self.closed else "open"
        return f"<{type(self).__name__} {state}, {len(self)} waiting>"

    def statistics(self):
        """Return a :class:`PortStatistics` with the figures of this port; all 0 once it was transferred away."""
        cdef PortStatistics figures = PortStatistics.__new__(PortStatistics)
        cdef Figures incoming, outgoing
        cdef ring *queue
        if self.attached():
            queue = &self.inbox().inbox
            figures.waiting = endpoint_length(self.inbox())
            figures.capacity = queue.capacity or None
            if self._channel.transport != NULL:
                self.transport().figures(&incoming, &outgoing)
                figures.posted = outgoing.posted
                figures.received = incoming.taken
                # It grows when somebody looks.
                figures.peak = max(<size_t>incoming.peak, figures.waiting)
            else:
                figures.posted = ring_pushed(&self.outbox().inbox)
                figures.received = ring_popped(queue)
                figures.peak = ring_peak(queue)
        return figures

    # -- transfer --

    cdef object obstacle(self):
        """Say why this port can't be transferred, or None (HTML Standard, "transfer steps")."""
        if not self.attached():
            return "it was transferred before"
        if self._posting != process_number:
            return "it is closed"
        return None

    cdef void _hand_over(self, MessagePort received) noexcept:
        """Make `received` the attached handle of this side. The queue stays where it is, and so nothing is lost.

        ``handles`` is held, and the caller has a reference to both.
        """
        cdef endpoint *e = self.inbox()
        spin_acquire(&e.lock)
        self._posting = 0
        self._attached = 0
        self._announce(False)
        if e.listening != NULL:
            e.listening = NULL
            Py_DECREF(self)
        channel_incref(self._channel)
        received._bind(self._channel, self._side)
        spin_release(&e.lock)

    cdef int settle_move(self, MessagePort received) except -1:
        """Do what is left to be done once `received` has taken over."""
        cdef TaskQueue _former
        cdef endpoint *e = self.inbox()
        heir = ref(received) if THREADS_AT_ONCE else None
        spin_acquire(&e.lock)
        _former = self._tasks
        self._tasks = None
        self._heir = heir
        spin_release(&e.lock)
        # Whoever sleeps in a method of this handle finds it detached.
        tell(endpoint_wake_all(e, endpoint_wake_all(self.outbox(), NULL)))
        try:
            # Whoever met the new handle inside the message, while that was being rebuilt, may have added listeners.
            received._listeners_changed()
        except BaseException as error:
            write_unraisable(error, received)
        return 0

    # -- posting --

    cdef Outgoing prepare(self, object message, object transfer):
        cdef Outgoing outgoing = Outgoing.__new__(Outgoing)
        cdef MessagePort port
        if transfer is not None and transfer is not ():
            outgoing.transfer = Transfer(transfer, self)
            for item in outgoing.transfer.items:
                if isinstance(item, MessagePort):
                    port = item
                    if port.attached() and self._channel != NULL and self._leads_to(port):
                        outgoing.doomed = True
        if self._channel != NULL and self._channel.transport != NULL and self.may_send() and not outgoing.doomed:
            refuse_references(outgoing.transfer)
            outgoing.transport = self.transport()
            outgoing.data = outgoing.transport.pack(message, outgoing.transfer)
        elif self._channel != NULL and self._channel.by_reference and not outgoing.transfers(message):
            outgoing.data = message
            outgoing.by_reference = True
        elif outgoing.transfer is not None and outgoing.transfer.deferred:
            outgoing.data = serialize(message, outgoing.transfer)
        else:
            outgoing.data = clone(message, outgoing.transfer)
        if outgoing.transfer is not None:
            outgoing.transfer.check()
        return outgoing

    cdef bint _leads_to(self, MessagePort port) noexcept:
        """Tell whether a port is the other end of this one's channel."""
        return port._channel == self._channel or (
            port._channel.transport != NULL and self._channel.transport != NULL
            and self.transport().is_other_end(port.transport()))

    cdef bint _push(self, PyObject *item) except -1:
        """Put an owned item into the peer's queue; False when that is closed. Room was reserved."""
        if self._channel.transport != NULL:
            return self.transport().post(item)
        cdef int outcome = ring_push(&self.outbox().inbox, item)
        if outcome > 0:
            self._pushed(outcome, 1)
        elif outcome < 0:
            discard(item)
            if outcome == RING_NO_MEMORY:
                self._return_room(1)
                raise MemoryError
            return False
        return True

    cdef int _pushed(self, int outcome, size_t n) except -1:
        """Wake who is to be woken after a push of `n` messages."""
        cdef endpoint *e = self.outbox()
        cdef TaskQueue tasks = None
        cdef MessagePort peer = None
        if outcome & RING_WAKE:
            if self._channel.transport != NULL:
                # It has got a transport in this very moment, which is yet to begin with what waits: see depart.
                return 0
            tell(endpoint_wake(e, &e.receivers))
        if outcome & RING_ANNOUNCE:
            spin_acquire(&e.lock)
            if e.listening != NULL:
                peer = <MessagePort>e.listening
                tasks = peer._tasks
            spin_release(&e.lock)
            if tasks is None:
                # Whoever has taken the listener away meanwhile counts what waits, or lets it wait.
                return 0
            if n == 1:
                tasks.put(peer)
            else:
                tasks.put_repeated(peer, n)
        return 0

    def post_message(self, message, transfer=()):
        """Post a clone of `message` to the other port; never blocks (HTML Standard, ``postMessage``).

        On a port whose other side is gone, and on one that was closed or transferred away, everything happens but the
        delivery, and nothing is raised.

        :param message: what :func:`structured_clone` can clone; anything, where the channel has ``copy=False``.
        :param transfer: an iterable of transferable objects, read once: they belong to the receiver afterwards and are
            detached here. None means none.
        :raises DataCloneError: for what can't be cloned or transferred.
        :raises TypeError: for a transfer list that is not an iterable of objects.
        :raises queue.Full: when as many messages wait as the channel has capacity for.
        :raises OSError: when there is no memory or no descriptor for what is to be sent to another process.

        Whatever is raised, nothing was posted and nothing was transferred, except what a ``__transfer__`` of the same
        list had detached before.

        Where the other port is in another process, what the way there has no room for waits in this process's memory,
        and is sent as the other one takes what came before; shared memory stays bounded. A channel without a capacity
        is bounded by this process's memory alone.
        """
        cdef int outcome = NOT_AN_ATOM if transfer is not () else self._push_atom(<PyObject *>message)
        if outcome == NOT_AN_ATOM:
            self._post(self.prepare(message, transfer))
        elif outcome != 0:
            self._posted(outcome)

    cdef inline int _push_atom(self, PyObject *message) noexcept:
        """The fast path: push a message that needs neither a clone nor room, else return NOT_AN_ATOM."""
        cdef int outcome
        cdef ring *queue
        cdef PyObject *item
        if self._posting != process_number:
            return NOT_AN_ATOM
        queue = &self.outbox().inbox
        if queue.bounded or self._channel.transport != NULL:
            return NOT_AN_ATOM
        item = self._atom(message)
        if item == NULL:
            return NOT_AN_ATOM
        outcome = ring_push(queue, item)
        if outcome < 0:
            discard(item)
        return outcome

    cdef inline PyObject *_atom(self, PyObject *message) noexcept:
        """Return the owned queue item for a message that needs no clone, else NULL."""
        cdef bint by_reference = self._channel.by_reference
        cdef PyObject *item = NULL if by_reference else item_by_value(message)
        if item == NULL and (by_reference or is_atom(message)):
            incref_shared(message)
            item = message
        return item

    cdef int _posted(self, int outcome) except -1:
        """After _push_atom, for a caller who does not care whether the channel is closed."""
        if outcome > 0:
            self._pushed(outcome, 1)
        elif outcome == RING_NO_MEMORY:
            raise MemoryError
        return 0

    cdef int _post(self, Outgoing outgoing) except -1:
        cdef bint deliver = self.may_send() and not outgoing.doomed
        cdef PyObject *item
        if deliver and self._reserve(1) == 0:
            raise_full(self.outbox().inbox.capacity)
        try:
            item = outgoing.item()
        except BaseException:
            if deliver:
                self._return_room(1)
            raise
        if deliver:
            self._push(item)
        else:
            discard(item)
        return 0

    cdef size_t _reserve(self, size_t wanted) noexcept:
        """Reserve room for messages; return for how many."""
        cdef ring *queue = &self.outbox().inbox
        cdef size_t room = ring_reserve(queue, wanted)
        if room == 0 and self._channel.transport != NULL:
            ring_return_room(queue, self.transport().collect())
            room = ring_reserve(queue, wanted)
        return room

    cdef bint _reserve_or_arm(self) noexcept:
        """Reserve room for one message, or else see to it that whoever makes room tells."""
        cdef bint armed
        while True:
            if self._reserve(1):
                return True
            if self._channel.transport == NULL:
                return False
            armed = self.transport().arm_room()
            # What was taken before that has told nobody.
            if self._reserve(1):
                return True
            if armed or not self.may_send():
                return False

    cdef int _return_room(self, size_t n) except -1:
        """Give back the room for messages that was reserved and is not needed: somebody may wait for it."""
        ring_return_room(&self.outbox().inbox, n)
        tell(endpoint_offer_room(self.outbox()))
        return 0

    cdef int _wait_for_room(self, int64_t deadline) except -1:
        """Reserve room for one message, and wait for it if need be."""
        cdef endpoint *e
        cdef parker p
        cdef waiter w
        cdef size_t popped
        cdef bint came
        parker_init(&p)
        waiter_init(&w, &p, NULL)
        try:
            while True:
                if not self.may_send():
                    raise_closed(self)
                e = self.outbox()
                if self._reserve(1):
                    return 0
                popped = ring_popped(&e.inbox)
                with nogil:
                    came = endpoint_spin_for_room(e, popped, deadline)
                if came:
                    continue
                if parker_now() >= deadline:
                    raise TimeoutError("no room within the timeout")
                # A signal that came meanwhile would not end the sleep.
                PyErr_CheckSignals()
                waiter_join(&w, e, &e.senders)
                try:
                    if self.may_send():
                        if self._reserve_or_arm():
                            return 0
                        if self.may_send():
                            park(&p, deadline)
                finally:
                    waiter_leave(&w, e)
        finally:
            parker_destroy(&p)
            if self.is_of_this_process():
                # The baton: whoever leaves lets the next sender look, who may be another handle's.
                tell(endpoint_offer_room(self.outbox()))

    def send(self, message, transfer=(), timeout=None):
        """Post a clone of `message`, and wait for room in a bounded channel.

        :param message: as for :meth:`post_message`.
        :param transfer: as for :meth:`post_message`.
        :param timeout: seconds to wait for room; None waits for ever, 0 tries once.
        :raises ChannelClosedError: when the channel is closed, or this port was transferred away.
        :raises TimeoutError: when there was no room within the timeout.
        :raises DataCloneError: for what can't be cloned or transferred.
        :raises TypeError: for a transfer list or a timeout of the wrong type.
        :raises ValueError: for a timeout that is negative or NaN.

        Whatever is raised, nothing was posted and nothing was transferred, except what a ``__transfer__`` of the same
        list had detached before; and only a close by the other side in the very moment of the send can take transferred
        objects along.
        """
        cdef int64_t deadline = deadline_of(timeout)
        cdef Outgoing outgoing
        cdef int outcome = NOT_AN_ATOM if transfer is not () else self._push_atom(<PyObject *>message)
        if outcome == NOT_AN_ATOM:
            outgoing = self.prepare(message, transfer)
            if not self.may_send():
                raise_closed(self)
            if self.outbox().inbox.bounded:
                self._wait_for_room(deadline)
            self._send(outgoing)
        else:
            self._sent(outcome)

    cdef int _sent(self, int outcome) except -1:
        """After _push_atom: wake who is to be woken, or raise."""
        if outcome < 0 and outcome != RING_NO_MEMORY:
            raise_closed(self)
        self._posted(outcome)
        return 0

    cdef int _send(self, Outgoing outgoing) except -1:
        """Push what room was reserved for; what was waiting may have changed what is transferred."""
        cdef PyObject *item
        try:
            if outgoing.transfer is not None:
                outgoing.transfer.check()
            item = outgoing.item()
        except BaseException:
            self._return_room(1)
            raise
        if outgoing.doomed:
            discard(item)
        elif not self._push(item):
            # Whoever else waits for it is to learn of the end, too.
            self._return_room(1)
            raise_closed(self)
        return 0

    async def asend(self, message, transfer=(), timeout=None):
        """Post a clone of `message`, and let other tasks run while a bounded channel has no room.

        To be awaited on asyncio or trio. Parameters and errors are those of :meth:`send`; a cancelled asend has posted
        nothing.

        :raises RuntimeError: where it has to wait and neither asyncio nor trio runs.
        """
        cdef int64_t deadline = deadline_of(timeout)
        cdef Outgoing outgoing
        cdef TaskWaiter w
        cdef int outcome
        self._without_waiting += 1
        if self._without_waiting >= TASK_MESSAGES:
            self._without_waiting = 0
            await give_way()
        outcome = NOT_AN_ATOM if transfer is not () else self._push_atom(<PyObject *>message)
        if outcome != NOT_AN_ATOM:
            self._sent(outcome)
            return
        outgoing = self.prepare(message, transfer)
        if not self.may_send():
            raise_closed(self)
        while not self._reserve(1):
            if parker_now() >= deadline:
                raise TimeoutError("no room within the timeout")
            w = TaskWaiter.join(self, False)
            try:
                # Anew: joining runs code of the event loop's, and a close meanwhile has woken nobody.
                if self.may_send():
                    if self._reserve_or_arm():
                        break
                    if self.may_send():
                        await w._wakeup.wait(seconds_until(deadline))
            finally:
                w.leave()
                # The baton: whoever leaves lets the next sender look.
                tell(endpoint_offer_room(w._endpoint))
            if not self.may_send():
                raise_closed(self)
        self._send(outgoing)

    def send_many(self, messages, /):
        """Send every message of an iterable, in order, with one synchronisation per batch.

        In a bounded channel it waits for room. Messages that come before one that raises have been sent. A batch goes
        when 256 messages have been yielded, or all: an iterable must not wait for the answer to what it has yielded.

        :raises ChannelClosedError: when the channel is closed, or this port was transferred away.
        :raises DataCloneError: for a message that can't be cloned.
        :raises TypeError: for something that is not an iterable.
        """
        cdef void *chunk[CHUNK]
        cdef size_t n = 0
        cdef PyObject *item
        if not self.may_send():
            raise_closed(self)
        try:
            for message in messages:
                item = self._atom(<PyObject *>message)
                chunk[n] = <void *>(item if item != NULL else self.prepare(message, None).item())
                n += 1
                if n == CHUNK:
                    n = 0
                    self._send_chunk(chunk, CHUNK)
        finally:
            self._send_chunk(chunk, n)

    cdef int _send_chunk(self, void **chunk, size_t n) except -1:
        """Send owned messages; those that can't be sent are discarded and an exception raised."""
        cdef size_t sent = 0, room, pushed
        cdef int outcome
        cdef ring *queue = &self.outbox().inbox
        try:
            while sent < n:
                room = n - sent
                if self._posting != process_number:
                    raise_closed(self)
                if queue.bounded:
                    room = self._reserve(room)
                    if room == 0:
                        self._wait_for_room(INT64_MAX)
                        room = 1
                if self._channel.transport != NULL:
                    outcome = 0
                    try:
                        self.transport().post_many(chunk + sent, room, &pushed)
                    except BaseException:
                        # That of the one for which it raises is no longer ours.
                        self._return_room(room - pushed - 1)
                        sent += pushed + 1
                        raise
                else:
                    pushed = ring_push_many(queue, chunk + sent, room, &outcome)
                sent += pushed
                if outcome > 0:
                    self._pushed(outcome, pushed)
                if pushed < room:
                    self._return_room(room - pushed)
                    if outcome == RING_NO_MEMORY:
                        raise MemoryError
                    raise_closed(self)
        finally:
            while sent < n:
                discard(<PyObject *>chunk[sent])
                sent += 1
        return 0

    # -- receiving --

    cdef inline PyObject *take(self) except? NULL:
        """Take the oldest message off the queue, or NULL. The port is attached.

        What has come from another process may be there and raise, for want of memory or descriptors; it stays.
        """
        cdef c_bool attention
        cdef PyObject *item = <PyObject *>endpoint_take(self.inbox(), &attention)
        if attention:
            self.attend()
        if self._channel.transport != NULL:
            return self.take_from_afar(item)
        return item

    cdef PyObject *take_from_afar(self, PyObject *item) except? NULL:
        """Take the oldest message that came by the transport, unless `item` was taken before."""
        cdef Transport transport = self.transport()
        cdef c_bool attention
        if item != NULL:
            transport.taken_before(ring_popped(&self.inbox().inbox))
        elif transport.take_many(<void **>&item, 1) == 0:
            # If the link has ended, what was left has come into the inbox, by this thread or by another.
            transport.settle()
            item = <PyObject *>endpoint_take(self.inbox(), &attention)
            if attention:
                self.attend()
        return item

    cdef void attend(self) noexcept:
        """After messages were taken: let senders know of the room, or the close event of its time."""
        if self.inbox().inbox.bounded:
            tell(endpoint_offer_room(self.inbox()))
        if self._channel.closed_by != CHANNEL_OPEN:
            self.offer_close_event()

    cdef PyObject *_receive(self, int64_t deadline) except NULL:
        """Take the oldest item, and wait for it if need be."""
        cdef endpoint *e
        cdef parker p
        cdef waiter w
        cdef PyObject *item
        if not self.attached():
            raise_closed(self)
        e = self.inbox()
        item = self._spin_for_message(deadline)
        if item != NULL:
            return item
        parker_init(&p)
        waiter_init(&w, &p, NULL)
        try:
            while True:
                if ring_drained(&e.inbox):
                    raise_closed(self)
                if parker_now() >= deadline:
                    raise TimeoutError("no message within the timeout")
                waiter_join(&w, e, &e.receivers)
                try:
                    if self.attached() and endpoint_arm(e) == RING_ARMED:
                        park(&p, deadline)
                finally:
                    waiter_leave(&w, e)
                if not self.attached():
                    raise_closed(self)
                item = self.take()
                if item != NULL:
                    return item
        finally:
            parker_destroy(&p)
            if self.is_of_this_process():
                # The baton: see csrc/channel.h. In a forked child there is nobody to pass it to.
                tell(endpoint_pass_on(e))

    cdef size_t popped(self) noexcept:
        """Return how many messages were ever taken here."""
        cdef Figures incoming, outgoing
        if self._channel.transport == NULL:
            return ring_popped(&self.inbox().inbox)
        self.transport().figures(&incoming, &outgoing)
        return incoming.taken

    cdef PyObject *_spin_for_message(self, int64_t deadline) except? NULL:
        """Return an owned queue item if there is one, or comes within a moment."""
        cdef endpoint *e = self.inbox()
        cdef PyObject *item = self.take()
        cdef uintptr_t tail
        cdef size_t popped
        cdef bint came = True
        cdef size_t rounds = 0
        # Whoever finds nothing so often is outrun by others, or deceived by the far side; asking to be woken is sure.
        while item == NULL and came and rounds < SPINS and self.attached() and not ring_closed(&e.inbox):
            rounds += 1
            tail = ring_tail(&e.inbox)
            item = self.take()
            if item == NULL:
                popped = self.popped()
                with nogil:
                    came = endpoint_spin_for_message(e, tail, popped, deadline)
        if item == NULL:
            # A signal that came meanwhile would not end the sleep.
            PyErr_CheckSignals()
        return item

    def receive(self, timeout=None):
        """Return the oldest message, and wait for one if there is none.

        Ports that came with it are in :meth:`receive_event`'s ``ports``; here, those that the message does not contain
        are closed.

        :param timeout: seconds; None waits for ever, 0 tries once.
        :raises ChannelClosedError: when the channel is closed and drained, or this port was transferred away.
        :raises TimeoutError: when no message came within the timeout.
        :raises ValueError: for a timeout that is negative or NaN.
        :raises TypeError: for a timeout that is not a number.
        :raises MemoryError: when there is none to make the message of; it may be gone then.
        :raises Exception: whatever rebuilding an object that has ``__transfer__`` raises; the message is gone then.
        """
        return open_item(self._receive(INT64_MAX if timeout is None else deadline_of(timeout)))

    def receive_nowait(self):
        """Return the oldest message.

        :raises queue.Empty: when none waits.
        :raises ChannelClosedError: when the channel is closed and drained, or this port was transferred away.
        """
        cdef PyObject *item
        if self.attached():
            item = self.take()
            if item != NULL:
                return open_item(item)
        raise_empty_or_closed(self)

    def receive_event(self, timeout=None):
        """Return the oldest message as a :class:`MessageEvent`, with the ports that came with it.

        Parameters and errors are those of :meth:`receive`.
        """
        return self.event_of(self._receive(deadline_of(timeout)))

    cdef Event event_of(self, PyObject *item):
        """Return the ``message`` event for an owned queue item."""
        cdef Envelope envelope
        if not is_envelope(item):
            return message_event(open_item(item), (), self)
        envelope = unopened(item)
        return message_event(envelope.open(), envelope.ports, self)

    cdef int _append(self, list messages, void **items, size_t n) except -1:
        """Add the messages in owned items; one that can't be rebuilt must not take the others with it.

        What is no Exception, such as a KeyboardInterrupt, does.
        """
        cdef size_t i = 0
        try:
            while i < n:
                i += 1
                try:
                    messages.append(open_item(<PyObject *>items[i - 1]))
                except Exception as error:
                    report(error, self)
        finally:
            while i < n:
                discard(<PyObject *>items[i])
                i += 1
        return 0

    cdef size_t _fill(self, list messages, size_t filled, void **items, size_t n) except? 0:
        """Add what is in owned items to a list of which so much is filled; return how much of it is then.

        Its empty slots come first. They go once a message might not fit into them one to one.
        """
        cdef size_t i = 0
        if <size_t>len(messages) > filled:
            i = fill_slots(messages, filled, items, n)
            filled += i
        if i < n:
            cut_slots(messages, filled)
            self._append(messages, items + i, n - i)
            filled = <size_t>len(messages)
        return filled

    cdef list take_many(self, size_t limit, PyObject *first):
        """Return what waits, up to `limit` messages. The first of them may have been taken already.

        The port is attached, or there is a first one.
        """
        cdef void *chunk[CHUNK]
        cdef size_t n, filled = 0, done = 0
        cdef ring *queue = &self.inbox().inbox
        cdef list messages
        cdef Transport transport
        limit = min(limit, (endpoint_length(self.inbox()) if self.attached() else 0) + (first != NULL))
        try:
            # What the far side says of its messages is no reason to believe it.
            messages = PyList_New(limit if self._channel.transport == NULL else min(limit, ring_length(queue) + 1))
        except MemoryError:
            if first == NULL:
                raise
            messages = []
            limit = 1
        if first != NULL:
            limit -= 1
        try:
            if first != NULL:
                filled = self._fill(messages, 0, <void **>&first, 1)
            while done < limit:
                n = ring_pop_many(queue, chunk, min(limit - done, <size_t>CHUNK))
                if n == 0:
                    break
                done += n
                ring_return_room(queue, n)
                if self._channel.transport != NULL:
                    self.transport().taken_before(ring_popped(queue))
                filled = self._fill(messages, filled, chunk, n)
            cut_slots(messages, filled)
            if self._channel.transport != NULL:
                transport = self.transport()
                while done < limit:
                    try:
                        n = transport.take_many(chunk, min(limit - done, <size_t>CHUNK))
                    except (MemoryError, OSError):
                        # It stays, and whoever receives it is told; what was taken before it is to be returned.
                        if done == 0 and first == NULL:
                            raise
                        break
                    if n == 0:
                        break
                    done += n
                    self._append(messages, chunk, n)
        finally:
            if done:
                self.attend()
        return messages

    def receive_many(self, limit=None, timeout=None):
        """Wait for one message, then return a list of it and of those that wait behind it.

        A message that came with an object that can't be rebuilt here is left out, and the exception reported as a
        listener's would be.

        :param limit: the most messages to return, at least 1; None for all that are there.
        :param timeout: seconds to wait for the first message; None waits for ever, 0 tries once.
        :raises ChannelClosedError: when the channel is closed and drained, or this port was transferred away.
        :raises TimeoutError: when no message came within the timeout.
        :raises ValueError: for a limit below 1, or a timeout that is negative or NaN.
        :raises TypeError: for a limit that is not an integer, or a timeout that is not a number.
        """
        cdef size_t most = limit_of(limit)
        cdef int64_t deadline = deadline_of(timeout)
        cdef list messages = self.take_many(most, NULL) if self.attached() else []
        while not messages:
            messages = self.take_many(most, self._receive(deadline))
        return messages

    def areceive(self):
        """Return an awaitable for the oldest message; other tasks run while there is none.

        To be awaited on asyncio or trio. A message that is there already is taken without a detour through the event
        loop, which still gets a turn from time to time. A cancelled areceive has taken no message.

        :raises ChannelClosedError: when the channel is closed and drained, or this port was transferred away.
        :raises RuntimeError: where it has to wait and neither asyncio nor trio runs.
        """
        return Receive.make(self, False, READY)

    async def areceive_many(self, limit=None):
        """Wait for one message as :meth:`areceive` does, then return what :meth:`receive_many` would."""
        cdef size_t most = limit_of(limit)
        cdef list messages
        if self._without_waiting >= TASK_MESSAGES:
            self._without_waiting = 0
            await give_way()
        if self.attached():
            messages = self.take_many(most, NULL)
            if messages:
                self._without_waiting += <uint32_t>min(<size_t>len(messages), <size_t>TASK_MESSAGES)
                return messages
        messages = []
        while not messages:
            messages = self.take_many(most, owned_item(await self._areceive(False)))
        return messages

    async def _areceive(self, bint opens):
        """Wait for a message and return it, or its Envelope unless that is to be opened."""
        cdef TaskWaiter w
        cdef PyObject *item
        cdef endpoint *e
        if self._without_waiting >= TASK_MESSAGES:
            self._without_waiting = 0
            await give_way()
        while True:
            if not self.attached():
                raise_closed(self)
            item = self.take()
            if item != NULL:
                self._without_waiting += 1
                return open_item(item) if opens or not is_envelope(item) else unopened(item)
            e = self.inbox()
            if ring_drained(&e.inbox):
                raise_closed(self)
            self._without_waiting = 0
            w = TaskWaiter.join(self, True)
            try:
                if self.attached() and endpoint_arm(e) == RING_ARMED:
                    await w._wakeup.wait(None)
                item = self.take() if self.attached() else NULL
            finally:
                w.leave()
                # The baton: see csrc/channel.h.
                tell(endpoint_pass_on(e))
            if item != NULL:
                return open_item(item) if opens or not is_envelope(item) else unopened(item)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return open_item(self._receive(INT64_MAX))
        except ChannelClosedError:
            raise StopIteration from None

    def __aiter__(self):
        return Receive.make(self, True, FINISHED)

    # -- listeners --

    def start(self):
        """Let listeners have the messages (HTML Standard, ``start``).

        They run on the asyncio loop that runs here; where none does, on the library's dispatcher thread. Starting
        again where another loop runs moves them there. A closed or transferred port does not start.
        """
        cdef TaskQueue tasks, present
        cdef endpoint *e
        cdef bint moves
        if self._channel == NULL:
            # Met while the message is being rebuilt: what this will stand for arrives in a moment.
            self._started = True
        if not self.attached() or self._posting != process_number:
            return
        tasks = current_tasks()
        present = self.tasks()
        moves = present is not tasks and (not self._started or present is None or present.context.is_closed()
                                          or not tasks.context.is_dispatcher)
        e = self.inbox()
        spin_acquire(&e.lock)
        # Where another thread has moved it meanwhile, that was the later start.
        if moves and self.attached() and self._tasks is present:
            self._announce(False)
            self._tasks = tasks
            # A task that was put where nothing runs any more is none.
            self._roused = False
        spin_release(&e.lock)
        self._started = True
        self._listeners_changed()

    cdef TaskQueue tasks(self):
        cdef TaskQueue tasks
        spin_acquire(&self.inbox().lock)
        tasks = self._tasks
        spin_release(&self.inbox().lock)
        return tasks

    cdef TaskQueue _tasks_or_current(self):
        """Return the task queue of this port; one that has none yet gets the one of the context that runs here."""
        cdef TaskQueue present = self.tasks()
        cdef TaskQueue current
        if present is None:
            current = current_tasks()
            spin_acquire(&self.inbox().lock)
            if self._tasks is None and self.attached():
                self._tasks = current
            present = self._tasks
            spin_release(&self.inbox().lock)
        return present

    cdef size_t _announce(self, bint on) noexcept:
        """Have every push announced, or none; the endpoint's lock is held. Returns how many tasks are to be put now."""
        cdef size_t waiting
        if on == self._announced:
            return 0
        self._announced = on
        waiting = ring_announce(&self.inbox().inbox, on)
        # Looked at after that: what is taken meanwhile makes a task too many, not one too few.
        self._next_task = ring_popped(&self.inbox().inbox)
        return waiting if on else 0

    cdef int _listeners_changed(self) except -1:
        cdef endpoint *e
        cdef TaskQueue tasks = None
        cdef size_t waiting = 0
        cdef bint waits_for_end, reachable, released = False
        if not self.attached():
            return 0
        if self._heard & (HEARS_CLOSE | HEARS_ERROR) or self._started:
            self._tasks_or_current()
        e = self.inbox()
        spin_acquire(&e.lock)
        if self.attached():
            # Events that need no message to come: whether the port is started does not matter to them.
            waits_for_end = (self._heard & (HEARS_CLOSE | HEARS_ERROR)) != 0
            reachable = self._channel.closed_by == CHANNEL_OPEN and (
                waits_for_end or self._started and self._heard != 0)
            tasks = self._tasks
            waiting = self._announce(tasks is not None and self._started and (self._heard & HEARS_MESSAGE) != 0)
            if reachable and e.listening == NULL:
                Py_INCREF(self)
                e.listening = <void *>self
            elif not reachable and e.listening != NULL:
                e.listening = NULL
                released = True
        spin_release(&e.lock)
        if released:
            Py_DECREF(self)
        if self._channel.transport != NULL:
            self.rouse()
        elif waiting:
            tasks.put_repeated(self, waiting)
        self.offer_close_event()
        return 0

    cdef int rouse(self) except -1:
        """Have dispatched what came, or comes, by the transport.

        One task at a time dispatches one message and puts itself behind all others, until nothing is there and the
        transport tells of what comes next.
        """
        cdef TaskQueue tasks = None
        spin_acquire(&self.inbox().lock)
        # Claimed under the lock: for the tasks that there are, not for those of a start in this moment.
        if self._announced and self._tasks is not None and shared_claim(&self._roused, False, True):
            tasks = self._tasks
        spin_release(&self.inbox().lock)
        if tasks is not None:
            tasks.put(self)
        return 0

    cdef int _put_what_waits(self) except -1:
        """After a close: put tasks for all that waits, because a push that raced with it found no listener any more."""
        cdef TaskQueue tasks = None
        cdef size_t waiting
        spin_acquire(&self.inbox().lock)
        if self._announced:
            tasks = self._tasks
        spin_release(&self.inbox().lock)
        waiting = ring_length(&self.inbox().inbox)
        if tasks is not None and waiting:
            tasks.put_repeated(self, waiting)
        return 0

    cdef MessagePort heir(self):
        """Return the handle that took over from this one, if it still exists."""
        if self._channel == NULL:
            return None
        spin_acquire(&self.inbox().lock)
        heir = self._heir
        spin_release(&self.inbox().lock)
        return None if heir is None else heir()

    cdef void offer_close_event(self) noexcept:
        """Put the close event into the context, once it is due."""
        cdef MessagePort port = self
        cdef TaskQueue tasks
        cdef bint due
        try:
            # The last message may have been taken by an old handle, in the very moment of the transfer.
            while THREADS_AT_ONCE and port is not None and not port.attached():
                port = port.heir()
            if port is None or port._channel.closed_by == CHANNEL_OPEN:
                return
            spin_acquire(&port.inbox().lock)
            due = port._close_event_is_due()
            spin_release(&port.inbox().lock)
            if due:
                tasks = port._tasks_or_current()
                if tasks is not None:
                    tasks.put(port)
        except BaseException as error:
            write_unraisable(error, self)

    cdef bint _close_event_is_due(self) noexcept:
        """Tell whether the other side has closed, the queue is drained, and a listener has not been told.

        The endpoint's lock is held.
        """
        return (self._channel.closed_by == <int>(self._side ^ 1) and not self.inbox().close_told
                and (self._heard & HEARS_CLOSE) != 0 and ring_drained(&self.inbox().inbox))

    cdef Event _incoming_event(self, PyObject *item):
        """Return the ``message`` event for an owned queue item, or ``messageerror`` for what can't be rebuilt."""
        cdef Event event
        try:
            return self.event_of(item)
        except Exception as error:
            if not self._listeners("messageerror"):
                report(error, self)
            event = message_event(None, (), self)
            event.type = "messageerror"
            return event

    cdef bint _exchange_listeners(self, dict former, dict wanted, uint32_t heard) noexcept:
        # With the endpoint's lock the listeners and what they hear belong together: see _lock_listeners.
        cdef bint done
        if self._channel == NULL:
            return EventTarget._exchange_listeners(self, former, wanted, heard)
        spin_acquire(&self.inbox().lock)
        done = EventTarget._exchange_listeners(self, former, wanted, heard)
        spin_release(&self.inbox().lock)
        return done

    cdef dict _lock_listeners(self):
        """Return all listeners, with the endpoint's lock, under which they and what they hear stay what they are."""
        cdef dict registrations
        while True:
            registrations = self._all_listeners()
            spin_acquire(&self.inbox().lock)
            if <void *>self._registrations == <void *>registrations:
                return registrations
            spin_release(&self.inbox().lock)

    cdef bint _run_far_task(self, object tasks) except -1:
        """As _run_task, where messages come by a transport: see rouse."""
        cdef Transport transport = self.transport()
        cdef endpoint *e = self.inbox()
        cdef PyObject *item = NULL
        cdef Event event
        cdef dict registrations = self._lock_listeners()
        cdef bint here = self.attached() and <void *>self._tasks == <void *>tasks
        cdef bint dispatches = here and self._started and (self._heard & HEARS_MESSAGE) != 0
        cdef bint came = False, ended
        cdef taken raw
        cdef c_bool attention = False
        cdef object trouble = None
        if dispatches:
            item = <PyObject *>endpoint_take(e, &attention)
            if item != NULL:
                transport.taken_before(ring_popped(&e.inbox))
            else:
                came = transport.take_raw(&raw)
        ended = here and item == NULL and not came and self._close_event_is_due()
        if ended:
            e.close_told = True
        if item == NULL and not came:
            self._roused = False
        spin_release(&e.lock)
        if came:
            try:
                item = transport.item_of(&raw)
            except Exception as error:
                trouble = error
            if item == NULL:
                self._roused = False
        if attention:
            self.attend()
        if item != NULL:
            tasks.put(self)
            event = self._incoming_event(item)
            self._dispatch(event, registrations["message"] if event.type == "message" else self._listeners(event.type))
        elif ended:
            self._dispatch(trusted_event("close", self), registrations["close"])
        elif trouble is not None:
            report(trouble, self)
            transport.look_later()
        elif not here or transport.settle() or dispatches and endpoint_arm(e) == RING_NOT_EMPTY:
            if self.attached():
                self.rouse()
        return False

    cdef bint _run_task(self, object tasks) except -1:
        """Dispatch the oldest message, or else the close event; False when there was neither to dispatch here.

        What is dispatched is taken together with the listeners, under the lock without which none can be taken away.
        """
        cdef endpoint *e = self.inbox()
        cdef PyObject *item = NULL
        cdef Event event
        cdef dict registrations
        cdef size_t number
        cdef bint here, dispatches, taken_before = False, ended = False
        cdef c_bool attention = False
        if self._channel.transport != NULL:
            return self._run_far_task(tasks)
        registrations = self._lock_listeners()
        here = self.attached() and <void *>self._tasks == <void *>tasks
        dispatches = here and self._started and (self._heard & HEARS_MESSAGE) != 0
        if dispatches:
            self._next_task += 1
            number = self._next_task
            if ring_popped(&e.inbox) < number:
                item = <PyObject *>endpoint_take(e, &attention)
            # Asked anew: others may have taken it meanwhile.
            taken_before = item == NULL and ring_popped(&e.inbox) >= number and not ring_drained(&e.inbox)
        if here and item == NULL and not taken_before and self._close_event_is_due():
            ended = e.close_told = True
        spin_release(&e.lock)
        if attention:
            self.attend()
        if item != NULL:
            event = self._incoming_event(item)
            self._dispatch(event, registrations["message"] if event.type == "message" else self._listeners(event.type))
        elif ended:
            self._dispatch(trusted_event("close", self), registrations["close"])
        return item != NULL or taken_before

    @property
    def onmessage(self):
        """The listener for ``message`` events; setting it starts the port."""
        return self._handler("message")

    @onmessage.setter
    def onmessage(self, listener):
        self._set_handler("message", listener)
        self.start()

    @property
    def onmessageerror(self):
        """The listener for ``messageerror`` events: messages that could not be rebuilt here."""
        return self._handler("messageerror")

    @onmessageerror.setter
    def onmessageerror(self, listener):
        self._set_handler("messageerror", listener)

    @property
    def onclose(self):
        """The listener for the ``close`` event: the other side has closed, and no message waits any more.

        An extension of the standard, which Node has too.
        """
        return self._handler("close")

    @onclose.setter
    def onclose(self, listener):
        self._set_handler("close", listener)


cdef void release_channel(channel *c) noexcept:
    """Drop a reference to a channel, and with the last one the channel's to its transport."""
    cdef PyObject *owner = NULL if c.transport == NULL else <PyObject *>c.transport.owner
    if channel_decref(c) and owner != NULL:
        Py_DECREF(<object>owner)


cdef void close_channel(channel *c, uint32_t side) noexcept:
    """Sever a channel on behalf of a side, if it has not been severed before."""
    cdef waiter *tasks
    cdef MessagePort port
    cdef uint32_t i
    if is_finalizing():
        # Nobody is left to be woken, and a daemon thread that was ended in its sleep has left its waiter behind.
        ring_close(&c.side[side].inbox)
        return
    if channel_close(c, side, &tasks):
        tell(tasks)
        for i in range(2):
            port = take_listening(&c.side[i])
            if port is None:
                continue
            try:
                if c.transport != NULL:
                    port.rouse()
                elif THREADS_AT_ONCE:
                    port._put_what_waits()
            except BaseException as error:
                write_unraisable(error, port)
            if i != side:
                port.offer_close_event()


cdef MessagePort take_listening(endpoint *e):
    """Let the peer no longer keep the port alive that listens at an endpoint, and return it."""
    cdef PyObject *port
    spin_acquire(&e.lock)
    port = <PyObject *>e.listening
    e.listening = NULL
    spin_release(&e.lock)
    return None if port == NULL else steal(port)


cdef bint move_handles(list items, list received) noexcept:
    """Have the received ports take over from those among the items: from all, or from none when one can't be moved."""
    cdef Py_ssize_t i
    cdef bint movable = True
    spin_acquire(&handles)
    for i in range(len(items)):
        if isinstance(items[i], MessagePort) and (<MessagePort>items[i])._posting != process_number:
            movable = False
    if movable:
        for i in range(len(items)):
            if isinstance(items[i], MessagePort):
                (<MessagePort>items[i])._hand_over(<MessagePort>received[i])
    spin_release(&handles)
    return movable


cdef int take_over(MessagePort port, MessagePort received) except -1:
    """Have one handle take over from another."""
    if not move_handles([port], [received]):
        raise DataCloneError("another thread has transferred or closed this port just now")
    port.settle_move(received)
    return 0


cdef int refuse_references(Transfer transfer) except -1:
    """Make sure that no port in a transfer list to another process passes references, which mean nothing there."""
    cdef MessagePort port
    cdef Py_ssize_t i
    if transfer is not None:
        for i in range(len(transfer.items)):
            if isinstance(transfer.items[i], MessagePort):
                port = transfer.items[i]
                if port._channel != NULL and port._channel.by_reference:
                    raise transfer.refusal(i, _PASSES_REFERENCES)
    return 0


cdef object raise_closed(MessagePort port):
    if port._attached == 0:
        raise ChannelClosedError("this port was transferred away; use the one that arrived with the message")
    if port._attached != process_number:
        raise ChannelClosedError("this port belongs to the parent process; make a channel after the fork")
    if port._channel.transport != NULL and port.transport().mischief is not None:
        raise ChannelClosedError(f"the channel is closed: {port.transport().mischief}")
    raise ChannelClosedError("the channel is closed")


cdef object raise_full(size_t capacity):
    from queue import Full
    raise Full(f"{capacity} messages wait already, which is the channel's capacity; use send to wait for room")


cdef object raise_empty_or_closed(MessagePort port):
    if not port.attached() or ring_drained(&port.inbox().inbox):
        raise_closed(port)
    from queue import Empty
    raise Empty("no message waits")


cdef object seconds_until(int64_t deadline):
    return None if deadline == INT64_MAX else max(0, deadline - parker_now()) / <double>NANOSECONDS


cdef size_t limit_of(object limit) except 0:
    if limit is None:
        return <size_t>-1
    if not hasattr(limit, "__index__"):
        raise TypeError(f"limit must be an int or None, not {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}; None takes all that is there")
    return min(limit, <size_t>-1)


@cython.final
@cython.freelist(16)
cdef class Receive:
    """The awaitable of ``areceive``, and the iterator and the awaitables of ``async for``.

    It takes a message when first stepped, and waits only then. A coroutine in all but type, so that ``create_task`` and
    ``wait_for`` take it. The iterator returns itself as each awaitable, unless the last one is still to be awaited.

    Whoever claims ``_state`` from READY has all of this to itself, until it is READY again or FINISHED.
    """

    cdef MessagePort _port
    # Ends an async for when the channel is closed and drained.
    cdef bint _iterates
    cdef shared_number _state
    # The coroutine that waits, once that has to be.
    cdef object _waiting
    # The exception that hands messages over, once there is one.
    cdef object _stop

    @staticmethod
    cdef Receive make(MessagePort port, bint iterates, uint32_t state):
        cdef Receive self = Receive.__new__(Receive)
        self._port = port
        self._iterates = iterates
        self._state = state
        return self

    def __aiter__(self):
        return self

    def __anext__(self):
        if not shared_claim(&self._state, FINISHED, STEPPING):
            return Receive.make(self._port, True, READY)
        self._waiting = None
        self._state = READY
        return self

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        # Replaced by receive_iternext.
        return self.send(None)

    def send(self, value):
        """Advance the wait, as a coroutine's ``send`` does."""
        self._begin()
        try:
            result = self._waiting.send(value)
        except ChannelClosedError:
            self._state = FINISHED
            if self._iterates:
                raise StopAsyncIteration from None
            raise
        except BaseException:
            self._state = FINISHED
            raise
        self._state = READY
        return result

    cdef int _begin(self) except -1:
        if not shared_claim(&self._state, READY, STEPPING):
            raise RuntimeError("cannot reuse already awaited areceive()" if self._state == FINISHED
                               else "this areceive() is being awaited already")
        if self._waiting is None:
            # Whatever the last message was, it does not live on while this waits.
            self._stop = None
            self._waiting = self._port._areceive(True)
        return 0

    def throw(self, *exc_info):
        """Raise an exception in the wait, as a coroutine's ``throw`` does."""
        self._begin()
        try:
            result = self._waiting.throw(*exc_info)
        except BaseException:
            self._state = FINISHED
            raise
        self._state = READY
        return result

    def close(self):
        """End the wait, as a coroutine's ``close`` does."""
        if not shared_claim(&self._state, READY, STEPPING):
            if self._state == FINISHED:
                return
            raise RuntimeError("this areceive() is being awaited already")
        try:
            if self._waiting is not None:
                self._waiting.close()
        finally:
            self._state = FINISHED


async def open_for_task(Envelope envelope):
    """Open a message where an exception has a way out."""
    return envelope.open()


cdef int take_for_task(object awaitable, PyObject **message) noexcept:
    """receive_fast: take a message without waiting, unless the event loop is due a turn."""
    cdef Receive self = <Receive>awaitable
    cdef MessagePort port = self._port
    cdef PyObject *item
    cdef Envelope envelope
    cdef object interruption = None
    if port is None or not port.attached() or port._without_waiting >= TASK_MESSAGES:
        return False
    if not shared_claim(&self._state, READY, STEPPING):
        return False
    item = NULL
    if self._waiting is None:
        try:
            item = port.take()
        except Exception:
            # The slow way meets it again, and has a way out for it.
            pass
        except BaseException as error:
            # Of a signal's handler, which is met once.
            interruption = error
    if interruption is not None:
        self._state = FINISHED
        PyErr_SetObject(type(interruption), interruption)
        message[0] = NULL
        return True
    if item == NULL:
        self._state = READY
        return False
    port._without_waiting += 1
    if is_envelope(item):
        envelope = unopened(item)
        if type(envelope.data) is Serialized or isinstance(envelope.data, Sealed):
            self._waiting = open_for_task(envelope)
            self._state = READY
            return False
        Py_INCREF(envelope.data)
        item = <PyObject *>envelope.data
    self._state = FINISHED
    message[0] = new_int(item) if is_by_value(item) else item
    return True


cdef object step_awaitable(object awaitable, object value):
    """receive_slow: step the coroutine that waits."""
    return (<Receive>awaitable).send(value)


cdef PyObject *stop_for(object awaitable) noexcept:
    """receive_stop: the StopIteration to use, owned. One that nobody else refers to is used again."""
    cdef Receive self = <Receive>awaitable
    cdef object stop = None
    if THREADS_AT_ONCE:
        # Another thread may have dropped its reference without having finished what it read.
        stop = StopIteration()
    else:
        if Py_REFCNT(<PyObject *>self._stop) != 1:
            self._stop = None
            self._stop = StopIteration()
        stop = self._stop
    Py_INCREF(stop)
    return <PyObject *>stop


receive_fast = take_for_task
receive_slow = step_awaitable
receive_stop = stop_for
install_receive(<TypeSlots *>Receive)


@cython.final
cdef class MessageChannel:
    """MessageChannel(*, capacity=None, copy=True)\n--\n\n\
    A pair of entangled ports (HTML Standard, "Message channels").

    ``port1, port2 = MessageChannel()`` works too, and as a context manager a channel closes both ports.

    :param capacity: the most messages that may wait at each port; None for no limit. A message waits from its post
        until it is received, wherever it is meanwhile: here, on the way to another process, or there.
    :param copy: False hands messages over by reference instead of cloning them. Transfer lists work all the same.
    :ivar port1: the first port.
    :ivar port2: the second port.
    :raises TypeError: for a capacity that is not an integer, and for other arguments.
    :raises ValueError: for a capacity below 1.
    """

    # Set once, before anybody else sees the channel.
    cdef readonly MessagePort port1
    cdef readonly MessagePort port2

    def __cinit__(self, *others, capacity=None, copy=True, **named):
        if others or named:
            # Cython would say that of __cinit__.
            given = [*map(repr, others), *(f"{name}={value!r}" for name, value in named.items())]
            raise TypeError(f"MessageChannel takes capacity=... and copy=..., by name, not {', '.join(given)}")
        self.port1, self.port2 = entangled_ports(MessagePort, capacity, copy)

    @classmethod
    def __class_getitem__(cls, item):
        return Py_GenericAlias(cls, item)

    def __iter__(self):
        return iter((self.port1, self.port2))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.port1.close()
        self.port2.close()

    def __repr__(self):
        return f"<MessageChannel {self.port1!r} {self.port2!r}>"


# ---- for ports that leave this process, and come ----

cdef channel *channel_of(object item) noexcept:
    """Return the channel of an attached port; NULL for anything else."""
    return (<MessagePort>item)._channel if isinstance(item, MessagePort) and (<MessagePort>item).attached() else NULL


def may_depart(MessagePort port):
    """Tell whether a port was neither closed here nor transferred."""
    return port.obstacle() is None


def check_departure(MessagePort port):
    """Make sure that a port can go to another process.

    :raises DataCloneError: for one that is detached or closed, or of a channel that passes references.
    """
    refuse_departure(port, port.obstacle())


cdef int refuse_departure(MessagePort port, str obstacle) except -1:
    if port._channel != NULL and port._channel.by_reference:
        raise DataCloneError(_PASSES_REFERENCES)
    if obstacle is not None:
        raise DataCloneError(f"this port can't be transferred: {obstacle}")
    return 0


cdef channel *let_go(object handle, uint32_t *side) except NULL:
    """Detach a port, which is to be taken back or left behind. Returns its channel, with a reference that is the
    caller's, and its side.

    :raises DataCloneError: for a port that is detached or closed.
    """
    cdef MessagePort port = handle
    cdef str obstacle
    refuse_departure(port, None)
    spin_acquire(&handles)
    obstacle = port.obstacle()
    if obstacle is None:
        port._posting = 0
        port._attached = 0
    spin_release(&handles)
    refuse_departure(port, obstacle)
    channel_incref(port._channel)
    side[0] = port._side
    return port._channel


cdef int take_back(object handle) except -1:
    """Attach a port again that was let go of."""
    cdef MessagePort port = handle
    spin_acquire(&handles)
    port._bind(port._channel, port._side)
    spin_release(&handles)
    try:
        # Tasks that have found it detached have done nothing, and neither has the end of the channel.
        port._listeners_changed()
    except BaseException as error:
        write_unraisable(error, port)
    return 0


cdef int leave_behind(object handle) except -1:
    """Have nobody wait or listen any more at a port that was let go of."""
    cdef MessagePort port = handle
    # Whoever met it inside the message, while that was being rebuilt, may have added listeners.
    take_listening(port.inbox())
    tell(endpoint_wake_all(port.inbox(), endpoint_wake_all(port.outbox(), NULL)))
    return 0


cdef object take_hold(channel *c, uint32_t side):
    """Return a new attached port of a side that has none; a reference to the channel becomes the port's."""
    return MessagePort.make(MessagePort, c, side)


def revive(MessagePort port, MessagePort arrived):
    """Have a port that has departed take over, in a forked child, from the one that it has arrived as.

    It is like one that arrives in a message: not started, and without listeners.
    """
    cdef TaskQueue _tasks = port._tasks
    cdef dict _registrations = port._registrations
    # Its former channel keeps the reference: a task of the parent's, when it ends here, leaves the lists of that.
    port._channel = NULL
    port._registrations = None
    port._heard = 0
    port._tasks = None
    port._heir = None
    port._started = False
    port._roused = False
    port._announced = False
    port._next_task = 0
    port._without_waiting = 0
    take_over(arrived, port)


def taken_over(port):
    """Return a new port, an object of this thread's own, that has taken over from one as if that was transferred."""
    received = _make_empty_port(port)
    take_over(port, received)
    return received


cdef int rouse(object port) except -1:
    """Have a port's listeners get what came by the transport."""
    return (<MessagePort>port).rouse()


def entangled_ports(type cls, capacity=None, copy=True):
    """Return two entangled ports, the first an instance of `cls`, a subclass of MessagePort."""
    cdef size_t bound = 0
    cdef channel *c
    if capacity is not None:
        if not hasattr(capacity, "__index__"):
            raise TypeError(f"capacity must be an int or None, not {type(capacity).__name__}")
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}; None is without limit")
        bound = min(capacity, <size_t>-1)
    c = channel_new(bound, bool(copy) is False)
    if c == NULL:
        raise MemoryError
    try:
        port1 = MessagePort.make(cls, c, 0)
    except BaseException:
        # The other port's.
        release_channel(c)
        raise
    return port1, MessagePort.make(MessagePort, c, 1)


def queue_event(MessagePort port, Event event):
    """Dispatch `event` at `port` from a task of its context; False when nobody listens for it."""
    cdef TaskQueue tasks
    cdef str kind
    with cython.critical_section(event):
        kind = event.type
    if not port._listeners(kind):
        return False
    tasks = port._tasks_or_current()
    if tasks is None or tasks.context.is_closed():
        return False
    with cython.critical_section(event):
        _former = event.target
        event.target = port
        event.is_trusted = True
    tasks.put(lambda: port._dispatch(event, port._listeners(kind)))
    return True


def wait(ports, timeout=None):
    """Wait until a message can be received from one of the ports, or one is closed.

    :param ports: an iterable of MessagePorts.
    :param timeout: seconds; None waits for ever, 0 only looks.
    :returns: the list of those ports that have a message or are closed, in the order given; empty after a time-out.
    :raises TypeError: for anything but MessagePorts, or a timeout that is not a number.
    :raises ValueError: for no ports at all, or a timeout that is negative or NaN.
    """
    cdef int64_t deadline = deadline_of(timeout)
    cdef list waited
    cdef MessagePort port
    cdef parker p
    cdef waiter *waiters
    cdef size_t i, n
    cdef bint all_armed
    if isinstance(ports, MessagePort):
        # To iterate over it would receive what it has.
        raise TypeError(f"wait takes an iterable of ports, not {ports!r} itself: put it into a list")
    waited = list(ports)
    n = len(waited)
    for item in waited:
        if not isinstance(item, MessagePort):
            raise TypeError(f"wait takes MessagePorts, not {type(item).__name__}")
    if n == 0:
        raise ValueError("wait needs at least one port")
    ready = ready_ports(waited)
    if ready or timeout == 0:
        return ready
    waiters = <waiter *>PyMem_Malloc(n * sizeof(waiter))
    if waiters == NULL:
        raise MemoryError
    parker_init(&p)
    try:
        while True:
            for i in range(n):
                port = waited[i]
                waiter_init(&waiters[i], &p, NULL)
                waiter_join(&waiters[i], port.inbox(), &port.inbox().receivers)
            try:
                all_armed = True
                for port in waited:
                    all_armed = port.attached() and endpoint_arm(port.inbox()) == RING_ARMED and all_armed
                if all_armed:
                    park(&p, deadline)
            finally:
                for i in range(n):
                    waiter_leave(&waiters[i], (<MessagePort>waited[i]).inbox())
            ready = ready_ports(waited)
            if ready or parker_now() >= deadline:
                return ready
    finally:
        parker_destroy(&p)
        PyMem_Free(waiters)
        for port in waited:
            if port.is_of_this_process():
                tell(endpoint_pass_on(port.inbox()))


cdef list ready_ports(list ports):
    cdef MessagePort port
    for port in ports:
        if port.attached() and port._channel.transport != NULL:
            # A close that nobody has heard of yet.
            port.transport().settle()
    return [port for port in ports if port.closed or endpoint_length(port.inbox())]


# ---- transfer ----

def _make_empty_port(port):
    return construct_port(MessagePort, <PyObject *>(), NULL)


def _port_obstacle(MessagePort port, received):
    return port.obstacle()


def _move_ports(list items, list received):
    return move_handles(items, received)


def _settle_port(MessagePort port, MessagePort received):
    port.settle_move(received)


register_handles(MessagePort, _make_empty_port, _port_obstacle, _move_ports, _settle_port)


# ---- garbage collection ----

cdef object refuse_construction(type cls, PyObject *args, PyObject *keywords):
    raise TypeError(f"{cls.__name__} can't be constructed; create a MessageChannel and use its port1 and port2")


cdef int visit_tasks(waiter *first, visitproc visit, void *argument) noexcept:
    """Visit the tasks in a list of waiters, whose references belong to the list."""
    cdef waiter *w = first
    cdef int answer = 0
    while w != NULL and answer == 0:
        if w.task != NULL:
            answer = visit(<PyObject *>w.task, argument)
        w = w.next if w.next != first else NULL
    return answer


cdef int traverse_port(PyObject *o, visitproc visit, void *argument) noexcept:
    # Cython's finds the base's by looking for itself in the types, where it is no more.
    cdef int answer = traverse_target(o, visit, argument) or traverse_fields_of_port(o, visit, argument)
    return answer or visit_channel(<MessagePort>o, visit, argument)


cdef int visit_channel(MessagePort self, visitproc visit, void *argument) noexcept:
    """Visit what the attached port of a side stands for; takes no reference, and no lock: the world is stopped."""
    cdef Visit v = Visit(visit, argument)
    cdef int answer = 0
    if self._channel != NULL and self.attached():
        if self.outbox().listening != NULL:
            answer = visit(<PyObject *>self.outbox().listening, argument)
        if answer == 0:
            answer = ring_visit(&self.inbox().inbox, visit_item, &v)
        if answer == 0:
            answer = visit_tasks(self.inbox().receivers, visit, argument)
        if answer == 0:
            answer = visit_tasks(self.outbox().senders, visit, argument)
    return answer


cdef int clear_port(PyObject *o) noexcept:
    cdef MessagePort self = <MessagePort>o
    cdef int answer = clear_target(o) or clear_fields_of_port(o)
    if self._channel != NULL and self.attached():
        self.sever()
        self.discard_messages()
    return answer


cdef object post_message_directly(object self, PyObject *const *arguments, Py_ssize_t number, PyObject *names):
    cdef int outcome
    if number != 1 or names != NULL:
        return post_message_wrapper(self, arguments, number, names)
    outcome = (<MessagePort>self)._push_atom(arguments[0])
    if outcome == NOT_AN_ATOM:
        return post_message_wrapper(self, arguments, number, names)
    if outcome != 0:
        (<MessagePort>self)._posted(outcome)
    return none()


cdef object receive_directly(object self, PyObject *const *arguments, Py_ssize_t number, PyObject *names):
    cdef PyObject *item
    if number == 0 and names == NULL and (<MessagePort>self).attached():
        item = (<MessagePort>self).take()
        if item != NULL:
            return open_item(item)
    return receive_wrapper(self, arguments, number, names)


call_directly(MessagePort, "post_message", post_message_directly, &post_message_wrapper)
call_directly(MessagePort, "receive", receive_directly, &receive_wrapper)
# Cython has no way to visit what C structures hold, so the types' slots are replaced by ones that do.
traverse_target = (<TypeSlots *>EventTarget).tp_traverse
clear_target = (<TypeSlots *>EventTarget).tp_clear
traverse_fields_of_port = (<TypeSlots *>MessagePort).tp_traverse
clear_fields_of_port = (<TypeSlots *>MessagePort).tp_clear
(<TypeSlots *>MessagePort).tp_traverse = traverse_port
(<TypeSlots *>MessagePort).tp_clear = clear_port
construct_port = (<TypeSlots *>MessagePort).tp_new
(<TypeSlots *>MessagePort).tp_new = refuse_construction

# The types are at home where users import them from.
bring_home(MessageChannel, "messagechannel", "messagechannel.MessageChannel")
bring_home(MessagePort, "messagechannel", "messagechannel.MessagePort")
bring_home(PortStatistics, "messagechannel", "messagechannel.PortStatistics")
