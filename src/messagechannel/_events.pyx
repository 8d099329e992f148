# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""Events and their targets, as far as channel messaging needs them (DOM Standard, "Events"; HTML, "MessageEvent")."""

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable

from messagechannel._csrc cimport Py_GenericAlias, bring_home, shared_claim, shared_number

from messagechannel._context import report_on_running_loop


cdef extern from "module_state.h":
    pass


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
        type = require_str(type, "type")
        cancelable = bool(cancelable)
        with cython.critical_section(self):
            _former = self.type
            self.type = type
            self.cancelable = cancelable

    def prevent_default(self):
        """Ask that the default action be left out; ``dispatch_event`` then returns False."""
        with cython.critical_section(self):
            if self.cancelable:
                self.default_prevented = True

    def stop_immediate_propagation(self):
        """Run no further listener for this event."""
        with cython.critical_section(self):
            self._stopped = True

    def __repr__(self):
        with cython.critical_section(self):
            kind = self.type
        return f"<{type(self).__name__} {kind!r}>"


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
            raise TypeError(f"source must be an EventTarget or None, not {source.__class__.__name__}")
        ports = tuple(ports)
        for port in ports:
            if not isinstance(port, EventTarget):
                raise TypeError(f"ports must be EventTargets, not {port.__class__.__name__}")
        origin = require_str(origin, "origin")
        last_event_id = require_str(last_event_id, "last_event_id")
        with cython.critical_section(self):
            _former = (self.data, self.origin, self.last_event_id, self.source, self.ports)
            self.data = data
            self.origin = origin
            self.last_event_id = last_event_id
            self.source = source
            self.ports = ports

    @classmethod
    def __class_getitem__(cls, item):
        return Py_GenericAlias(cls, item)

    def __repr__(self):
        with cython.critical_section(self):
            kind = self.type
            data = self.data
        return f"<{type(self).__name__} {kind!r} data={data!r}>"


class ErrorEvent(Event):
    """An exception that nobody caught (HTML Standard, "The ErrorEvent interface").

    :ivar message: the exception in one line.
    :ivar error: the exception.
    :ivar traceback: its traceback, as Python prints it; ``""`` where nothing is known of one.
    """

    __module__ = "messagechannel"

    def __init__(self, type, *, message="", error=None, traceback=""):
        super().__init__(type, cancelable=True)
        self.message = require_str(message, "message")
        self.error = error
        self.traceback = require_str(traceback, "traceback")


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


@cython.final
cdef class Registration:
    """One listener of one event type; ``handler`` marks the one behind the ``on...`` attribute."""

    # Read and replaced in the critical section of this object.
    cdef object _callback
    cdef bint once
    cdef bint handler
    # A listener that is removed while its event is being dispatched no longer runs.
    cdef shared_number removed
    # A listener for one event was or is being called.
    cdef shared_number spent

    def __cinit__(self, callback, bint once, bint handler):
        self._callback = callback
        self.once = once
        self.handler = handler

    cdef object callback(self):
        with cython.critical_section(self):
            return self._callback

    cdef int replace(self, callback) except -1:
        with cython.critical_section(self):
            _former = self._callback
            self._callback = callback
        return 0


cdef int hears(str type) except -1:
    return (HEARS_MESSAGE if type == "message" else HEARS_CLOSE if type == "close" else HEARS_ERROR if type == "error"
            else HEARS_OTHERS)


cdef void report(object error, object listener) noexcept:
    """Hand an exception to the running loop's exception handler, or to ``sys.unraisablehook`` where no loop runs."""
    try:
        if report_on_running_loop(error, listener):
            return
    except Exception as broken:
        error = broken
    write_unraisable(error, listener)


