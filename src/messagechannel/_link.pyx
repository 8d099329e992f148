# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""Link: messages on their way to and from another process, over the link in csrc/.

An outgoing message is written into shared memory at once if it is small, there is room, and nothing waits before it.
Else it goes to the backlog, a ring of the channel's, and the *pump* sends what is there as room comes. One thread at a
time is the pump, and which one it is follows from the ring alone: the backlog is armed (csrc/ring.h) whenever nobody
pumps, so whoever pushes, and is told to wake somebody, is the pump, until it has drained and armed the backlog. A pump
that finds no room leaves its work with ``_stalled`` set, and whoever claims that is the next one: the thread that hears
the other side's bell. Hence messages of one sender stay in order, and none waits for a pump that nobody is.

An incoming message is taken straight out of shared memory. What is not an atom arrives as a :class:`Letter`, which is
opened where the message is received, because that runs code of the message's own.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_Clear
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EFBIG, EMFILE, ENFILE, ENOMEM, ENOSPC, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import os
from time import sleep

from messagechannel._fields import Fields, Reader
from messagechannel._transfer import DataCloneError

from messagechannel._clone cimport Serialized
from messagechannel._csrc cimport (
    LINK_BUDGET, LINK_CORRUPT, LINK_EMPTY, LINK_FIRST, LINK_FRAGMENT, LINK_GONE, LINK_INLINE, LINK_LAST,
    LINK_OK, LINK_ONCE, LINK_TROUBLE, LINK_WHOLE, RING_ARMED, RING_CLOSED, RING_NO_MEMORY, RING_WAKE, c_bool, far_link,
    link_arm_credit, link_arm_room, link_begin, link_claim, link_collect, link_decref, link_drop_segments, link_ended,
    link_figures, link_figures_in, link_figures_out, link_finish, link_id, link_is_deaf, link_is_reserved,
    link_lend_segment, link_longest, link_may_lend, link_message, link_next, link_piece, link_post_many,
    link_recall_segment, link_send_descriptors, link_taken_before, link_trim, link_write, link_written, ring_arm,
    ring_length, ring_pop, ring_push, shared_claim, shared_memory_unmap,
)
from messagechannel._transfer cimport Transfer
from messagechannel._transport cimport (
    Envelope, Figures, Sealed, Transport, discard, envelope_of, is_envelope, open_item, owned_item, taken, unopened,
)
from messagechannel._wire cimport Descriptor, Memory, Parcel, unpack
from messagechannel._wire cimport pack as pack_parcel


cdef extern from "module_state.h":
    pass


cdef extern from "taken.h":
    enum:
        TAG_PICKLE
        TAG_LETTER
        TAG_ERROR
    bint encode_atom(PyObject *o, link_piece *p) noexcept
    object decode_atom(uint8_t tag, const unsigned char *payload, size_t length)
    ctypedef struct letter_head:
        uint32_t segments
        uint32_t states
        uint32_t content
    ctypedef struct letter_segment:
        uint64_t size
        uint32_t number
        uint32_t is_new
    void end_loan(void *argument) noexcept
    void drop_taken(taken *t) noexcept
    bint take_message(far_link *l, const link_message *m, taken *t) noexcept


cdef extern from *:
    """
    static PyObject *raised_exception(void)
    {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
        return value;
    #endif
    }
    """
    object raised_exception()


cdef enum:
    # Messages that are taken at once.
    CHUNK = 64
    # What is longer is not joined to one piece of memory before it is written.
    SMALL = 16384
    # From so many bytes on the content of a message travels in shared memory of its own: it does not fit into the ring,
    # so sender and receiver would take turns.
    LARGE = 131072
    # Messages that a stalled pump lets gather before who posts them is the pump.
    PATIENT_PUSHES = 64
    # What a record has room to count.
    MOST_DESCRIPTORS = 65535

# How the pump ends: the backlog is empty and armed; empty and closed; what is next can't be sent for a moment; whoever
# hears the far side goes on, or somebody does already.
cdef enum:
    ALL_SENT
    SHUT
    TRY_AGAIN
    LEFT

# Beside the outcomes of link_next: what is next can't be taken, for which an exception is set.
cdef enum:
    LINK_REFUSED = 100

# How long a receiver that is awake needs at most to take a message, in seconds.
TAKING_SECONDS = 0.0001

# What may be better in a moment.
_shortages = (EMFILE, ENFILE, ENOMEM, ENOSPC, EFBIG)


cdef PyObject *letter_item(Letter letter) except NULL:
    """Return the owned queue item for a letter."""
    return owned_item(envelope_around(letter))


cdef Envelope envelope_around(object data):
    """Return an Envelope without ports."""
    cdef Envelope envelope = Envelope.__new__(Envelope)
    envelope.data = data
    envelope.ports = ()
    return envelope


# ---- letters ----

