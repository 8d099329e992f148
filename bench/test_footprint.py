"""What importing costs, and what an idle channel weighs."""

import statistics
import subprocess
import sys
import time

CHANNELS = 100_000

MEASURE_SIZE = f"""
import gc, os
from messagechannel import MessageChannel
page = os.sysconf("SC_PAGE_SIZE")
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * page
gc.disable()
channels = [None] * {CHANNELS}
before = resident()
for i in range({CHANNELS}):
    channels[i] = MessageChannel()
print((resident() - before) / {CHANNELS})
"""


def milliseconds(code):
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - begin) * 1000


def import_time():
    """Return the median over pairs of what `import messagechannel` adds to a bare interpreter."""
    return statistics.median(milliseconds("import messagechannel") - milliseconds("pass") for _ in range(25))


def idle_size():
    output = subprocess.run([sys.executable, "-c", MEASURE_SIZE], check=True, capture_output=True, text=True).stdout
    return float(output)


def test_import(report):
    report("import messagechannel, over a bare interpreter", import_time, 5, "ms")


def test_idle_channel(report):
    report("an idle channel with both ports", idle_size, 600, "bytes")
