"""A process that prepares listings: `python -m serving.predictor.preparer --bundle DIR --socket FD`.

The predictor starts as many as its plan says and talks to each over a socket pair. They decode what strangers uploaded,
so each is a process of its own: bytes that bring a decoder down take no model with them, and what they hold does not
compete with the event loop for the interpreter. For the same reason an answer is numbers and text, never objects.

A frame is its length, eight bytes, then its content: JSON in a frame of its own, then what the JSON gives the sizes of.
The process ends when the predictor's end of the socket closes.
"""

import argparse
import itertools
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from moderation import telemetry
from moderation.clock import Clock, SystemClock
from moderation.preparing import Preparer
from moderation.scores import PreparedItem, ScoringItem
from serving.garbage import freeze_loaded
from serving.predictor.specimen import specimen

LENGTH: Final = struct.Struct("<Q")
READY: Final = b"ready"

_TEXT: Final = ("utf-8", "surrogatepass")
"""Whatever a text is made of, it arrives."""


def main() -> int:
    """Prepare what comes, until the predictor closes its end."""
    arguments = _parse()
    telemetry.configure("predictor")
    # The predictor is told to stop, and answers what it let in; it needs this process until then.
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    if arguments.cores:
        os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
    preparer, clock = Preparer.of_bundle(arguments.bundle), SystemClock()
    preparer.prepare(specimen())
    freeze_loaded()
    with socket.socket(fileno=arguments.socket) as connection, suppress(ConnectionError):
        connection.sendall(frame(READY))
        with connection.makefile("rb") as stream:
            for content in _frames(stream):
                connection.sendall(frame(answer(preparer, _asked(content), clock)))
    return 0


def frame(content: bytes) -> bytes:
    """Return a frame as it goes over the socket."""
    return LENGTH.pack(len(content)) + content


def question(items: Sequence[ScoringItem]) -> bytes:
    """Return what asks to prepare some listings, whose images are all bytes; behaviour stays where it is."""
    facts, parts = [], list[bytes]()
    for item in items:
        images = [image for image in item.images if isinstance(image, bytes)]
        mine = [item.title.encode(*_TEXT), item.description.encode(*_TEXT), *images]
        facts.append([len(part) for part in mine])
        parts += mine
    return packed(facts, parts)


def packed(facts: Any, parts: Sequence[bytes]) -> bytes:
    """Return facts and what they tell the sizes of as the content of a frame."""
    return b"".join([frame(orjson.dumps(facts)), *parts])


def unpacked(content: bytes) -> tuple[Any, int]:
    """Return the facts of a frame's content, and where the rest of it begins.

    Raises:
        ValueError: if there are none.
        struct.error: if it is shorter than a length.
    """
    end = LENGTH.size + LENGTH.unpack_from(content)[0]
    return orjson.loads(content[LENGTH.size : end]), end


def _asked(content: bytes) -> Iterator[ScoringItem]:
    facts, begin = unpacked(content)
    for sizes in facts:
        ends = list(itertools.accumulate(sizes, initial=begin))
        title, description, *images = [content[a:b] for a, b in itertools.pairwise(ends)]
        begin = ends[-1]
        yield ScoringItem(title.decode(*_TEXT), description.decode(*_TEXT), images)


def answer(preparer: Preparer, items: Iterable[ScoringItem], clock: Clock) -> bytes:
    """Return the outcomes of some listings: JSON of all, then the tokens and pixels of each in turn.

    A listing that cannot be prepared fails alone; of the error only its kind is told, as its message may quote it.
    """
    facts: list[dict[str, Any]] = []
    arrays: list[bytes] = []
    for item in items:
        begin_s, mine = clock.monotonic(), list[bytes]()
        fact: dict[str, Any] = {"begin_s": begin_s}
        try:
            fact["prepared"] = _described(preparer.prepare(item), mine)
            orjson.dumps(fact["prepared"])  # text that is not Unicode fails with its own listing
        except Exception as error:
            fact |= {"prepared": None, "error": type(error).__name__}
            mine.clear()
        facts.append(fact | {"seconds": clock.monotonic() - begin_s})
        arrays += mine
    return packed(facts, arrays)


def _described(prepared: PreparedItem, arrays: list[bytes]) -> dict[str, Any]:
    if prepared.tokens_T is not None:
        arrays.append(prepared.tokens_T.tobytes())
    arrays.extend(pixels.tobytes() for pixels in prepared.images if pixels is not None)
    return {
        "tokens": None if prepared.tokens_T is None else len(prepared.tokens_T),
        "images": [None if pixels is None else pixels.shape for pixels in prepared.images],
        "ngram": tuple(prepared.ngram),
    }


def _frames(stream: BinaryIO) -> Iterator[bytes]:
    while len(head := stream.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        content = stream.read(length)
        if len(content) < length:
            return
        yield content


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serving.predictor.preparer")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a verified bundle")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of this end")
    parser.add_argument("--cores", default="", help="numbers of the cores to stay on; all if empty")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
