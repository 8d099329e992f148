# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""Structured clone (HTML Standard, "Safe passing of structured data").

A clone equals what ``pickle.loads(pickle.dumps(value, 5))`` returns, with deeply immutable values by reference; it is
made in one walk, without the bytes between. walk.c walks through builtin containers and plain objects. Here is what
pickle does by calling methods of the value: reducers, and the names of functions and classes.

A message with an object that has ``__transfer__`` can be built only when that object is there again, at the receiver.
Such a message, and no other, is a real pickle on its way (:class:`Serialized`).
"""

cimport cython
from cpython.module cimport PyImport_Import
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

import sys

from messagechannel._transfer import DataCloneError

from messagechannel._transfer cimport Transfer, is_transferable


cdef extern from "module_state.h":
    pass


cdef extern from "walk.h":
    ctypedef struct memo:
        pass

    ctypedef struct walk "struct walk":
        memo memo
        bint recalls
        bint forgot
        PyObject *path

    enum:
        KIND_REFERENCE
        KIND_PLAIN
        KIND_REDUCED
        STEP_INDEX
        STEP_VALUE
        STEP_KEY
        STEP_ITEM
        STEP_ATTRIBUTE

    bint is_atom(object o) noexcept
    void walk_init(walk *w, bint recalls, object (*rebuild)(walk *, object),
                   int (*judge)(walk *, object, PyObject **) except -1)
    void walk_clear(walk *w) noexcept
    object walk_clone(walk *w, object o, Py_ssize_t holders)
    PyObject *memo_get(memo *m, PyObject *original) noexcept
    int memo_put(memo *m, object original, object clone) except -1
    void walk_step(walk *w, int step, object key) noexcept
    bint is_simple(object cls, tuple hooks) noexcept
    bint is_all_state(object cls, PyObject *slots) noexcept
    PyObject *type_lookup(object cls, object name) noexcept

cdef extern from *:
    """
    #include <string.h>

    /* The bytes of a PickleBuffer, as pickle has them without out-of-band buffers. */
    static PyObject *copy_pickle_buffer(PyObject *o)
    {
        const Py_buffer *view = PyPickleBuffer_GetBuffer(o);
        if (!view)
            return NULL;
        if (!PyBuffer_IsContiguous(view, 'A')) {
            PyErr_SetString(PyExc_TypeError, "cannot pickle a PickleBuffer of a buffer that is not contiguous");
            return NULL;
        }
        return view->readonly ? PyBytes_FromStringAndSize(view->buf, view->len)
                              : PyByteArray_FromStringAndSize(view->buf, view->len);
    }
    """
    bint PyFunction_Check(object o) noexcept
    bint PyPickleBuffer_Check(object o) noexcept
    object copy_pickle_buffer(object o)


# ---- which types are which ----

# What pickle looks for in the type of an instance, and what is not there to be found if object's own will do.
_hooks = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs_ex__", "__getnewargs__",
          "__class__")

# Where a class may do as it likes when pickle asks it.
_methods = (*_hooks, "__getattr__", "__getattribute__")
# What is written in C returns what it holds, and so do the methods that these modules give classes.
_c_methods = (type(object.__reduce__), type(object.__getattribute__), type(object.__dict__["__class__"]))
_trusted_modules = ("collections", "dataclasses", "enum")

# Immutable types of the standard library, by name: most programs never import most of them.
_immutable_names = {
    "range": "builtins",
    "date": "datetime", "timedelta": "datetime", "timezone": "datetime",
    "Decimal": "decimal", "Fraction": "fractions", "UUID": "uuid", "Pattern": "re",
    "IPv4Address": "ipaddress", "IPv6Address": "ipaddress", "IPv4Network": "ipaddress", "IPv6Network": "ipaddress",
    "IPv4Interface": "ipaddress", "IPv6Interface": "ipaddress",
    "PurePosixPath": "pathlib", "PureWindowsPath": "pathlib", "PosixPath": "pathlib", "WindowsPath": "pathlib",
}
# pickle finds these though no name leads to them.
_nameless_types = (type(None), type(...), type(NotImplemented))


cdef bint _is_immutable_type(type cls) except -1:
    name = cls.__name__
    module = _immutable_names.get(name)
    if module is None:
        return cls is type(...) or cls is type(NotImplemented)
    return getattr(sys.modules.get(module), name, None) is cls


cdef bint _is_zoned(object value) except -1:
    """Tell whether a value is a datetime or time proper."""
    cls = type(value)
    if cls.__name__ != "datetime" and cls.__name__ != "time":
        return False
    return getattr(sys.modules.get("datetime"), cls.__name__, None) is cls


_copyreg = None


cdef object _registry():
    """Return the module copyreg, which a program that clones nothing but containers need not import."""
    global _copyreg
    if _copyreg is None:
        import copyreg
        _copyreg = copyreg
    return _copyreg


class _RecallError(BaseException):
    """The walk has to begin again, and to remember everything."""


cdef bint _may_invent(object method) except -1:
    """Tell whether a method may return references that nothing accounts for."""
    if type(method) in _c_methods:
        return False
    return not PyFunction_Check(method) or method.__globals__.get("__name__") not in _trusted_modules


cdef int _expect_inventions(walk *w, object cls, object reducer) except -1:
    """Make sure that everything is remembered if reducers of that type may return whatever they like."""
    cdef PyObject *method
    cdef bint invents = reducer is not None and _may_invent(reducer)
    for name in _methods:
        method = type_lookup(cls, name)
        if method is not NULL and method != type_lookup(object, name):
            invents |= _may_invent(<object>method)
    if invents and w.forgot:
        raise _RecallError
    w.recalls |= invents
    return 0


cdef int _judge(walk *w, object value, PyObject **slots) except -1:
    cls = type(value)
    if _is_immutable_type(cls):
        return KIND_REFERENCE
    if isinstance(value, type):
        return KIND_REDUCED
    reducer = _registry().dispatch_table.get(cls)
    names = _registry()._slotnames(cls) if reducer is None and is_simple(cls, _hooks) else None
    # A class can say what it likes in __slotnames__; pickle has its own exception for that.
    if type(names) is not list or not is_all_state(cls, <PyObject *>names if names else NULL):
        if not w.recalls:
            _expect_inventions(w, cls, reducer)
        return KIND_REDUCED
    _find(w, cls, None)
    if names:
        Py_INCREF(names)
        slots[0] = <PyObject *>names
    return KIND_PLAIN


# ---- what is refused ----

# pickle has no exception of its own for most of what it refuses; the words are those of CPython 3.10 to 3.14, of
# classes that Cython makes and of multiprocessing.
_refusal_types = (TypeError, AttributeError, ValueError, RuntimeError)
_refusal_words = (
    "cannot pickle", "can't pickle", "can't get local", "cannot be pickled", "no default __reduce__",
    "cannot be converted to a python object for pickling", "should only be shared between",
)


cdef bint _is_refusal(object error) except -1:
    """Tell pickle's own refusals from exceptions that come out of the value's methods."""
    for cls in type(error).__mro__:
        if cls.__name__ == "PicklingError" and cls.__module__ in ("_pickle", "pickle"):
            return True
    # The text of an exception is its own method's work, and so is that of what it holds.
    text = error.args[0] if type(error) in _refusal_types and error.args else None
    if type(text) is not str:
        return False
    for words in _refusal_words:
        if words in text.lower():
            return True
    return False


cdef str _remedy(object value):
    cls = type(value)
    if is_transferable(value):
        return f"a {cls.__name__} can't be cloned; list it in transfer"
    if PyFunction_Check(value) and value.__name__ == "<lambda>":
        return "a lambda can't be sent; define a function at module level"
    if PyFunction_Check(value):
        return f"the function {value.__qualname__} can't be found by its name; define it at module level"
    if isinstance(value, type):
        return f"the class {value.__qualname__} can't be found by its name; define it at module level"
    return f"a {f'{cls.__module__}.' if cls.__module__ != 'builtins' else ''}{cls.__qualname__} can't be cloned"


cdef object _refusal(walk *w, object value, object reason):
    """Return the DataCloneError for a value; whoever passes it on notes the way (walk_step)."""
    if w.path is NULL:
        path = []
        Py_INCREF(path)
        w.path = <PyObject *>path
    return DataCloneError(f"{_remedy(value)} ({reason})")


cdef str _show(object key):
    try:
        return repr(key)
    except Exception:
        return f"<{type(key).__name__}>"


cdef str _path(list steps):
    path = "$"
    for step, key in reversed(steps):
        if step == STEP_ATTRIBUTE and isinstance(key, str):
            path += f".{key}"
        elif step == STEP_KEY:
            path += f".key({_show(key)})"
        elif step == STEP_ITEM:
            path += f".item({_show(key)})"
        else:
            path += f"[{_show(key)}]"
    return path


cdef _drop_step(walk *w):
    """Forget the step into what a reducer returned: the path goes through the object itself."""
    if w.path is not NULL:
        (<list>w.path)[-1:] = []


cdef _name_state_steps(walk *w, object state):
    """Make of the steps into an object's state what they mean: attributes of the object."""
    cdef list steps
    if isinstance(state, tuple):
        # Often one of __dict__ and slots.
        _drop_step(w)
    if w.path is not NULL:
        steps = <list>w.path
        if steps and steps[-1][0] == STEP_VALUE:
            steps[-1] = (STEP_ATTRIBUTE, steps[-1][1])


