"""How much a predictor holds at once of requests that are read, taken apart, waiting or scored.

The lines of the queue bound what waits there. A body that is still on its way, or being decoded, is in no line yet, and
its bytes are held all the same: without a bound of their own, memory would be bounded by the number of callers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kserve.errors import InvalidInput

from moderation.serving_rules import PredictorRules
from serving.predictor.backlog import Priority
from serving.predictor.measures import HELD_BYTES, REQUESTS
from serving.predictor.terms import Overloaded

_RETRY_S: Final = 1.0
_SMALL_BYTES: Final = 2**20


class Intake:
    """The bytes of all requests in hand, as they came; for one event loop.

    There is room for as many as all lines of the queue take together. One request alone always has room.

    Args:
        rules: with the lines.
    """

    def __init__(self, rules: PredictorRules) -> None:
        lines = [getattr(rules.lines, priority.name.lower()) for priority in Priority]
        self.max_calls: int = 2 * sum(line.items for line in lines)
        """Calls at once over gRPC: as many as may wait, and as many again on their way in or out."""

        self._most_bytes = sum(line.mib for line in lines) * 2**20
        self._held_bytes = self._expected_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["Holding"]:
        """Hold the bytes of one request, which it is told of, until the end of the block."""
        holding = Holding(self)
        try:
            yield holding
        finally:
            self.add(-holding.held_bytes, -holding.expected_bytes)

    def check(self, num_bytes: int, expected_bytes: int, own_bytes: int) -> None:
        """Refuse bytes of a request.

        Args:
            num_bytes: how many.
            expected_bytes: of all requests, that are to come and count as if they were here.
            own_bytes: of this request, that are here.

        Raises:
            Overloaded: if there is no room for them beside those of others.
        """
        found_bytes = self._held_bytes + expected_bytes
        if num_bytes and found_bytes > own_bytes and found_bytes + num_bytes > self._most_bytes:
            raise Overloaded(
                f"the predictor has {found_bytes // 2**20} MiB of requests in hand; come back later",
                delay_s=_RETRY_S,
            )

    @property
    def expected_bytes(self) -> int:
        """Bytes that headers told of and that have not come."""
        return self._expected_bytes

    def add(self, held_bytes: int, expected_bytes: int) -> None:
        """Count bytes in; out where they are negative."""
        self._held_bytes += held_bytes
        self._expected_bytes += expected_bytes
        HELD_BYTES.set(self._held_bytes)


class Holding:
    """The bytes of one request.

    Args:
        intake: counts those of all.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.held_bytes = self.expected_bytes = 0

    def expect(self, num_bytes: int) -> None:
        """Ask for room for a body that its headers tell of, before it is read.

        Whoever tells of bytes and sends none keeps out other large bodies alone, none of up to `_SMALL_BYTES`.

        Raises:
            Overloaded: if there is none.
        """
        is_small = num_bytes <= _SMALL_BYTES
        self._intake.check(num_bytes, 0 if is_small else self._intake.expected_bytes, 0)
        self._intake.add(0, num_bytes)
        self.expected_bytes = num_bytes

    def take(self, num_bytes: int) -> None:
        """Hold bytes that came.

        Raises:
            Overloaded: if there is no room for them beside those of others.
        """
        self._intake.check(num_bytes, 0, self.held_bytes)
        come_bytes = min(num_bytes, self.expected_bytes)
        self._intake.add(num_bytes, -come_bytes)
        self.held_bytes += num_bytes
        self.expected_bytes -= come_bytes


@contextmanager
def counted() -> Iterator[None]:
    """Count a request that is refused before the model hears of it, which counts all others."""
    try:
        yield
    except Overloaded:
        REQUESTS.labels("overloaded").inc()
        raise
    except InvalidInput:
        REQUESTS.labels("invalid").inc()
        raise
