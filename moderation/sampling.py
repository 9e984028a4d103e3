"""Which rows an epoch of training sees, and how to undo that choice in the logits.

Violations are rare, so each row with one is seen once an epoch, against a bounded number of rows without any. Axes:
N rows of the snapshot, R rows that may be drawn, P policies.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Drawing by the full weight would leave out the few reviewed rows that resemble violations; drawing without weights
# would show little of what traffic looks like. The root lies between; the prior is corrected either way.
_WEIGHT_POWER: Final = 0.5
_LEAST_MASS: Final = 0.5


@dataclass(frozen=True)
class EpochPlan:
    """How often each row is expected in one epoch."""

    rows_R: Indices
    expected_R: Floats
    """1 for a row with a violation; for the others their share of the draws."""

    num_violating: int
    """The first rows of `rows_R` are those with a violation."""

    @classmethod
    def of(
        cls,
        index_R: Indices,
        truth_NP: npt.NDArray[np.int8],
        weight_N: Floats,
        negatives_per_positive: float,
    ) -> "EpochPlan":
        """Return the plan over the rows `index_R`; rows whose truth is unknown throughout are left out."""
        truth_RP = truth_NP[index_R]
        is_violating_R = (truth_RP == 1).any(1)
        is_known_R = (truth_RP >= 0).any(1)
        violating, others = index_R[is_violating_R], index_R[~is_violating_R & is_known_R]
        num_draws = len(others)
        if len(violating):
            num_draws = min(num_draws, math.ceil(negatives_per_positive * len(violating)))
        share = weight_N[others] ** _WEIGHT_POWER
        share = num_draws * share / share.sum() if len(others) else share
        expected_R = np.concatenate([np.ones(len(violating)), share])
        return cls(np.concatenate([violating, others]), expected_R, len(violating))

    @property
    def num_draws(self) -> int:
        """Rows of one epoch."""
        return round(float(self.expected_R.sum()))

    def draw(self, seed: int, epoch: int) -> Indices:
        """Return the rows of one epoch in random order; the same seed and epoch give the same rows.

        Rows without a violation are drawn by systematic sampling: each is drawn its expected number of times,
        rounded down or up.
        """
        rng = np.random.default_rng([seed, epoch])
        others, expected = self.rows_R[self.num_violating :], self.expected_R[self.num_violating :]
        drawn = others
        if len(others):
            shuffled = rng.permutation(len(others))
            bounds = np.cumsum(expected[shuffled])
            num_draws = round(float(bounds[-1]))
            places = np.searchsorted(bounds, rng.random() + np.arange(num_draws), side="right")
            drawn = others[shuffled[places.clip(0, len(others) - 1)]]
        rows: Indices = np.concatenate([self.rows_R[: self.num_violating], drawn])
        return rng.permutation(rows)

    def shift_P(
        self,
        truth_NP: npt.NDArray[np.int8],
        weight_N: Floats,
        is_seen_N: npt.NDArray[np.bool_],
    ) -> Floats:
        """Return what takes a logit from the drawn base rate to that of the weights.

        Args:
            truth_NP: 1 violates, 0 does not, -1 unknown.
            weight_N: inverse inclusion probabilities.
            is_seen_N: rows that the head answers for: those that have its modality.

        Source:
            King and Zeng 2001, "Logistic Regression in Rare Events Data" (prior correction).
        """
        seen_R = is_seen_N[self.rows_R]
        rows_R, expected_R = self.rows_R[seen_R], self.expected_R[seen_R]
        truth_RP, weight_R = truth_NP[rows_R], weight_N[rows_R]
        return _log_odds_P(truth_RP, weight_R) - _log_odds_P(truth_RP, expected_R)


def _log_odds_P(truth_RP: npt.NDArray[np.int8], mass_R: Floats) -> Floats:
    """Return the log-odds of a violation; a class without rows counts half a row."""
    positive_P = np.maximum((mass_R[:, None] * (truth_RP == 1)).sum(0), _LEAST_MASS)
    negative_P = np.maximum((mass_R[:, None] * (truth_RP == 0)).sum(0), _LEAST_MASS)
    log_odds_P: Floats = np.log(positive_P) - np.log(negative_P)
    return log_odds_P
