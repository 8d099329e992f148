# cython: language_level=3, binding=False, always_allow_keywords=False, freethreading_compatible=True
# cython: subinterpreters_compatible=own_gil, embedsignature=True, embedsignature.format=clinic
"""Ports that leave this process, and ports that come.

A port whose peer is here leaves as one end of a new link, whose other end becomes the transport of the channel. A port
whose peer is far already leaves with its end of the link: what this process held for it goes along, and no message
between the two ends comes by here any more. Ports in what goes along depart with it. The links that they need are made
before anything has changed, so that a port departs as a whole or stays what it was.

A port that comes gets a channel whose other side is far.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import functools
import os
import sys
from time import monotonic, sleep
from weakref import ref

from messagechannel._core import MessagePort
from messagechannel._fields import Fields, Reader
from messagechannel._link import Letter, letter_of, reserve_descriptors, set_travel
from messagechannel._reactor import Reactor
from messagechannel._transfer import DataCloneError

from messagechannel._core cimport (
    channel_of, close_channel, leave_behind, let_go, release_channel, rouse, take_back, take_hold, tell,
)
from messagechannel._csrc cimport (
    CHANNEL_OPEN, LINK_OK, LINK_SEGMENTS, LINK_TROUBLE, RING_NO_MEMORY, c_bool, channel, channel_connect,
    channel_incref, channel_new, endpoint, endpoint_offer_room, endpoint_pass_on, endpoint_take_claimed,
    endpoint_wake_all, far_link, link_abandon, link_arm, link_attach, link_claim, link_close_in, link_close_out,
    link_decref, link_end, link_ended, link_figures, link_figures_out, link_has_ended_there, link_has_news, link_hear,
    link_incref, link_is_armed, link_is_distrusted, link_is_reserved, link_new, link_reserve_in, link_restore,
    link_segment, link_set_figures, link_taken_before, link_told_before, link_waiting, link_yield_in, parker_now, ring,
    ring_close, ring_disarm, ring_length, ring_look_through, ring_peak, ring_popped, ring_push, ring_pushed,
    ring_reserve, ring_return_room, shared_claim, shared_number, spin_acquire, spin_lock, spin_release,
)
from messagechannel._link cimport (
    DESCRIPTORS_OF_A_PORT, Dispatch, Letter, Link, dispatch_of, enveloped, letter_item,
)
from messagechannel._transport cimport Envelope, Figures, discard, envelope_of, is_envelope
from messagechannel._wire cimport Descriptor, Parcel


cdef extern from "module_state.h":
    pass


cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef extern from "synchronize.h":
    void synchronize_threads() noexcept


# What a timer does for a link.
cdef enum:
    GO_ON
    LOOK_AGAIN
    TRIM

cdef enum:
    # Messages that are brought into the inbox at once when a link ends.
    CHUNK = 64
    # How long others wait for that at most.
    RESPITE_NANOSECONDS = 50000000
    # Ports inside one another that a thread sends on its stack; deeper ones are sent in a moment, by the reactor.
    NESTED = 20

cdef extern from *:
    """
    /* How many links begin in this thread, each of them while a message of another is sent that its port is in. */
    static _Thread_local int links_beginning;
    """
    int links_beginning

# How long a segment is kept for the next large buffer, in seconds.
SEGMENT_SECONDS = 2.0
# How long until what found no memory, no descriptor or no room in a socket is tried again, in seconds.
SHORTAGE_SECONDS = 0.02

_reactor = Reactor()


class AsidePort(MessagePort):
    """A port of the library's own, for whose listeners a process does not stay."""

    def look(self):
        """See now to what the far side has done, rather than when its bell is heard."""
        cdef channel *c = channel_of(self)
        if c != NULL and c.transport != NULL:
            (<Far>c.transport.owner).look()


def forget_the_parents_links():
    """In a forked child: close the parent's descriptors, lest its peers think that it lives on here."""
    cdef Far far
    for far in _reactor.forget():
        link_abandon(far._link)
        # With the descriptors of ports that were to be sent.
        far._dispatch = far._held = None


def _call_if_alive(link, int what):
    """Do something for a link that a timer has only a weak reference to, lest what has ended is kept mapped."""
    cdef Far far = link()
    if far is None:
        return
    if what == GO_ON:
        far._go_on_later()
    elif what == LOOK_AGAIN:
        far._look_again()
    else:
        far._trim_later()


