"""Calibration lines and counts, resampled by groups, with what a thinned sample may have missed.

R rows with known truth, S narrow bins of their log-odds, G groups, B resamples, K sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse, special

from moderation.evaluation import metrics
from moderation.evaluation.bootstrap import GroupBootstrap
from moderation.gates.estimates import Resampled, groups_worth

Floats = npt.NDArray[np.float64]
Figure = Literal["slope", "intercept", "shift"]

FIGURES: Final[tuple[Figure, ...]] = ("slope", "intercept", "shift")

_FURTHEST_LOG_ODDS: Final = 30.0
_BIN_WIDTH, _BIN_WIDTH_FAR, _FAR = 0.1, 0.5, 6.0
"""Of log-odds, near even odds and far from them: a slope is off by some one in a thousand."""

_MAX_STEPS: Final = 25
_CONVERGED: Final = 1e-4


@dataclass(frozen=True)
class Missed:
    """A violation of the kind that a sample may well have missed: one invented row that half of the error hangs on.

    Where audits of 1 in 60 found no violation at all, resampling what was found cannot show that there may be 180:
    one invented audit, drawn a Poisson number of times, gives the usual bound of three where none was seen.
    """

    weight: float
    log_odds: float
    count_B: Floats

    @classmethod
    def of(cls, log_odds_R: Floats, weight_R: Floats, num_resamples: int, seed: int) -> "Missed":
        """Return the violation that the scores themselves expect, where a row's weight matters most."""
        chance_R = 1 / (1 + np.exp(-log_odds_R))
        share_R = weight_R**2 * chance_R
        share_R = share_R / max(float(share_R.sum()), 1e-300)
        count_B = np.random.default_rng(seed).poisson(1.0, num_resamples).astype(np.float64)
        return cls(float(share_R @ weight_R), float(share_R @ log_odds_R), count_B)


@dataclass(frozen=True)
class Widened:
    """A resampled figure that also bears one violation more of the kind that may have been missed."""

    plain: Resampled
    missed: Resampled

    def low(self, confidence: float) -> float:
        """Return the lower of both bounds."""
        return min(self.plain.low(confidence), self.missed.low(confidence))

    def high(self, confidence: float) -> float:
        """Return the higher of both bounds."""
        return max(self.plain.high(confidence), self.missed.high(confidence))


@dataclass(frozen=True)
class LineFit:
    """The calibration line of some rows, and that of each resample."""

    line: metrics.CalibrationLine
    spread: Mapping[Figure, Widened]


def fit_line(
    log_odds_R: Floats,
    truth_R: npt.NDArray[np.int8],
    weight_R: Floats,
    draws: GroupBootstrap,
    *,
    seed: int,
) -> LineFit:
    """Return slope, intercept and shift with their spreads: every resample is refitted, on narrow bins of log-odds.

    Args:
        log_odds_R: finite, not all equal.
        truth_R: 1 or 0, both there.
        weight_R: inverse inclusion probabilities.
        draws: of the groups of these rows.
        seed: of the invented violation.
    """
    line = metrics.calibration_line(log_odds_R, truth_R, weight_R)
    score_R = np.clip(log_odds_R, -_FURTHEST_LOG_ODDS, _FURTHEST_LOG_ODDS)
    score_S, total_SB, right_SB = _resampled_bins(score_R, truth_R, weight_R, draws)
    missed = Missed.of(score_R, weight_R, draws.num_resamples, seed)
    more_1B = missed.count_B[None] * missed.weight
    plain = _refit(line, score_S, total_SB, right_SB)
    widened = _refit(
        line,
        np.append(score_S, missed.log_odds),
        np.concatenate([total_SB, more_1B]),
        np.concatenate([right_SB, more_1B]),
    )
    right_R = truth_R == 1
    degrees = groups_worth(weight_R[right_R], draws.member_N[right_R]) - 1
    spread: dict[Figure, Widened] = {
        figure: Widened(
            *(
                Resampled(getattr(line, figure), one[figure], degrees, groups_of(truth_R, draws))
                for one in (plain, widened)
            )
        )
        for figure in FIGURES
    }
    return LineFit(line, spread)


def groups_of(truth_R: npt.NDArray[np.int8], draws: GroupBootstrap) -> float:
    """Return how many groups of equal size the violations are worth.

    Whatever they weigh: what heavy ones may hide is in the invented violation already, and percentiles further out
    for their sake held back one calibrated candidate in six.
    """
    group_V = draws.member_N[truth_R == 1]
    return groups_worth(np.ones(len(group_V)), group_V)


