"""Lower confidence bounds of a precision, for rows that carry weights and come in groups.

Axes: R flagged rows, G groups of them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MAX_NEEDED: Final = 10_000_000
_NEAREST_NEGATIVES: Final = 100
_POWER: Final = 0.8
_MAX_ERRORS: Final = 1_000


@dataclass(frozen=True)
class PrecisionBound:
    """What a sample of flagged rows says of their precision."""

    flags: int
    errors: int
    precision: float
    effective_n: float
    """Independent, equally weighted flags that would be as informative."""

    lower: float


def clopper_pearson_lower(successes: float, trials: float, confidence: float) -> float:
    """Return the one-sided exact lower bound of a proportion; `trials` may be an effective number.

    >>> round(clopper_pearson_lower(299, 299, 0.95), 5)
    0.99003

    Source:
        Clopper and Pearson 1934; for effective numbers Korn and Graubard 1998.
    """
    if successes <= 0:
        return 0.0
    return float(special.betaincinv(successes, max(trials - successes, 0) + 1, 1 - confidence))


def flags_needed(bound: float, confidence: float, *, errors: int = 0) -> int | None:
    """Return the fewest independent flags with so many errors that certify a precision bound.

    >>> flags_needed(0.99, 0.95), flags_needed(0.95, 0.95), flags_needed(0.99, 0.95, errors=1)
    (299, 59, 473)
    """
    low, high = errors, max(errors, 1)
    while clopper_pearson_lower(high - errors, high, confidence) < bound:
        low, high = high, high * 2
        if high > _MAX_NEEDED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        reached = clopper_pearson_lower(middle - errors, middle, confidence) >= bound
        low, high = (low, middle) if reached else (middle, high)
    return high


def bound_precision(
    truth_R: npt.NDArray[np.int8] | Floats,
    weight_R: Floats,
    group_R: Integers,
    *,
    confidence: float,
    error_weight: float,
) -> PrecisionBound:
    """Return the precision of flagged rows with a lower bound that groups and weights do not fool.

    The variance is that of a ratio over groups. One invented group, wholly wrong and of the usual
    size, keeps it honest while few errors were seen: without it a sample of 30 campaigns of 20
    without error would count as 600 flags. `error_weight` is what one more false flag would weigh:
    negatives that were thinned out stand for many.

    Args:
        truth_R: 1 or 0 of each flagged row, or a share between; at least one row.
        weight_R: inverse inclusion probabilities.
        group_R: seller and campaign.
        confidence: one-sided.
        error_weight: typical weight of a negative row near the threshold.

    Source:
        Korn and Graubard 1998, "Confidence intervals for proportions with small expected number
        of positive counts estimated from survey data" (exact bound at the effective number); the
        invented group is ours, see the simulations in its tests.
    """
    _, member_R = np.unique(group_R, return_inverse=True)
    weight_G = np.bincount(member_R, weight_R)
    right_G = np.bincount(member_R, weight_R * truth_R)
    total = float(weight_G.sum())
    rows_per_group = (weight_G**2).sum() / (weight_R**2).sum()  # as the variance counts them
    invented = error_weight * max(1.0, float(rows_per_group))
    weight_A, right_A = np.append(weight_G, invented), np.append(right_G, 0.0)
    ratio = float(right_A.sum() / weight_A.sum())
    variance = float(((right_A - ratio * weight_A) ** 2).sum()) / (total + invented) ** 2
    effective = 0.0
    if variance > 0:  # else every row is wrong
        effective = ratio * (1 - ratio) / variance * total / (total + invented)
    effective = min(effective, float(len(truth_R)))
    precision = float(right_G.sum()) / total
    return PrecisionBound(
        flags=len(truth_R),
        errors=int((truth_R == 0).sum()),
        precision=precision,
        effective_n=effective,
        lower=clopper_pearson_lower(precision * effective, effective, confidence),
    )


def weight_of_an_error(score_K: Floats, truth_K: npt.NDArray[np.int8], weight_K: Floats) -> float:
    """Return what one more false flag would weigh: what innocent rows of the highest scores do, if there are any.

    Args:
        score_K: of the rows with known truth.
        truth_K: 1 or 0.
        weight_K: inverse inclusion probabilities.
    """
    order = np.argsort(-score_K, kind="stable")
    nearest = order[truth_K[order] == 0][:_NEAREST_NEGATIVES]
    return typical_weight(weight_K[nearest] if len(nearest) else weight_K)


def typical_weight(weight_R: Floats) -> float:
    """Return the weight of the row that a unit of weight is likeliest to lie in; 1 without any row.

    >>> typical_weight(np.array([1.0, 1.0, 2.0]))
    1.5
    """
    return float((weight_R**2).sum() / weight_R.sum()) if len(weight_R) else 1.0


def errors_allowed(trials: int, bound: float, confidence: float) -> int:
    """Return the most errors among `trials` flags that still certify the bound; -1 if not even none."""
    low, high = -1, trials
    while low < high:
        middle = (low + high + 1) // 2
        reached = clopper_pearson_lower(trials - middle, trials, confidence) >= bound
        low, high = (middle, high) if reached else (low, middle - 1)
    return low


def flags_for_power(bound: float, confidence: float, precision: float) -> int | None:
    """Return the fewest independent flags that certify a bound with 80 % power at a true precision; None if none do.

    >>> flags_for_power(0.99, 0.95, 0.998), flags_for_power(0.95, 0.95, 0.97)
    (628, 601)
    """
    if precision <= bound:
        return None
    for errors in range(_MAX_ERRORS):
        flags = flags_needed(bound, confidence, errors=errors)
        if flags is None or float(special.bdtr(errors, flags, 1 - precision)) >= _POWER:
            return flags
    return None