@cython.final
cdef class Far(Link):
    """The link of one channel. The reactor has it, and a reference to the channel, until the link ends."""

    cdef object __weakref__
    # Of the channel; whoever calls has a reference to it.
    cdef channel *_channel
    # The near side.
    cdef uint32_t _side
    cdef int _socket
    # Guards the two below, and with `_registered` the reactor's reference to the channel.
    cdef spin_lock _lock
    # The reactor has a place for the socket.
    cdef bint _placed
    cdef bint _registered
    # It is about to depart: nobody is to be told of anything.
    cdef shared_number _halted
    # Whether a timer of each kind is pending: one does, however often it is asked for.
    cdef shared_number _trimming, _trying, _looking

    @staticmethod
    cdef Far connect(channel *c, uint32_t side, far_link *link, bint placed):
        """Make a link the transport of a channel. The reference to the link is taken over, unless it raises.

        None, and it is not, if another thread has made another link that.
        """
        cdef Far self = Far.__new__(Far)
        self._link = link
        self._channel = c
        self._side = side
        self._placed = placed
        self._backlog = &c.side[side ^ 1].inbox
        self._socket = link.socket
        link_incref(link)
        link.transport.owner = <void *>self
        link.transport.far_side = <uint8_t>(side ^ 1)
        Py_INCREF(self)
        # Whoever slept there is gone; nobody else is to be the pump.
        ring_disarm(self._backlog)
        if channel_connect(c, &link.transport):
            return self
        link.transport.owner = NULL
        Py_DECREF(self)
        link_decref(link)
        self._link = NULL
        return None

    cdef int begin(self) except -1:
        """Send what waits, and listen for what comes."""
        global links_beginning
        # Not by `with`, out of which Cython (3.3.1) crashes where an exception finds no memory for its traceback.
        lock = _reactor.lock
        lock.acquire()
        try:
            # Where the other thread that has this channel has closed it, the link may have ended already.
            if not link_ended(self._link):
                _reactor.register(self._socket, self)
                self._placed = True
                channel_incref(self._channel)
                self._registered = True
        finally:
            lock.release()
        # Who waits at the near side has armed its ring alone, and is to arm the link: he joined the list before he
        # looked for a link, and the list is looked at after there is one.
        tell(endpoint_wake_all(self.near(), NULL))
        # Likewise for who took something and had no link to tell of it.
        self.taken_before(ring_popped(&self.near().inbox))
        self._rouse()
        if links_beginning == NESTED:
            self._stalled = True
            return self._once(&self._looking, 0, LOOK_AGAIN)
        links_beginning += 1
        try:
            self.pump()
            self.look()
        finally:
            links_beginning -= 1
        return 0

    cdef int _unregister(self) except -1:
        """Have the reactor forget this. The caller has a reference to the channel."""
        cdef bint placed, registered
        spin_acquire(&self._lock)
        placed, registered = self._placed, self._registered
        self._placed = self._registered = False
        spin_release(&self._lock)
        if placed:
            try:
                _reactor.unregister(self._socket)
            except BaseException:
                # Of a signal's handler.
                _reactor.unregister(self._socket)
                raise
            finally:
                if registered:
                    release_channel(self._channel)
        return 0

    cdef channel *_hold(self) noexcept:
        """Return the channel with a reference, NULL when nobody is registered for it any more."""
        cdef channel *c = NULL
        spin_acquire(&self._lock)
        if self._registered:
            c = self._channel
            channel_incref(c)
        spin_release(&self._lock)
        return c

    cdef endpoint *near(self) noexcept:
        return &self._channel.side[self._side]

    cdef endpoint *far_side(self) noexcept:
        return &self._channel.side[self._side ^ 1]

    # -- what the reactor calls --

    def heard(self):
        """Hear what the socket has; return seconds to wait if some of it has to stay."""
        cdef channel *c = self._hold()
        cdef bint short
        if c == NULL:
            return None
        try:
            short = link_hear(self._link) == LINK_TROUBLE
            short = self._look() or short
        finally:
            release_channel(c)
        return SHORTAGE_SECONDS if short else None

    def look(self):
        """See to everything that the far side may have done."""
        cdef channel *c = self._hold()
        if c != NULL:
            try:
                self._look()
            finally:
                release_channel(c)

    cdef bint _look(self) except -1:
        """As look; True when something has to wait for memory or descriptors."""
        cdef endpoint *far_inbox = self.far_side()
        cdef bint short = False
        if link_ended(self._link) or self._halted:
            return False
        if far_inbox.inbox.bounded:
            tell(endpoint_offer_room(far_inbox))
        self.resume()
        if link_has_ended_there(self._link):
            try:
                if self.settle():
                    return False
            except (MemoryError, OSError):
                # Whoever receives is told.
                self.look_later()
            short = not link_ended(self._link)
        if link_has_news(self._link):
            # Goes beyond what is no message.
            link_arm(self._link)
        if link_has_news(self._link) or not link_is_armed(self._link):
            # Also where somebody has taken meanwhile what the bell was about: whoever still waits is to arm again.
            tell(endpoint_pass_on(self.near()))
            self._rouse()
        return short

    cdef object _listening(self):
        """Return the near port if it has listeners."""
        cdef object port = None
        spin_acquire(&self.near().lock)
        if self.near().listening != NULL:
            port = <object>self.near().listening
        spin_release(&self.near().lock)
        return port

    cdef int _rouse(self) except -1:
        port = self._listening()
        if port is not None:
            rouse(port)
        return 0

    def is_listening(self):
        """Tell whether the near port has listeners that the far side can reach, and the process is to stay for."""
        cdef channel *c = self._hold()
        if c == NULL:
            return False
        port = self._listening()
        release_channel(c)
        return port is not None and not isinstance(port, AsidePort)

    def is_sending(self):
        """Tell whether messages wait here to be sent."""
        cdef channel *c = self._hold()
        if c == NULL:
            return False
        sending = self.has_unsent()
        release_channel(c)
        return sending

    # -- what a link asks for --

    cdef int _once(self, shared_number *pending, seconds, int what) except -1:
        """Have something done later, unless that is pending. False is stored there before anything else is done."""
        if shared_claim(pending, False, True):
            try:
                _reactor.call_later(seconds, functools.partial(_call_if_alive, ref(self), what))
            except BaseException:
                pending[0] = False
                raise
        return 0

    cdef int _try_again(self) except -1:
        return self._once(&self._trying, SHORTAGE_SECONDS, GO_ON)

    cdef int _go_on_later(self) except -1:
        cdef channel *c
        self._trying = False
        c = self._hold()
        if c != NULL:
            try:
                self.resume()
            finally:
                release_channel(c)
        return 0

    cdef int look_later(self) except -1:
        return self._once(&self._looking, 5 * SHORTAGE_SECONDS, LOOK_AGAIN)

    cdef int _look_again(self) except -1:
        self._looking = False
        self.look()
        return 0

    cdef int _lent(self) except -1:
        return self._once(&self._trimming, SEGMENT_SECONDS, TRIM)

    cdef int _trim_later(self) except -1:
        cdef channel *c
        self._trimming = False
        c = self._hold()
        if c != NULL:
            try:
                if self.trim(parker_now() - <int64_t>(SEGMENT_SECONDS * 1e9)):
                    self._lent()
            finally:
                release_channel(c)
        return 0

    cdef int _dropped(self) except -1:
        cdef endpoint *far_inbox = self.far_side()
        if far_inbox.inbox.bounded:
            ring_return_room(&far_inbox.inbox, 1)
            tell(endpoint_offer_room(far_inbox))
        return 0

    cdef int _all_sent(self) except -1:
        link_close_out(self._link)
        self._end()
        return 0

    # -- the end --

    cdef int _end(self) except -1:
        """Close the descriptors, once both directions are done with."""
        cdef channel *c = self._channel
        channel_incref(c)
        lock = _reactor.lock
        # At once, because the number of a closed descriptor may be another's already.
        try:
            lock.acquire()
            try:
                self._unregister()
            finally:
                link_end(self._link, NULL)
                lock.release()
        finally:
            release_channel(c)
        return 0

    cdef bint _bring_in(self) except -1:
        """Bring what is left of the far side's messages into the inbox; False when another thread does.

        :raises MemoryError: when some has to stay, as it does then.
        :raises OSError: likewise.
        """
        cdef void *items[CHUNK]
        cdef size_t n, i
        cdef int outcome, pushed
        cdef ring *inbox = &self.near().inbox
        if not link_reserve_in(self._link):
            self.wait_for_rest()
            return False
        link_taken_before(self._link, ring_pushed(inbox))
        try:
            outcome, n = LINK_OK, 0
            # Also once more behind some that were taken before something could not be: that is raised then.
            while n or outcome == LINK_OK:
                n = self.take_letters(items, CHUNK, True, &outcome)
                for i in range(n):
                    ring_reserve(inbox, 1)
                    pushed = ring_push(inbox, items[i])
                    if pushed < 0:
                        while i < n:
                            discard(<PyObject *>items[i])
                            i += 1
                        # Who is closed meanwhile has given up waiting for this.
                        if pushed == RING_NO_MEMORY:
                            raise MemoryError
                        break
        except BaseException:
            # What was not taken yet stays, to be received from there.
            link_told_before(self._link, ring_pushed(inbox))
            link_yield_in(self._link)
            raise
        return True

    cdef void wait_for_rest(self) noexcept:
        # Not for ever: it may be this thread, with the garbage collector in between.
        cdef int64_t end = parker_now() + RESPITE_NANOSECONDS
        while link_is_reserved(self._link) and not link_ended(self._link) and self._channel.closed_by == CHANNEL_OPEN \
                and parker_now() < end:
            with nogil:
                sched_yield()

    cdef bint settle(self) except -1:
        cdef channel *c = self._channel
        if link_ended(self._link) or not (link_has_ended_there(self._link) or self.mischief is not None):
            return False
        if link_is_distrusted(self._link) and self.mischief is None:
            self.mischief = "the other process has written what no port writes"
        if link_hear(self._link) == LINK_TROUBLE and link_waiting(self._link):
            # Not all descriptors have room here: messages are received one by one, and whoever receives is told so.
            self.look_later()
            return False
        channel_incref(c)
        try:
            if self._bring_in():
                self._closing = True
                own = link_claim(self._link, self._backlog)
                close_channel(c, self._side ^ 1)
                self._end()
                if own or shared_claim(&self._stalled, True, False):
                    # What is there goes nowhere any more.
                    self.pump()
        finally:
            release_channel(c)
        return True

    cdef int close(self) except -1:
        cdef channel *c = self._channel
        if link_ended(self._link):
            close_channel(c, self._side)
            return 0
        channel_incref(c)
        try:
            # First, so that nobody there takes the room of what is brought in for room to send into.
            link_close_in(self._link)
            try:
                self._bring_in()
            finally:
                # What could not be brought in is lost.
                self._closing = True
                own = link_claim(self._link, self._backlog)
                close_channel(c, self._side)
                if own:
                    self.pump()
        finally:
            release_channel(c)
        return 0

    # -- arriving --

    cdef object resume_life(self, list backlog, tuple begun, size_t capacity):
        """Return the port, with the messages that came with it in its queue."""
        cdef channel *c = self._channel
        cdef ring *queue
        cdef link_figures f
        cdef size_t waiting = 0
        cdef Letter letter
        cdef PyObject *item
        port = take_hold(c, self._side)
        for place, letter in backlog:
            queue = &c.side[self._side if place == 0 else self._side ^ 1].inbox
            item = letter_item(letter)
            if ring_push(queue, item) < 0:
                discard(item)
                raise MemoryError
            if place == 0:
                ring_reserve(queue, 1)
            waiting += place
        if begun is not None:
            self.continue_with(begun)
            waiting += 1
        link_figures_out(self._link, &f)
        if capacity:
            ring_reserve(self._backlog, min(<size_t>(f.published - self._link.credited) + waiting, capacity))
        self.begin()
        return port

    # -- leaving --

    cdef bint halt(self) except -1:
        """Have no other thread send, take or hear anything; False when the link has ended, and everything that is left
        is in the inbox."""
        cdef far_link *link = self._link
        if not self._own_the_pump():
            return False
        try:
            while not link_reserve_in(link):
                # Another thread brings in what is left, or gives that up for want of memory.
                if link_ended(link):
                    self.pump()
                    return False
                sleep(0.0005)
        except BaseException:
            self._leave_the_pump()
            raise
        self._halted = True
        return True

    cdef int go_on(self) except -1:
        """Take it back that this was halted."""
        link_yield_in(self._link)
        # Who took something meanwhile was kept from telling of it.
        self.taken_before(ring_popped(&self.near().inbox))
        self._halted = False
        self._leave_the_pump()
        # What has come meanwhile was told to nobody.
        self.look()
        return 0

    cdef size_t links_waiting(self) except? 0:
        """Return how many links are made for ports in messages that leave with this end. This thread is the pump."""
        cdef list ports = []
        cdef size_t links = 0
        cdef endpoint *ends[2]
        ends[0], ends[1] = self.near(), self.far_side()
        for end in ends:
            if ring_look_through(&end.inbox, find_ports, <void *>ports):
                raise MemoryError
        if self._held is not None and not add_ports(self._held, ports):
            raise MemoryError
        for port in ports:
            links += <size_t>links_for(port)
        return links

    cdef tuple leave(self, depart):
        """Return the state and the Descriptors of this end, which was halted and goes to another process.

        :param depart: has a port depart that waits in a message.
        """
        cdef int ends[2]
        # Who took something last may not have told of it.
        link_taken_before(self._link, ring_popped(&self.near().inbox))
        self._unregister()
        link_end(self._link, ends)
        ring_close(&self.near().inbox)
        ring_close(self._backlog)
        descriptors = [Descriptor(ends[0]), Descriptor(ends[1])]
        return self._pack_up(descriptors, depart), descriptors

    cdef bytes _pack_up(self, list descriptors, depart):
        """Return the state of this end; what it needs is added to the descriptors."""
        cdef far_link *link = self._link
        cdef ring *inbox = &self.near().inbox
        cdef PyObject *item
        cdef c_bool shut
        cdef Dispatch d
        letters = []
        for queue in range(2):
            while True:
                # Also what is claimed: other threads may be about to put it into its place.
                item = <PyObject *>endpoint_take_claimed(self.near() if queue == 0 else self.far_side(), &shut)
                if item == NULL:
                    break
                tag, payload, own = letter_of(enveloped(item), depart)
                letters.append((queue, tag, payload, len(own)))
                descriptors += own
            if queue == 0 and self._held is not None:
                tag, payload, own = letter_of(self._held, depart)
                letters.append((1, tag, payload, len(own)))
                descriptors += own
                self._held = None
        begun = None
        if self._dispatch is not None:
            d = self._dispatch
            begun = (d.tag, d.length, d.done, d.rest(), d.count, len(d.descriptors))
            descriptors += d.descriptors
            self._dispatch = None
        segments = []
        for i in range(LINK_SEGMENTS):
            if link.incoming[i].descriptor >= 0:
                segments.append(i)
                descriptors.append(Descriptor(link.incoming[i].descriptor))
                link.incoming[i].descriptor = -1
        came = link.descriptor_count
        for i in range(came):
            # One owner at any time, whatever fails.
            descriptors.append(Descriptor(link.descriptors[i]))
            link.descriptors[i] = -1
        link.descriptor_count = 0
        partial = None
        if link.partial != NULL:
            partial = (link.partial_size, (<char *>link.partial)[:link.partial_length],
                       link.partial_tag if link.assembled else -1, link.partial_count)
        return written_state(link.side, inbox.capacity, letters, begun, segments, came, partial)

    cdef int continue_with(self, tuple begun) except -1:
        """Have the pump go on with a message that another process has begun to send."""
        tag, length, done, rest, count, descriptors = begun
        cdef Dispatch d = dispatch_of(tag, [rest], descriptors)
        d.length, d.done, d.count = length, done, count
        self._dispatch = d
        return 0

    cdef bint _own_the_pump(self) except -1:
        """Become the pump, when whoever is it has finished; False when the link has ended."""
        end = monotonic() + 10
        while not (link_claim(self._link, self._backlog) or shared_claim(&self._stalled, True, False)):
            if link_ended(self._link):
                return False
            if monotonic() > end:
                raise DataCloneError(
                    "this port can't be transferred: a message that is being sent through it does not end")
            sleep(0.0005)
        if link_ended(self._link):
            # What is there goes nowhere any more.
            self.pump()
            return False
        return True

    cdef channel *left_over(self, link_figures *to_here, link_figures *to_there) except NULL:
        """Return a channel of this process, with a reference, that is all that is left of this closed one: the messages
        in the inbox and the end behind them. The figures are what this one has counted."""
        cdef Figures incoming, outgoing
        cdef PyObject *item
        cdef c_bool shut
        cdef channel *c
        cdef ring *queue
        c = channel_new(self.near().inbox.capacity, False)
        if c == NULL:
            raise MemoryError
        self.figures(&incoming, &outgoing)
        to_here.published, to_here.taken, to_here.peak = outgoing.posted, outgoing.taken, outgoing.peak
        to_there.published, to_there.taken, to_there.peak = incoming.taken, incoming.taken, incoming.peak
        queue = &c.side[self._side].inbox
        while True:
            item = <PyObject *>endpoint_take_claimed(self.near(), &shut)
            if item == NULL:
                break
            ring_reserve(queue, 1)
            if ring_push(queue, item) < 0:
                discard(item)
        close_channel(c, self._side ^ 1)
        # One of the two references that it was made with.
        release_channel(c)
        return c

    cdef void figures(self, Figures *incoming, Figures *outgoing) noexcept:
        Link.figures(self, incoming, outgoing)
        if link_is_reserved(self._link):
            # What was brought into the inbox counts as taken from the link, but nobody has received it yet.
            incoming.taken -= min(incoming.taken, <uint64_t>ring_length(&self.near().inbox))


