"""Interpreters of one process: each has the package to itself, with a GIL of its own or the common one.

An interpreter shares nothing with this one, so that what a test says to it is source code, and what it finds wrong
comes back as an exception.
"""

import gc
import io
import os
import pickle
import sys
import textwrap
import threading
import time

import pytest

from messagechannel import MessageChannel, MessagePort, structured_clone

OWN_GIL = sys.version_info >= (3, 12)
INTERPRETERS = 8
ROUNDS = 2000

if sys.version_info >= (3, 13):
    import _interpreters
else:
    import _xxsubinterpreters as _interpreters

own_gil = pytest.mark.skipif(not OWN_GIL, reason="interpreters have a GIL of their own from Python 3.12 on")
whole_library = pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio itself fails there before Python 3.13")
# Their _xxsubinterpreters takes any thread of an interpreter for the one to run or to end it in.
threads = pytest.mark.skipif(sys.version_info < (3, 12), reason="can't end an interpreter that has threads")

# What CPython before 3.12.4 keeps of the first call must not be of an interpreter that ends (its issue 119213).
pickle.Unpickler(io.BytesIO(), buffers=())

PRELUDE = """
import gc, sys, threading, time
from messagechannel import MessageChannel, MessagePort, Worker, structured_clone

def eventually(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
"""


class Interpreter:
    """Another interpreter, by default one with a GIL of its own."""

    def __init__(self, own_gil=True):
        if sys.version_info >= (3, 13):
            self._id = _interpreters.create(_interpreters.new_config("isolated" if own_gil else "legacy"))
        else:
            self._id = _interpreters.create(isolated=own_gil)

    def run(self, code, prelude=PRELUDE):
        # Up to Python 3.12 this raises what the code raised; later it returns what describes that.
        failure = _interpreters.run_string(self._id, prelude + textwrap.dedent(code))
        assert failure is None, failure.errdisplay

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        _interpreters.destroy(self._id)


# ---- what works in one ----

CONVERSATION = """
port1, port2 = MessageChannel()
port1.post_message("atom")
port1.post_message({"list": [1, 2], "tuple": (1, [2])})
assert port2.receive() == "atom"
assert port2.receive() == {"list": [1, 2], "tuple": (1, [2])}
port2.send_many(range(1000))
assert port1.receive_many() == list(range(1000))
port1.close()
assert port2.closed and list(port2) == []
"""

TRANSFER = """
port1, port2 = MessageChannel()
near, far = MessageChannel()
storage = bytearray(b"storage")
near.post_message("before")
port1.post_message({"port": far, "storage": storage}, transfer=[far, storage])
message = port2.receive()
near.post_message("after")
assert [message["port"].receive(), message["port"].receive()] == ["before", "after"]
assert (message["storage"], storage) == (b"storage", b"")
"""

LISTENERS = """
port1, port2 = MessageChannel()
got, where = [], set()

def listener(event):
    got.append(event.data)
    where.add(threading.current_thread().name)

port2.onmessage = listener
for number in range(1000):
    port1.post_message(number)
eventually(lambda: len(got) == 1000)
assert got == list(range(1000))
assert where == {"messagechannel-dispatcher"}
closed = threading.Event()
port2.onclose = lambda event: closed.set()
port1.close()
assert closed.wait(30)
"""

WORKERS = """
def echo(port):
    for message in port:
        port.post_message(message)

with Worker(echo) as worker:
    worker.post_message([1])
    assert worker.receive(30) == [1]
worker.join(30)
assert not worker.is_alive()
"""

REFUSALS = """
from queue import Empty, Full
from messagechannel import ChannelClosedError, DataCloneError

def raises(kind, function, *args):
    try:
        function(*args)
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")

port1, port2 = MessageChannel(capacity=1)
assert raises(DataCloneError, structured_clone, {"key": [lambda: None]}).path == "$['key'][0]"
assert raises(TypeError, MessagePort)
port1.post_message(1)
raises(Full, port1.post_message, 2)
port2.receive()
raises(Empty, port2.receive_nowait)
raises(TimeoutError, port2.receive, 0.001)
port1.close()
raises(ChannelClosedError, port2.receive)
"""

CYCLES = """
import weakref

class Witness:
    pass

port1, port2 = MessageChannel(copy=False)
witness = Witness()
port1.post_message([port2, witness])
port1.onmessage = lambda event, keep=port2: None
gone = weakref.ref(witness)
del port1, port2, witness
gc.collect()
assert gone() is None
"""

OBJECTS = """
class Point:
    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return Point, (self.x,)

class Slotted:
    __slots__ = ("a",)

import __main__
__main__.Point, __main__.Slotted = Point, Slotted
slotted = Slotted()
slotted.a = [1]
same = [1]
copy = structured_clone([Point(1), slotted, same, same, {frozenset({1}), b"b"}])
assert type(copy[0]) is Point and copy[0].x == 1
assert type(copy[1]) is Slotted and copy[1].a == [1] and copy[1].a is not slotted.a
assert copy[2] is copy[3] and copy[2] is not same
"""