cdef object explain(object value, Transfer transfer, object error):
    """Return what to raise when pickle has raised `error` for a value: a DataCloneError if pickle refused it."""
    if not _is_refusal(error):
        return error
    try:
        # pickle does not tell where.
        clone(value, transfer)
    except DataCloneError as refusal:
        return refusal
    return DataCloneError(f"$: {_remedy(value)} ({error})")


# ---- names ----

cdef object _find(walk *w, object value, str name):
    """Return a function, class or other global, after making sure that its name leads to it, as pickle does."""
    if name is None:
        name = getattr(value, "__qualname__", None)
        if name is None:
            name = value.__name__
    module_name = getattr(value, "__module__", None)
    if module_name is None:
        import pickle
        module_name = pickle.whichmodule(value, name)
    try:
        found = sys.modules.get(module_name)
        if found is None:
            PyImport_Import(module_name)
            found = sys.modules[module_name]
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, KeyError, AttributeError) as error:
        if isinstance(value, type) and value in _nameless_types:
            return value
        raise _refusal(w, value, f"no {module_name}.{name}") from error
    if found is not value:
        raise _refusal(w, value, f"{module_name}.{name} is something else")
    return value


# ---- what stays shared ----

_sharers = {}


def register_shared(cls, share):
    """Have the instances of exactly `cls` cloned by ``share(value)``: a new object for the same thing."""
    _sharers[cls] = share