cdef int find_ports(void *item, void *ports) noexcept:
    """Add the ports in a queue's item to a list; no code of anybody's may run. Not 0 without memory."""
    return is_envelope(<PyObject *>item) and not add_ports(envelope_of(<PyObject *>item), <list>ports)


cdef bint add_ports(Envelope envelope, list ports) noexcept:
    """Add the ports in a message that have not departed yet to a list; False without memory."""
    cdef object there = envelope.ports
    cdef Py_ssize_t i = 0
    if type(envelope.data) is Parcel:
        there = (<Parcel>envelope.data).ports
        i = len((<Parcel>envelope.data).departed)
    try:
        while i < len(there):
            ports.append(there[i])
            i += 1
    except MemoryError:
        return False
    return True


@cython.final
cdef class Spare:
    """A link that is no channel's yet, and the Descriptors of its other end."""

    cdef far_link *link
    cdef list ends
    # The reactor has a place for it.
    cdef bint heard

    def __dealloc__(self):
        try:
            if self.heard:
                _reactor.unregister(self.link.socket)
        finally:
            if self.link != NULL:
                link_decref(self.link)


cdef Spare new_spare():
    cdef Spare spare = Spare.__new__(Spare)
    cdef Descriptor one = Descriptor(-1), other = Descriptor(-1)
    cdef int ends[2]
    spare.ends = [one, other]
    spare.link = link_new(ends)
    if spare.link == NULL:
        raise OSError(errno, f"no link for a port that is transferred: {os.strerror(errno)}")
    one.fd, other.fd = ends
    _reactor.prepare(spare.link.socket)
    spare.heard = True
    return spare


