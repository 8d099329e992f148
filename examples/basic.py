"""One handshake, one reply: the web's channel-messaging-basic demo, with a Worker in place of the iframe.

python examples/basic.py [--kind thread|process]
"""

import argparse
import multiprocessing
import threading
from typing import Literal

from messagechannel import MessageChannel, MessageEvent, MessagePort, Worker


def say(who: str, text: str) -> None:
    """Print who said what, and from which thread, or which other process."""
    process = multiprocessing.current_process()
    where = threading.current_thread().name if multiprocessing.parent_process() is None else process.name
    print(f"{who} [{where}]: {text}", flush=True)


def page2(port: MessagePort[str]) -> None:
    """Be the iframe: show what comes with a port, and answer through that port."""
    while not (event := port.receive_event()).ports:
        pass
    say("page2.html hears", event.data)
    reply = "A message from the iframe in page2.html"
    say("page2.html posts", reply)
    event.ports[0].post_message(reply)


def main(kind: Literal["thread", "process"] = "thread") -> None:
    """Be the page."""
    channel = MessageChannel[str]()
    answered = threading.Event()

    def hear(event: MessageEvent[str]) -> None:
        say("index.html hears", event.data)
        answered.set()

    channel.port1.onmessage = hear
    iframe = Worker(page2, kind=kind, name="iframe")
    greeting = "A message from the index.html page!"
    say("index.html posts", greeting)
    iframe.post_message(greeting, transfer=[channel.port2])
    answered.wait()
    iframe.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="one handshake, one reply")
    parser.add_argument("--kind", choices=["thread", "process"], default="thread", help="what the iframe is")
    main(parser.parse_args().kind)
