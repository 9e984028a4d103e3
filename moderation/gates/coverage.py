"""Which flagged scores were looked at: what each adjudicated flag stands for, and the score ranges that lack truth.

F flagged rows, R adjudicated ones of them, U unseen ones.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_FEWEST_PER_BIN: Final = 30
MAX_BINS: Final = 5
_MOST_RANGES: Final = 3
"""That are named."""


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


def cover(score_F: Floats, weight_F: Floats, judged_F: Flags, *, most_unseen: float) -> Coverage:
    """Return what the adjudicated rows stand for, in bins of score that weigh the same.

    Bins are cut on all flags: cut on the adjudicated ones, the lowest would swallow every flag below them. Unseen is
    what lies below the lowest adjudicated score, between two of them that are too far apart, or in a bin with none.

    Args:
        score_F: of all that is flagged.
        weight_F: inverse inclusion probabilities.
        judged_F: which rows were adjudicated; one at least.
        most_unseen: share of the flags that may lie between two adjudicated scores, or above the highest.
    """
    num_bins = int(np.clip(judged_F.sum() // _FEWEST_PER_BIN, 1, MAX_BINS))
    bin_F = _bins(score_F, weight_F, num_bins)
    judged = np.bincount(bin_F[judged_F], weight_F[judged_F], minlength=num_bins)
    gap_F = _gaps(score_F, score_F[judged_F])
    between = np.bincount(gap_F[gap_F >= 0], weight_F[gap_F >= 0], minlength=gap_F.max() + 2)
    is_wide = between > most_unseen * weight_F.sum()
    is_wide[0] = True
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


def _bins(score_F: Floats, weight_F: Floats, num_bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each row; rows of one score share it."""
    order = np.argsort(score_F, kind="stable")
    below = np.cumsum(weight_F[order])
    first = np.searchsorted(below, below[-1] * np.arange(1, num_bins) / num_bins, side="right")
    return np.searchsorted(score_F[order][first], score_F, side="right").astype(np.int64)


def _gaps(score_F: Floats, judged_R: Floats) -> npt.NDArray[np.int64]:
    """Return how many adjudicated scores lie below each row: its gap between them; -1 where it has one of them."""
    gap_F = np.searchsorted(np.unique(judged_R), score_F).astype(np.int64)
    gap_F[np.isin(score_F, judged_R)] = -1
    return gap_F


def _ranges(gap_U: npt.NDArray[np.int64], score_U: Floats, weight_U: Floats) -> str:
    gaps, member_U = np.unique(gap_U, return_inverse=True)
    heaviest = np.argsort(-np.bincount(member_U, weight_U), kind="stable").tolist()
    scores = [score_U[member_U == number] for number in heaviest[:_MOST_RANGES]]
    told = ", ".join(f"{one.min():.5g} to {one.max():.5g}" for one in scores)
    return told + (
        f" and {len(gaps) - _MOST_RANGES} ranges more" if len(gaps) > _MOST_RANGES else ""
    )