# How ports depart and arrive: set by the module that knows ports.
_depart = _arrive = _links_for = None


def set_travel(depart, arrive, links_for):
    """Have ports travel in letters.

    ``depart(port)`` detaches a port for good and returns a bytes object and the Descriptors to be sent with it, or
    raises an OSError and has changed nothing; ``arrive(state, descriptors)`` makes the port of that;
    ``links_for(item)`` tells how many links are made when an item of a transfer list departs.
    """
    global _depart, _arrive, _links_for
    _depart = depart
    _arrive = arrive
    _links_for = links_for


# Nothing in here leads back.
@cython.no_gc
@cython.final
cdef class Letter(Sealed):
    """A message in the form that it has between processes, with what came with it. It is opened once, or sent on."""

    @staticmethod
    def make(uint8_t tag, bytes payload, list descriptors):
        """Return the letter of what :func:`letter_of` returned in another process."""
        cdef Letter self = Letter.__new__(Letter)
        self.tag = tag
        self.payload = payload
        self.descriptors = descriptors
        self.memories = []
        return self

    def as_tuple(self):
        """Return the tag, the payload and the descriptors."""
        return self.tag, self.payload, self.descriptors

    cdef tuple open(self):
        """Return the message and the ports that came with it."""
        cdef list buffers
        if self.tag == TAG_PICKLE:
            return unpack(self.payload, [], [], []), ()
        if self.tag == TAG_ERROR:
            raise DataCloneError(self.payload.decode())
        if self.tag != TAG_LETTER:
            return atom_of(self.tag, self.payload), ()
        buffers, states, tag, content = self.take_apart()
        self.memories = []
        descriptors, self.descriptors = self.descriptors, []
        ports = []
        if tag != TAG_PICKLE:
            return atom_of(tag, content), ()
        for state, count in states_of(states):
            own, descriptors = descriptors[:count], descriptors[count:]
            ports.append(_arrive(state, own))
        big = []
        for buffer in buffers:
            big.append(buffer if type(buffer) is Memory else bytearray(buffer))
        return unpack(content, big, descriptors, ports), tuple(ports)

    cdef tuple take_apart(self):
        """Return what a letter is of: its buffers, what it says of ports, and the tag of its content and that itself.

        :raises DataCloneError: for what no letter is.
        """
        cdef letter_head head
        cdef letter_segment segment
        cdef size_t offset, size = <size_t>len(self.payload)
        cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(self.payload)
        cdef uint32_t i
        cdef list buffers = []
        if size < sizeof(letter_head):
            raise DataCloneError("the other process has written a letter without a head")
        memcpy(&head, start, sizeof(letter_head))
        offset = sizeof(letter_head) + head.segments * sizeof(letter_segment)
        if offset + head.states > size:
            raise DataCloneError("the other process has written a letter that is shorter than its head says")
        states = self.payload[offset:offset + head.states]
        offset += head.states
        view = memoryview(self.payload)
        for i in range(head.segments):
            memcpy(&segment, start + sizeof(letter_head) + i * sizeof(letter_segment), sizeof(letter_segment))
            if segment.number == LINK_INLINE:
                if segment.size > size - offset:
                    raise DataCloneError("the other process has written a letter with less in it than it says")
                buffers.append(view[offset:offset + segment.size])
                offset += segment.size
            elif i < <size_t>len(self.memories):
                buffers.append(self.memories[i])
            else:
                raise DataCloneError("the other process has written a letter whose shared memory did not come")
        if not head.content:
            return buffers, states, TAG_PICKLE, view[offset:]
        if not buffers or head.content > TAG_PICKLE:
            raise DataCloneError("the other process has written a letter whose content is none")
        content = buffers.pop()
        return buffers, states, head.content, content


cdef object atom_of(uint8_t tag, object content):
    """Return what is no pickle."""
    cdef Py_buffer view
    PyObject_GetBuffer(content, &view, PyBUF_SIMPLE)
    try:
        return decode_atom(tag, <const unsigned char *>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)


cdef bytes told_of_ports(list departed):
    """Return what a letter says of its ports: for each a state, and how many descriptors belong to it."""
    fields = Fields()
    for state, own in departed:
        fields.block(state)
        fields.numbers(len(own))
    return fields.join()


cdef list states_of(bytes told):
    """Return the states and the numbers that :func:`told_of_ports` was given."""
    states = []
    read = Reader(told)
    try:
        while not read.at_end():
            states.append((read.block(), read.number(MOST_DESCRIPTORS)))
    except ValueError as error:
        raise DataCloneError(f"the other process has written a letter whose ports are none: {error}") from None
    return states


