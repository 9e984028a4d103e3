"""Which rows an epoch of training sees, and how to undo that choice in the logits.

Violations are rare, so each row with one is seen once an epoch, against a bounded number of rows without any. An
emphasised row is drawn as many times as often as others of its class. It then counts for more in the loss, on purpose;
only the base rate is given back in the logits, and calibration is fitted on rows as they come. Axes: N rows of the
snapshot, R rows that may be drawn, P policies.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.snapshot import Snapshot

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Drawing by the full weight would leave out the few reviewed rows that resemble violations; drawing without weights
# would show little of what traffic looks like. The root lies between; the prior is corrected either way.
_WEIGHT_POWER: Final = 0.5
_LEAST_MASS: Final = 0.5


@dataclass(frozen=True)
class Teaching:
    """What N rows teach, and how much each counts."""

    truth_NP: npt.NDArray[np.int8]
    """1 violates, 0 does not, -1 unknown."""

    weight_N: Floats
    """Inverse inclusion probabilities."""

    emphasis_N: Floats | None = None
    """How many times as often a row is drawn, at least 1; None: no row more than another."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Teaching":
        """Return what the rows of a snapshot teach."""
        return cls(snapshot.truth_NP(), snapshot.weight, snapshot.emphasis)


@dataclass(frozen=True)
class EpochPlan:
    """How often each row is expected in one epoch."""

    rows_R: Indices
    expected_R: Floats
    """For a row with a violation its emphasis, usually 1; for the others their share of the draws."""

    num_violating: int
    """The first rows of `rows_R` are those with a violation."""

    @classmethod
    def of(
        cls,
        index_R: Indices,
        taught: Teaching,
        negatives_per_positive: float,
    ) -> "EpochPlan":
        """Return the plan over the rows `index_R`; rows whose truth is unknown throughout are left out.

        Args:
            index_R: rows that may be drawn.
            taught: truth, weight and emphasis of all rows.
            negatives_per_positive: rows without a violation that are drawn for each row with one.
        """
        weight_N, emphasis_N = taught.weight_N, taught.emphasis_N
        if emphasis_N is None:
            emphasis_N = np.ones(len(weight_N))
        truth_RP = taught.truth_NP[index_R]
        is_violating_R = (truth_RP == 1).any(1)
        is_known_R = (truth_RP >= 0).any(1)
        violating, others = index_R[is_violating_R], index_R[~is_violating_R & is_known_R]
        num_draws = len(others)
        if len(violating):
            num_draws = min(num_draws, math.ceil(negatives_per_positive * len(violating)))
        share = weight_N[others] ** _WEIGHT_POWER * emphasis_N[others]
        share = num_draws * share / share.sum() if len(others) else share
        expected_R = np.concatenate([_whole(emphasis_N[violating]), share])
        return cls(np.concatenate([violating, others]), expected_R, len(violating))

    @property
    def num_draws(self) -> int:
        """Rows of one epoch."""
        return round(float(self.expected_R.sum()))

    def draw(self, seed: int, epoch: int) -> Indices:
        """Return the rows of one epoch in random order; the same seed and epoch give the same rows.

        Each row is drawn its expected number of times, rounded down or up.
        """
        rng = np.random.default_rng([seed, epoch])
        violating, others = np.split(np.arange(len(self.rows_R)), [self.num_violating])
        shuffled = rng.permutation(others)
        start = np.random.default_rng([seed, epoch, 2]).random()
        places = np.concatenate(
            [
                _systematic(violating, self.expected_R, start),
                _systematic(shuffled, self.expected_R, rng.random()),
            ]
        )
        return rng.permutation(self.rows_R[places])

    def shift_P(self, taught: Teaching, is_seen_N: npt.NDArray[np.bool_]) -> Floats:
        """Return what takes a logit from the drawn base rate to that of the weights.

        Args:
            taught: truth and weight of all rows.
            is_seen_N: rows that the head answers for: those that have its modality.

        Source:
            King and Zeng 2001, "Logistic Regression in Rare Events Data" (prior correction).
        """
        seen_R = is_seen_N[self.rows_R]
        rows_R, expected_R = self.rows_R[seen_R], self.expected_R[seen_R]
        truth_RP, weight_R = taught.truth_NP[rows_R], taught.weight_N[rows_R]
        return _log_odds_P(truth_RP, weight_R) - _log_odds_P(truth_RP, expected_R)


def _whole(emphasis_V: Floats) -> Floats:
    """Return how often each row is drawn, so that all together fill whole draws."""
    total = emphasis_V.sum()
    return emphasis_V * (math.ceil(total) / total) if len(emphasis_V) else emphasis_V


def _systematic(places_R: Indices, expected_R: Floats, start: float) -> Indices:
    """Return places by systematic sampling in their order: each as often as expected, rounded down or up.

    Args:
        places_R: where in `expected_R` each stands.
        expected_R: expected number of draws; those of `places_R` sum to a whole number.
        start: in [0, 1), where the first draw falls.
    """
    if not len(places_R):
        return places_R
    bounds = np.cumsum(expected_R[places_R])
    num_draws = round(float(bounds[-1]))
    found = np.searchsorted(bounds, start + np.arange(num_draws), side="right")
    drawn_D: Indices = places_R[found.clip(0, len(places_R) - 1)]
    return drawn_D


def _log_odds_P(truth_RP: npt.NDArray[np.int8], mass_R: Floats) -> Floats:
    """Return the log-odds of a violation; a class without rows counts half a row."""
    positive_P = np.maximum((mass_R[:, None] * (truth_RP == 1)).sum(0), _LEAST_MASS)
    negative_P = np.maximum((mass_R[:, None] * (truth_RP == 0)).sum(0), _LEAST_MASS)
    log_odds_P: Floats = np.log(positive_P) - np.log(negative_P)
    return log_odds_P
