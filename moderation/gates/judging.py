"""Contract and evidence -> verdicts: every gate is measured, decided the same way, and explained.

A check is one gate on one policy, slice value or attack. It passes only if its one-sided confidence bound lies on the
right side of the limit (so a bad candidate passes a check with at most 1 - confidence, and all of them more rarely
still); it fails only if the opposite bound lies on the wrong side, at the level that leaves the contract's
`block_good` for all checks together (Bonferroni); in between it is not certified.

Source:
    Berger 1982, "Multiparameter hypothesis testing and acceptance sampling" (intersection-union tests need no
    correction to pass all).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from moderation.attestation import Verdict
from moderation.errors import PolicyError
from moderation.evaluation.bootstrap import GroupBootstrap
from moderation.gates.estimates import Estimate, Spread, nothing
from moderation.gates.evidence import Evidence, ScoredSet
from moderation.release import STANDARD, ContractProfile, Gate, ReleaseContract

Kept = TypeVar("Kept")
State = Literal["pass", "fail", "not_certified", "no_data"]

_WORST_FIRST: Final = ("fail", "no_data", "not_certified", "pass")
_MAX_REASONS: Final = 4
REPLAY: Final = "replay"


@dataclass
class Context:
    """What a measure may read."""

    evidence: Evidence
    contract: ReleaseContract
    seed: int
    _draws: dict[str, GroupBootstrap] = field(default_factory=dict)
    _known: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def set(self, gate: Gate) -> ScoredSet | None:
        """Return the set that a gate names; None if it was not taken."""
        return self.evidence.sets.get(gate.set)

    def draws(self, name: str) -> GroupBootstrap:
        """Return the resamples of a set's groups: one for all measures, so that differences are paired."""
        if name not in self._draws:
            self._draws[name] = GroupBootstrap.of(
                self.evidence.sets[name].group,
                num_resamples=self.contract.risk.resamples,
                seed=self.seed,
            )
        return self._draws[name]

    def once(self, key: tuple[str, ...], make: Callable[[], Kept]) -> Kept:
        """Return what `make` gives, made once for all gates that ask by the same key."""
        if key not in self._known:
            self._known[key] = make()
        kept: Kept = self._known[key]
        return kept


Measure = Callable[[Context, Gate], Iterable[Estimate]]
"""Gives one estimate per check; a figure that cannot be taken is given too, without a value."""

MEASURES: dict[str, Measure] = {}


def measure(name: str) -> Callable[[Measure], Measure]:
    """Register a function as the measure that the contract calls `name`."""

    def register(function: Measure) -> Measure:
        if name in MEASURES:
            raise ValueError(f"two measures are called {name}")
        MEASURES[name] = function
        return function

    return register


@dataclass(frozen=True)
class Check:
    """One estimate and what follows from it."""

    estimate: Estimate
    state: State
    reason: str
    low: float | None
    """The bound at the gate's confidence."""

    high: float | None


