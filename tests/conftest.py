"""What the tests share."""

import faulthandler
import gc
import inspect
import subprocess
import sys

import pytest

import ends
import targets
from puppet import Puppet

HANG_SECONDS = 120


def pytest_configure(config):
    config.addinivalue_line("markers", "local(reason): not for channels whose other end is far; see tests/ends.py")
    targets.keep_memory_briefly()


def pytest_generate_tests(metafunc):
    """Run the tests that take channels from ``ends`` for each kind of other end."""
    if getattr(metafunc.module, "MessageChannel", None) is not ends.MessageChannel:
        return
    if "channel" in metafunc.fixturenames or uses_channels(metafunc.function, set()):
        own = metafunc.definition.get_closest_marker("local") is not None
        metafunc.parametrize("other_end", ["local"] if own else ends.KINDS, indirect=True)


def uses_channels(used, seen):
    """Tell whether a function or class of a test module makes channels, itself or by what it uses of the module."""
    used = inspect.unwrap(used)
    if used in seen:
        return False
    seen.add(used)
    if isinstance(used, type):
        return any(uses_channels(f, seen) for f in vars(used).values() if inspect.isfunction(f))
    codes, names = [used.__code__], set()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if inspect.iscode(constant)]
    found = [used.__globals__.get(name) for name in names]
    return ends.MessageChannel in found or any(
        uses_channels(f, seen)
        for f in found
        if (inspect.isfunction(f) or isinstance(f, type)) and f.__module__ == used.__module__
    )


@pytest.fixture(autouse=True, scope="module")
def _young_heap():
    """Have the garbage collector, which many tests call, look at what a module's tests make alone."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    # What is imported for the summary may ask the collector who refers to what.
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _hang_guard():
    """A test that hangs ends the run, with every thread's traceback."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def other_end(request):
    """The kind of the channels that the test makes."""
    kind = getattr(request, "param", "local")
    ends.run_with(kind)
    yield kind
    ends.run_with("local")


@pytest.fixture
def _many_switches(request):
    """Threads take turns often: each time that so many seconds are over."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(getattr(request, "param", 1e-5))
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def new_puppet():
    """Make processes for one test, which may end them."""
    made = []

    def make():
        made.append(Puppet())
        return made[-1]

    yield make
    for puppet in made:
        puppet.end()


@pytest.fixture
def channel(other_end):
    with ends.MessageChannel() as made:
        yield made


@pytest.fixture
def run_python():
    """Run code in an interpreter of its own."""

    def run(code, timeout=30):
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True, timeout=timeout
        )

    return run
