"""The few words of ASGI that the predictor speaks itself."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""

JSON: Final = {"content-type": "application/json"}


def error_answer(
    status: int, error: Exception | str, headers: dict[str, str] | None = None
) -> Answer:
    """Return an error in the form of V2: JSON that says what happened."""
    return status, JSON | (headers or {}), orjson.dumps({"error": str(error)})


async def send_answer(send: Send, answer: Answer) -> None:
    """Send a whole answer, with its length."""
    status, headers, body = answer
    headers["content-length"] = str(len(body))
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
