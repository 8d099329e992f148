# cython: language_level=3, binding=False, always_allow_keywords=False
# cython: embedsignature=True, embedsignature.format=clinic
"""Events and their targets, as far as channel messaging needs them (DOM Standard, "Events"; HTML, "MessageEvent")."""

from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable

from messagechannel._csrc cimport TypeSlots

from messagechannel._context import report_on_running_loop

cdef object GenericAlias = type(list[int])


cdef object require_str(object value, str name):
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return str(value)


cdef class Event:
    """Event(type, *, cancelable=False)\n--\n\n\
    Something that happened to a target. Anybody can make one, for :meth:`EventTarget.dispatch_event`; the library makes
    its own, whose :attr:`is_trusted` is True.

    :ivar type: what happened, such as ``"message"`` or ``"close"``.
    :ivar target: the object that the event was dispatched to, None before that.
    :ivar current_target: the object whose listeners run just now, None otherwise.
    :ivar is_trusted: whether the library made the event.
    :ivar cancelable: whether :meth:`prevent_default` has an effect.
    :ivar default_prevented: whether a listener called :meth:`prevent_default`.
    :raises TypeError: for a type that is not a str.
    """

    def __init__(self, type, *, cancelable=False):
        self.type = require_str(type, "type")
        self.cancelable = bool(cancelable)

    def prevent_default(self):
        """Ask that the default action be left out; ``dispatch_event`` then returns False."""
        if self.cancelable:
            self.default_prevented = True

    def stop_immediate_propagation(self):
        """Run no further listener for this event."""
        self._stopped = True

    def __repr__(self):
        return f"<{type(self).__name__} {self.type!r}>"


cdef class MessageEvent(Event):
    """MessageEvent(type, *, data=None, origin='', last_event_id='', source=None, ports=())\n--\n\n\
    A message and what came with it (HTML Standard, "The MessageEvent interface").

    :ivar data: the message.
    :ivar origin: where it came from; ``""`` for messages from a port.
    :ivar last_event_id: ``""`` for messages from a port.
    :ivar source: None for messages from a port.
    :ivar ports: the ports that were transferred with the message, in the order of the transfer list.
    :raises TypeError: for an origin or last_event_id that is not a str, a source that is not an
        event target, or ports that are not.
    """

    def __init__(self, type, *, data=None, origin="", last_event_id="", source=None, ports=()):
        Event.__init__(self, type)
        if source is not None and not isinstance(source, EventTarget):
            raise TypeError(f"source must be a MessagePort or None, not {source.__class__.__name__}")
        ports = tuple(ports)
        for port in ports:
            if not isinstance(port, EventTarget):
                raise TypeError(f"ports must be MessagePorts, not {port.__class__.__name__}")
        self.data = data
        self.origin = require_str(origin, "origin")
        self.last_event_id = require_str(last_event_id, "last_event_id")
        self.source = source
        self.ports = ports

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def __repr__(self):
        return f"<{type(self).__name__} {self.type!r} data={self.data!r}>"


class ErrorEvent(Event):
    """An exception that nobody caught (HTML Standard, "The ErrorEvent interface").

    :ivar message: the exception in one line.
    :ivar error: the exception.
    """

    __module__ = "messagechannel"

    def __init__(self, type, *, message="", error=None):
        super().__init__(type, cancelable=True)
        self.message = require_str(message, "message")
        self.error = error


cdef MessageEvent message_event(object data, tuple ports, object target):
    cdef MessageEvent event = MessageEvent.__new__(MessageEvent)
    event.type = "message"
    event.target = target
    event.is_trusted = True
    event.data = data
    event.origin = ""
    event.last_event_id = ""
    event.ports = ports
    return event


cdef Event trusted_event(str type, object target):
    cdef Event event = Event.__new__(Event)
    event.type = type
    event.target = target
    event.is_trusted = True
    return event


cdef class Registration:
    """One listener of one event type; ``handler`` marks the one behind the ``on...`` attribute."""

    cdef object callback
    cdef bint once
    cdef bint handler
    # A listener that is removed while its event is being dispatched no longer runs.
    cdef bint removed

    def __cinit__(self, callback, bint once, bint handler):
        self.callback = callback
        self.once = once
        self.handler = handler


cdef void report(object error, object listener) noexcept:
    """Hand an exception to the running loop's exception handler, or to ``sys.unraisablehook`` where no loop runs."""
    try:
        if report_on_running_loop(error, listener):
            return
    except Exception as broken:
        error = broken
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(listener)


