"""Events of the ledger: one envelope for every kind, and the way from domain records to it and back."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from moderation.decision import Attempt, Decision
from moderation.enforcement import EnforcementChange
from moderation.errors import PermanentError
from moderation.listing import Appeal, GroundTruth, Identifier, Report, Reversal, Submission

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_RecordT = TypeVar("_RecordT", bound=BaseModel)


class EventKind(StrEnum):
    """What happened; the payload's shape follows from it."""

    SUBMISSION = "submission"
    DECISION = "decision"
    GROUND_TRUTH = "ground_truth"
    REPORT = "report"
    APPEAL = "appeal"
    REVIEW_TASK = "review_task"
    REVERSAL = "reversal"
    ERASURE = "erasure"
    ENFORCEMENT = "enforcement"
    SHADOW = "shadow"


class ReviewTask(BaseModel):
    """A submission that a person should look at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: Identifier
    submission_id: Identifier
    trace_id: str
    priority: Literal["high", "normal", "low"]
    reason: str
    """Reason code that opened it, or AUDIT."""

    opened_at: AwareDatetime


class ShadowAnswer(BaseModel):
    """What a shadow said of an upload that another release had decided; it decides nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    submission_id: Identifier
    trace_id: str
    """Of the decision that it makes a pair with."""

    routing_revision: int
    attempt: Attempt
    answered_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; never changed afterwards."""

    event_id: str
    """Stable across retries: the same happening always gives the same id."""

    kind: EventKind
    submission_id: str
    seller_id: str | None
    occurred_at: datetime
    """When it became known to the marketplace: what a point-in-time reader may see from."""

    recorded_at: datetime
    """When it reached the ledger; not part of the event's content, so that a retry is the same event."""

    payload: dict[str, Any]

    def payload_json(self) -> str:
        """Return the payload as canonical JSON.

        Raises:
            PermanentError: if it holds what JSON cannot carry (NaN, a lone surrogate, an object).
        """
        try:
            text = json.dumps(
                self.payload,
                sort_keys=True,
                separators=(",", ":"),
                ensure_ascii=False,
                allow_nan=False,
            )
            text.encode("utf-8")
        except (TypeError, ValueError) as error:
            raise PermanentError(
                f"event {self.event_id}: the payload is not JSON: {error}"
            ) from error
        return text

    def content(self, payload_json: str) -> bytes:
        """Return everything but `recorded_at`; equal bytes mean the same event."""
        head = (self.event_id, self.kind, self.submission_id, self.seller_id or "")
        text = "\x1f".join((*head, str(to_microseconds(self.occurred_at)), payload_json))
        return text.encode("utf-8")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place in the ledger's order, counted from 1."""

    sequence: int
    event: Event


def to_microseconds(instant: datetime) -> int:
    """Return an instant as whole microseconds since 1970, exactly.

    Raises:
        PermanentError: if it has no time zone.
    """
    if instant.tzinfo is None:
        raise PermanentError(f"{instant.isoformat()}: an event's time needs a time zone")
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the UTC instant of `to_microseconds`."""
    return _EPOCH + timedelta(microseconds=value)


def from_submission(submission: Submission, *, recorded_at: datetime) -> Event:
    """Return the event of an upload."""
    return Event(
        f"submission:{submission.submission_id}",
        EventKind.SUBMISSION,
        submission.submission_id,
        submission.listing.seller_id,
        submission.submitted_at,
        recorded_at,
        submission.model_dump(mode="json"),
    )


def from_decision(
    decision: Decision, *, recorded_at: datetime, seller_id: str | None = None
) -> Event:
    """Return the event of a decision; a submission is decided once, so its id names the event."""
    return Event(
        f"decision:{decision.submission_id}",
        EventKind.DECISION,
        decision.submission_id,
        seller_id,
        decision.decided_at,
        recorded_at,
        decision.model_dump(mode="json"),
    )


def from_ground_truth(
    truth: GroundTruth,
    *,
    recorded_at: datetime,
    seller_id: str | None = None,
    truth_id: str | None = None,
) -> Event:
    """Return the event of an established truth.

    `truth_id` is the reviewer's own id for it; without one, who said what when names the event.
    """
    reviewed = to_microseconds(truth.reviewed_at)
    own_id = f"{truth.submission_id}:{truth.policy}:{truth.source}:{reviewed}"
    return Event(
        f"ground_truth:{truth_id or own_id}",
        EventKind.GROUND_TRUTH,
        truth.submission_id,
        seller_id,
        truth.known_at,
        recorded_at,
        truth.model_dump(mode="json"),
    )


def from_report(report: Report, *, recorded_at: datetime, seller_id: str | None = None) -> Event:
    """Return the event of a user's report."""
    return Event(
        f"report:{report.report_id}",
        EventKind.REPORT,
        report.submission_id,
        seller_id,
        report.reported_at,
        recorded_at,
        report.model_dump(mode="json"),
    )


