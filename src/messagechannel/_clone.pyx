# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: embedsignature=True, embedsignature.format=clinic
"""Structured clone and transfer (HTML Standard, "Safe passing of structured data").

A clone equals what ``pickle.loads(pickle.dumps(value, 5))`` returns, with deeply immutable values by reference. This
first version gets there by that very round trip; nothing outside of this module knows.

Transferring follows StructuredSerializeWithTransfer: look at every listed item, serialize, check that none has been
detached meanwhile, and only then detach, all of them. :class:`Transfer` has one method for each step.
"""

from cpython.object cimport PyObject

import sys

cdef extern from *:
    """
    /* Swaps the storage of two bytearrays.  The layout is the one of CPython 3.10 to 3.14. */
    #if PY_VERSION_HEX >= 0x030F0000
    #error "the layout of bytearray changed in CPython 3.15: move the storage by bytearray.take_bytes instead"
    #endif
    static void swap_storage(PyObject *one, PyObject *other)
    {
        PyByteArrayObject *a = (PyByteArrayObject *)one, *b = (PyByteArrayObject *)other;
        Py_ssize_t size = Py_SIZE(a), alloc = a->ob_alloc;
        char *bytes = a->ob_bytes, *start = a->ob_start;
        Py_SET_SIZE(a, Py_SIZE(b));
        a->ob_alloc = b->ob_alloc;
        a->ob_bytes = b->ob_bytes;
        a->ob_start = b->ob_start;
        Py_SET_SIZE(b, size);
        b->ob_alloc = alloc;
        b->ob_bytes = bytes;
        b->ob_start = start;
    }
    static int is_exported(PyObject *o) { return ((PyByteArrayObject *)o)->ob_exports > 0; }
    """
    void swap_storage(PyObject *one, PyObject *other)
    bint is_exported(PyObject *o)


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


# ---- what is immutable all the way down ----

cdef tuple _atoms = (type(None), bool, int, float, complex, str, bytes)

# Immutable types of the standard library, by name: most programs never import most of them.
cdef frozenset _immutable_names = frozenset({
    "builtins.range", "builtins.ellipsis", "builtins.NotImplementedType",
    "datetime.date", "datetime.timedelta", "datetime.timezone", "zoneinfo.ZoneInfo",
    "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "re.Pattern",
    "ipaddress.IPv4Address", "ipaddress.IPv6Address", "ipaddress.IPv4Network", "ipaddress.IPv6Network",
    "ipaddress.IPv4Interface", "ipaddress.IPv6Interface",
})
cdef frozenset _zoned_names = frozenset({"datetime.datetime", "datetime.time"})


cdef str _name_of(object cls):
    """Return the full name of a class that can be found under it, else an empty string."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    module = sys.modules.get(cls.__module__)
    return name if getattr(module, cls.__qualname__, None) is cls else ""


cdef bint _is_immutable_leaf(object value):
    cls = type(value)
    if cls in _atoms:
        return True
    name = _name_of(cls)
    if name in _zoned_names:
        zone = value.tzinfo
        return zone is None or _name_of(type(zone)) in _immutable_names
    return name in _immutable_names


cdef bint is_immutable(object value):
    """Tell whether nothing that can be reached from `value` can change, so that sharing it can't be noticed."""
    if _is_immutable_leaf(value):
        return True
    if type(value) is not tuple and type(value) is not frozenset:
        return False
    cdef list pending = [value]
    cdef set seen = set()
    while pending:
        item = pending.pop()
        if type(item) is tuple or type(item) is frozenset:
            if id(item) not in seen:
                seen.add(id(item))
                pending.extend(item)
        elif not _is_immutable_leaf(item):
            return False
    return True


# ---- what can be transferred ----

cdef dict _transferables = {}


def register_transferable(cls, receiver, obstacle, move):
    """Make the instances of exactly `cls`, or of its subclasses, transferable.

    :param receiver: ``receiver(item)`` makes the empty object that will take over.
    :param obstacle: ``obstacle(item)`` says why the item can't be transferred now, or returns None.
    :param move: ``move(item, received)`` moves everything over and leaves the item detached; it can't fail.
    """
    _transferables[cls] = (receiver, obstacle, move)


