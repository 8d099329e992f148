"""What the tests share."""

import faulthandler
import subprocess
import sys

import pytest

from messagechannel import MessageChannel

HANG_SECONDS = 120


@pytest.fixture(autouse=True)
def _hang_guard():
    """A test that hangs ends the run, with every thread's traceback."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def channel():
    with MessageChannel() as made:
        yield made


@pytest.fixture
def run_python():
    """Run code in an interpreter of its own."""

    def run(code, timeout=30):
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True, timeout=timeout
        )

    return run
