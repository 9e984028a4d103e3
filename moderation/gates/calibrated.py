"""Calibration at deployment prevalence: the line of truth on log-odds, and violations predicted over counted.

Expected calibration error cannot see anything at 1:1000; slope, shift and counts can. N rows, R rows with known truth,
B resamples, K sums.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.evaluation import metrics
from moderation.gates.estimates import (
    Counted,
    Estimate,
    FewCounted,
    Resampled,
    nothing,
    of_unknown,
    rows_needed,
)
from moderation.gates.evidence import ScoredSet
from moderation.gates.judging import Context, measure
from moderation.gates.lines import (
    FIGURES,
    Figure,
    LineFit,
    Missed,
    Widened,
    fit_line,
    groups_of,
    quotient,
    resampled_sums,
)
from moderation.gates.quality import parts_of
from moderation.gates.tiers import flagging_threshold
from moderation.release import Gate

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_SMALLEST_SPREAD: Final = 1e-6


@measure("calibration_slope")
def calibration_slope(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy the slope of truth on log-odds: below 1 scores are overconfident, above 1 too timid."""
    yield from _lines(context, gate, "slope")


@measure("calibration_shift")
def calibration_shift(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy how much all log-odds are too low (above 0) or too high (below 0), the slope held at 1."""
    yield from _lines(context, gate, "shift")


@measure("predicted_over_observed")
def predicted_over_observed(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy, or per policy and slice value, the violations predicted over those counted, both weighted."""
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    for column, policy in enumerate(found.policies):
        for part in parts_of(found, gate, column):
            rows_R = np.flatnonzero(part.rows_N)
            judged = context, gate, column, rows_R, part.named(policy)
            if not part.is_unknown:
                yield _ratio(*judged)
                continue
            guilty_R = found.truth_NP[rows_R, column] == 1
            is_few = len(np.unique(found.group[rows_R][guilty_R])) < 2
            yield from of_unknown(_over_few(*judged) if is_few else _ratio(*judged))


@measure("predicted_over_observed_flagged")
def predicted_over_observed_flagged(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy the violations predicted over those counted among listings that review or more would take."""
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    for column, policy in enumerate(found.policies):
        threshold = flagging_threshold(found.candidate, policy)
        if threshold is None:
            yield nothing(policy, "nothing is flagged: review and every stronger tier are closed")
            continue
        known_N = found.truth_NP[:, column] >= 0
        if not np.isfinite(found.candidate.probability_NP[known_N, column]).all():
            yield nothing(policy, "a score is no number")  # it would be neither flagged nor counted
            continue
        flagged_N = found.candidate.probability_NP[:, column] >= threshold
        yield _ratio(context, gate, column, np.flatnonzero(flagged_N & known_N), policy)


def _lines(context: Context, gate: Gate, figure: Figure) -> Iterator[Estimate]:
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    for column in range(len(found.policies)):
        yield _line(context, found, gate, column, figure)


def _line(context: Context, found: ScoredSet, gate: Gate, column: int, figure: Figure) -> Estimate:
    policy = found.policies[column]
    rows_R = np.flatnonzero(found.truth_NP[:, column] >= 0)
    log_odds_R, truth_R = (
        found.candidate.log_odds_NP[rows_R, column],
        found.truth_NP[rows_R, column],
    )
    why = _why_no_line(log_odds_R, truth_R)
    if why:
        return nothing(policy, why, needed=max(gate.min_positives, 1), unit="positives")
    weight_R = found.weight[rows_R]
    draws = context.draws(found.name).take(rows_R)

    def fitted() -> LineFit:
        return fit_line(log_odds_R, truth_R, weight_R, draws, seed=context.seed)

    fit = context.once(("calibration line", found.name, policy), fitted)
    detail: dict[str, Any] = {one: getattr(fit.line, one) for one in FIGURES}
    if figure == "slope":
        probability_R = found.candidate.probability_NP[rows_R, column]
        detail["reliability"] = metrics.reliability_bins(probability_R, truth_R, weight_R)
    counted = Counted.of(truth_R, weight_R, draws.member_N)
    estimate = _estimate(context, policy, gate, fit.spread[figure], counted, detail)
    if figure != "slope":
        return estimate
    spread = fit.spread["intercept"]
    low, high = spread.low(gate.confidence), spread.high(gate.confidence)
    said = f"intercept {fit.line.intercept:.3g} ({low:.3g} to {high:.3g})"
    return replace(estimate, remark=f"{estimate.remark}; {said}")


def _why_no_line(log_odds_R: Floats, truth_R: npt.NDArray[np.int8]) -> str:
    if not np.isfinite(log_odds_R).all():
        return "a score is no number"
    positives = int((truth_R == 1).sum())
    if not positives or positives == len(truth_R):
        return f"{len(truth_R)} rows with known truth, {positives} of them violations"
    if float(np.ptp(log_odds_R)) < _SMALLEST_SPREAD:
        return "every score is the same: truth follows nothing"
    return ""


def _ratio(context: Context, gate: Gate, column: int, rows_R: Integers, of: str) -> Estimate:
    found = context.evidence.sets[gate.set]
    probability_R, truth_R = (
        found.candidate.probability_NP[rows_R, column],
        found.truth_NP[rows_R, column],
    )
    weight_R = found.weight[rows_R]
    if not np.isfinite(probability_R).all():
        return nothing(of, "a score is no number")
    predicted_R, observed_R = weight_R * probability_R, weight_R * (truth_R == 1)
    predicted, observed = float(predicted_R.sum()), float(observed_R.sum())
    if not observed:
        why = f"{len(rows_R)} rows, {predicted:.1f} violations predicted and none known"
        return nothing(of, why, needed=max(gate.min_positives, 1), unit="positives")
    draws = context.draws(found.name).take(rows_R)
    predicted_B, observed_B = resampled_sums(draws, np.stack([predicted_R, observed_R]))
    log_odds_R = found.candidate.log_odds_NP[rows_R, column]
    missed = Missed.of(log_odds_R, weight_R, draws.num_resamples, context.seed)
    value = predicted / observed
    counted = Counted.of(truth_R, weight_R, draws.member_N)
    degrees = counted.groups - 1
    more_B = observed_B + missed.count_B * missed.weight
    groups = groups_of(truth_R, draws)
    spread = Widened(
        *(
            Resampled(value, quotient(predicted_B, one_B), degrees, groups, is_ratio=True)
            for one_B in (observed_B, more_B)
        )
    )
    detail = {"predicted": predicted, "observed": observed}
    return _estimate(context, of, gate, spread, counted, detail)


def _over_few(context: Context, gate: Gate, column: int, rows_R: Integers, of: str) -> Estimate:
    """Return what is predicted over what the known violations count, of one group at most, or one more would."""
    found = context.evidence.sets[gate.set]
    probability_R, weight_R = found.candidate.probability_NP[rows_R, column], found.weight[rows_R]
    guilty_R = found.truth_NP[rows_R, column] == 1
    predicted, observed = float(weight_R @ probability_R), float(weight_R[guilty_R].sum())
    if not np.isfinite(predicted) or not predicted:
        return nothing(of, "a score is no number" if predicted else "nothing is predicted")
    unit = max(_usual_violation(probability_R, weight_R, found.group[rows_R]), observed)
    positives = int(guilty_R.sum())
    remark = f"{positives} positives of one group" if positives else "none known"
    return Estimate(
        of=of,
        value=predicted / (observed or unit),
        spread=FewCounted(predicted, int(observed > 0), unit),
        rows=len(rows_R),
        positives=positives,
        remark=f"{predicted:.1f} violations predicted and {remark}; one more would count {unit:.3g}",
        detail={"predicted": predicted, "observed": observed},
        groups=float(observed > 0),
        min_groups=context.contract.risk.min_groups,
    )


def _usual_violation(probability_R: Floats, weight_R: Floats, group_R: Integers) -> float:
    """Return what one more violation would count where that matters most, as a group's rows violate together.

    A group counts for as many rows as it has of those like its likeliest.
    """
    _, member_R = np.unique(group_R, return_inverse=True)
    predicted_G = np.bincount(member_R, weight_R * probability_R)
    most_G = np.zeros(len(predicted_G))
    np.maximum.at(most_G, member_R, probability_R)
    unit_G = predicted_G / np.maximum(most_G, 1e-300)
    share_G = predicted_G * unit_G
    return float(share_G @ unit_G / share_G.sum())


def _estimate(
    context: Context,
    of: str,
    gate: Gate,
    spread: Widened,
    counted: Counted,
    detail: dict[str, Any],
) -> Estimate:
    value = spread.plain.value
    distance = gate.limit - value if gate.comparator == "at_most" else value - gate.limit
    return Estimate(
        of=of,
        value=value,
        spread=spread,
        rows=counted.rows,
        positives=counted.positives,
        needed=rows_needed(counted.positives, spread.plain.error, distance, gate.confidence),
        unit="positives",
        remark=f"{counted.positives} positives, worth {counted.groups:.1f} independent groups",
        detail=detail,
        groups=counted.groups,
        min_groups=context.contract.risk.min_groups,
    )
