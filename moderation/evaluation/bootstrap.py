"""Intervals by resampling groups: sellers and campaigns are drawn, never rows; models share the draws.

Axes: N rows, G groups, B resamples, S steps (scores at which recall changes).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Truth = npt.NDArray[np.int8]

DEFAULT_RESAMPLES: Final = 1_000
_CHUNK_CELLS: Final = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A figure with the range in which it lies at a stated confidence."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, values_B: Floats, confidence: float = 0.95) -> "Interval":
        """Return the percentile interval; resamples without a defined value are left out."""
        defined = values_B[np.isfinite(values_B)]
        if not len(defined):
            return cls(value, float("nan"), float("nan"))
        tail = (1 - confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return cls(value, float(low), float(high))


@dataclass(frozen=True)
class GroupBootstrap:
    """How often each group is drawn in each resample; one for all models, so that differences are paired."""

    member_N: Integers
    """Index of the group of each row."""

    draws_GB: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, group_N: Integers, *, num_resamples: int, seed: int) -> "GroupBootstrap":
        """Return the draws of whole groups, with replacement."""
        groups, member_N = np.unique(group_N, return_inverse=True)
        rng = np.random.default_rng(seed)
        draws_GB = np.empty((len(groups), num_resamples), np.uint8)
        for resample in range(num_resamples):
            drawn = np.bincount(rng.integers(0, len(groups), len(groups)), minlength=len(groups))
            draws_GB[:, resample] = np.minimum(drawn, 255)
        return cls(member_N.astype(np.int64), draws_GB)

    @property
    def num_resamples(self) -> int:
        """B, the number of resamples."""
        return int(self.draws_GB.shape[1])

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "GroupBootstrap":
        """Return the same draws for some of the rows."""
        return GroupBootstrap(self.member_N[rows], self.draws_GB)

    def sums(self, values_N: Floats) -> Floats:
        """Return the resampled sum of a value over rows: sums_B."""
        values_G = np.bincount(self.member_N, values_N, minlength=len(self.draws_GB))
        sums_B = np.empty(self.num_resamples)
        for part, draws_GC in self.chunks(len(self.draws_GB)):
            sums_B[part] = np.einsum("g,gc->c", values_G, draws_GC)
        return sums_B

    def ratio(self, numerator_N: Floats, denominator_N: Floats) -> Interval:
        """Return the ratio of two sums (a precision, a recall, a rate) with its interval."""
        total = float(denominator_N.sum())
        value = float(numerator_N.sum()) / total if total else float("nan")
        below_B = self.sums(denominator_N)
        ratio_B = np.full(self.num_resamples, np.nan)
        np.divide(self.sums(numerator_N), below_B, out=ratio_B, where=below_B > 0)
        return Interval.of(value, ratio_B)

    def chunks(self, cells_per_resample: int) -> Iterator[tuple[slice, Floats]]:
        """Yield (resamples, draws) in parts whose arrays stay small."""
        size = max(1, _CHUNK_CELLS // max(cells_per_resample, len(self.draws_GB), 1))
        for begin in range(0, self.num_resamples, size):
            part = slice(begin, min(begin + size, self.num_resamples))
            yield part, self.draws_GB[:, part].astype(np.float64)


@dataclass(frozen=True)
class Ranking:
    """Rows sorted once by score, so that each resample costs one pass over the violations.

    Between two violations only the weight of the negatives matters: it is kept per step and
    group, and a resample multiplies it by how often each group was drawn.
    """

    right_SG: sparse.csr_matrix
    wrong_SG: sparse.csr_matrix

    @classmethod
    def of(
        cls, score_N: Floats, truth_N: Truth, weight_N: Floats, bootstrap: GroupBootstrap
    ) -> "Ranking":
        """Return the ranking of rows by a score; equal scores share a step."""
        order = np.argsort(-score_N, kind="stable")
        score, truth = score_N[order], truth_N[order]
        block = np.cumsum(np.append(False, score[1:] < score[:-1])) if len(score) else order
        with_positive = np.unique(block[truth == 1])
        step = np.searchsorted(with_positive, block)
        counts = step < len(with_positive)  # below the last violation nothing changes recall
        shape = (len(with_positive), len(bootstrap.draws_GB))
        matrices = []
        for value in (1, 0):
            chosen = counts & (truth == value)
            rows = order[chosen]
            entries = (weight_N[rows], (step[chosen], bootstrap.member_N[rows]))
            matrices.append(sparse.csr_matrix(entries, shape=shape))
        return cls(*matrices)

    @cached_property
    def _plain(self) -> tuple[Floats, Floats]:
        ones_G1 = np.ones((self.right_SG.shape[1], 1))
        return self.right_SG @ ones_G1, self.wrong_SG @ ones_G1

    def average_precision(self) -> float:
        """Return the average precision of the rows as they are."""
        return float(_average_precision(*self._plain)[0])

    def resampled(self, bootstrap: GroupBootstrap) -> Floats:
        """Return the average precision of each resample; NaN where it drew no violation."""
        values_B = np.empty(bootstrap.num_resamples)
        for part, draws_GC in bootstrap.chunks(self.right_SG.shape[0]):
            values_B[part] = _average_precision(self.right_SG @ draws_GC, self.wrong_SG @ draws_GC)
        return values_B


def paired_difference(
    first: Ranking, second: Ranking, bootstrap: GroupBootstrap, *, confidence: float = 0.95
) -> Interval:
    """Return how much more average precision the first ranking has, both judged on the same draws."""
    value = first.average_precision() - second.average_precision()
    difference_B = first.resampled(bootstrap) - second.resampled(bootstrap)
    return Interval.of(value, difference_B, confidence)


def _average_precision(right_SB: Floats, wrong_SB: Floats) -> Floats:
    """Return the average precision of each column of weights per step."""
    found_SB, false_SB = np.cumsum(right_SB, axis=0), np.cumsum(wrong_SB, axis=0)
    flagged_SB = found_SB + false_SB
    precision_SB = np.divide(
        found_SB, flagged_SB, out=np.zeros_like(found_SB), where=flagged_SB > 0
    )
    total_B = right_SB.sum(axis=0)
    area_B = (right_SB * precision_SB).sum(axis=0)
    average_B: Floats = np.full(len(total_B), np.nan)
    np.divide(area_B, total_B, out=average_B, where=total_B > 0)
    return average_B
