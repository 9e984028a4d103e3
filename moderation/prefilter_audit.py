"""What a prefilter misses: a known share of what it would let go goes on all the same, and stands for the rest.

The draw depends on the submission and the contract's salt alone, so that it can be replayed. D decisions with truth.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.errors import InvalidSnapshot
from moderation.precision import bound_precision, typical_weight

_SPACE: Final = 2.0**64

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
    """Whether the score was below the threshold: it went on because it was drawn."""

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
    found_V = np.flatnonzero(reviewed.violates_D)
    if not len(found_V):
        raise InvalidSnapshot("no reviewed upload violates: collect more truth before estimating")
    below_V = reviewed.is_below_D[found_V]
    drawn_V = np.where(below_V, reviewed.random_share_D[found_V], 1.0)
    weight_V = 1.0 / (drawn_V * reviewed.propensity_D[found_V])
    group_V = reviewed.group_D[found_V]
    return Misses(
        violations=float(weight_V.sum()),
        below=float(weight_V[below_V].sum()),
        seen_below=int(below_V.sum()),
        rate=float(weight_V[below_V].sum() / weight_V.sum()),
        lower=_lower(below_V, weight_V, group_V, confidence, _typical(reviewed, is_below=False)),
        upper=1
        - _lower(~below_V, weight_V, group_V, confidence, _typical(reviewed, is_below=True)),
    )


def _lower(
    is_one_V: Flags, weight_V: Floats, group_V: Integers, confidence: float, other_weight: float
) -> float:
    """Return the lower bound of the share of the ones; `other_weight` is what one more of the others would weigh."""
    return bound_precision(
        is_one_V.astype(np.int8),
        weight_V,
        group_V,
        confidence=confidence,
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
