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
    # Event type -> tuple of Registration, replaced as a whole; None until the first listener.
    cdef dict _registrations

    cdef int _remove(self, object type, object registration) except -1
    # For subclasses: the set of listeners has changed.
    cdef int _listeners_changed(self) except -1
    # For subclasses: run what was put into a task queue for this target; True when there may be more of it.
    cdef bint _run_task(self, object tasks) except -1
    cdef bint _has_listener(self, str type)
    cdef object _handler(self, str type)
    cdef int _set_handler(self, str type, object handler) except -1
    cdef tuple _listeners(self, str type)
    cdef bint _dispatch(self, Event event) except -1
    cdef bint _dispatch_to(self, Event event, tuple registrations) except -1


cdef MessageEvent message_event(object data, tuple ports, object target)
cdef Event trusted_event(str type, object target)
cdef void report(object error, object listener) noexcept
