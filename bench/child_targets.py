"""What the children of test_processes.py run, beside peers.serve. Importing this costs a child nothing."""

import os
import time


def say_up(port):
    port.send("up")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def shared_memory():
    """Return how many KiB of anonymous shared memory are resident in this process."""
    resident = 0
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            name, *fields = line.split()
            # A mapping begins with its range of addresses and ends with its name; sizes follow.
            if not name.endswith(":"):
                counted = any(field.startswith("/memfd:") for field in fields)
            elif counted and name == "Rss:":
                resident += int(fields[0])
    return resident


MEASURES = {"descriptors": descriptors, "shared memory": shared_memory, "CPU time": time.process_time}


def keep_ports(port):
    """Keep every port that comes and answer its first message; answer any other message with what it names."""
    kept = []
    while True:
        event = port.receive_event()
        if event.ports:
            kept += event.ports
            kept[-1].send(kept[-1].receive())
        else:
            port.send(MEASURES[event.data]())
