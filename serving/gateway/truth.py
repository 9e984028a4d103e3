"""Ground truth that reviewers send: checked against the ledger, recorded once."""

from datetime import timedelta
from typing import Final

from ledger.events import from_ground_truth, to_ground_truth
from moderation.listing import GroundTruth, TruthSource
from serving.errors import BadRequest, NotFound, SubmissionConflict
from serving.gateway.gate import UploadGate
from serving.gateway.requests import TruthRequest

# A reviewer's clock may be ahead by this much; then the truth counts as of now.
_SKEW: Final = timedelta(minutes=5)


def record_truth(gate: UploadGate, request: TruthRequest) -> bool:
    """Record what was established, and return whether it was new.

    Raises:
        BadRequest: for a policy that is not in force, a review in the future or before the submission, an audit
            without its propensity, or a source that is not for this way in.
        NotFound: if no such submission was ever recorded.
        SubmissionConflict: if the id was used for another statement.
    """
    now = gate.clock.now()
    if request.policy not in gate.policies.ids:
        known = ", ".join(gate.policies.ids)
        raise BadRequest(f"policy: {request.policy!r} is not one of {known}")
    if request.reviewed_at and request.reviewed_at > now + _SKEW:
        raise BadRequest("reviewed_at: is in the future; send when the review was done")
    _check_source(request)
    submission = gate.ledger.get_submission(request.submission_id)
    if submission is None:
        raise NotFound(f"submission {request.submission_id} is unknown; there is nothing to judge")
    if request.reviewed_at and request.reviewed_at < submission.submitted_at:
        raise BadRequest(
            f"reviewed_at: is before the submission ({submission.submitted_at.isoformat()}); "
            "send when this submission was reviewed"
        )
    truth = GroundTruth(
        submission_id=request.submission_id,
        policy=request.policy,
        violates=request.violates,
        source=request.source,
        reviewed_at=min(request.reviewed_at or now, now),
        known_at=now,
        propensity=1.0 if request.propensity is None else request.propensity,
        adjudicated=request.adjudicated,
    )
    event = from_ground_truth(
        truth,
        recorded_at=now,
        seller_id=submission.listing.seller_id,
        truth_id=request.ground_truth_id,
    )
    before = gate.ledger.get_event(event.event_id)
    if before is None:
        return gate.ledger.append([event]) == 1
    if not _says_the_same(to_ground_truth(before.event), truth):
        raise SubmissionConflict(
            f"ground_truth_id {request.ground_truth_id} was used for another statement; send a new id"
        )
    return False


def _check_source(request: TruthRequest) -> None:
    if request.source is TruthSource.IMPORT:
        raise BadRequest("source: import is only for tables; send review, appeal, audit or report")
    # An audit stands for what it left out; weight 1 instead would bias every rate that is measured with it.
    if request.source is TruthSource.AUDIT and request.propensity is None:
        raise BadRequest(
            "propensity: is missing; an audit sends the chance with which this submission was drawn, such as 0.01"
        )


def _says_the_same(before: GroundTruth, truth: GroundTruth) -> bool:
    """Return whether two statements differ in nothing but their times, which a retry cannot keep."""
    times = {"reviewed_at", "known_at"}
    return before.model_dump(exclude=times) == truth.model_dump(exclude=times)
