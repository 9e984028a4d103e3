"""The final answer about a submission: its record, and how scores and thresholds become a tier."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from moderation.policy import OnFailure, PolicyFile, Tier
from moderation.stage_1 import Stage1, TierName, floors, is_decisive, strongest

SIGNALS: Final = ("fusion", "image", "text", "ngram", "behaviour")
"""Members of the ensemble: the order of every M axis."""

MODEL_UNAVAILABLE: Final = "MODEL_UNAVAILABLE"
"""Reason code of a decision taken by the failure policy, without a model."""

DecidedBy = Literal["model", "stage_1", "failure_policy", "duplicate"]


class SignalStatus(StrEnum):
    """Whether a signal was measured; missing is never False."""

    OK = "ok"
    MISSING = "missing"
    ERROR = "error"


STATUS_CODES: Final = {SignalStatus.OK: 0, SignalStatus.MISSING: 1, SignalStatus.ERROR: 2}
"""The INT8 values of `signal_status` and `behaviour_status` on the wire."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Signal(_Record):
    """One measured fact about a listing under one policy."""

    name: str
    policy: str
    value: float | None
    """Logit of the member; None unless the status is ok."""

    status: SignalStatus
    version: str
    """Version of the component that measured it."""

    cost: float = 0.0
    latency_ms: float = 0.0


class PolicyScore(_Record):
    """What one release says of a listing under one policy."""

    policy: str
    probability: Annotated[float, Field(ge=0, le=1)]
    worst_image: int | None
    """Index of the image that decided; None without images."""

    signals: tuple[Signal, ...]


class FeatureValue(_Record):
    """One behaviour feature exactly as it was used."""

    name: str
    value: float | None
    status: SignalStatus
    event_time: AwareDatetime | None
    """Time of the newest event in it; None where there is none."""


class Versions(_Record):
    """Everything versioned that a decision rests on."""

    bundle: str | None
    index: str | None = None
    """Version of the banks and number of their switches, as `<digest>+<number>`."""

    patterns: str | None = None
    """Version and digest of the pattern file."""

    policy: str
    """Version and digest of the policy file."""


class Attempt(_Record):
    """One release's answer, or its failure to give one."""

    role: Literal["answer", "shadow"]
    release: str | None
    """Digest of the bundle that was asked."""

    status: Literal["ok", "error", "timeout"]
    latency_ms: float
    scores: tuple[PolicyScore, ...] = ()
    thresholds: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Open tiers by policy as they were applied: those of the bundle that answered, less those that were not
    certified when it was released, overrides included."""

    tier: TierName
    error: str | None = None


class Earlier(_Record):
    """A decision whose answer is given again."""

    decision_id: str
    trace_id: str
    submission_id: str


def _decided_by(fields: Mapping[str, Any]) -> DecidedBy:
    """Return who took a decision of before there was a stage 1."""
    return "model" if _answer(fields.get("attempts", ())) else "failure_policy"


class Decision(_Record):
    """The final answer; replayed bit for bit from `attempts` and `stage_1` alone."""

    decision_id: str
    trace_id: str
    submission_id: str
    tier: TierName
    reason_codes: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    """Empty where stage 1 decided; of a duplicate, the answer that it takes over, with the latency of then."""

    decided_by: DecidedBy = Field(default_factory=_decided_by)
    stage_1: Stage1 | None = None
    """None in records of before there was one."""

    duplicate_of: Earlier | None = None
    """The same upload a little earlier, where its answer was taken over."""

    arm: Literal["champion", "candidate"]
    weight: float
    """Share of traffic that the arm had at that revision."""

    sticky_key: str
    routing_revision: int
    audit_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Chance with which it was drawn for a random audit, drawn or not; 0 where no audit is done."""

    on_failure: OnFailure | None = None
    """What was applied because no model answered; None where one did, or where the record is older than this field."""

    enforcement: Literal["automatic", "stopped"] = "automatic"
    """Stopped: nothing was blocked or suspended without a person; the tier of the scores is in the attempt."""

    stopped_because: str | None = None
    input_digests: dict[str, str]
    """SHA-256 of each stored input: `listing` and `image.<index>`."""

    features: tuple[FeatureValue, ...]
    """As the answer used them: of a duplicate, those of the earlier decision."""

    features_through: AwareDatetime | None = None
    """Everything that was known by then is in the features; None where none could be read."""

    versions: Versions
    degraded: tuple[str, ...] = ()
    """What was missing or fell back on the way; empty when nothing was."""

    submitted_at: AwareDatetime
    decided_at: AwareDatetime
    recorded_at: AwareDatetime | None = None


