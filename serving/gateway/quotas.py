"""How many uploads each caller may send: one token bucket per caller, so that none takes the gate from the others."""

from dataclasses import dataclass

from moderation.clock import Clock
from serving.errors import QuotaExceeded


@dataclass
class _Bucket:
    tokens: float
    seen_s: float


class Quotas:
    """A bucket per caller, refilled all the time, full at first.

    Args:
        per_s: uploads a second that a caller may send for ever.
        burst_s: for how many seconds' worth an idle caller may send at once.
        clock: its monotonic seconds.
    """

    def __init__(self, per_s: float, clock: Clock, *, burst_s: float = 2.0) -> None:
        self._per_s, self._clock = per_s, clock
        self._most = max(1.0, per_s * burst_s)
        self._buckets: dict[str, _Bucket] = {}

    def take(self, caller: str) -> None:
        """Count one upload of a caller.

        Raises:
            QuotaExceeded: if its bucket is empty; nothing was counted.
        """
        now = self._clock.monotonic()
        bucket = self._buckets.setdefault(caller, _Bucket(self._most, now))
        earned = (now - bucket.seen_s) * self._per_s if now > bucket.seen_s else 0.0
        bucket.tokens, bucket.seen_s = min(self._most, bucket.tokens + earned), now
        if bucket.tokens < 1:
            wait_s = (1 - bucket.tokens) / self._per_s
            raise QuotaExceeded(
                f"caller {caller} sends more than {self._per_s:g} uploads a second; send slower",
                delay_s=wait_s,
            )
        bucket.tokens -= 1
