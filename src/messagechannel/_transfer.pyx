# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""Transferables and transfer lists (HTML Standard, "Transferable objects").

Transferring follows StructuredSerializeWithTransfer: look at every listed item, serialize, check that none has been
detached meanwhile, and only then detach, all of them. :class:`Transfer` has one method for each step.
"""

cimport cython
from cpython.object cimport PyObject

import sys

cdef extern from "module_state.h":
    pass


cdef extern from "storage.h":
    int swap_bytearrays(PyObject *one, PyObject *other) noexcept
    int swap_arrays(PyObject *one, PyObject *other) noexcept
    bint bytearray_is_exported(PyObject *o) noexcept
    bint array_is_exported(PyObject *o) noexcept


class DataCloneError(ValueError):
    """A value can't be cloned or transferred (Web IDL, "DataCloneError").

    :ivar path: where the offending value is, such as ``$['orders'][3].callback``; ``$`` is the message itself,
        ``transfer[0]`` an item of the transfer list.
    """

    __module__ = "messagechannel"

    def __init__(self, message, path="$"):
        super().__init__(message)
        self.path = path

    def __reduce__(self):
        return type(self), (self.args[0], self.path)


# ---- what can be transferred ----

_primitives = (type(None), bool, int, float, complex, str, bytes)
_transferables = {}
_EXPORTED = "a memoryview or another view of it exists; release that first"


@cython.final
cdef class Kind:
    """How the instances of a type are transferred; what it has no use for is None."""

    cdef object receiver
    cdef object obstacle
    # Of storage, which can be moved back.
    cdef object swap
    # Of handles.
    cdef object hand_over
    cdef object settle
    # Of what only the receiver can rebuild.
    cdef object prepare
    cdef object depart
    cdef object holder


def register_storage(cls, receiver, obstacle, swap):
    """Make the instances of exactly `cls`, or of its subclasses, transferable: their storage goes to a new object.

    :param receiver: ``receiver(item)`` makes the empty object that will take over.
    :param obstacle: ``obstacle(item, received)`` says why the item can't be transferred now, or returns None.
    :param swap: ``swap(item, received)`` exchanges their storage. It fails only where another thread has been faster
        since the check.
    """
    cdef Kind kind = Kind.__new__(Kind)
    kind.receiver, kind.obstacle, kind.swap = receiver, obstacle, swap
    _transferables[cls] = kind


def register_handles(cls, receiver, obstacle, hand_over, settle):
    """Make the instances of `cls` and its subclasses transferable: handles to something shared. Call this once.

    :param receiver: as for :func:`register_storage`, and so is `obstacle`.
    :param hand_over: ``hand_over(items, received)`` has the received handles take over from all those among the items
        at once, or returns False and has changed nothing.
    :param settle: ``settle(item, received)`` does what is left to be done then.
    """
    cdef Kind kind = Kind.__new__(Kind)
    kind.receiver, kind.obstacle, kind.hand_over, kind.settle = receiver, obstacle, hand_over, settle
    _transferables[cls] = kind


def register_departing(cls, obstacle, depart, holder=None, prepare=None):
    """Make the instances of exactly `cls`, or of its subclasses, transferable, as if they had ``__transfer__``.

    :param obstacle: as for :func:`register_storage`.
    :param depart: ``depart(item, prepared)`` detaches the item and returns what ``__transfer__`` does.
    :param holder: ``holder(item)`` returns the file that has the item's descriptor, where several items may have one.
    :param prepare: ``prepare(item)`` returns what departing takes, and changes nothing.
    """
    cdef Kind kind = Kind.__new__(Kind)
    kind.obstacle, kind.depart, kind.holder, kind.prepare = obstacle, depart, holder, prepare
    _transferables[cls] = kind


# What is not imported before somebody transfers one: the module of each type, by the type's name.
_modules = {
    "array": "array",
    "socket": "socket", "Connection": "multiprocessing.connection",
    "FileIO": "_io", "BufferedReader": "_io", "BufferedWriter": "_io", "BufferedRandom": "_io", "TextIOWrapper": "_io",
}


cdef Kind _kind_of(object item):
    """Return how an object is transferred; None where that is its own business, or it can't be."""
    cdef Kind kind
    for cls in type(item).__mro__:
        kind = _transferables.get(cls)
        if kind is None:
            module = _modules.get(cls.__name__)
            if module is None or cls is not getattr(sys.modules.get(module), cls.__name__, None):
                continue
            if module == "array":
                register_storage(cls, _empty_array, _array_obstacle, _swap_arrays)
            else:
                from messagechannel._descriptors import register
                register(cls)
            kind = _transferables[cls]
        # A subclass of a socket or file may know better.
        return None if kind.depart is not None and hasattr(type(item), "__transfer__") else kind
    return None


