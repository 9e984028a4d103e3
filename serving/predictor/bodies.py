"""Bodies on their way to a predictor over REST: how large they may be, and how long they may take."""

import asyncio
from typing import Final

from kserve.errors import InvalidInput

from serving.openinference import MAX_MESSAGE_BYTES
from serving.predictor.asgi import Receive
from serving.predictor.intake import Holding

MAX_BODY_BYTES: Final = MAX_MESSAGE_BYTES * 4 // 3
"""What gRPC takes, in base64."""

BODY_S: Final = 30.0
"""Seconds within which a body must have come whole: the largest at 36 Mbit/s. Its bytes are held meanwhile."""

_LENGTH_DIGITS: Final = 19


class TooLarge(InvalidInput):  # type: ignore[misc]  # KServe ships no types
    """A body beyond what is read."""


class TooSlow(InvalidInput):  # type: ignore[misc]  # KServe ships no types
    """A body that did not come in time."""


def parse_length(told: str) -> int | None:
    """Return a header's length in bytes; None for what is none. Python converts no text of thousands of digits."""
    is_length = told.isascii() and told.isdecimal() and len(told) <= _LENGTH_DIGITS
    return int(told) if is_length else None


async def read_body(
    receive: Receive, declared: int, most: int, holding: Holding
) -> bytearray | None:
    """Return a body.

    Args:
        receive: hears of it.
        declared: bytes that its headers say, 0 if none.
        most: bytes that it may have.
        holding: holds its bytes as they come.

    Returns:
        None if the caller left before its end.

    Raises:
        Overloaded: if there is no room for it; it is not read, or not to its end.
        TooLarge: if it is beyond `most`; it is not read to its end.
        TooSlow: if it did not come within `BODY_S`.
    """
    body, is_more = bytearray(), True
    if declared <= most:
        holding.expect(declared)
    try:
        async with asyncio.timeout(BODY_S):
            while is_more and max(len(body), declared) <= most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                holding.take(len(part))
                body += part
                is_more = message.get("more_body", False)
    except TimeoutError as error:
        raise TooSlow(
            f"{len(body)} bytes of the body came in {BODY_S:g} s, and not its end; send it again, faster"
        ) from error
    if max(len(body), declared) > most:
        raise TooLarge(f"the body is beyond {most} bytes")
    return body