@cython.final
cdef class Dispatch:
    """A message that is being sent: what is left of it, in bytes that nobody changes."""

    cdef int fill(self, uint8_t tag, list parts, list descriptors) except -1:
        self.tag = tag
        self.parts = parts
        for part in parts:
            self.length += <uint64_t>len(part)
        self.descriptors = descriptors
        self.count = <uint32_t>len(descriptors)
        return 0

    cdef bytes rest(self):
        """Return what is left of the payload."""
        if self.offset == 0:
            return b"".join(self.parts)
        return b"".join([memoryview(self.parts[0]).cast("B")[self.offset:], *self.parts[1:]])


cdef Dispatch dispatch_of(uint8_t tag, list parts, list descriptors):
    cdef Dispatch self = Dispatch.__new__(Dispatch)
    self.fill(tag, parts, descriptors)
    return self


cdef object prepared(Envelope envelope):
    """Return a message in a form that can be written down: an atom, a Letter or a Parcel. It stays in the envelope."""
    cdef object data = envelope.data
    cdef link_piece piece
    cdef Parcel parcel
    if type(data) is Letter or type(data) is Parcel:
        return data
    if type(data) is Serialized:
        parcel = Parcel.of_serialized(data)
        parcel.seal()
    elif not envelope.ports and encode_atom(<PyObject *>data, &piece):
        return data
    else:
        parcel = pack_with_ports(data, envelope.ports)
    envelope.data = parcel
    return parcel


cdef size_t shared_size(object data) except? 0:
    """Return how many bytes of segments a message takes."""
    cdef link_piece piece
    cdef size_t size
    cdef list buffers
    if type(data) is Letter:
        if (<Letter>data).tag != TAG_LETTER:
            return 0
        buffers, _, tag, content = (<Letter>data).take_apart()
        size = <size_t>len(content) if tag != TAG_PICKLE else in_segment(<size_t>len(content))
    elif type(data) is Parcel:
        buffers = (<Parcel>data).big
        size = in_segment((<Parcel>data).size)
    else:
        encode_atom(<PyObject *>data, &piece)
        return in_segment(piece.length)
    for buffer in buffers:
        size += <size_t>len(buffer)
    return size


cdef size_t in_segment(size_t size) noexcept:
    """Return how much of a content of `size` bytes goes into a segment: all, or nothing.

    The ring takes any length without taking more memory, if slowly.
    """
    return size if LARGE <= size <= LINK_BUDGET else 0


cdef tuple write_down(object data, Link carrier, depart):
    """Return the tag of a message, the parts of its payload and its Descriptors.

    Large buffers go into segments of the link, and where there is no link into the payload. The ports depart, each by
    ``depart(port)``.

    :raises OSError: when there is no memory or no descriptor for that; it may be tried again then.
    """
    cdef link_piece piece
    cdef Parcel parcel
    if type(data) is Letter:
        if (<Letter>data).tag != TAG_LETTER:
            return (<Letter>data).tag, [(<Letter>data).payload], []
        buffers, states, tag, content = (<Letter>data).take_apart()
        return write_letter(buffers, states, tag, [content], <size_t>len(content), (<Letter>data).descriptors, carrier)
    if type(data) is not Parcel:
        encode_atom(<PyObject *>data, &piece)
        if carrier is not None and in_segment(piece.length):
            content = PyMemoryView_FromMemory(<char *>piece.payload, <Py_ssize_t>piece.length, PyBUF_READ)
            try:
                return write_letter([], b"", piece.tag, [content], piece.length, [], carrier)
            except OSError:
                # The ring takes it, too.
                pass
        return piece.tag, [data if type(data) is bytes else PyBytes_FromStringAndSize(
            <char *>(&piece.value if piece.payload == NULL else piece.payload), <Py_ssize_t>piece.length)], []
    parcel = <Parcel>data
    if is_plain(parcel) and (carrier is None or not in_segment(parcel.size)):
        return TAG_PICKLE, parcel.parts(), []
    # One after the other, and each once: whoever tries again after a shortage goes on where this one stopped.
    for port in parcel.ports[len(parcel.departed):]:
        parcel.departed.append(depart(port))
    states = told_of_ports(parcel.departed)
    own = [descriptor for _, own in parcel.departed for descriptor in own] + parcel.descriptors
    return write_letter(parcel.big, states, TAG_PICKLE, parcel.parts(), parcel.size, own, carrier)


cdef bint is_plain(Parcel parcel) except -1:
    """Tell whether nothing travels beside the payload."""
    return not (parcel.big or parcel.descriptors or parcel.ports)


