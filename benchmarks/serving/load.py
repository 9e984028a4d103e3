"""A closed loop of N callers over plain HTTP/1.1: cheap enough not to be what is measured."""

import asyncio
from dataclasses import dataclass

from moderation.clock import SystemClock
from serving.garbage import freeze_loaded


@dataclass(frozen=True)
class Target:
    """Where one server takes a listing."""

    host: str
    port: int
    path: str
    body: bytes

    def message(self) -> bytes:
        """Return the request as it goes over the wire."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass(frozen=True)
class Driven:
    """What came of it."""

    waits: list[float]
    """Seconds of each answer."""

    seconds: float
    """Until the last answer: of slow towers many come after the time is up, and count as much as the others."""

    @property
    def rate(self) -> float:
        """Listings a second."""
        return len(self.waits) / self.seconds


def drive(target: Target, callers: int, seconds: float) -> Driven:
    """Return what some callers are answered who ask for so long; anything but 200 ends the measurement.

    What this process loaded is left out of its garbage collector: its pauses would count as the server's.

    Raises:
        RuntimeError: with the server's answer.
    """
    freeze_loaded()
    return asyncio.run(_drive(target, callers, seconds))


def ask(target: Target) -> bytes:
    """Return the body of one answer."""
    return asyncio.run(_ask_once(target))


async def _drive(target: Target, callers: int, seconds: float) -> Driven:
    clock, found = SystemClock(), list[float]()
    message, start_s = target.message(), clock.monotonic()
    end_s = start_s + seconds

    async def call() -> None:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        while (begin_s := clock.monotonic()) < end_s:
            await _exchange(reader, writer, message)
            found.append(clock.monotonic() - begin_s)
        writer.close()

    await asyncio.gather(*(call() for _ in range(callers)))
    return Driven(found, clock.monotonic() - start_s)


async def _ask_once(target: Target) -> bytes:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    body = await _exchange(reader, writer, target.message())
    writer.close()
    return body


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes
) -> bytes:
    writer.write(message)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    lines = head.split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), None)
    if length is None:
        raise RuntimeError(f"the answer has no length: {head!r}")
    body = await reader.readexactly(length)
    if b" 200 " not in lines[0] + b" ":
        raise RuntimeError(f"{lines[0]!r}: {body[:300]!r}")
    return body
