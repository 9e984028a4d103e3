"""Ranking quality on a frozen set, absolute or beside the champion's: average precision, recall at a precision.

Figures on the golden set are of the set as it is, enriched with look-alikes; those of `fresh` are weighted to traffic.
A policy that the champion has no head for is not compared: beside chance every model is better. N rows, B resamples.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.evaluation import metrics
from moderation.evaluation.bootstrap import GroupBootstrap, Ranking
from moderation.gates.estimates import (
    Counted,
    Estimate,
    Resampled,
    nothing,
    of_unknown,
    rows_needed,
)
from moderation.gates.evidence import Answers, ScoredSet
from moderation.gates.judging import Context, measure
from moderation.gates.slicing import Part, parts_of_slices, values_lacking
from moderation.policy import Tier
from moderation.release import Gate

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_TRAFFIC: Final = "traffic"
_WEIGHTED_SETS: Final = (_TRAFFIC, "fresh")
_OF_VIOLATIONS: Final = {"evasive": "evasive"}
"""Slices that only violations have: each value is judged against all innocent rows. With the value that a set must
have: without it nothing was seen of what the slice is for."""

_NO_NUMBER: Final = "a score is no number"
_NONE_SHARED: Final = "the champion has a head for none of the candidate's policies"


@measure("average_precision")
def average_precision(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the average precision per policy, or per policy and slice value; versus: champion gives the difference."""
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    compared = _compared(found, gate)
    if not compared:
        yield nothing("", _NONE_SHARED)
    yield from of_lacking_values(context, gate, found)
    for column in compared:
        policy = found.policies[column]
        for part in parts_of(found, gate, column):
            rows_R = np.flatnonzero(part.rows_N)
            estimate = _one(context, gate, column, rows_R, part.named(policy))
            yield from of_unknown(estimate) if part.is_unknown else (estimate,)