cdef tuple write_letter(list buffers, bytes states, uint8_t tag, list content, size_t size, list own, Link carrier):
    """Return a letter as :func:`write_down` does.

    :param content: parts of `size` bytes in all.
    :param own: Descriptors, beside those of the segments.
    """
    cdef letter_head head
    cdef bytes segments = b""
    # The bytes of segments that are none, what was lent, and the descriptors of segments that are new.
    cdef list inlined = [], lent = [], new = []
    cdef Lent one
    head.content = 0
    try:
        for buffer in buffers:
            segments += write_segment([buffer], <size_t>len(buffer), carrier, inlined, lent, new)
        if tag != TAG_PICKLE or carrier is not None and in_segment(size):
            try:
                segments += write_segment(content, size, carrier, inlined, lent, new)
                head.content = tag
                content = []
            except OSError:
                # The ring takes it, too.
                if tag != TAG_PICKLE:
                    raise
        if lent:
            carrier._lent()
        own = new + own
        if len(own) > MOST_DESCRIPTORS:
            raise DataCloneError(
                f"one message can take {MOST_DESCRIPTORS} descriptors to another process, not {len(own)}")
        head.segments = <uint32_t>(len(segments) // sizeof(letter_segment))
        head.states = <uint32_t>len(states)
        front = PyBytes_FromStringAndSize(<char *>&head, sizeof(letter_head)) + segments + states
        return TAG_LETTER, [front, *inlined, *content], own
    except BaseException:
        for one in lent:
            if one.number != <int>LINK_INLINE:
                link_recall_segment(carrier._link, one.number, one.size, one.is_new)
        raise


@cython.final
cdef class Lent:
    """A segment that was lent for a message, LINK_INLINE before."""

    cdef int number
    cdef size_t size
    cdef bint is_new


cdef bytes write_segment(list parts, size_t size, Link carrier, list inlined, list lent, list new):
    """Copy bytes into a segment, or put them among those that follow in the letter; return what it says of that."""
    cdef letter_segment segment
    cdef void *address
    cdef int number, descriptor, error
    # Made before anything is lent, so that whatever fails afterwards, that is known.
    cdef Lent one = Lent()
    cdef Descriptor owner = Descriptor(-1)
    one.number = LINK_INLINE
    one.size = size
    if carrier is None:
        inlined += parts
    else:
        lent.append(one)
        number = link_lend_segment(carrier._link, size, &address, &descriptor)
        if number < 0:
            error = errno
            raise OSError(error, f"no shared memory for {size} bytes of a message: {os.strerror(error)}")
        one.number = number
        one.is_new = descriptor >= 0
        owner.fd = descriptor
        try:
            if one.is_new:
                new.append(owner)
            copy_parts(parts, <char *>address, size)
        finally:
            if number == <int>LINK_ONCE:
                shared_memory_unmap(address, size)
    segment.size = size
    segment.number = <uint32_t>one.number
    segment.is_new = one.is_new
    return PyBytes_FromStringAndSize(<char *>&segment, sizeof(letter_segment))


cdef int copy_parts(list parts, char *to, size_t size) except -1:
    cdef Py_buffer view
    cdef size_t done = 0
    for part in parts:
        PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
        if <size_t>view.len <= size - done:
            with nogil:
                memcpy(to + done, view.buf, <size_t>view.len)
        done += <size_t>view.len
        PyBuffer_Release(&view)
    if done != size:
        raise ValueError(f"{done} bytes are there of a message of {size}")
    return 0


cdef Parcel pack_with_ports(object data, tuple ports):
    """Pack a clone that was waiting in a queue, with the ports that came with it."""
    cdef Transfer transfer = None
    cdef Parcel parcel
    if ports:
        transfer = Transfer(ports)
        transfer.received = list(ports)
    parcel = pack_parcel(data, transfer)
    if transfer is not None:
        parcel.seal()
    return parcel


def letter_of(Envelope envelope, depart):
    """Return the tag, the payload and the Descriptors of a message that leaves with its port.

    The ports in it depart, each by ``depart(port)``. A message that can't be written down arrives as a DataCloneError.
    """
    try:
        data = prepared(envelope)
        if type(data) is Letter and not (<Letter>data).memories:
            return (<Letter>data).as_tuple()
        tag, parts, descriptors = write_down(data, None, depart)
        return tag, b"".join(parts), descriptors
    except Exception as error:
        return TAG_ERROR, excuse(error), []


cdef bytes excuse(object error):
    return f"the message could not be sent on: {type(error).__name__}: {error}".encode(errors="replace")


def reserve_descriptors(count):
    """Return so many Descriptors of nothing: while they are kept, there is room for as many others in their places.

    :raises OSError: when this process can't open so many more.
    """
    descriptors = []
    try:
        if count:
            descriptors.append(Descriptor(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)))
        for _ in range(count - 1):
            descriptors.append(Descriptor(os.dup(descriptors[0].fd)))
    except OSError as error:
        raise OSError(error.errno, f"{count} descriptors are needed for a moment: {error.strerror}; "
                      "close some, or raise the limit (ulimit -n)") from None
    return descriptors


def reserve_for(items, more):
    """Return as many Descriptors of nothing as it takes that the items of a transfer list depart, and some more.

    :raises OSError: when this process can't open so many more.
    :raises DataCloneError: for a port that can't depart now.
    """
    for item in items:
        more += DESCRIPTORS_OF_A_PORT * _links_for(item)
    return reserve_descriptors(more)