cdef class EventTarget:
    """Something that events happen to (DOM Standard, "Interface EventTarget").

    Listeners run in the order in which they were added. An exception in one is reported, to the running event loop's
    exception handler or to ``sys.unraisablehook``, and stops neither the others nor later events. KeyboardInterrupt and
    SystemExit go on to whoever dispatched the event, after the other listeners.
    """

    def add_event_listener(self, type, listener, *, once=False):
        """Call `listener` with every event of `type`.

        The same listener is added once for a type, however often this is called. With `once` it is removed before its
        first call. Unlike setting ``onmessage``, adding a listener does not start a port.

        :raises TypeError: for a type that is not a str or a listener that is not callable.
        """
        require_str(type, "type")
        if not callable(listener):
            raise TypeError(f"listener must be callable, not {listener.__class__.__name__}")
        cdef Registration registration
        if self._registrations is None:
            self._registrations = {}
        registrations = self._registrations.get(type, ())
        for registration in registrations:
            if not registration.handler and registration.callback == listener:
                return
        self._registrations[type] = (*registrations, Registration(listener, once, False))
        self._listeners_changed()

    def remove_event_listener(self, type, listener):
        """Call `listener` no more for events of `type`; nothing happens when it was not added."""
        cdef Registration registration
        if self._registrations is None:
            return
        for registration in self._registrations.get(type, ()):
            if not registration.handler and registration.callback == listener:
                self._remove(type, registration)
                return

    def dispatch_event(self, event, /):
        """Run the listeners for `event` now, in the calling thread, with this object as its target.

        :returns: False when the event is cancelable and a listener prevented its default action, else True.
        :raises TypeError: for anything but an Event.
        :raises RuntimeError: while the event is being dispatched already.
        """
        if not isinstance(event, Event):
            raise TypeError(f"event must be an Event, not {type(event).__name__}")
        cdef Event dispatched = event
        if dispatched.current_target is not None:
            raise RuntimeError(f"{event!r} is being dispatched already; make another Event")
        dispatched.target = self
        dispatched.is_trusted = False
        return self._dispatch(dispatched)

    cdef int _remove(self, object type, object registration) except -1:
        (<Registration>registration).removed = True
        rest = tuple([r for r in self._registrations[type] if r is not registration])
        if rest:
            self._registrations[type] = rest
        else:
            del self._registrations[type]
        return self._listeners_changed()

    cdef int _listeners_changed(self) except -1:
        return 0

    cdef bint _run_task(self, object tasks) except -1:
        return False

    cdef bint _has_listener(self, str type):
        return self._registrations is not None and type in self._registrations

    cdef object _handler(self, str type):
        cdef Registration registration
        if self._registrations is not None:
            for registration in self._registrations.get(type, ()):
                if registration.handler:
                    return registration.callback
        return None

    cdef int _set_handler(self, str type, object handler) except -1:
        if handler is not None and not callable(handler):
            raise TypeError(f"on{type} must be callable or None, not {handler.__class__.__name__}")
        cdef Registration registration
        if self._registrations is None:
            self._registrations = {}
        for registration in self._registrations.get(type, ()):
            if registration.handler:
                # A handler that replaces another keeps its place in the order.
                if handler is None:
                    self._remove(type, registration)
                else:
                    registration.callback = handler
                return 0
        if handler is not None:
            self._registrations[type] = (*self._registrations.get(type, ()), Registration(handler, False, True))
            self._listeners_changed()
        return 0

    cdef tuple _listeners(self, str type):
        return () if self._registrations is None else self._registrations.get(type, ())

    cdef bint _dispatch(self, Event event) except -1:
        return self._dispatch_to(event, self._listeners(event.type))

    cdef bint _dispatch_to(self, Event event, tuple registrations) except -1:
        """Call listeners that were looked up before the event was there.

        If all of them have been removed since, they get it all the same: nobody else would.
        """
        cdef Registration registration
        cdef bint orphaned = True
        for registration in registrations:
            orphaned = orphaned and registration.removed
        if registrations:
            event.current_target = self
            event._stopped = False
            ending = None
            try:
                for registration in registrations:
                    if registration.removed and not orphaned:
                        continue
                    if registration.once:
                        self._remove(event.type, registration)
                    try:
                        registration.callback(event)
                    except (KeyboardInterrupt, SystemExit) as error:
                        ending = error
                    except BaseException as error:
                        report(error, registration.callback)
                    if event._stopped:
                        break
            finally:
                event.current_target = None
            if ending is not None:
                raise ending
        return not event.default_prevented


def get_handler(EventTarget target, str type):
    """Return what the attribute ``on<type>`` of an event target holds."""
    return target._handler(type)


def set_handler(EventTarget target, str type, handler):
    """Set the attribute ``on<type>`` of an event target.

    :raises TypeError: for a handler that is neither callable nor None.
    """
    target._set_handler(type, handler)


# The types are at home where users import them from.
(<TypeSlots *>Event).tp_name = "messagechannel.Event"
(<TypeSlots *>EventTarget).tp_name = "messagechannel.EventTarget"
(<TypeSlots *>MessageEvent).tp_name = "messagechannel.MessageEvent"