Thresholds = Mapping[str, Mapping[str, float]]
"""Policy -> tier -> smallest probability that opens it; a tier that is not there is closed."""


def tier_of(probability: float, thresholds: Mapping[str, float]) -> Tier:
    """Return the strongest open tier whose threshold `probability` reaches.

    >>> tier_of(0.4, {"review": 0.2, "block": 0.9}).label
    'review'
    """
    if math.isnan(probability):
        raise ValueError("a probability is a number; a missing score has a status instead")
    reached = [Tier[name.upper()] for name, limit in thresholds.items() if probability >= limit]
    return max(reached, default=Tier.ALLOW)


def capped(thresholds: Thresholds, caps: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return thresholds without the tiers that caps close; what these would have taken goes to review.

    >>> capped({"spam": {"review": 0.4, "block": 0.9}}, {"spam": "block"})
    {'spam': {'review': 0.4}}
    >>> capped({"spam": {"block": 0.9, "suspend": 0.99}}, {"spam": "block"})
    {'spam': {'review': 0.9}}

    Args:
        thresholds: policy -> tier -> smallest probability that opens it.
        caps: policy -> weakest tier that stays closed, and every stronger one.
    """
    return {policy: _closed_from(tiers, caps.get(policy)) for policy, tiers in thresholds.items()}


def _closed_from(tiers: Mapping[str, float], cap: str | None) -> dict[str, float]:
    if cap is None:
        return dict(tiers)
    first, review = Tier[cap.upper()], Tier.REVIEW
    kept = {name: limit for name, limit in tiers.items() if Tier[name.upper()] < first}
    closed = [limit for name, limit in tiers.items() if name not in kept]
    if closed and review < first:
        kept[review.label] = min(kept.get(review.label, 1.0), *closed)
    return kept


def effective_thresholds(
    thresholds: Thresholds,
    policies: PolicyFile,
    now: datetime,
    *,
    caps: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the thresholds that decide: a bundle's, less the tiers that `caps` close, with the overrides of `now`.

    An override is a person's decision with a name, a reason and an end: it holds where a tier is closed, too.
    """
    bundle = capped(thresholds, caps or {})
    merged = {policy: dict(bundle.get(policy, {})) for policy in policies.ids}
    for override in policies.overrides:
        if now < override.until:
            merged[override.policy][override.tier] = override.threshold
    return merged


def judge(
    scores: Sequence[PolicyScore], thresholds: Thresholds, policies: PolicyFile
) -> tuple[Tier, tuple[str, ...]]:
    """Return the tier and the reason codes of one listing; the strongest tier over all policies wins.

    Args:
        scores: one entry per policy of the answering release.
        thresholds: open tiers by policy, overrides included.
        policies: gives each policy its reason code; reason codes come in the file's order.

    Returns:
        The tier, and the codes of every policy that reached at least `tag`, strongest first.
    """
    return strongest(_reached(scores, thresholds), policies)


def _reached(scores: Sequence[PolicyScore], thresholds: Thresholds) -> dict[str, Tier]:
    return {one.policy: tier_of(one.probability, thresholds.get(one.policy, {})) for one in scores}


class Conclusion(NamedTuple):
    """What a decision is, and who took it."""

    decided_by: DecidedBy
    tier: Tier
    reason_codes: tuple[str, ...]


def conclude(
    attempts: Sequence[Attempt],
    stage_1: Stage1 | None,
    policies: PolicyFile,
    on_failure: OnFailure,
) -> Conclusion:
    """Return the decision that recorded attempts and signals give; nothing is scored or looked up.

    Decisive signals decide alone. Otherwise the strongest of what the model and stage 1 reach under any policy wins;
    without a model, of `on_failure` and stage 1.
    """
    signals = stage_1.signals if stage_1 else ()
    floor_by_policy = floors(signals)
    if is_decisive(signals):
        return Conclusion("stage_1", *strongest(floor_by_policy, policies))
    answer = _answer(attempts)
    if answer is None:
        tier, codes = strongest(floor_by_policy, policies)
        tier = max(failure_tier(on_failure), tier)
        return Conclusion("failure_policy", tier, (MODEL_UNAVAILABLE, *codes))
    reached = _reached(answer.scores, answer.thresholds)
    for policy, floor in floor_by_policy.items():
        reached[policy] = max(floor, reached.get(policy, floor))
    return Conclusion("model", *strongest(reached, policies))


def _answer(attempts: Sequence[Attempt]) -> Attempt | None:
    answer = next((attempt for attempt in attempts if attempt.role == "answer"), None)
    return answer if answer is not None and answer.status == "ok" else None


def concluded(decision: Decision, policies: PolicyFile) -> Conclusion:
    """Return what the recorded attempts and signals of a decision come to, whatever held it back afterwards."""
    on_failure = decision.on_failure or policies.on_failure
    return conclude(decision.attempts, decision.stage_1, policies, on_failure)


def replay(decision: Decision, policies: PolicyFile) -> tuple[str, tuple[str, ...]]:
    """Return the tier and reason codes that the recorded signals of `decision` give again, bit for bit.

    The answer attempt's recorded probabilities and thresholds decide with the signals of stage 1; nothing is scored or
    looked up again.
    """
    _, tier, codes = concluded(decision, policies)
    if decision.enforcement == "stopped":
        tier = min(tier, Tier.REVIEW)
    return tier.label, codes


def failure_tier(on_failure: OnFailure) -> Tier:
    """Return the tier of an upload that no model judged."""
    return Tier.REVIEW if on_failure == "review" else Tier.ALLOW


def held(decision: Decision, reason: str) -> Decision:
    """Return a decision while automatic enforcement is stopped: what would be blocked or suspended goes to review."""
    changes: dict[str, object] = {"enforcement": "stopped", "stopped_because": reason}
    if Tier[decision.tier.upper()] > Tier.REVIEW:
        said = f"enforcement: stopped, {decision.tier} goes to review; {reason}"
        changes |= {"tier": Tier.REVIEW.label, "degraded": (*decision.degraded, said)}
    return decision.model_copy(update=changes)


def asked_tier(decision: Decision) -> str:
    """Return the strongest tier that scores or stage 1 ask for, whatever became of it."""
    asked = floors(decision.stage_1.signals if decision.stage_1 else ())
    tiers = [*asked.values(), *(Tier[one.tier.upper()] for one in decision.attempts)]
    return max(tiers, default=Tier.ALLOW).label


def enforced_under(decision: Decision) -> frozenset[str]:
    """Return the policies under which scores or stage 1 ask for block or stronger."""
    asked = floors(decision.stage_1.signals if decision.stage_1 else ())
    by_stage_1 = {policy for policy, tier in asked.items() if tier > Tier.REVIEW}
    return frozenset(by_stage_1.union(*map(flagged, decision.attempts)))


def flagged(attempt: Attempt) -> frozenset[str]:
    """Return the policies under which the scores of an attempt reach block or stronger."""
    return frozenset(
        score.policy
        for score in attempt.scores
        if tier_of(score.probability, attempt.thresholds.get(score.policy, {})) > Tier.REVIEW
    )