@dataclass(frozen=True)
class GateResult:
    """One gate: its checks and its verdict."""

    gate: Gate
    state: State
    reason: str
    blocks: bool
    """Whether this result keeps the candidate back."""

    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Judgement:
    """Every gate of the contract about one candidate."""

    results: tuple[GateResult, ...]
    caps: dict[str, str]
    """Policy -> weakest tier that stays closed (and every stronger one) because it is not certified."""

    notes: tuple[str, ...]
    profile: str = STANDARD
    """Profile of the contract that was judged under."""

    @property
    def is_passing(self) -> bool:
        """Whether the candidate may be released."""
        passed = any(result.state == "pass" for result in self.results)
        return passed and not any(result.blocks for result in self.results)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What goes into the attestation."""
        return tuple(
            Verdict(
                gate=result.gate.id,
                verdict=result.state,
                reason=result.reason,
                blocking=result.blocks or result.state == "pass",
            )
            for result in self.results
        )


def judge(
    evidence: Evidence, contract: ReleaseContract, *, profile: str = STANDARD, seed: int
) -> Judgement:
    """Return the verdict of every gate of `contract` on `evidence`.

    Gates that compare with a champion are left out of the first release, which has none, and so are those of replay
    where nothing was ever decided. Those of replay are left out, too, where the candidate itself decided all that could
    be replayed. The notes say so. Of the gates that ask for superiority only the declared objective is judged.

    Raises:
        PolicyError: if the contract asks for an unknown measure or profile.
    """
    chosen = contract.profile(profile)
    gates, notes = _applicable(evidence, contract)
    context = Context(evidence, contract, seed)
    measured = [(gate, _measured(context, gate)) for gate in gates]
    results = decide(measured, contract.risk.block_good, chosen)
    if chosen.says:
        notes.append(f"judged under the profile {profile}: {chosen.says}")
    notes += [
        f"new policy {policy}: the champion has no head for it; absolute gates only"
        for policy in _new_policies(evidence)
    ]
    for part, why in evidence.missing.items():
        notes.append(f"{part} was not taken: {why}")
    return Judgement(results, _caps(results), tuple(notes), profile)


def decide(
    measured: Sequence[tuple[Gate, Sequence[Estimate]]], block_good: float, profile: ContractProfile
) -> tuple[GateResult, ...]:
    """Return what follows from figures that were taken: nothing is measured again.

    Args:
        measured: every gate with its estimates.
        block_good: chance that a good candidate fails any check, shared out over all of them.
        profile: says which gates block when not certified.
    """
    num_checks = sum(len(estimates) for _, estimates in measured)
    fail_confidence = 1 - block_good / max(num_checks, 1)
    return tuple(_result(gate, estimates, fail_confidence, profile) for gate, estimates in measured)


def _applicable(evidence: Evidence, contract: ReleaseContract) -> tuple[list[Gate], list[str]]:
    unknown = sorted({gate.measure for gate in contract.gates} - set(MEASURES))
    if unknown:
        raise PolicyError(f"the contract asks for unknown measures: {unknown}")
    gates = [
        gate
        for gate in contract.gates
        if gate.comparator != "more_than" or gate.id == contract.promotion.objective
    ]
    notes = []
    replayed = [gate.id for gate in gates if gate.set == REPLAY]
    if replayed and _is_own_past(evidence):
        gates = [gate for gate in gates if gate.set != REPLAY]
        notes.append(
            "the candidate itself decided all recorded traffic of the window: no decision of another release to "
            f"replay; not judged: {', '.join(replayed)}"
        )
    if evidence.champion is None:
        left_out = [gate.id for gate in gates if _needs_a_past(gate, evidence)]
        gates = [gate for gate in gates if gate.id not in left_out]
        replay = " and no decision to replay" if evidence.nothing_decided else ""
        notes.append(
            f"first release: no champion to compare with{replay}; not judged: {', '.join(left_out)}"
        )
    return gates, notes


def _new_policies(evidence: Evidence) -> list[str]:
    """Return the policies that the champion has no head for."""
    answers = [found.champion for found in evidence.sets.values()]
    return sorted({policy for one in answers if one is not None for policy in one.lacks})


def _needs_a_past(gate: Gate, evidence: Evidence) -> bool:
    """Return whether a gate compares with what a first release cannot have; lost decisions are no first release."""
    return gate.versus == "champion" or gate.set == REPLAY and evidence.nothing_decided


def _is_own_past(evidence: Evidence) -> bool:
    """Return whether there is nothing to replay but the candidate's own decisions; what was replayed is judged."""
    return evidence.only_own_decisions and REPLAY not in evidence.sets


def _measured(context: Context, gate: Gate) -> list[Estimate]:
    estimates = list(MEASURES[gate.measure](context, gate))
    return estimates or [nothing("", f"the measure {gate.measure} found nothing to measure")]


def _result(
    gate: Gate, estimates: Sequence[Estimate], fail_confidence: float, profile: ContractProfile
) -> GateResult:
    checks = tuple(check_of(gate, estimate, fail_confidence) for estimate in estimates)
    state: State = min((check.state for check in checks), key=_WORST_FIRST.index)
    return GateResult(gate, state, _reason(checks, state), _blocks(gate, state, profile), checks)


