"""How many uploads a gateway takes in at once: beyond it they are refused before they are read, and come back later.

An upload that waits too long for its turn is answered by the failure policy, so a flood would open the gate.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from moderation.errors import TemporaryError
from moderation.serving_rules import IntakeRules

_MIB: Final = 2**20

IN_FLIGHT: Final = Gauge("tidegate_uploads_in_flight", "Uploads that are read or decided now.")
REFUSED: Final = Counter(
    "tidegate_uploads_refused_total", "Uploads that a full gateway did not read.", ["full"]
)


class GatewayFull(TemporaryError):
    """The gateway has as much in hand as it can answer in time; send it again after `delay_s` (HTTP 503)."""


class Intake:
    """The uploads in hand; for one event loop.

    Args:
        rules: how many, and how much.
    """

    def __init__(self, rules: IntakeRules) -> None:
        self._rules = rules
        self._uploads = self._bytes = 0

    @contextmanager
    def take(self, num_bytes: int) -> Iterator[None]:
        """Hold room for one upload within the block.

        Args:
            num_bytes: that its body says to have; of one that does not say, the most that may come.

        Raises:
            GatewayFull: if there is no room; nothing of the body was read.
        """
        if self._uploads >= self._rules.max_uploads:
            raise self._full("uploads", f"{self._uploads} uploads are being decided")
        if self._uploads and self._bytes + num_bytes > self._rules.max_mib * _MIB:
            raise self._full("bytes", f"{self._bytes // _MIB} MiB of uploads are being decided")
        self._count(1, num_bytes)
        try:
            yield
        finally:
            self._count(-1, -num_bytes)

    def _count(self, uploads: int, num_bytes: int) -> None:
        self._uploads += uploads
        self._bytes += num_bytes
        IN_FLIGHT.set(self._uploads)

    def _full(self, what: str, reason: str) -> GatewayFull:
        REFUSED.labels(what).inc()
        return GatewayFull(f"{reason} already; send it again", delay_s=self._rules.retry_s)