def from_appeal(appeal: Appeal, *, recorded_at: datetime, seller_id: str | None = None) -> Event:
    """Return the event of an appeal; opening and resolving it are two events."""
    step = "opened" if appeal.resolved_at is None else "resolved"
    return Event(
        f"appeal:{appeal.appeal_id}:{step}",
        EventKind.APPEAL,
        appeal.submission_id,
        seller_id,
        appeal.resolved_at or appeal.opened_at,
        recorded_at,
        appeal.model_dump(mode="json"),
    )


def from_reversal(
    reversal: Reversal, *, recorded_at: datetime, seller_id: str | None = None
) -> Event:
    """Return the event of an undone enforcement; it counts from when it became known."""
    return Event(
        f"reversal:{reversal.reversal_id}",
        EventKind.REVERSAL,
        reversal.submission_id,
        seller_id,
        reversal.known_at,
        recorded_at,
        reversal.model_dump(mode="json"),
    )


def from_review_task(
    task: ReviewTask, *, recorded_at: datetime, seller_id: str | None = None
) -> Event:
    """Return the event of an opened review task."""
    return Event(
        f"review_task:{task.task_id}",
        EventKind.REVIEW_TASK,
        task.submission_id,
        seller_id,
        task.opened_at,
        recorded_at,
        task.model_dump(mode="json"),
    )


def from_enforcement(change: EnforcementChange, *, recorded_at: datetime) -> Event:
    """Return the event of a change of automatic enforcement; its number names it, so that each comes once."""
    return Event(
        f"enforcement:{change.number}",
        EventKind.ENFORCEMENT,
        "",
        None,
        change.at,
        recorded_at,
        change.model_dump(mode="json"),
    )


def from_shadow(
    answer: ShadowAnswer, *, recorded_at: datetime, seller_id: str | None = None
) -> Event:
    """Return the event of a shadow's answer; an upload has one shadow at most."""
    return Event(
        f"shadow:{answer.submission_id}",
        EventKind.SHADOW,
        answer.submission_id,
        seller_id,
        answer.answered_at,
        recorded_at,
        answer.model_dump(mode="json"),
    )


def _parser(record: type[_RecordT], kind: EventKind) -> Callable[[Event], _RecordT]:
    def parse(event: Event) -> _RecordT:
        if event.kind != kind:
            raise PermanentError(f"event {event.event_id} is a {event.kind}, not a {kind}")
        try:
            return record.model_validate(event.payload)
        except ValidationError as error:
            raise PermanentError(f"event {event.event_id}: not a {kind}: {error}") from error

    return parse


to_submission = _parser(Submission, EventKind.SUBMISSION)
to_decision = _parser(Decision, EventKind.DECISION)
to_ground_truth = _parser(GroundTruth, EventKind.GROUND_TRUTH)
to_report = _parser(Report, EventKind.REPORT)
to_appeal = _parser(Appeal, EventKind.APPEAL)
to_reversal = _parser(Reversal, EventKind.REVERSAL)
to_review_task = _parser(ReviewTask, EventKind.REVIEW_TASK)
to_enforcement = _parser(EnforcementChange, EventKind.ENFORCEMENT)
to_shadow = _parser(ShadowAnswer, EventKind.SHADOW)