# In place of a message that was taken and found no memory.
_lost = envelope_around(Letter.make(TAG_ERROR, b"there was no memory for the message that came here", []))


cdef Letter letter_taken(taken *t):
    """Return the letter that was taken; what came with it and has an owner in there is no longer in `t`."""
    cdef Letter letter = Letter.__new__(Letter)
    cdef Memory memory
    cdef Descriptor descriptor
    cdef uint32_t i
    letter.tag = t.tag
    letter.payload = <bytes>t.object
    letter.memories = []
    for i in range(t.loan_count):
        memory = None
        if t.loans[i] != NULL:
            memory = Memory.adopt(t.loans[i].address, t.loans[i].size, end_loan, <void *>t.loans[i])
            t.loans[i] = NULL
        letter.memories.append(memory)
    letter.descriptors = []
    for i in range(t.count):
        descriptor = Descriptor(-1)
        letter.descriptors.append(descriptor)
        descriptor.fd = t.descriptors[i]
        t.descriptors[i] = -1
    if t.error:
        # With what it came with it can't be rebuilt any more.
        letter.descriptors = []
        letter.tag = TAG_ERROR
        letter.payload = f"the message came with memory that can't be mapped: {os.strerror(t.error)}".encode()
    return letter


cdef PyObject *item_taken(taken *t) except NULL:
    """Return the owned queue item for a message that was taken."""
    if t.tag < TAG_PICKLE:
        return t.object
    try:
        return letter_item(letter_taken(t))
    except MemoryError:
        # It was taken already. Who receives it is told, and those behind it are not lost with it.
        return owned_item(_lost)
    finally:
        drop_taken(t)


cdef bint is_shortage(error) except -1:
    """Tell whether it may be better in a moment: memory or descriptors were wanting."""
    return isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno in _shortages


# ---- the link ----