cdef tuple _hooks_of(object item):
    for cls in type(item).__mro__:
        hooks = _transferables.get(cls)
        if hooks is not None:
            return hooks
    return None


def _bytearray_obstacle(item):
    return "a memoryview or another view of it exists; release that first" if is_exported(<PyObject *>item) else None


def _move_bytearray(item, received):
    swap_storage(<PyObject *>item, <PyObject *>received)


register_transferable(bytearray, lambda item: bytearray(), _bytearray_obstacle, _move_bytearray)


cdef class Transfer:
    """The transfer list of one message: ``Transfer(transfer, source)`` reads it once and looks at every item.

    `source` is the port that the message is posted on, which can't be transferred through itself.

    :ivar items: what was listed.
    :ivar received: for each item the new object that takes over; it is empty until :meth:`detach`.
    :raises TypeError: for a transfer list that is not an iterable of objects.
    :raises DataCloneError: for an item that can't be transferred, or is listed twice.
    """

    def __init__(self, transfer, source=None):
        # A port is an iterable too, of its messages.
        if isinstance(transfer, (str, bytes)) or hasattr(transfer, "keys") or _hooks_of(transfer) is not None:
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
        for index, item in enumerate(self.items):
            if type(item) in _atoms:
                raise TypeError(f"transfer[{index}] must be a transferable object, not {type(item).__name__}")
        for index, item in enumerate(self.items):
            if item is source and source is not None:
                raise self.refusal(index, "a port can't be transferred through itself")
        for index, item in enumerate(self.items):
            hooks = _hooks_of(item)
            if hooks is None:
                transferable = ", ".join(sorted(cls.__name__ for cls in _transferables))
                raise self.refusal(index, f"a {type(item).__name__} can't be transferred, only {transferable} can")
            if id(item) in self._places:
                raise self.refusal(index, f"this {type(item).__name__} is listed twice")
            self._places[id(item)] = index
            self._hooks.append(hooks)
        self.received = [receiver(item) for item, (receiver, _, _) in zip(self.items, self._hooks)]

    cdef object refusal(self, Py_ssize_t index, str reason):
        return DataCloneError(f"transfer[{index}]: {reason}", f"transfer[{index}]")

    cdef object place_of(self, object item):
        return self._places.get(id(item))

    def check(self):
        """Make sure that every item can be detached now.

        :raises DataCloneError: for one that can't.
        """
        for index, (item, (_, obstacle, _)) in enumerate(zip(self.items, self._hooks)):
            reason = obstacle(item)
            if reason is not None:
                raise self.refusal(index, f"this {type(item).__name__} can't be transferred: {reason}")

    def detach(self):
        """Move all items over to what is in :attr:`received`; right after :meth:`check`, this can't fail."""
        for item, received, (_, _, move) in zip(self.items, self.received, self._hooks):
            move(item, received)


# ---- the round trip ----

cdef object _pickler_class = None
cdef object _unpickler_class = None


cdef int _make_classes() except -1:
    """Derive from pickle's classes on first use: importing pickle takes longer than importing all of this package."""
    global _pickler_class, _unpickler_class
    import pickle

    class Pickler(pickle.Pickler):
        def __init__(self, buffer, references, transfer):
            super().__init__(buffer, 5)
            self.references = references
            self.transfer = transfer

        def persistent_id(self, value):
            cdef Transfer transfer
            if value is None or value is True or value is False:
                return None
            if self.transfer is not None:
                transfer = self.transfer
                place = transfer.place_of(value)
                if place is not None:
                    self.references.append(transfer.received[place])
                    return len(self.references) - 1
            if is_immutable(value):
                self.references.append(value)
                return len(self.references) - 1
            return None

    class Unpickler(pickle.Unpickler):
        def __init__(self, buffer, references):
            super().__init__(buffer)
            self.references = references

        def persistent_load(self, place):
            return self.references[place]

    _pickler_class = Pickler
    _unpickler_class = Unpickler
    return 0


cdef object _round_trip(object value, Transfer transfer):
    from io import BytesIO
    if _pickler_class is None:
        _make_classes()
    buffer = BytesIO()
    references = []
    _pickler_class(buffer, references, transfer).dump(value)
    buffer.seek(0)
    return _unpickler_class(buffer, references).load()


