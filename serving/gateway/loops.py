"""What a gateway does in the background for as long as it lives: nothing that goes wrong in a round ends its loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from prometheus_client import Counter

_LOG = logging.getLogger(__name__)

FAILED: Final = Counter(
    "tidegate_gateway_loop_failures_total",
    "Rounds of a background loop that failed; the next round comes all the same.",
    ["loop"],
)


async def for_ever(
    name: str,
    step: Callable[[], Awaitable[None]],
    every_s: float,
    *,
    at_once: asyncio.Event | None = None,
) -> None:
    """Take a step, wait, and take the next; until cancelled.

    Args:
        name: of the loop, for its metric and its log.
        step: one round; what it raises is logged and counted.
        every_s: seconds from the end of a round to the next one, at most.
        at_once: set by whoever wants the next round now.
    """
    failures, is_due = FAILED.labels(name), at_once or asyncio.Event()
    while True:
        is_due.clear()
        try:
            await step()
        except Exception:
            # The edge of a loop: without it one bad round would end them all, and nobody would hear of it.
            failures.inc()
            _LOG.exception("a round of a background loop failed", extra={"loop": name})
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await is_due.wait()