cdef bint is_transferable(object value):
    return _kind_of(value) is not None or hasattr(type(value), "__transfer__")


def _empty_bytearray(item):
    return bytearray()


def _bytearray_obstacle(item, received):
    # A reducer may have made a view of what takes over.
    return _EXPORTED if bytearray_is_exported(<PyObject *>item) or bytearray_is_exported(<PyObject *>received) else None


def _swap_bytearrays(item, received):
    if swap_bytearrays(<PyObject *>item, <PyObject *>received) < 0:
        raise DataCloneError(f"this bytearray can't be transferred: {_EXPORTED}")


def _empty_array(item):
    array = sys.modules["array"].array
    # A subclass may say something else of itself.
    return array(array.typecode.__get__(item))


def _array_obstacle(item, received):
    return _EXPORTED if array_is_exported(<PyObject *>item) or array_is_exported(<PyObject *>received) else None


def _swap_arrays(item, received):
    if swap_arrays(<PyObject *>item, <PyObject *>received) < 0:
        raise DataCloneError(f"this array can't be transferred: {_EXPORTED}")


register_storage(bytearray, _empty_bytearray, _bytearray_obstacle, _swap_bytearrays)


# ---- the transfer list ----

cdef inline bint is_deferred(Kind kind):
    """Tell whether an item can be rebuilt only where the message is received."""
    return kind is None or kind.depart is not None


