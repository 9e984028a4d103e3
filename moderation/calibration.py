"""Fits the meta-learner and its calibration on signals of rows that no member was fitted on.

For each set of modalities, every row that has at least those serves with the others withheld; so
the ensemble learns to do without each modality from all the truth there is. Axes: N rows of the
table, R rows that serve one pattern, P policies, M members.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.decision import SIGNALS
from moderation.ensemble import MAX_LOGIT, Ensemble, PatternFit
from moderation.errors import InvalidSnapshot
from moderation.logistic import Restraint, fit_logistic
from moderation.policy import PolicyFile
from moderation.precision import flags_needed
from moderation.signals import PATTERNS, SignalTable, members_of, pattern_name
from moderation.thresholds import SolvedThresholds, solve_thresholds

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Truth = npt.NDArray[np.int8]

NUM_FOLDS: Final = 5
_STACK_ROLES: Final = ("train", "meta")

# Ridge in units of effective rows: with ten positives the members' average answers, with hundreds
# the data does.
_RIDGE_WEIGHTS: Final = 5.0
_RIDGE_SLOPE: Final = 2.0
_MIN_SLOPE: Final = 0.05

_MIN_META_POSITIVES: Final = 30
"""Below it calibration also reads train rows: a slope from fewer positives is mostly noise."""

_SURE_BOUND: Final = 0.95
_UNKNOWN_PRIOR: Final = (
    1e-3  # of a policy that nobody ever reviewed: it must not flood the reviewers
)


@dataclass(frozen=True)
class _Stack:
    """What the R rows of one pattern and policy bring to its fit; columns are the members that answer."""

    logits_RM: Floats
    truth_R: Truth
    weight_R: Floats
    fold_R: Integers
    is_meta_R: npt.NDArray[np.bool_]

    def take(self, chosen: npt.NDArray[np.bool_]) -> "_Stack":
        return _Stack(
            self.logits_RM[chosen],
            self.truth_R[chosen],
            self.weight_R[chosen],
            self.fold_R[chosen],
            self.is_meta_R[chosen],
        )

    @property
    def num_positives(self) -> int:
        return int((self.truth_R == 1).sum())

    @property
    def can_teach(self) -> bool:
        return 0 < self.num_positives < len(self.truth_R)


def fit_ensemble(signals: SignalTable, policies: PolicyFile, seed: int) -> Ensemble:
    """Return the meta-learner of every pattern of modalities and policy, calibrated.

    Rows of role `train` (out of fold) and `meta` teach it. Weights are non-negative and drawn
    towards the members' average, so that few positives give a sober ensemble. Calibration is
    fitted on stacked scores that were cross-fitted by group, where `meta` has enough positives on
    its rows alone, since they are the newest.

    Args:
        signals: members' logits of rows unseen by them.
        policies: in the order of the table's columns.
        seed: of the folds.

    Raises:
        InvalidSnapshot: if the policies disagree or no row can teach.
    """
    if signals.policies != policies.ids:
        raise InvalidSnapshot(
            f"signals are of policies {signals.policies}, the policy file has {policies.ids}"
        )
    return _fit(signals.select(*_STACK_ROLES), seed)


def held_out_probabilities(
    signals: SignalTable, ensemble: Ensemble, seed: int
) -> tuple[SignalTable, Floats]:
    """Return rows that may solve thresholds, with probabilities that no fit on them has touched.

    These are the rows of role `solve`; where those are too few to certify even a bound of .95 for
    every policy, the rows that taught the ensemble join them, each scored by an ensemble fitted
    without its group.
    """
    solve = signals.select("solve")
    parts = [(solve, ensemble.combine(*solve.natural()))]
    fewest = flags_needed(_SURE_BOUND, _SURE_BOUND) or 0
    if solve.num_rows == 0 or ((solve.truth_NP == 1).sum(axis=0) < fewest).any():
        parts.append(_cross_fitted(signals.select(*_STACK_ROLES), seed))
    ids = np.concatenate([table.submission_id for table, _ in parts])
    position = {name: row for row, name in enumerate(signals.submission_id)}
    rows = np.array([position[name] for name in ids], np.int64)
    return signals.take(rows), np.concatenate([probability_NP for _, probability_NP in parts])


def solve_all(
    signals: SignalTable, ensemble: Ensemble, policies: PolicyFile, seed: int
) -> tuple[SolvedThresholds, ...]:
    """Return the solved thresholds of every policy, on rows that the ensemble was not fitted on."""
    table, probability_NP = held_out_probabilities(signals, ensemble, seed)
    return tuple(
        solve_thresholds(
            probability_NP[:, column],
            table.truth_NP[:, column],
            table.weight,
            table.group,
            policy,
            policies.confidence,
        )
        for column, policy in enumerate(policies.policies)
    )


def group_folds(group_N: Integers, seed: int, num_folds: int = NUM_FOLDS) -> Integers:
    """Return the fold of each row; a group is never parted.

    >>> group_folds(np.array([7, 9, 7, 8]), seed=1, num_folds=3).tolist()
    [0, 2, 0, 1]
    """
    groups, member_N = np.unique(group_N, return_inverse=True)
    fold_G = np.random.default_rng(seed).permutation(len(groups)) % num_folds
    fold_N: Integers = fold_G[member_N].astype(np.int64)
    return fold_N


def fit_platt(score_R: Floats, truth_R: Truth, weight_R: Floats) -> tuple[float, float]:
    """Return slope and offset that turn scores into log-odds at the weighted prevalence.

    The slope is positive and drawn towards 1; with few positives only the offset moves.

    Source:
        Platt 1999, "Probabilistic outputs for support vector machines".
    """
    design_RD = np.stack([score_R, np.ones_like(score_R)], axis=1)
    restraint = Restraint(
        np.array([1.0, 0.0]), np.array([_RIDGE_SLOPE, 0.0]), np.array([_MIN_SLOPE, -np.inf])
    )
    slope, offset = fit_logistic(design_RD, truth_R, _normalised(truth_R, weight_R), restraint)
    return float(slope), float(offset)


def _fit(table: SignalTable, seed: int) -> Ensemble:
    num_policies = len(table.policies)
    known_NP = table.truth_NP >= 0
    if not known_NP.any():
        raise InvalidSnapshot(
            "no row with known truth can teach the ensemble: roles train and meta"
        )
    prior_P = tuple(
        _base_rate(table.truth_NP[known_NP[:, p], p], table.weight[known_NP[:, p]])
        for p in range(num_policies)
    )
    fold_N = group_folds(table.group, seed)
    fits: dict[int, tuple[PatternFit, ...]] = {}
    for bits in sorted(PATTERNS, key=lambda value: value.bit_count()):  # poorer patterns first
        logits_RPM, _, rows = table.pattern(bits)
        row_fits = []
        for column in range(num_policies):
            stack = _Stack(
                logits_RPM[:, column, members_of(bits)].clip(-MAX_LOGIT, MAX_LOGIT),
                table.truth_NP[rows, column],
                table.weight[rows],
                fold_N[rows],
                table.role[rows] == "meta",
            )
            stack = stack.take(stack.truth_R >= 0)
            if stack.can_teach:
                row_fits.append(_fit_pattern(stack, bits))
            else:
                row_fits.append(_fallback(fits, bits, column, prior_P[column]))
        fits[bits] = tuple(row_fits)
    return Ensemble(table.policies, prior_P, dict(sorted(fits.items())))


def _fit_pattern(stack: _Stack, bits: int) -> PatternFit:
    answering_M, intercept = _fit_stack(stack)
    score_R = _cross_fitted_scores(stack)
    calibrating = np.ones(len(score_R), bool)
    meta = stack.take(stack.is_meta_R)
    if meta.can_teach and meta.num_positives >= _MIN_META_POSITIVES:
        calibrating = stack.is_meta_R
    slope, offset = fit_platt(
        score_R[calibrating], stack.truth_R[calibrating], stack.weight_R[calibrating]
    )
    weights_M = np.zeros(len(SIGNALS))
    weights_M[list(members_of(bits))] = answering_M
    return PatternFit(
        weights=tuple(weights_M.tolist()),
        intercept=intercept,
        slope=slope,
        offset=offset,
        origin="fitted",
        num_rows=len(stack.truth_R),
        num_positives=stack.num_positives,
    )


def _fit_stack(stack: _Stack) -> tuple[Floats, float]:
    """Return non-negative weights, one per answering member, and the intercept."""
    num_rows, num_members = stack.logits_RM.shape
    restraint = Restraint(
        centre_D=np.append(np.full(num_members, 1.0 / num_members), 0.0),
        ridge_D=np.append(np.full(num_members, _RIDGE_WEIGHTS), 0.0),
        lowest_D=np.append(np.zeros(num_members), -np.inf),
    )
    design_RD = np.concatenate([stack.logits_RM, np.ones((num_rows, 1))], axis=1)
    weight_R = _normalised(stack.truth_R, stack.weight_R)
    found = fit_logistic(design_RD, stack.truth_R, weight_R, restraint)
    return found[:-1], float(found[-1])


def _cross_fitted_scores(stack: _Stack) -> Floats:
    """Return stacked scores, each by a stack fitted without the row's group."""
    score_R = np.empty(len(stack.truth_R))
    for fold in np.unique(stack.fold_R):
        outside = stack.fold_R == fold
        inside = stack.take(~outside)
        weights_M, intercept = _fit_stack(inside if inside.can_teach else stack)
        score_R[outside] = np.einsum("rm,m->r", stack.logits_RM[outside], weights_M) + intercept
    return score_R


