"""Ranking quality on a frozen set, absolute or beside the champion's: average precision, recall at a precision.

Figures on the golden set are of the set as it is, enriched with look-alikes; those of `fresh` are weighted to traffic.
N rows, B resamples.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.evaluation import metrics
from moderation.evaluation.bootstrap import GroupBootstrap, Ranking
from moderation.gates.estimates import Estimate, Resampled, nothing, rows_needed
from moderation.gates.evidence import Answers, ScoredSet
from moderation.gates.judging import Context, measure
from moderation.policy import Tier
from moderation.release import Gate

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_WEIGHTED_SETS: Final = ("traffic", "fresh")
_OF_VIOLATIONS: Final = ("evasive",)
"""Slices that only violations have: each value is judged against all innocent rows."""


@measure("average_precision")
def average_precision(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the average precision per policy, or per policy and slice value; versus: champion gives the difference."""
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    draws = context.draws(found.name)
    for column, policy in enumerate(found.policies):
        for name, rows_N in parts_of(found, gate, column):
            of = f"{policy} · {name}" if name else policy
            yield _one(found, gate, column, rows_N, draws, of)


@measure("mean_average_precision")
def mean_average_precision(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield one figure: the mean over policies of the average precision, or of its gain over the champion."""
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    draws = context.draws(found.name)
    known = [np.flatnonzero(found.truth_NP[:, c] >= 0) for c in range(len(found.policies))]
    singles = [
        _value(found, gate, column, rows_R, draws.take(rows_R))
        for column, rows_R in enumerate(known)
    ]
    value = float(np.mean([value for value, _ in singles]))
    values_B = np.mean([values_B for _, values_B in singles], axis=0)
    positives = min(int((found.truth_NP[:, c] == 1).sum()) for c in range(len(found.policies)))
    yield _estimate("", gate, value, values_B, (found.num_rows, positives))


@measure("recall_at_precision")
def recall_at_precision(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy the share of violations found at the precision that the gate's tier needs.

    The bound is that of the tier in the contract: the limit of the gate that measures `tier_precision` of it.
    """
    found, bound = context.set(gate), _tier_bound(context, gate)
    if found is None or bound is None:
        yield nothing("", f"the set {gate.set} is not there, or no gate bounds tier {gate.tier}")
        return
    draws = context.draws(found.name)
    for column, policy in enumerate(found.policies):
        rows_R = np.flatnonzero(found.truth_NP[:, column] >= 0)
        truth_R, score_R = (
            found.truth_NP[rows_R, column],
            found.candidate.log_odds_NP[rows_R, column],
        )
        positives = int((truth_R == 1).sum())
        if not positives:
            yield nothing(
                policy, "no violation in the set", needed=gate.min_positives, unit="positives"
            )
            continue
        weight_R = _weights(found, rows_R)
        curve = metrics.precision_recall(score_R, truth_R, weight_R)
        value = metrics.recall_at_precision(curve, bound)
        values_B = _resampled_recall(score_R, truth_R, weight_R, draws.take(rows_R), bound)
        yield _estimate(policy, gate, value, values_B, (len(rows_R), positives))


def parts_of(found: ScoredSet, gate: Gate, column: int) -> Iterator[tuple[str, Flags]]:
    """Yield (name, rows) of everything that a gate judges apart: the whole set, or each value of its slices.

    Rows of unknown truth under the policy and of an unknown slice value are left out; a slice that the set lacks
    gives one empty part, so that it is seen.
    """
    known_N = found.truth_NP[:, column] >= 0
    if not gate.slices:
        yield "", known_N
        return
    for name in gate.slices:
        values_N = found.slices.get(name)
        if values_N is None:
            yield f"{name}=?", np.zeros(found.num_rows, bool)
            continue
        for value in sorted(set(values_N.tolist()) - {""}):
            rows_N = values_N == value
            if name in _OF_VIOLATIONS:
                rows_N = rows_N | (found.truth_NP[:, column] == 0)
            yield f"{name}={value}", rows_N & known_N


def _one(
    found: ScoredSet, gate: Gate, column: int, rows_N: Flags, draws: GroupBootstrap, of: str
) -> Estimate:
    rows_R = np.flatnonzero(rows_N)
    positives = int((found.truth_NP[rows_R, column] == 1).sum())
    if not positives or positives == len(rows_R):
        why = f"{len(rows_R)} rows with known truth, {positives} of them violations"
        return nothing(of, why, needed=max(gate.min_positives, 1), unit="positives")
    value, values_B = _value(found, gate, column, rows_R, draws.take(rows_R))
    return _estimate(of, gate, value, values_B, (len(rows_R), positives))


def _value(
    found: ScoredSet,
    gate: Gate,
    column: int,
    rows_R: npt.NDArray[np.int64],
    draws: GroupBootstrap,
) -> tuple[float, Floats]:
    if not np.isfinite(found.candidate.log_odds_NP[rows_R, column]).all():
        return float("nan"), np.full(
            draws.num_resamples, np.nan
        )  # a score that is no number ranks nothing
    mine = _ranking(found, found.candidate, column, rows_R, draws)
    value, values_B = mine.average_precision(), mine.resampled(draws)
    if gate.versus == "champion":
        if found.champion is None:
            return float("nan"), np.full(draws.num_resamples, np.nan)
        other = _ranking(found, found.champion, column, rows_R, draws)
        value, values_B = value - other.average_precision(), values_B - other.resampled(draws)
    return value, values_B


def _ranking(
    found: ScoredSet,
    answers: Answers,
    column: int,
    rows_R: npt.NDArray[np.int64],
    draws: GroupBootstrap,
) -> Ranking:
    return Ranking.of(
        answers.log_odds_NP[rows_R, column],
        found.truth_NP[rows_R, column],
        _weights(found, rows_R),
        draws,
    )


def _weights(found: ScoredSet, rows_R: npt.NDArray[np.int64]) -> Floats:
    return found.weight[rows_R] if found.name in _WEIGHTED_SETS else np.ones(len(rows_R))


def _estimate(
    of: str, gate: Gate, value: float, values_B: Floats, counts: tuple[int, int]
) -> Estimate:
    rows, positives = counts
    spread = Resampled(value, values_B, positives - 1)
    distance = value - gate.limit
    return Estimate(
        of=of,
        value=value,
        spread=spread,
        rows=rows,
        positives=positives,
        needed=rows_needed(positives, spread.error, distance, gate.confidence),
        unit="positives",
        why_missing="" if np.isfinite(value) else "a score is no number",
    )


def _resampled_recall(
    score_R: Floats,
    truth_R: npt.NDArray[np.int8],
    weight_R: Floats,
    draws: GroupBootstrap,
    bound: float,
) -> Floats:
    """Return the recall at a precision bound in each resample: one pass over sorted rows for all."""
    order = np.argsort(-score_R, kind="stable")
    last = np.append(score_R[order][1:] < score_R[order][:-1], True)
    recall_B = np.full(draws.num_resamples, np.nan)
    member_R, right_R = draws.member_N[order], truth_R[order] == 1
    for part, draws_GC in draws.chunks(len(order)):
        weight_RC = draws_GC[member_R] * weight_R[order][:, None]
        found_RC = np.cumsum(weight_RC * right_R[:, None], axis=0)[last]
        flagged_RC = np.cumsum(weight_RC, axis=0)[last]
        holds_RC = found_RC >= bound * np.maximum(flagged_RC, 1e-300)
        total_C = found_RC[-1]
        best_C = np.where(holds_RC, found_RC, 0.0).max(axis=0)
        recall_B[part] = np.divide(
            best_C, total_C, out=np.full_like(total_C, np.nan), where=total_C > 0
        )
    return recall_B


def _tier_bound(context: Context, gate: Gate) -> float | None:
    if gate.tier is None:
        return None
    tier = Tier[gate.tier.upper()].label
    bounds = [
        g.limit for g in context.contract.gates if g.measure == "tier_precision" and g.tier == tier
    ]
    return max(bounds, default=None)
