"""How far the rate of some rows is from that of all others, with intervals for rows that come in groups.

R rows with a known outcome, V subsets of them, S strata, G groups (sellers and campaigns).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse, special, stats

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_FEWEST_GROUPS: Final = 2.0


@dataclass(frozen=True)
class Gaps:
    """The gap of each of V subsets: its rate minus that of all other rows."""

    value_V: Floats
    """NaN where a subset, or what it is compared with, is empty."""

    centre_V: Floats
    """The same with the invented rows: the middle of the intervals."""

    error_V: Floats
    """Standard error; infinite where nothing is known."""

    degrees_V: Floats
    """Degrees of freedom of the error."""

    rows_V: Integers
    rate_V: Floats
    other_rate_V: Floats
    """Both standardised to the strata of the pooled rows."""

    def reach(self, confidence: float) -> Floats:
        """Return how far each figure may be off, on one side: reach_V."""
        reach_V: Floats = special.stdtrit(self.degrees_V, confidence) * self.error_V
        return reach_V

    def p_values(self, tolerated: float, side: int) -> Floats:
        """Return how likely so large a gap is where the true one is `tolerated`: p_V, 1 where nothing is known.

        Args:
            tolerated: gap that is nobody's fault yet, at least 0.
            side: 1 for a raised rate, -1 for a lowered one.
        """
        known_V = np.isfinite(self.error_V)
        distance_V = np.where(known_V, side * self.centre_V - tolerated, 0.0)
        p_V = special.stdtr(self.degrees_V, -distance_V / self.error_V)
        return np.where(known_V, p_V, 1.0)


@dataclass(frozen=True)
class LargestGap:
    """The largest absolute gap of several subsets, as a spread.

    The largest of many observed gaps is too large even where none is real. So it is shown large only where one gap is
    at the confidence shared out over all of them and both directions, and shown small where every single one is: for
    the true largest gap alone that holds wrongly with 1 - confidence at most.

    Source:
        Berger 1982 (intersection-union tests); Bonferroni for the union.
    """

    gaps: Gaps

    @property
    def value(self) -> float:
        """The largest observed gap."""
        return float(np.nanmax(np.abs(self.gaps.value_V)))

    def low(self, confidence: float) -> float:
        """Return the lower bound of the largest gap."""
        shared = 1 - (1 - confidence) / (2 * len(self.gaps.value_V))
        bound_V = np.abs(self.gaps.centre_V) - self.gaps.reach(shared)
        return float(np.nanmax(np.append(bound_V, 0.0)))

    def high(self, confidence: float) -> float:
        """Return the upper bound of the largest gap; infinite where a subset is empty."""
        bound_V = np.abs(self.gaps.centre_V) + self.gaps.reach(confidence)
        return float(np.where(np.isfinite(bound_V), bound_V, math.inf).max())


@dataclass(frozen=True)
class Discoveries:
    """How many of many hypotheses are rejected, with the share of false rejections controlled.

    Source:
        Benjamini and Hochberg 1995, "Controlling the false discovery rate".
    """

    p_H: Floats
    share_false: float
    """Of the discoveries, on average at most."""

    @property
    def value(self) -> float:
        """The number of discoveries."""
        return float(len(self.found(self.share_false)))

    def low(self, confidence: float) -> float:
        """Return the number of discoveries at 1 - confidence, where that is stricter."""
        return float(len(self.found(min(self.share_false, 1 - confidence))))

    def high(self, confidence: float) -> float:
        """Return the number of discoveries."""
        return self.value

    def found(self, share_false: float) -> Integers:
        """Return which hypotheses are discoveries, the surest first.

        >>> Discoveries(np.array([0.9, 0.001, 0.02]), 0.05).found(0.05).tolist()
        [1, 2]
        """
        order = np.argsort(self.p_H, kind="stable")
        steps = share_false * np.arange(1, len(order) + 1) / max(len(order), 1)
        last = np.flatnonzero(self.p_H[order] <= steps).max(initial=-1)
        return order[: last + 1]


def gaps_of(hit_R: Flags, inside_VR: Flags, stratum_R: Integers, group_R: Integers) -> Gaps:
    """Return how far the share of hits in each subset is from that in all other rows, at the pooled mix of strata.

    A stratum that a subset (or all others) lacks is left out for it. The variance is that of a sum over groups, a
    group on both sides counted as one; two invented groups a cell, one of hits alone and one without, keep it from
    vanishing where no hit or nothing but hits was seen. Degrees of freedom count groups as if of equal size.

    Args:
        hit_R: what the rate is of.
        inside_VR: the subsets.
        stratum_R: 0 to S-1; what rates are made comparable by.
        group_R: seller and campaign.

    Source:
        Agresti and Caffo 2000 (invented rows); Liang and Zeger 1986 (groups); Satterthwaite 1946 (degrees).
    """
    num_rows, num_strata = len(hit_R), int(stratum_R.max(initial=0)) + 1
    stratum_RS = (stratum_R[:, None] == np.arange(num_strata)).astype(np.float64)
    sides = inside_VR.astype(np.float64), (~inside_VR).astype(np.float64)
    counts = [side_VR @ stratum_RS for side_VR in sides]
    hits = [side_VR @ (stratum_RS * hit_R[:, None]) for side_VR in sides]
    both_VS = (counts[0] > 0) & (counts[1] > 0)
    mix_VS = np.where(both_VS, counts[0] + counts[1], 0.0)
    mix_VS /= np.maximum(mix_VS.sum(axis=1, keepdims=True), 1.0)
    _, member_R = np.unique(group_R, return_inverse=True)
    cells = (np.ones(num_rows), (member_R, np.arange(num_rows)))
    rows_of_GR = sparse.csr_matrix(cells, shape=(int(member_R.max(initial=-1)) + 1, num_rows))
    parts = [
        _Side.of(side_VR, (count_VS, hits_VS, mix_VS), hit_R, stratum_R, rows_of_GR)
        for side_VR, count_VS, hits_VS in zip(sides, counts, hits, strict=True)
    ]
    inside, outside = parts
    shared_V = (inside.pull_GV * outside.pull_GV).sum(axis=0)
    variance_V = inside.variance_V + outside.variance_V - 2 * shared_V
    variance_V = np.maximum(variance_V, np.maximum(inside.invented_V, outside.invented_V))
    squares_V = [one.variance_V**2 / np.maximum(one.groups_V - 1, 1e-9) for one in parts]
    known_V = both_VS.any(axis=1) & (
        np.minimum(inside.groups_V, outside.groups_V) >= _FEWEST_GROUPS
    )
    degrees_V = (inside.variance_V + outside.variance_V) ** 2 / np.maximum(sum(squares_V), 1e-300)
    some_V = both_VS.any(axis=1)
    return Gaps(
        value_V=np.where(some_V, inside.rate_V - outside.rate_V, np.nan),
        centre_V=np.where(some_V, inside.shrunk_V - outside.shrunk_V, np.nan),
        error_V=np.where(known_V, np.sqrt(variance_V), np.inf),
        degrees_V=np.maximum(degrees_V, 1.0),
        rows_V=inside_VR.sum(axis=1),
        rate_V=np.where(some_V, inside.rate_V, np.nan),
        other_rate_V=np.where(some_V, outside.rate_V, np.nan),
    )


@dataclass(frozen=True)
class _Side:
    """One side of every comparison: the subsets, or all others."""

    rate_V: Floats
    shrunk_V: Floats
    """The rate with the invented groups."""

    variance_V: Floats
    invented_V: Floats
    """The part of the variance that the invented groups bring."""

    pull_GV: Floats
    """What each group adds to the error of the rate."""

    groups_V: Floats
    """As many groups of equal size would be as informative."""

    @classmethod
    def of(
        cls,
        side_VR: Floats,
        cells: tuple[Floats, Floats, Floats],
        hit_R: Flags,
        stratum_R: Integers,
        rows_of_GR: sparse.csr_matrix,
    ) -> "_Side":
        """Return one side; `cells` are counts, hits and the pooled mix by subset and stratum."""
        count_VS, hits_VS, mix_VS = cells
        rate_VS = hits_VS / np.maximum(count_VS, 1.0)
        part_VS = mix_VS / np.maximum(count_VS, 1.0)
        pull_VR = side_VR * part_VS[:, stratum_R] * (hit_R - rate_VS[:, stratum_R])
        pull_GV = rows_of_GR @ pull_VR.T
        size_GV = rows_of_GR @ side_VR.T
        squares_V = np.maximum((size_GV**2).sum(axis=0), 1e-300)
        rows_V = side_VR.sum(axis=1)
        groups_V = rows_V**2 / squares_V
        usual_V1 = np.maximum(squares_V / np.maximum(rows_V, 1.0), 1.0)[:, None]
        shrunk_VS = (hits_VS + usual_V1) / (count_VS + 2 * usual_V1)
        residue_VS = usual_V1**2 * (shrunk_VS**2 + (1 - shrunk_VS) ** 2)
        invented_V = (mix_VS**2 * residue_VS / (count_VS + 2 * usual_V1) ** 2).sum(axis=1)
        seen_V = (pull_GV**2).sum(axis=0) * groups_V / np.maximum(groups_V - 1, 0.5)
        return cls(
            rate_V=(mix_VS * rate_VS).sum(axis=1),
            shrunk_V=(mix_VS * shrunk_VS).sum(axis=1),
            variance_V=seen_V + invented_V,
            invented_V=invented_V,
            pull_GV=pull_GV,
            groups_V=groups_V,
        )


def rows_to_see(rate: float, other_rate: float, *, confidence: float = 0.975) -> int:
    """Return how many rows a side it takes to tell two rates apart, with 80 % power.

    >>> rows_to_see(0.8, 0.7), rows_to_see(0.001, 0.002)
    (294, 23511)

    Source:
        Fleiss, Levin and Paik 2003, "Statistical Methods for Rates and Proportions", chapter 4.
    """
    middle = (rate + other_rate) / 2
    apart = float(stats.norm.ppf(confidence)) * math.sqrt(2 * middle * (1 - middle))
    power = math.sqrt(rate * (1 - rate) + other_rate * (1 - other_rate))
    wanted = apart + float(stats.norm.ppf(0.8)) * power
    return math.ceil((wanted / (rate - other_rate)) ** 2)


def rows_to_certify(limit: float, rate: float, *, confidence: float = 0.95, sides: int = 2) -> int:
    """Return how many rows a side it takes to show a gap within `limit` where there is none, with 80 % power.

    >>> rows_to_certify(0.05, 0.8, sides=1), rows_to_certify(0.05, 0.8), rows_to_certify(0.15, 0.8)
    (792, 1097, 122)

    Args:
        limit: largest gap that is still certified.
        rate: of both sides.
        confidence: one-sided.
        sides: 2 where the gap may lie on either side, as in the gates.

    Source:
        Chow, Shao and Wang 2008, "Sample Size Calculations in Clinical Research", chapter 4 (equivalence).
    """
    power = 1 - (1 - 0.8) / sides
    wanted = float(stats.norm.ppf(confidence)) + float(stats.norm.ppf(power))
    return math.ceil(2 * rate * (1 - rate) * (wanted / limit) ** 2)
