"""From what was measured to the records of a decision: pure functions, no I/O."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from ledger.events import ReviewTask
from moderation.decision import (
    MODEL_UNAVAILABLE,
    STATUS_CODES,
    Attempt,
    Decision,
    PolicyScore,
    Signal,
    SignalStatus,
    Versions,
    effective_thresholds,
    failure_tier,
    judge,
)
from moderation.policy import OnFailure, PolicyFile, Tier
from moderation.stage_1 import Stage1
from moderation.stages import BankStage, PatternStage
from serving.client import Answer
from serving.gateway.behaviour import Behaviour
from serving.release import Release

_STATUSES: Final = {code: status for status, code in STATUS_CODES.items()}


def answered(
    answer: Answer,
    policies: PolicyFile,
    *,
    caps: Mapping[str, str],
    now: datetime,
    latency_ms: float,
) -> Attempt:
    """Return the attempt of a predictor that answered.

    Args:
        answer: of the predictor.
        policies: give overrides.
        caps: policy -> weakest tier that stays closed for this release.
        now: decides which overrides hold.
        latency_ms: how long the answer took.
    """
    scores = policy_scores(answer)
    thresholds = effective_thresholds(answer.release.thresholds, policies, now, caps=caps)
    tier, _ = judge(scores, thresholds, policies)
    return Attempt(
        role="answer",
        release=answer.release.bundle,
        status="ok",
        latency_ms=latency_ms,
        scores=scores,
        thresholds=thresholds,
        tier=tier.label,
    )


def failed(
    reason: str, on_failure: OnFailure, *, release: str | None, is_timeout: bool, latency_ms: float
) -> Attempt:
    """Return the attempt of a predictor that did not answer."""
    return Attempt(
        role="answer",
        release=release,
        status="timeout" if is_timeout else "error",
        latency_ms=latency_ms,
        tier=failure_tier(on_failure).label,
        error=reason,
    )


def policy_scores(answer: Answer) -> tuple[PolicyScore, ...]:
    """Return the scores of one answer, exactly as they came over the wire."""
    release = answer.release
    return tuple(
        PolicyScore(
            policy=policy,
            probability=float(answer.probability_P[p]),
            worst_image=int(answer.worst_image_P[p]) if answer.worst_image_P[p] >= 0 else None,
            signals=tuple(_signal(answer, p, m, release) for m in range(len(release.members))),
        )
        for p, policy in enumerate(release.policies)
    )


def _signal(answer: Answer, p: int, m: int, release: Release) -> Signal:
    member = release.members[m]
    status = _STATUSES[int(answer.signal_status_PM[p, m])]
    value = float(answer.signals_PM[p, m])
    versions = release.versions
    return Signal(
        name=member,
        policy=release.policies[p],
        value=value if status is SignalStatus.OK and math.isfinite(value) else None,
        status=status,
        version=versions.get(f"heads.{member}") or versions.get(member) or release.bundle,
    )


def versions_of(attempts: Sequence[Attempt], stage_1: Stage1, policies: PolicyFile) -> Versions:
    """Return everything versioned that a decision rests on; no bundle where stage 1 decided or none was there."""
    return Versions(
        bundle=next((attempt.release for attempt in attempts), None),
        index=stage_1.version_of(BankStage.name),
        patterns=stage_1.version_of(PatternStage.name),
        policy=f"{policies.version}@sha256:{policies.digest}",
    )


def degradations(
    attempts: Sequence[Attempt],
    stage_1: Stage1,
    behaviour: Behaviour,
    policies: PolicyFile,
    on_failure: OnFailure,
) -> tuple[str, ...]:
    """Return what was missing or fell back on the way, each as `part: what`."""
    found: list[str] = []
    for attempt in attempts:
        if attempt.release is None:
            found.append("routing: no routing table")
        if attempt.status != "ok":
            found.append(f"model: {attempt.status}; answered by on_failure={on_failure}")
    found.extend(behaviour.degraded)
    found.extend(f"stage 1: {error}" for error in stage_1.errors())
    for attempt in attempts:
        found.extend(_unscored(attempt, policies))
    return tuple(found)


def _unscored(attempt: Attempt, policies: PolicyFile) -> Iterator[str]:
    if attempt.status != "ok":
        return
    scored = {score.policy for score in attempt.scores}
    missing = [policy for policy in policies.ids if policy not in scored]
    yield from (f"policy {policy}: the release does not score it" for policy in missing)
    errors = {
        signal.name
        for score in attempt.scores
        for signal in score.signals
        if signal.status is SignalStatus.ERROR
    }
    yield from (f"signal {name}: error" for name in sorted(errors))


def review_task(decision: Decision, codes: Sequence[str]) -> ReviewTask | None:
    """Return the task that a decision opens: always without a model, and where a person must look."""
    is_unjudged = MODEL_UNAVAILABLE in codes
    if not is_unjudged and decision.tier != Tier.REVIEW.label:
        return None
    return ReviewTask(
        task_id=decision.decision_id,
        submission_id=decision.submission_id,
        trace_id=decision.trace_id,
        priority="high" if is_unjudged else "normal",
        reason=codes[0],
        opened_at=decision.decided_at,
    )