@measure("mean_average_precision")
def mean_average_precision(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield one figure: the mean over policies of the average precision, or of its gain over the champion."""
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    compared = _compared(found, gate)
    if not compared:
        yield nothing("", _NONE_SHARED)
        return
    known = {column: np.flatnonzero(found.truth_NP[:, column] >= 0) for column in compared}
    for column, rows_R in known.items():
        if why := _why_nothing(found, gate, column, rows_R):
            yield nothing(
                "", f"{found.policies[column]}: {why}", needed=gate.min_positives, unit="positives"
            )
            return
    draws = {column: context.draws(found.name).take(rows_R) for column, rows_R in known.items()}
    singles = [_value(found, gate, column, known[column], draws[column]) for column in compared]
    value = float(np.mean([value for value, _ in singles]))
    values_B = np.mean([values_B for _, values_B in singles], axis=0)
    each = [_counted(found, column, known[column], draws[column]) for column in compared]
    fewest = Counted(
        found.num_rows, min(one.positives for one in each), min(one.groups for one in each)
    )
    yield _estimate(context, "", gate, (value, values_B), fewest)


@measure("recall_at_precision")
def recall_at_precision(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy the share of violations found at the precision that the gate's tier needs.

    The bound is that of the tier in the contract: the limit of the gate that measures `tier_precision` of it.
    """
    found, bound = context.set(gate), _tier_bound(context, gate)
    if found is None or bound is None:
        yield nothing("", f"the set {gate.set} is not there, or no gate bounds tier {gate.tier}")
        return
    for column, policy in enumerate(found.policies):
        rows_R = np.flatnonzero(found.truth_NP[:, column] >= 0)
        truth_R, score_R = (
            found.truth_NP[rows_R, column],
            found.candidate.log_odds_NP[rows_R, column],
        )
        if why := _why_nothing(found, gate, column, rows_R):
            yield nothing(policy, why, needed=gate.min_positives, unit="positives")
            continue
        draws = context.draws(found.name).take(rows_R)
        weight_R = _weights(found, rows_R)
        curve = metrics.precision_recall(score_R, truth_R, weight_R)
        value = metrics.recall_at_precision(curve, bound)
        values_B = _resampled_recall(score_R, truth_R, weight_R, draws, bound)
        counted = _counted(found, column, rows_R, draws)
        yield _estimate(context, policy, gate, (value, values_B), counted)


def parts_of(found: ScoredSet, gate: Gate, column: int) -> Iterator[Part]:
    """Yield everything that a gate judges apart, of the rows with known truth under a policy.

    A slice of violations alone has all innocent rows in each part, and a part without any violation where it lacks the
    value that it is for.
    """
    known_N = found.truth_NP[:, column] >= 0
    named = [name for name in gate.slices if name not in _OF_VIOLATIONS]
    if named or not gate.slices:
        for part in parts_of_slices(found.slices, named, found.num_rows):
            yield replace(part, rows_N=part.rows_N & known_N)
    for name in [one for one in gate.slices if one in _OF_VIOLATIONS]:
        values_N = found.slices.get(name, np.full(found.num_rows, ""))
        for value in sorted({*values_N.tolist(), _OF_VIOLATIONS[name]} - {""}):
            rows_N = (values_N == value) | (found.truth_NP[:, column] == 0)
            yield Part(f"{name}={value}", rows_N & known_N)


def of_lacking_values(context: Context, gate: Gate, found: ScoredSet) -> Iterator[Estimate]:
    """Yield an estimate without a figure for each slice value of deployed traffic of which the set has no row."""
    traffic = context.evidence.sets.get(_TRAFFIC)
    if traffic is None or found.name in _WEIGHTED_SETS:
        return
    names = [name for name in gate.slices if name not in _OF_VIOLATIONS]
    fewest = context.contract.slices.min_combination
    for name, value, rows in values_lacking(found.slices, traffic.slices, names, fewest):
        why = f"no row of it in {found.name}, {rows} in {traffic.name}"
        unit = "positives" if gate.min_positives else "rows"
        yield nothing(f"{name}={value}", why, needed=gate.min_positives or gate.min_rows, unit=unit)


def _compared(found: ScoredSet, gate: Gate) -> list[int]:
    """Return the columns of the policies that a gate judges: beside a champion those that it has a head for."""
    lacks: tuple[str, ...] = ()
    if gate.versus == "champion" and found.champion is not None:
        lacks = found.champion.lacks
    return [column for column, policy in enumerate(found.policies) if policy not in lacks]


def _one(context: Context, gate: Gate, column: int, rows_R: Integers, of: str) -> Estimate:
    found = context.evidence.sets[gate.set]
    if why := _why_nothing(found, gate, column, rows_R):
        return nothing(of, why, needed=max(gate.min_positives, 1), unit="positives")
    draws = context.draws(found.name).take(rows_R)
    figure = _value(found, gate, column, rows_R, draws)
    return _estimate(context, of, gate, figure, _counted(found, column, rows_R, draws))


def _why_nothing(found: ScoredSet, gate: Gate, column: int, rows_R: Integers) -> str:
    """Return why rows give no figure; the empty word if they do."""
    positives = int((found.truth_NP[rows_R, column] == 1).sum())
    if not positives or positives == len(rows_R):
        return f"{len(rows_R)} rows with known truth, {positives} of them violations"
    if not np.isfinite(found.candidate.log_odds_NP[rows_R, column]).all():
        return _NO_NUMBER  # it ranks nothing, though sorting puts it somewhere
    if gate.versus == "champion":
        if found.champion is None:
            return "the champion did not answer"
        if not np.isfinite(found.champion.log_odds_NP[rows_R, column]).all():
            return f"of the champion, {_NO_NUMBER}"
    return ""


def _value(
    found: ScoredSet, gate: Gate, column: int, rows_R: Integers, draws: GroupBootstrap
) -> tuple[float, Floats]:
    mine = _ranking(found, found.candidate, column, rows_R, draws)
    value, values_B = mine.average_precision(), mine.resampled(draws)
    if gate.versus == "champion" and found.champion is not None:
        other = _ranking(found, found.champion, column, rows_R, draws)
        value, values_B = value - other.average_precision(), values_B - other.resampled(draws)
    return value, values_B


def _ranking(
    found: ScoredSet,
    answers: Answers,
    column: int,
    rows_R: Integers,
    draws: GroupBootstrap,
) -> Ranking:
    return Ranking.of(
        answers.log_odds_NP[rows_R, column],
        found.truth_NP[rows_R, column],
        _weights(found, rows_R),
        draws,
    )


def _counted(found: ScoredSet, column: int, rows_R: Integers, draws: GroupBootstrap) -> Counted:
    return Counted.of(found.truth_NP[rows_R, column], _weights(found, rows_R), draws.member_N)


def _weights(found: ScoredSet, rows_R: Integers) -> Floats:
    return found.weight[rows_R] if found.name in _WEIGHTED_SETS else np.ones(len(rows_R))


def _estimate(
    context: Context, of: str, gate: Gate, figure: tuple[float, Floats], counted: Counted
) -> Estimate:
    spread = Resampled(*figure, counted.groups - 1, counted.groups)
    distance = spread.value - gate.limit
    return Estimate(
        of=of,
        value=spread.value,
        spread=spread,
        rows=counted.rows,
        positives=counted.positives,
        needed=rows_needed(counted.positives, spread.error, distance, gate.confidence),
        unit="positives",
        groups=counted.groups,
        min_groups=context.contract.risk.min_groups,
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
