"""Estimates: a figure with one-sided confidence bounds at any level, and the rows that would settle it.

B resamples.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]

POWER: Final = 0.8
"""Chance of success that `needed` counts with."""

_MIN_DEFINED: Final = 100
_FEWEST_DEGREES: Final = 9
"""Drawn again and again, one violation that was missed would be sure of it."""

_MOST_LOG: Final = 700.0
"""Beyond it a double overflows."""

_FURTHEST_PERCENTILE: Final = 0.99
_MOST_BIAS: Final = 0.5
"""Of a resampled figure, in standard errors: a greater one is no small correction."""


class Spread(Protocol):
    """How sure a figure is."""

    def low(self, confidence: float) -> float:
        """Return the one-sided lower confidence bound; -inf where nothing is known."""
        ...

    def high(self, confidence: float) -> float:
        """Return the one-sided upper confidence bound; inf where nothing is known."""
        ...


@dataclass(frozen=True)
class Exact:
    """A figure without sampling error: a count of everything, a size."""

    value: float

    def low(self, confidence: float) -> float:
        """Return the figure itself."""
        return self.value

    def high(self, confidence: float) -> float:
        """Return the figure itself."""
        return self.value


@dataclass(frozen=True)
class Resampled:
    """A figure whose error was found by resampling groups.

    Percentiles up to 99 %, or bias-corrected ones where those lie further out: a resampled average precision is too
    high, as a violation drawn twice ranks beside itself. Both are further out still where few groups were resampled:
    a percentile is as narrow as a normal interval with the variance divided by n, not by n - 1. Beyond 99 %, where so
    few resamples lie, the distance of Student's t from the figure, at least as far; resamples of fewer than ten
    groups show nothing there, and those of one show nothing at all.

    Source:
        Efron 1987, "Better bootstrap confidence intervals" (bias correction); Hesterberg 2015, "What teachers should
        know about the bootstrap" (expanded percentiles).
    """

    value: float
    values_B: Floats
    """NaN where a resample gives no figure."""

    degrees: float = math.inf
    """Of freedom of the error: the groups of violations that it rests on, less one; few of them make the tails long."""

    groups: float = math.inf
    """Groups of violations that were resampled, whatever they weigh; few of them make percentiles narrow."""

    is_ratio: bool = False
    """Whether it is a ratio of positive figures, whose error is even on the scale of logarithms."""

    @property
    def error(self) -> float:
        """Standard error; infinite with too few defined resamples."""
        defined = self.values_B[np.isfinite(self.values_B)]
        return float(defined.std()) if len(defined) >= _MIN_DEFINED else math.inf

    def low(self, confidence: float) -> float:
        """Return the lower bound."""
        return self._bound(confidence, -1)

    def high(self, confidence: float) -> float:
        """Return the upper bound."""
        return self._bound(confidence, 1)

    def _bound(self, confidence: float, side: int) -> float:
        error = self.error
        if not math.isfinite(error) or not math.isfinite(self.value) or self.degrees <= 0:
            return side * math.inf
        defined = self.values_B[np.isfinite(self.values_B)]
        level = _expanded(min(confidence, _FURTHEST_PERCENTILE), self.groups)
        levels = (level, self._unbiased(defined, level, side))
        bounds = np.quantile(defined, levels if side > 0 else [1 - one for one in levels])
        bound = float(bounds.max() if side > 0 else bounds.min())
        if confidence <= _FURTHEST_PERCENTILE:
            return bound
        if self.degrees < _FEWEST_DEGREES:
            return side * math.inf
        further = self._further(side * float(stats.t.ppf(confidence, self.degrees)), defined)
        return max(bound, further) if side > 0 else min(bound, further)

    def _further(self, errors: float, defined: Floats) -> float:
        """Return what lies so many standard errors from the figure."""
        if not self.is_ratio:
            return self.value + errors * float(defined.std())
        if self.value <= 0 or defined.min() <= 0:
            return math.copysign(math.inf, errors)
        distance = errors * float(np.log(defined).std())
        return self.value * math.exp(min(distance, _MOST_LOG))

    def _unbiased(self, defined: Floats, level: float, side: int) -> float:
        """Return the level of percentile that the share of resamples on one side of the figure asks for."""
        below = float(
            ((defined < self.value).sum() + 0.5 * (defined == self.value).sum()) / len(defined)
        )
        shift = float(np.clip(special.ndtri(below), -_MOST_BIAS, _MOST_BIAS))
        return float(special.ndtr(special.ndtri(level) + 2 * side * shift))


@dataclass(frozen=True)
class Proportion:
    """A share of `trials` effective, independent trials, with exact bounds.

    Source:
        Clopper and Pearson 1934; for effective numbers Korn and Graubard 1998.
    """

    successes: float
    trials: float

    @property
    def error(self) -> float:
        """Standard error, at least that of one success more or less."""
        if not self.trials:
            return math.inf
        share = (self.successes + 0.5) / (self.trials + 1)
        return math.sqrt(share * (1 - share) / self.trials)

    def low(self, confidence: float) -> float:
        """Return the lower bound; 0 without a success."""
        if self.successes <= 0:
            return 0.0
        others = max(self.trials - self.successes, 0.0) + 1
        return float(special.betaincinv(self.successes, others, 1 - confidence))

    def high(self, confidence: float) -> float:
        """Return the upper bound; 1 without a failure."""
        if self.successes >= self.trials:
            return 1.0
        return float(
            special.betaincinv(self.successes + 1, self.trials - self.successes, confidence)
        )


@dataclass(frozen=True)
class FewCounted:
    """What was predicted over a count of none or one, which resamples say nothing of: at least so much too much.

    Source:
        Garwood 1936, "Fiducial limits for the Poisson distribution" (of none seen, -ln(1 - confidence) at most).
    """

    predicted: float
    counted: int
    unit: float
    """What each counts."""

    def low(self, confidence: float) -> float:
        """Return the lower bound: were there more to count, so few would hardly have been seen."""
        return self.predicted / (
            self.unit * float(special.gammaincinv(self.counted + 1, confidence))
        )

    def high(self, confidence: float) -> float:
        """Return infinity: it may have been luck that any was seen."""
        return math.inf


@dataclass(frozen=True)
class Estimate:
    """One figure of one gate, for one policy, slice value or attack."""

    of: str
    """Policy, slice, attack: what it is about, for people; empty for a figure about everything."""

    value: float | None
    """None where it cannot be taken: no data, never a pass."""

    spread: Spread | None
    rows: int
    positives: int = 0
    needed: int | None = None
    """Rows (positives, flags, see `unit`) that it would take; None: not known, or no number would do."""

    unit: str = "rows"
    why_missing: str = ""
    remark: str = ""
    """What people must know of the figure, told with the reason: which slice value is meant, which are too small."""

    detail: Mapping[str, Any] = field(default_factory=dict)
    """More for the evidence pack: plain JSON values."""

    groups: float | None = None
    """Independent groups of violations that the figure is worth; None: its spread counts them in another way."""

    min_groups: int = 0
    """Fewer of them certify nothing."""

    may_be_few: bool = False
    """Whether too few rows are nobody's fault, as of listings that name no language: they hold a candidate where the
    bound at the gate's confidence shows that something is wrong, and need show no more."""


