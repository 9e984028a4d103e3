"""What a prefilter misses: a known share of what it would let go goes on all the same, and stands for the rest.

The draw depends on the submission and the contract's salt alone, so that it can be replayed. D decisions with truth.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moderation.errors import InvalidSnapshot
from moderation.precision import bound_precision, flags_needed, typical_weight

_SPACE: Final = 2.0**64
_MAX_VIOLATIONS: Final = 2_000_000
"""Beyond as many, nobody waits for an answer."""

Outcome = Literal["shown", "broken", "not shown", "no data"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def random_draw(submission_id: str, salt: str) -> float:
    """Return a number in [0, 1) that is fixed for a submission and even over all of them.

    >>> round(random_draw("s-1", "2026-11"), 5)
    0.08774
    """
    digest = hashlib.sha256(f"{salt}\n{submission_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / _SPACE


@dataclass(frozen=True)
class Reviewed:
    """D uploads that went on and whose truth is known; what was let go is nowhere here, its truth is not looked for."""

    violates_D: Flags
    is_below_D: Flags
    """Whether it would have been let go: it went on because it was drawn."""

    random_share_D: Floats
    """Chance of that draw, as the decision recorded it."""

    propensity_D: Floats
    """Chance that the truth of an upload that went on was looked for: of an audit, of a review."""

    group_D: Integers
    """Seller and campaign."""

    def __post_init__(self) -> None:
        lengths = {len(values) for values in vars(self).values()}
        if len(lengths) > 1:
            raise InvalidSnapshot("reviewed uploads: every column needs as many rows")
        for name in ("random_share_D", "propensity_D"):
            chances = getattr(self, name)
            if not ((chances > 0) & (chances <= 1)).all():
                raise InvalidSnapshot(f"reviewed uploads: {name} must be above 0 and at most 1")


@dataclass(frozen=True)
class Misses:
    """Of all violations, the share that scores below the threshold, with one-sided bounds."""

    violations: float
    """Estimated, of everything uploaded."""

    below: float
    """Of them, scored below the threshold."""

    seen_below: int
    """Violations below the threshold that the draw found."""

    rate: float
    lower: float
    upper: float


def estimate_misses(reviewed: Reviewed, confidence: float) -> Misses:
    """Return the rate of violations that the prefilter's threshold misses, by inverse inclusion probabilities.

    Args:
        reviewed: decisions with truth.
        confidence: one-sided, of each bound.

    Raises:
        InvalidSnapshot: if no violation is known: then nothing is known of the rate.

    Source:
        Horvitz and Thompson 1952; bounds by Korn and Graubard 1998, see `precision.bound_precision`.
    """
    sample = _Sample.of(reviewed, confidence)
    below_V, weight_V = sample.below_V, sample.weight_V
    return Misses(
        violations=float(weight_V.sum()),
        below=float(weight_V[below_V].sum()),
        seen_below=int(below_V.sum()),
        rate=float(weight_V[below_V].sum() / weight_V.sum()),
        lower=sample.lower(),
        upper=sample.upper(),
    )


@dataclass(frozen=True)
class AuditedRecall:
    """The share of some violations that go on, against the floor that it must keep."""

    of: str
    """Policy, or `evasive`."""

    outcome: Outcome
    """Shown: the lower bound keeps the floor. Broken: the upper bound is below it. No data: no violation is known."""

    rows: int
    """Reviewed uploads."""

    violations: int
    """Among them."""

    missed: int
    """Among these: would have been let go, but for the draw."""

    recall: float | None
    lower: float | None
    """One-sided bounds; None without data."""

    upper: float | None
    more: int | None
    """Reviewed uploads like these that it would take to show the floor; without data the fewest violations. 0: shown
    already. None: at this recall no number would."""


def audit_recall(of: str, reviewed: Reviewed, *, floor: float, confidence: float) -> AuditedRecall:
    """Return what reviewed uploads say of the share of violations that go on.

    Args:
        of: name of the policy, or of the stratum.
        reviewed: with its truth.
        floor: share that must go on.
        confidence: one-sided, of each bound.
    """
    rows, num = len(reviewed.violates_D), int(reviewed.violates_D.sum())
    if not num:
        fewest = flags_needed(floor, confidence)
        return AuditedRecall(of, "no data", rows, 0, 0, None, None, None, fewest)
    found = estimate_misses(reviewed, confidence)
    lower, upper = 1 - found.upper, 1 - found.lower
    outcome: Outcome = "shown" if lower >= floor else "broken" if upper < floor else "not shown"
    more = _more_rows(reviewed, floor, confidence)
    recall = 1 - found.rate
    return AuditedRecall(of, outcome, rows, num, found.seen_below, recall, lower, upper, more)


def _more_rows(reviewed: Reviewed, floor: float, confidence: float) -> int | None:
    """Return how many more rows like these show the floor; None where no number that could be tried does."""
    sample = _Sample.of(reviewed, confidence)
    most = _MAX_VIOLATIONS // len(sample.weight_V)

    def shows(times: int) -> bool:
        return 1 - sample.times(times).upper() >= floor

    low, high = 0, 1
    while not shows(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return (high - 1) * len(reviewed.violates_D)


@dataclass(frozen=True)
class _Sample:
    """V reviewed violations, and what one more would weigh."""

    below_V: Flags
    weight_V: Floats
    group_V: Integers
    weight_below: float
    weight_above: float
    confidence: float

    @classmethod
    def of(cls, reviewed: Reviewed, confidence: float) -> "_Sample":
        found_V = np.flatnonzero(reviewed.violates_D)
        if not len(found_V):
            raise InvalidSnapshot(
                "no reviewed upload violates: collect more truth before estimating"
            )
        below_V = reviewed.is_below_D[found_V]
        drawn_V = np.where(below_V, reviewed.random_share_D[found_V], 1.0)
        return cls(
            below_V=below_V,
            weight_V=1.0 / (drawn_V * reviewed.propensity_D[found_V]),
            group_V=np.unique(reviewed.group_D[found_V], return_inverse=True)[1],
            weight_below=_typical(reviewed, is_below=True),
            weight_above=_typical(reviewed, is_below=False),
            confidence=confidence,
        )

    def times(self, number: int) -> "_Sample":
        """Return a sample of so many as these, each time of other sellers."""
        others = np.repeat(np.arange(number), len(self.group_V)) * (int(self.group_V.max()) + 1)
        return replace(
            self,
            below_V=np.tile(self.below_V, number),
            weight_V=np.tile(self.weight_V, number),
            group_V=np.tile(self.group_V, number) + others,
        )

    def lower(self) -> float:
        """Return the lower bound of the share that is missed."""
        return self._lower(self.below_V, self.weight_above)

    def upper(self) -> float:
        """Return the upper bound of the share that is missed."""
        return 1 - self._lower(~self.below_V, self.weight_below)

    def _lower(self, is_one_V: Flags, other_weight: float) -> float:
        """Return the lower bound of the share of the ones; `other_weight` is that of one more of the others."""
        return bound_precision(
            is_one_V.astype(np.int8),
            self.weight_V,
            self.group_V,
            confidence=self.confidence,
            error_weight=other_weight,
        ).lower


def _typical(reviewed: Reviewed, *, is_below: bool) -> float:
    """Return the weight of one more violation on a side: of its reviewed uploads, violating or not."""
    rows = np.flatnonzero(reviewed.is_below_D == is_below)
    if not len(rows):
        share = float(reviewed.random_share_D.min()) if is_below else 1.0
        return 1.0 / (share * float(reviewed.propensity_D.min()))
    share_R = reviewed.random_share_D[rows] if is_below else np.ones(len(rows))
    return typical_weight(1.0 / (share_R * reviewed.propensity_D[rows]))