cdef void write_unraisable(object error, object where) noexcept:
    """Hand an exception that was caught to ``sys.unraisablehook``; PyErr_WriteUnraisable alone finds none any more."""
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(where)


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
        cdef Registration registration
        cdef tuple registrations
        cdef str name = require_str(type, "type")
        if not callable(listener):
            raise TypeError(f"listener must be callable, not {listener.__class__.__name__}")
        while True:
            registrations = self._listeners(name)
            for registration in registrations:
                if not registration.handler and registration.callback() == listener:
                    return
            if self._replace(name, registrations, registrations + (Registration(listener, once, False),)):
                self._listeners_changed()
                return

    def remove_event_listener(self, type, listener):
        """Call `listener` no more for events of `type`; nothing happens when it was not added."""
        cdef Registration registration
        cdef str name
        if not isinstance(type, str):
            return
        name = str(type)
        for registration in self._listeners(name):
            if not registration.handler and registration.callback() == listener:
                self._remove(name, registration)
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
        cdef bint busy
        cdef str type_of_event
        with cython.critical_section(dispatched):
            type_of_event = dispatched.type
            busy = dispatched.current_target is not None
            if not busy:
                _former = dispatched.target
                dispatched.target = self
                dispatched.current_target = self
                dispatched.is_trusted = False
        if busy:
            raise RuntimeError(f"{event!r} is being dispatched already; make another Event")
        return self._dispatch(dispatched, self._listeners(type_of_event))

    cdef dict _all_listeners(self):
        with cython.critical_section(self):
            return self._registrations

    cdef tuple _listeners(self, str type):
        cdef dict registrations = self._all_listeners()
        return () if registrations is None else registrations.get(type, ())

    cdef bint _replace(self, str type, tuple present, tuple wanted) except -1:
        """Make `wanted` the listeners of a type; False when others have changed meanwhile, so that one looks again."""
        cdef dict former = self._all_listeners()
        cdef dict registrations = {} if former is None else former.copy()
        cdef uint32_t heard = 0
        if registrations.get(type, ()) is not present:
            return False
        if wanted:
            registrations[type] = wanted
        else:
            del registrations[type]
        for name in registrations:
            heard |= hears(name)
        with cython.critical_section(self):
            return self._exchange_listeners(former, registrations, heard)

    cdef bint _exchange_listeners(self, dict former, dict wanted, uint32_t heard) noexcept:
        """Set the listeners and what they hear, if the listeners are still the former ones.

        Nothing is allocated here: the garbage collector would let other threads in, GIL or not.
        """
        if self._registrations is not former:
            return False
        self._registrations = wanted
        self._heard = heard
        return True

    cdef bint _remove(self, str type, object registration) except -1:
        """Take a listener away; False when another thread has done so."""
        cdef tuple registrations, rest
        while True:
            registrations = self._listeners(type)
            rest = tuple([r for r in registrations if r is not registration])
            if len(rest) == len(registrations):
                return False
            if self._replace(type, registrations, rest):
                (<Registration>registration).removed = True
                self._listeners_changed()
                return True

    cdef int _listeners_changed(self) except -1:
        return 0

    cdef bint _run_task(self, object tasks) except -1:
        return False

    cdef object _handler(self, str type):
        cdef Registration registration
        for registration in self._listeners(type):
            if registration.handler:
                return registration.callback()
        return None

    cdef int _set_handler(self, str type, object handler) except -1:
        if handler is not None and not callable(handler):
            raise TypeError(f"on{type} must be callable or None, not {handler.__class__.__name__}")
        cdef Registration registration
        cdef tuple registrations
        while True:
            registrations = self._listeners(type)
            for registration in registrations:
                if registration.handler:
                    # A handler that replaces another keeps its place in the order.
                    if handler is None:
                        self._remove(type, registration)
                    else:
                        registration.replace(handler)
                    return 0
            if handler is None:
                return 0
            if self._replace(type, registrations, registrations + (Registration(handler, False, True),)):
                self._listeners_changed()
                return 0

    cdef bint _dispatch(self, Event event, tuple registrations) except -1:
        """Call the listeners that were looked up when the event came about.

        If all of them have been removed since, they get it all the same: nobody else would.
        """
        cdef Registration registration
        cdef Py_ssize_t i, n = len(registrations)
        cdef bint called = False
        cdef str type
        with cython.critical_section(event):
            type = event.type
            event.current_target = self
            event._stopped = False
        ending = None
        try:
            for i in range(2 * n):
                if i == n and called:
                    break
                registration = registrations[i % n]
                if registration.removed and i < n:
                    continue
                if registration.once:
                    # Of several threads that dispatch here at once, one gets to call it.
                    if not shared_claim(&registration.spent, False, True):
                        continue
                    self._remove(type, registration)
                called = True
                callback = registration.callback()
                try:
                    callback(event)
                except (KeyboardInterrupt, SystemExit) as error:
                    ending = error
                except BaseException as error:
                    report(error, callback)
                if event._stopped:
                    break
        finally:
            with cython.critical_section(event):
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
bring_home(Event, "messagechannel", "messagechannel.Event")
bring_home(EventTarget, "messagechannel", "messagechannel.EventTarget")
bring_home(MessageEvent, "messagechannel", "messagechannel.MessageEvent")