@dataclass(frozen=True)
class Counted:
    """What a figure about violations rests on."""

    rows: int
    positives: int
    groups: float
    """Independent ones of equal weight that are as informative: three that an audit of 1 in 500 found outweigh 300
    that were flagged, and the figure rests on three; 300 of one campaign are found or missed together.
    """

    @classmethod
    def of(
        cls,
        truth_R: npt.NDArray[np.int8],
        weight_R: npt.NDArray[np.float64],
        member_R: npt.NDArray[np.int64],
    ) -> "Counted":
        """Return what R rows show; `member_R` is the group of each."""
        is_positive_R = truth_R == 1
        groups = groups_worth(weight_R[is_positive_R], member_R[is_positive_R])
        return cls(len(truth_R), int(is_positive_R.sum()), groups)


def groups_worth(weight_V: Floats, group_V: npt.NDArray[np.int64]) -> float:
    """Return how many groups of equal weight are as informative as those of V violations.

    >>> groups_worth(np.ones(6), np.array([0, 0, 0, 1, 2, 3]))
    3.0

    Args:
        weight_V: weight of each violation.
        group_V: group of each, from 0.

    Source:
        Kish 1965, "Survey Sampling" (unequal weights).
    """
    weight_G = np.bincount(group_V, weight_V)
    squares = float((weight_G**2).sum())
    return float(weight_G.sum() ** 2 / squares) if squares else 0.0


def of_unknown(estimate: Estimate) -> Iterator[Estimate]:
    """Yield the estimate of rows whose slice value is unknown; nothing where no figure can be taken of them."""
    if estimate.value is not None:
        yield replace(estimate, may_be_few=True)


def nothing(of: str, why: str, *, needed: int | None = None, unit: str = "rows") -> Estimate:
    """Return the estimate of a figure that cannot be taken."""
    return Estimate(of, None, None, 0, needed=needed, unit=unit, why_missing=why)


def _expanded(level: float, groups: float) -> float:
    """Return the level of percentile that a bound at `level` takes with so many groups, two at least."""
    if not math.isfinite(groups):
        return level
    degrees = max(groups, 2.0) - 1
    errors = float(stats.t.ppf(level, degrees)) * math.sqrt((degrees + 1) / degrees)
    return float(special.ndtr(errors))


def rows_needed(rows: int, error: float, distance: float, confidence: float) -> int | None:
    """Return how many rows of this kind would put a bound at `confidence` within `distance` with 80 % power.

    >>> rows_needed(100, 0.1, 0.1, 0.95)
    619

    Args:
        rows: rows (or positives) that gave the standard error `error`.
        error: standard error at that many.
        distance: from the true figure to the limit, on the right side; 0 or less: no number would do.
        confidence: one-sided.
    """
    if distance <= 0 or not math.isfinite(error) or rows <= 0:
        return None
    wanted = float(stats.norm.ppf(confidence)) + float(stats.norm.ppf(POWER))
    return math.ceil(rows * (wanted * error / distance) ** 2)