def _cross_fitted(table: SignalTable, seed: int) -> tuple[SignalTable, Floats]:
    """Return the table's probabilities by ensembles that did not see the row's group."""
    fold_N = group_folds(table.group, seed + 1)
    probability_NP = np.empty(table.truth_NP.shape)
    for fold in np.unique(fold_N):
        outside = table.take(fold_N == fold)
        ensemble = _fit(table.take(fold_N != fold), seed)
        probability_NP[fold_N == fold] = ensemble.combine(*outside.natural())
    return table, probability_NP


def _fallback(
    fits: dict[int, tuple[PatternFit, ...]], bits: int, column: int, prior: float
) -> PatternFit:
    """Return the fit of the richest pattern within `bits` that has one, else the prior.

    Rows of a richer pattern serve every poorer one, so that where this pattern has no positives
    only a poorer one can: what it does not know of is left unread.
    """
    within = [b for b in fits if b & bits == b and fits[b][column].origin == "fitted"]
    if within:
        chosen = max(within, key=lambda b: (b.bit_count(), fits[b][column].num_positives, -b))
        fit = fits[chosen][column]
        return PatternFit(
            fit.weights,
            fit.intercept,
            fit.slope,
            fit.offset,
            f"pattern {pattern_name(chosen)}",
            fit.num_rows,
            fit.num_positives,
        )
    log_odds = float(np.log(prior) - np.log1p(-prior))
    return PatternFit((0.0,) * len(SIGNALS), log_odds, 1.0, 0.0, "prior", 0, 0)


def _normalised(truth_R: Truth, weight_R: Floats) -> Floats:
    """Return weights under which the rarer class counts as many rows as it informs by.

    The ridge is thereby measured against what is scarce, however much the common class weighs.
    """
    classes = [weight_R[truth_R == value] for value in (0, 1)]
    rarer = min(classes, key=lambda weights: float(weights.sum()))
    scaled: Floats = weight_R * (rarer.sum() / (rarer**2).sum())
    return scaled


def _base_rate(truth_R: Truth, weight_R: Floats) -> float:
    """Return the weighted share of violations, half a typical row added to each class."""
    if not len(truth_R):
        return _UNKNOWN_PRIOR
    half = 0.5 * float(weight_R.mean())
    positive = float(weight_R[truth_R == 1].sum())
    return (positive + half) / (float(weight_R.sum()) + 2 * half)
