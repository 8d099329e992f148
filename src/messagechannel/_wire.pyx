# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""How a message becomes bytes for another process, and a message again.

A message is a pickle (protocol 5). What can't be in it goes beside it: large buffers, each to travel in shared memory
of its own (``Parcel.big``), descriptors (``Parcel.descriptors``) and ports (``Parcel.ports``). In the pickle, each of
the buffers and descriptors is one of pickle's out-of-band buffers, in whose turn the unpickler is given what came
beside. Transferred items are in the pickle by their places in the transfer list, as persistent ids. What the places
stand for is only known once everything was detached; it is a second pickle, the luggage, which is unpickled first.

A payload that is nothing but a pickle is sent as it is. Any other begins with a head, an array of 64-bit words:

    HEAD, the lengths of both pickles, the numbers of their out-of-band buffers, a word for each of those

and both pickles follow. A pickle begins with a byte that a head never begins with.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EINVAL, ENOSYS, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import os
import sys

from messagechannel._clone import register_shared
from messagechannel._transfer import DataCloneError

from messagechannel._clone cimport Serialized, explain, unpickled
from messagechannel._csrc cimport (
    bring_home, shared_memory_close, shared_memory_map, shared_memory_new, shared_memory_unmap,
)
from messagechannel._transfer cimport Transfer, identity


cdef extern from "module_state.h":
    pass


cdef enum:
    # The first word of a head, unlike the first byte of a pickle in either byte order.
    HEAD = 1
    # Words before the entries.
    FIXED = 5
    # The low bits of an entry; the rest is a number.
    KIND_BITS = 2
    # A buffer in memory of its own; of so many bytes.
    KIND_BIG = 0
    # A SharedBuffer, whose descriptor is the next one; of so many bytes.
    KIND_SHARED = 1
    # The next descriptor.
    KIND_DESCRIPTOR = 2
    # The same as entry so-and-so.
    KIND_REPEATED = 3
    # What a pickle begins with, and ends with.
    PROTO = 0x80
    STOP = 46
    # Bytes of a message whose pickler is not used again: clearing its table would take longer than making another.
    LARGE = 65536

# From so many bytes on a buffer travels in shared memory of its own.
BIG = 65536


# ---- memory and descriptors ----

@cython.final
cdef class Memory:
    """Mapped memory, as a writable buffer of bytes. It is released when nothing refers to it any more."""

    @staticmethod
    cdef Memory adopt(void *address, size_t size, void (*release)(void *) noexcept, void *argument):
        """Return the Memory that calls ``release(argument)`` in its end, in whatever thread that comes."""
        cdef Memory memory = Memory.__new__(Memory)
        memory._address = address
        memory._size = size
        memory._release = release
        memory._argument = argument
        return memory

    def __dealloc__(self):
        if self._release != NULL:
            self._release(self._argument)

    def __len__(self):
        return self._size

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self._address, self._size, False, flags)


@cython.final
cdef class Descriptor:
    """Owns a file descriptor, and closes it when nothing refers to this object any more.

    In the arguments of what ``__transfer__`` returned it is the way of a descriptor to another process.

    :ivar fd: the descriptor, -1 after :meth:`detach`.
    """

    def __cinit__(self, int fd):
        self.fd = fd

    def __dealloc__(self):
        if self.fd >= 0:
            shared_memory_close(self.fd)

    cpdef int detach(self) except? -1:
        """Return the descriptor, which belongs to the caller from now on."""
        cdef int fd = self.fd
        self.fd = -1
        return fd

    def __reduce__(self):
        # multiprocessing's own pickler: its pickles go to another process of this machine, and are read once.
        if sys._getframe().f_globals.get("__name__") != "multiprocessing.reduction":
            raise TypeError("cannot pickle a Descriptor: a pickle can't keep what is open")
        return _from_duplicate, (sys.modules["multiprocessing.reduction"].DupFd(self.fd),)


def _from_duplicate(duplicate):
    descriptor = Descriptor(duplicate.detach())
    os.set_inheritable(descriptor.fd, False)
    return descriptor


cdef struct mapping:
    void *address
    size_t size


