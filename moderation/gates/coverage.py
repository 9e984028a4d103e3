"""Which flagged scores were looked at: what each adjudicated flag stands for, and the score ranges that lack truth.

F flagged rows, R adjudicated ones of them, U unseen ones, K gaps between adjudicated scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_FEWEST_PER_BIN: Final = 30
MAX_BINS: Final = 5
_MOST_RANGES: Final = 3
"""That are named."""

_NEIGHBOURS: Final = 20
"""Adjudicated rows on one side of a gap, which say how long gaps are there."""

_FEWEST_NEIGHBOURS: Final = 5
_RARE: Final = 0.02
"""Gaps that chance makes longer than so rarely are looked at together; they hold a tenth of what random leaves."""

_BY_CHANCE: Final = 0.001
"""How often random adjudication leaves as many rare gaps, at any one length."""


@dataclass(frozen=True)
class Coverage:
    """What the adjudicated rows say of all that is flagged."""

    judged_F: Flags
    """Which rows were adjudicated."""

    weight_R: Floats
    """Of each of those: in each bin of score they stand for all flags but the unseen ones."""

    most: float
    """How many flags one adjudicated flag stands for where that is most; 1 where every flag was adjudicated."""

    unseen_F: Flags
    """Flags of scores where nobody looked."""

    ranges: str
    """Where those lie, the heaviest first; empty where there are none."""


def cover(
    score_F: Floats, weight_F: Floats, judged_F: Flags, group_F: Integers, *, most_unseen: float
) -> Coverage:
    """Return what the adjudicated rows stand for, in bins of score that weigh the same.

    Bins are cut on all flags: cut on the adjudicated ones, the lowest would swallow every flag below them. Unseen is
    what lies below the lowest adjudicated score or above the highest, between two of them that are too far apart or
    further than random adjudication leaves them, or in a bin with none.

    Args:
        score_F: of all that is flagged.
        weight_F: inverse inclusion probabilities.
        judged_F: which rows were adjudicated; one at least.
        group_F: seller and campaign, whose rows may be adjudicated together.
        most_unseen: share of the flags that may lie between two adjudicated scores.
    """
    num_bins = int(np.clip(judged_F.sum() // _FEWEST_PER_BIN, 1, MAX_BINS))
    bin_F = _bins(score_F, weight_F, num_bins)
    judged = np.bincount(bin_F[judged_F], weight_F[judged_F], minlength=num_bins)
    gap_F = _gaps(score_F, score_F[judged_F])
    between = np.bincount(gap_F[gap_F >= 0], weight_F[gap_F >= 0], minlength=len(score_F) + 1)
    is_wide = between > most_unseen * weight_F.sum()
    is_wide[[0, len(np.unique(score_F[judged_F]))]] = True
    is_wide[_not_random(score_F, judged_F, group_F)] = True
    unseen_F = (gap_F >= 0) & (is_wide[gap_F] | (judged == 0)[bin_F])
    whole = np.bincount(bin_F[~unseen_F], weight_F[~unseen_F], minlength=num_bins)
    scale: Floats = np.divide(whole, judged, out=np.ones_like(whole), where=judged > 0)
    return Coverage(
        judged_F=judged_F,
        weight_R=weight_F[judged_F] * scale[bin_F[judged_F]],
        most=float(scale.max()),
        unseen_F=unseen_F,
        ranges=_ranges(gap_F[unseen_F], score_F[unseen_F], weight_F[unseen_F]),
    )


def _bins(score_F: Floats, weight_F: Floats, num_bins: int) -> Integers:
    """Return the bin of each row; rows of one score share it."""
    order = np.argsort(score_F, kind="stable")
    below = np.cumsum(weight_F[order])
    first = np.searchsorted(below, below[-1] * np.arange(1, num_bins) / num_bins, side="right")
    return np.searchsorted(score_F[order][first], score_F, side="right").astype(np.int64)


def _gaps(score_F: Floats, judged_R: Floats) -> Integers:
    """Return how many adjudicated scores lie below each row: its gap between them; -1 where it has one of them."""
    gap_F = np.searchsorted(np.unique(judged_R), score_F).astype(np.int64)
    gap_F[np.isin(score_F, judged_R)] = -1
    return gap_F


def _not_random(score_F: Floats, judged_F: Flags, group_F: Integers) -> Integers:
    """Return the gaps between adjudicated scores that are too long, or too many of such length, to be chance.

    A gap is as rare as random adjudication would leave one so long, at the rate on the side where fewer are
    adjudicated; the ends and steps of a rate are no gaps. All gaps that are as rare as the commonest of them are
    given where there are more of those than chance makes of so many.

    Source:
        Johnson, Kemp and Kotz 2005, "Univariate Discrete Distributions", chapter 6 (beta-negative binomial).
    """
    rows_each = _rows_each(judged_F, group_F)
    order = np.lexsort((judged_F, score_F))
    gap_F = _gaps(score_F, score_F[judged_F])[order]
    inner_F = (gap_F > 0) & (gap_F < len(np.unique(score_F[judged_F])))
    gap_K, first_K, length_K = np.unique(gap_F[inner_F], return_index=True, return_counts=True)
    begin_K = np.flatnonzero(inner_F)[first_K]
    place_R = np.flatnonzero(judged_F[order])
    most = math.ceil(_NEIGHBOURS * rows_each)
    sides = [
        (judged_K / rows_each, others_K / rows_each)
        for judged_K, others_K in (
            _neighbours(place_R, begin_K, most, -1),
            _neighbours(place_R, begin_K + length_K, most, 1),
        )
    ]
    chance_K = _chance(length_K / rows_each, sides)
    rarest = np.argsort(chance_K, kind="stable")
    chances = chance_K[rarest]
    num_each = max(round(len(place_R) / rows_each) - 1, 1)
    usual = stats.binom.isf(_BY_CHANCE, num_each, chances) * rows_each
    too_many = np.flatnonzero((np.arange(1, len(chances) + 1) > usual) & (chances <= _RARE))
    found: Integers = gap_K[rarest[: too_many.max(initial=-1) + 1]]
    return found


def _rows_each(judged_F: Flags, group_F: Integers) -> float:
    """Return how many rows are adjudicated together as a rule: 1 where it is each by itself.

    Source:
        Kish 1965, "Survey Sampling" (design effect).
    """
    _, member_F = np.unique(group_F, return_inverse=True)
    rate = float(judged_F.mean())
    if rate == 1:
        return 1.0
    squares = float((np.bincount(member_F, judged_F - rate) ** 2).sum())
    return max(squares / (len(judged_F) * rate * (1 - rate)), 1.0)


def _neighbours(
    place_R: Integers, edge_K: Integers, most: int, side: int
) -> tuple[Integers, Integers]:
    """Return how many adjudicated rows lie near each gap on one side, and how many others among them.

    Args:
        place_R: where adjudicated rows lie among all.
        edge_K: where the gap begins, or the row after its end.
        most: adjudicated rows that are looked at.
        side: -1 before, 1 after.
    """
    before_K = np.searchsorted(place_R, edge_K)
    if side < 0:
        judged_K = np.minimum(before_K, most)
        rows_K = edge_K - place_R[before_K - judged_K]
    else:
        judged_K = np.minimum(len(place_R) - before_K, most)
        rows_K = place_R[before_K + judged_K - 1] - edge_K + 1
    return judged_K, rows_K - judged_K


def _chance(length_K: Floats, sides: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Return how often random adjudication leaves so long a gap, by the side of it that makes it likelier.

    The row next to a gap ends it, and says nothing of the rate. A side of few rows speaks only where both are.
    """
    chances = [
        special.betaln(judged_K, others_K + 1 + length_K) - special.betaln(judged_K, others_K + 1)
        for judged_K, others_K in sides
    ]
    few = [judged_K < _FEWEST_NEIGHBOURS for judged_K, _ in sides]
    before_K = np.where(few[0] & ~few[1], -np.inf, chances[0])
    after_K = np.where(few[1] & ~few[0], -np.inf, chances[1])
    likeliest_K: Floats = np.exp(np.maximum(before_K, after_K))
    return likeliest_K


def _ranges(gap_U: Integers, score_U: Floats, weight_U: Floats) -> str:
    gaps, member_U = np.unique(gap_U, return_inverse=True)
    heaviest = np.argsort(-np.bincount(member_U, weight_U), kind="stable").tolist()
    scores = [score_U[member_U == number] for number in heaviest[:_MOST_RANGES]]
    told = ", ".join(f"{one.min():.5g} to {one.max():.5g}" for one in scores)
    return told + (
        f" and {len(gaps) - _MOST_RANGES} ranges more" if len(gaps) > _MOST_RANGES else ""
    )