@cython.final
cdef class Departure:
    """What a port takes to depart: a link for itself, and one for each port in the messages that leave with it.

    These are there before anything has changed, so that nothing can be missing in the middle.
    """

    cdef list _spares

    def __cinit__(self):
        self._spares = []

    cdef int provide(self, size_t links) except -1:
        """Have so many links.

        :raises OSError: when there are no descriptors or no memory for them.
        """
        cdef size_t there = <size_t>len(self._spares)
        if there < links:
            # That says what is to be done.
            reserve_descriptors(DESCRIPTORS_OF_A_PORT * (links - there))
            while <size_t>len(self._spares) < links:
                self._spares.append(new_spare())
        return 0

    def depart(self, port):
        """Have a port depart, as :func:`depart` does."""
        cdef uint32_t side
        cdef channel *c
        cdef channel *former
        cdef Far far
        cdef link_figures to_here, to_there
        self.provide(<size_t>links_for(port))
        c = let_go(port, &side)
        # Whatever other threads were about to post or take by this port, they have done.
        synchronize_threads()
        try:
            if c.transport == NULL:
                # First: who is woken may be what has the other end depart.
                leave_behind(port)
                to_here = figures_of(&c.side[side ^ 1].inbox, True)
                to_there = figures_of(&c.side[side].inbox, False)
                departed = self._by_a_new_link(c, side, &to_here, &to_there)
                if departed is not None:
                    return departed
            far = <Far>c.transport.owner
            halted = self._halt(far, port)
            leave_behind(port)
            if halted:
                try:
                    return far.leave(self.depart)
                except BaseException:
                    # It is nobody's any more, of which the other side learns so.
                    link_end(far._link, NULL)
                    far.close()
                    raise
            former = c
            c = far.left_over(&to_here, &to_there)
            release_channel(former)
            return self._by_a_new_link(c, side, &to_here, &to_there)
        finally:
            release_channel(c)

    cdef tuple _by_a_new_link(self, channel *c, uint32_t side, link_figures *to_here, link_figures *to_there):
        """Have a side of a channel that is here lead to elsewhere; return the state and the Descriptors of that end.

        None: another thread has just had the other side do so.
        """
        cdef Spare spare = self._spares[-1]
        cdef Far far
        link_set_figures(spare.link, to_here, to_there)
        far = Far.connect(c, side ^ 1, spare.link, True)
        if far is None:
            return None
        # The far's.
        spare.link = NULL
        spare.heard = False
        self._spares.pop()
        if c.closed_by != CHANNEL_OPEN:
            # Closed in this moment: what was posted before arrives.
            far._closing = True
        # Who pushed or took something in the belief that there is no link has finished: only now does anybody sleep on
        # the backlog who would have to be the pump.
        synchronize_threads()
        far.begin()
        return written_state(1, c.side[side].inbox.capacity, [], None, [], 0, None), spare.ends

    cdef bint _halt(self, Far far, port) except -1:
        """Halt the link of a port that was let go of, and have all links that this takes; False when it has ended.

        Where that fails, the port is as it was before.
        """
        cdef bint halted = False
        try:
            halted = far.halt()
            if halted:
                # Others may have posted since they were counted.
                self.provide(1 + far.links_waiting())
        except BaseException:
            take_back(port)
            if halted:
                far.go_on()
            raise
        return halted