cdef void release_mapping(void *argument) noexcept:
    cdef mapping *m = <mapping *>argument
    shared_memory_unmap(m.address, m.size)
    free(m)


cdef Memory map_descriptor(int fd, size_t size):
    cdef mapping *m = <mapping *>malloc(sizeof(mapping))
    if m == NULL:
        raise MemoryError
    m.size = size
    m.address = shared_memory_map(fd, size)
    if m.address == NULL:
        error = errno
        free(m)
        raise_errno(error, size)
    try:
        return Memory.adopt(m.address, size, release_mapping, m)
    except BaseException:
        release_mapping(m)
        raise


cdef int raise_errno(int error, size_t size) except -1:
    if error == ENOSYS:
        raise NotImplementedError("this platform has no shared memory")
    raise OSError(error, f"no shared memory of {size} bytes: {os.strerror(error)}")


# What __cinit__ is told where the rest is about to be filled in.
_nothing_yet = object()


@cython.final
cdef class SharedBuffer:
    """SharedBuffer(nbytes)\n--\n\n\
    Memory that everybody shares to whom it is posted, in this process or another (the web's SharedArrayBuffer).

    A writable buffer of bytes, zero at first: ``memoryview(shared)`` or ``numpy.frombuffer(shared, ...)`` reads and
    writes it. Cloning or posting it makes another SharedBuffer for the same memory; it is not transferred, and may be
    anywhere in a message. Nothing keeps two sides from writing at once: messages say whose turn it is.

    The memory is given back when the last SharedBuffer for it, and the last view, are gone.

    :param nbytes: the size in bytes, at least 1.
    :raises TypeError: for a size that is not an integer.
    :raises ValueError: for a size that is not positive, or larger than any object can be.
    :raises OSError: when the system has no memory, or no descriptor, to give.
    :raises NotImplementedError: on a platform without shared memory.
    """

    def __cinit__(self, *arguments, **keywords):
        cdef size_t size
        cdef int fd
        if len(arguments) + len(keywords) != 1 or keywords and "nbytes" not in keywords:
            # Cython would say that of __cinit__.
            given = []
            for value in arguments:
                given.append(type(value).__name__)
            for name, value in keywords.items():
                given.append(f"{name}={type(value).__name__}")
            raise TypeError(f"SharedBuffer takes one argument, nbytes, not ({', '.join(given)}); "
                            "write SharedBuffer(4096)")
        nbytes = arguments[0] if arguments else keywords["nbytes"]
        if nbytes is _nothing_yet:
            return
        number = nbytes.__index__() if hasattr(type(nbytes), "__index__") else None
        if number is None:
            raise TypeError(f"nbytes must be an integer, not {type(nbytes).__name__}")
        if not 1 <= number <= sys.maxsize:
            raise ValueError(f"nbytes must be at least 1 and at most {sys.maxsize}, not {number}")
        size = number
        fd = shared_memory_new(size)
        if fd < 0:
            raise_errno(errno, size)
        self._descriptor = Descriptor(fd)
        self._memory = map_descriptor(fd, size)

    @property
    def nbytes(self):
        """The size in bytes."""
        return self._memory._size

    def __len__(self):
        return self._memory._size

    def __repr__(self):
        return f"<SharedBuffer of {self._memory._size} bytes>"

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self._memory._address, self._memory._size, False, flags)

    def __reduce__(self):
        if sys._getframe().f_globals.get("__name__") != "multiprocessing.reduction":
            raise TypeError("cannot pickle a SharedBuffer: a pickle can't keep memory; "
                            "post it, or pass it to another process by multiprocessing")
        # The Descriptor itself, which several SharedBuffers may have: multiprocessing may give its number to the
        # other process as it is, and only one object may close it there.
        return _share_descriptor, (self._descriptor, self._memory._size)


def _share_descriptor(Descriptor descriptor not None, size_t size):
    return new_shared_buffer(map_descriptor(descriptor.fd, size), descriptor)


def _share(SharedBuffer value):
    return new_shared_buffer(value._memory, value._descriptor)


cdef SharedBuffer new_shared_buffer(Memory memory, Descriptor descriptor):
    cdef SharedBuffer shared = SharedBuffer.__new__(SharedBuffer, _nothing_yet)
    shared._memory = memory
    shared._descriptor = descriptor
    return shared


