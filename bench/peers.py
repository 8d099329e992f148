"""What can carry messages to a spawned process, each as its users would write it, behind one shape: `End`.

The parent produces, the child consumes. The child does a task at a time: it takes ``(task, count)``, answers
``"ready"``, takes so many messages, and answers with the last of them, by which the parent knows that all have arrived.
What a peer needs is imported where it is used, so that no child imports more than what it measures.
"""

import importlib.util
import multiprocessing
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

SPAWN = multiprocessing.get_context("spawn")
# Seconds. No test takes so long, and no child outlives it, whatever becomes of the parent.
PATIENCE = 100
PAGE = 4096
NODE_SCRIPT = Path(__file__).with_name("node_worker.mjs")


@dataclass
class End:
    """One side of a line. Bytes and arrays go the way of all objects where the peer has no better one."""

    put: Callable
    take: Callable
    put_bytes: Callable = None
    take_bytes: Callable = None
    put_array: Callable = None
    take_array: Callable = None
    # A batch is an iterable to put, and a list when taken.
    put_many: Callable = None
    take_many: Callable = None
    # How many messages make a stream long enough to be measured.
    messages: int = 5_000

    def __post_init__(self):
        self.put_bytes = self.put_bytes or self.put
        self.take_bytes = self.take_bytes or self.take
        self.put_array = self.put_array or self.put
        self.take_array = self.take_array or self.take


# In the child.


def take_stream(take, count):
    for _ in repeat(None, count):
        message = take()
    return message


def take_batches(take_many, count):
    received = 0
    while received < count:
        batch = take_many()
        received += len(batch)
    return batch[-1]


def echo(end, count):
    for _ in repeat(None, count):
        end.put(end.take())
    return "echoed"


def take_arrays(take, count):
    """Read a byte of every page, and write one, which nobody else may see."""
    total = 0
    for _ in range(count):
        array = take()
        total += int(array[::PAGE].sum(dtype="int64"))
        array[0] = 255
    return total


TASKS = {
    "objects": lambda end, count: take_stream(end.take, count),
    "bytes": lambda end, count: take_stream(end.take_bytes, count),
    "batches": lambda end, count: take_batches(end.take_many, count),
    "echo": echo,
    "arrays": lambda end, count: take_arrays(end.take_array, count),
}


def serve(make_end, *args):
    """Do one task after another until the process is killed."""
    signal.alarm(PATIENCE)
    end = make_end(*args)
    while True:
        task, count = end.take()
        end.put("ready")
        end.put(TASKS[task](end, count))


def serve_at_port(port):
    """Do the same at a port that was transferred here."""
    (transferred,) = port.receive_event().ports
    serve(port_end, transferred)


# In both. Everything below makes the parent's End and starts the child with one of its own.


@contextmanager
def served(make_end, *args):
    child = SPAWN.Process(target=serve, args=(make_end, *args), daemon=True)
    child.start()
    try:
        yield
    finally:
        child.kill()
        child.join()
        child.close()


def port_end(port, put="send"):
    return End(
        getattr(port, put),
        port.receive,
        put_many=port.send_many,
        take_many=port.receive_many,
        messages=100_000,
    )


@contextmanager
def ours(capacity=10_000, put="send"):
    """Lead to the child by a channel of its own: a Worker's cannot be bounded."""
    from messagechannel import MessageChannel, Worker

    worker = Worker(serve_at_port, kind="process")
    try:
        with MessageChannel(capacity=capacity) as (here, there):
            worker.post_message("port", transfer=[there])
            yield port_end(here, put)
    finally:
        worker.terminate()
        worker.join(PATIENCE)


def pipe_end(connection):
    # A list of messages is the nearest thing to a batch.
    return End(connection.send, connection.recv, put_many=connection.send, take_many=connection.recv)


@contextmanager
def pipe(make_end=pipe_end):
    here, there = SPAWN.Pipe()
    with here, there, served(make_end, there):
        yield make_end(here)