# ---- the protocol of reducers ----

cdef object _reduce(walk *w, object value):
    try:
        reducer = _registry().dispatch_table.get(type(value))
        if reducer is not None:
            return reducer(value)
        reducer = getattr(value, "__reduce_ex__", None)
        return reducer(5) if reducer is not None else value.__reduce__()
    except Exception as error:
        if not _is_refusal(error):
            raise
        raise _refusal(w, value, error) from error


cdef object _rebuild(walk *w, object value):
    """Clone what walk.c has no walk for."""
    cdef PyObject *known
    if PyFunction_Check(value) or isinstance(value, type):
        return _find(w, value, None)
    if PyPickleBuffer_Check(value):
        try:
            made = copy_pickle_buffer(value)
        except TypeError as error:
            raise _refusal(w, value, error) from error
        memo_put(&w.memo, value, made)
        return made
    share = _sharers.get(type(value))
    if share is not None:
        made = share(value)
        memo_put(&w.memo, value, made)
        return made
    if _is_zoned(value):
        zone = value.tzinfo
        if zone is None or walk_clone(w, zone, 0) is zone:
            return value
    reduced = _reduce(w, value)
    if isinstance(reduced, str):
        return _find(w, value, reduced)
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise _refusal(w, value, "__reduce__ must return a string or a tuple of 2 to 6 items")
    size = len(reduced)
    function, args = reduced[0], reduced[1]
    state = reduced[2] if size > 2 else None
    items = reduced[3] if size > 3 else None
    pairs = reduced[4] if size > 4 else None
    set_state = reduced[5] if size > 5 else None
    if not callable(function):
        raise _refusal(w, value, "the first item that __reduce__ returned must be callable")
    if not isinstance(args, tuple):
        raise _refusal(w, value, "the second item that __reduce__ returned must be a tuple")
    del reduced
    made = _make(w, value, function, args)
    # The value may have been met again inside its arguments.
    known = memo_get(&w.memo, <PyObject *>value)
    if known is not NULL:
        return <object>known
    memo_put(&w.memo, value, made)
    if items is not None:
        _extend(w, made, items)
    if pairs is not None:
        _update(w, made, pairs)
    if state is not None:
        _set_state(w, made, state, set_state)
    return made