DEFERRED = """
class Handle:
    def __init__(self, value):
        self.value = value

    def __transfer__(self):
        value, self.value = self.value, None
        return Handle, (value,)

handle = Handle(7)
port1, port2 = MessageChannel()
port1.post_message({"handle": handle}, [handle])
assert port2.receive()["handle"].value == 7 and handle.value is None
"""

ASYNCIO = """
import asyncio

async def main():
    port1, port2 = MessageChannel()
    got = []
    port2.onmessage = lambda event: got.append(event.data)
    for number in range(3000):
        port1.post_message(number)
    while len(got) < 3000:
        await asyncio.sleep(0)
    assert got == list(range(3000))
    port2.onmessage = None

    async def echo():
        async for message in port2:
            await port2.asend(message)

    task = asyncio.create_task(echo())
    for number in range(100):
        await port1.asend([number])
        assert await port1.areceive() == [number]
    port1.close()
    await task

asyncio.run(main())
"""

EVERYTHING = [
    pytest.param(CONVERSATION, id="conversation"),
    pytest.param(TRANSFER, id="transfer"),
    pytest.param(LISTENERS, id="listeners", marks=threads),
    pytest.param(WORKERS, id="workers"),
    pytest.param(REFUSALS, id="refusals"),
    pytest.param(CYCLES, id="cycles"),
    pytest.param(OBJECTS, id="objects"),
    pytest.param(DEFERRED, id="deferred"),
]


@own_gil
@pytest.mark.parametrize("code", EVERYTHING)
def test_with_its_own_gil(code):
    with Interpreter() as interpreter:
        interpreter.run(code)


@pytest.mark.parametrize("code", EVERYTHING)
def test_with_the_common_gil(code):
    with Interpreter(own_gil=False) as interpreter:
        interpreter.run(code)


@own_gil
@whole_library
def test_asyncio():
    with Interpreter() as interpreter:
        interpreter.run(ASYNCIO)


# Neither faulthandler nor hypothesis can be imported there; the other tests need such modules, signals or daemons.
SUITE = """
import sys, types
faulthandler = sys.modules["faulthandler"] = types.ModuleType("faulthandler")
faulthandler.dump_traceback_later = lambda *args, **kwargs: None
faulthandler.cancel_dump_traceback_later = lambda: None
import pytest
code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:hypothesispytest", {file!r}])
assert code == 0, code
"""


