"""python -m messagechannel demo | info."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from contextlib import nullcontext
from importlib.metadata import version

from messagechannel import MessageChannel, Worker
from messagechannel._drain import drain
from messagechannel.examples import basic, multimessage
from messagechannel.worker import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, Literal

    Kind = Literal["thread", "process"]

BATCH = 256
# The most seconds that somebody may ask to measure for.
LONGEST = 3600


def _progress() -> AbstractContextManager[Any]:
    """Return rich's progress bars, or a stand-in for `with` where there is no rich or no terminal to show them."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        return nullcontext()
    console = Console(stderr=True)
    progress: AbstractContextManager[Any] = Progress(console=console, transient=True, disable=not console.is_terminal)
    return progress


def measure(seconds: float, kind: Kind) -> float:
    """Return how many messages a second a thread posts and another `kind` receives, measured for about `seconds`."""
    port1, port2 = MessageChannel[int](capacity=64 * BATCH)
    worker = Worker(drain, kind=kind, name="drain")
    worker.post_message(None, transfer=[port2])
    begin = now = time.perf_counter()
    posted = 0
    with _progress() as progress:
        bar = progress and progress.add_task("measuring", total=seconds)
        while now - begin < seconds:
            port1.send_many(range(posted, posted + BATCH))
            posted += BATCH
            if posted % (64 * BATCH) == 0 and progress:
                progress.update(bar, completed=now - begin)
            now = time.perf_counter()
        port1.close()
        received: int = worker.receive()
    if received != posted:
        raise RuntimeError(f"{posted} messages were posted and {received} received")
    return received / (time.perf_counter() - begin)


def demo(seconds: float, kind: Kind) -> None:
    """Run the examples and print the conversations, then the rate of messages on this machine."""
    for title, example in (("basic", basic), ("multimessage", multimessage)):
        print(f"-- {title}")
        example.main(kind=kind)
    print(f"{measure(seconds, kind):,.0f} messages a second from one {kind} to another, in batches of {BATCH}")


def info() -> None:
    """Print what a bug report needs."""
    print(f"messagechannel {version('messagechannel')}")
    # sys._is_gil_enabled is new in CPython 3.13.
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    print(f"{platform.python_implementation()} {platform.python_version()}, {gil} the GIL")
    print(platform.platform())


def seconds(text: str) -> float:
    """Read the argument of --seconds."""
    number = float(text)
    if not 0 < number <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0 and up to {LONGEST}")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(prog="python -m messagechannel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="run the channel-messaging demos and measure this machine")
    command.add_argument("--seconds", type=seconds, default=2.0, help="how long to measure (default: %(default)s)")
    command.add_argument(
        "--kind", choices=KINDS, default="thread", help="what the other side is (default: %(default)s)"
    )
    commands.add_parser("info", help="print versions")
    chosen = parser.parse_args(arguments)
    if chosen.command == "demo":
        demo(chosen.seconds, chosen.kind)
    else:
        info()


if __name__ == "__main__":
    main()
