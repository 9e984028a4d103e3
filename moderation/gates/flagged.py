"""What a tier flags, counted by listing or by seller, and what its precision is where some flags say nothing.

F flagged rows, R adjudicated ones of them or their sellers, U rows of scores where nobody looked, A both, S sellers.
"""

from dataclasses import dataclass

import numpy as np

from moderation.gates.coverage import Coverage
from moderation.gates.estimates import Proportion
from moderation.gates.evidence import Floats, Integers, ScoredSet, Words


@dataclass(frozen=True)
class Flagged:
    """Flagged listings, or the sellers of such."""

    right_R: Floats
    """Share that violates."""

    weight_R: Floats
    group_R: Integers

    @property
    def precision(self) -> float:
        """Weighted share of what is right."""
        return float((self.right_R * self.weight_R).sum() / self.weight_R.sum())

    def of_sellers(self, seller_R: Words) -> "Flagged":
        """Return share of right, weight and group of each seller; unknown ones are told apart by group.

        A seller is seen if any of its listings is, and more surely the more it has: the mean weight of its listings is
        the most that it can stand for, and one is the least. What is wrong counts for the most and what is right for
        the least, or guilty sellers of many listings would hide the innocent ones of a single listing.
        """
        unknown = np.char.add("\x1f", self.group_R.astype(str))
        _, first, member_R = np.unique(
            np.where(seller_R == "", unknown, seller_R), return_index=True, return_inverse=True
        )
        whole_S = np.bincount(member_R, self.weight_R)
        share_S = np.bincount(member_R, self.weight_R * self.right_R) / whole_S
        weight_S = np.maximum(whole_S / np.bincount(member_R), 1.0)
        counted_S = share_S + (1 - share_S) * weight_S
        return Flagged(share_S / counted_S, counted_S, self.group_R[first])


@dataclass(frozen=True)
class PartlySeen:
    """A precision of which some flags say nothing, as nobody adjudicated any of their scores."""

    seen: Proportion
    """Of the others."""

    share: float
    """Of the others among all."""

    def low(self, confidence: float) -> float:
        """Return the lower bound, with all wrong that nobody looked at.

        Source:
            Manski 1989, "Anatomy of the selection problem" (bounds without an assumption on what is missing).
        """
        return self.share * self.seen.low(confidence)

    def high(self, confidence: float) -> float:
        """Return the upper bound, with all right that nobody looked at."""
        return self.share * self.seen.high(confidence) + 1 - self.share


def count_flags(
    found: ScoredSet, column: int, row_F: Integers, covered: Coverage, *, by_seller: bool
) -> tuple[Flagged, Flagged]:
    """Return the adjudicated flags, and the same with all wrong that nobody looked at.

    Args:
        found: the set.
        column: of the policy.
        row_F: what is flagged.
        covered: what the adjudicated ones of those stand for.
        by_seller: count sellers, not listings.
    """
    row_R, row_U = row_F[covered.judged_F], row_F[covered.unseen_F]
    row_A = np.append(row_R, row_U)
    right_A = np.append(found.truth_NP[row_R, column].astype(np.float64), np.zeros(len(row_U)))
    weight_A = np.append(covered.weight_R, found.weight[row_U])
    seen = Flagged(right_A[: len(row_R)], covered.weight_R, found.group[row_R])
    worst = Flagged(right_A, weight_A, found.group[row_A])
    if not by_seller:
        return seen, worst
    return seen.of_sellers(found.seller_id[row_R]), worst.of_sellers(found.seller_id[row_A])


def seen_share(seen: Flagged, worst: Flagged) -> float:
    """Return what is left of the precision with all wrong that nobody looked at, as a share."""
    if seen.precision:
        return worst.precision / seen.precision
    return float(seen.weight_R.sum() / worst.weight_R.sum())