def resampled_sums(draws: GroupBootstrap, values_KR: Floats) -> Floats:
    """Return the resampled sums of several values over the same rows: sums_KB."""
    shown, member_R = np.unique(draws.member_N, return_inverse=True)  # a slice shows few groups
    few = GroupBootstrap(member_R, draws.draws_GB[shown])
    values_KG = np.stack(
        [np.bincount(member_R, values_R, minlength=len(shown)) for values_R in values_KR]
    )
    sums_KB = np.empty((len(values_KR), draws.num_resamples))
    for part, draws_GC in few.chunks(len(shown)):
        sums_KB[:, part] = values_KG @ draws_GC
    return sums_KB


def _resampled_bins(
    score_R: Floats, truth_R: npt.NDArray[np.int8], weight_R: Floats, draws: GroupBootstrap
) -> tuple[Floats, Floats, Floats]:
    """Return the mean score of each narrow bin, and its resampled weight and weight of violations."""
    far_R = np.maximum(np.abs(score_R) - _FAR, 0.0)
    place_R = (np.abs(score_R) - far_R) / _BIN_WIDTH + far_R / _BIN_WIDTH_FAR
    _, bin_R = np.unique(np.floor(np.sign(score_R) * place_R), return_inverse=True)
    weight_S = np.bincount(bin_R, weight_R)
    score_S = np.bincount(bin_R, weight_R * score_R) / weight_S
    shape = (len(weight_S), len(draws.draws_GB))
    cells = (bin_R, draws.member_N)
    total_SG = sparse.csr_matrix((weight_R, cells), shape=shape)
    right_SG = sparse.csr_matrix((weight_R * (truth_R == 1), cells), shape=shape)
    right_SG.eliminate_zeros()
    total_SB, right_SB = (np.empty((shape[0], draws.num_resamples)) for _ in range(2))
    for part, draws_GC in draws.chunks(shape[1]):
        total_SB[:, part], right_SB[:, part] = total_SG @ draws_GC, right_SG @ draws_GC
    return score_S, total_SB, right_SB


def _refit(
    line: metrics.CalibrationLine, score_S: Floats, total_SB: Floats, right_SB: Floats
) -> dict[Figure, Floats]:
    """Return the line of each resample by Newton's method from the line of all rows."""
    num = total_SB.shape[1]
    slope_B, intercept_B, shift_B = (
        np.full(num, start) for start in (line.slope, line.intercept, line.shift)
    )
    for _ in range(_MAX_STEPS):
        chance_SB = special.expit(score_S[:, None] * slope_B + intercept_B)
        pull_SB = right_SB - total_SB * chance_SB
        curve_SB = total_SB * chance_SB * (1 - chance_SB)
        pull_B, pull_slope_B = pull_SB.sum(axis=0), score_S @ pull_SB
        ii_B, si_B, ss_B = curve_SB.sum(axis=0), score_S @ curve_SB, score_S**2 @ curve_SB
        inverse_B = 1 / np.maximum(ss_B * ii_B - si_B**2, 1e-12)
        step_slope_B = _kept_short((ii_B * pull_slope_B - si_B * pull_B) * inverse_B)
        step_B = _kept_short((ss_B * pull_B - si_B * pull_slope_B) * inverse_B)
        chance_SB = special.expit(score_S[:, None] + shift_B)
        pull_B = (right_SB - total_SB * chance_SB).sum(axis=0)
        curve_B = (total_SB * chance_SB * (1 - chance_SB)).sum(axis=0)
        step_shift_B = _kept_short(pull_B / np.maximum(curve_B, 1e-12))
        slope_B, intercept_B = slope_B + step_slope_B, intercept_B + step_B
        shift_B = shift_B + step_shift_B
        if max(np.abs(one).max() for one in (step_slope_B, step_B, step_shift_B)) < _CONVERGED:
            break
    found_B = (right_SB.sum(axis=0) > 0) & (right_SB.sum(axis=0) < total_SB.sum(axis=0))
    figures: dict[Figure, Floats] = {
        "slope": slope_B,
        "intercept": intercept_B,
        "shift": shift_B,
    }
    return {figure: np.where(found_B, values_B, np.nan) for figure, values_B in figures.items()}


def quotient(above_B: Floats, below_B: Floats) -> Floats:
    """Return the quotient of two resampled sums; NaN where nothing is below."""
    quotient_B = np.full(len(above_B), np.nan)
    np.divide(above_B, below_B, out=quotient_B, where=below_B > 0)
    return quotient_B


def _kept_short(step_B: Floats) -> Floats:
    """Return steps that cannot leap past the answer where curvature is small."""
    return np.clip(step_B, -1.0, 1.0)
