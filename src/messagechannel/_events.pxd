from libc.stdint cimport uint32_t

from messagechannel._csrc cimport shared_number


cdef enum:
    # What an event target has listeners for.
    HEARS_MESSAGE = 1
    HEARS_CLOSE = 2
    HEARS_ERROR = 4
    HEARS_OTHERS = 8


# Attributes of an event change in its critical section, where the properties read them too. What one held is let go of
# after the section (_former): letting go can run any code.
cdef class Event:
    cdef readonly str type
    cdef readonly object target
    cdef readonly object current_target
    cdef readonly bint is_trusted
    cdef readonly bint cancelable
    cdef readonly bint default_prevented
    cdef bint _stopped


cdef class MessageEvent(Event):
    cdef readonly object data
    cdef readonly str origin
    cdef readonly str last_event_id
    cdef readonly object source
    cdef readonly tuple ports


cdef class EventTarget:
    # Event type -> tuple of Registration; None until the first listener. Never changed, only exchanged.
    cdef dict _registrations
    # The HEARS_... of the types in it.
    cdef shared_number _heard

    cdef dict _all_listeners(self)
    cdef tuple _listeners(self, str type)
    cdef bint _replace(self, str type, tuple present, tuple wanted) except -1
    # Called in the critical section. For subclasses: whoever reads both fields by another lock needs it held here.
    cdef bint _exchange_listeners(self, dict former, dict wanted, uint32_t heard) noexcept
    cdef bint _remove(self, str type, object registration) except -1
    # For subclasses: the set of listeners has changed.
    cdef int _listeners_changed(self) except -1
    # For subclasses: run what was put into a task queue for this target; True when there may be more of it.
    cdef bint _run_task(self, object tasks) except -1
    cdef object _handler(self, str type)
    cdef int _set_handler(self, str type, object handler) except -1
    cdef bint _dispatch(self, Event event, tuple registrations) except -1


cdef MessageEvent message_event(object data, tuple ports, object target)
cdef Event trusted_event(str type, object target)
cdef void report(object error, object listener) noexcept
cdef void write_unraisable(object error, object where) noexcept