@cython.final
cdef class Transfer:
    """The transfer list of one message: ``Transfer(transfer, source)`` reads it once and looks at every item.

    `source` is the port that the message is posted on, which can't be transferred through itself.

    :ivar items: what was listed.
    :ivar received: for each item the new object that takes over. It is empty until :meth:`detach`; in place of an
        object that has ``__transfer__``, of a socket or of a file stands the object itself until the message is
        received.
    :ivar deferred: whether there is such an item, which can only be rebuilt where the message is received.
    :raises TypeError: for a transfer list that is not an iterable of objects.
    :raises DataCloneError: for an item that can't be transferred, or is listed twice.
    """

    def __init__(self, transfer, source=None):
        cdef Kind kind
        # A port is an iterable too, of its messages.
        if isinstance(transfer, (str, bytes)) or hasattr(transfer, "keys") or is_transferable(transfer):
            raise TypeError(f"transfer must be an iterable of transferable objects, not {type(transfer).__name__}; "
                            "write transfer=[port]")
        try:
            items = iter(transfer)
        except TypeError:
            raise TypeError("transfer must be an iterable of transferable objects, "
                            f"not {type(transfer).__name__}; write transfer=[port]") from None
        self.items = list(items)
        self._kinds = []
        self._places = {}
        self._rebuilders = {}
        for index, item in enumerate(self.items):
            if type(item) in _primitives:
                raise TypeError(f"transfer[{index}] must be a transferable object, not {type(item).__name__}")
        for index, item in enumerate(self.items):
            if item is source and source is not None:
                raise self.refusal(index, "a port can't be transferred through itself")
        for index, item in enumerate(self.items):
            kind = _kind_of(item)
            if kind is None and not hasattr(type(item), "__transfer__"):
                raise self.refusal(index, f"a {type(item).__name__} can't be transferred, only a MessagePort, "
                                   "bytearray, array.array, socket, Connection or open file can, and what has a "
                                   "__transfer__ method")
            key = identity(item)
            if key in self._places:
                raise self.refusal(index, f"this {type(item).__name__} is listed twice")
            self._places[key] = index
            self._kinds.append(kind)
        self.received = []
        for item, kind in zip(self.items, self._kinds):
            if is_deferred(kind):
                self.deferred = True
            self.received.append(item if is_deferred(kind) else kind.receiver(item))

    cdef object refusal(self, Py_ssize_t index, str reason):
        return DataCloneError(f"transfer[{index}]: {reason}", f"transfer[{index}]")

    cpdef object place_of(self, object item):
        """Return the index of an item, None for what is not listed."""
        return self._places.get(identity(item))

    def check(self):
        """Make sure that every item that was not yet detached can be.

        :raises DataCloneError: for one that can't.
        """
        cdef Kind kind
        cdef dict holders = {}
        for index, (item, received) in enumerate(zip(self.items, self.received)):
            kind = self._kinds[index]
            if kind is None or index in self._rebuilders:
                continue
            reason = kind.obstacle(item, received)
            if reason is None and kind.holder is not None:
                first = holders.setdefault(identity(kind.holder(item)), index)
                if first != index:
                    reason = f"it is the same file as transfer[{first}]; list one of the two"
            if reason is not None:
                raise self.refusal(index, f"this {type(item).__name__} can't be transferred: {reason}")

    def detach(self):
        """Move all items over to what is in :attr:`received`, right after :meth:`check`.

        What a ``__transfer__`` raises propagates unchanged.

        :raises TypeError: when a ``__transfer__`` does not return what it should.
        """
        self.call_methods()
        self.move()

    # What may fail comes first, while nothing else has changed.

    cdef int call_methods(self) except -1:
        """Detach what has a ``__transfer__``."""
        cdef Kind kind
        if self.deferred:
            self._prepared = []
            for item, kind in zip(self.items, self._kinds):
                self._prepared.append(None if kind is None or kind.prepare is None else kind.prepare(item))
            for index, item in enumerate(self.items):
                if self._kinds[index] is None:
                    self._rebuilders[index] = _checked(item, type(item).__transfer__(item))
            # What ran may have detached or exported other items.
            self.check()
        return 0

    cdef int move(self) except -1:
        """Detach everything else.

        Another thread that has transferred or exported an item since the check leaves handles and storage, and may
        leave sockets and files detached.
        """
        cdef Py_ssize_t swapped = 0, index
        try:
            # First what can be moved back.
            while swapped < len(self.items):
                self._swap(swapped)
                swapped += 1
            self._depart()
            self._hand_over()
        except BaseException:
            for index in range(swapped):
                self._swap(index)
            raise
        self._settle()
        return 0

    cdef int _swap(self, Py_ssize_t index) except -1:
        cdef Kind kind = self._kinds[index]
        if kind is not None and kind.swap is not None:
            kind.swap(self.items[index], self.received[index])
        return 0

    cdef int _depart(self) except -1:
        cdef Kind kind
        if self.deferred:
            for index, item in enumerate(self.items):
                kind = self._kinds[index]
                if kind is not None and kind.depart is not None:
                    self._rebuilders[index] = kind.depart(item, self._prepared[index])
        return 0

    cdef int _hand_over(self) except -1:
        cdef Kind kind
        for kind in self._kinds:
            if kind is not None and kind.hand_over is not None:
                while not kind.hand_over(self.items, self.received):
                    # This says with which another thread was faster, unless that has taken it back meanwhile.
                    self.check()
                # All handles are of one kind.
                break
        return 0

    cdef int _settle(self) except -1:
        cdef Kind kind
        for item, received, kind in zip(self.items, self.received, self._kinds):
            if kind is not None and kind.settle is not None:
                kind.settle(item, received)
        return 0

    cdef object rebuilder(self, Py_ssize_t index):
        """Return a callable and its arguments for an item that is rebuilt by the receiver, else None."""
        return self._rebuilders.get(index)

    cdef int receive(self) except -1:
        """Rebuild, on the receiving side, what was detached by departing."""
        for index, (rebuild, args) in sorted(self._rebuilders.items()):
            self.received[index] = rebuild(*args)
        return 0


cdef tuple _checked(object item, object rebuilder):
    if type(rebuilder) is tuple and len(rebuilder) == 2 and callable(rebuilder[0]) and type(rebuilder[1]) is tuple:
        return rebuilder
    raise TypeError(f"{type(item).__name__}.__transfer__() must return a tuple of a callable and a tuple of its "
                    f"arguments, not {rebuilder!r}")
