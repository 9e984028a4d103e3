"""Behaviour features: only what was known before a submission, in windows that decay."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from moderation.activity import ActivityState, Record
from moderation.features import FEATURE_NAMES
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

START = datetime(2026, 3, 1, tzinfo=UTC)


def _submission(number: int, hours: float, **fields: Any) -> Submission:
    listing = {"listing_id": f"l{number}", "seller_id": "s1"} | fields
    return Submission(
        submission_id=f"u{number}",
        listing=Listing(**listing),
        submitted_at=START + timedelta(hours=hours),
    )


def _features(state: ActivityState, submission: Submission) -> dict[str, float]:
    values, _ = state.features(submission)
    return dict(zip(FEATURE_NAMES, values.tolist(), strict=True))


def _truth(number: int, hours: float, violates: bool) -> GroundTruth:
    known = START + timedelta(hours=hours)
    return GroundTruth(
        submission_id=f"u{number}",
        policy="p",
        violates=violates,
        source=TruthSource.REVIEW,
        reviewed_at=known,
        known_at=known,
    )


def test_new_seller_has_zeros_not_gaps() -> None:
    found = _features(ActivityState(), _submission(1, 0))
    assert found["submissions_30d"] == 0
    assert found["seller_age_days"] == 0
    assert np.isnan(found["price_log_ratio"])


def test_unknown_seller_has_no_behaviour() -> None:
    values, newest = ActivityState().features(_submission(1, 0, seller_id=None))
    assert np.isnan(values).all()
    assert newest is None


def test_windows_decay_between_events() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    for hours, last_hour, last_day, last_month in (
        (0.5, 1, 1, 1),
        (2, 0, 1, 1),
        (30, 0, 0, 1),
        (721, 0, 0, 0),
    ):
        found = _features(state, _submission(2, hours))
        counts = (found["submissions_1h"], found["submissions_24h"], found["submissions_30d"])
        assert counts == (last_hour, last_day, last_month)


def test_truth_counts_from_when_it_was_known() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    before = _features(state, _submission(2, 10))
    state.observe_truth(_truth(1, 12, violates=True))
    after = _features(state, _submission(2, 14))
    assert (before["violations_90d"], after["violations_90d"], after["cleared_90d"]) == (0, 1, 0)


def test_truths_of_one_submission_count_once() -> None:
    state = ActivityState()
    for number in (1, 2):
        state.observe_submission(_submission(number, number))
    for policy, violates in (("a", False), ("b", True), ("c", False)):
        state.observe_truth(_truth(1, 12, violates).model_copy(update={"policy": policy}))
        state.observe_truth(_truth(2, 12, violates=False).model_copy(update={"policy": policy}))
    found = _features(state, _submission(3, 14))
    assert (found["violations_90d"], found["cleared_90d"]) == (1, 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_appeal_holds_per_policy_in_any_order(order: tuple[int, int]) -> None:
    appeal = {"source": TruthSource.APPEAL}
    outcomes = [
        _truth(1, 9, violates=True).model_copy(update={"policy": "a"} | appeal),
        _truth(1, 9, violates=False).model_copy(update={"policy": "b"} | appeal),
    ]
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    for policy in ("a", "b"):
        state.observe_truth(_truth(1, 2, violates=True).model_copy(update={"policy": policy}))
    for index in order:
        state.observe_truth(outcomes[index])
    lost = _features(state, _submission(2, 10))
    state.observe_truth(outcomes[0].model_copy(update={"violates": False}))
    won = _features(state, _submission(2, 11))
    state.observe_truth(_truth(1, 12, violates=True).model_copy(update={"policy": "a"}))
    still = _features(state, _submission(2, 13))
    assert (lost["violations_90d"], lost["cleared_90d"]) == (1, 0)
    assert (won["violations_90d"], won["cleared_90d"]) == (0, 1)
    assert (still["violations_90d"], still["cleared_90d"]) == (0, 1)


def test_imported_truth_and_undated_rows_say_nothing() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    imported = _truth(1, 1, violates=True).model_copy(update={"source": TruthSource.IMPORT})
    state.observe_truth(imported)
    assert _features(state, _submission(2, 2))["violations_90d"] == 0
    undated = _submission(3, 3).model_copy(update={"attributes": {"time": "unknown"}})
    state.observe_submission(undated)
    assert np.isnan(list(_features(state, undated).values())).all()
    assert _features(state, _submission(4, 4))["submissions_30d"] == 1


def test_upload_asked_about_again_does_not_count_itself() -> None:
    state = ActivityState()
    first = _features(state, _submission(1, 0))
    state.observe_submission(_submission(1, 0))
    assert _features(state, _submission(1, 0)) == pytest.approx(first, nan_ok=True)


def test_shared_device_counts_other_sellers() -> None:
    state = ActivityState()
    for number in range(3):
        state.observe_submission(
            _submission(number, number, seller_id=f"s{number}", device_fingerprint="d")
        )
    found = _features(state, _submission(9, 5, seller_id="s9", device_fingerprint="d"))
    assert found["sellers_on_device_30d"] == 4
    assert np.isnan(found["sellers_on_address_30d"])


def test_price_is_compared_with_its_category_median() -> None:
    state = ActivityState()
    goods = {"category": "phones", "currency": "EUR"}
    for number in range(5):
        state.observe_submission(_submission(number, number, price=100.0, **goods))
    found = _features(state, _submission(9, 9, price=50.0, **goods))
    assert found["price_log_ratio"] == pytest.approx(np.log(0.5), abs=1e-6)
    other = _features(state, _submission(9, 9, price=50.0, category="phones", currency="USD"))
    assert np.isnan(other["price_log_ratio"])


def test_reports_and_appeals_are_counted_once_resolved() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    state.observe_report(
        Report(report_id="r", submission_id="u1", reported_at=START + timedelta(hours=1))
    )
    opened = Appeal(appeal_id="a", submission_id="u1", opened_at=START + timedelta(hours=2))
    state.observe_appeal(opened)
    still = _features(state, _submission(2, 3))
    state.observe_appeal(
        opened.model_copy(update={"resolved_at": START + timedelta(hours=4), "overturned": True})
    )
    found = _features(state, _submission(2, 5))
    assert (still["reports_30d"], still["appeals_won_90d"], found["appeals_won_90d"]) == (1, 0, 1)


def test_resubmission_of_a_listing_is_counted() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    assert _features(state, _submission(3, 1, listing_id="l1"))["resubmissions_24h"] == 1
    assert _features(state, _submission(2, 1))["resubmissions_24h"] == 0


def _reversal(number: int, hours: float, policy: str | None = "p", name: str = "r") -> Reversal:
    at = START + timedelta(hours=hours)
    return Reversal(
        reversal_id=name,
        submission_id=f"u{number}",
        policy=policy,
        reason=ReversalReason.FALSE_POSITIVE,
        reversed_at=at,
        known_at=at,
    )


def _judged(state: ActivityState, hours: float) -> tuple[float, float]:
    found = _features(state, _submission(9, hours))
    return found["violations_90d"], found["cleared_90d"]


def test_reversal_counts_from_then_on() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    state.observe_truth(_truth(1, 2, violates=True))
    assert _judged(state, 3) == (1, 0)
    state.observe_reversal(_reversal(1, 4))
    assert _judged(state, 5) == (0, 1)
    state.observe_reversal(_reversal(1, 4))
    assert _judged(state, 5) == (0, 1), "sent twice, it counts once"
    state.observe_truth(_truth(1, 6, violates=True))
    assert _judged(state, 7) == (1, 0), "what is established later holds again"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_reversal_outranks_an_appeal_in_any_order(order: tuple[int, int, int]) -> None:
    lost = _truth(1, 2, violates=True).model_copy(update={"source": TruthSource.APPEAL})
    state = ActivityState()
    records: list[Record] = [_submission(1, 0), lost, _reversal(1, 4)]
    for index in order:
        state.observe(records[index])
    assert _judged(state, 5) == (0, 1)


def test_reversal_under_one_policy_leaves_the_others() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    for policy in ("p", "q"):
        state.observe_truth(_truth(1, 2, violates=True).model_copy(update={"policy": policy}))
    state.observe_reversal(_reversal(1, 4, "p"))
    assert _judged(state, 5) == (1, 0)
    state.observe_reversal(_reversal(1, 6, None, "all"))
    assert _judged(state, 7) == (0, 1)


def test_reversal_of_what_nobody_reviewed_clears_it() -> None:
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    state.observe_reversal(_reversal(1, 4, None))
    assert _judged(state, 5) == (0, 1)


def test_review_that_a_reversal_hid_is_found_when_it_was_later() -> None:
    """An appeal outranks a review; once a reversal undoes the appeal, the later review holds."""
    state = ActivityState()
    state.observe_submission(_submission(1, 0))
    cleared = _truth(1, 2, violates=False).model_copy(update={"source": TruthSource.APPEAL})
    state.observe_truth(cleared)
    state.observe_truth(_truth(1, 6, violates=True))
    assert _judged(state, 7) == (0, 1)
    late = _reversal(1, 4).model_copy(update={"known_at": START + timedelta(hours=8)})
    state.observe_reversal(late)
    assert _judged(state, 9) == (1, 0)