register_shared(SharedBuffer, _share)


# ---- pickling ----

_pickle = None
_dispatch_table = None
_pickler_class = None
_PickleBuffer = None
# Of messages without a transfer list: a pickler that was used before is faster than a new one.
_writers = []


cdef int _make_classes() except -1:
    """Derive from pickle's classes on first use: importing pickle takes longer than importing all of this package."""
    global _pickle, _dispatch_table, _pickler_class, _PickleBuffer
    import copyreg
    import pickle

    class Pickler(pickle.Pickler):
        def __init__(self, writer, transfer):
            super().__init__(writer, 5, buffer_callback=writer.beside)
            self.place_of = transfer.place_of

        def persistent_id(self, value):
            return self.place_of(value)

    _dispatch_table = copyreg.dispatch_table
    _pickler_class = Pickler
    _PickleBuffer = pickle.PickleBuffer
    _pickle = pickle
    return 0


def _same(value):
    """What pickle calls with what was beside the pickle."""
    return value


@cython.final
cdef class Writer:
    """What a pickler writes: the pickle, and what goes beside it. It is used for one pickle at a time."""

    cdef list chunks
    cdef size_t size
    cdef list entries
    cdef list big
    cdef list descriptors
    # address of a PickleBuffer -> (itself, the word of its entry), or (itself, the object it stands for)
    cdef dict known
    cdef object pickler
    cdef object dump
    # What copyreg knew when the pickler got its own table.
    cdef dict registered

    def write(self, chunk):
        # Large bytes come as they are, other large things as views of what may change.
        if type(chunk) is not bytes:
            chunk = bytes(chunk)
        self.chunks.append(chunk)
        self.size += PyBytes_GET_SIZE(chunk)

    def stand_in(self, value):
        """Reduce a SharedBuffer or Descriptor."""
        token = _PickleBuffer(bytearray(1))
        self._begin_entries()
        self.known[identity(token)] = token, value
        return _same, (token,)

    def beside(self, buffer):
        """Put an out-of-band buffer beside the pickle, or return True for one that is better in it."""
        cdef size_t size
        key = identity(buffer)
        known = None if self.known is None else self.known.get(key)
        if known is None:
            view = buffer.raw()
            size = view.nbytes
            if size < <size_t>BIG:
                return True
            self._begin_entries()
            self.big.append(view)
            word = size << KIND_BITS | KIND_BIG
        elif type(known[1]) is SharedBuffer:
            self.descriptors.append((<SharedBuffer>known[1])._descriptor)
            word = (<SharedBuffer>known[1])._memory._size << KIND_BITS | KIND_SHARED
        elif type(known[1]) is Descriptor:
            self.descriptors.append(known[1])
            word = KIND_DESCRIPTOR
        else:
            word = known[1] << KIND_BITS | KIND_REPEATED
        self.known[key] = buffer, len(self.entries)
        self.entries.append(word)
        return False

    cdef int _begin_entries(self) except -1:
        if self.known is None:
            self.known = {}
            self.entries = []
            self.big = []
            self.descriptors = []
        return 0

    cdef int begin(self, pickler) except -1:
        self.pickler = pickler
        self.dump = pickler.dump
        return 0

    cdef int write_pickle(self, object value) except -1:
        self.chunks = []
        self.size = 0
        if self.registered is None or self.registered != _dispatch_table:
            self.registered = _dispatch_table.copy()
            self.pickler.dispatch_table = {
                **self.registered, SharedBuffer: self.stand_in, Descriptor: self.stand_in,
            }
        self.dump(value)
        return 0

    cdef int forget(self) except -1:
        """Break the circle of pickler and writer."""
        self.pickler = self.dump = None
        return 0


cdef Writer take_writer():
    cdef Writer writer
    if _pickle is None:
        _make_classes()
    if _writers:
        try:
            return _writers.pop()
        except IndexError:
            # Another thread has taken the last one.
            pass
    writer = Writer()
    writer.begin(_pickle.Pickler(writer, 5, buffer_callback=writer.beside))
    return writer