cdef class Link(Transport):
    """One end of a link. The module above says what is to be done when the far side is heard."""

    def __dealloc__(self):
        if self._link != NULL:
            link_decref(self._link)

    # -- sending --

    cdef object pack(self, object message, Transfer transfer):
        cdef Parcel parcel
        cdef link_piece piece
        if transfer is None and encode_atom(<PyObject *>message, &piece):
            return message
        parcel = pack_parcel(message, transfer)
        if transfer is not None or parcel.big:
            # Before anything is detached: who has none left is told so, and keeps what he wanted to transfer.
            reserve_for(() if transfer is None else transfer.items, len(parcel.big))
        return envelope_around(parcel)

    cdef int rehearse(self, Envelope envelope) except -1:
        (<Parcel>envelope.data).rehearse()
        return 0

    cdef int seal(self, Envelope envelope) except -1:
        (<Parcel>envelope.data).seal()
        return 0

    cdef bint post(self, PyObject *item) except -1:
        cdef link_piece piece
        cdef int outcome
        cdef Parcel parcel
        cdef bytes joined
        cdef bint small
        if not is_envelope(item):
            if not encode_atom(item, &piece):
                return self._push(item)
        elif type(envelope_of(item).data) is Parcel:
            parcel = <Parcel>envelope_of(item).data
            small = parcel.size <= SMALL and is_plain(parcel)
            if not small and link_claim(self._link, self._backlog):
                # Nobody else pumps, and nothing waits: the message goes as it is, uncopied.
                return self._send_now(unopened(item))
            try:
                if small:
                    joined = b"".join(parcel.parts())
                else:
                    parcel.snapshot()
            except BaseException:
                discard(item)
                self._dropped()
                raise
            if not small:
                return self._push(item)
            piece.tag = TAG_PICKLE
            piece.payload = PyBytes_AS_STRING(joined)
            piece.length = <size_t>PyBytes_GET_SIZE(joined)
        else:
            return self._push(item)
        link_post_many(self._link, self._backlog, &piece, 1, &outcome)
        if outcome == LINK_OK or outcome == LINK_GONE:
            discard(item)
            return outcome == LINK_OK
        return self._push(item)

    cdef bint _push(self, PyObject *item) except -1:
        """Put an owned item behind all others."""
        cdef int outcome = ring_push(self._backlog, item)
        if outcome < 0:
            discard(item)
            if outcome == RING_NO_MEMORY:
                self._dropped()
                raise MemoryError
            return False
        if outcome & RING_WAKE:
            self.pump()
        elif self._stalled:
            # Whoever hears the bell may have to wait for this very thread to give up the GIL.
            self._behind += 1
            if self._behind >= PATIENT_PUSHES:
                self._behind = 0
                self.resume()
        return True

    cdef bint _send_now(self, Envelope envelope) except -1:
        """Send what is the first in line; this thread is the pump. False when it goes nowhere.

        :raises OSError: when there is no memory or no descriptor for that now, and all of it is the sender's still.
        :raises MemoryError: likewise.
        """
        cdef Parcel parcel = <Parcel>envelope.data
        cdef Dispatch dispatch
        try:
            dispatch = self._write_down(envelope)
            if dispatch is None:
                # A receiver that is about to take what is under way is there sooner than a copy for later is made.
                sleep(TAKING_SECONDS)
                dispatch = self._write_down(envelope)
            if dispatch is None:
                parcel.snapshot()
        except BaseException as error:
            if parcel._transfer is None:
                self._dropped()
                self.pump()
                raise
            # What was transferred can't be given back: it waits here.
            self._held = envelope
            self._leave_the_pump()
            if not isinstance(error, Exception):
                raise
            return True
        if dispatch is None:
            self._held = envelope
            self.pump()
            return True
        self._dispatch = dispatch
        self.pump()
        return not dispatch.dropped

    cdef int post_many(self, void **items, size_t n, size_t *gone) except -1:
        cdef link_piece pieces[CHUNK]
        cdef size_t posted = 0, now, i, some
        cdef int outcome
        while posted < n:
            some = 0
            while posted + some < n and some < CHUNK and not is_envelope(<PyObject *>items[posted + some]) \
                    and encode_atom(<PyObject *>items[posted + some], &pieces[some]):
                some += 1
            now = 0
            if some:
                now = link_post_many(self._link, self._backlog, pieces, some, &outcome)
                for i in range(now):
                    discard(<PyObject *>items[posted + i])
                posted += now
            if now == 0:
                gone[0] = posted
                if not self.post(<PyObject *>items[posted]):
                    # It was dropped: to the caller, none of the rest has gone.
                    Py_INCREF(None)
                    items[posted] = <void *>None
                    return 0
                posted += 1
        gone[0] = posted
        return 0

    cdef Dispatch _write_down(self, Envelope envelope):
        """Return the dispatch of a message; one that can't be written down arrives as a DataCloneError.

        None: the far side is to take what is under way first.

        :raises OSError: when there is no memory or no descriptor now.
        :raises MemoryError: likewise.
        """
        cdef Dispatch dispatch
        try:
            data = prepared(envelope)
        except Exception as error:
            if is_shortage(error):
                raise
            return dispatch_of(TAG_ERROR, [excuse(error)], [])
        dispatch = Dispatch.__new__(Dispatch)
        try:
            # What another process has written may be no message.
            if not link_may_lend(self._link, shared_size(data)):
                return None
            tag, parts, descriptors = write_down(data, self, _depart)
        except (ValueError, OSError, RecursionError) as error:
            # Not all errors, as of what pickle calls: of a signal's handler this message knows nothing.
            if is_shortage(error):
                raise
            return dispatch_of(TAG_ERROR, [excuse(error)], [])
        # Nothing may fail any more: what was lent would not come back.
        dispatch.fill(tag, parts, descriptors)
        return dispatch

    cdef int pump(self) except -1:
        """Send what is in the backlog, as far as there is room. This thread is the pump."""
        cdef int outcome
        try:
            outcome = self._send_backlog()
        except BaseException:
            # A signal handler's, or for want of memory: somebody has to go on all the same.
            self._leave_the_pump()
            raise
        if outcome == TRY_AGAIN:
            self._stalled = True
            self._try_again()
        elif outcome == SHUT or (
                # Somebody else may be the pump by now, who comes here too.
                outcome == ALL_SENT and self._closing and link_claim(self._link, self._backlog)):
            self._all_sent()
        if outcome == SHUT:
            # Nobody will be the pump any more.
            link_drop_segments(self._link)
        return 0

    cdef int _leave_the_pump(self) except -1:
        """Give up being the pump, in an exception: whoever posts next goes on, and the reactor in a moment."""
        self._behind = PATIENT_PUSHES
        self._stalled = True
        self._try_again()
        return 0

    cdef int _send_backlog(self) except -1:
        """Send what there is; return one of ALL_SENT and those after it."""
        cdef PyObject *item
        cdef c_bool shut
        cdef int outcome
        cdef link_piece piece
        cdef Envelope envelope
        while True:
            if link_ended(self._link):
                if self._dispatch is not None:
                    self._dispatch.dropped = True
                self._dispatch = self._held = None
                link_drop_segments(self._link)
            if self._dispatch is None:
                envelope = self._held
                if envelope is None:
                    item = <PyObject *>ring_pop(self._backlog, &shut)
                    if item == NULL:
                        outcome = ring_arm(self._backlog)
                        if outcome == RING_CLOSED or outcome == RING_ARMED:
                            return SHUT if outcome == RING_CLOSED else ALL_SENT
                        continue
                    if link_ended(self._link):
                        discard(item)
                        continue
                    if link_is_deaf(self._link):
                        # Without memory or descriptors for what nobody takes.
                        discard(item)
                        self._dropped()
                        continue
                    if not is_envelope(item) and encode_atom(item, &piece) \
                            and link_post_many(self._link, NULL, &piece, 1, &outcome):
                        discard(item)
                        continue
                    envelope = enveloped(item)
                self._held = envelope
                try:
                    self._dispatch = self._write_down(envelope)
                except (MemoryError, OSError):
                    return TRY_AGAIN
                if self._dispatch is None:
                    if self._wait_until_taken():
                        continue
                    return LEFT
                self._held = None
            outcome = self._go_on()
            if outcome == LINK_OK or outcome == LINK_GONE:
                self._dispatch.dropped = outcome == LINK_GONE
                self._dispatch = None
                if outcome == LINK_GONE:
                    self._dropped()
            elif outcome == LINK_TROUBLE:
                # Descriptors, which the far side's socket has no room for.
                return TRY_AGAIN
            elif not self._wait_for_room():
                return LEFT

    cdef int resume(self) except -1:
        """Be the pump, if one is needed."""
        if shared_claim(&self._stalled, True, False):
            self.pump()
        return 0

    cdef bint has_unsent(self) noexcept:
        """Tell whether messages wait here to be sent."""
        return not link_ended(self._link) and (
            self._dispatch is not None or self._held is not None or ring_length(self._backlog) > 0)

    def sent(self):
        """Return a number that grows with what is sent."""
        return link_written(self._link)

    cdef bint _wait_for_room(self) noexcept:
        """Leave the pump to whoever hears that there is room; True when that was there already."""
        self._stalled = True
        if link_arm_room(self._link):
            return False
        return shared_claim(&self._stalled, True, False)

    cdef bint _wait_until_taken(self) except -1:
        """Leave the pump to whoever hears that the far side has taken something; True when it has already.

        Every message that is under way has been published, and that the far side takes it, or never will, rings.
        """
        cdef size_t size = shared_size(self._held.data)
        self._stalled = True
        if link_arm_credit(self._link) and not link_may_lend(self._link, size):
            return False
        return shared_claim(&self._stalled, True, False)

    cdef int _go_on(self) except? -100:
        """Write as much of the dispatch as there is room for: LINK_OK when that is all of it."""
        cdef Dispatch d = self._dispatch
        cdef Py_buffer view
        cdef int64_t written
        cdef Py_ssize_t left
        cdef bint whole = d.done == 0 and d.length <= link_longest(self._link)
        cdef bint ends
        cdef uint8_t kind
        if whole and len(d.parts) != 1:
            d.parts = [b"".join(d.parts)]
        while True:
            PyObject_GetBuffer(d.parts[0], &view, PyBUF_SIMPLE)
            try:
                left = view.len - d.offset
                ends = len(d.parts) == 1 and (whole or <size_t>left <= link_longest(self._link))
                if ends and d.descriptors and not self._send_descriptors():
                    return LINK_GONE if link_ended(self._link) or link_is_deaf(self._link) else LINK_TROUBLE
                kind = LINK_WHOLE if whole else LINK_FIRST if d.done == 0 else LINK_LAST if ends else LINK_FRAGMENT
                if d.done == 0 and left == 0 and not whole:
                    written = 0
                else:
                    written = link_write(self._link, kind, d.tag, <uint16_t>d.count, &d.length if kind == LINK_FIRST
                                         else NULL, <char *>view.buf + d.offset, <size_t>left, ends)
                if written < 0:
                    return <int>written
                # Nothing may fail before this is noted: the bytes are on their way.
                d.done += <uint64_t>written
                d.offset += written
                left -= written
            finally:
                PyBuffer_Release(&view)
            if left == 0:
                if ends:
                    return LINK_OK
                d.offset = 0
                del d.parts[0]

    cdef bint _send_descriptors(self) except -1:
        """Send the descriptors of the dispatch; False when not all of them could be sent now."""
        cdef Dispatch d = self._dispatch
        cdef size_t n = <size_t>len(d.descriptors), sent, i
        cdef int *numbers = <int *>PyMem_RawMalloc(n * sizeof(int))
        if numbers == NULL:
            raise MemoryError
        for i in range(n):
            numbers[i] = (<Descriptor>d.descriptors[i]).fd
        sent = link_send_descriptors(self._link, numbers, n)
        PyMem_RawFree(numbers)
        del d.descriptors[:sent]
        return sent == n

    cdef bint trim(self, int64_t before) except -1:
        """Give back the memory of segments that were not used since `before`; True when one is left."""
        cdef bint left = True
        if link_ended(self._link):
            return False
        if link_claim(self._link, self._backlog):
            left = link_trim(self._link, before)
            self.pump()
        return left

    # What the module above does.

    cdef int _all_sent(self) except -1:
        """Nothing more will be sent."""
        return 0

    cdef int _try_again(self) except -1:
        """Have :meth:`resume` called in a moment."""
        return 0

    cdef int _lent(self) except -1:
        """Have :meth:`trim` called in a while."""
        return 0

    cdef int _dropped(self) except -1:
        """A message goes nowhere, and needs no room any more."""
        return 0

    # -- room and figures --

    cdef size_t collect(self) noexcept:
        return <size_t>link_collect(self._link)

    cdef bint arm_room(self) noexcept:
        # Where the far side takes no more there is nothing to wait for but the end, which all are told of.
        return link_arm_credit(self._link) or link_is_deaf(self._link)

    cdef bint is_deaf(self) noexcept:
        return link_is_deaf(self._link)

    cdef bint is_other_end(self, Transport other) noexcept:
        return isinstance(other, Link) and link_id(self._link) == link_id((<Link>other)._link)

    cdef void figures(self, Figures *incoming, Figures *outgoing) noexcept:
        cdef link_figures f
        link_figures_in(self._link, &f)
        incoming.posted, incoming.taken, incoming.peak = f.published, f.taken, f.peak
        link_figures_out(self._link, &f)
        outgoing.posted, outgoing.taken, outgoing.peak = f.published, f.taken, f.peak
        outgoing.posted += ring_length(self._backlog) + (self._dispatch is not None or self._held is not None)

    # -- receiving --

    cdef void taken_before(self, size_t popped) noexcept:
        # Whoever has brought everything into the inbox has told for all of it.
        if not link_is_reserved(self._link):
            link_taken_before(self._link, popped)

    cdef size_t take_many(self, void **items, size_t limit) except? 0:
        cdef int outcome
        return self.take_letters(items, limit, False, &outcome)

    cdef size_t take_letters(self, void **items, size_t limit, bint reserved, int *outcome) except? 0:
        """Take up to `limit` items; *outcome tells why there are no more.

        Once somebody has reserved all that is left, only he gets any.
        """
        cdef taken messages[CHUNK]
        cdef size_t n, i
        cdef int error
        n = self._take(messages, min(limit, <size_t>CHUNK), reserved, outcome, &error)
        if n == 0:
            failure = self._trouble(outcome, error)
            if outcome[0] == LINK_TROUBLE:
                raise failure
            return 0
        # Whatever there is after these is met again, when they have gone.
        if outcome[0] == LINK_REFUSED:
            PyErr_Clear()
        for i in range(n):
            items[i] = <void *>item_taken(&messages[i])
        return n

    cdef size_t _take(self, taken *messages, size_t limit, bint reserved, int *outcome, int *error) noexcept:
        """Take up to `limit` messages; *outcome and *error, or an exception that is set, tell why there are no more.

        Nothing in here may run code of anybody's: no object is made that the garbage collector knows.
        """
        cdef link_message m
        cdef size_t n = 0
        outcome[0] = LINK_OK
        error[0] = 0
        link_begin(self._link)
        if link_is_reserved(self._link) and not reserved:
            outcome[0] = LINK_EMPTY
        while n < limit and outcome[0] == LINK_OK:
            outcome[0] = link_next(self._link, &m)
            if outcome[0] != LINK_OK:
                error[0] = errno
            elif take_message(self._link, &m, &messages[n]):
                n += 1
            else:
                outcome[0] = LINK_REFUSED
        link_finish(self._link)
        return n

    cdef object _trouble(self, int *outcome, int error):
        """After :meth:`_take`: return the exception for LINK_TROUBLE, note what is wrong for LINK_CORRUPT."""
        cdef object failure = None
        if outcome[0] == LINK_REFUSED:
            failure = raised_exception()
            outcome[0] = LINK_TROUBLE if isinstance(failure, MemoryError) else LINK_CORRUPT
        elif outcome[0] == LINK_TROUBLE:
            failure = MemoryError() if error == ENOMEM else OSError(
                error, f"the next message came with descriptors, for which there is no room: {os.strerror(error)}; "
                "close some, or raise the limit (ulimit -n), and receive again")
        if outcome[0] == LINK_CORRUPT and self.mischief is None:
            self.mischief = "the other process has written what is no message" if failure is None else str(failure)
        return failure

    cdef bint take_raw(self, taken *message) noexcept:
        cdef int outcome, error
        if self._take(message, 1, False, &outcome, &error) == 0:
            message.object = NULL
            message.outcome = outcome
            message.error = error
            return outcome != LINK_EMPTY
        return True

    cdef PyObject *item_of(self, taken *message) except? NULL:
        cdef int outcome
        if message.object != NULL:
            return item_taken(message)
        outcome = message.outcome
        failure = self._trouble(&outcome, message.error)
        if outcome == LINK_TROUBLE:
            raise failure
        return NULL


cdef Envelope enveloped(PyObject *item):
    """Return the Envelope that is an owned queue item, or one for the message that it is."""
    return unopened(item) if is_envelope(item) else envelope_around(open_item(item))
