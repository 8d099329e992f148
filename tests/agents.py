"""Agents: workers that hold ports and other things, and do with them what a test says."""

import targets
from messagechannel import MessageChannel, Worker

PATIENCE = 60


class Agent:
    """A worker that does what it is told; see targets.agent."""

    def __init__(self, name, kind="process"):
        self.name = name
        self.worker = Worker(targets.agent, kind=kind, name=name)

    def begin(self, command, *arguments, ports=()):
        self.worker.post_message((command, *arguments), ports)

    def end(self):
        return self.worker.receive_event(PATIENCE)

    def do(self, command, *arguments, ports=()):
        self.begin(command, *arguments, ports=ports)
        return self.end().data

    def give_back(self, name):
        self.begin("give_back", name)
        return self.end().ports[0]

    def leave(self):
        """End the worker."""
        self.worker.close()
        self.worker.join(PATIENCE)
        assert self.worker.exitcode in (0, None)
        assert not self.worker.is_alive()


def introduce(one, other):
    """Give two agents a channel between them."""
    channel = MessageChannel()
    one.do("know", other.name, ports=[channel.port1])
    other.do("know", one.name, ports=[channel.port2])


def move(name, one, other):
    """Have an agent transfer a port to another one."""
    one.begin("give", name, other.name)
    other.begin("take", name, one.name)
    assert (one.end().data, other.end().data) == ("given", "taken")