@own_gil
@whole_library
@pytest.mark.parametrize(
    "name", ["ports", "events", "transfer", "clone_mutations", "faults", "worker", "posting_order"]
)
def test_the_other_tests_pass_in_one(run_python, name):
    file = os.path.join(os.path.dirname(__file__), f"test_{name}.py")
    run = run_python(
        f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_subinterpreters import Interpreter
with Interpreter() as interpreter:
    interpreter.run({SUITE.format(file=file)!r}, prelude="")
""",
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr


# ---- several at once ----

# Every message is accounted for, by its number, in each of several threads' interpreters.
ACCOUNTS = f"""
port1, port2 = MessageChannel()
heard1, heard2 = MessageChannel()
heard = []
heard2.onmessage = lambda event: heard.append(event.data)
for number in range({ROUNDS}):
    port1.post_message(number)
    port1.post_message({{"number": [number]}})
    heard1.post_message(number)
    if number % 10 == 0:
        near, far = MessageChannel()
        near.post_message(number)
        port1.post_message((number, far), [far])
    assert port2.receive() == number
    assert port2.receive() == {{"number": [number]}}
    if number % 10 == 0:
        same, port = port2.receive()
        assert same == number == port.receive()
eventually(lambda: len(heard) == {ROUNDS})
assert heard == list(range({ROUNDS}))
here, there = port1.statistics(), port2.statistics()
assert here.posted == there.received == 2 * {ROUNDS} + {ROUNDS // 10}
assert here.received == here.waiting == there.posted == there.waiting == 0
"""


@own_gil
@pytest.mark.parametrize("order", [[0, 1, 3, 2], [7, 3, 4, 0, 6, 1, 5, 2], [33, 2, 31, 4, 32, 0, 1, 3]], ids=str)
def test_interpreters_import_the_package_in_any_order(run_python, order):
    """In a process of its own, where the interpreters have the first numbers there are."""
    run = run_python(f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import messagechannel
from test_subinterpreters import Interpreter
interpreters = [Interpreter() for _ in range({max(order) + 1})]
for number in {order}:
    interpreters[number].run("a, b = MessageChannel(); a.post_message([number]); assert b.receive() == [number]",
                             f"number = {{number}}; from messagechannel import MessageChannel\\n")
for number in {order}:
    interpreters[number].run("a, b = MessageChannel(); a.post_message(b'x'); assert b.receive() == b'x'", "from "
                             "messagechannel import MessageChannel\\n")
    interpreters[number].__exit__()
a, b = messagechannel.MessageChannel()
a.post_message("still here")
assert b.receive() == "still here"
""")
    assert run.returncode == 0, run.stderr


@own_gil
def test_interpreters_at_once():
    failures = []

    def run():
        try:
            with Interpreter() as interpreter:
                interpreter.run(ACCOUNTS)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(INTERPRETERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@own_gil
def test_others_come_and_go():
    port1, port2 = MessageChannel()
    got = []
    port2.onmessage = lambda event: got.append(event.data)
    posted, done = 0, threading.Event()

    def others():
        try:
            for _ in range(10):
                with Interpreter() as interpreter:
                    interpreter.run(CONVERSATION + LISTENERS + REFUSALS)
        finally:
            done.set()

    thread = threading.Thread(target=others)
    thread.start()
    while not done.is_set():
        port1.post_message([posted])
        assert structured_clone({posted: {posted}}) == {posted: {posted}}
        near, far = MessageChannel()
        near.post_message(bytearray(1), [far])
        posted += 1
        time.sleep(0.0005)
    thread.join()
    end = time.monotonic() + 30
    while len(got) < posted and time.monotonic() < end:
        time.sleep(0.001)
    assert got == [[number] for number in range(posted)]
    assert port1.statistics().posted == port2.statistics().received == posted


@own_gil
def test_classes_are_each_interpreters_own():
    class Mine(MessagePort):
        pass

    code = """
    import messagechannel
    from messagechannel import _context

    class Mine(MessagePort):
        pass

    assert [c.__module__ for c in MessagePort.__subclasses__()].count("__main__") == 1
    messagechannel.MessageChannel = None
    _context.EXIT_PATIENCE = 0
    """
    with Interpreter() as one, Interpreter() as other:
        one.run(code)
        other.run("import messagechannel\nassert messagechannel.MessageChannel is not None")
        other.run(code)
    import messagechannel

    assert messagechannel.MessageChannel is MessageChannel
    assert messagechannel._context.EXIT_PATIENCE > 0
    assert Mine in MessagePort.__subclasses__()


@pytest.mark.parametrize("name", ["Event", "EventTarget", "MessageChannel", "MessageEvent", "MessagePort"])
def test_types_are_immutable(name):
    import messagechannel

    with pytest.raises(TypeError, match="immutable type"):
        getattr(messagechannel, name).attribute = 1


def test_the_collector_sees_a_ports_type_once():
    port = MessageChannel().port1
    assert gc.get_referents(port).count(MessagePort) == 1


# ---- the end of one ----

QUEUED = """
port1, port2 = MessageChannel()
port1.post_message({"message": []})
sys.keep = MessageChannel()
sys.keep.port1.post_message(bytearray(100))
"""

KEPT_CYCLES = """
channel = MessageChannel(copy=False)
channel.port1.post_message(channel)
channel.port2.post_message([channel.port1, channel.port2])
listening = MessageChannel()
listening.port1.onmessage = lambda event, keep=listening: None
sys.keep = [channel, listening]
"""

LATE_POST = """
import atexit
port1, port2 = MessageChannel()
got = []
port2.onmessage = lambda event: (time.sleep(0.01), got.append(event.data))
for number in range(10):
    port1.post_message(number)

@atexit.register
def look():
    if got != list(range(10)):
        import os
        os.write(2, b"not delivered\\n")
        os._exit(1)
"""

WAITING_WORKER = """
sys.keep = Worker(lambda port: port.receive())
"""

WAITING_THREAD = """
port1, port2 = MessageChannel()
received = []
thread = threading.Thread(target=lambda: received.extend(port2))
thread.start()
threading._register_atexit(port1.close)
"""

ENDS = [
    pytest.param(QUEUED, id="messages"),
    pytest.param(KEPT_CYCLES, id="cycles"),
    pytest.param(LATE_POST, id="dispatcher", marks=threads),
    pytest.param(WAITING_WORKER, id="worker", marks=threads),
    pytest.param(WAITING_THREAD, id="thread", marks=threads),
]


@pytest.mark.parametrize("own", [pytest.param(True, marks=own_gil, id="own"), pytest.param(False, id="common")])
@pytest.mark.parametrize("code", ENDS)
def test_an_interpreter_ends_with(code, own):
    for _ in range(3):
        with Interpreter(own) as interpreter:
            interpreter.run(code)
    port1, port2 = MessageChannel()
    port1.post_message([1])
    assert port2.receive() == [1]


# In a process of its own, for nobody else to allocate. Most of what is left behind is CPython's, also of an interpreter
# that imports nothing.
GROWTH = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_subinterpreters import CONVERSATION, LISTENERS, PRELUDE, TRANSFER, Interpreter

def pages():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1])

def growth(code, prelude):
    for round in range(2):
        before = pages()
        for _ in range({times}):
            with Interpreter() as interpreter:
                interpreter.run(code, prelude)
    return (pages() - before) * resource.getpagesize() // {times}

bare = growth("import queue, threading, weakref", "")
print(growth(CONVERSATION + LISTENERS + TRANSFER, PRELUDE) - bare)
"""
GROWTH_BYTES = 500_000


@own_gil
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at the process's memory in /proc")
def test_what_an_interpreter_leaves_behind(run_python):
    run = run_python(GROWTH.format(tests=os.path.dirname(__file__), times=50), timeout=100)
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) < GROWTH_BYTES