def check_of(gate: Gate, estimate: Estimate, fail_confidence: float) -> Check:
    """Return what one estimate means under a gate.

    Args:
        gate: gives comparator, limit, confidence and the smallest sample.
        estimate: the figure.
        fail_confidence: level of the bound that shows a failure.
    """
    value, spread = estimate.value, estimate.spread
    if value is None or spread is None or not math.isfinite(value):
        needed = _needed(gate, estimate)
        return Check(
            estimate, "no_data", f"{estimate.why_missing or 'not measured'}{needed}", None, None
        )
    low, high = spread.low(gate.confidence), spread.high(gate.confidence)
    said = f"{value:.4g} ({low:.4g} to {high:.4g}), must be {_wanted(gate)}"
    state: State
    if is_shown_wrong(gate, spread, fail_confidence):
        state = "fail"
    elif estimate.may_be_few and _is_small(gate, estimate):
        is_wrong = is_shown_wrong(gate, spread, gate.confidence)
        state = "not_certified" if is_wrong else "pass"
        told = f"too few to show more: {estimate.rows} rows, {estimate.positives} positives"
        said += f"; wrong at {gate.confidence:g}, {told}" if is_wrong else f"; {told}"
    elif estimate.rows < gate.min_rows or estimate.positives < gate.min_positives:
        state = "not_certified"
        said += f"; {estimate.rows} rows, {estimate.positives} positives{_needed(gate, estimate)}"
    elif _rests_on_few(estimate):
        state = "not_certified"
        said += f"; violations worth {estimate.groups:.1f} groups{_needed(gate, estimate)}"
    elif is_shown_right(gate, low, high):
        state = "pass"
    else:
        state = "not_certified"
        said += f"; neither is shown{_needed(gate, estimate)}"
    if estimate.remark:
        said += f"; {estimate.remark}"
    return Check(estimate, state, said, low, high)


def is_shown_right(gate: Gate, low: float, high: float) -> bool:
    """Return whether the bounds put the figure on the right side of the limit."""
    if gate.comparator == "at_least":
        return low >= gate.limit
    if gate.comparator == "more_than":
        return low > gate.limit
    return high <= gate.limit


def is_shown_wrong(gate: Gate, spread: Spread, confidence: float) -> bool:
    """Return whether the bounds at `confidence` put the figure on the wrong side of the limit."""
    if gate.comparator == "at_most":
        return spread.low(confidence) > gate.limit
    return spread.high(confidence) < gate.limit


def _wanted(gate: Gate) -> str:
    words = {"at_least": "at least", "at_most": "at most", "more_than": "more than"}
    against = " beside the champion's" if gate.versus == "champion" else ""
    return f"{words[gate.comparator]} {gate.limit:g}{against}"


def still_needed(gate: Gate, estimate: Estimate) -> list[str]:
    """Return what it would take to settle a check, such as `60 positives`; empty where no number is known."""
    least = {"rows": gate.min_rows, "positives": gate.min_positives}
    lacking = {
        unit: number
        for unit, number in least.items()
        if getattr(estimate, unit) < number and number > 1
    }
    if _rests_on_few(estimate):  # whose error is not known, so that neither is the number
        lacking["sellers and campaigns with violations"] = estimate.min_groups
    elif estimate.needed is not None:
        lacking[estimate.unit] = max(estimate.needed, lacking.get(estimate.unit, 0))
    return [f"{number} {unit}" for unit, number in lacking.items()]


def _is_small(gate: Gate, estimate: Estimate) -> bool:
    """Return whether a figure rests on fewer rows, violations or groups than it takes to certify it."""
    is_few = estimate.rows < gate.min_rows or estimate.positives < gate.min_positives
    return is_few or _rests_on_few(estimate)


def _rests_on_few(estimate: Estimate) -> bool:
    """Return whether too few independent groups have violations: those of one are found or missed together."""
    return estimate.groups is not None and estimate.groups < estimate.min_groups


def _needed(gate: Gate, estimate: Estimate) -> str:
    lacking = still_needed(gate, estimate)
    return f"; it would take {' and '.join(lacking)}" if lacking else ""


def _reason(checks: Sequence[Check], state: State) -> str:
    worst = [check for check in checks if check.state == state]
    told = [": ".join(p for p in (check.estimate.of, check.reason) if p) for check in worst]
    more = f"; and {len(told) - _MAX_REASONS} more" if len(told) > _MAX_REASONS else ""
    return "; ".join(told[:_MAX_REASONS]) + more


def _blocks(gate: Gate, state: State, profile: ContractProfile) -> bool:
    if state in ("pass", "fail"):
        return state == "fail"
    if profile.report_all_but is not None and gate.id not in profile.report_all_but:
        return state == "no_data" and gate.id in profile.data_needed
    return gate.uncertified == "block" or state == "no_data" and gate.uncertified != "cap"


def _caps(results: Sequence[GateResult]) -> dict[str, str]:
    """Return the weakest closed tier of each policy: what is not shown to hold is not used."""
    order = ("tag", "review", "block", "suspend")
    caps: dict[str, str] = {}
    for result in results:
        gate = result.gate
        if gate.uncertified != "cap" or gate.tier is None:
            continue
        for check in result.checks:
            if check.state != "pass":
                policy = str(check.estimate.detail.get("policy", check.estimate.of))
                known = caps.get(policy, gate.tier)
                caps[policy] = min(known, gate.tier, key=order.index)
    return caps