cdef object _make(walk *w, object value, object function, tuple args):
    """Call what a reducer named, with clones of its arguments."""
    name = getattr(function, "__name__", None)
    if name != "__newobj__" and name != "__newobj_ex__":
        function = walk_clone(w, function, 0)
        args = _clone_arguments(w, args, None)
        return function(*args)
    if name == "__newobj_ex__":
        cls, positional, keywords = args
    else:
        cls, positional, keywords = args[0] if args else None, args[1:], {}
    if not isinstance(cls, type) or value.__class__ is not cls:
        raise _refusal(w, value, f"{name} must be called with the object's class, not {cls!r}")
    _find(w, cls, None)
    positional = _clone_arguments(w, positional, value)
    if keywords:
        keywords = _clone_arguments(w, keywords, None)
        return cls.__new__(cls, *positional, **keywords)
    return cls.__new__(cls, *positional)


cdef bint _are_items(object args, object value) except -1:
    """Tell whether arguments are the very items of a tuple, whatever its class makes of iteration."""
    cdef tuple items
    if not isinstance(value, tuple):
        return False
    items = tuple(tuple.__iter__(value))
    if len(args) != len(items):
        return False
    for one, other in zip(args, items):
        if one is not other:
            return False
    return True


cdef object _clone_arguments(walk *w, object args, object value):
    """Clone arguments; the way to what is refused among them does not say which of them it is.

    Unless they are the items of `value`, as those of a named tuple are.
    """
    try:
        return walk_clone(w, args, 0)
    except DataCloneError:
        if not _are_items(args, value):
            _drop_step(w)
        raise


cdef _extend(walk *w, object made, object items):
    cdef Py_ssize_t index = 0
    cdef list batch = []
    for item in items:
        try:
            batch.append(walk_clone(w, item, 0))
        except DataCloneError:
            walk_step(w, STEP_INDEX, index)
            raise
        index += 1
        if len(batch) == 1000:
            _append(made, batch)
            batch = []
    if batch:
        _append(made, batch)


cdef _append(object made, list batch):
    extend = getattr(made, "extend", None)
    if extend is not None:
        extend(batch)
        return
    append = made.append
    for item in batch:
        append(item)


cdef _update(walk *w, object made, object pairs):
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise _refusal(w, made, "the fifth item that __reduce__ returned must yield pairs")
        key, value = pair
        try:
            key = walk_clone(w, key, 0)
        except DataCloneError:
            walk_step(w, STEP_KEY, pair[0])
            raise
        del pair
        try:
            value = walk_clone(w, value, 0)
        except DataCloneError:
            walk_step(w, STEP_VALUE, key)
            raise
        made[key] = value


cdef _set_state(walk *w, object made, object state, object set_state):
    if set_state is not None:
        set_state = walk_clone(w, set_state, 0)
    try:
        state = walk_clone(w, state, 0)
    except DataCloneError:
        _name_state_steps(w, state)
        raise
    if set_state is not None:
        set_state(made, state)
        return
    set_state = getattr(made, "__setstate__", None)
    if set_state is not None:
        set_state(state)
        return
    slots = None
    if type(state) is tuple and len(<tuple>state) == 2:
        state, slots = state
    if state is not None:
        if not isinstance(state, dict):
            raise TypeError(f"the state of a {type(made).__name__} without __setstate__ must be a dict, "
                            f"not {type(state).__name__}")
        attributes = made.__dict__
        for name, value in state.items():
            attributes[sys.intern(name) if type(name) is str else name] = value
    if slots is not None:
        if not isinstance(slots, dict):
            raise TypeError(f"the slots' state of a {type(made).__name__} must be a dict, not {type(slots).__name__}")
        for name, value in slots.items():
            setattr(made, name, value)


# ---- messages that are rebuilt at the receiver ----

_pickler_class = None
_unpickler_class = None


