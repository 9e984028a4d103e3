"""Tiers at deployment prevalence: what is flagged violates, everything open is reached, reviewers can take the rest.

Rows are weighted to deployed traffic. F flagged rows, R adjudicated ones of them or their sellers, N rows, P policies.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.gates.coverage import MAX_BINS, cover
from moderation.gates.deciding import served_thresholds, strongest_tiers
from moderation.gates.estimates import Estimate, Exact, Proportion, Spread, nothing
from moderation.gates.evidence import Answers, ScoredSet
from moderation.gates.flagged import Flagged, PartlySeen, count_flags, seen_share
from moderation.gates.judging import REPLAY, Context, check_of, measure
from moderation.gates.unheld import error_weights, guarded, held_before
from moderation.policy import Tier
from moderation.precision import (
    PrecisionBound,
    bound_precision,
    flags_for_power,
    flags_needed,
    weight_of_an_error,
)
from moderation.release import Gate

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_LIKELY_GAIN: Final = 0.8
"""Where no error was seen, the true precision is taken to lie so far from the bound towards 1."""


_NO_SAMPLE: Final = (
    "no listing was adjudicated here: an imported table is no sample of uploads, and nothing says how many a day "
    "each of its rows stands for"
)


def flagging_threshold(answers: Answers, policy: str) -> float | None:
    """Return the smallest probability that is reviewed or worse; None where all those tiers are closed."""
    tiers = answers.thresholds.get(policy, {})
    limits = [limit for name, limit in tiers.items() if Tier[name.upper()] >= Tier.REVIEW]
    return min(limits, default=None)


@measure("tier_precision")
def tier_precision(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy the weighted share of what a tier flags, itself or stronger, that was adjudicated to violate.

    The bound is exact at the effective number of independent flags, with one invented group in error; it weighs what
    a false flag would where the fewest flags were adjudicated. Where no person stands between a flag and what follows,
    that is what a listing weighs that had been let through, unless the replay shows that hardly any flag is of those
    (`Guarded`).

    Whatever is flagged at scores where nobody looked counts as wrong in the lower bound: below the lowest adjudicated
    score and above the highest, and between two of them where more flags lie than may be wrong, or than random
    adjudication leaves.

    `suspend` counts sellers: each as right as the share of its flagged listings that violate, which is the chance that
    the one listing that suspended it did. Where rows were thinned out its right part stands for itself alone, and its
    wrong part for as many sellers as its listings stand for listings.
    """
    found = context.set(gate)
    if found is None or gate.tier is None:
        why = f"the set {gate.set} is not there" if found is None else "the gate names no tier"
        yield nothing("", why)
        return
    for column, policy in enumerate(found.policies):
        tiers = found.candidate.thresholds.get(policy, {})
        yield _precision(context, gate, found, column, tiers)