def links_for(item):
    """Return how many links are made when an item of a transfer list departs: for a port, and for the ports in messages
    that leave with it.

    :raises DataCloneError: for a port that can't depart now.
    """
    cdef channel *c = channel_of(item)
    cdef Far far
    if c == NULL or c.transport == NULL:
        return 1
    far = <Far>c.transport.owner
    if not far._own_the_pump():
        return 1
    try:
        return 1 + far.links_waiting()
    finally:
        far.pump()


def depart(port):
    """Detach a port for good; return a bytes object and the Descriptors that make it again elsewhere.

    Where it raises one of these, the port is as it was before.

    :raises DataCloneError: for a port that is closed or detached, or of a channel that passes references.
    :raises OSError: when there are no descriptors or no memory for a link.
    """
    _reactor.start()
    return Departure().depart(port)


cdef link_figures figures_of(ring *queue, bint waits_here) noexcept:
    cdef link_figures f
    f.taken = ring_popped(queue)
    f.published = ring_pushed(queue) if waits_here else f.taken
    f.peak = ring_peak(queue)
    return f


def arrive(bytes state, list descriptors):
    """Return the port that departed elsewhere. The list of Descriptors is emptied, whatever becomes of the port.

    :raises ValueError: for what is no such state.
    :raises OSError: when the link can't be mapped.
    """
    cdef far_link *link = NULL
    cdef channel *c = NULL
    cdef Descriptor one, other
    cdef Far far
    try:
        try:
            number, capacity, letters, begun, segments, came, partial = read_state(state, len(descriptors))
        except ValueError as error:
            raise ValueError(f"this is no state of a port: {error}") from None
        one, other = descriptors[0], descriptors[1]
        link = link_attach(one.fd, other.fd, number)
        if link == NULL:
            raise OSError(errno, f"a port that came can't be attached: {os.strerror(errno)}")
        # The link's.
        one.fd = other.fd = -1
        try:
            del descriptors[:2]
            backlog = []
            for place, tag, payload, count in letters:
                backlog.append((place, Letter.make(tag, payload, descriptors[:count])))
                del descriptors[:count]
            if begun is not None:
                tag, length, done, rest, count, left = begun
                begun = tag, length, done, rest, count, descriptors[:left]
                del descriptors[:left]
            restore(link, segments, came, partial, descriptors)
            c = channel_new(capacity, False)
            if c == NULL:
                raise MemoryError
        except BaseException:
            link_decref(link)
            raise
        try:
            far = Far.connect(c, number, link, False)
        except BaseException:
            link_decref(link)
            # Both of the references that it was made with.
            release_channel(c)
            release_channel(c)
            raise
        try:
            return far.resume_life(backlog, begun, capacity)
        finally:
            # The reference of the far side is nobody's: the reactor has its own.
            release_channel(c)
    finally:
        descriptors.clear()


