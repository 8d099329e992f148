"""A process that holds the other ends of channels and does with them what a test tells it."""

import contextlib
import os
import queue
import signal
import threading

import targets
from messagechannel import ChannelClosedError, MessageChannel, Worker

# What no answer takes, unless something is broken.
GUARD = 60.0


def serve(orders):
    """Be the process: obey one order after the other, each ``(name, port's name, arguments)``."""
    targets.keep_memory_briefly()
    strings = Strings()
    for event in iter(orders.receive_event, None):
        name, *arguments = event.data
        if event.ports:
            arguments += event.ports
        try:
            answer = getattr(strings, name)(*arguments)
        except (ChannelClosedError, TimeoutError, queue.Full, queue.Empty) as error:
            answer = type(error)
        if isinstance(answer, tuple) and answer and answer[0] == "ports":
            orders.post_message(None, answer[1])
        else:
            orders.post_message(answer)


class Strings:
    """The orders."""

    def __init__(self):
        self.ports = {}
        self.heard = {}

    def hold(self, key, port):
        self.ports[key] = port

    def give_back(self, key):
        return "ports", [self.ports.pop(key)]

    def call(self, key, method, *arguments):
        return getattr(self.ports[key], method)(*arguments)

    def length(self, key):
        return len(self.ports[key])

    def figures(self, key):
        f = self.ports[key].statistics()
        return f.posted, f.received, f.waiting, f.peak, f.capacity

    def is_closed(self, key):
        return self.ports[key].closed

    def post(self, key, message):
        """Post a message; what can be transferred, is."""
        self.ports[key].post_message(message, [message] if type(message) is bytearray else ())

    def post_range(self, key, start, stop):
        for i in range(start, stop):
            self.ports[key].post_message(i)

    def receive_count(self, key, number):
        return [self.ports[key].receive(GUARD) for _ in range(number)]

    def drain(self, key):
        """Receive until the end."""
        return list(self.ports[key])

    def echo(self, key):
        """Send back everything that comes, from a thread, and close."""

        def run(port):
            with port:
                for message in port:
                    port.send(message)

        threading.Thread(target=run, args=(self.ports.pop(key),), daemon=True).start()

    def listen(self, key):
        heard = self.heard[key] = []
        port = self.ports[key]
        port.onmessage = lambda event: heard.append(event.data)
        port.onmessageerror = port.onclose = lambda event: heard.append(event.type)

    def what_was_heard(self, key):
        # As it is now: CPython's pickler crashes without the GIL where a list grows meanwhile (its issue 146452).
        return [*self.heard[key]]

    def drop(self, key):
        del self.ports[key]

    def pass_on(self, key, road):
        """Transfer one port through another."""
        self.ports[road].post_message(None, [self.ports.pop(key)])

    def take_port(self, road, key):
        (self.ports[key],) = self.ports[road].receive_event(GUARD).ports

    def pid(self):
        return os.getpid()

    def exit(self):
        raise SystemExit

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Puppet:
    """The process, seen from here: ``puppet.length("a")`` obeys there, and returns the answer."""

    def __init__(self):
        self.worker = Worker(serve, kind="process")
        # Orders without an answer so far.
        self.owed = 0

    def __getattr__(self, name):
        def obey(*arguments, transfer=()):
            self.worker.post_message((name, *arguments), transfer)
            self.owed += 1
            event = self.worker.receive_event(GUARD)
            self.owed -= 1
            return event.ports[0] if event.ports else event.data

        return obey

    def far_end(self, key, capacity=None):
        """Make a channel, give one port away to the process, and return the other."""
        here, there = MessageChannel(capacity=capacity)
        self.hold(key, transfer=[there])
        return here

    def order(self, name, *arguments):
        """Have something done, without waiting for it."""
        self.worker.post_message((name, *arguments))
        self.owed += 1

    def answer(self):
        answer = self.worker.receive(GUARD)
        self.owed -= 1
        return answer

    def end(self):
        with contextlib.suppress(ChannelClosedError):
            self.worker.close()
        self.worker.join(GUARD)