@measure("unreachable_tiers")
def unreachable_tiers(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy the number of open tiers that no row reaches, and whether nothing at all is allowed.

    Tiers that a gate closes where they are not certified are not judged here: without a flag they are closed.
    """
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    if not found.num_rows:
        yield nothing("", f"the set {gate.set} has no row")
        return
    if not np.isfinite(found.candidate.probability_NP).all():
        yield nothing("", "a score is no number")
        return
    capped = {one.tier for one in _capping_gates(context)}
    for column, policy in enumerate(found.policies):
        highest = float(found.candidate.probability_NP[:, column].max(initial=0.0))
        open_tiers = found.candidate.thresholds.get(policy, {})
        missed = [
            tier for tier, limit in open_tiers.items() if highest < limit and tier not in capped
        ]
        yield Estimate(
            of=policy,
            value=float(len(missed)),
            spread=Exact(float(len(missed))),
            rows=found.num_rows,
            remark=f"never reached: {', '.join(missed)}" if missed else "",
            detail={"policy": policy, "unreachable": missed, "highest": highest},
        )
    tier_N = strongest_tiers(
        found.candidate.probability_NP, found.policies, found.candidate.thresholds
    )
    allowed = _share(found, tier_N == Tier.ALLOW)
    nobody = float(allowed == 0)
    yield Estimate(
        of="allow",
        value=nobody,
        spread=Exact(nobody),
        rows=found.num_rows,
        remark="no listing at all is allowed" if nobody else "",
        detail={"allowed_share": allowed},
    )


@measure("reviews_per_day")
def reviews_per_day(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield how many uploads a day the candidate sends to review, with what falls there from tiers not certified."""
    found = context.set(gate)
    if found is None or not np.isfinite(found.candidate.probability_NP).all():
        yield nothing("", f"the set {gate.set} is not there, or a score is no number")
        return
    if not found.adjudicated_NP.any():
        yield nothing("", _NO_SAMPLE)
        return
    tier_N = strongest_tiers(
        found.candidate.probability_NP, found.policies, thresholds_after_caps(context, found)
    )
    reviewed_N = tier_N == Tier.REVIEW
    per_day = context.contract.capacity.uploads_per_day
    weight_R = found.weight[reviewed_N] if reviewed_N.any() else found.weight
    others = bound_precision(
        (~reviewed_N).astype(np.int8),
        found.weight,
        found.group,
        confidence=gate.confidence,
        error_weight=float((weight_R**2).sum() / weight_R.sum()),
    )
    share = Proportion(others.precision * others.effective_n, others.effective_n)
    volumes = {tier.label: _share(found, tier_N == tier) * per_day for tier in Tier}
    yield Estimate(
        of="",
        value=volumes["review"],
        spread=_Volume(share, per_day),
        rows=found.num_rows,
        positives=int(reviewed_N.sum()),
        detail={"uploads_per_day": per_day, "volumes": volumes},
    )


@dataclass(frozen=True)
class _Volume:
    """Uploads a day, known by the share that is something else."""

    others: Proportion
    per_day: int

    def low(self, confidence: float) -> float:
        """Return the lower bound."""
        return self.per_day * (1 - self.others.high(confidence))

    def high(self, confidence: float) -> float:
        """Return the upper bound."""
        return self.per_day * (1 - self.others.low(confidence))


def _precision(
    context: Context, gate: Gate, found: ScoredSet, column: int, thresholds: Mapping[str, float]
) -> Estimate:
    policy, tier = found.policies[column], str(gate.tier)
    probability_N = found.candidate.probability_NP[:, column]
    if tier not in thresholds:
        return _none(policy, "closed: nothing is flagged", gate)
    if not np.isfinite(probability_N).all():
        return _none(policy, "a score is no number", gate)
    judged_N = (found.truth_NP[:, column] >= 0) & found.adjudicated_NP[:, column]
    row_F = np.flatnonzero(probability_N >= thresholds[tier])
    if not judged_N[row_F].any():
        why = f"{len(row_F)} flagged, none of them adjudicated"
        return _none(policy, why if len(row_F) else "no row reaches it", gate)
    known_J = probability_N[judged_N], found.truth_NP[judged_N, column], found.weight[judged_N]
    is_guarded = Tier[tier.upper()] > Tier.REVIEW
    weights = error_weights(*known_J, probability_N[judged_N] >= thresholds[tier])
    of_error = weights.held if is_guarded else weight_of_an_error(*known_J)
    covered = cover(
        probability_N[row_F],
        found.weight[row_F],
        judged_N[row_F],
        found.group[row_F],
        most_unseen=1 - gate.limit,
    )
    by_seller = tier == Tier.SUSPEND.label
    flags, worst = count_flags(found, column, row_F, covered, by_seller=by_seller)
    bound, trusted = _bound(flags, gate, of_error * covered.most)
    num_flags, num_unseen = len(flags.right_R), int(covered.unseen_F.sum())
    share = seen_share(flags, worst) if num_unseen else 1.0
    unit = "flagged sellers" if by_seller else "flagged listings"
    remark = f"{num_flags} {unit}, worth {bound.effective_n:.0f} independent ones"
    needed, said = _needed(gate, bound.precision, bound.effective_n, num_flags)
    unit = f"{unit} {said}"
    if num_unseen:
        remark += f"; nobody adjudicated any of {num_unseen} of {len(row_F)} flags, scored {covered.ranges}"
    if num_unseen and trusted.low(gate.confidence) >= gate.limit:
        weight = of_error * float(found.weight[row_F][covered.unseen_F].sum())
        # A right seller stands for itself alone, found or not.
        whole = flags if by_seller else worst
        needed = _needed_unseen(gate, bound, weight / float(whole.weight_R.sum()), num_unseen)
        unit = "more adjudicated flags, spread over the scores that have none"
    estimate = Estimate(
        of=policy,
        value=bound.precision,
        spread=PartlySeen(trusted, share) if num_unseen else trusted,
        rows=num_flags,
        positives=int((flags.right_R > 0).sum()),
        needed=needed,
        unit=unit,
        remark=remark,
        detail={
            "policy": policy,
            "tier": tier,
            "threshold": thresholds[tier],
            "flagged": len(row_F),
            "adjudicated": int(judged_N[row_F].sum()),
            "unseen": num_unseen,
            "wrong": float((1 - flags.right_R).sum()),
            "effective": bound.effective_n,
            "unweighted_precision": float(flags.right_R.mean()),
        },
    )
    if not is_guarded:
        return estimate
    held = held_before(
        context.evidence.sets.get(REPLAY),
        policy,
        thresholds[tier],
        by_seller=by_seller,
        confidence=gate.confidence,
    )
    if held is not None and context.contract.serving.audit is None:
        weights = replace(weights, let_through=math.inf)
    if weights.let_through <= weights.held:
        return estimate
    audited: Spread = Exact(0.0)
    if math.isfinite(weights.let_through):
        _, by_audits = _bound(flags, gate, weights.let_through * covered.most)
        audited = PartlySeen(by_audits, share)
    return guarded(estimate, gate, audited, held, weights)


def _bound(flags: Flagged, gate: Gate, error_weight: float) -> tuple[PrecisionBound, Proportion]:
    """Return what the flags say of their precision if one more wrong one weighs so much."""
    bound = bound_precision(
        flags.right_R,
        flags.weight_R,
        flags.group_R,
        confidence=gate.confidence,
        error_weight=error_weight,
    )
    return bound, Proportion(bound.precision * bound.effective_n, bound.effective_n)


def _none(policy: str, why: str, gate: Gate) -> Estimate:
    return Estimate(
        of=policy,
        value=None,
        spread=None,
        rows=0,
        needed=flags_needed(gate.limit, gate.confidence) if 0 < gate.limit < 1 else None,
        unit="flags without an error",
        why_missing=why,
        detail={"policy": policy, "tier": str(gate.tier)},
    )


def _needed(gate: Gate, precision: float, effective: float, flags: int) -> tuple[int | None, str]:
    """Return how many flags certify the limit at the errors seen, and what they mean; None if no number would."""
    if precision <= gate.limit or not 0 < gate.limit < 1:
        return None, ""
    errors = math.ceil((1 - precision) * effective - 1e-6)
    fewest = flags_needed(gate.limit, gate.confidence, errors=errors)
    likely = precision if errors else gate.limit + _LIKELY_GAIN * (1 - gate.limit)
    powered = flags_for_power(gate.limit, gate.confidence, likely)
    if fewest is None or powered is None:
        return fewest, "without another error"
    per_flag = flags / max(effective, 1e-9)
    said = f"without another error, or {math.ceil(powered * per_flag)} for 80 % power at a true {likely:.4g}"
    return math.ceil(fewest * per_flag - 1e-6), said


def _needed_unseen(gate: Gate, bound: PrecisionBound, share: float, num_unseen: int) -> int | None:
    """Return how many of the flags that nobody looked at must be adjudicated, if none of them is wrong.

    One more false flag then weighs no more there than the limit bears. A few more, as bins share them out unevenly.
    """
    errors = math.ceil((1 - bound.precision) * bound.effective_n - 1e-6)
    fewest = flags_needed(gate.limit, gate.confidence, errors=errors)
    return None if fewest is None else min(num_unseen, math.ceil(share * fewest) + MAX_BINS)


def thresholds_after_caps(context: Context, found: ScoredSet) -> dict[str, dict[str, float]]:
    """Return the thresholds that the candidate will be served under: without what this judgement closes."""
    caps = context.once(("closed tiers",), lambda: _closed_tiers(context))
    judged = context.evidence.sets.get(next((one.set for one in _capping_gates(context)), ""))
    bundle = found if judged is None else judged
    return served_thresholds(found.candidate.thresholds, bundle.candidate.thresholds, caps)


def _closed_tiers(context: Context) -> dict[str, str]:
    """Return policy -> weakest tier that the contract's gates close; what names no policy closes it for all."""
    closed: dict[str, Tier] = {}
    for gate in _capping_gates(context):
        tier = Tier[str(gate.tier).upper()]
        for estimate in tier_precision(context, gate):
            if check_of(gate, estimate, 1.0).state == "pass":
                continue
            named = estimate.detail.get("policy")
            for policy in context.evidence.policies if named is None else [str(named)]:
                closed[policy] = min(tier, closed.get(policy, tier))
    return {policy: tier.label for policy, tier in closed.items()}


def _capping_gates(context: Context) -> list[Gate]:
    return [
        gate
        for gate in context.contract.gates
        if gate.measure == "tier_precision" and gate.uncertified == "cap" and gate.tier
    ]


def _share(found: ScoredSet, chosen_N: Flags) -> float:
    return float(found.weight[chosen_N].sum() / found.weight.sum())