cdef bytes written_state(number, capacity, letters, begun, segments, came, partial):
    """Return as bytes what is told of a port.

    :param number: the side of the link.
    :param letters: what waits: for each message whether it is to be sent, a tag, the payload, and how many descriptors.
    :param begun: the message that is being sent: its tag, its length, how much of that was sent, the rest of the
        payload, how many descriptors it has, and how many of those are left; or None.
    :param segments: the numbers of those that the sender has lent.
    :param came: how many descriptors have come whose messages were not taken.
    :param partial: the message that is being received: its length, the beginning of the payload, its tag or -1, and how
        many descriptors it has; or None.
    """
    fields = Fields()
    fields.numbers(number, capacity, came, len(segments), *segments, len(letters))
    for place, tag, payload, count in letters:
        fields.numbers(place, tag, count)
        fields.block(payload)
    fields.numbers(begun is not None)
    if begun is not None:
        tag, length, done, rest, count, left = begun
        fields.numbers(tag, length, done, count, left)
        fields.block(rest)
    fields.numbers(partial is not None)
    if partial is not None:
        size, part, tag, count = partial
        fields.numbers(size, tag + 1, count)
        fields.block(part)
    return fields.join()


cdef tuple read_state(bytes state, descriptors):
    """Return what :func:`written_state` was given; the bytes of messages are checked where they are opened.

    :param descriptors: how many have come.
    :raises ValueError: for what is no state, or not that of a port with so many descriptors.
    """
    read = Reader(state)
    number = read.number(1)
    capacity = read.number(sys.maxsize)
    came = read.number(descriptors)
    segments = []
    for _ in range(read.number(LINK_SEGMENTS)):
        segments.append(read.number(LINK_SEGMENTS - 1))
    needed = 2 + len(segments) + came
    letters = []
    for _ in range(read.number(len(state))):
        place, tag, count = read.number(1), read.number(255), read.number(descriptors)
        letters.append((place, tag, read.block(), count))
        needed += count
    begun = partial = None
    if read.number(1):
        tag, length, done = read.number(255), read.number(sys.maxsize), read.number(sys.maxsize)
        count, left = read.number(65535), read.number(descriptors)
        begun = tag, length, done, read.block(), count, left
        needed += left
        if done + len(begun[3]) != length:
            raise ValueError("it has another part of a message than it says")
    if read.number(1):
        size, tag, count = read.number(sys.maxsize), read.number(256) - 1, read.number(65535)
        partial = size, read.block(), tag, count
        if len(partial[1]) > size:
            raise ValueError("it has more of a message than there is")
    if sorted(set(segments)) != segments:
        raise ValueError("it has segments that no link has")
    if needed != descriptors or not read.at_end():
        raise ValueError(f"{descriptors} descriptors came with it instead of {needed}, or more than belongs to it")
    return number, capacity, letters, begun, segments, came, partial


