"""How much a gateway takes in at once: beyond it uploads are refused before they are read, and come back later.

An upload that waits too long for its turn is answered by the failure policy, so a flood would open the gate. A body
that is still on its way takes no turn: who sends slowly, or never to the end, holds up nobody else.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from moderation.errors import TemporaryError
from moderation.serving_rules import IntakeRules
from serving.errors import QuotaExceeded

_MIB: Final = 2**20

IN_FLIGHT: Final = Gauge("tidegate_uploads_in_flight", "Uploads that are decided now.")
RECEIVING: Final = Gauge(
    "tidegate_uploads_receiving", "Uploads whose bodies are on their way to the gateway now."
)
REFUSED: Final = Counter(
    "tidegate_uploads_refused_total", "Uploads that a full gateway did not take in.", ["full"]
)


class GatewayFull(TemporaryError):
    """The gateway has as much in hand as it can answer in time; send it again after `delay_s` (HTTP 503)."""


class Intake:
    """The uploads in hand; for one event loop.

    Args:
        rules: how many, how much, and how long a body may take.
    """

    def __init__(self, rules: IntakeRules) -> None:
        self._rules = rules
        self._decided = self._bytes = 0
        self._bodies: Tally[str] = Tally()
        self._body_bytes: Tally[str] = Tally()

    @property
    def body_s(self) -> float:
        """Seconds within which a body must have come whole."""
        return self._rules.body_s

    @contextmanager
    def take(self, caller: str, num_bytes: int) -> Iterator[Callable[[], None]]:
        """Hold room for one upload within the block.

        Yields what is to be called as soon as its body is there whole: from then on it is one of those that are
        decided. That raises GatewayFull if there are enough of these meanwhile.

        Args:
            caller: who sends it.
            num_bytes: that its body says to have; of one that does not say, the most that may come.

        Raises:
            GatewayFull: if there is no room; nothing of the body was read.
            QuotaExceeded: if the caller's bodies on their way take their share already; nothing of the body was read.
        """
        self._check(caller, num_bytes)
        self._bytes += num_bytes
        self._on_its_way(caller, 1, num_bytes)
        is_there = False

        def come() -> None:
            nonlocal is_there
            self._check_decided()
            is_there = True
            self._on_its_way(caller, -1, -num_bytes)
            self._decide(1)

        try:
            yield come
        finally:
            self._bytes -= num_bytes
            if is_there:
                self._decide(-1)
            else:
                self._on_its_way(caller, -1, -num_bytes)

    def _check(self, caller: str, num_bytes: int) -> None:
        rules = self._rules
        self._check_decided()
        if self._bodies.total() >= rules.max_bodies:
            raise self._full("bodies", f"{self._bodies.total()} uploads are on their way")
        if self._bytes and self._bytes + num_bytes > rules.max_mib * _MIB:
            raise self._full("bytes", f"{self._bytes // _MIB} MiB of uploads are in hand")
        if not self._bodies[caller]:
            return
        share_bytes = rules.caller_share * rules.max_mib * _MIB
        if (
            self._bodies[caller] >= rules.caller_share * rules.max_bodies
            or self._body_bytes[caller] + num_bytes > share_bytes
        ):
            REFUSED.labels("caller").inc()
            raise QuotaExceeded(
                f"caller {caller} has {self._bodies[caller]} uploads on their way, of "
                f"{self._body_bytes[caller] // _MIB} MiB; send each to its end, and fewer at once",
                delay_s=rules.retry_s,
            )

    def _check_decided(self) -> None:
        if self._decided >= self._rules.max_uploads:
            raise self._full("uploads", f"{self._decided} uploads are being decided")

    def _on_its_way(self, caller: str, bodies: int, num_bytes: int) -> None:
        self._bodies[caller] += bodies
        self._body_bytes[caller] += num_bytes
        RECEIVING.set(self._bodies.total())

    def _decide(self, uploads: int) -> None:
        self._decided += uploads
        IN_FLIGHT.set(self._decided)

    def _full(self, what: str, reason: str) -> GatewayFull:
        REFUSED.labels(what).inc()
        return GatewayFull(f"{reason} already; send it again", delay_s=self._rules.retry_s)