cdef int return_writer(Writer writer) except -1:
    if writer.size > LARGE:
        writer.forget()
        return 0
    writer.pickler.clear_memo()
    writer.chunks = writer.entries = writer.big = writer.descriptors = None
    writer.known = None
    _writers.append(writer)
    return 0


# ---- packing ----

@cython.final
cdef class Parcel:
    """A message on its way between processes: made by :func:`pack`, complete after :meth:`seal`.

    :ivar big: contiguous buffers, each to be sent in shared memory of its own.
    :ivar descriptors: each a :class:`Descriptor` whose ``fd`` is to be sent. A parcel and whatever else refers to a
        Descriptor own it; who sends the parcel drops it afterwards, and closes nothing.
    :ivar ports: the ports to be sent, in order.
    :ivar size: the length of :meth:`parts`.
    """

    @staticmethod
    def of_serialized(Serialized serialized not None):
        """Return the Parcel of a message that waited, whose transferred items have been moved; to be sealed."""
        cdef Parcel parcel = Parcel.__new__(Parcel)
        parcel._message = [serialized._pickle]
        parcel.size = len(serialized._pickle)
        parcel._transfer = serialized.transfer
        parcel._references = serialized._references
        parcel.big = []
        parcel.descriptors = []
        parcel.ports = []
        parcel.departed = []
        return parcel

    cpdef object rehearse(self):
        """Make sure that what each ``__transfer__`` returned can be sent, before the rest of the list is moved.

        :raises DataCloneError: for arguments that can't be pickled.
        :raises Exception: whatever their methods raise.
        """
        cdef Writer writer
        if self._transfer is not None and self._transfer.deferred:
            contents = []
            for index in range(len(self._transfer.items)):
                contents.append(self._transfer.rebuilder(index))
            writer = self._pack_luggage(contents)
            writer.forget()
        return None

    cpdef object seal(self):
        """Fix what is left, once, after the items of the transfer list were moved.

        :raises DataCloneError: for arguments of a ``__transfer__`` that can't be pickled.
        :raises Exception: whatever their methods raise.
        """
        cdef Writer writer
        if self._transfer is not None:
            contents = []
            for index in range(len(self._transfer.items)):
                contents.append(self._content(index))
            writer = self._pack_luggage(contents)
            self._luggage = writer.chunks
            self.size += writer.size
            if writer.entries is not None:
                self._luggage_entries = writer.entries
                self.big += writer.big
                self.descriptors += writer.descriptors
            return_writer(writer)
        if self._luggage is not None or self._message_entries is not None:
            self._head = self._make_head()
            self.size += PyBytes_GET_SIZE(self._head)
        return None

    cdef object _pack_luggage(self, list contents):
        """Return the writer that has written what the places in the transfer list stand for."""
        cdef Writer writer = take_writer()
        try:
            writer.write_pickle((contents, self._references))
        except BaseException as error:
            writer.forget()
            reason = self._reason(contents, error) if isinstance(error, Exception) else error
            if reason is error:
                raise
            raise reason from error
        return writer

    cdef object _content(self, Py_ssize_t index):
        """Return a callable and its arguments that make what takes over from an item, None for a port."""
        rebuilder = self._transfer.rebuilder(index)
        if rebuilder is not None:
            return rebuilder
        received = self._transfer.received[index]
        if type(received) is bytearray:
            return bytearray, (_PickleBuffer(received),)
        if type(received) is getattr(sys.modules.get("array"), "array", None):
            return _make_array, (received.typecode, _PickleBuffer(received))
        self.ports.append(received)
        return None

    cdef object _reason(self, list contents, object error):
        """Return what to raise when `error` was raised for one of the contents."""
        cdef Writer writer
        for index, content in enumerate(contents):
            writer = take_writer()
            try:
                writer.write_pickle(content)
            except Exception as own:
                reason = explain(content, None, own)
                if reason is not own:
                    return DataCloneError(f"transfer[{index}]: what its __transfer__ returned can't be sent to "
                                          f"another process: {reason}", f"transfer[{index}]")
            finally:
                writer.forget()
        return error

    cdef bytes _make_head(self):
        cdef list message = self._message_entries if self._message_entries is not None else []
        cdef list luggage = self._luggage_entries if self._luggage_entries is not None else []
        cdef list words = [HEAD, total(self._message), total(self._luggage), len(message), len(luggage)]
        cdef Py_ssize_t index
        words += message
        words += luggage
        cdef bytes head = PyBytes_FromStringAndSize(NULL, len(words) * sizeof(uint64_t))
        cdef uint64_t *word = <uint64_t *>PyBytes_AS_STRING(head)
        for index in range(len(words)):
            word[index] = words[index]
        return head

    cpdef object snapshot(self):
        """Copy what the sender can still change, for a message that can't be sent at once."""
        cdef Py_ssize_t index
        owned = set() if self._transfer is None else {identity(item) for item in self._transfer.received}
        for index, view in enumerate(self.big):
            if type(view) is memoryview and type(view.obj) is not bytes and identity(view.obj) not in owned:
                self.big[index] = bytes(view)
        return None

    cpdef list parts(self):
        """Return the bytes to be sent, as a list."""
        cdef list parts = [] if self._head is None else [self._head]
        parts += self._message
        if self._luggage is not None:
            parts += self._luggage
        return parts


