"""Ground truth and reversals that reviewers send: checked against the ledger, recorded once."""

from datetime import datetime, timedelta
from typing import Final

from ledger.events import from_ground_truth, from_reversal, to_ground_truth, to_reversal
from moderation.listing import GroundTruth, Reversal, Submission, TruthSource
from serving.errors import BadRequest, NotFound, SubmissionConflict
from serving.gateway.audit import audit_task_id
from serving.gateway.auth import Role
from serving.gateway.gate import UploadGate
from serving.gateway.requests import ReversalRequest, TruthRequest

# A reviewer's clock may be ahead by this much; then the truth counts as of now.
_SKEW: Final = timedelta(minutes=5)


async def record_truth(gate: UploadGate, request: TruthRequest) -> bool:
    """Record what was established, and return whether it was new.

    Raises:
        BadRequest: for a policy that is not in force, a review in the future or before the submission, an audit
            without its propensity, or a source that is not for this way in.
        NotFound: if no such submission was ever recorded.
        SubmissionConflict: if the id was used for another statement.
    """
    now = gate.clock.now()
    _check_policy(gate, request.policy)
    _check_source(request)
    submission = await _submission(gate, request.submission_id)
    propensity = await _propensity(gate, request)
    reviewed_at = _instant("reviewed_at", request.reviewed_at, submission, now)
    truth = GroundTruth(
        submission_id=request.submission_id,
        policy=request.policy,
        violates=request.violates,
        source=request.source,
        reviewed_at=reviewed_at,
        known_at=now,
        propensity=propensity,
        adjudicated=request.adjudicated,
    )
    event = from_ground_truth(
        truth,
        recorded_at=now,
        seller_id=submission.listing.seller_id,
        truth_id=request.ground_truth_id,
    )
    before = await gate.keeper.get_event(event.event_id)
    if before is None:
        await gate.keeper.append([event])
        return True
    # A retry cannot keep its times.
    times = {"reviewed_at", "known_at"}
    if to_ground_truth(before).model_dump(exclude=times) != truth.model_dump(exclude=times):
        raise SubmissionConflict(
            f"ground_truth_id {request.ground_truth_id} was used for another statement; send a new id"
        )
    return False


async def record_reversal(gate: UploadGate, request: ReversalRequest, role: Role) -> bool:
    """Record that an enforcement was undone, and return whether it was new.

    Args:
        gate: whose keeper takes it.
        request: what was undone.
        role: of the caller.

    Raises:
        BadRequest: for a policy that is not in force, or a time in the future or before the submission.
        NotFound: if no such submission was ever recorded.
        SubmissionConflict: if the id was used for another reversal.
    """
    now = gate.clock.now()
    if request.policy is not None:
        _check_policy(gate, request.policy)
    submission = await _submission(gate, request.submission_id)
    reversal = Reversal(
        reversal_id=request.reversal_id,
        submission_id=request.submission_id,
        policy=request.policy,
        reason=request.reason,
        reversed_at=_instant("reversed_at", request.reversed_at, submission, now),
        known_at=now,
        reversed_by=role,
    )
    event = from_reversal(reversal, recorded_at=now, seller_id=submission.listing.seller_id)
    before = await gate.keeper.get_event(event.event_id)
    if before is None:
        await gate.keeper.append([event])
        return True
    # A retry cannot keep its times, and may come from somebody else.
    varies = {"reversed_at", "known_at", "reversed_by"}
    if to_reversal(before).model_dump(exclude=varies) != reversal.model_dump(exclude=varies):
        raise SubmissionConflict(
            f"reversal_id {request.reversal_id} was used for another reversal; send a new id"
        )
    return False


def _check_policy(gate: UploadGate, policy: str) -> None:
    if policy not in gate.policies.ids:
        known = ", ".join(gate.policies.ids)
        raise BadRequest(f"policy: {policy!r} is not one of {known}")


async def _submission(gate: UploadGate, submission_id: str) -> Submission:
    submission = await gate.keeper.get_submission(submission_id)
    if submission is None:
        raise NotFound(f"submission {submission_id} is unknown; there is nothing to judge")
    return submission


def _instant(field: str, said: datetime | None, submission: Submission, now: datetime) -> datetime:
    """Return when a statement was made: now where nothing is said."""
    if said is None:
        return now
    if said > now + _SKEW:
        raise BadRequest(f"{field}: is in the future; send when it was done")
    if said < submission.submitted_at:
        raise BadRequest(
            f"{field}: is before the submission ({submission.submitted_at.isoformat()}); "
            "send when this submission was judged"
        )
    return min(said, now)


def _check_source(request: TruthRequest) -> None:
    if request.source is TruthSource.IMPORT:
        raise BadRequest("source: import is only for tables; send review, appeal, audit or report")


async def _propensity(gate: UploadGate, request: TruthRequest) -> float:
    """Return the chance with which the truth was looked for; that of an audit of ours comes from the ledger alone."""
    decision = await gate.keeper.get_decision_of(request.submission_id)
    if decision is None or not decision.audit_probability:
        return _stated(request)
    is_drawn = await _is_task(gate, audit_task_id(decision))
    if request.source is not TruthSource.AUDIT:
        # As sure to be looked for it would stand for itself alone, and estimates would miss what was not drawn.
        only_audited = not await _is_task(gate, decision.decision_id)
        if request.source is TruthSource.REVIEW and is_drawn and only_audited:
            raise BadRequest(
                "source: nothing but a random audit opened a review of this submission; send audit"
            )
        return _stated(request)
    if not is_drawn:
        raise BadRequest(
            "source: no audit drew this submission; send review, appeal or report, whatever led to it"
        )
    if request.propensity not in (None, decision.audit_probability):
        raise BadRequest(
            f"propensity: it was drawn with {decision.audit_probability:g}, as the ledger says; leave it out"
        )
    return decision.audit_probability


async def _is_task(gate: UploadGate, task_id: str) -> bool:
    return await gate.keeper.get_event(f"review_task:{task_id}") is not None


def _stated(request: TruthRequest) -> float:
    """Return the chance that a caller states, which an audit of the caller's own must."""
    # An audit stands for what it left out; weight 1 instead would bias every rate that is measured with it.
    if request.source is TruthSource.AUDIT and request.propensity is None:
        raise BadRequest(
            "propensity: is missing; an audit sends the chance with which this submission was drawn, such as 0.01"
        )
    return 1.0 if request.propensity is None else request.propensity
