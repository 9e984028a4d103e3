"""Bodies on their way to a predictor over REST: how large they may be."""

from typing import Final

from serving.openinference import MAX_MESSAGE_BYTES
from serving.predictor.asgi import Receive

MAX_BODY_BYTES: Final = MAX_MESSAGE_BYTES * 4 // 3
"""What gRPC takes, in base64."""

_LENGTH_DIGITS: Final = 19


class TooLarge(Exception):
    """A body beyond what is read."""


def parse_length(told: str) -> int | None:
    """Return a header's length in bytes; None for what is none. Python converts no text of thousands of digits."""
    is_length = told.isascii() and told.isdecimal() and len(told) <= _LENGTH_DIGITS
    return int(told) if is_length else None


async def read_body(receive: Receive, declared: int, most: int) -> bytearray | None:
    """Return a body.

    Args:
        receive: hears of it.
        declared: bytes that its headers say, 0 if none.
        most: bytes that it may have.

    Returns:
        None if the caller left before its end.

    Raises:
        TooLarge: if it is beyond `most`; it is not read to its end.
    """
    body, is_more = bytearray(), True
    while is_more and max(len(body), declared) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        is_more = message.get("more_body", False)
    if max(len(body), declared) > most:
        raise TooLarge(f"the body is beyond {most} bytes")
    return body
