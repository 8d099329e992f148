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


def register_transferable(cls, receiver, obstacle, move, swaps=False):
    """Make the instances of exactly `cls`, or of its subclasses, transferable.

    :param receiver: ``receiver(item)`` makes the empty object that will take over.
    :param obstacle: ``obstacle(item, received)`` says why the item can't be transferred now, or returns None.
    :param move: ``move(item, received)`` moves everything over and leaves the item detached. It fails only where
        another thread has been faster since the check.
    :param swaps: whether calling it again moves everything back.
    """
    _transferables[cls] = (receiver, obstacle, move, None, None, swaps)


def register_departing(cls, obstacle, depart, holder=None, prepare=None):
    """Make the instances of exactly `cls`, or of its subclasses, transferable, as if they had ``__transfer__``.

    :param obstacle: as for :func:`register_transferable`.
    :param depart: ``depart(item, prepared)`` detaches the item and returns what ``__transfer__`` does.
    :param holder: ``holder(item)`` returns the file that has the item's descriptor, where several items may have one.
    :param prepare: ``prepare(item)`` returns what departing takes, and changes nothing.
    """
    _transferables[cls] = (None, obstacle, depart, holder, prepare, False)


# What is not imported before somebody transfers one: the module of each type, by the type's name.
_modules = {
    "array": "array",
    "socket": "socket", "Connection": "multiprocessing.connection",
    "FileIO": "_io", "BufferedReader": "_io", "BufferedWriter": "_io", "BufferedRandom": "_io", "TextIOWrapper": "_io",
}


cdef tuple _hooks_of(object item):
    for cls in type(item).__mro__:
        hooks = _transferables.get(cls)
        if hooks is None:
            module = _modules.get(cls.__name__)
            if module is None or cls is not getattr(sys.modules.get(module), cls.__name__, None):
                continue
            if module == "array":
                register_transferable(cls, _empty_array, _array_obstacle, _move_array, True)
            else:
                from messagechannel._descriptors import register
                register(cls)
            hooks = _transferables[cls]
        # A subclass of a socket or file may know better.
        return None if hooks[0] is None and hasattr(type(item), "__transfer__") else hooks
    return None


cdef bint is_transferable(object value):
    return _hooks_of(value) is not None or hasattr(type(value), "__transfer__")


def _empty_bytearray(item):
    return bytearray()


def _bytearray_obstacle(item, received):
    # A reducer may have made a view of what takes over.
    return _EXPORTED if bytearray_is_exported(<PyObject *>item) or bytearray_is_exported(<PyObject *>received) else None


def _move_bytearray(item, received):
    if swap_bytearrays(<PyObject *>item, <PyObject *>received) < 0:
        raise DataCloneError(f"this bytearray can't be transferred: {_EXPORTED}")


def _empty_array(item):
    array = sys.modules["array"].array
    # A subclass may say something else of itself.
    return array(array.typecode.__get__(item))


def _array_obstacle(item, received):
    return _EXPORTED if array_is_exported(<PyObject *>item) or array_is_exported(<PyObject *>received) else None


def _move_array(item, received):
    if swap_arrays(<PyObject *>item, <PyObject *>received) < 0:
        raise DataCloneError(f"this array can't be transferred: {_EXPORTED}")


register_transferable(bytearray, _empty_bytearray, _bytearray_obstacle, _move_bytearray, True)


# ---- the transfer list ----

cdef inline bint is_deferred(tuple hooks):
    """Tell whether an item can be rebuilt only where the message is received."""
    return hooks is None or hooks[0] is None


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
        self._hooks = []
        self._places = {}
        self._rebuilders = {}
        for index, item in enumerate(self.items):
            if type(item) in _primitives:
                raise TypeError(f"transfer[{index}] must be a transferable object, not {type(item).__name__}")
        for index, item in enumerate(self.items):
            if item is source and source is not None:
                raise self.refusal(index, "a port can't be transferred through itself")
        for index, item in enumerate(self.items):
            hooks = _hooks_of(item)
            if hooks is None and not hasattr(type(item), "__transfer__"):
                raise self.refusal(index, f"a {type(item).__name__} can't be transferred, only a MessagePort, "
                                   "bytearray, array.array, socket, Connection or open file can, and what has a "
                                   "__transfer__ method")
            key = identity(item)
            if key in self._places:
                raise self.refusal(index, f"this {type(item).__name__} is listed twice")
            self._places[key] = index
            self._hooks.append(hooks)
        self.received = []
        for item, hooks in zip(self.items, self._hooks):
            if is_deferred(hooks):
                self.deferred = True
            self.received.append(item if is_deferred(hooks) else hooks[0](item))

    cdef object refusal(self, Py_ssize_t index, str reason):
        return DataCloneError(f"transfer[{index}]: {reason}", f"transfer[{index}]")

    cpdef object place_of(self, object item):
        """Return the index of an item, None for what is not listed."""
        return self._places.get(identity(item))

    def check(self):
        """Make sure that every item that was not yet detached can be.

        :raises DataCloneError: for one that can't.
        """
        cdef dict holders = {}
        for index, (item, received, hooks) in enumerate(zip(self.items, self.received, self._hooks)):
            if hooks is None or index in self._rebuilders:
                continue
            reason = hooks[1](item, received)
            if reason is None and hooks[3] is not None:
                first = holders.setdefault(identity(hooks[3](item)), index)
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
        self.move_storage()
        try:
            self.depart()
            self.move_rest()
        except BaseException:
            self.move_storage_back(len(self.items))
            raise

    # What may fail comes first, while nothing else has changed.

    cdef int call_methods(self) except -1:
        """Detach what has a ``__transfer__``."""
        if self.deferred:
            self._prepared = []
            for item, hooks in zip(self.items, self._hooks):
                self._prepared.append(None if hooks is None or hooks[4] is None else hooks[4](item))
            for index, (item, hooks) in enumerate(zip(self.items, self._hooks)):
                if hooks is None:
                    self._rebuilders[index] = _checked(item, type(item).__transfer__(item))
            # What ran may have detached or exported other items.
            self.check()
        return 0

    cdef int depart(self) except -1:
        """Detach what else only the receiver can rebuild."""
        if self.deferred:
            for index, (item, hooks) in enumerate(zip(self.items, self._hooks)):
                if hooks is not None and hooks[0] is None:
                    self._rebuilders[index] = hooks[2](item, self._prepared[index])
        return 0

    cdef int move_storage(self) except -1:
        """Move what can be moved back: all of it, or nothing."""
        cdef Py_ssize_t moved = 0
        try:
            while moved < len(self.items):
                self._swap(moved)
                moved += 1
        except BaseException:
            self.move_storage_back(moved)
            raise
        return 0

    cdef int move_storage_back(self, Py_ssize_t end) except -1:
        cdef Py_ssize_t index
        for index in range(end):
            self._swap(index)
        return 0

    cdef int _swap(self, Py_ssize_t index) except -1:
        hooks = self._hooks[index]
        if hooks is not None and hooks[5]:
            hooks[2](self.items[index], self.received[index])
        return 0

    cdef int move_rest(self) except -1:
        for item, received, hooks in zip(self.items, self.received, self._hooks):
            if not is_deferred(hooks) and not hooks[5]:
                hooks[2](item, received)
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
