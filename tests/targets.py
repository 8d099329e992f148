"""Targets of workers. A spawned process imports this module, so it imports little."""

import ctypes
import gc
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.reduction import DupFd

from messagechannel import ChannelClosedError, MessageChannel, SharedBuffer, Worker, _far


def keep_memory_briefly():
    """Give memory that large messages have used back soon: many a test waits for it, here or in the other process."""
    _far.SEGMENT_SECONDS = 0.2


def echo(port):
    for message in port:
        port.post_message(message)


def send_five(port):
    port.send_many(range(5))


def use_a_port(port):
    (given,) = port.receive_event(60).ports
    given.post_message("through the channel")
    port.receive()


def receive_one(port):
    port.receive()


def say_last_words(port):
    port.post_message("last words")


def fail(port):
    port.receive(60)
    raise ValueError("boom")


class SpeechlessError(Exception):
    def __str__(self):
        raise ValueError("no words")


def fail_without_words(port):
    port.receive(60)
    raise SpeechlessError("boom")


def post_and_fail(port):
    port.post_message("before")
    raise ValueError("boom")


def meet_a_closed_channel(port):
    other = MessageChannel()
    other.port1.close()
    other.port2.receive()


def tell_about_itself(port, *args):
    process = multiprocessing.current_process()
    port.post_message((os.getpid(), process.name, multiprocessing.get_start_method(allow_none=True), args))


def use_what_was_given(port, ports, named):
    ports[0].post_message("first")
    named["second"].post_message("second")
    port.receive()


def send_for_ever(port):
    while True:
        port.send(b"x" * 1000)


def sleep_for_ever(port):
    port.post_message(os.getpid())
    while True:
        time.sleep(1)


def leave(port, how):
    port.post_message("last words")
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with(port, code):
    sys.exit(code)


def sleep_until_closed(port):
    port.post_message(os.getpid())
    for _ in port:
        pass


def answer_by_a_listener(port):
    port.onmessage = lambda event: port.post_message((os.getpid(), event.data * 2))


def leave_a_listener_elsewhere(port):
    other = port.receive_event().ports[0]
    other.onmessage = lambda event: other.post_message(event.data)


def post_and_return(port, count):
    for number in range(count):
        port.post_message((number, b"x" * 100))


class UnpicklableError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class UnreadableError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_one(port, name):
    port.receive(60)
    if name == "UnpicklableError":
        raise UnpicklableError("boom")
    if name == "UnreadableError":
        raise UnreadableError("this", "that")
    if name == "known here only":
        raise type("Hidden", (Exception,), {})("boom")
    raise LookupError("boom")


def start_another(port):
    inner = Worker(echo, kind="process")
    for message in port:
        inner.post_message(message)
        port.post_message(inner.receive(60))


kept = []


def keep_another(port):
    kept.append(Worker(sleep_until_closed, kind="process"))
    port.post_message(kept[0].receive(60))


def hand_over_another(port):
    inner = Worker(tell_about_itself, kind="process")
    port.post_message("here it is", [inner])
    port.receive()


# ---- for test_travel.py ----


