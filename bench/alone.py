"""The rings alone, in C, as contenders beside what is built on them."""

import os
import subprocess

# Where the programs were built; `make bench` says so.
PROGRAMS = os.environ.get("MESSAGECHANNEL_BENCH_PROGRAMS")


def alone(program, *arguments):
    """Return a contender that runs a program of bench/, which prints its figure; None where none were built."""

    def run():
        command = [os.path.join(PROGRAMS, program), *map(str, arguments)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return PROGRAMS and run
