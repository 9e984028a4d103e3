from datetime import UTC, datetime, timedelta, timezone

import pytest

from ledger.events import (
    EventKind,
    ReviewTask,
    from_appeal,
    from_ground_truth,
    from_microseconds,
    from_report,
    from_reversal,
    from_review_task,
    from_submission,
    to_appeal,
    to_decision,
    to_ground_truth,
    to_microseconds,
    to_report,
    to_reversal,
    to_review_task,
    to_submission,
)
from moderation.errors import PermanentError
from moderation.listing import (
    Appeal,
    GroundTruth,
    Listing,
    Report,
    Reversal,
    ReversalReason,
    Submission,
    TruthSource,
)

NOON = datetime(2026, 11, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def test_instants_survive_when_stored() -> None:
    assert from_microseconds(to_microseconds(NOON)) == NOON
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    assert to_microseconds(tokyo) == to_microseconds(NOON)
    with pytest.raises(PermanentError, match="time zone"):
        to_microseconds(datetime(2026, 1, 1))


def test_records_survive_when_made_events() -> None:
    listing = Listing(listing_id="l", seller_id="x", price=0.1 + 0.2, currency="EUR")
    submission = Submission(submission_id="s", listing=listing, submitted_at=NOON)
    assert to_submission(from_submission(submission, recorded_at=NOON)) == submission
    report = Report(report_id="r", submission_id="s", reported_at=NOON)
    assert to_report(from_report(report, recorded_at=NOON)) == report
    task = ReviewTask(
        task_id="t", submission_id="s", trace_id="a", priority="high", reason="R", opened_at=NOON
    )
    assert to_review_task(from_review_task(task, recorded_at=NOON)) == task


def test_truth_occurs_when_it_became_known() -> None:
    truth = GroundTruth(
        submission_id="s",
        policy="spam",
        violates=True,
        source=TruthSource.REVIEW,
        reviewed_at=NOON,
        known_at=NOON + timedelta(days=2),
    )
    event = from_ground_truth(truth, recorded_at=NOON)
    assert event.occurred_at == truth.known_at
    assert to_ground_truth(event) == truth
    assert (
        from_ground_truth(truth, recorded_at=NOON, truth_id="mine").event_id == "ground_truth:mine"
    )


def test_appeal_gives_two_events_when_resolved() -> None:
    opened = Appeal(appeal_id="a", submission_id="s", opened_at=NOON)
    resolved = opened.model_copy(update={"resolved_at": NOON + timedelta(1), "overturned": True})
    first, second = (from_appeal(appeal, recorded_at=NOON) for appeal in (opened, resolved))
    assert first.event_id != second.event_id
    assert second.occurred_at == NOON + timedelta(1)
    assert to_appeal(second) == resolved


def test_reversal_counts_from_when_it_was_known() -> None:
    reversal = Reversal(
        reversal_id="v",
        submission_id="s",
        reason=ReversalReason.APPEAL,
        reversed_at=NOON,
        known_at=NOON + timedelta(1),
    )
    event = from_reversal(reversal, recorded_at=NOON, seller_id="x")
    assert (event.event_id, event.kind, event.seller_id) == ("reversal:v", EventKind.REVERSAL, "x")
    assert event.occurred_at == reversal.known_at
    assert to_reversal(event) == reversal


def test_parsing_refuses_when_kind_differs() -> None:
    event = from_report(
        Report(report_id="r", submission_id="s", reported_at=NOON), recorded_at=NOON
    )
    assert event.kind is EventKind.REPORT
    with pytest.raises(PermanentError, match="report, not a decision"):
        to_decision(event)