def raw_pipe_end(connection):
    return End(connection.send, connection.recv, put_bytes=connection.send_bytes, take_bytes=connection.recv_bytes)


def queues_end(there, back):
    # Queue pickles in another thread, later, when the sender of an array has gone on to change it.
    return End(there.put, back.get, put_array=lambda array: there.put(array.copy()))


@contextmanager
def queues():
    there, back = SPAWN.Queue(), SPAWN.Queue()
    # Otherwise a failure would leave this process waiting for a thread that can't get rid of its messages.
    there.cancel_join_thread()
    with served(queues_end, back, there):
        yield queues_end(there, back)


def simple_queues_end(there, back):
    return End(there.put, back.get)


@contextmanager
def simple_queues():
    with (
        closing(SPAWN.SimpleQueue()) as there,
        closing(SPAWN.SimpleQueue()) as back,
        served(simple_queues_end, back, there),
    ):
        yield simple_queues_end(there, back)


def faster_fifo_end(there, back):
    # By default these give up after ten seconds, which a child may have to wait for its turn.
    return End(
        partial(there.put, timeout=PATIENCE),
        partial(back.get, timeout=PATIENCE),
        put_many=partial(there.put_many, timeout=PATIENCE),
        take_many=partial(back.get_many, timeout=PATIENCE),
    )


@contextmanager
def faster_fifo(array_bytes=0):
    from faster_fifo import Queue

    there, back = Queue(max_size_bytes=1_000_000 + 2 * array_bytes), Queue()
    with served(faster_fifo_end, back, there):
        yield faster_fifo_end(there, back)


def pyzmq_end(socket):
    import zmq

    # As "Serializing messages with PyZMQ" in its manual has it.
    def put_array(array):
        socket.send_pyobj((array.dtype, array.shape), zmq.SNDMORE)
        socket.send(array, copy=False, track=True).wait(PATIENCE)

    def take_array():
        import numpy as np

        dtype, shape = socket.recv_pyobj()
        return np.frombuffer(socket.recv(copy=False), dtype).reshape(shape)

    return End(
        socket.send_pyobj,
        socket.recv_pyobj,
        put_bytes=socket.send,
        take_bytes=socket.recv,
        put_array=put_array,
        take_array=take_array,
        put_many=socket.send_pyobj,
        take_many=socket.recv_pyobj,
    )


def pyzmq_connected_end(address):
    import zmq

    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(address)
    return pyzmq_end(socket)


@contextmanager
def pyzmq():
    import zmq

    with tempfile.TemporaryDirectory() as directory, zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.linger = 0
        address = f"ipc://{directory}/line"
        socket.bind(address)
        with served(pyzmq_connected_end, address):
            yield pyzmq_end(socket)


def slot_end(connection, memory, free, filled):
    """Copy arrays into shared memory and out of it: semaphores to take turns, a Pipe for all else."""
    import numpy as np

    # Made anew each time, for memory that has a view can't be closed.
    def slot():
        return np.ndarray(memory.size, np.uint8, memory.buf)

    def put_array(array):
        free.acquire()
        np.copyto(slot(), array)
        filled.release()

    def take_array():
        filled.acquire()
        array = slot().copy()
        free.release()
        return array

    return End(connection.send, connection.recv, put_array=put_array, take_array=take_array)


@contextmanager
def slot(size):
    here, there = SPAWN.Pipe()
    memory = SharedMemory(create=True, size=size)
    free, filled = SPAWN.Semaphore(1), SPAWN.Semaphore(0)
    try:
        with here, there, served(slot_end, there, memory, free, filled):
            yield slot_end(here, memory, free, filled)
    finally:
        memory.close()
        memory.unlink()


def installed(module, line):
    return line if importlib.util.find_spec(module) else None


def node(figure, count, array_bytes=0):
    """Return a contender that has Node measure itself, None where there is no Node."""
    executable = shutil.which("node")

    def run():
        command = [executable, NODE_SCRIPT, figure, str(count), str(array_bytes)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout)

    return executable and run