cdef int _make_classes() except -1:
    """Derive from pickle's classes on first use: importing pickle takes longer than importing all of this package."""
    global _pickler_class, _unpickler_class
    import pickle

    class Pickler(pickle.Pickler):
        def __init__(self, buffer, references, transfer):
            super().__init__(buffer, 5)
            self.references = references
            self.transfer = transfer
            # Originals of what stays shared, with what stands for them.
            self.shared = []

        def persistent_id(self, value):
            cls = type(value)
            place = self.transfer.place_of(value)
            if place is not None:
                return place
            if cls in _sharers:
                for original, shared in self.shared:
                    if original is value:
                        break
                else:
                    shared = _sharers[cls](value)
                    self.shared.append((value, shared))
                value = shared
            elif cls is not bytes and cls is not str and not _is_immutable_type(cls):
                return None
            self.references.append(value)
            return -len(self.references)

    class Unpickler(pickle.Unpickler):
        def __init__(self, file, buffers, received, references):
            super().__init__(file, buffers=buffers)
            self.received = received
            self.references = references

        def persistent_load(self, place):
            return self.received[place] if place >= 0 else self.references[-place - 1]

    _pickler_class = Pickler
    _unpickler_class = Unpickler
    return 0


cdef object unpickled(object data, list buffers, list received, list references):
    """Return the value of a pickle in which places stand for what was received, and negative ones for references."""
    from io import BytesIO
    if _unpickler_class is None:
        _make_classes()
    return _unpickler_class(BytesIO(data), buffers, received, references).load()


@cython.final
cdef class Serialized:
    """A message between post and receipt that has to be rebuilt by the receiver."""

    cpdef object deserialize(self):
        """Return the message, in the receiver's thread; once only.

        :raises Exception: whatever the callables that ``__transfer__`` and reducers named raise.
        """
        self.transfer.receive()
        return unpickled(self._pickle, None, self.transfer.received, self._references)


cpdef object serialize(object value, Transfer transfer):
    """Return a :class:`Serialized`; parameters and errors are those of :func:`clone`."""
    from io import BytesIO
    if _pickler_class is None:
        _make_classes()
    cdef Serialized serialized = Serialized.__new__(Serialized)
    serialized._references = []
    serialized.transfer = transfer
    buffer = BytesIO()
    try:
        _pickler_class(buffer, serialized._references, transfer).dump(value)
    except Exception as error:
        reason = explain(value, transfer, error)
        if reason is error:
            raise
        raise reason from error
    serialized._pickle = buffer.getvalue()
    return serialized


# ---- clone ----

cpdef object clone(object value, Transfer transfer):
    """Return a clone of `value` in which the items of `transfer` are replaced by what takes over from them.

    :raises DataCloneError: for what can't be cloned. Nothing has been detached then.
    :raises RecursionError: for a value that is nested too deeply.
    :raises Exception: whatever the value's own methods raise.
    """
    if is_atom(value):
        return value
    try:
        return _walk(value, transfer, False)
    except _RecallError:
        pass
    return _walk(value, transfer, True)


cdef object _walk(object value, Transfer transfer, bint recalls):
    cdef walk w
    walk_init(&w, recalls, _rebuild, _judge)
    try:
        if transfer is not None:
            for item, received in zip(transfer.items, transfer.received):
                memo_put(&w.memo, item, received)
        return walk_clone(&w, value, 0)
    except DataCloneError as error:
        if w.path is not NULL:
            error.path = _path(<list>w.path)
            error.args = (f"{error.path}: {error.args[0]}",)
        raise
    finally:
        walk_clear(&w)


def structured_clone(value, *, transfer=()):
    """Return a deep copy of `value`, as posting it would deliver (HTML Standard, ``structuredClone``).

    The copy equals ``pickle.loads(pickle.dumps(value, 5))`` in value, type, sharing and cycles, except that deeply
    immutable values (numbers, str, bytes, tuples and frozensets of those, dates, Decimal, UUID and the like) are
    passed by reference.

    :param transfer: an iterable of transferable objects. Where they occur in the value, the copy has the new object
        that takes over; the listed ones are detached. None means none.
    :raises DataCloneError: for what can't be cloned or transferred; nothing has been detached then.
    :raises TypeError: for a transfer list that is not an iterable of objects.
    :raises RecursionError: for a value that is nested too deeply for the stack that is left.
    :raises Exception: whatever the value's own methods raise; nothing has been detached then either, except by a
        ``__transfer__`` that was called before one that raises.
    """
    cdef Transfer moved
    cdef Serialized serialized
    if transfer is None or transfer is ():
        return clone(value, None)
    moved = Transfer(transfer)
    if not moved.deferred:
        result = clone(value, moved)
        moved.check()
        moved.detach()
        return result
    serialized = serialize(value, moved)
    moved.check()
    moved.detach()
    return serialized.deserialize()
