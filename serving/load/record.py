"""What came of every upload of a load run, in arrays of a size that is known before it starts."""

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.load.schedule import Schedule

DECIDED: Final = 200
"""HTTP status of a decision; every other positive outcome is the status of a refusal."""


class Ended(IntEnum):
    """How an upload ended that got no HTTP status."""

    NOT_DUE = 0
    """The run was stopped before its instant."""

    IN_FLIGHT = -1
    """It was still waiting when the run was given up."""

    DROPPED = -2
    """Never sent: the sender's own bound of uploads in flight was reached."""

    TIMED_OUT = -3
    NOT_CONNECTED = -4
    BROKEN_OFF = -5
    """The connection ended before the answer did."""

    UNREADABLE = -6
    """Status 200 with something else than a decision."""


@dataclass
class Record:
    """One row per planned upload; shape (N,) each."""

    schedule: Schedule
    outcome: NDArray[np.int16]
    """An HTTP status, or one of `Ended`."""

    late_ms: NDArray[np.float32]
    """From the planned instant to the sending; NaN where nothing was sent."""

    latency_ms: NDArray[np.float32]
    """From the PLANNED instant to the end of the answer; NaN where none came."""

    tiers: Counter[str] = field(default_factory=Counter)
    """Of counted decisions; the warm-up's are left out."""

    num_fallbacks: int = 0
    """Counted decisions without a model."""

    peak_in_flight: int = 0
    seconds: float = 0.0
    """From the start to the last answer."""

    stopped_s: float | None = None
    """Seconds after the start at which sending was ended early."""

    @classmethod
    def of(cls, schedule: Schedule) -> "Record":
        """Return the empty record of a schedule."""
        size = schedule.planned_s.size
        return cls(
            schedule,
            outcome=np.full(size, Ended.NOT_DUE, np.int16),
            late_ms=np.full(size, np.nan, np.float32),
            latency_ms=np.full(size, np.nan, np.float32),
        )

    def keep_decision(self, number: int, tier: str, *, is_fallback: bool) -> None:
        """Count a decision by what it says, unless it was due during the warm-up."""
        self.outcome[number] = DECIDED
        if self.schedule.planned_s[number] >= self.schedule.warmup_s:
            self.tiers[tier] += 1
            self.num_fallbacks += is_fallback