def memory_maps():
    """Return (begin, end) of each piece of memory of the library's that is mapped here."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "memfd:messagechannel" in line:
                found.append(tuple(int(address, 16) for address in line.split()[0].split("-")))
    return found


# Of each direction's ring, and what each link has mapped as long as somebody has a port of it: csrc/link.h.
RING_BYTES = 512 * 1024
LINK_BYTES = 4096 + 2 * RING_BYTES


def mapped_bytes():
    """Return the bytes of shared memory that are mapped here, but for those of links."""
    return sum(end - begin for begin, end in memory_maps() if end - begin != LINK_BYTES)


def lies_in_shared_memory(view):
    if view.readonly or view.nbytes == 0:
        return None
    address = ctypes.addressof(ctypes.c_char.from_buffer(view.cast("B")))
    return any(begin <= address < end for begin, end in memory_maps())


def agent(control):
    """Hold ports, and do with them what is told through `control`, a command at a time; each is answered."""
    keep_memory_briefly()
    mesh, held = {}, {}
    while True:
        try:
            event = control.receive_event()
        except ChannelClosedError:
            return
        command, *arguments = event.data
        control.post_message(*COMMANDS[command](mesh, held, event.ports, *arguments))


def know(mesh, held, ports, who):
    """Know another agent, by the port that comes."""
    mesh[who] = ports[0]
    return (os.getpid(),)


def hold(mesh, held, ports, name):
    held[name] = ports[0]
    return (os.getpid(),)


def give(mesh, held, ports, name, to):
    mesh[to].post_message(name, [held.pop(name)])
    return ("given",)


def take(mesh, held, ports, name, from_):
    event = mesh[from_].receive_event(60)
    assert event.data == name
    (held[name],) = event.ports
    return ("taken",)


def give_back(mesh, held, ports, name):
    return name, [held.pop(name)]


def post(mesh, held, ports, name, messages):
    for message in messages:
        held[name].post_message(message)
    return ("posted",)


def post_by_threads(mesh, held, ports, name, numbers, count):
    """Post (number of the thread, number of the message)."""
    everybody = [
        threading.Thread(target=post, args=(mesh, held, ports, name, [(who, i) for i in range(count)]))
        for who in numbers
    ]
    for thread in everybody:
        thread.start()
    for thread in everybody:
        thread.join()
    return ("posted",)


def receive(mesh, held, ports, name, count):
    """Receive so many messages; fewer, when the channel is closed."""
    got = []
    while len(got) < count:
        try:
            got += held[name].receive_many(count - len(got), timeout=60)
        except ChannelClosedError:
            break
    return (got,)


def receive_what_is_there(mesh, held, ports, name, limit):
    try:
        return (held[name].receive_many(limit, timeout=0),)
    except TimeoutError:
        return ([],)


def give_it_back(mesh, held, ports, message):
    """Send back the ports that came, and the bytearrays and arrays in a message."""
    return message, [*ports, *message["of it"]]


def keep(mesh, held, ports, name, value):
    """Keep a value; tell whether it lies in mapped memory, and may be written to."""
    held[name] = value
    view = memoryview(value)
    return ({"mapped": lies_in_shared_memory(view), "writable": not view.readonly},)


def content(mesh, held, ports, name):
    return (hashlib.sha256(held[name]).digest(),)


def overwrite(mesh, held, ports, name, byte):
    """Write a byte all over what is kept."""
    view = memoryview(held[name]).cast("B")
    view[:] = bytes([byte]) * len(view)
    return ("overwritten",)


def keep_part(mesh, held, ports, name, part):
    """Keep only a view of what is kept."""
    held[name] = memoryview(held[name]).cast("B")[part:]
    return ("kept",)


def drop(mesh, held, ports, *names):
    for name in names:
        del held[name]
    gc.collect()
    return ("dropped",)


def shared_bytes(mesh, held, ports):
    return (mapped_bytes(),)


def send_back(mesh, held, ports, value):
    return (value,)


def use_descriptor(mesh, held, ports, item):
    """Use a socket, connection or file; return what came out of it."""
    if hasattr(item, "recv_bytes"):
        item.send_bytes(b"from there")
        return (item.recv_bytes(),)
    if hasattr(item, "sendall"):
        item.sendall(b"from there")
        return (item.recv(100),)
    if "w" in item.mode:
        item.write(b"from there")
        item.close()
        return (None,)
    return (item.read(),)


def bounce(mesh, held, ports, name, count):
    """Send back what comes."""
    for _ in range(count):
        held[name].post_message(held[name].receive(60))
    return ("bounced",)


def count(mesh, held, ports, name, number):
    """Receive (who, number, ...) and return the numbers of everybody."""
    numbers = {}
    for _ in range(number):
        who, own, *_ = held[name].receive(60)
        numbers.setdefault(who, []).append(own)
    return (numbers,)


def make_shared(mesh, held, ports, nbytes):
    return (SharedBuffer(nbytes),)


COMMANDS = {
    function.__name__: function
    for function in (
        know,
        hold,
        give,
        take,
        give_back,
        post,
        post_by_threads,
        receive,
        receive_what_is_there,
        give_it_back,
        keep,
        content,
        overwrite,
        keep_part,
        drop,
        shared_bytes,
        send_back,
        use_descriptor,
        bounce,
        count,
        make_shared,
    )
}


# ---- for multiprocessing ----


def double_all(port, times=2):
    for message in port:
        port.post_message(message * times)


def double_one(port):
    port.post_message(port.receive(60) * 2)


def double_what_comes(receiver):
    receive = getattr(receiver, "recv", None) or receiver.get
    while (message := receive()) is not None:
        double_all(message[1])


def keep_port(port):
    kept.append(port)


def answer_by_another_port_for_ever(port, other):
    keep_port(other)
    other.onmessage = lambda event: other.post_message(event.data)


def post_to_kept_port(message):
    kept[0].post_message(message)


class Holder:
    """Holds something, as an attribute."""

    def __init__(self, held):
        self.held = held

    def double_one(self):
        double_one(self.held)


class Ports(list):
    """A list of its own kind."""


class PicklesCounted(Holder):
    """Counts how often it is pickled in this process."""

    pickled = 0

    def __reduce__(self):
        type(self).pickled += 1
        return type(self), (self.held,)


class Lends:
    """Lends a descriptor to whoever unpickles it, as multiprocessing's own reducers do."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def __reduce__(self):
        return take_lent, (DupFd(self.descriptor),)


def take_lent(lent):
    return Lends(lent.detach())


def use_all_that_multiprocessing_passes(port, queue, connection, shared, counted):
    connection.send("by the connection")
    memoryview(shared)[0] = 7
    port.post_message(queue.get(timeout=60))
    counted.held.post_message("from the inside")
