"""A conversation over one channel: the web's channel-messaging-multimessage demo, with a Worker in place of the iframe.

python examples/multimessage.py [--kind thread|process] ["a text" ...]
"""

import argparse
import multiprocessing
import threading
from collections.abc import Iterable
from typing import Literal

from messagechannel import MessageChannel, MessageEvent, MessagePort, Worker

TEXTS = ("Hello", "How are you?", "Goodbye")


def say(who: str, text: str) -> None:
    """Print who said what, and from which thread, or which other process."""
    process = multiprocessing.current_process()
    where = threading.current_thread().name if multiprocessing.parent_process() is None else process.name
    print(f"{who} [{where}]: {text}", flush=True)


def page2(port: MessagePort[str]) -> None:
    """Be the iframe: keep the port that comes with the first message; list each text and confirm it."""
    channel_port = port.receive_event().ports[0]
    for text in channel_port:
        say("page2.html lists", f"<li>{text}</li>")
        channel_port.post_message(f'Message received by IFrame: "{text}"')


def main(texts: Iterable[str] = TEXTS, kind: Literal["thread", "process"] = "thread") -> None:
    """Be the page; each of `texts` is what somebody types and sends."""
    channel = MessageChannel[str]()
    confirmed = threading.Semaphore(0)

    def hear(event: MessageEvent[str]) -> None:
        say("index.html shows", event.data)
        confirmed.release()

    channel.port1.onmessage = hear
    iframe = Worker(page2, kind=kind, name="iframe")
    say("index.html posts", "init")
    iframe.post_message("init", transfer=[channel.port2])
    for text in texts:
        say("index.html posts", text)
        channel.port1.post_message(text)
        confirmed.acquire()
    channel.port1.close()
    iframe.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a conversation over one channel")
    parser.add_argument("--kind", choices=["thread", "process"], default="thread", help="what the iframe is")
    parser.add_argument("texts", nargs="*", default=TEXTS, help="what somebody types and sends")
    arguments = parser.parse_args()
    main(arguments.texts, arguments.kind)