# pickle has no exception of its own for most of what it refuses; the words are those of CPython 3.10 to 3.13, of
# classes that Cython makes and of multiprocessing.
cdef tuple _refusal_types = (TypeError, AttributeError, ValueError, RuntimeError)
cdef tuple _refusal_words = (
    "cannot pickle", "can't pickle", "can't get local", "cannot be pickled", "no default __reduce__",
    "cannot be converted to a python object for pickling", "should only be shared between",
)


cdef bint _is_refusal(object error):
    """Tell pickle's own refusals from exceptions that come out of the value's methods."""
    import pickle
    if isinstance(error, pickle.PicklingError):
        return True
    text = str(error).lower()
    return type(error) in _refusal_types and any([words in text for words in _refusal_words])


cdef str _remedy(object value):
    cls = type(value)
    if _hooks_of(value) is not None:
        return f"a {cls.__name__} can't be cloned; list it in transfer"
    if cls.__name__ == "function":
        return f"the function {value.__qualname__} can't be found by its name; define it at module level"
    if isinstance(value, type):
        return f"the class {value.__qualname__} can't be found by its name; define it at module level"
    return f"a {cls.__module__ + '.' if cls.__module__ != 'builtins' else ''}{cls.__qualname__} can't be cloned"


cdef str _show(object key):
    try:
        return repr(key)
    except Exception:
        return f"<{type(key).__name__}>"


cdef list _children(object value):
    """Return (path element, child) for what a value consists of, as far as that can be named."""
    if isinstance(value, dict):
        return [*((f"[{_show(key)}]", child) for key, child in value.items()),
                *((f".key({_show(key)})", key) for key in value)]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", child) for index, child in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(f".item({_show(child)})", child) for child in value]
    if isinstance(value, (type, type(sys))):
        return []
    children = [(f".{name}", child) for name, child in getattr(value, "__dict__", {}).items()]
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                children.append((f".{name}", getattr(value, name)))
    return children


cdef object _explain(object value, Transfer transfer, object refusal):
    """Return the DataCloneError for a refused value, with the path to the innermost part that is refused by itself."""
    path = "$"
    cdef set seen = set()
    cdef bint descending = True
    while descending:
        seen.add(id(value))
        descending = False
        for element, child in _children(value):
            if id(child) in seen:
                continue
            try:
                _round_trip(child, transfer)
            except RecursionError:
                break
            except Exception as error:
                if _is_refusal(error):
                    path += element
                    value, refusal = child, error
                    descending = True
                    break
    return DataCloneError(f"{path}: {_remedy(value)} ({refusal})", path)


def clone(value, Transfer transfer=None):
    """Return a clone of `value` in which the items of `transfer` are replaced by what takes over from them.

    :raises DataCloneError: for what can't be cloned. Nothing has been detached then.
    :raises RecursionError: for a value that is nested too deeply.
    :raises Exception: whatever the value's own methods raise.
    """
    if is_immutable(value):
        return value
    try:
        return _round_trip(value, transfer)
    except Exception as error:
        if not _is_refusal(error):
            raise
        refusal = error
    raise _explain(value, transfer, refusal) from refusal


def structured_clone(value, *, transfer=()):
    """Return a deep copy of `value`, as posting it would deliver (HTML Standard, ``structuredClone``).

    The copy equals ``pickle.loads(pickle.dumps(value, 5))`` in value, type, sharing and cycles, except that deeply
    immutable values (numbers, str, bytes, tuples and frozensets of those, dates, Decimal, UUID and the like) are
    passed by reference.

    :param transfer: an iterable of transferable objects. Where they occur in the value, the copy has the new object
        that takes over; the listed ones are detached. None means none.
    :raises DataCloneError: for what can't be cloned or transferred; nothing has been detached then.
    :raises TypeError: for a transfer list that is not an iterable of objects.
    """
    if transfer is None:
        transfer = ()
    cdef Transfer moved = Transfer(transfer)
    result = clone(value, moved)
    moved.check()
    moved.detach()
    return result
