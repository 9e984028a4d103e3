"""When each upload of a load run is due: at a constant rate, or at random instants of the same rate."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moderation.errors import PermanentError

MAX_UPLOADS: Final = 10_000_000
"""Every upload has a row of figures in memory, 20 bytes each."""


@dataclass(frozen=True)
class Schedule:
    """Planned instants; what is due during the warm-up is sent and not counted."""

    planned_s: NDArray[np.float64]
    """Seconds since the start, one per upload, ascending."""

    rate: float
    """Uploads per second that were asked for."""

    warmup_s: float
    duration_s: float
    """Seconds that count, after the warm-up."""


def constant(rate: float, *, warmup_s: float, duration_s: float) -> Schedule:
    """Return uploads that are due every 1/rate seconds.

    Raises:
        PermanentError: if there would be none, or too many to keep figures of.

    >>> constant(2.0, warmup_s=0.0, duration_s=2.0).planned_s.tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    num_uploads = _checked(rate, warmup_s + duration_s)
    planned_s = np.arange(num_uploads, dtype=np.float64) / rate
    return Schedule(planned_s, rate, warmup_s, duration_s)


def poisson(rate: float, *, warmup_s: float, duration_s: float, seed: int) -> Schedule:
    """Return uploads of a Poisson process: each comes independently of all others, so they also come in bursts.

    Raises:
        PermanentError: if there would be none, or too many to keep figures of.
    """
    seconds = warmup_s + duration_s
    num_uploads = _checked(rate, seconds)
    random = np.random.default_rng(seed)
    planned_s = np.zeros(0)
    while not planned_s.size or planned_s[-1] < seconds:
        gaps = random.exponential(1 / rate, num_uploads + 1)
        start = planned_s[-1] if planned_s.size else 0.0
        planned_s = np.concatenate([planned_s, start + np.cumsum(gaps)])
    return Schedule(planned_s[planned_s < seconds], rate, warmup_s, duration_s)


def _checked(rate: float, seconds: float) -> int:
    # Rounded first: 100 a second for 0.1 s + 0.2 s are 30, not 30.000000000000004.
    num_uploads = np.ceil(round(rate * seconds, 6))
    if not 0 < num_uploads <= MAX_UPLOADS:
        raise PermanentError(
            f"{rate:g} uploads a second for {seconds:g} s are {num_uploads:,.0f} uploads; "
            f"choose a rate and a duration that make 1 to {MAX_UPLOADS:,}"
        )
    return int(num_uploads)