cdef int restore(far_link *link, list segments, came, tuple partial, list descriptors) except -1:
    """Give a link what its former process held for it; the descriptors for that are the link's then."""
    cdef link_segment *incoming = <link_segment *>PyMem_Calloc(LINK_SEGMENTS, sizeof(link_segment))
    cdef int *waiting = <int *>PyMem_Calloc(max(came, 1), sizeof(int))
    cdef bytes part
    cdef size_t i
    try:
        if incoming == NULL or waiting == NULL:
            raise MemoryError
        for i in range(LINK_SEGMENTS):
            incoming[i].descriptor = descriptors[segments.index(i)].fd if i in segments else -1
        for i in range(<size_t>came):
            waiting[i] = descriptors[len(segments) + i].fd
        size, part, tag, count = (0, b"", -1, 0) if partial is None else partial
        if not link_restore(link, incoming, PyBytes_AS_STRING(part), <uint64_t>len(part), size, tag, count, waiting,
                            came):
            raise OSError(errno, f"what came with a port can't be had: {os.strerror(errno)}")
        for descriptor in descriptors:
            descriptor.detach()
    finally:
        PyMem_Free(incoming)
        PyMem_Free(waiting)
    return 0


def call_later(seconds, callback):
    """Call `callback` in the reactor's thread, once so many seconds have passed."""
    _reactor.call_later(seconds, callback)


def flush():
    """Wait until what was posted to other processes has been sent, or can't be."""
    _reactor.flush()


def linger():
    """Wait until no port that other processes can post to has listeners here."""
    _reactor.linger()


set_travel(depart, arrive, links_for)