cdef size_t total(list chunks):
    cdef size_t size = 0
    if chunks is not None:
        for chunk in chunks:
            size += PyBytes_GET_SIZE(chunk)
    return size


def _make_array(typecode, data):
    import array
    made = array.array(typecode)
    made.frombytes(data)
    return made


cpdef Parcel pack(object message, Transfer transfer):
    """Return a message as a :class:`Parcel`. Nothing is detached; the parcel is to be sealed when it was.

    :raises DataCloneError: for what can't be cloned.
    :raises RecursionError: for a message that is nested too deeply.
    :raises Exception: whatever the message's own methods raise.
    """
    cdef Parcel parcel = Parcel.__new__(Parcel)
    cdef Writer writer
    if transfer is not None and not transfer.items:
        transfer = None
    if transfer is None:
        writer = take_writer()
    else:
        if _pickle is None:
            _make_classes()
        writer = Writer()
        writer.begin(_pickler_class(writer, transfer))
    try:
        writer.write_pickle(message)
    except BaseException as error:
        writer.forget()
        reason = explain(message, transfer, error) if isinstance(error, Exception) else error
        if reason is error:
            raise
        raise reason from error
    parcel._message = writer.chunks
    parcel.size = writer.size
    parcel._message_entries = writer.entries
    parcel.big = writer.big if writer.big is not None else []
    parcel.descriptors = writer.descriptors if writer.descriptors is not None else []
    parcel.ports = []
    parcel.departed = []
    parcel._transfer = transfer
    if transfer is None:
        return_writer(writer)
        parcel.seal()
    else:
        writer.forget()
    return parcel


# ---- unpacking ----

cpdef object unpack(object payload, list big, list descriptors, list ports):
    """Return the message in a payload, and use up what came beside it.

    :param payload: contiguous bytes of any kind; nothing that is returned refers to them.
    :param big: a buffer for each of the parcel's, which is the message's from then on.
    :param descriptors: a Descriptor for each of the parcel's.
    :param ports: a port for each of the parcel's.
    :raises ValueError: for what no parcel can be.
    :raises Exception: whatever the callables that reducers and ``__transfer__`` named raise.
    """
    cdef Py_buffer buffer
    if _pickle is None:
        _make_classes()
    PyObject_GetBuffer(payload, &buffer, PyBUF_SIMPLE)
    try:
        if not buffer.len or (<unsigned char *>buffer.buf)[0] != PROTO:
            return unpack_beside(payload, &buffer, big, descriptors, ports)
        check_pickle(&buffer, 0, <size_t>buffer.len)
        if big or descriptors or ports:
            raise ValueError("malformed message: nothing belongs beside it")
        return _pickle.loads(payload)
    except _pickle.UnpicklingError as error:
        raise ValueError(f"malformed message: {error}") from error
    finally:
        PyBuffer_Release(&buffer)


cdef int check_pickle(const Py_buffer *buffer, size_t offset, size_t size) except -1:
    """See whether there may be a pickle, lest the unpickler runs out of bytes."""
    cdef const unsigned char *start = <const unsigned char *>buffer.buf + offset
    if size < 2 or start[0] != PROTO or start[size - 1] != STOP:
        raise ValueError("malformed message: a pickle is none, or was cut off")
    return 0


cdef object unpack_beside(object data, const Py_buffer *buffer, list big, list descriptors, list ports):
    cdef size_t size = <size_t>buffer.len
    cdef size_t words = size // sizeof(uint64_t)
    cdef uint64_t head[FIXED]
    cdef const char *start = <const char *>buffer.buf
    cdef uint64_t message, luggage, offset
    if words < FIXED:
        raise ValueError("malformed message: its head is cut off")
    memcpy(head, start, sizeof(head))
    if head[0] != HEAD or head[3] > words - FIXED or head[4] > words - FIXED - head[3]:
        raise ValueError("malformed message: its head is none")
    offset = (FIXED + head[3] + head[4]) * sizeof(uint64_t)
    message = head[1]
    luggage = head[2]
    if message > size - offset or luggage != size - offset - message:
        raise ValueError("malformed message: its lengths contradict each other")
    check_pickle(buffer, offset, message)
    if luggage:
        check_pickle(buffer, offset + message, luggage)
    cdef Entries entries = Entries.__new__(Entries)
    entries.big = big
    entries.descriptors = descriptors
    message_objects = entries.read(start + FIXED * sizeof(uint64_t), head[3])
    luggage_objects = entries.read(start + (FIXED + head[3]) * sizeof(uint64_t), head[4])
    if entries.next_big != <size_t>len(big) or entries.next_descriptor != <size_t>len(descriptors):
        raise ValueError("malformed message: something beside it is too much")
    view = memoryview(data)
    pickled = view[offset:offset + message]
    if not luggage:
        if ports:
            raise ValueError("malformed message: it has no place for ports")
        return _pickle.loads(pickled, buffers=message_objects)
    contents, references = check_luggage(_pickle.loads(view[offset + message:], buffers=luggage_objects), ports)
    coming = iter(ports)
    received = []
    for content in contents:
        received.append(next(coming) if content is None else content[0](*content[1]))
    return unpickled(pickled, message_objects, received, references)


cdef tuple check_luggage(object luggage, list ports):
    if type(luggage) is tuple and len(luggage) == 2 and type(luggage[0]) is list:
        contents, references = luggage
        if contents.count(None) == len(ports) and (references is None or type(references) is list):
            return contents, references if references is not None else []
    raise ValueError("malformed message: its luggage is none, or its ports are not those that came")


@cython.final
cdef class Entries:
    """What the entries of a head stand for."""

    cdef list big
    cdef size_t next_big
    cdef list descriptors
    cdef size_t next_descriptor

    cdef list read(self, const char *start, size_t number):
        cdef list objects = []
        cdef uint64_t word
        cdef size_t index
        for index in range(number):
            memcpy(&word, start + index * sizeof(uint64_t), sizeof(uint64_t))
            objects.append(self._object(word & ((1 << KIND_BITS) - 1), word >> KIND_BITS, objects))
        return objects

    cdef object _object(self, uint64_t kind, uint64_t number, list before):
        cdef Descriptor descriptor
        if kind == KIND_REPEATED:
            if number >= <uint64_t>len(before):
                raise ValueError("malformed message: it repeats what has not come")
            return before[number]
        if kind == KIND_BIG:
            if self.next_big >= <size_t>len(self.big) or <uint64_t>len(self.big[self.next_big]) != number:
                raise ValueError("malformed message: a large buffer is missing, or has another size")
            self.next_big += 1
            return self.big[self.next_big - 1]
        if self.next_descriptor >= <size_t>len(self.descriptors):
            raise ValueError("malformed message: a descriptor is missing")
        descriptor = self.descriptors[self.next_descriptor]
        self.next_descriptor += 1
        if kind == KIND_DESCRIPTOR:
            return descriptor
        try:
            return _share_descriptor(descriptor, number)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            raise ValueError("malformed message: the memory of a SharedBuffer is none, or too small") from error


bring_home(SharedBuffer, "messagechannel", "messagechannel.SharedBuffer")
